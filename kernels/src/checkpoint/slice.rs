//! Parts of tensors: what `shape_and_slices` describes, and how parts are put together.
//!
//! TensorFlow's notation (`core/framework/tensor_slice.h`): the dimensions of the whole tensor, separated by spaces,
//! then for each dimension `start,length`, or `-` for all of it, separated by colons: `10 20 0,5:-`.

use std::fmt;

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::shape::MAX_RANK;
use actorflow_core::{PartialShape, Shape};

/// A box inside a tensor: where it starts and how long it is in each dimension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// The first index in each dimension.
    pub start: Vec<usize>,
    /// The length in each dimension.
    pub length: Vec<usize>,
}

impl Window {
    /// All of a tensor of that shape.
    pub fn whole(shape: &Shape) -> Window {
        Window {
            start: vec![0; shape.rank()],
            length: shape.dims().to_vec(),
        }
    }

    /// The shape of the part.
    pub fn shape(&self) -> Shape {
        Shape::new(&self.length)
    }

    /// Whether it lies inside a tensor of that shape.
    pub fn is_inside(&self, shape: &Shape) -> bool {
        let fits = |(d, (s, l)): (&usize, (&usize, &usize))| s.checked_add(*l).is_some_and(|end| end <= *d);
        self.start.len() == shape.rank()
            && self.length.len() == shape.rank()
            && shape.dims().iter().zip(self.start.iter().zip(&self.length)).all(fits)
    }

    /// The part that two windows of one tensor share; `None` if they share no element.
    pub fn intersect(&self, other: &Window) -> Option<Window> {
        let rank = self.start.len();
        let mut both = Window {
            start: Vec::with_capacity(rank),
            length: Vec::with_capacity(rank),
        };
        for d in 0..rank {
            let start = self.start[d].max(other.start[d]);
            let end = (self.start[d] + self.length[d]).min(other.start[d] + other.length[d]);
            if start >= end {
                return None;
            }
            both.start.push(start);
            both.length.push(end - start);
        }
        Some(both)
    }

    /// Whether two windows of one tensor share an element.
    pub fn overlaps(&self, other: &Window) -> bool {
        let of = |w: &Window, d: usize| (w.start[d], w.start[d] + w.length[d]);
        (0..self.start.len()).all(|d| {
            let ((a, a_end), (b, b_end)) = (of(self, d), of(other, d));
            a.max(b) < a_end.min(b_end)
        })
    }

    /// The number of elements, which [`is_inside`](Self::is_inside) a shape that has been checked.
    pub fn count(&self) -> usize {
        self.length.iter().product()
    }

    /// Calls `copy(from, to, length)` for every run of consecutive elements that a tensor of window `self` shares
    /// with one of window `other`; positions count elements from the start of each.
    pub fn for_each_run(&self, other: &Window, mut copy: impl FnMut(usize, usize, usize)) {
        let Some(both) = self.intersect(other) else {
            return;
        };
        let rank = both.start.len();
        let at = |w: &Window, index: &[usize]| {
            (0..rank).fold(0, |sum, d| sum * w.length[d] + (both.start[d] + index[d] - w.start[d]))
        };
        let run = both.length.last().copied().unwrap_or(1);
        let rows: usize = both.length.iter().rev().skip(1).product();
        let mut index = vec![0; rank];
        for _ in 0..rows {
            copy(at(self, &index), at(other, &index), run);
            for d in (0..rank.saturating_sub(1)).rev() {
                index[d] += 1;
                if index[d] < both.length[d] {
                    break;
                }
                index[d] = 0;
            }
        }
    }
}

/// `start,length:start,length`, as TensorFlow writes it.
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (d, (s, l)) in self.start.iter().zip(&self.length).enumerate() {
            let colon = if d > 0 { ":" } else { "" };
            write!(f, "{colon}{s},{l}")?;
        }
        Ok(())
    }
}

/// A part of a tensor, with the shape of the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceSpec {
    /// The shape of the whole tensor.
    pub full: Shape,
    /// The part.
    pub window: Window,
}

impl SliceSpec {
    /// Reads `10 20 0,5:-`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is not of that form; `INTERNAL` (TensorFlow's code for it) if the part does not lie
    /// in the whole.
    pub fn parse(text: &str) -> Result<SliceSpec> {
        let Some((dims, slice)) = text.rsplit_once(' ') else {
            return Err(Error::invalid(format!(
                "Need least two elements in shape_and_slice specification: {text}"
            )));
        };
        let number = |s: &str| {
            s.parse::<i64>()
                .ok()
                .and_then(|n| usize::try_from(n).ok())
                .ok_or_else(|| Error::invalid(format!("Non numerical dimension in shape_and_slice: {text}")))
        };
        let dims = dims.split(' ').map(number).collect::<Result<Vec<_>>>()?;
        if dims.len() > MAX_RANK {
            return Err(Error::invalid(format!(
                "a tensor has at most {MAX_RANK} dimensions: {text}"
            )));
        }
        let full = Shape::new(&dims);
        full.checked_count()?;
        let extents = parse_extents(slice)?;
        if extents.len() != dims.len() {
            return Err(Error::internal(format!(
                "Mismatching ranks: shape = {full}, slice = {slice}"
            )));
        }
        let mut window = Window::whole(&full);
        for (d, extent) in extents.into_iter().enumerate() {
            let Some((start, length)) = extent else {
                continue;
            };
            if start.checked_add(length).is_none_or(|end| end > dims[d]) {
                return Err(Error::internal(format!(
                    "Extent in dimension {d} out of bounds: shape = {full}, slice = {slice}"
                )));
            }
            (window.start[d], window.length[d]) = (start, length);
        }
        Ok(SliceSpec { full, window })
    }

