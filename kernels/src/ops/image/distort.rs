//! `SampleDistortedBoundingBox`, `SampleDistortedBoundingBoxV2`, `StatelessSampleDistortedBoundingBox`.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::philox::uniform_f32;
use actorflow_core::{DType, PartialShape, Tensor, register_ops};

use crate::ops::random::candidates::sampler::below32;
use crate::ops::random::stateless::seeded;
use crate::ops::random::stream::{Singles, Stream};

/// A box in whole pixels, without its last row and column.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rect {
    x: [i64; 2],
    y: [i64; 2],
}

impl Rect {
    fn area(&self) -> f32 {
        let side = |s: [i64; 2]| (s[1] - s[0]).max(0);
        (side(self.x) as f32) * (side(self.y) as f32)
    }

    fn common(&self, o: &Rect) -> Rect {
        let both = |a: [i64; 2], b: [i64; 2]| [a[0].max(b[0]), a[1].min(b[1])];
        Rect {
            x: both(self.x, o.x),
            y: both(self.y, o.y),
        }
    }
}

/// Rounds to even, as C does.
fn nearest(x: f32) -> i64 {
    x.round_ties_even() as i64
}

/// A random box of an image of `w` by `h` pixels with this ratio of width to height and an area within the limits.
fn crop([w, h]: [i64; 2], [least, most]: [f32; 2], ratio: f32, random: &mut Singles) -> Option<Rect> {
    if most <= 0.0 || ratio <= 0.0 || w <= 0 || h <= 0 || least > most {
        return None;
    }
    let (min_area, max_area) = (least * w as f32 * h as f32, most * w as f32 * h as f32);
    let mut height = nearest((min_area / ratio).sqrt());
    let mut max_height = nearest((max_area / ratio).sqrt());
    if nearest(max_height as f32 * ratio) > w {
        max_height = ((w as f64 + 0.5 - 1e-7) / f64::from(ratio)) as i64;
        if nearest(max_height as f32 * ratio) > w {
            max_height -= 1;
        }
    }
    max_height = max_height.min(h);
    height = height.min(max_height);
    let below = |n: i64, random: &mut Singles| i64::from(below32(random, u32::try_from(n).unwrap_or(u32::MAX).max(1)));
    if height < max_height {
        height += below(max_height - height + 1, random);
    }
    let mut width = nearest(height as f32 * ratio);
    let area = |w: i64, h: i64| (w * h) as f32;
    if area(width, height) < min_area {
        height += 1;
        width = nearest(height as f32 * ratio);
    }
    if area(width, height) > max_area {
        height -= 1;
        width = nearest(height as f32 * ratio);
    }
    let a = area(width, height);
    if a < min_area || a > max_area || width > w || height > h || width <= 0 || height <= 0 {
        return None;
    }
    let y = if height < h { below(h - height, random) } else { 0 };
    let x = if width < w { below(w - width, random) } else { 0 };
    Some(Rect {
        x: [x, x + width],
        y: [y, y + height],
    })
}

struct Distort {
    stream: Option<Stream>,
    covered: Option<f32>,
    ratios: [f32; 2],
    areas: [f32; 2],
    attempts: u64,
    whole_if_none: bool,
}

fn range(init: &KernelInit<'_>, name: &str) -> Result<[f32; 2]> {
    match init.attrs.floats(name)?[..] {
        [a, b] if a > 0.0 && b > 0.0 && a <= b => Ok([a, b]),
        ref other => Err(Error::invalid(format!(
            "{name} must be two positive numbers that rise, got {other:?}"
        ))),
    }
}

impl Distort {
    fn of(init: &KernelInit<'_>) -> Result<Distort> {
        let areas = range(init, "area_range")?;
        if areas[1] > 1.0 {
            return Err(Error::invalid(format!(
                "area_range must lie between 0 and 1, got {areas:?}"
            )));
        }
        let attempts = init.attrs.int("max_attempts")?;
        Ok(Distort {
            stream: match init.op.starts_with("Stateless") {
                true => None,
                false => Some(Stream::new(init)?),
            },
            covered: match init.attrs.get("min_object_covered") {
                Some(_) => Some(init.attrs.float("min_object_covered")?),
                None => None,
            },
            ratios: range(init, "aspect_ratio_range")?,
            areas,
            attempts: u64::try_from(attempts)
                .ok()
                .filter(|n| *n > 0)
                .ok_or_else(|| Error::invalid(format!("Max attempts must be > 0, got {attempts}")))?,
            whole_if_none: init.attrs.bool("use_image_if_no_bounding_boxes")?,
        })
    }

    fn boxes(&self, cx: &OpContext<'_>, image: Rect) -> Result<Vec<Rect>> {
        let t = cx.input(1)?;
        if t.shape().rank() != 3 || t.shape()[2] != 4 {
            return Err(Error::invalid(format!(
                "input boxes must be 3-dimensional [batch, num_boxes, coords] with 4 coordinates, got shape {}",
                t.shape()
            )));
        }
        if t.is_empty() {
            return match self.whole_if_none {
                true => Ok(vec![image]),
                false => Err(Error::invalid(
                    "No bounding boxes provided as input. One must enable use_image_if_no_bounding_boxes if you wish to \
                     not provide any bounding boxes.",
                )),
            };
        }
        let (w, h) = (image.x[1] as f32, image.y[1] as f32);
        let one = |b: &[f32; 4]| {
            if b.iter().any(|c| !(0.0..=1.0).contains(c)) {
                return Err(Error::invalid(format!(
                    "All bounding box coordinates must be in [0.0, 1.0]: {b:?}"
                )));
            }
            Ok(Rect {
                y: [(b[0] * h) as i64, (b[2] * h) as i64],
                x: [(b[1] * w) as i64, (b[3] * w) as i64],
            })
        };
        t.as_slice::<f32>()?.as_chunks::<4>().0.iter().map(one).collect()
    }
}

