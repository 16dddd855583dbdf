//! The update rules. Names, defaults and formulas are those of TensorFlow's `tf.train.*Optimizer`.

use actorflow_core::error::Result;
use actorflow_core::gradient::IndexedSlices;
use actorflow_core::{Operation, Output};

use super::{Apply, Arg, Hyper, Slot, UpdateRule};
use crate::train::variable::Variable;

type Form = (&'static str, Vec<Arg>, Vec<(&'static str, bool)>);

fn h(x: &Hyper) -> Arg {
    Arg::Hyper(x.clone())
}

/// `w -= rate · g`.
#[derive(Debug, Clone)]
pub struct GradientDescent {
    /// The learning rate.
    pub rate: Hyper,
}

impl GradientDescent {
    /// With this learning rate.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        GradientDescent { rate: rate.into() }
    }
}

impl UpdateRule for GradientDescent {
    fn name(&self) -> &'static str {
        "GradientDescent"
    }

    fn dense(&self) -> Form {
        ("GradientDescent", vec![h(&self.rate), Arg::Grad], vec![])
    }

    fn sparse(&self) -> Option<Form> {
        None
    }

    fn composed_sparse(&self, cx: &Apply<'_>, s: &IndexedSlices) -> Result<Operation> {
        let step = s.values.times(&cx.hyper(&self.rate)?)?;
        cx.scatter("ScatterSub", cx.variable, &s.indices, &step)
    }

    /// The proximal step without regularisation.
    fn rows(&self) -> Option<Form> {
        let zero = || Arg::Hyper(Hyper::Number(0.0));
        let args = vec![h(&self.rate), zero(), zero(), Arg::Grad, Arg::Indices];
        Some(("ProximalGradientDescent", args, vec![]))
    }
}

/// `a = momentum · a + g; w -= rate · a`, or Nesterov's variant.
#[derive(Debug, Clone)]
pub struct Momentum {
    /// The learning rate.
    pub rate: Hyper,
    /// The momentum.
    pub momentum: Hyper,
    /// Nesterov's accelerated gradient: I. Sutskever et al., ICML 2013.
    pub nesterov: bool,
}

impl Momentum {
    /// With this learning rate and momentum.
    pub fn new(rate: impl Into<Hyper>, momentum: impl Into<Hyper>) -> Self {
        Momentum {
            rate: rate.into(),
            momentum: momentum.into(),
            nesterov: false,
        }
    }

    /// Nesterov's variant.
    pub fn nesterov(mut self) -> Self {
        self.nesterov = true;
        self
    }
}

impl UpdateRule for Momentum {
    fn name(&self) -> &'static str {
        "Momentum"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot {
            name: "momentum",
            initial: 0.0,
        }]
    }

    fn dense(&self) -> Form {
        let args = vec![Arg::Slot(0), h(&self.rate), Arg::Grad, h(&self.momentum)];
        ("Momentum", args, vec![("use_nesterov", self.nesterov)])
    }

    fn sparse(&self) -> Option<Form> {
        let args = vec![Arg::Slot(0), h(&self.rate), Arg::Grad, Arg::Indices, h(&self.momentum)];
        Some(("Momentum", args, vec![("use_nesterov", self.nesterov)]))
    }
}

/// Adagrad: J. Duchi, E. Hazan, Y. Singer, JMLR 2011.
#[derive(Debug, Clone)]
pub struct Adagrad {
    /// The learning rate.
    pub rate: Hyper,
    /// What the accumulators start from.
    pub initial_accumulator: f64,
}

impl Adagrad {
    /// With this learning rate.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        Adagrad {
            rate: rate.into(),
            initial_accumulator: 0.1,
        }
    }
}

impl UpdateRule for Adagrad {
    fn name(&self) -> &'static str {
        "Adagrad"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot {
            name: "accumulator",
            initial: self.initial_accumulator,
        }]
    }

    fn dense(&self) -> Form {
        ("Adagrad", vec![Arg::Slot(0), h(&self.rate), Arg::Grad], vec![])
    }

    fn sparse(&self) -> Option<Form> {
        Some((
            "Adagrad",
            vec![Arg::Slot(0), h(&self.rate), Arg::Grad, Arg::Indices],
            vec![],
        ))
    }
}

/// Adam: D. P. Kingma, J. Ba, ICLR 2015.
#[derive(Debug, Clone)]
pub struct Adam {
    /// The learning rate.
    pub rate: Hyper,
    /// The decay of the first moments.
    pub beta1: f64,
    /// The decay of the second moments.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
}

impl Adam {
    /// With this learning rate; 0.9, 0.999 and 1e-8 for the others.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        Adam {
            rate: rate.into(),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
    }
}

