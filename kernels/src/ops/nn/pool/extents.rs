//! The windows of one pool, checked.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::{Attrs, PartialShape, Shape, Tensor};

use super::super::window::{Axis, Layout, Slide};

/// How windows of known size slide, and how many channels one takes.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    pub(super) slide: Slide,
    sizes: Vec<usize>,
    /// Channels to a window: 1 but for pools over channels.
    pub(super) depth: usize,
}

impl Windows {
    /// Reads `ksize` and what [`Slide::of`] reads.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for sizes that are not positive or too many, `UNIMPLEMENTED` for windows over several
    /// images, and for windows over channels that overlap or have another extent as well.
    pub(super) fn of(attrs: &Attrs, space: usize) -> Result<Windows> {
        Self::new(attrs, space, &attrs.ints("ksize")?, &attrs.ints("strides")?)
    }

    /// As [`of`](Self::of) with sizes and strides from inputs `i` and `i + 1`.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn of_inputs(cx: &OpContext<'_>, attrs: &Attrs, i: usize) -> Result<Windows> {
        let list = |t: &Tensor| t.to_i64_vec();
        Self::new(attrs, 2, &list(cx.input(i)?)?, &list(cx.input(i + 1)?)?)
    }

    pub(super) fn new(attrs: &Attrs, space: usize, sizes: &[i64], strides: &[i64]) -> Result<Windows> {
        let rank = space + 2;
        if sizes.len() != rank || strides.len() != rank {
            return Err(Error::invalid(format!(
                "ksize and strides must have {rank} elements, one for each dimension: {sizes:?}, {strides:?}"
            )));
        }
        let fits = |x: &i64| (1..=i64::from(i32::MAX)).contains(x);
        if !sizes.iter().chain(strides).all(fits) {
            return Err(Error::invalid(format!(
                "sliding window ksize and strides must be positive 32-bit numbers: {sizes:?}, {strides:?}"
            )));
        }
        let layout = Layout::of(attrs)?;
        let channel = layout.channels(rank);
        let space_sizes: Vec<usize> = (0..space).map(|i| sizes[layout.space(i)] as usize).collect();
        if sizes[0] != 1 || strides[0] != 1 {
            return Err(Error::unimplemented(
                "pooling is not yet supported on the batch dimension",
            ));
        }
        let depth = sizes[channel] as usize;
        let mut plain = strides.to_vec();
        if depth == 1 {
            // As TensorFlow, which looks at the stride over channels only where windows extend over them.
            plain[channel] = 1;
        } else {
            let flat = (0..space).all(|i| sizes[layout.space(i)] == 1 && strides[layout.space(i)] == 1);
            if !flat || strides[channel] != sizes[channel] {
                return Err(Error::unimplemented(
                    "pooling over channels needs windows that take nothing else and follow each other without gap \
                     or overlap",
                ));
            }
            plain[channel] = 1;
        }
        let slide = Slide::with_strides(attrs, space, &plain)?;
        slide.check_paddings(&space_sizes)?;
        Ok(Windows {
            slide,
            sizes: space_sizes,
            depth,
        })
    }

    /// Refuses windows over channels.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`.
    pub(super) fn spatial(self) -> Result<Windows> {
        if self.depth == 1 {
            return Ok(self);
        }
        Err(Error::unimplemented(
            "this operation is not supported over the depth dimension",
        ))
    }

    /// The permutation to channels last.
    pub(super) fn to_last(&self) -> Vec<usize> {
        self.slide.layout.to_last(self.slide.rank())
    }

    /// The permutation from channels last.
    pub(super) fn back(&self) -> Vec<usize> {
        self.slide.layout.back_from_last(self.slide.rank())
    }

    /// The extents over an input of this shape (in its own layout).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the rank is wrong, windows do not fit or channels are not divided evenly.
    pub(super) fn over(&self, input: &Shape) -> Result<Extents> {
        let rank = self.slide.rank();
        if input.rank() != rank {
            return Err(Error::invalid(format!("input must be {rank}-dimensional: {input}")));
        }
        let dims: Vec<usize> = self.to_last().iter().map(|i| input[*i]).collect();
        let axes = self
            .slide
            .axes(&dims[1..rank - 1], &self.sizes)
            .map_err(|e| e.context(format!("input {input}")))?;
        let channels = dims[rank - 1];
        if !channels.is_multiple_of(self.depth) {
            return Err(Error::unimplemented(format!(
                "depthwise pooling requires the depth window {} to evenly divide the {channels} channels",
                self.depth
            )));
        }
        let lines = axes[0].input * axes[1].input;
        if lines.checked_mul(axes[2].input).is_none_or(|n| n >= u32::MAX as usize) {
            return Err(Error::invalid(format!(
                "an image of shape {input} has too many pixels to pool"
            )));
        }
        let e = Extents {
            batch: dims[0],
            axes,
            channels,
        };
        Shape::from(e.output(self)).checked_count()?;
        Ok(e)
    }

    /// The output's shape as far as it is known when the graph is built.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the rank is wrong or windows do not fit.
    pub(super) fn shape(&self, input: &PartialShape) -> Result<PartialShape> {
        let rank = self.slide.rank();
        let input = self.slide.layout.dims_last(&input.with_rank(rank)?);
        let n = input.dims().unwrap_or(&[]);
        let sizes: Vec<_> = self.sizes.iter().map(|s| Some(*s)).collect();
        let mut dims = vec![n[0]];
        dims.extend(self.slide.outputs(&n[1..rank - 1], &sizes)?);
        dims.push(n[rank - 1].map(|c| c / self.depth));
        Ok(self.slide.layout.arranged(&dims))
    }
}