    /// Checks that the part lies in the whole, which one that was parsed does.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` otherwise.
    pub fn check(&self) -> Result<()> {
        self.full.checked_count()?;
        match self.window.is_inside(&self.full) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the part {} does not lie in a tensor of shape {}",
                self.window, self.full
            ))),
        }
    }

    /// The shape that a tensor restored by this text has; unknown for the empty text.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn restored_shape(text: &[u8]) -> Result<PartialShape> {
        match std::str::from_utf8(text) {
            Ok("") => Ok(PartialShape::UNKNOWN),
            Ok(text) => Ok(SliceSpec::parse(text)?.window.shape().into()),
            Err(_) => Err(Error::new(Code::InvalidArgument, "shape_and_slices is no text")),
        }
    }
}

/// For each dimension the start and the length; `None` for all of it.
fn parse_extents(text: &str) -> Result<Vec<Option<(usize, usize)>>> {
    let one = |item: &str| {
        if item == "-" {
            return Ok(None);
        }
        let pair = || {
            let (a, b) = item.split_once(',')?;
            Some((a.parse::<i64>().ok()?, b.parse::<i64>().ok()?))
        };
        let (start, length) = pair().ok_or_else(|| {
            Error::invalid(format!(
                "Expected a pair of numbers or '-' but got '{item}': string = {text}"
            ))
        })?;
        match (usize::try_from(start), usize::try_from(length)) {
            (Ok(s), Ok(l)) if l > 0 => Ok(Some((s, l))),
            _ => Err(Error::invalid(format!(
                "Expected non-negative start and positive length but got start = {start}, length = {length}: string = \
                 {text}"
            ))),
        }
    };
    text.split(':').filter(|item| !item.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_tensorflow_reads_them() {
        let s = SliceSpec::parse("10 20 0,5:-").unwrap();
        assert_eq!(s.full, Shape::new(&[10, 20]));
        assert_eq!((s.window.start, s.window.length), (vec![0, 0], vec![5, 20]));
        let code = |t: &str| SliceSpec::parse(t).unwrap_err().code();
        for bad in [
            "",
            "3",
            "2 3",
            "x 3 -:-",
            " 2 3 -:-",
            "2 3  -:-",
            "2 3 -:- ",
            "2 3 -1,1:-",
            "2 3 0,1,2:-",
            "2 3 0,0:-",
            "-2 3 -:-",
            "99999999999 99999999999 -:-",
            "2 3 0,:-",
            "2 3 +,1:-",
        ] {
            assert_eq!(code(bad), Code::InvalidArgument, "{bad:?}");
        }
        for bad in [
            "2 3 -",
            "2 3 -:-:-",
            "2 3 0,3:-",
            "2 3 :",
            "2 3 1,9223372036854775807:-",
        ] {
            assert_eq!(code(bad), Code::Internal, "{bad:?}");
        }
    }

    #[test]
    fn a_part_outside_of_the_whole_is_refused() {
        let mut s = SliceSpec::parse("4 2 1,3:-").unwrap();
        s.check().unwrap();
        s.window.start[0] = usize::MAX;
        assert_eq!(s.check().unwrap_err().code(), Code::InvalidArgument);
        s.window.start.pop();
        assert!(s.check().is_err());
    }

    #[test]
    fn runs_copy_what_two_windows_share() {
        let w = |s: [usize; 2], l: [usize; 2]| Window {
            start: s.to_vec(),
            length: l.to_vec(),
        };
        let (a, b) = (w([0, 0], [3, 4]), w([1, 2], [4, 5]));
        let mut runs = Vec::new();
        a.for_each_run(&b, |f, t, n| runs.push((f, t, n)));
        assert_eq!(runs, [(6, 0, 2), (10, 5, 2)]);
        assert!(a.intersect(&w([3, 0], [1, 4])).is_none());
        let scalar = Window::whole(&Shape::SCALAR);
        let mut n = 0;
        scalar.for_each_run(&scalar, |f, t, len| n += f + t + len);
        assert_eq!(n, 1);
        assert_eq!(b.to_string(), "1,4:2,5");
    }
}
