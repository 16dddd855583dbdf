//! Variables in parts, as one: tables that are too large for one device.
//!
//! A [`Partitioner`] says into how many parts; [`plan`] says how large they are, without building anything; a
//! [`PartitionedVariable`] is the parts and what programs do with them as one. To optimizers the parts are variables
//! like others, with slots of their own. To a [`Saver`](super::saver::Saver) they are parts of one tensor, which can be
//! restored in any other number of parts. `TensorFlow: tf.PartitionedVariable`.
//!
//! ```
//! use actorflow::train::init::Zeros;
//! use actorflow::train::partitioned::{AxisSize, FixedSize, PartitionedVariable, plan};
//! use actorflow::{DType, Graph, Shape};
//!
//! # fn main() -> actorflow::Result<()> {
//! // A table of a billion rows, in parts of at most 16 GiB.
//! let large = AxisSize { max_bytes: 16 << 30, axis: 0, max_parts: None };
//! let parts = plan(&Shape::new(&[1_000_000_000, 20]), DType::F32, &large)?;
//! assert_eq!((parts.len(), parts[0].bytes(DType::F32)?), (5, 16_000_000_000));
//!
//! let g = Graph::new();
//! let table = PartitionedVariable::builder(&g, "table", [10, 4])
//!     .partitioner(FixedSize { parts: 3, axis: 0 })
//!     .build(Zeros)?;
//! assert_eq!(table.variables()[0].name(), "table/part_0");
//! let rows = table.embedding_lookup(&g.constant(vec![1i64, 9])?, None)?;
//! assert_eq!(rows.shape().to_shape(), Some(Shape::new(&[2, 4])));
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod partitioner;

#[cfg(test)]
mod tests;

pub use partitioner::{AxisSize, FixedSize, MinMax, Partitioner};

use actorflow_core::{DType, Error, Graph, Operation, Output, Result, Shape};

use self::partitioner::byte_size;
use super::init::Initializer;
use super::saver::slices::{Slice, register};
use super::variable::{GraphVariables, InitialValue, Variable};
use crate::nn::{PartitionStrategy, embedding_lookup};

/// The most parts of a variable: each is several nodes.
const PARTS: usize = 1 << 20;

/// A part of a variable: a box in it, which has all of every axis but one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub index: usize,
    /// The shape of the whole.
    pub whole: Shape,
    /// Where it begins, in each axis.
    pub start: Vec<usize>,
    /// How long it is, in each axis.
    pub length: Vec<usize>,
}

impl Part {
    /// Its shape.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.length)
    }

    /// How many bytes it takes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if no computer has so many.
    pub fn bytes(&self, dtype: DType) -> Result<usize> {
        byte_size(&self.shape(), dtype)
    }

    /// TensorFlow's notation of the whole's shape and the part: `10 4 0,5:-`.
    pub fn spec(&self) -> String {
        let whole = self.whole.iter().map(usize::to_string).collect::<Vec<_>>().join(" ");
        let axes = self.start.iter().zip(&self.length).zip(self.whole.iter());
        let axes = axes.map(|((start, length), dim)| match length == dim {
            true => "-".to_owned(),
            false => format!("{start},{length}"),
        });
        format!("{whole} {}", axes.collect::<Vec<_>>().join(":"))
    }
}

/// The parts into which a partitioner divides a variable; the first ones are one longer if it does not come out even.
///
/// # Errors
/// `INVALID_ARGUMENT` as the partitioner says, for more than 1,048,576 parts, or if no computer has so many bytes.
pub fn plan(shape: &Shape, dtype: DType, partitioner: &dyn Partitioner) -> Result<Vec<Part>> {
    byte_size(shape, dtype)?;
    let (axis, parts) = partitioner.partition(shape, dtype)?;
    let dim = shape.dims().get(axis).copied();
    let Some(dim) = dim.filter(|d| parts >= 1 && parts <= (*d).max(1)) else {
        return Err(Error::invalid(format!(
            "a variable of shape {shape} cannot be divided into {parts} parts along axis {axis}"
        )));
    };
    if parts > PARTS {
        return Err(Error::invalid(format!(
            "a variable of shape {shape} cannot be divided into {parts} parts, but into {PARTS} at most"
        )));
    }
    let (each, more) = (dim / parts, dim % parts);
    let part = |index: usize| {
        let mut part = Part {
            index,
            whole: shape.clone(),
            start: vec![0; shape.rank()],
            length: shape.dims().to_vec(),
        };
        part.start[axis] = index * each + index.min(more);
        part.length[axis] = each + usize::from(index < more);
        part
    };
    Ok((0..parts).map(part).collect())
}

/// A [`PartitionedVariable`] in the making.
#[must_use = "call build()"]
pub struct PartitionedBuilder {
    graph: Graph,
    name: String,
    shape: Shape,
    dtype: DType,
    partitioner: Box<dyn Partitioner>,
    devices: Vec<String>,
    trainable: bool,
    reference: bool,
}

impl PartitionedBuilder {
    /// The dtype; float32 by default.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// How it is divided; by default it is in one part.
    pub fn partitioner(mut self, partitioner: impl Partitioner + 'static) -> Self {
        self.partitioner = Box::new(partitioner);
        self
    }

    /// The devices of the parts, one after the other and over again; by default the open device scope's.
    pub fn devices(mut self, devices: &[&str]) -> Self {
        self.devices = devices.iter().map(|d| (*d).to_owned()).collect();
        self
    }

    /// Optimizers leave it alone.
    pub fn not_trainable(mut self) -> Self {
        self.trainable = false;
        self
    }

