//! Shapes: fully known ones of tensors, and partial ones of graph edges.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The largest rank of a tensor.
pub const MAX_RANK: usize = 254;

const INLINE: usize = 3;

/// The rank of a shape that is stored inline. A whole word, whose other values tell that the shape is not: padding
/// inside of a tensor is copied in pieces that overlap, and whoever reads it soon waits for the stores.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Rank {
    R0,
    R1,
    R2,
    R3,
}

#[derive(Clone)]
enum Repr {
    Inline(Rank, [usize; INLINE]),
    Heap(Arc<[usize]>),
}

/// The shape of a tensor: its dimensions, outermost first; rank 0 is a scalar.
///
/// Up to three dimensions are stored inline. Dereferences to `&[usize]`.
#[derive(Clone)]
pub struct Shape(Repr);

impl Shape {
    /// The shape of a scalar: `[]`.
    pub const SCALAR: Shape = Shape(Repr::Inline(Rank::R0, [0; INLINE]));

    /// A shape of these dimensions.
    #[inline]
    pub fn new(dims: &[usize]) -> Self {
        Shape(match *dims {
            [] => Repr::Inline(Rank::R0, [0; INLINE]),
            [a] => Repr::Inline(Rank::R1, [a, 0, 0]),
            [a, b] => Repr::Inline(Rank::R2, [a, b, 0]),
            [a, b, c] => Repr::Inline(Rank::R3, [a, b, c]),
            _ => Repr::Heap(dims.into()),
        })
    }

    /// A shape of signed dimensions, as they come from a tensor or a file.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a negative dimension or more than [`MAX_RANK`] of them.
    pub fn from_i64(dims: &[i64]) -> Result<Self> {
        if dims.len() > MAX_RANK {
            return Err(Error::invalid(format!(
                "rank {} exceeds the limit of {MAX_RANK}",
                dims.len()
            )));
        }
        let mut out = Vec::with_capacity(dims.len());
        for &d in dims {
            match usize::try_from(d) {
                Ok(d) => out.push(d),
                Err(_) => return Err(Error::invalid(format!("dimension {d} of shape {dims:?} is negative"))),
            }
        }
        Ok(Shape::from(out))
    }

    /// The dimensions.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        match &self.0 {
            Repr::Inline(n, d) => &d[..*n as usize],
            Repr::Heap(d) => d,
        }
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Whether the rank is 0.
    #[inline]
    pub fn is_scalar(&self) -> bool {
        matches!(self.0, Repr::Inline(Rank::R0, _))
    }

    /// The number of elements of an existing tensor; such a product was checked when the tensor was made.
    #[inline]
    pub fn count(&self) -> usize {
        match &self.0 {
            Repr::Inline(Rank::R0, _) => 1,
            _ => self.dims().iter().product(),
        }
    }

    /// The number of elements, checked against overflow.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the product does not fit an `i64`.
    pub fn checked_count(&self) -> Result<usize> {
        // A zero anywhere makes the tensor empty, but the other dimensions must still not overflow strides.
        let mut n: usize = 1;
        let mut zero = false;
        for &d in self.dims() {
            if d == 0 {
                zero = true;
                continue;
            }
            n = n
                .checked_mul(d)
                .filter(|n| *n <= i64::MAX as usize)
                .ok_or_else(|| Error::invalid(format!("shape {self} has more elements than fit 63 bits")))?;
        }
        Ok(if zero { 0 } else { n })
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> Vec<usize> {
        let mut s = vec![1; self.rank()];
        for i in (1..self.rank()).rev() {
            s[i - 1] = s[i] * self.dims()[i];
        }
        s
    }

    /// The dimensions as `i64`s.
    pub fn to_i64(&self) -> Vec<i64> {
        self.dims().iter().map(|&d| d as i64).collect()
    }

    /// Resolves an axis in `-rank..rank`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` outside of that range.
    pub fn axis(&self, axis: i64) -> Result<usize> {
        resolve_axis(axis, self.rank())
    }

    /// The shape without the dimensions `range`.
    pub fn with_replaced(&self, start: usize, len: usize, by: &[usize]) -> Shape {
        let d = self.dims();
        let mut v = Vec::with_capacity(d.len() - len + by.len());
        v.extend_from_slice(&d[..start]);
        v.extend_from_slice(by);
        v.extend_from_slice(&d[start + len..]);
        Shape::from(v)
    }

    /// The shape that two shapes broadcast to, by NumPy's and TensorFlow's rule.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both shapes if they do not fit.
    pub fn broadcast(a: &Shape, b: &Shape) -> Result<Shape> {
        if a == b {
            return Ok(a.clone());
        }
        let (x, y) = (a.dims(), b.dims());
        let rank = x.len().max(y.len());
        let mut out = vec![0; rank];
        for i in 0..rank {
            let p = if i + x.len() >= rank { x[i + x.len() - rank] } else { 1 };
            let q = if i + y.len() >= rank { y[i + y.len() - rank] } else { 1 };
            out[i] = match (p, q) {
                _ if p == q => p,
                (1, q) => q,
                (p, 1) => p,
                _ => return Err(Error::invalid(format!("incompatible shapes: {a} vs. {b}"))),
            };
        }
        Ok(Shape::from(out))
    }
}

