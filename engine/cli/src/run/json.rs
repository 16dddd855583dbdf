//! Tensors as JSON.

use actorflow::num_complex::Complex;
use actorflow::{DType, Tensor, half};
use serde_json::{Value, json};

/// The elements as nested arrays. Numbers that JSON lacks are the texts `NaN`, `Infinity` and `-Infinity`, complex
/// ones are `[re, im]`, bytes that are no text are written with replacement characters.
///
/// # Errors
/// `UNIMPLEMENTED` for resources and variants.
pub(crate) fn nested(t: &Tensor) -> actorflow::Result<Value> {
    let mut flat = elements(t)?.into_iter();
    Ok(level(t.shape().dims(), &mut flat))
}

fn level(dims: &[usize], flat: &mut impl Iterator<Item = Value>) -> Value {
    match dims.split_first() {
        None => flat.next().unwrap_or(Value::Null),
        Some((n, rest)) => Value::Array((0..*n).map(|_| level(rest, flat)).collect()),
    }
}

fn float(x: f64) -> Value {
    match x {
        _ if x.is_finite() => json!(x),
        _ if x.is_nan() => json!("NaN"),
        _ if x > 0.0 => json!("Infinity"),
        _ => json!("-Infinity"),
    }
}

/// The shortest number that reads back as the same float32.
fn float32(x: f32) -> Value {
    match x.to_string().parse::<f64>() {
        Ok(y) if x.is_finite() => json!(y),
        _ => float(f64::from(x)),
    }
}

fn elements(t: &Tensor) -> actorflow::Result<Vec<Value>> {
    fn map<T: actorflow::Element>(t: &Tensor, f: impl Fn(T) -> Value) -> actorflow::Result<Vec<Value>> {
        Ok(t.as_slice::<T>()?.iter().map(|x| f(*x)).collect())
    }
    match t.dtype() {
        DType::F32 => map(t, float32),
        DType::F64 => map(t, float),
        DType::F16 => map(t, |x: half::f16| float(x.to_f64())),
        DType::BF16 => map(t, |x: half::bf16| float(x.to_f64())),
        DType::C64 => map(t, |z: Complex<f32>| json!([float32(z.re), float32(z.im)])),
        DType::C128 => map(t, |z: Complex<f64>| json!([float(z.re), float(z.im)])),
        DType::Bool => map(t, |b: bool| json!(b)),
        DType::I8 => map(t, |x: i8| json!(x)),
        DType::I16 => map(t, |x: i16| json!(x)),
        DType::I32 => map(t, |x: i32| json!(x)),
        DType::I64 => map(t, |x: i64| json!(x)),
        DType::U8 => map(t, |x: u8| json!(x)),
        DType::U16 => map(t, |x: u16| json!(x)),
        DType::U32 => map(t, |x: u32| json!(x)),
        DType::U64 => map(t, |x: u64| json!(x)),
        DType::Str => Ok(t
            .as_strings()?
            .iter()
            .map(|s| json!(String::from_utf8_lossy(s)))
            .collect()),
        d if d.is_quantized() => elements(&t.clone().bitcast(d.storage())?),
        d => Err(actorflow::Error::new(
            actorflow::Code::Unimplemented,
            format!("a {d} tensor has no JSON form; fetch what it refers to"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_nest_by_dimension() {
        let of = |t: Tensor| nested(&t).unwrap().to_string();
        assert_eq!(of(Tensor::from([[1i32, 2], [3, 4]])), "[[1,2],[3,4]]");
        assert_eq!(of(Tensor::scalar(0.1f32)), "0.1");
        assert_eq!(of(Tensor::zeros(DType::F32, [2, 0]).unwrap()), "[[],[]]");
        assert_eq!(
            of(Tensor::vector(&[f32::NAN, f32::NEG_INFINITY])),
            "[\"NaN\",\"-Infinity\"]"
        );
        assert_eq!(of(Tensor::scalar(Complex::<f64>::new(1.0, -2.0))), "[1.0,-2.0]");
        let q = Tensor::from([-3i8, 4]).bitcast(DType::QI8).unwrap();
        assert_eq!(of(q), "[-3,4]");
        assert_eq!(of(Tensor::from("hé")), "\"hé\"");
    }
}
