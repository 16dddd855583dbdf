//! Structural equality of attributes: by bits, so that NaN equals itself and 0 differs from -0.

#![forbid(unsafe_code)]

use std::hash::{Hash, Hasher};

use actorflow_core::{AttrValue, Attrs, Tensor};

/// Whether two tensors have the same dtype, shape and bits. Handles and variants are never the same.
pub(super) fn same_tensor(a: &Tensor, b: &Tensor) -> bool {
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return false;
    }
    match (a.bytes(), b.bytes()) {
        (Some(x), Some(y)) => x == y,
        _ => match (a.as_strings(), b.as_strings()) {
            (Ok(x), Ok(y)) => x == y,
            _ => false,
        },
    }
}

/// Whether two attribute values are the same, bit by bit.
pub(super) fn same_value(a: &AttrValue, b: &AttrValue) -> bool {
    match (a, b) {
        (AttrValue::Float(x), AttrValue::Float(y)) => x.to_bits() == y.to_bits(),
        (AttrValue::Tensor(x), AttrValue::Tensor(y)) => same_tensor(x, y),
        (AttrValue::List(x), AttrValue::List(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same_value(x, y))
        }
        (AttrValue::Func(f, x), AttrValue::Func(g, y)) => f == g && same_attrs(x, y),
        _ => a == b,
    }
}

/// Whether two nodes have the same attributes. Hints that change nothing ([`is_hint`]) do not count.
pub(super) fn same_attrs(a: &Attrs, b: &Attrs) -> bool {
    let (mut a, mut b) = (a.iter().filter(|x| !is_hint(x.0)), b.iter().filter(|x| !is_hint(x.0)));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some((k, x)), Some((l, y))) if k == l && same_value(x, y) => {}
            _ => return false,
        }
    }
}

/// Whether an attribute is one of TensorFlow's annotations (`_class`, `_output_shapes`), which kernels do not see.
fn is_hint(name: &str) -> bool {
    name.starts_with('_')
}

/// Bytes of a tensor that are hashed: enough to tell most apart.
const HASHED: usize = 256;

fn hash_value(v: &AttrValue, h: &mut impl Hasher) {
    match v {
        AttrValue::Str(x) => x.hash(h),
        AttrValue::Int(x) => x.hash(h),
        AttrValue::Float(x) => x.to_bits().hash(h),
        AttrValue::Bool(x) => x.hash(h),
        AttrValue::Type(x) => x.hash(h),
        AttrValue::Shape(x) => x.dims().hash(h),
        AttrValue::Tensor(t) => {
            t.dtype().hash(h);
            t.shape().dims().hash(h);
            if let Some(b) = t.bytes() {
                b[..b.len().min(HASHED)].hash(h);
            } else if let Ok(s) = t.as_strings() {
                s.first().hash(h);
            }
        }
        AttrValue::Func(f, a) => {
            f.hash(h);
            hash_attrs(a, h);
        }
        AttrValue::List(l) => l.iter().for_each(|v| hash_value(v, h)),
    }
}

/// Feeds attributes to a hasher, so that those that are [the same](same_attrs) give the same hash.
pub(super) fn hash_attrs(attrs: &Attrs, h: &mut impl Hasher) {
    for (k, v) in attrs.iter().filter(|x| !is_hint(x.0)) {
        k.hash(h);
        hash_value(v, h);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::DefaultHasher;

    fn attrs(v: impl Into<AttrValue>) -> Attrs {
        let mut a = Attrs::new();
        a.set("x", v);
        a
    }

    fn hash(a: &Attrs) -> u64 {
        let mut h = DefaultHasher::new();
        hash_attrs(a, &mut h);
        h.finish()
    }

    #[test]
    fn bits_decide() {
        let nan = || attrs(Tensor::from(f32::NAN));
        assert!(same_attrs(&nan(), &nan()) && hash(&nan()) == hash(&nan()));
        assert!(!same_attrs(&attrs(Tensor::from(0.0f32)), &attrs(Tensor::from(-0.0f32))));
        assert!(!same_attrs(&attrs(0.0f32), &attrs(-0.0f32)));
        assert!(same_attrs(&attrs(f32::NAN), &attrs(f32::NAN)));
        assert!(!same_attrs(&attrs(Tensor::from(0.0f32)), &attrs(Tensor::from(0.0f64))));
        assert!(same_attrs(
            &attrs(Tensor::strings([1], vec!["a"]).unwrap()),
            &attrs(Tensor::strings([1], vec!["a"]).unwrap())
        ));
        assert!(!same_attrs(
            &attrs(Tensor::strings([1], vec!["a"]).unwrap()),
            &attrs(Tensor::strings([1], vec!["b"]).unwrap())
        ));
        assert!(!same_attrs(&attrs(vec![1i64, 2]), &attrs(vec![1i64])));
    }

    #[test]
    fn annotations_do_not_count() {
        let mut a = attrs(1i64);
        a.set("_class", "loc:@v");
        assert!(same_attrs(&a, &attrs(1i64)) && hash(&a) == hash(&attrs(1i64)));
        assert!(!same_attrs(&Attrs::new(), &attrs(1i64)));
    }
}