/// Resolves an axis in `-rank..rank` to `0..rank`.
///
/// # Errors
/// `INVALID_ARGUMENT` outside of that range.
pub fn resolve_axis(axis: i64, rank: usize) -> Result<usize> {
    let r = rank as i64;
    if axis >= -r && axis < r {
        Ok(if axis < 0 { (axis + r) as usize } else { axis as usize })
    } else {
        Err(Error::invalid(format!(
            "axis {axis} is out of range [{}, {r}) of a tensor of rank {rank}",
            -r
        )))
    }
}

impl Deref for Shape {
    type Target = [usize];
    #[inline]
    fn deref(&self) -> &[usize] {
        self.dims()
    }
}

impl PartialEq for Shape {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.dims() == other.dims()
    }
}

impl Eq for Shape {}

impl std::hash::Hash for Shape {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.dims().hash(state);
    }
}

impl From<&[usize]> for Shape {
    fn from(d: &[usize]) -> Self {
        Shape::new(d)
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(d: [usize; N]) -> Self {
        Shape::new(&d)
    }
}

impl<const N: usize> From<&[usize; N]> for Shape {
    fn from(d: &[usize; N]) -> Self {
        Shape::new(d)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(d: Vec<usize>) -> Self {
        Shape::new(&d)
    }
}

impl From<&Shape> for Shape {
    fn from(d: &Shape) -> Self {
        d.clone()
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        Shape::from(iter.into_iter().collect::<Vec<_>>())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.dims().iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is known of an edge's shape when the graph is built: nothing, the rank, or some dimensions.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct PartialShape(Option<Vec<Option<usize>>>);

impl PartialShape {
    /// Nothing is known, not even the rank.
    pub const UNKNOWN: PartialShape = PartialShape(None);

    /// The shape of a scalar.
    pub fn scalar() -> Self {
        PartialShape(Some(Vec::new()))
    }

    /// Known rank, `None` for an unknown dimension.
    pub fn new(dims: impl Into<Vec<Option<usize>>>) -> Self {
        PartialShape(Some(dims.into()))
    }

    /// `rank` unknown dimensions; nothing known for a rank above [`MAX_RANK`], which no tensor has.
    pub fn of_rank(rank: usize) -> Self {
        if rank > MAX_RANK {
            return PartialShape::UNKNOWN;
        }
        PartialShape(Some(vec![None; rank]))
    }

    /// A vector of unknown or known length.
    pub fn vector(len: Option<usize>) -> Self {
        PartialShape(Some(vec![len]))
    }

    /// From signed dimensions where a negative one is unknown.
    pub fn from_i64(dims: &[i64]) -> Self {
        PartialShape(Some(dims.iter().map(|&d| usize::try_from(d).ok()).collect()))
    }

    /// The dimensions, if the rank is known.
    pub fn dims(&self) -> Option<&[Option<usize>]> {
        self.0.as_deref()
    }

    /// The rank, if known.
    pub fn rank(&self) -> Option<usize> {
        self.0.as_ref().map(Vec::len)
    }

    /// Dimension `i`, if known.
    pub fn dim(&self, i: usize) -> Option<usize> {
        self.0.as_ref().and_then(|d| d.get(i).copied().flatten())
    }

    /// The full shape, if every dimension is known.
    pub fn to_shape(&self) -> Option<Shape> {
        self.0
            .as_ref()?
            .iter()
            .copied()
            .collect::<Option<Vec<_>>>()
            .map(Shape::from)
    }

    /// Whether every dimension is known.
    pub fn is_fully_known(&self) -> bool {
        self.0.as_ref().is_some_and(|d| d.iter().all(Option::is_some))
    }

    /// The number of elements, if every dimension is known and the product does not overflow.
    pub fn count(&self) -> Option<usize> {
        self.to_shape()?.checked_count().ok()
    }

    /// Whether a tensor of shape `s` may flow here.
    pub fn accepts(&self, s: &Shape) -> bool {
        match &self.0 {
            None => true,
            Some(d) => d.len() == s.rank() && d.iter().zip(s.dims()).all(|(p, q)| p.is_none_or(|p| p == *q)),
        }
    }

    /// What both say together.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both if they contradict each other.
    pub fn merge(&self, other: &PartialShape) -> Result<PartialShape> {
        let (Some(a), Some(b)) = (&self.0, &other.0) else {
            return Ok(if self.0.is_some() { self.clone() } else { other.clone() });
        };
        let clash = || Error::invalid(format!("shapes {self} and {other} are not compatible"));
        if a.len() != b.len() {
            return Err(clash());
        }
        let merged = a.iter().zip(b).map(|(p, q)| match (p, q) {
            (Some(p), Some(q)) if p != q => Err(clash()),
            (Some(p), _) => Ok(Some(*p)),
            (None, q) => Ok(*q),
        });
        Ok(PartialShape(Some(merged.collect::<Result<_>>()?)))
    }

    /// What is true of both: dimensions that differ become unknown, as at a `Merge` of two branches.
    pub fn relax(&self, other: &PartialShape) -> PartialShape {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) if a.len() == b.len() => PartialShape(Some(
                a.iter().zip(b).map(|(p, q)| if p == q { *p } else { None }).collect(),
            )),
            _ => PartialShape::UNKNOWN,
        }
    }

