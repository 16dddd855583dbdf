//! `NonMaxSuppression` in all versions, `NonMaxSuppressionWithOverlaps`, `CombinedNonMaxSuppression`.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::resample::{as_f32, into_dtype};
use crate::ops::nn::conv::number::{room, writable};

type Corners = [f32; 4];

/// Corners in order, whichever way the box is given.
fn ordered([y1, x1, y2, x2]: Corners) -> Corners {
    [y1.min(y2), x1.min(x2), y1.max(y2), x1.max(x2)]
}

/// Intersection over union of two boxes; 0 if either is empty.
fn overlap(a: Corners, b: Corners) -> f32 {
    let (a, b) = (ordered(a), ordered(b));
    let area = |c: Corners| (c[2] - c[0]) * (c[3] - c[1]);
    let (area_a, area_b) = (area(a), area(b));
    if area_a <= 0.0 || area_b <= 0.0 {
        return 0.0;
    }
    let height = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let width = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    height * width / (area_a + area_b - height * width)
}

/// A box that may be selected: higher scores first, of equals the one with the lower index.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    index: usize,
    /// Selected boxes that its score has been lowered for already.
    seen: usize,
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.index.cmp(&self.index))
    }
}

/// What decides which boxes are kept.
struct Rule {
    most: usize,
    /// Overlap beyond which a box is suppressed.
    threshold: f32,
    /// Score below or at which a box is not considered.
    least: f32,
    /// Width of the Gaussian by which scores are lowered instead (Bodla et al. 2017); 0 for none.
    sigma: f32,
}

impl Rule {
    /// The boxes that are kept and their scores, the best first.
    fn select(&self, scores: &[f32], similarity: impl Fn(usize, usize) -> f32) -> Vec<(usize, f32)> {
        let mut queue: BinaryHeap<Candidate> = scores
            .iter()
            .enumerate()
            .filter(|(_, s)| **s > self.least)
            .map(|(index, s)| Candidate {
                score: *s,
                index,
                seen: 0,
            })
            .collect();
        let soft = self.sigma > 0.0;
        let mut kept: Vec<(usize, f32)> = Vec::new();
        while kept.len() < self.most
            && let Some(mut next) = queue.pop()
        {
            let original = next.score;
            let mut suppressed = false;
            for (other, _) in kept[next.seen..].iter().rev() {
                let s = similarity(next.index, *other);
                if soft {
                    next.score *= (-0.5 / self.sigma * s * s).exp();
                } else if s > self.threshold {
                    suppressed = true;
                    break;
                }
                if next.score <= self.least {
                    break;
                }
            }
            next.seen = kept.len();
            if suppressed {
                continue;
            }
            if next.score == original {
                kept.push((next.index, next.score));
            } else if next.score > self.least {
                queue.push(next);
            }
        }
        kept
    }
}

/// The boxes of an input.
fn boxes(cx: &OpContext<'_>, i: usize) -> Result<Vec<Corners>> {
    let t = cx.input(i)?;
    match t.shape().dims() {
        [_, 4] => Ok(as_f32(&*cx.step().device, t)?
            .as_slice::<f32>()?
            .as_chunks::<4>()
            .0
            .to_vec()),
        _ => Err(Error::invalid(format!(
            "boxes must have shape [boxes, 4], got {}",
            t.shape()
        ))),
    }
}

/// The scores of an input, one for each of `n` boxes.
fn scores(cx: &OpContext<'_>, i: usize, n: usize) -> Result<Vec<f32>> {
    let t = cx.input(i)?;
    if t.shape().dims() != [n] {
        return Err(Error::invalid(format!(
            "scores has incompatible shape: expected [{n}], one for each box, got {}",
            t.shape()
        )));
    }
    as_f32(&*cx.step().device, t)?.to_vec()
}

fn number(cx: &OpContext<'_>, i: usize, what: &str) -> Result<f32> {
    let t = cx.input(i)?;
    if t.shape().rank() != 0 {
        return Err(Error::invalid(format!("{what} must be 0-D, got shape {}", t.shape())));
    }
    as_f32(&*cx.step().device, t)?.to_scalar()
}

fn fraction(what: &str, x: f32) -> Result<f32> {
    match (0.0..=1.0).contains(&x) {
        true => Ok(x),
        false => Err(Error::invalid(format!("{what} must be in [0, 1], got {x}"))),
    }
}

fn count(cx: &OpContext<'_>, i: usize, what: &str) -> Result<usize> {
    let t = cx.input(i)?;
    if t.shape().rank() != 0 {
        return Err(Error::invalid(format!("{what} must be 0-D, got shape {}", t.shape())));
    }
    usize::try_from(t.to_i64()?).map_err(|_| Error::invalid(format!("{what} must be non-negative")))
}

