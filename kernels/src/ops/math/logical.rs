//! `LogicalAnd`, `LogicalOr`, `LogicalNot`, the bitwise operations and shifts.
#![forbid(unsafe_code)]

use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, register_ops};

use super::common::{INTEGERS, binary, unary};
use crate::elementwise::{self, Loop1, Loops, fn1, fn2, functions, loop_table};
use crate::shapes;

fn1! {
    Not {
        Plain bool, i8, i16, i32, i64 => |x, M| !x;
    }
    /// The number of bits that are set.
    PopulationCount {
        Plain u8 as u8, u16 as u8, u32 as u8, u64 as u8 => |x, M| x.count_ones() as u8;
    }
}

fn2! {
    And {
        Plain bool, i8, i16, i32, i64 => |a, b, M| a & b;
    }
    Or {
        Plain bool, i8, i16, i32, i64 => |a, b, M| a | b;
    }
    Xor {
        Plain i8, i16, i32, i64 => |a, b, M| a ^ b;
    }
    /// The shift distance is held within 0 and the number of bits less one.
    LeftShift {
        Plain i8, i16, i32, i64 => |a, b, M| a << b.clamp(0, (8 * size_of_val(&a) - 1) as _);
        Plain u8, u16, u32, u64 => |a, b, M| a << b.min((8 * size_of_val(&a) - 1) as _);
    }
    /// As [`LeftShift`], to the right; signed numbers keep their sign.
    RightShift {
        Plain i8, i16, i32, i64 => |a, b, M| a >> b.clamp(0, (8 * size_of_val(&a) - 1) as _);
        Plain u8, u16, u32, u64 => |a, b, M| a >> b.min((8 * size_of_val(&a) - 1) as _);
    }
}

loop_table! {
    not_loop = Loop1::light Not [Bool, I8, I16, I32, I64] signed;
    and_loop = Loop2::light And [Bool, I8, I16, I32, I64] signed;
    or_loop = Loop2::light Or [Bool, I8, I16, I32, I64] signed;
    xor_loop = Loop2::light Xor [I8, I16, I32, I64] signed;
    left_shift_loop = Loop2::light LeftShift [I8, I16, I32, I64, U8, U16, U32, U64];
    right_shift_loop = Loop2::light RightShift [I8, I16, I32, I64, U8, U16, U32, U64];
}

fn population_count_loop(d: DType) -> Option<Loops> {
    // Seen as unsigned; a result of one byte must not be renamed with the operand.
    Some(
        match d {
            DType::I8 | DType::U8 => Loop1::light_to::<PopulationCount, u8, u8>().with_input(d),
            DType::I16 | DType::U16 => Loop1::light_to::<PopulationCount, u16, u8>().with_input(d),
            DType::I32 | DType::U32 => Loop1::light_to::<PopulationCount, u32, u8>().with_input(d),
            DType::I64 | DType::U64 => Loop1::light_to::<PopulationCount, u64, u8>().with_input(d),
            _ => return None,
        }
        .into(),
    )
}

functions! {
    "LogicalNot" => not_loop;
    "LogicalAnd" => and_loop;
    "LogicalOr" => or_loop;
    "Invert" => not_loop;
    "BitwiseAnd" => and_loop;
    "BitwiseOr" => or_loop;
    "BitwiseXor" => xor_loop;
    "LeftShift" => left_shift_loop;
    "RightShift" => right_shift_loop;
    "PopulationCount" => population_count_loop;
}

fn logical(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Math)
        .input("x: bool")
        .input("y: bool")
        .output("z: bool")
        .commutative()
        .shape(shapes::broadcast)
        .not_differentiable()
        .cpu(elementwise::kernel)
}

fn logical_and() -> OpDef {
    logical("LogicalAnd").doc("Whether x and y are both true.")
}

fn logical_or() -> OpDef {
    logical("LogicalOr").doc("Whether x or y is true.")
}