    /// The shape that two partial shapes broadcast to.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both if they can never fit.
    pub fn broadcast(a: &PartialShape, b: &PartialShape) -> Result<PartialShape> {
        let (Some(x), Some(y)) = (&a.0, &b.0) else {
            return Ok(PartialShape::UNKNOWN);
        };
        let rank = x.len().max(y.len());
        let mut out = Vec::with_capacity(rank);
        for i in 0..rank {
            let p = if i + x.len() >= rank {
                x[i + x.len() - rank]
            } else {
                Some(1)
            };
            let q = if i + y.len() >= rank {
                y[i + y.len() - rank]
            } else {
                Some(1)
            };
            out.push(match (p, q) {
                (Some(p), Some(q)) if p == q => Some(p),
                (Some(1), q) => q,
                (p, Some(1)) => p,
                (Some(_), Some(_)) => return Err(Error::invalid(format!("shapes {a} and {b} do not broadcast"))),
                (Some(p), None) | (None, Some(p)) => Some(p),
                (None, None) => None,
            });
        }
        Ok(PartialShape(Some(out)))
    }

    /// Fails unless the rank is `rank` or unknown; an unknown shape becomes one of that rank.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the shape and the rank it must have.
    pub fn with_rank(&self, rank: usize) -> Result<PartialShape> {
        match &self.0 {
            None if rank > MAX_RANK => Err(Error::invalid(format!("rank {rank} exceeds the limit of {MAX_RANK}"))),
            None => Ok(PartialShape::of_rank(rank)),
            Some(d) if d.len() == rank => Ok(self.clone()),
            Some(_) => Err(Error::invalid(format!("shape {self} must have rank {rank}"))),
        }
    }

    /// Fails if the rank is known and less than `rank`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming the shape and the least rank.
    pub fn with_rank_at_least(&self, rank: usize) -> Result<PartialShape> {
        match self.rank() {
            Some(r) if r < rank => Err(Error::invalid(format!("shape {self} must have at least rank {rank}"))),
            _ => Ok(self.clone()),
        }
    }

    /// Joins the dimensions of two shapes.
    pub fn concat(&self, other: &PartialShape) -> PartialShape {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => PartialShape(Some(a.iter().chain(b).copied().collect())),
            _ => PartialShape::UNKNOWN,
        }
    }

