//! Windows that slide over images and volumes: what attributes say of them, where they begin, how far they reach.
//!
//! Images are handled as volumes with one plane, so that everything that slides has three axes.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::{Attrs, PartialShape, Shape};

/// Where the channels of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// In the last dimension: NHWC, NDHWC.
    Last,
    /// In the second dimension: NCHW, NCDHW.
    First,
}

impl Layout {
    /// What the attribute `data_format` says; channels are last if there is none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for a format that packs channels into vectors.
    pub(crate) fn of(attrs: &Attrs) -> Result<Layout> {
        if attrs.get("data_format").is_none() {
            return Ok(Layout::Last);
        }
        match attrs.str("data_format")? {
            "NHWC" | "NDHWC" => Ok(Layout::Last),
            "NCHW" | "NCDHW" => Ok(Layout::First),
            f => Err(Error::invalid(format!("data format {f} has no CPU kernel; use NHWC"))),
        }
    }

    /// The dimension of the channels of a tensor of `rank` dimensions.
    pub(crate) fn channels(self, rank: usize) -> usize {
        match self {
            Layout::Last => rank - 1,
            Layout::First => 1,
        }
    }

    /// The dimension of spatial axis `i`.
    pub(crate) fn space(self, i: usize) -> usize {
        match self {
            Layout::Last => 1 + i,
            Layout::First => 2 + i,
        }
    }

    /// The permutation that brings the channels of a tensor of this layout to the end.
    pub(crate) fn to_last(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::Last => (0..rank).collect(),
            Layout::First => std::iter::once(0).chain(2..rank).chain([1]).collect(),
        }
    }

    /// The permutation that brings the channels from the end to where this layout has them.
    pub(crate) fn back_from_last(self, rank: usize) -> Vec<usize> {
        match self {
            Layout::Last => (0..rank).collect(),
            Layout::First => [0, rank - 1].into_iter().chain(1..rank - 1).collect(),
        }
    }

    /// The dimensions of a partial shape with the channels at the end.
    pub(crate) fn dims_last(self, shape: &PartialShape) -> PartialShape {
        match shape.dims() {
            Some(d) if self == Layout::First => {
                PartialShape::new(self.to_last(d.len()).iter().map(|i| d[*i]).collect::<Vec<_>>())
            }
            _ => shape.clone(),
        }
    }

    /// The partial shape in this layout of dimensions with the channels at the end.
    pub(crate) fn arranged(self, dims: &[Option<usize>]) -> PartialShape {
        PartialShape::new(
            self.back_from_last(dims.len())
                .iter()
                .map(|i| dims[*i])
                .collect::<Vec<_>>(),
        )
    }

    /// The shape in this layout of dimensions with the channels at the end.
    pub(crate) fn shape(self, dims: &[usize]) -> Shape {
        self.back_from_last(dims.len()).iter().map(|i| dims[*i]).collect()
    }
}

/// What surrounds the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Padding {
    /// As many outputs as strides fit into the input; the padding is split evenly, the odd one behind.
    Same,
    /// None: windows lie in the input.
    Valid,
    /// So much before and behind.
    Explicit(usize, usize),
}

/// One axis of what slides, of known extents: window `o` begins at `o * stride - before` and takes every
/// `dilation`-th input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Axis {
    /// Inputs.
    pub(crate) input: usize,
    /// Inputs that a window takes.
    pub(crate) window: usize,
    /// Between the beginnings of windows.
    pub(crate) stride: usize,
    /// Between the inputs of a window.
    pub(crate) dilation: usize,
    /// Padding before the first input.
    pub(crate) before: usize,
    /// Windows.
    pub(crate) output: usize,
}

impl Axis {
    /// The inputs that window `o` takes, without what lies in the padding, if they are adjacent (no dilation).
    pub(crate) fn reach(&self, o: usize) -> std::ops::Range<usize> {
        let from = (o * self.stride) as isize - self.before as isize;
        let to = (from + self.window as isize).clamp(0, self.input as isize) as usize;
        (from.max(0) as usize).min(to)..to
    }
}

