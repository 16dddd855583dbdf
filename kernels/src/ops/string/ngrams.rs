//! `StringNGrams`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, PartialShape, Tensor, register_ops};
use bytes::Bytes;

use crate::moves;
use crate::ops::array::support::int_vector;

/// Which n-grams are made.
struct Grams {
    separator: Bytes,
    widths: Vec<usize>,
    left: Bytes,
    right: Bytes,
    /// Elements of padding at each side; as many as fit if `None`.
    padding: Option<usize>,
    keep_short: bool,
}

impl Grams {
    fn of(attrs: &Attrs) -> Result<Grams> {
        let widths = attrs
            .ints("ngram_widths")?
            .into_iter()
            .map(|w| usize::try_from(w).ok().filter(|w| *w > 0));
        let widths = widths.collect::<Option<Vec<_>>>();
        Ok(Grams {
            separator: attrs.byte_string("separator")?.clone(),
            widths: widths.ok_or_else(|| Error::invalid("ngram_widths must contain positive values"))?,
            left: attrs.byte_string("left_pad")?.clone(),
            right: attrs.byte_string("right_pad")?.clone(),
            padding: usize::try_from(attrs.int("pad_width")?).ok(),
            keep_short: attrs.bool("preserve_short_sequences")?,
        })
    }

    /// One window, whose first element is `at` minus the padding.
    fn gram(&self, words: &[Bytes], width: usize, pad: usize, at: usize) -> Bytes {
        let mut out = Vec::new();
        for k in at..at + width {
            if k > at {
                out.extend_from_slice(&self.separator);
            }
            out.extend_from_slice(match k.checked_sub(pad) {
                None => &self.left,
                Some(i) => words.get(i).unwrap_or(&self.right),
            });
        }
        out.into()
    }

    /// The n-grams of one sequence.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` if they have absurdly many elements.
    fn sequence(&self, words: &[Bytes], out: &mut Vec<Bytes>) -> Result<()> {
        let before = out.len();
        let mut short = None;
        for &width in &self.widths {
            let pad = self.padding.unwrap_or(width - 1).min(width - 1);
            let n = pad.saturating_mul(2).saturating_add(words.len());
            let count = n.saturating_add(1).saturating_sub(width);
            let first = short.is_none();
            short.get_or_insert((n, pad));
            if count.saturating_mul(width) > MOST || (first && self.keep_short && n > MOST) {
                return Err(Error::exhausted(format!(
                    "n-grams of width {width} have too many elements"
                )));
            }
            for at in 0..count {
                out.push(self.gram(words, width, pad, at));
            }
        }
        // A sequence too short for any width is one n-gram of its own length.
        if let (true, Some((n, pad))) = (self.keep_short && out.len() == before && !words.is_empty(), short) {
            out.push(self.gram(words, n, pad, 0));
        }
        Ok(())
    }
}

/// The most elements that the n-grams of one sequence and width may have.
const MOST: usize = 1 << 28;

fn run(cx: &mut OpContext<'_>, grams: &Grams, dtype: DType) -> Result<()> {
    let data = cx.input(0)?.as_strings()?;
    let splits = int_vector(cx.input(1)?, "data_splits")?;
    let mut out = Vec::new();
    let mut ends = moves::list(cx, splits.len())?;
    if let [first, rest @ ..] = &splits[..] {
        if *first != 0 {
            return Err(Error::invalid(format!("first split value must be 0, got {first}")));
        }
        let mut start = 0usize;
        ends.push(0);
        for s in rest {
            let end = usize::try_from(*s).ok().filter(|e| *e >= start && *e <= data.len());
            let end = end.ok_or_else(|| {
                Error::invalid(format!("invalid split value {s}, must be in [{start}, {}]", data.len()))
            })?;
            grams.sequence(&data[start..end], &mut out)?;
            ends.push(out.len() as i64);
            start = end;
        }
        if start != data.len() {
            return Err(Error::invalid(format!(
                "last split value must be data size. Expected {}, got {start}",
                data.len()
            )));
        }
    }
    let n = out.len();
    cx.set_output(0, Tensor::strings([n], out)?);
    cx.set_output(1, crate::ops::array::support::index_vector(dtype, &ends)?);
    Ok(())
}

fn string_ngrams() -> OpDef {
    OpDef::new("StringNGrams", Category::String)
        .doc("The n-grams of the sequences of a ragged tensor of strings.")
        .input("data: string")
        .input("data_splits: Tsplits")
        .output("ngrams: string")
        .output("ngrams_splits: Tsplits")
        .attr("separator: string")
        .attr("ngram_widths: list(int) >= 0")
        .attr("left_pad: string")
        .attr("right_pad: string")
        .attr("pad_width: int")
        .attr("preserve_short_sequences: bool")
        .attr("Tsplits: {int32, int64} = DT_INT64")
        .shape(|cx| {
            cx.input(0).with_rank(1)?;
            Ok(vec![PartialShape::vector(None), cx.input(1).with_rank(1)?])
        })
        .not_differentiable()
        .cpu(|init| {
            let grams = Grams::of(init.attrs)?;
            let dtype = init.attrs.dtype("Tsplits")?;
            Ok(Box::new(move |cx: &mut OpContext<'_>| run(cx, &grams, dtype)))
        })
}

register_ops!(string_ngrams);

#[cfg(test)]
mod tests {
    use super::*;

    fn grams(words: &[&'static str], widths: &[usize], padding: Option<usize>, keep_short: bool) -> Vec<String> {
        let [separator, left, right] = [" ", "L", "R"].map(Bytes::from);
        let g = Grams {
            separator,
            widths: widths.to_vec(),
            left,
            right,
            padding,
            keep_short,
        };
        let words: Vec<Bytes> = words.iter().map(|w| Bytes::from(*w)).collect();
        let mut out = Vec::new();
        g.sequence(&words, &mut out).unwrap();
        out.iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
    }

    #[test]
    fn windows_with_and_without_padding() {
        assert_eq!(grams(&["a", "b", "c"], &[2], Some(0), false), ["a b", "b c"]);
        assert_eq!(
            grams(&["a", "b", "c"], &[3], None, false),
            ["L L a", "L a b", "a b c", "b c R", "c R R"]
        );
        assert_eq!(grams(&["d"], &[3], Some(1), false), ["L d R"]);
        assert_eq!(grams(&[], &[2], Some(5), false), ["L R"]);
        assert_eq!(grams(&["d"], &[1, 2, 3], Some(0), true), ["d"]);
        assert_eq!(grams(&["d"], &[2], Some(0), true), ["d"]);
        assert_eq!(grams(&["a", "b"], &[4], Some(1), true), ["L a b R"]);
        assert_eq!(grams(&["a", "b", "c"], &[5], Some(1), true), ["L a b c R"]);
        assert!(grams(&["d"], &[2], Some(0), false).is_empty());
    }
}