/// The versions of the operation.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Version {
    One,
    Two,
    Three,
    Four,
    Five,
}

struct Suppression {
    version: Version,
    /// The threshold of version 1.
    threshold: f32,
    pad: bool,
}

impl Kernel for Suppression {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let boxes = boxes(cx, 0)?;
        let scores = scores(cx, 1, boxes.len())?;
        let v = self.version;
        let threshold = match v {
            Version::One => self.threshold,
            _ => number(cx, 3, "iou_threshold")?,
        };
        let rule = Rule {
            most: count(cx, 2, "max_output_size")?,
            threshold: fraction("iou_threshold", threshold)?,
            least: if v < Version::Three {
                f32::MIN
            } else {
                number(cx, 4, "score_threshold")?
            },
            sigma: if v < Version::Five {
                0.0
            } else {
                number(cx, 5, "soft_nms_sigma")?
            },
        };
        if rule.sigma < 0.0 {
            return Err(Error::invalid(format!(
                "soft_nms_sigma must be non-negative, got {}",
                rule.sigma
            )));
        }
        let kept = rule.select(&scores, |a, b| overlap(boxes[a], boxes[b]));
        let len = if self.pad { rule.most } else { kept.len() };
        let device = &*cx.step().device;
        let mut indices = cx.zeros(actorflow_core::DType::I32, [len])?;
        for (o, k) in writable::<i32>(&mut indices)?.iter_mut().zip(&kept) {
            *o = k.0 as i32;
        }
        let valid = Tensor::scalar(kept.len() as i32);
        match v {
            Version::Five => {
                let mut values = room::<f32>(device, [len])?;
                let to = writable::<f32>(&mut values)?;
                to.fill(0.0);
                to.iter_mut().zip(&kept).for_each(|(o, k)| *o = k.1);
                let values = into_dtype(device, values, cx.input(1)?.dtype())?;
                cx.set_output(1, values);
                cx.set_output(2, valid);
            }
            Version::Four => cx.set_output(1, valid),
            _ => {}
        }
        cx.set_output(0, indices);
        Ok(())
    }
}

fn definition(version: Version) -> OpDef {
    let name = match version {
        Version::One => "NonMaxSuppression",
        Version::Two => "NonMaxSuppressionV2",
        Version::Three => "NonMaxSuppressionV3",
        Version::Four => "NonMaxSuppressionV4",
        Version::Five => "NonMaxSuppressionV5",
    };
    let t = if version == Version::One { "float" } else { "T" };
    let threshold = if version == Version::Five { "T" } else { "T_threshold" };
    let mut def = OpDef::new(name, Category::Image)
        .doc("The boxes that remain when, from the highest score down, those that overlap a better one too much go.")
        .input(&format!("boxes: {t}"))
        .input(&format!("scores: {t}"))
        .input("max_output_size: int32");
    if version == Version::One {
        def = def.attr("iou_threshold: float = 0.5");
    } else {
        def = def
            .attr("T: {half, float} = DT_FLOAT")
            .input(&format!("iou_threshold: {threshold}"));
        if version != Version::Five {
            def = def.attr("T_threshold: {half, float} = DT_FLOAT");
        }
    }
    if version >= Version::Three {
        def = def.input(&format!("score_threshold: {threshold}"));
    }
    if version == Version::Five {
        def = def.input("soft_nms_sigma: T");
    }
    def = def.output("selected_indices: int32");
    if version == Version::Five {
        def = def.output("selected_scores: T");
    }
    if version >= Version::Four {
        def = def
            .output("valid_outputs: int32")
            .attr("pad_to_max_output_size: bool = false");
    }
    def.shape(|cx| {
        let n = cx.input(0).with_rank(2)?;
        n.merge(&PartialShape::from([None, Some(4)]))?;
        n.sub(0, 1).merge(&cx.input(1).with_rank(1)?)?;
        let padded = cx.attrs().get("pad_to_max_output_size").is_some() && cx.attrs().bool("pad_to_max_output_size")?;
        let most = cx.constant_i64(2).and_then(|n| usize::try_from(n).ok());
        let list = PartialShape::vector(if padded { most } else { None });
        let mut all = vec![list; cx.num_outputs()];
        if let Some(last) = all.last_mut().filter(|_| cx.num_outputs() > 1) {
            *last = PartialShape::scalar();
        }
        Ok(all)
    })
}

macro_rules! versions {
    ($($f:ident $v:ident;)*) => {
        $(fn $f() -> OpDef {
            let def = definition(Version::$v);
            let def = if Version::$v < Version::Three { def.not_differentiable() } else { def };
            def.cpu(|init| Ok(Box::new(Suppression {
                version: Version::$v,
                threshold: match Version::$v {
                    Version::One => init.attrs.float("iou_threshold")?,
                    _ => 0.0,
                },
                pad: Version::$v >= Version::Four && init.attrs.bool("pad_to_max_output_size")?,
            })))
        })*
    };
}