/// How an operation's windows slide, as its attributes say: the last two or three axes of `[depth,] height, width`.
#[derive(Clone, Debug)]
pub(crate) struct Slide {
    /// Where the channels are.
    pub(crate) layout: Layout,
    /// Spatial dimensions: 2 or 3.
    pub(crate) space: usize,
    plain: bool,
    strides: [usize; 3],
    dilations: [usize; 3],
    padding: [Padding; 3],
}

/// One of an attribute's numbers for every dimension, checked to be positive.
fn positive(what: &str, list: &[i64], rank: usize) -> Result<()> {
    if list.len() != rank {
        return Err(Error::invalid(format!(
            "{what} must have {rank} elements, one for each dimension: {list:?}"
        )));
    }
    match list.iter().find(|x| !(1..=i64::from(i32::MAX)).contains(x)) {
        Some(x) => Err(Error::invalid(format!(
            "{what} must be positive 32-bit numbers, got {x} in {list:?}"
        ))),
        None => Ok(()),
    }
}

impl Slide {
    /// Reads `data_format`, `strides`, `padding` and, where they exist, `explicit_paddings` and the list called
    /// `dilations` (or `rates`).
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for lists of another length than the rank and for numbers that are not positive.
    pub(crate) fn of(attrs: &Attrs, space: usize) -> Result<Slide> {
        let strides = attrs.ints("strides")?;
        Self::with_strides(attrs, space, &strides)
    }