impl UpdateRule for Adam {
    fn name(&self) -> &'static str {
        "Adam"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot {
                name: "m",
                initial: 0.0,
            },
            Slot {
                name: "v",
                initial: 0.0,
            },
        ]
    }

    fn shared(&self) -> Vec<Slot> {
        vec![
            Slot {
                name: "beta1_power",
                initial: self.beta1,
            },
            Slot {
                name: "beta2_power",
                initial: self.beta2,
            },
        ]
    }

    fn dense(&self) -> Form {
        let n = |x: f64| Arg::Hyper(Hyper::Number(x));
        let args = vec![
            Arg::Slot(0),
            Arg::Slot(1),
            Arg::Shared(0),
            Arg::Shared(1),
            h(&self.rate),
            n(self.beta1),
            n(self.beta2),
            n(self.epsilon),
            Arg::Grad,
        ];
        ("Adam", args, vec![])
    }

    fn sparse(&self) -> Option<Form> {
        None
    }

    /// As TensorFlow's: the moments of all rows decay, and all rows move by them.
    fn composed_sparse(&self, cx: &Apply<'_>, s: &IndexedSlices) -> Result<Operation> {
        let g = s.values.graph();
        let one = |p: &Output| 1.0f64 - p;
        let (p1, p2) = (cx.shared[0].value(), cx.shared[1].value());
        let rate = cx.hyper(&self.rate)?.times(&one(p2)?.sqrt()?)?.divided_by(&one(p1)?)?;
        let moment = |slot: &Variable, beta: f64, add: Output| -> Result<Output> {
            let decayed = slot.assign(&(&slot.read()? * beta)?)?;
            let _after = g.control_dependencies(&[decayed]);
            let added = cx.scatter("ScatterAdd", slot, &s.indices, &add)?;
            let _then = g.control_dependencies(&[added]);
            slot.read()
        };
        let m = moment(&cx.slots[0], self.beta1, (&s.values * (1.0 - self.beta1))?)?;
        let v = moment(&cx.slots[1], self.beta2, (&s.values.square()? * (1.0 - self.beta2))?)?;
        let step = rate.times(&m)?.divided_by(&(&v.sqrt()? + self.epsilon)?)?;
        cx.variable.assign_sub(&step)
    }

    fn moves_all_rows(&self) -> bool {
        true
    }

    fn factors(&self) -> Vec<f64> {
        vec![self.beta1, self.beta2]
    }
}

/// RMSProp: T. Tieleman, G. Hinton, lecture 6.5 of "Neural networks for machine learning", 2012.
#[derive(Debug, Clone)]
pub struct RmsProp {
    /// The learning rate.
    pub rate: Hyper,
    /// The decay of the mean of squares.
    pub decay: f64,
    /// The momentum.
    pub momentum: f64,
    /// Added under the root.
    pub epsilon: f64,
    /// Divides by the variance instead of the mean of squares: A. Graves, 2013.
    pub centered: bool,
}

impl RmsProp {
    /// With this learning rate; decay 0.9, no momentum, epsilon 1e-10.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        RmsProp {
            rate: rate.into(),
            decay: 0.9,
            momentum: 0.0,
            epsilon: 1e-10,
            centered: false,
        }
    }

    fn form(&self, sparse: bool) -> Form {
        let mut args = if self.centered { vec![Arg::Slot(2)] } else { vec![] };
        args.extend([
            Arg::Slot(0),
            Arg::Slot(1),
            h(&self.rate),
            Arg::Hyper(Hyper::Number(self.decay)),
            Arg::Hyper(Hyper::Number(self.momentum)),
            Arg::Hyper(Hyper::Number(self.epsilon)),
            Arg::Grad,
        ]);
        if sparse {
            args.push(Arg::Indices);
        }
        (if self.centered { "CenteredRMSProp" } else { "RMSProp" }, args, vec![])
    }
}

impl UpdateRule for RmsProp {
    fn name(&self) -> &'static str {
        "RMSProp"
    }

    fn slots(&self) -> Vec<Slot> {
        let mut s = vec![
            Slot {
                name: "rms",
                initial: 1.0,
            },
            Slot {
                name: "momentum",
                initial: 0.0,
            },
        ];
        if self.centered {
            s.push(Slot {
                name: "mg",
                initial: 0.0,
            });
        }
        s
    }

    fn dense(&self) -> Form {
        self.form(false)
    }

    fn sparse(&self) -> Option<Form> {
        Some(self.form(true))
    }
}

/// Adadelta: M. D. Zeiler, 2012.
#[derive(Debug, Clone)]
pub struct AdaDelta {
    /// The learning rate.
    pub rate: Hyper,
    /// The decay.
    pub rho: f64,
    /// Added under the roots.
    pub epsilon: f64,
}

impl AdaDelta {
    /// With this learning rate; rho 0.95, epsilon 1e-8.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        AdaDelta {
            rate: rate.into(),
            rho: 0.95,
            epsilon: 1e-8,
        }
    }

    fn args(&self) -> Vec<Arg> {
        let n = |x: f64| Arg::Hyper(Hyper::Number(x));
        vec![
            Arg::Slot(0),
            Arg::Slot(1),
            h(&self.rate),
            n(self.rho),
            n(self.epsilon),
            Arg::Grad,
        ]
    }
}

