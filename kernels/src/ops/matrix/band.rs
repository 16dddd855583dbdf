//! Which diagonals of a matrix an operation means, and how they are stored.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::{Attrs, Tensor};

/// Diagonals `lower..=upper` of a matrix; 0 is the main one, positive ones are above it.
///
/// They are stored as rows, the uppermost first, all as long as the longest; shorter ones are at either end of
/// their row, which `left_above` and `left_below` say for those above and below the main one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Band {
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) lower: i64,
    pub(super) upper: i64,
    pub(super) left_above: bool,
    pub(super) left_below: bool,
}

/// Sides of their row that short diagonals are stored at: above and below the main one on the left?
#[derive(Clone, Copy)]
pub(super) struct Align {
    above: bool,
    below: bool,
}

impl Align {
    /// Of operations before the third version.
    pub(super) const LEFT: Align = Align {
        above: true,
        below: true,
    };

    /// From the attribute `align`, if there is one.
    pub(super) fn of(attrs: &Attrs) -> Result<Align> {
        if attrs.get("align").is_none() {
            return Ok(Align::LEFT);
        }
        Ok(match attrs.str("align")? {
            "LEFT_RIGHT" => Align {
                above: true,
                below: false,
            },
            "RIGHT_LEFT" => Align {
                above: false,
                below: true,
            },
            "LEFT_LEFT" => Align::LEFT,
            _ => Align {
                above: false,
                below: false,
            },
        })
    }
}

/// The numbers of the lowest and the highest diagonal from `k`, an int32 tensor of one or two elements.
pub(super) fn diagonals(k: &Tensor) -> Result<(i64, i64)> {
    if k.shape().rank() > 1 {
        return Err(Error::invalid(format!(
            "k must be a scalar or a vector, got shape {}",
            k.shape()
        )));
    }
    match k.to_i64_vec()?[..] {
        [k] => Ok((k, k)),
        [lower, upper] if lower <= upper => Ok((lower, upper)),
        [lower, upper] => Err(Error::invalid(format!(
            "the lowest diagonal must not be above the highest: k = [{lower}, {upper}]"
        ))),
        ref more => Err(Error::invalid(format!(
            "k must have one or two elements, got {}",
            more.len()
        ))),
    }
}

impl Band {
    /// Diagonals that a matrix of these extents has.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for one outside of the matrix. (The main one is inside of an empty matrix too.)
    pub(super) fn inside(rows: usize, cols: usize, (lower, upper): (i64, i64), align: Align) -> Result<Band> {
        for d in [lower, upper] {
            if d != 0 && (d <= -(rows as i64) || d >= cols as i64) {
                return Err(Error::invalid(format!(
                    "diagonal {d} is outside of a matrix of {rows} rows and {cols} columns: it must be between {} and {}",
                    1 - rows as i64,
                    cols as i64 - 1
                )));
            }
        }
        Ok(Band {
            rows,
            cols,
            lower,
            upper,
            left_above: align.above,
            left_below: align.below,
        })
    }

    /// The number of diagonals.
    pub(super) fn count(&self) -> usize {
        (self.upper - self.lower + 1) as usize
    }

    fn len(&self, d: i64) -> usize {
        let (rows, cols) = (self.rows as i64 + d.min(0), self.cols as i64 - d.max(0));
        rows.min(cols).max(0) as usize
    }

    /// Elements of a row in which diagonals are stored.
    pub(super) fn longest(&self) -> usize {
        let rows = self.rows as i64 + self.upper.min(0);
        let cols = self.cols as i64 - self.lower.max(0);
        rows.min(cols).max(0) as usize
    }

    /// Calls `f(place in the stored diagonals, place in the matrix)` for every element of the diagonals.
    pub(super) fn each(&self, mut f: impl FnMut(usize, usize)) {
        let longest = self.longest();
        for (row, d) in (self.lower..=self.upper).rev().enumerate() {
            let len = self.len(d);
            let left = (d >= 0 && self.left_above) || (d <= 0 && self.left_below);
            let start = row * longest + if left { 0 } else { longest - len };
            let (r, c) = ((-d).max(0) as usize, d.max(0) as usize);
            for i in 0..len {
                f(start + i, (r + i) * self.cols + c + i);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_diagonals_are_stored_at_either_end() {
        let align = Align {
            above: false,
            below: true,
        };
        let band = Band::inside(3, 3, (-1, 1), align).unwrap();
        assert_eq!((band.count(), band.longest()), (3, 3));
        let mut places = Vec::new();
        band.each(|a, b| places.push((a, b)));
        assert_eq!(places, [(1, 1), (2, 5), (3, 0), (4, 4), (5, 8), (6, 3), (7, 7)]);
    }

    #[test]
    fn the_numbers_of_diagonals_are_checked() {
        assert_eq!(diagonals(&Tensor::from(2i32)).unwrap(), (2, 2));
        assert!(diagonals(&Tensor::from([1i32, 0])).is_err());
        assert!(diagonals(&Tensor::from([1i32, 2, 3])).is_err());
        assert!(diagonals(&Tensor::from([[1i32]])).is_err());
        assert!(Band::inside(2, 3, (3, 3), Align::LEFT).is_err());
        assert!(Band::inside(2, 3, (-2, 0), Align::LEFT).is_err());
        assert!(Band::inside(0, 0, (0, 0), Align::LEFT).is_ok());
    }
}