fn logical_not() -> OpDef {
    OpDef::new("LogicalNot", Category::Math)
        .doc("Whether x is false.")
        .input("x: bool")
        .output("y: bool")
        .shape(shapes::like_first)
        .not_differentiable()
        .cpu(elementwise::kernel)
}

fn invert() -> OpDef {
    unary("Invert", INTEGERS).doc("Every bit flipped.").not_differentiable()
}

fn bitwise_and() -> OpDef {
    binary("BitwiseAnd", INTEGERS)
        .doc("The bits that are set in both x and y.")
        .commutative()
        .not_differentiable()
}

fn bitwise_or() -> OpDef {
    binary("BitwiseOr", INTEGERS)
        .doc("The bits that are set in x or y.")
        .commutative()
        .not_differentiable()
}

fn bitwise_xor() -> OpDef {
    binary("BitwiseXor", INTEGERS)
        .doc("The bits in which x and y differ.")
        .commutative()
        .not_differentiable()
}

fn left_shift() -> OpDef {
    binary("LeftShift", INTEGERS)
        .doc("x shifted left by y bits; y is held within 0 and the width less one.")
        .not_differentiable()
}

fn right_shift() -> OpDef {
    binary("RightShift", INTEGERS)
        .doc("x shifted right by y bits, keeping its sign; y is held within 0 and the width less one.")
        .not_differentiable()
}

fn population_count() -> OpDef {
    OpDef::new("PopulationCount", Category::Math)
        .doc("How many bits are set.")
        .input("x: T")
        .output("y: uint8")
        .attr(INTEGERS)
        .shape(shapes::like_first)
        .not_differentiable()
        .cpu(elementwise::kernel)
}

register_ops!(
    logical_and,
    logical_or,
    logical_not,
    invert,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    left_shift,
    right_shift,
    population_count
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Output, Tensor};

    fn apply(op: &str, a: impl Into<Tensor>, b: impl Into<Tensor>) -> Tensor {
        let g = Graph::new();
        let (a, b) = (g.constant(a).unwrap(), g.constant(b).unwrap());
        eval(&g.op(op).input(&a).input(&b).output().unwrap())
    }

    fn not(x: &Output, op: &str) -> Tensor {
        eval(&x.unary(op).unwrap())
    }

    #[test]
    fn truth_tables() {
        let (a, b) = ([true, true, false, false], [true, false, true, false]);
        assert_eq!(apply("LogicalAnd", a, b), Tensor::from([true, false, false, false]));
        assert_eq!(apply("LogicalOr", a, b), Tensor::from([true, true, true, false]));
        let g = Graph::new();
        assert_eq!(
            not(&g.constant(vec![true; 100]).unwrap(), "LogicalNot"),
            Tensor::from(vec![false; 100])
        );
    }

    #[test]
    fn bits() {
        assert_eq!(apply("BitwiseAnd", [12u64, 5], 6u64), Tensor::from([4u64, 4]));
        assert_eq!(apply("BitwiseXor", [12i8, -1], 6i8), Tensor::from([10i8, -7]));
        let g = Graph::new();
        assert_eq!(
            not(&g.constant([0u16, 1]).unwrap(), "Invert"),
            Tensor::from([65535u16, 65534])
        );
        let c = g.constant([-1i16, 255, 0]).unwrap();
        assert_eq!(not(&c, "PopulationCount"), Tensor::from([16u8, 8, 0]));
        let c = g.constant([-1i8, 3]).unwrap();
        assert_eq!(not(&c, "PopulationCount"), Tensor::from([8u8, 2]));
    }

    #[test]
    fn shift_distances_are_held_within_the_width() {
        assert_eq!(
            apply("LeftShift", [7i32, 5, 1], [-1i32, 1, 100]),
            Tensor::from([7i32, 10, i32::MIN])
        );
        assert_eq!(
            apply("RightShift", [-8i8, 100, -1], [1i8, 100, 127]),
            Tensor::from([-4i8, 0, -1])
        );
        assert_eq!(apply("RightShift", [128u8], [200u8]), Tensor::from([1u8]));
    }
}
