//! The extents of one convolution, checked.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::{PartialShape, Shape};

use super::super::window::{Axis, Slide};

/// A convolution of images `[batch, z, y, x, in_channels]` with a filter `[z, y, x, filter_channels, out_channels]`.
/// Group `g` of the output's channels sees group `g` of the input's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Geometry {
    pub(crate) batch: usize,
    pub(crate) axes: [Axis; 3],
    pub(crate) in_channels: usize,
    /// Channels of the input that one output channel sees.
    pub(crate) filter_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) groups: usize,
}

impl Geometry {
    /// Of an input (in its own layout) and a filter.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both shapes if they do not fit together.
    pub(crate) fn of(slide: &Slide, input: &Shape, filter: &Shape) -> Result<Geometry> {
        let rank = slide.rank();
        if input.rank() != rank {
            return Err(Error::invalid(format!("input must be {rank}-dimensional: {input}")));
        }
        if filter.rank() != rank {
            return Err(Error::invalid(format!("filter must be {rank}-dimensional: {filter}")));
        }
        let dims: Vec<usize> = slide.layout.to_last(rank).iter().map(|i| input[*i]).collect();
        let axes = slide
            .axes(&dims[1..rank - 1], &filter[..rank - 2])
            .map_err(|e| e.context(format!("input {input}, filter {filter}")))?;
        let (in_channels, filter_channels, out_channels) = (dims[rank - 1], filter[rank - 2], filter[rank - 1]);
        if filter_channels == 0 || in_channels == 0 || !in_channels.is_multiple_of(filter_channels) {
            return Err(Error::invalid(format!(
                "input depth must be evenly divisible by filter depth, and neither be 0: {in_channels} vs \
                 {filter_channels} (input {input}, filter {filter})"
            )));
        }
        let groups = in_channels / filter_channels;
        if !out_channels.is_multiple_of(groups) {
            return Err(Error::invalid(format!(
                "output depth {out_channels} must be a multiple of the {groups} groups (input {input}, filter {filter})"
            )));
        }
        let geometry = Geometry {
            batch: dims[0],
            axes,
            in_channels,
            filter_channels,
            out_channels,
            groups,
        };
        for s in [input, filter, &Shape::from(geometry.output(slide))] {
            s.checked_count()?;
        }
        Ok(geometry)
    }

    /// The output's dimensions with the channels last.
    pub(crate) fn output(&self, slide: &Slide) -> Vec<usize> {
        let space = slide.visible(&self.axes);
        [self.batch]
            .into_iter()
            .chain(space)
            .chain([self.out_channels])
            .collect()
    }

    /// Checks the shape of a gradient with respect to the output.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both shapes.
    pub(crate) fn check_output(&self, slide: &Slide, dy: &Shape) -> Result<()> {
        let want = slide.layout.shape(&self.output(slide));
        if *dy != want {
            return Err(Error::invalid(format!(
                "the size of out_backprop doesn't match computed: actual = {dy}, computed = {want}"
            )));
        }
        Ok(())
    }

    /// Channels that one group writes.
    pub(crate) fn group_out(&self) -> usize {
        self.out_channels / self.groups
    }

    /// Taps of the filter.
    pub(crate) fn taps(&self) -> usize {
        self.axes.iter().map(|a| a.window).product()
    }

    /// Pixels of the output, all images together.
    pub(crate) fn pixels(&self) -> usize {
        self.batch * self.axes.iter().map(|a| a.output).product::<usize>()
    }

    /// Whether a pixel of the output sees just the same pixel of the input.
    pub(crate) fn is_pointwise(&self) -> bool {
        let point = |a: &Axis| a.window == 1 && a.stride == 1 && a.before == 0 && a.input == a.output;
        self.groups == 1 && self.axes.iter().all(point)
    }
}

/// The shape of the output as far as it is known when the graph is built.
///
/// # Errors
/// `INVALID_ARGUMENT` if what is known does not fit.
pub(crate) fn output_shape(slide: &Slide, input: &PartialShape, filter: &PartialShape) -> Result<PartialShape> {
    let rank = slide.rank();
    let (input, filter) = (slide.layout.dims_last(&input.with_rank(rank)?), filter.with_rank(rank)?);
    let (n, w) = (input.dims().unwrap_or(&[]), filter.dims().unwrap_or(&[]));
    if let (Some(c), Some(f)) = (n[rank - 1], w[rank - 2])
        && (f == 0 || c == 0 || !c.is_multiple_of(f))
    {
        return Err(Error::invalid(format!(
            "depth of input ({c}) is not a multiple of input depth of filter ({f})"
        )));
    }
    let mut dims = vec![n[0]];
    dims.extend(slide.outputs(&n[1..rank - 1], &w[..rank - 2])?);
    dims.push(w[rank - 1]);
    Ok(slide.layout.arranged(&dims))
}