    /// As [`of`](Self::of) with strides from elsewhere.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn with_strides(attrs: &Attrs, space: usize, strides: &[i64]) -> Result<Slide> {
        let (layout, rank) = (Layout::of(attrs)?, space + 2);
        positive("strides", strides, rank)?;
        let name = ["dilations", "rates"].into_iter().find(|n| attrs.get(n).is_some());
        let dilations = match name {
            Some(n) => {
                let d = attrs.ints(n)?;
                positive(n, &d, rank)?;
                d
            }
            None => vec![1; rank],
        };
        let explicit = match attrs.get("explicit_paddings") {
            Some(_) => attrs.ints("explicit_paddings")?,
            None => Vec::new(),
        };
        let padding = attrs.str("padding")?;
        let (c, ends) = (layout.channels(rank), [0, layout.channels(rank)]);
        if padding == "EXPLICIT" {
            if explicit.len() != 2 * rank || explicit.iter().any(|p| !(0..=i64::from(i32::MAX)).contains(p)) {
                return Err(Error::invalid(format!(
                    "explicit_paddings must be {} numbers, none negative: {explicit:?}",
                    2 * rank
                )));
            }
            if ends.iter().any(|e| explicit[2 * e] != 0 || explicit[2 * e + 1] != 0) {
                return Err(Error::invalid(format!(
                    "explicit_paddings cannot pad the batch or the channels: {explicit:?}"
                )));
            }
        } else if !explicit.is_empty() {
            return Err(Error::invalid(format!(
                "explicit_paddings must be empty with padding {padding}: {explicit:?}"
            )));
        }
        let mut slide = Slide {
            layout,
            space,
            plain: [strides, &dilations].iter().all(|list| list[0] == 1 && list[c] == 1),
            strides: [1; 3],
            dilations: [1; 3],
            padding: [Padding::Valid; 3],
        };
        for i in 0..space {
            let (to, from) = (3 - space + i, layout.space(i));
            slide.strides[to] = strides[from] as usize;
            slide.dilations[to] = dilations[from] as usize;
            slide.padding[to] = match padding {
                "SAME" => Padding::Same,
                "VALID" => Padding::Valid,
                _ => Padding::Explicit(explicit[2 * from] as usize, explicit[2 * from + 1] as usize),
            };
        }
        Ok(slide)
    }

    /// Refuses windows that stride or dilate along the batch or the channels; for kernels, which know no such thing.
    ///
    /// # Errors
    /// `UNIMPLEMENTED`.
    pub(crate) fn plain(self) -> Result<Slide> {
        if self.plain {
            return Ok(self);
        }
        Err(Error::unimplemented(
            "strides and dilations of the batch and the channels must be 1",
        ))
    }

    /// Refuses explicit padding that a whole window (of these sizes) fits into.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    pub(crate) fn check_paddings(&self, windows: &[usize]) -> Result<()> {
        for (p, w) in self.padding[3 - self.space..].iter().zip(windows) {
            if let Padding::Explicit(before, after) = p
                && (before >= w || after >= w)
            {
                return Err(Error::invalid(format!(
                    "padding {before} and {after} must be smaller than the window of size {w}"
                )));
            }
        }
        Ok(())
    }

    /// The rank of what it slides over.
    pub(crate) fn rank(&self) -> usize {
        self.space + 2
    }

    /// Axis `i` of three for known extents.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the window is empty, or longer than a padded input by more than the stride.
    pub(crate) fn axis(&self, i: usize, input: usize, window: usize) -> Result<Axis> {
        let (stride, dilation) = (self.strides[i], self.dilations[i]);
        if window == 0 {
            return Err(Error::invalid("a window must take at least one input along every axis"));
        }
        let large = |x: usize| i128::try_from(x).unwrap_or(i128::MAX >> 64);
        let (n, s) = (large(input), large(stride));
        let reach = (large(window) - 1) * large(dilation) + 1;
        let (output, before) = match self.padding[i] {
            Padding::Same => {
                let output = (n + s - 1) / s;
                (output, ((output - 1) * s + reach - n).max(0) / 2)
            }
            Padding::Valid => ((n - reach + s) / s, 0),
            Padding::Explicit(b, a) => ((n + large(b) + large(a) - reach + s) / s, large(b)),
        };
        let fits = |x: i128| usize::try_from(x).ok().filter(|x| *x <= isize::MAX as usize >> 1);
        let short = matches!(self.padding[i], Padding::Valid) && n - reach + s < 0;
        match (fits(output), fits(before), fits(reach)) {
            (Some(output), Some(before), Some(_)) if !short => Ok(Axis {
                input,
                window,
                stride,
                dilation,
                before,
                output,
            }),
            _ => Err(Error::invalid(format!(
                "computed output size would be negative or too large: input size {input}, window {window}, dilation \
                 {dilation}, stride {stride}"
            ))),
        }
    }

    /// Outputs along axis `i` of three as far as they are known when the graph is built.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the window is longer than the padded input.
    pub(crate) fn output(&self, i: usize, input: Option<usize>, window: Option<usize>) -> Result<Option<usize>> {
        let Some(n) = input else { return Ok(None) };
        let w = match (window, self.padding[i]) {
            (Some(w), _) => w,
            (None, Padding::Same) => 1,
            (None, _) => return Ok(None),
        };
        let axis = self.axis(i, n, w)?;
        let padded = match self.padding[i] {
            Padding::Same => return Ok(Some(axis.output)),
            Padding::Valid => n,
            Padding::Explicit(b, a) => n + b + a,
        };
        let reach = (w - 1) * axis.dilation + 1;
        if reach > padded {
            return Err(Error::invalid(format!(
                "negative dimension size caused by subtracting {reach}, the reach of the window, from {padded}, the \
                 padded input"
            )));
        }
        Ok(Some(axis.output))
    }

    /// The three axes over an input with these dimensions, channels at the end.
    ///
    /// # Errors
    /// As [`axis`](Self::axis).
    pub(crate) fn axes(&self, input: &[usize], window: &[usize]) -> Result<[Axis; 3]> {
        let mut axes = [self.axis(0, 1, 1)?; 3];
        for (i, (input, window)) in input.iter().zip(window).enumerate() {
            let to = 3 - self.space + i;
            axes[to] = self.axis(to, *input, *window)?;
        }
        Ok(axes)
    }

    /// The spatial outputs as far as they are known when the graph is built.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub(crate) fn outputs(&self, input: &[Option<usize>], window: &[Option<usize>]) -> Result<Vec<Option<usize>>> {
        let at = 3 - self.space;
        (0..self.space)
            .map(|i| self.output(at + i, input[i], window[i]))
            .collect()
    }

    /// The outputs along the axes, without those that stand for missing dimensions.
    pub(crate) fn visible(&self, axes: &[Axis; 3]) -> Vec<usize> {
        axes[3 - self.space..].iter().map(|a| a.output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slide(padding: &str, stride: i64, dilation: i64, explicit: &[i64]) -> Slide {
        let mut a = Attrs::default();
        a.set("strides", vec![1, stride, stride, 1]);
        a.set("dilations", vec![1, dilation, dilation, 1]);
        a.set("padding", padding);
        a.set("explicit_paddings", explicit.to_vec());
        Slide::of(&a, 2).unwrap()
    }

    #[test]
    fn same_padding_puts_the_odd_one_behind() {
        let a = slide("SAME", 2, 1, &[]).axis(1, 6, 3).unwrap();
        assert_eq!((a.output, a.before), (3, 0));
        let a = slide("SAME", 1, 2, &[]).axis(1, 6, 3).unwrap();
        assert_eq!((a.output, a.before), (6, 2));
        assert_eq!(slide("SAME", 1, 1, &[]).axis(1, 0, 3).unwrap().output, 0);
    }

    #[test]
    fn a_window_that_does_not_fit_gives_nothing_or_an_error() {
        let s = slide("VALID", 2, 1, &[]);
        assert_eq!(s.axis(2, 7, 3).unwrap().output, 3);
        assert_eq!(s.axis(2, 3, 4).unwrap().output, 0);
        assert!(s.axis(2, 1, 4).unwrap_err().message().contains("negative"));
        assert!(s.output(2, Some(3), Some(4)).is_err());
        assert_eq!(s.output(2, None, Some(4)).unwrap(), None);
        assert!(s.axis(2, 3, 0).is_err());
    }

    #[test]
    fn explicit_padding_is_added() {
        let s = slide("EXPLICIT", 1, 1, &[0, 0, 1, 2, 3, 0, 0, 0]);
        assert_eq!(
            (s.axis(1, 3, 3).unwrap().output, s.axis(2, 3, 3).unwrap().before),
            (4, 3)
        );
        let mut a = Attrs::default();
        a.set("strides", vec![1i64, 1, 1, 1]);
        a.set("padding", "EXPLICIT");
        a.set("explicit_paddings", vec![0i64, 0, -1, 0, 0, 0, 0, 0]);
        assert!(Slide::of(&a, 2).is_err());
        a.set("strides", vec![1i64, 1, 1]);
        assert!(Slide::of(&a, 2).is_err());
    }

    #[test]
    fn huge_numbers_are_errors_not_overflows() {
        let s = slide("VALID", i64::from(i32::MAX), i64::from(i32::MAX), &[]);
        assert!(s.axis(1, usize::MAX, usize::MAX).is_err());
        assert!(s.output(1, Some(usize::MAX), Some(usize::MAX)).is_err());
    }

    #[test]
    fn layouts_are_permutations_of_each_other() {
        assert_eq!(Layout::First.shape(&[2, 5, 6, 3]).dims(), [2, 3, 5, 6]);
        let back = Layout::First.dims_last(&PartialShape::from([2, 3, 5, 6]));
        assert_eq!(back, PartialShape::from([2, 5, 6, 3]));
        let a = Axis {
            input: 5,
            window: 3,
            stride: 2,
            dilation: 1,
            before: 1,
            output: 3,
        };
        assert_eq!([a.reach(0), a.reach(1), a.reach(2)], [0..2, 1..4, 3..5]);
    }
}
