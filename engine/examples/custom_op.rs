//! An operation of one's own, from outside of the project: definition, shape, gradient and kernel.
//!
//! `cargo run --release -p actorflow --example custom_op`
//!
//! The operation is `Cube`: y = x³. Registering it makes it known to graphs, gradients, the GraphDef importer and
//! the test that compares every gradient with finite differences.

use actorflow::op::{Category, GradContext, KernelInit, OpContext, OpDef, ShapeContext};
use actorflow::{DType, Error, Grad, Graph, PartialShape, Result, Session, Tensor, gradients, register_ops};

fn shape(cx: &ShapeContext<'_>) -> Result<Vec<PartialShape>> {
    Ok(vec![cx.input(0)])
}

/// dy/dx = 3 x², as nodes, so that it can be differentiated again.
fn gradient(cx: &GradContext, dys: &[Option<Grad>]) -> Result<Vec<Option<Grad>>> {
    let dy = cx.dense(dys, 0)?;
    let slope = (&cx.input(0)?.square()? * 3.0)?;
    Ok(vec![Some(dy.times(&slope)?.into())])
}

fn kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let x = cx.input(0)?;
    let (dtype, shape) = (x.dtype(), x.shape().clone());
    // Writes into the input's own buffer if nobody else needs it.
    let (mut y, reused) = cx.reuse_or_alloc(0, dtype, &shape)?;
    let source = if reused {
        None
    } else {
        Some(cx.slice::<f64>(0)?.to_vec())
    };
    let out = y
        .as_mut_slice::<f64>()
        .ok_or_else(|| Error::internal("the output is shared"))?;
    if let Some(x) = source {
        out.copy_from_slice(&x);
    }
    for v in out {
        *v = *v * *v * *v;
    }
    cx.set_output(0, y);
    Ok(())
}

fn cube() -> OpDef {
    OpDef::new("Cube", Category::User)
        .doc("The third power of each element.")
        .input("x: T")
        .output("y: T")
        .attr("T: {double}")
        .shape(shape)
        .gradient(gradient)
        .cpu(|_: &KernelInit<'_>| Ok(Box::new(kernel)))
        .sample(|s| {
            let x = s.normal([2, 3])?;
            s.op("Cube").input(&x).finish()
        })
}

register_ops!(cube);

fn main() -> Result<()> {
    let g = Graph::new();
    let x = g.placeholder("x", DType::F64, [None])?;
    let y = g.op("Cube").input(&x).output()?;
    let dy = gradients(std::slice::from_ref(&y), std::slice::from_ref(&x))?
        .remove(0)
        .ok_or_else(|| Error::internal("no gradient"))?;
    let session = Session::new(&g)?;
    let out = session.run(&[(&x, Tensor::from([1.0, 2.0, 3.0]))], &[&y, &dy.to_dense()?])?;
    println!("cube       {}", out[0]);
    println!("derivative {}", out[1]);
    assert_eq!(out[0].to_vec::<f64>()?, [1.0, 8.0, 27.0]);
    assert_eq!(out[1].to_vec::<f64>()?, [3.0, 12.0, 27.0]);
    Ok(())
}