versions! {
    v1 One;
    v2 Two;
    v3 Three;
    v4 Four;
    v5 Five;
}

fn with_overlaps() -> OpDef {
    OpDef::new("NonMaxSuppressionWithOverlaps", Category::Image)
        .doc("NonMaxSuppression with a matrix of how much boxes overlap.")
        .input("overlaps: float")
        .input("scores: float")
        .input("max_output_size: int32")
        .input("overlap_threshold: float")
        .input("score_threshold: float")
        .output("selected_indices: int32")
        .shape(|cx| {
            cx.input(0).with_rank(2)?;
            Ok(vec![PartialShape::vector(None)])
        })
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let table = cx.input(0)?;
                let n = match table.shape().dims() {
                    [n, m] if n == m => *n,
                    _ => {
                        return Err(Error::invalid(format!(
                            "overlaps must be square, got {}",
                            table.shape()
                        )));
                    }
                };
                let scores = scores(cx, 1, n)?;
                let rule = Rule {
                    most: count(cx, 2, "max_output_size")?,
                    threshold: number(cx, 3, "overlap_threshold")?,
                    least: number(cx, 4, "score_threshold")?,
                    sigma: 0.0,
                };
                let table = table.as_slice::<f32>()?;
                let kept = rule.select(&scores, |a, b| table[a * n + b]);
                let out: Vec<i32> = kept.iter().map(|k| k.0 as i32).collect();
                cx.set_output(0, Tensor::vector(&out));
                Ok(())
            }) as Box<dyn Kernel>)
        })
}

struct Combined {
    per_class: bool,
    clip: bool,
}

/// A selected box of an image: score, class, corners.
type Detection = (f32, usize, Corners);

impl Kernel for Combined {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
        let wrong = || {
            Error::invalid(format!(
                "boxes must have shape [batch, boxes, 1 or classes, 4] and scores [batch, boxes, classes], got {} and {}",
                boxes.shape(),
                scores.shape()
            ))
        };
        let (batch, n, q, classes) = match (boxes.shape().dims(), scores.shape().dims()) {
            ([b, n, q, 4], [sb, sn, c]) if b == sb && n == sn && (*q == 1 || q == c) => (*b, *n, *q, *c),
            _ => return Err(wrong()),
        };
        let most = count(cx, 2, "max_output_size_per_class")?;
        let total = count(cx, 3, "max_total_size")?;
        if most == 0 || total == 0 {
            return Err(Error::invalid("max_size_per_class and max_total_size must be positive"));
        }
        let rule = Rule {
            most,
            threshold: fraction("iou_threshold", number(cx, 4, "iou_threshold")?)?,
            least: number(cx, 5, "score_threshold")?,
            sigma: 0.0,
        };
        let len = match self.per_class {
            true => total.min(most.saturating_mul(classes)),
            false => total,
        };
        let corners = boxes.as_slice::<f32>()?.as_chunks::<4>().0;
        let values = scores.as_slice::<f32>()?;
        let mut out_boxes = cx.zeros(boxes.dtype(), vec![batch, len, 4])?;
        let mut out_scores = cx.zeros(boxes.dtype(), [batch, len])?;
        let mut out_classes = cx.zeros(boxes.dtype(), [batch, len])?;
        let mut valid = cx.zeros(actorflow_core::DType::I32, [batch])?;
        for i in 0..batch {
            let mut found: Vec<Detection> = Vec::new();
            for class in 0..classes {
                let at = |b: usize| corners[(i * n + b) * q + class.min(q - 1)];
                let own: Vec<f32> = (0..n).map(|b| values[(i * n + b) * classes + class]).collect();
                let kept = rule.select(&own, |a, b| overlap(at(a), at(b)));
                found.extend(kept.iter().map(|(b, s)| (*s, class, at(*b))));
            }
            found.sort_by(|a, b| b.0.total_cmp(&a.0));
            found.truncate(len);
            writable::<i32>(&mut valid)?[i] = found.len() as i32;
            for (k, (score, class, corners)) in found.iter().enumerate() {
                let corners = if self.clip {
                    corners.map(|x| x.clamp(0.0, 1.0))
                } else {
                    *corners
                };
                writable::<f32>(&mut out_boxes)?[(i * len + k) * 4..][..4].copy_from_slice(&corners);
                writable::<f32>(&mut out_scores)?[i * len + k] = *score;
                writable::<f32>(&mut out_classes)?[i * len + k] = *class as f32;
            }
        }
        for (i, t) in [out_boxes, out_scores, out_classes, valid].into_iter().enumerate() {
            cx.set_output(i, t);
        }
        Ok(())
    }
}

