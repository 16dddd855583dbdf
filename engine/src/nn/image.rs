//! Convolutions and pooling.

#![forbid(unsafe_code)]

use actorflow_core::{Output, Result};

/// What is done at the edges of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Zeros around it, so that a stride of 1 keeps its size.
    Same,
    /// Nothing: only windows that lie inside count.
    Valid,
}

impl Padding {
    fn name(self) -> &'static str {
        match self {
            Padding::Same => "SAME",
            Padding::Valid => "VALID",
        }
    }
}

/// `Conv2D` of images `[batch, height, width, channels]` with filters `[height, width, channels, outputs]`; `strides`
/// are along height and width.
///
/// # Errors
/// `INVALID_ARGUMENT` if shapes or strides do not fit.
#[track_caller]
pub fn conv2d(x: &Output, filter: &Output, strides: [usize; 2], padding: Padding) -> Result<Output> {
    let b = x.graph().op("Conv2D").input(x).input(filter);
    b.attr("strides", around(strides))
        .attr("padding", padding.name())
        .output()
}

/// `MaxPool`: the greatest value of each window of images `[batch, height, width, channels]`.
///
/// # Errors
/// `INVALID_ARGUMENT` if shapes or strides do not fit.
#[track_caller]
pub fn max_pool(x: &Output, window: [usize; 2], strides: [usize; 2], padding: Padding) -> Result<Output> {
    pool("MaxPool", x, window, strides, padding)
}

/// `AvgPool`: the mean of each window of images `[batch, height, width, channels]`.
///
/// # Errors
/// `INVALID_ARGUMENT` if shapes or strides do not fit.
#[track_caller]
pub fn avg_pool(x: &Output, window: [usize; 2], strides: [usize; 2], padding: Padding) -> Result<Output> {
    pool("AvgPool", x, window, strides, padding)
}

#[track_caller]
fn pool(op: &str, x: &Output, window: [usize; 2], strides: [usize; 2], padding: Padding) -> Result<Output> {
    let b = x.graph().op(op).input(x).attr("ksize", around(window));
    b.attr("strides", around(strides))
        .attr("padding", padding.name())
        .output()
}

/// The attribute for all four dimensions.
fn around([h, w]: [usize; 2]) -> Vec<i64> {
    let wide = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    vec![1, wide(h), wide(w), 1]
}
