//! Operation definitions and their registry.
//!
//! An [`OpDef`] says everything about an operation: inputs, outputs and attributes in the notation of TensorFlow's
//! `REGISTER_OP`, how shapes follow, the gradient, the kernels. One file of the kernels crate (or of a user's own
//! crate) defines an op and submits it with [`register_ops!`](crate::register_ops); the [`registry`] collects all.

mod registry;
mod sample;
mod spec;

pub use registry::{OpRegistration, Registry, registry};
pub use sample::{SampleFn, Sampler};
pub use spec::{ArgDef, ArgType, AttrDef, AttrKind};

use std::fmt;

use crate::attr::Attrs;
use crate::error::{Error, Result};
use crate::gradient::GradFn;
use crate::graph::ShapeContext;
use crate::kernel::{Kernel, KernelInit};
use crate::shape::PartialShape;

/// The groups of operations, after the white paper's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Category {
    /// Element-wise mathematics, comparison, logic.
    Math,
    /// Sums, means, extremes along dimensions.
    Reduction,
    /// Shaping, slicing, joining, gathering.
    Array,
    /// Matrix products and linear algebra.
    Matrix,
    /// Neural-network building blocks.
    Nn,
    /// Variables and what assigns to them.
    State,
    /// Optimizers' update rules.
    Training,
    /// Random numbers.
    Random,
    /// Conditionals and loops.
    ControlFlow,
    /// Queues, mutexes, barriers, accumulators.
    Queue,
    /// Strings.
    String,
    /// Images.
    Image,
    /// Spectral transforms.
    Signal,
    /// Sparse tensors.
    Sparse,
    /// Reading, writing, checkpoints.
    Io,
    /// Made by passes and by the partitioner.
    Internal,
    /// Defined by a user.
    User,
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Category::Math => "math",
            Category::Reduction => "reduction",
            Category::Array => "array",
            Category::Matrix => "matrix",
            Category::Nn => "nn",
            Category::State => "state",
            Category::Training => "training",
            Category::Random => "random",
            Category::ControlFlow => "control flow",
            Category::Queue => "queue",
            Category::String => "string",
            Category::Image => "image",
            Category::Signal => "signal",
            Category::Sparse => "sparse",
            Category::Io => "io",
            Category::Internal => "internal",
            Category::User => "user",
        })
    }
}