fn combined() -> OpDef {
    OpDef::new("CombinedNonMaxSuppression", Category::Image)
        .doc("NonMaxSuppression of every class of every image, and the best of all classes together.")
        .input("boxes: float")
        .input("scores: float")
        .input("max_output_size_per_class: int32")
        .input("max_total_size: int32")
        .input("iou_threshold: float")
        .input("score_threshold: float")
        .output("nmsed_boxes: float")
        .output("nmsed_scores: float")
        .output("nmsed_classes: float")
        .output("valid_detections: int32")
        .attr("pad_per_class: bool = false")
        .attr("clip_boxes: bool = true")
        .shape(|cx| {
            let (boxes, scores) = (cx.input(0).with_rank(4)?, cx.input(1).with_rank(3)?);
            let n = boxes.sub(0, 1).merge(&scores.sub(0, 1))?.dim(0);
            let [most, total] = [2, 3].map(|i| cx.constant_i64(i).and_then(|n| usize::try_from(n).ok()));
            let len = match cx.attrs().bool("pad_per_class")? {
                false => total,
                true => match (total, most, scores.dim(2)) {
                    (Some(t), Some(m), Some(c)) => Some(t.min(m.saturating_mul(c))),
                    _ => None,
                },
            };
            let list = PartialShape::from([n, len]);
            let boxes = PartialShape::from([n, len, Some(4)]);
            Ok(vec![boxes, list.clone(), list, PartialShape::vector(n)])
        })
        .cpu(|init| {
            Ok(Box::new(Combined {
                per_class: init.attrs.bool("pad_per_class")?,
                clip: init.attrs.bool("clip_boxes")?,
            }))
        })
}

register_ops!(v1, v2, v3, v4, v5, with_overlaps, combined);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output};

    /// Three boxes that overlap much, and one apart.
    const BOXES: [[f32; 4]; 4] = [
        [0., 0., 1., 1.],
        [0., 0.1, 1., 1.1],
        [1., 1., 0., 0.2],
        [0., 10., 1., 11.],
    ];

    fn suppress(g: &Graph, most: i32, threshold: f32) -> Output {
        let boxes = g.constant(BOXES).unwrap();
        let scores = g.constant([0.9f32, 0.75, 0.95, 0.75]).unwrap();
        let (most, threshold) = (g.constant(most).unwrap(), g.constant(threshold).unwrap());
        let b = g.op("NonMaxSuppressionV2").input(&boxes).input(&scores);
        b.input(&most).input(&threshold).output().unwrap()
    }

    #[test]
    fn the_best_of_what_overlaps_remains() {
        let g = Graph::new();
        assert_eq!(eval(&suppress(&g, 4, 0.5)), Tensor::from([2i32, 3]));
        assert_eq!(eval(&suppress(&g, 1, 0.5)), Tensor::from([2i32]));
        assert_eq!(eval(&suppress(&g, 4, 1.0)), Tensor::from([2i32, 0, 1, 3]));
        assert_eq!(fails(&suppress(&g, 4, 1.5)).code(), Code::InvalidArgument);
        assert_eq!(fails(&suppress(&g, -1, 0.5)).code(), Code::InvalidArgument);
    }

    #[test]
    fn soft_suppression_lowers_scores() {
        let rule = Rule {
            most: 4,
            threshold: 1.0,
            least: 0.0,
            sigma: 0.5,
        };
        let kept = rule.select(&[0.9, 0.8, 0.7], |a, b| if a + b == 1 { 0.5 } else { 0.0 });
        assert_eq!(kept.iter().map(|k| k.0).collect::<Vec<_>>(), [0, 2, 1]);
        assert!((kept[2].1 - 0.8 * (-0.25f32).exp()).abs() < 1e-6);
    }

    #[test]
    fn lists_are_padded_if_asked_for() {
        let g = Graph::new();
        let (boxes, scores) = (
            g.constant(BOXES).unwrap(),
            g.constant([0.9f32, 0.75, 0.95, 0.1]).unwrap(),
        );
        let (most, iou, least) = (
            g.constant(3i32).unwrap(),
            g.constant(0.5f32).unwrap(),
            g.constant(0.2f32).unwrap(),
        );
        let b = g.op("NonMaxSuppressionV4").input(&boxes).input(&scores).input(&most);
        let op = b
            .input(&iou)
            .input(&least)
            .attr("pad_to_max_output_size", true)
            .finish()
            .unwrap();
        assert_eq!(eval(&op.output(0).unwrap()), Tensor::from([2i32, 0, 0]));
        assert_eq!(eval(&op.output(1).unwrap()), Tensor::from(1i32));
    }
}