/// A pool over images `[batch, z, y, x, channels]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extents {
    pub(super) batch: usize,
    pub(super) axes: [Axis; 3],
    pub(super) channels: usize,
}

impl Extents {
    /// The input's dimensions, channels last.
    pub(super) fn input(&self, w: &Windows) -> Vec<usize> {
        let space = self.axes[3 - w.slide.space..].iter().map(|a| a.input);
        [self.batch].into_iter().chain(space).chain([self.channels]).collect()
    }

    /// The output's dimensions, channels last.
    pub(super) fn output(&self, w: &Windows) -> Vec<usize> {
        let space = w.slide.visible(&self.axes);
        [self.batch]
            .into_iter()
            .chain(space)
            .chain([self.channels / w.depth])
            .collect()
    }

    /// Checks the shape of something that corresponds to the output.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` naming both shapes.
    pub(super) fn check_output(&self, w: &Windows, what: &str, shape: &Shape) -> Result<()> {
        let want = w.slide.layout.shape(&self.output(w));
        if *shape != want {
            return Err(Error::invalid(format!(
                "expected {what} of shape {want}, that of the pool's output, but got {shape}"
            )));
        }
        Ok(())
    }

    /// Lines of the input of one image.
    pub(super) fn lines_in(&self) -> usize {
        self.axes[0].input * self.axes[1].input
    }

    /// Lines of the output of one image.
    pub(super) fn lines_out(&self) -> usize {
        self.axes[0].output * self.axes[1].output
    }

    /// Elements of a line of the input.
    pub(super) fn line_in(&self) -> usize {
        self.axes[2].input * self.channels
    }

    /// Elements of a line of the output.
    pub(super) fn line_out(&self) -> usize {
        self.axes[2].output * self.channels
    }

    /// Whether no pixel is in two windows.
    pub(super) fn is_apart(&self) -> bool {
        self.axes.iter().all(|a| a.output <= 1 || a.stride >= a.window)
    }

    /// Whether every pixel is in a window, if windows follow each other without a gap.
    pub(super) fn is_covered(&self) -> bool {
        self.axes.iter().all(|a| {
            let reach = |o: usize| a.reach(o);
            a.stride <= a.window && a.output > 0 && reach(0).start == 0 && reach(a.output - 1).end == a.input
        })
    }

    /// The lines of an image that the windows of its output line `line` take, as numbers of lines.
    pub(super) fn taken(&self, line: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let [z, y, _] = self.axes;
        let (zs, ys) = (z.reach(line / y.output.max(1)), y.reach(line % y.output.max(1)));
        zs.flat_map(move |i| ys.clone().map(move |j| i * y.input + j))
    }
}
