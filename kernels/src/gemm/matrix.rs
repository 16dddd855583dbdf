//! The operands of a product: checked views of slices with strides.
#![forbid(unsafe_code)]

use std::fmt;

/// Why operands were refused. Nothing is computed then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GemmError {
    /// A view reaches beyond its slice, or its extents overflow.
    OutOfBounds,
    /// Rows of the output overlap: its row stride is less than its columns.
    Overlap,
    /// The extents of A, B, C or the bias do not fit together.
    Mismatch,
}

impl fmt::Display for GemmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GemmError::OutOfBounds => "a matrix reaches beyond the slice that holds it",
            GemmError::Overlap => "rows of the output matrix overlap",
            GemmError::Mismatch => "the extents of the matrices do not fit together",
        })
    }
}

impl std::error::Error for GemmError {}

/// Elements that a `rows` by `cols` matrix with these strides reaches over.
fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Option<usize> {
    if rows == 0 || cols == 0 {
        return Some(0);
    }
    let last = (rows - 1)
        .checked_mul(row_stride)?
        .checked_add((cols - 1).checked_mul(col_stride)?)?;
    last.checked_add(1)
}

/// A matrix to read: element (i, j) is `data[i * row_stride + j * col_stride]`.
///
/// Strides are in elements and may be anything, 0 (a broadcast) included; a transpose is a swap of the strides.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    pub(super) conj: bool,
}

impl<'a, T> Mat<'a, T> {
    /// A view with any strides.
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] if an element would lie outside `data`.
    pub fn new(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<Self, GemmError> {
        match reach(rows, cols, row_stride, col_stride) {
            Some(len) if len <= data.len() => Ok(Mat {
                data,
                rows,
                cols,
                row_stride,
                col_stride,
                conj: false,
            }),
            _ => Err(GemmError::OutOfBounds),
        }
    }

    /// A dense row-major matrix.
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] if `data` is too short.
    pub fn dense(data: &'a [T], rows: usize, cols: usize) -> Result<Self, GemmError> {
        Self::new(data, rows, cols, cols, 1)
    }

    /// The transpose, at no cost.
    #[must_use]
    pub fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The element-wise complex conjugate, at no cost; the same matrix where elements are real.
    #[must_use]
    pub fn conj(self) -> Self {
        Mat {
            conj: !self.conj,
            ..self
        }
    }
}

/// The matrix to write: element (i, j) is `data[i * row_stride + j]`.
#[derive(Debug)]
pub struct MatMut<'a, T> {
    pub(super) data: &'a mut [T],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// A view whose rows are contiguous and `row_stride` elements apart.
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] if an element would lie outside `data`, [`GemmError::Overlap`] if rows overlap.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Result<Self, GemmError> {
        match reach(rows, cols, row_stride, 1) {
            Some(_) if rows > 1 && row_stride < cols => Err(GemmError::Overlap),
            Some(len) if len <= data.len() => Ok(MatMut {
                data,
                rows,
                cols,
                row_stride,
            }),
            _ => Err(GemmError::OutOfBounds),
        }
    }

    /// A dense row-major matrix.
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] if `data` is too short.
    pub fn dense(data: &'a mut [T], rows: usize, cols: usize) -> Result<Self, GemmError> {
        Self::new(data, rows, cols, cols)
    }
}

/// What happens to each element of C before it is stored, after `beta * C + alpha * A B`.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a, T> {
    /// Added to every row: one element per column (`BiasAdd`).
    pub bias: Option<&'a [T]>,
    /// Replaces negative elements by zero, after the bias, and keeps NaN (`Relu`). Of complex elements, those with a
    /// negative real part.
    pub relu: bool,
}

impl<T> Epilogue<'_, T> {
    /// Stores the product as it is.
    pub const NONE: Self = Epilogue {
        bias: None,
        relu: false,
    };
}

/// Where the matrices of a batch begin, relative to their view's first element.
#[derive(Debug, Clone, Copy)]
pub enum Offsets<'a> {
    /// Matrix `i` begins at `i` times this; 0 uses one matrix for the whole batch.
    Every(usize),
    /// Matrix `i` begins at element `i` of this list: broadcasting of several batch dimensions.
    At(&'a [usize]),
}

impl Offsets<'_> {
    /// The offset of matrix `i`, which is less than the batch that [`Offsets::fits`] accepted.
    pub(super) fn get(&self, i: usize) -> usize {
        match self {
            Offsets::Every(step) => i * step,
            Offsets::At(list) => list[i],
        }
    }

    /// Whether `batch` matrices at these offsets, each as large as `one`, lie inside `one`'s slice.
    pub(super) fn fits<T>(&self, batch: usize, one: &Mat<'_, T>) -> bool {
        let largest = match self {
            Offsets::Every(step) => batch.saturating_sub(1).checked_mul(*step),
            Offsets::At(list) if list.len() < batch => None,
            Offsets::At(list) => Some(list[..batch].iter().copied().max().unwrap_or(0)),
        };
        let reach = reach(one.rows, one.cols, one.row_stride, one.col_stride);
        match (largest, reach) {
            (Some(_), Some(0)) => true,
            (Some(offset), Some(len)) => offset.checked_add(len).is_some_and(|end| end <= one.data.len()),
            _ => false,
        }
    }
}