impl Kernel for Distort {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let size = cx.input(0)?;
        let dtype = size.dtype();
        let [h, w, _] = size.to_i64_vec()?[..] else {
            return Err(Error::invalid(format!(
                "image_size must contain 3 elements (height, width, channels), got shape {}",
                size.shape()
            )));
        };
        if size.shape().rank() != 1 || !(1..1 << 24).contains(&h) || !(1..1 << 24).contains(&w) {
            return Err(Error::invalid(format!(
                "image height and width must be positive, got {h} and {w}"
            )));
        }
        let image = Rect { x: [0, w], y: [0, h] };
        let boxes = self.boxes(cx, image)?;
        let covered = match self.covered {
            Some(c) => c,
            None => cx.scalar::<f32>(2)?,
        };
        if !(covered >= 0.0) {
            return Err(Error::invalid(format!(
                "Min object covered must be non-negative: {covered}"
            )));
        }
        let from = match &self.stream {
            Some(s) => s.reserve(self.attempts),
            None => seeded(cx.input(3)?)?,
        };
        let mut random = Singles::new(from);
        let mut chosen = image;
        for _ in 0..self.attempts {
            let [a, b] = self.ratios;
            let ratio = uniform_f32(random.next()) * (b - a) + a;
            let Some(c) = crop([w, h], self.areas, ratio, &mut random) else {
                continue;
            };
            let covers = |o: &Rect| o.area() >= 1.0 && c.common(o).area() / o.area() >= covered;
            if c.area() >= 1.0 && boxes.iter().any(covers) {
                chosen = c;
                break;
            }
        }
        let list = |v: [i64; 3]| -> Result<Tensor> {
            actorflow_core::dispatch!(dtype, T in [U8, I8, I16, I32, I64] => {
                Ok(Tensor::vector(&v.map(|x| x as T)))
            }, else Err(Error::internal("an image size of another dtype")))
        };
        let (begin, extent) = (
            [chosen.y[0], chosen.x[0]],
            [chosen.y[1] - chosen.y[0], chosen.x[1] - chosen.x[0]],
        );
        let share = |v: i64, n: i64| v as f32 / n as f32;
        let corners = [
            share(chosen.y[0], h),
            share(chosen.x[0], w),
            share(chosen.y[1], h),
            share(chosen.x[1], w),
        ];
        let (begin, extent) = (list([begin[0], begin[1], 0])?, list([extent[0], extent[1], -1])?);
        cx.set_output(0, begin);
        cx.set_output(1, extent);
        cx.set_output(2, Tensor::from_slice([1, 1, 4], &corners)?);
        Ok(())
    }
}

fn sampler(name: &'static str) -> OpDef {
    let stateless = name.starts_with("Stateless");
    let mut def = OpDef::new(name, Category::Image)
        .doc("A random part of an image that shows enough of one of the boxes: where it begins, its size, and it as a box.")
        .input("image_size: T")
        .input("bounding_boxes: float");
    if name != "SampleDistortedBoundingBox" {
        def = def.input("min_object_covered: float");
    }
    def = match stateless {
        true => def.input("seed: Tseed").attr("Tseed: {int32, int64}"),
        false => def.attr("seed: int = 0").attr("seed2: int = 0").stateful(),
    };
    if name == "SampleDistortedBoundingBox" {
        def = def.attr("min_object_covered: float = 0.1");
    }
    def.output("begin: T")
        .output("size: T")
        .output("bboxes: float")
        .attr("T: {uint8, int8, int16, int32, int64}")
        .attr("aspect_ratio_range: list(float) = [0.75, 1.33]")
        .attr("area_range: list(float) = [0.05, 1.0]")
        .attr("max_attempts: int = 100")
        .attr("use_image_if_no_bounding_boxes: bool = false")
        .not_differentiable()
        .shape(|cx| {
            cx.input(0).merge(&PartialShape::from([3]))?;
            cx.input(1).with_rank(3)?;
            Ok(vec![
                PartialShape::from([3]),
                PartialShape::from([3]),
                PartialShape::from([1, 1, 4]),
            ])
        })
        .cpu(|init| {
            if !matches!(
                init.input_types[0],
                DType::U8 | DType::I8 | DType::I16 | DType::I32 | DType::I64
            ) {
                return Err(init.no_kernel());
            }
            Ok(Box::new(Distort::of(init)?))
        })
}

fn samplers() -> Vec<OpDef> {
    [
        "SampleDistortedBoundingBox",
        "SampleDistortedBoundingBoxV2",
        "StatelessSampleDistortedBoundingBox",
    ]
    .map(sampler)
    .into()
}

register_ops!(all samplers);

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::philox::Philox;

    #[test]
    fn parts_lie_in_the_image_and_have_the_area_asked_for() {
        let mut random = Singles::new(Philox::new(3, 4));
        let mut found = 0;
        for i in 0..200 {
            let ratio = 0.5 + i as f32 / 100.0;
            if let Some(r) = crop([40, 30], [0.1, 0.5], ratio, &mut random) {
                assert!(r.x[0] >= 0 && r.x[1] <= 40 && r.y[0] >= 0 && r.y[1] <= 30, "{r:?}");
                assert!((120.0..=600.0).contains(&r.area()), "{r:?}");
                found += 1;
            }
        }
        assert!(found > 150);
        assert_eq!(crop([40, 30], [0.5, 0.1], 1.0, &mut random), None);
    }
}