    /// The dimensions `start..end` (clamped to the rank).
    pub fn sub(&self, start: usize, end: usize) -> PartialShape {
        PartialShape(self.0.as_ref().map(|d| {
            let e = end.min(d.len());
            d[start.min(e)..e].to_vec()
        }))
    }

    /// The shape with dimension `i` replaced.
    pub fn with_dim(&self, i: usize, dim: Option<usize>) -> PartialShape {
        let mut s = self.clone();
        if let Some(d) = s.0.as_mut().and_then(|d| d.get_mut(i)) {
            *d = dim;
        }
        s
    }
}

impl From<&Shape> for PartialShape {
    fn from(s: &Shape) -> Self {
        PartialShape(Some(s.dims().iter().map(|&d| Some(d)).collect()))
    }
}

impl From<Shape> for PartialShape {
    fn from(s: Shape) -> Self {
        PartialShape::from(&s)
    }
}

impl<const N: usize> From<[usize; N]> for PartialShape {
    fn from(d: [usize; N]) -> Self {
        PartialShape(Some(d.iter().map(|&d| Some(d)).collect()))
    }
}

impl<const N: usize> From<[Option<usize>; N]> for PartialShape {
    fn from(d: [Option<usize>; N]) -> Self {
        PartialShape(Some(d.to_vec()))
    }
}

impl From<Vec<Option<usize>>> for PartialShape {
    fn from(d: Vec<Option<usize>>) -> Self {
        PartialShape(Some(d))
    }
}

impl From<&[usize]> for PartialShape {
    fn from(d: &[usize]) -> Self {
        PartialShape(Some(d.iter().map(|&d| Some(d)).collect()))
    }
}

impl fmt::Display for PartialShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(d) = &self.0 else {
            return f.write_str("<unknown>");
        };
        f.write_str("[")?;
        for (i, d) in d.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match d {
                Some(d) => write!(f, "{d}")?,
                None => f.write_str("?")?,
            }
        }
        f.write_str("]")
    }
}

impl fmt::Debug for PartialShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_that_no_tensor_has_costs_nothing() {
        assert_eq!(PartialShape::of_rank(usize::MAX), PartialShape::UNKNOWN);
        assert!(PartialShape::UNKNOWN.with_rank(usize::MAX).is_err());
        assert_eq!(PartialShape::UNKNOWN.with_rank(2).unwrap().rank(), Some(2));
    }

    #[test]
    fn broadcasting_follows_numpy() {
        let s = |d: &[usize]| Shape::new(d);
        assert_eq!(Shape::broadcast(&s(&[2, 1, 4]), &s(&[3, 1])).unwrap(), s(&[2, 3, 4]));
        assert_eq!(Shape::broadcast(&s(&[0]), &s(&[1])).unwrap(), s(&[0]));
        assert_eq!(
            Shape::broadcast(&s(&[2, 3]), &s(&[2])).unwrap_err().to_string(),
            "INVALID_ARGUMENT: incompatible shapes: [2,3] vs. [2]"
        );
    }

    #[test]
    fn huge_products_are_errors_not_overflows() {
        assert!(Shape::new(&[usize::MAX, 2]).checked_count().is_err());
        assert!(Shape::new(&[1 << 40, 0, 1 << 40]).checked_count().is_err());
        assert_eq!(Shape::new(&[1 << 40, 0]).checked_count().unwrap(), 0);
        assert!(Shape::from_i64(&[-1]).is_err());
    }

    #[test]
    fn partial_shapes_merge_and_relax() {
        let a = PartialShape::from([None, Some(3)]);
        let b = PartialShape::from([Some(2), None]);
        assert_eq!(a.merge(&b).unwrap(), PartialShape::from([2, 3]));
        assert_eq!(a.relax(&b), PartialShape::of_rank(2));
        assert!(a.merge(&PartialShape::from([2, 4])).is_err());
        assert_eq!(a.to_string(), "[?,3]");
        assert!(a.accepts(&Shape::new(&[9, 3])) && !a.accepts(&Shape::new(&[9, 4])));
    }

    #[test]
    fn axes_resolve_from_both_ends() {
        assert_eq!(resolve_axis(-1, 3).unwrap(), 2);
        assert!(resolve_axis(3, 3).is_err() && resolve_axis(-4, 3).is_err() && resolve_axis(0, 0).is_err());
    }
}