    /// The parts are reference variables instead of resource variables.
    pub fn reference(mut self) -> Self {
        self.reference = true;
        self
    }

    /// Adds the parts' nodes, `NAME/part_0` and so on.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the variable cannot be divided so, or nodes cannot be added.
    #[track_caller]
    pub fn build(self, initializer: impl Initializer) -> Result<PartitionedVariable> {
        let g = &self.graph;
        let parts = plan(&self.shape, self.dtype, &*self.partitioner)?;
        let (axis, _) = self.partitioner.partition(&self.shape, self.dtype)?;
        let _scope = g.name_scope(&self.name);
        let name = g.current_name_scope().trim_end_matches('/').to_owned();
        let mut variables = Vec::with_capacity(parts.len());
        for part in &parts {
            let _device = match self.devices.len() {
                0 => None,
                n => Some(g.device_scope(&self.devices[part.index % n])),
            };
            let mut b = g.variable_builder(&format!("part_{}", part.index));
            if !self.trainable {
                b = b.not_trainable();
            }
            if self.reference {
                b = b.reference();
            }
            let initial = InPart {
                initializer: &initializer,
                part,
                dtype: self.dtype,
            };
            let variable = b.build(initial)?;
            let whole = name.clone();
            let spec = part.spec();
            register(g, &variable.name(), &Slice { whole, spec });
            variables.push(variable);
        }
        Ok(PartitionedVariable {
            graph: g.clone(),
            name,
            shape: self.shape,
            dtype: self.dtype,
            axis,
            parts,
            variables,
        })
    }
}

/// The initial value of a part.
struct InPart<'a, I> {
    initializer: &'a I,
    part: &'a Part,
    dtype: DType,
}

impl<I: Initializer> InitialValue for InPart<'_, I> {
    #[track_caller]
    fn build(self, graph: &Graph) -> Result<Output> {
        self.initializer.build_part(graph, self.part, self.dtype)
    }
}

/// A variable in parts, each a variable of its own.
#[derive(Debug, Clone)]
pub struct PartitionedVariable {
    graph: Graph,
    name: String,
    shape: Shape,
    dtype: DType,
    axis: usize,
    parts: Vec<Part>,
    variables: Vec<Variable>,
}

impl PartitionedVariable {
    /// Starts describing a variable, of float32 and in one part along the first axis.
    pub fn builder(graph: &Graph, name: &str, shape: impl Into<Shape>) -> PartitionedBuilder {
        PartitionedBuilder {
            graph: graph.clone(),
            name: name.to_owned(),
            shape: shape.into(),
            dtype: DType::F32,
            partitioner: Box::new(FixedSize { parts: 1, axis: 0 }),
            devices: Vec::new(),
            trainable: true,
            reference: false,
        }
    }

    /// The name of the whole, under which it is saved.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape of the whole.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The dtype.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The axis along which it is divided.
    pub fn axis(&self) -> usize {
        self.axis
    }

    /// Where the parts are.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The parts' variables, in order.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The parts' values, in order.
    pub fn values(&self) -> Vec<Output> {
        self.variables.iter().map(|v| v.value().clone()).collect()
    }

    /// The whole value, put together of the parts'.
    ///
    /// # Errors
    /// If the node cannot be added.
    #[track_caller]
    pub fn as_tensor(&self) -> Result<Output> {
        match &self.values()[..] {
            [one] => Ok(one.clone()),
            all => self.graph.concat(all, self.axis as i64),
        }
    }

    /// The rows `ids` of a table, as [`nn::embedding_lookup`](crate::nn::embedding_lookup) with consecutive rows in each
    /// part. Only the parts' rows that are asked for are read, and trained.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if it is divided along another axis than the first; as the function.
    #[track_caller]
    pub fn embedding_lookup(&self, ids: &Output, max_norm: Option<f64>) -> Result<Output> {
        self.lookup(ids, PartitionStrategy::Div, max_norm)
    }

    /// The same with a strategy: [`Mod`](PartitionStrategy::Mod) spreads neighbouring rows over the parts. Then row `i` of
    /// the whole, as it is saved, is not id `i`'s, and the number of parts must stay what it is.
    ///
    /// # Errors
    /// As [`embedding_lookup`](Self::embedding_lookup).
    #[track_caller]
    pub fn lookup(&self, ids: &Output, strategy: PartitionStrategy, max_norm: Option<f64>) -> Result<Output> {
        if self.axis != 0 {
            return Err(Error::invalid(format!(
                "rows of {} cannot be looked up: it is divided along axis {}, not by rows",
                self.name, self.axis
            )));
        }
        embedding_lookup(&self.values(), ids, strategy, max_norm)
    }

    /// An operation that sets all parts to their parts of a whole value.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if dtype or shape do not fit.
    #[track_caller]
    pub fn assign(&self, value: &Output) -> Result<Operation> {
        let _scope = self.graph.name_scope("assign");
        let lengths: Vec<i64> = self.parts.iter().map(|p| p.length[self.axis] as i64).collect();
        let n = lengths.len() as i64;
        let (lengths, axis) = (self.graph.constant(lengths)?, self.graph.constant(self.axis as i32)?);
        let b = self.graph.op("SplitV").input(value).input(&lengths).input(&axis);
        let pieces = b.attr("num_split", n).finish()?.outputs();
        let assigned = self.variables.iter().zip(&pieces).map(|(v, piece)| v.assign(piece));
        self.graph.group("all", &assigned.collect::<Result<Vec<_>>>()?)
    }
}