/// Computes the shapes of a node's outputs from what is known of its inputs.
pub type ShapeFn = fn(&ShapeContext<'_>) -> Result<Vec<PartialShape>>;

/// Makes the kernel of a node.
pub type KernelFn = fn(&KernelInit<'_>) -> Result<Box<dyn Kernel>>;

/// Whether and how gradients flow through an operation.
#[derive(Clone, Copy)]
pub enum Gradient {
    /// Nobody has said: reaching it is an error.
    Undefined,
    /// Gradients stop here, as at an `ArgMax`.
    NotDifferentiable,
    /// A function that adds the gradient's nodes to the graph.
    Function(GradFn),
}

/// Everything about an operation.
pub struct OpDef {
    name: &'static str,
    category: Category,
    doc: &'static str,
    inputs: Vec<ArgDef>,
    outputs: Vec<ArgDef>,
    attrs: Vec<AttrDef>,
    stateful: bool,
    commutative: bool,
    control_flow: bool,
    shape: ShapeFn,
    gradient: Gradient,
    kernel: Option<KernelFn>,
    samples: Vec<SampleFn>,
    mistakes: Vec<String>,
}

fn unknown_shapes(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![PartialShape::UNKNOWN; cx.num_outputs()])
}

/// Building a definition. A malformed specification is reported when the registry is made, with the op's name.
impl OpDef {
    /// An operation without inputs, outputs, attributes or kernel.
    pub fn new(name: &'static str, category: Category) -> Self {
        OpDef {
            name,
            category,
            doc: "",
            inputs: Vec::new(),
            outputs: Vec::new(),
            attrs: Vec::new(),
            stateful: false,
            commutative: false,
            control_flow: false,
            shape: unknown_shapes,
            gradient: Gradient::Undefined,
            kernel: None,
            samples: Vec::new(),
            mistakes: Vec::new(),
        }
    }

    /// What it does, in a sentence or two.
    pub fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    fn parsed<T>(&mut self, what: std::result::Result<T, String>, to: impl FnOnce(&mut Self, T)) {
        match what {
            Ok(x) => to(self, x),
            Err(e) => self.mistakes.push(e),
        }
    }

    /// Adds an input: `"a: T"`, `"axis: Tidx"`, `"values: N * T"`, `"ref: Ref(T)"`, `"args: Tin"` (a type list).
    pub fn input(mut self, spec: &str) -> Self {
        self.parsed(spec::arg(spec), |d, a| d.inputs.push(a));
        self
    }

    /// Adds an output, in the same notation.
    pub fn output(mut self, spec: &str) -> Self {
        self.parsed(spec::arg(spec), |d, a| d.outputs.push(a));
        self
    }

    /// Adds an attribute: `"T: {float, double}"`, `"N: int >= 1"`, `"keep_dims: bool = false"`,
    /// `"padding: {'SAME', 'VALID'}"`, `"out: {int32, int64} = DT_INT32"`, `"axes: list(int) = []"`.
    pub fn attr(mut self, spec: &str) -> Self {
        self.parsed(spec::attr(spec), |d, a| d.attrs.push(a));
        self
    }

    /// It has state or side effects: never folded, merged or pruned as a duplicate.
    pub fn stateful(mut self) -> Self {
        self.stateful = true;
        self
    }

    /// Its two inputs may be swapped.
    pub fn commutative(mut self) -> Self {
        self.commutative = true;
        self
    }

    /// It is one of the control-flow primitives, which the executor treats specially.
    pub fn control_flow(mut self) -> Self {
        self.control_flow = true;
        self
    }

    /// How output shapes follow from the inputs; unknown without it.
    pub fn shape(mut self, f: ShapeFn) -> Self {
        self.shape = f;
        self
    }

    /// The gradient.
    pub fn gradient(mut self, f: GradFn) -> Self {
        self.gradient = Gradient::Function(f);
        self
    }

    /// Gradients stop here.
    pub fn not_differentiable(mut self) -> Self {
        self.gradient = Gradient::NotDifferentiable;
        self
    }

    /// The CPU kernel.
    pub fn cpu(mut self, f: KernelFn) -> Self {
        self.kernel = Some(f);
        self
    }

    /// A way to build the operation with random inputs, for the tests that run over every registered operation:
    /// its gradient is compared with finite differences there. May be given several times; every operation with a
    /// gradient needs at least one.
    pub fn sample(mut self, f: SampleFn) -> Self {
        self.samples.push(f);
        self
    }
}

/// Reading a definition.
impl OpDef {
    /// The name, TensorFlow's where it is one of TensorFlow's: `MatMul`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The group.
    pub fn category(&self) -> Category {
        self.category
    }

    /// What it does.
    pub fn description(&self) -> &'static str {
        self.doc
    }

    /// The inputs.
    pub fn inputs(&self) -> &[ArgDef] {
        &self.inputs
    }

    /// The outputs.
    pub fn outputs(&self) -> &[ArgDef] {
        &self.outputs
    }

    /// The attributes.
    pub fn attrs(&self) -> &[AttrDef] {
        &self.attrs
    }

    /// The attribute of that name.
    pub fn attr_def(&self, name: &str) -> Option<&AttrDef> {
        self.attrs.iter().find(|a| a.name == name)
    }

    /// Whether it has state or side effects.
    pub fn is_stateful(&self) -> bool {
        self.stateful
    }

    /// Whether its two inputs may be swapped.
    pub fn is_commutative(&self) -> bool {
        self.commutative
    }

    /// Whether it is a control-flow primitive.
    pub fn is_control_flow(&self) -> bool {
        self.control_flow
    }

    /// The shape function.
    pub fn shape_fn(&self) -> ShapeFn {
        self.shape
    }

    /// The gradient.
    pub fn gradient_of(&self) -> Gradient {
        self.gradient
    }

    /// The CPU kernel, if there is one.
    pub fn cpu_kernel(&self) -> Option<KernelFn> {
        self.kernel
    }

    /// The ways to build it with random inputs.
    pub fn samples(&self) -> &[SampleFn] {
        &self.samples
    }

    /// Makes the CPU kernel of a node.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if there is none, and what the factory returns.
    pub fn make_kernel(&self, init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
        let f = self
            .kernel
            .ok_or_else(|| Error::invalid(format!("operation {} has no CPU kernel", self.name)))?;
        f(init)
    }

    /// Fills in the defaults of attributes that are not set.
    pub fn fill_defaults(&self, attrs: &mut Attrs) {
        for a in &self.attrs {
            if let (None, Some(d)) = (attrs.get(&a.name), &a.default) {
                attrs.set(a.name.clone(), d.clone());
            }
        }
    }
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpDef({})", self.name)
    }
}

/// `name(a: T, b: T) -> (product: T)`
impl fmt::Display for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, args: &[ArgDef]| -> fmt::Result {
            for (i, a) in args.iter().enumerate() {
                write!(f, "{}{a}", if i > 0 { ", " } else { "" })?;
            }
            Ok(())
        };
        write!(f, "{}(", self.name)?;
        list(f, &self.inputs)?;
        f.write_str(") -> (")?;
        list(f, &self.outputs)?;
        f.write_str(")")
    }
}
