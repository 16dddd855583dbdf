//! `Exp`, `Expm1`, `Log`, `Log1p`.
#![forbid(unsafe_code)]

use actorflow_core::op::OpDef;
use actorflow_core::register_ops;

use super::common::{C64, C128, FLOATS_COMPLEX, conj, one, sample1, unary};
use crate::elementwise::{fn1, functions, loop_table};
use crate::math::{complex, single};

fn1! {
    Exp {
        Wide f32 => |x, M| single::exp::<M>(x);
        Plain f64 => |x, M| x.exp();
        Plain C64, C128 => |x, M| x.exp();
    }
    Expm1 {
        Wide f32 => |x, M| single::expm1::<M>(x);
        Plain f64 => |x, M| x.exp_m1();
        Plain C64, C128 => |x, M| complex::expm1(x);
    }
    Log {
        Wide f32 => |x, M| single::log::<M>(x);
        Plain f64 => |x, M| x.ln();
        Plain C64, C128 => |x, M| x.ln();
    }
    Log1p {
        Wide f32 => |x, M| single::log1p::<M>(x);
        Plain f64 => |x, M| x.ln_1p();
        Plain C64, C128 => |x, M| complex::log1p(x);
    }
}

loop_table! {
    exp_loop = Loop1::heavy Exp [F32, F64, C64, C128];
    expm1_loop = Loop1::heavy Expm1 [F32, F64, C64, C128];
    log_loop = Loop1::heavy Log [F32, F64, C64, C128];
    log1p_loop = Loop1::heavy Log1p [F32, F64, C64, C128];
}

functions!("Exp" => exp_loop; "Expm1" => expm1_loop; "Log" => log_loop; "Log1p" => log1p_loop;);

fn exp() -> OpDef {
    let def = unary("Exp", FLOATS_COMPLEX)
        .doc("e to the power x.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.output(0)?)?)?));
    sample1!(def, "Exp", |s| s.normal([2, 3])?)
}

fn expm1() -> OpDef {
    let def = unary("Expm1", FLOATS_COMPLEX)
        .doc("e to the power x, less 1, without loss near zero.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.input(0)?)?.exp()?)?));
    sample1!(def, "Expm1", |s| s.normal([2, 3])?)
}

fn log() -> OpDef {
    let def = unary("Log", FLOATS_COMPLEX)
        .doc("The natural logarithm.")
        .gradient(|cx, dys| one(cx.dense(dys, 0)?.times(&conj(&cx.input(0)?)?.reciprocal()?)?));
    sample1!(def, "Log", |s| s.positive([2, 3])?)
}

fn log1p() -> OpDef {
    let def = unary("Log1p", FLOATS_COMPLEX)
        .doc("The natural logarithm of 1 + x, without loss near zero.")
        .gradient(|cx, dys| {
            let x = conj(&cx.input(0)?)?;
            one(cx.dense(dys, 0)?.times(&x.scalar_like(1.0)?.plus(&x)?.reciprocal()?)?)
        });
    sample1!(def, "Log1p", |s| s.positive([2, 3])?)
}

register_ops!(exp, expm1, log, log1p);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn exponentials_and_logarithms_at_the_edges() {
        let g = Graph::new();
        let x = g.constant([f32::NEG_INFINITY, 0.0, 200.0, f32::NAN]).unwrap();
        let e = eval(&x.exp().unwrap()).to_vec::<f32>().unwrap();
        assert_eq!(e[..3], [0.0, 1.0, f32::INFINITY]);
        assert!(e[3].is_nan());
        let x = g.constant([0.0f64, -1.0, 1.0, f64::INFINITY]).unwrap();
        let l = eval(&x.log().unwrap()).to_vec::<f64>().unwrap();
        assert!(l[0] == f64::NEG_INFINITY && l[1].is_nan() && l[2] == 0.0 && l[3] == f64::INFINITY);
    }

    #[test]
    fn half_precision_computes_in_f32() {
        let g = Graph::new();
        let h: Vec<half::bf16> = (0..1000).map(|i| half::bf16::from_f32(i as f32 / 500.0)).collect();
        let want: Vec<half::bf16> = h.iter().map(|x| half::bf16::from_f32(x.to_f32().exp())).collect();
        let got = eval(&g.constant(h).unwrap().exp().unwrap());
        let off = got.as_slice::<half::bf16>().unwrap().iter().zip(&want);
        assert!(off.clone().count() == 1000 && off.filter(|(a, b)| a != b).count() <= 2);
        assert_eq!(got.dtype(), Tensor::from(want).dtype());
    }
}
