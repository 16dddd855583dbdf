//! `Fact`.

use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Tensor, register_ops};

use crate::ops::array::support::Light;
use crate::shapes;

fn fact() -> OpDef {
    OpDef::new("Fact", Category::String)
        .doc("A fact about factorials.")
        .output("fact: string")
        .not_differentiable()
        .shape(shapes::scalar)
        .cpu(|_| {
            Ok(Box::new(Light(|cx: &mut OpContext<'_>| {
                cx.set_output(0, Tensor::string("0! == 1"));
                Ok(())
            })))
        })
}

register_ops!(fact);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn the_fact_is_tensorflows() {
        let fact = Graph::new().op("Fact").output().unwrap();
        assert_eq!(eval(&fact), Tensor::from("0! == 1"));
    }
}
