//! `All`, `Any`.
#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::register_ops;

use super::shared::{self, direct};
use crate::reduction::{And, Or};

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Reduction)
        .input("input: bool")
        .input("reduction_indices: Tidx")
        .output("output: bool")
        .attr("keep_dims: bool = false")
        .attr("Tidx: {int32, int64} = DT_INT32")
        .shape(shared::reduced)
        .not_differentiable()
}

fn all() -> OpDef {
    definition("All")
        .doc("Whether all elements along some dimensions are true; true of none.")
        .cpu(|init| shared::kernel(init, true, direct::<And>))
}

fn any() -> OpDef {
    definition("Any")
        .doc("Whether an element along some dimensions is true; false of none.")
        .cpu(|init| shared::kernel(init, true, direct::<Or>))
}

register_ops!(all, any);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{DType, Graph, Tensor};

    #[test]
    fn all_and_any_follow_the_axis() {
        let g = Graph::new();
        let x = g.constant([[true, false], [true, true]]).unwrap();
        let axis = g.constant(0i32).unwrap();
        assert_eq!(
            eval(&x.reduce_by("All", &axis, false).unwrap()),
            Tensor::from([true, false])
        );
        assert_eq!(
            eval(&x.reduce_by("Any", &axis, true).unwrap()),
            Tensor::from([[true, true]])
        );
        let none = g.constant(Tensor::zeros(DType::Bool, [0, 1]).unwrap()).unwrap();
        assert_eq!(
            eval(&none.reduce_by("All", &axis, false).unwrap()),
            Tensor::from([true])
        );
        assert_eq!(
            eval(&none.reduce_by("Any", &axis, false).unwrap()),
            Tensor::from([false])
        );
    }
}