impl UpdateRule for AdaDelta {
    fn name(&self) -> &'static str {
        "Adadelta"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot {
                name: "accum",
                initial: 0.0,
            },
            Slot {
                name: "accum_update",
                initial: 0.0,
            },
        ]
    }

    fn dense(&self) -> Form {
        ("Adadelta", self.args(), vec![])
    }

    fn sparse(&self) -> Option<Form> {
        let mut args = self.args();
        args.push(Arg::Indices);
        Some(("Adadelta", args, vec![]))
    }
}

/// Follow the regularised leader, proximal: H. B. McMahan et al., KDD 2013.
#[derive(Debug, Clone)]
pub struct Ftrl {
    /// The learning rate.
    pub rate: Hyper,
    /// The power of the learning rate's decay, at most 0.
    pub rate_power: f64,
    /// What the accumulators start from.
    pub initial_accumulator: f64,
    /// L1 regularisation.
    pub l1: f64,
    /// L2 regularisation.
    pub l2: f64,
}

impl Ftrl {
    /// With this learning rate; power -0.5, accumulators from 0.1, no regularisation.
    pub fn new(rate: impl Into<Hyper>) -> Self {
        Ftrl {
            rate: rate.into(),
            rate_power: -0.5,
            initial_accumulator: 0.1,
            l1: 0.0,
            l2: 0.0,
        }
    }

    fn tail(&self) -> Vec<Arg> {
        let n = |x: f64| Arg::Hyper(Hyper::Number(x));
        vec![h(&self.rate), n(self.l1), n(self.l2), n(self.rate_power)]
    }
}

impl UpdateRule for Ftrl {
    fn name(&self) -> &'static str {
        "Ftrl"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![
            Slot {
                name: "accum",
                initial: self.initial_accumulator,
            },
            Slot {
                name: "linear",
                initial: 0.0,
            },
        ]
    }

    fn dense(&self) -> Form {
        let mut args = vec![Arg::Slot(0), Arg::Slot(1), Arg::Grad];
        args.extend(self.tail());
        ("Ftrl", args, vec![])
    }

    fn sparse(&self) -> Option<Form> {
        let mut args = vec![Arg::Slot(0), Arg::Slot(1), Arg::Grad, Arg::Indices];
        args.extend(self.tail());
        Some(("Ftrl", args, vec![]))
    }
}

/// Gradient descent with L1 and L2 regularisation applied by their proximal operator: J. Duchi, Y. Singer, 2009.
#[derive(Debug, Clone)]
pub struct ProximalGradientDescent {
    /// The learning rate.
    pub rate: Hyper,
    /// L1 regularisation.
    pub l1: f64,
    /// L2 regularisation.
    pub l2: f64,
}

impl ProximalGradientDescent {
    /// With this learning rate and regularisation.
    pub fn new(rate: impl Into<Hyper>, l1: f64, l2: f64) -> Self {
        ProximalGradientDescent {
            rate: rate.into(),
            l1,
            l2,
        }
    }

    fn args(&self) -> Vec<Arg> {
        let n = |x: f64| Arg::Hyper(Hyper::Number(x));
        vec![h(&self.rate), n(self.l1), n(self.l2), Arg::Grad]
    }
}

impl UpdateRule for ProximalGradientDescent {
    fn name(&self) -> &'static str {
        "ProximalGradientDescent"
    }

    fn dense(&self) -> Form {
        ("ProximalGradientDescent", self.args(), vec![])
    }

    fn sparse(&self) -> Option<Form> {
        let mut args = self.args();
        args.push(Arg::Indices);
        Some(("ProximalGradientDescent", args, vec![]))
    }
}

/// Adagrad with L1 and L2 regularisation applied by their proximal operator.
#[derive(Debug, Clone)]
pub struct ProximalAdagrad {
    /// The learning rate.
    pub rate: Hyper,
    /// What the accumulators start from.
    pub initial_accumulator: f64,
    /// L1 regularisation.
    pub l1: f64,
    /// L2 regularisation.
    pub l2: f64,
}

impl ProximalAdagrad {
    /// With this learning rate and regularisation; accumulators from 0.1.
    pub fn new(rate: impl Into<Hyper>, l1: f64, l2: f64) -> Self {
        ProximalAdagrad {
            rate: rate.into(),
            initial_accumulator: 0.1,
            l1,
            l2,
        }
    }

    fn args(&self) -> Vec<Arg> {
        let n = |x: f64| Arg::Hyper(Hyper::Number(x));
        vec![Arg::Slot(0), h(&self.rate), n(self.l1), n(self.l2), Arg::Grad]
    }
}

impl UpdateRule for ProximalAdagrad {
    fn name(&self) -> &'static str {
        "ProximalAdagrad"
    }

    fn slots(&self) -> Vec<Slot> {
        vec![Slot {
            name: "accumulator",
            initial: self.initial_accumulator,
        }]
    }

    fn dense(&self) -> Form {
        ("ProximalAdagrad", self.args(), vec![])
    }

    fn sparse(&self) -> Option<Form> {
        let mut args = self.args();
        args.push(Arg::Indices);
        Some(("ProximalAdagrad", args, vec![]))
    }
}
