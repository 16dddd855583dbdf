//! In-graph replication: one client, a tower of the model on each device, gradients averaged.
//!
//! `cargo run --release -p actorflow --example towers`
//!
//! Fits y = 2x + 1. The variables are on the first device, a tower on each of the other two; each gets its part of the
//! batch. In TensorFlow:
//!
//! ```python
//! for i in range(2):
//!     with tf.device('/cpu:%d' % (1 + i)), tf.name_scope('tower_%d' % i):
//!         loss = tf.reduce_mean(tf.square(w * xs[i] + b - ys[i]))
//!         tower_grads.append(optimizer.compute_gradients(loss, [w, b]))
//! train = optimizer.apply_gradients(average_gradients(tower_grads))
//! ```

use actorflow::train::optimizer::GradientDescent;
use actorflow::train::parallel::towers::towers;
use actorflow::{DType, Error, Graph, GraphVariables, Optimizer, Result, Session, SessionOptions, Tensor};

fn main() -> Result<()> {
    let g = Graph::new();
    let optimizer = Optimizer::new(GradientDescent::new(0.1));
    let (w, b) = {
        let _parameters = g.device_scope("/cpu:0");
        (g.variable("w", 0.0f32)?, g.variable("b", 0.0f32)?)
    };
    let x = g.placeholder("x", DType::F32, [8])?;
    let y = g.placeholder("y", DType::F32, [8])?;
    let halves = |t: &actorflow::Output| -> Result<Vec<actorflow::Output>> {
        let axis = g.constant(0i32)?;
        Ok(g.op("Split")
            .input(&axis)
            .input(t)
            .attr("num_split", 2i64)
            .finish()?
            .outputs())
    };
    let (xs, ys) = (halves(&x)?, halves(&y)?);
    let devices = ["/cpu:1".to_owned(), "/cpu:2".to_owned()];
    let built = towers(&g, &optimizer, &devices, &[w.clone(), b.clone()], |_, i| {
        let guess = (&w.times(&xs[i])? + &*b)?;
        (&guess - &ys[i])?.square()?.mean(&[], false)
    })?;
    let train = optimizer.apply_gradients(&built.gradients, None)?;

    let options = SessionOptions {
        devices: 3,
        ..SessionOptions::default()
    };
    let session = Session::with_options(&g, options)?;
    session.execute(&[&g.global_variables_initializer()?])?;
    let points: Vec<f32> = (0..8).map(|i| i as f32 / 4.0 - 1.0).collect();
    let lines: Vec<f32> = points.iter().map(|x| 2.0 * x + 1.0).collect();
    let feeds = [(&x, Tensor::vector(&points)), (&y, Tensor::vector(&lines))];
    for step in 0..100 {
        let mut run = session.runner().fetch(&built.loss).target(&train);
        for (o, t) in &feeds {
            run = run.feed(o, t.clone());
        }
        let loss = run.run()?[0].to_scalar::<f32>()?;
        if step % 20 == 0 {
            println!("step {step:3}: loss {loss:.6}");
        }
    }
    let (w, b) = (
        session.variable("w")?.to_scalar::<f32>()?,
        session.variable("b")?.to_scalar::<f32>()?,
    );
    println!("y = {w:.3} x + {b:.3}");
    match (w - 2.0).abs() < 0.01 && (b - 1.0).abs() < 0.01 {
        true => Ok(()),
        false => Err(Error::internal("the line was not found")),
    }
}
