//! Digit images from CSV files: the bundled ones or the user's.

use std::fs;
use std::io::Read;
use std::path::Path;

use actorflow::{Error, Result, Tensor};
use clap::ValueEnum;
use flate2::read::GzDecoder;

static DIGITS: &[u8] = include_bytes!("../../data/digits.csv.gz");
static MNIST_5K: &[u8] = include_bytes!("../../data/mnist_5k.csv.gz");

/// A file larger than this, unpacked, is not a table for this command.
const MAX_BYTES: u64 = 1 << 30;

/// The data sets that the program brings along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Dataset {
    /// 1,797 handwritten digits of 8 × 8 pixels.
    Digits,
    /// A subset of 5,000 of MNIST's digits, 28 × 28 pixels.
    Mnist5k,
}

impl Dataset {
    /// The name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Dataset::Digits => "digits",
            Dataset::Mnist5k => "mnist5k",
        }
    }

    /// The largest pixel value.
    fn scale(self) -> f32 {
        match self {
            Dataset::Digits => 16.0,
            Dataset::Mnist5k => 255.0,
        }
    }

    /// Reads the bundled file, or another of the same layout: pixels, then the label, a line each.
    ///
    /// # Errors
    /// Naming the file, the line and what is wrong with it.
    pub(super) fn load(self, file: Option<&Path>) -> Result<Split> {
        let packed = match file {
            Some(path) => fs::read(path).map_err(|e| Error::from(e).context(path.display()))?,
            None => match self {
                Dataset::Digits => DIGITS.to_vec(),
                Dataset::Mnist5k => MNIST_5K.to_vec(),
            },
        };
        let name = file.map_or_else(|| self.name().to_owned(), |p| p.display().to_string());
        let text = unpack(&packed).map_err(|e| e.context(&name))?;
        parse(&text, self.scale()).map_err(|e| e.context(&name))
    }
}

/// Rows of pixels in 0..=1, and labels.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    /// Pixels, row by row.
    pub(super) pixels: Vec<f32>,
    /// The digit of each row.
    pub(super) labels: Vec<i32>,
}

impl Rows {
    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// These rows as tensors `[n, width]` and `[n]`.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn select(&self, rows: &[usize], width: usize) -> Result<(Tensor, Tensor)> {
        let mut x = Vec::with_capacity(rows.len() * width);
        let mut y = Vec::with_capacity(rows.len());
        for &r in rows {
            x.extend_from_slice(&self.pixels[r * width..(r + 1) * width]);
            y.push(self.labels[r]);
        }
        Ok((
            Tensor::from_slice([rows.len(), width], &x)?,
            Tensor::from_slice([rows.len()], &y)?,
        ))
    }

    /// All rows.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub(super) fn all(&self, width: usize) -> Result<(Tensor, Tensor)> {
        Ok((
            Tensor::from_slice([self.len(), width], &self.pixels)?,
            Tensor::from_slice([self.len()], &self.labels)?,
        ))
    }
}

/// Training and test rows: row `i` of the file is a test row if `i % 5 == 4`.
#[derive(Debug)]
pub(super) struct Split {
    /// Pixels per row.
    pub(super) width: usize,
    /// One more than the largest label.
    pub(super) classes: usize,
    /// The rows to learn from.
    pub(super) train: Rows,
    /// The rows to be judged by.
    pub(super) test: Rows,
}

fn unpack(bytes: &[u8]) -> Result<String> {
    let mut text = String::new();
    let done = if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(bytes)
            .take(MAX_BYTES)
            .read_to_string(&mut text)
            .map(drop)
    } else {
        bytes.take(MAX_BYTES).read_to_string(&mut text).map(drop)
    };
    done.map_err(|e| Error::data_loss(format!("cannot be read as CSV text: {e}")))?;
    Ok(text)
}

fn parse(text: &str, scale: f32) -> Result<Split> {
    let mut split = Split {
        width: 0,
        classes: 0,
        train: Rows::default(),
        test: Rows::default(),
    };
    for (i, line) in text.lines().filter(|l| !l.trim().is_empty()).enumerate() {
        let bad = |what: String| Error::data_loss(format!("row {i}: {what}"));
        let Some((pixels, label)) = line.rsplit_once(',') else {
            return Err(bad("needs pixels and a label, separated by commas".into()));
        };
        let label: f32 = label
            .trim()
            .parse()
            .map_err(|_| bad(format!("the label {:?} is no number", label.trim())))?;
        if label.fract() != 0.0 || !(0.0..1000.0).contains(&label) {
            return Err(bad(format!("the label {label} is no class number from 0 to 999")));
        }
        let rows = if i % 5 == 4 { &mut split.test } else { &mut split.train };
        let before = rows.pixels.len();
        for p in pixels.split(',') {
            let v: f32 = p
                .trim()
                .parse()
                .map_err(|_| bad(format!("the pixel {:?} is no number", p.trim())))?;
            if !v.is_finite() {
                return Err(bad(format!("the pixel {v} is not finite")));
            }
            rows.pixels.push(v / scale);
        }
        let width = rows.pixels.len() - before;
        if split.width == 0 {
            split.width = width;
        } else if split.width != width {
            return Err(bad(format!("has {width} pixels, the rows before have {}", split.width)));
        }
        rows.labels.push(label as i32);
        split.classes = split.classes.max(label as usize + 1);
    }
    if split.train.labels.is_empty() || split.test.labels.is_empty() {
        return Err(Error::invalid(
            "at least five rows are needed, to have one to test with",
        ));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_files_split_as_documented() {
        let d = Dataset::Digits.load(None).unwrap();
        assert_eq!((d.width, d.classes, d.train.len(), d.test.len()), (64, 10, 1438, 359));
        let m = Dataset::Mnist5k.load(None).unwrap();
        assert_eq!((m.width, m.classes, m.train.len() + m.test.len()), (784, 10, 5000));
        assert!(m.train.pixels.iter().all(|p| (0.0..=1.0).contains(p)));
    }

    #[test]
    fn bad_rows_are_named() {
        let e = |t: &str| parse(t, 1.0).unwrap_err().to_string();
        assert!(e("1,2,0\n1,x,1\n").contains("row 1: the pixel \"x\""));
        assert!(e("1,2,0\n1,1\n").contains("row 1: has 1 pixels"));
        assert!(e("1,2,-3\n").contains("class number"));
        assert!(e("").contains("five rows"));
        assert!(unpack(&[0x1f, 0x8b, 0, 0]).is_err());
    }
}
