//! `GenerateVocabRemapping`: where the entries of a new vocabulary are in an old one.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use crate::files;

/// The lines of the file that input `i` names, at most `most` of them.
fn lines(cx: &OpContext<'_>, i: usize, most: usize) -> Result<(String, Vec<Vec<u8>>)> {
    let t = cx.input(i)?;
    let name = match t.as_strings()? {
        [s] if !s.is_empty() => std::str::from_utf8(s).ok(),
        _ => None,
    };
    let path =
        name.ok_or_else(|| Error::invalid(format!("vocab filename must be one path, got shape {}", t.shape())))?;
    let wrong = |e: std::io::Error| Error::from(e).context(path);
    let file = BufReader::new(files::open(cx.files(), path)?);
    let all = file.split(b'\n').take(most).collect::<std::io::Result<Vec<_>>>();
    Ok((path.to_owned(), all.map_err(wrong)?))
}

fn kernel(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let number = |name: &str| -> Result<usize> {
        let n = init.attrs.int(name)?;
        usize::try_from(n).map_err(|_| Error::invalid(format!("{name} must not be negative, got {n}")))
    };
    let (offset, count) = (number("new_vocab_offset")?, number("num_new_vocab")?);
    let old_size = usize::try_from(init.attrs.int("old_vocab_size")?).unwrap_or(usize::MAX);
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let end = offset.saturating_add(count);
        let (path, new) = lines(cx, 0, end)?;
        if new.len() < end {
            return Err(Error::invalid(format!(
                "Invalid vocab_size in {path}: expected {end} but got {}",
                new.len()
            )));
        }
        let (old_path, old) = lines(cx, 1, old_size)?;
        if old_size != usize::MAX && old.len() < old_size {
            return Err(Error::invalid(format!(
                "Invalid vocab_size in {old_path}: expected {old_size} but got {}",
                old.len()
            )));
        }
        let mut places = HashMap::with_capacity(old.len());
        for (i, line) in old.iter().enumerate() {
            if places.insert(line.as_slice(), i as i64).is_some() {
                return Err(Error::invalid(format!(
                    "{:?} is twice in {old_path}",
                    String::from_utf8_lossy(line)
                )));
            }
        }
        let found = |line: &Vec<u8>| places.get(line.as_slice()).copied().unwrap_or(-1);
        let remapping: Vec<i64> = new[offset..].iter().map(found).collect();
        let present = remapping.iter().filter(|i| **i >= 0).count();
        let present = i32::try_from(present).map_err(|_| Error::invalid("a vocabulary is too large"))?;
        cx.set_output(0, Tensor::vector(&remapping));
        cx.set_output(1, Tensor::scalar(present));
        Ok(())
    }))
}

fn generate_vocab_remapping() -> OpDef {
    OpDef::new("GenerateVocabRemapping", Category::Io)
        .doc("For each line of a part of a new vocabulary file its number in an old one, or -1; and how many were found.")
        .input("new_vocab_file: string")
        .input("old_vocab_file: string")
        .output("remapping: int64")
        .output("num_present: int32")
        .attr("new_vocab_offset: int >= 0")
        .attr("num_new_vocab: int >= 0")
        .attr("old_vocab_size: int >= -1 = -1")
        .not_differentiable()
        // What the files hold may change.
        .stateful()
        .shape(|cx| {
            let n = usize::try_from(cx.attrs().int("num_new_vocab")?).ok();
            Ok(vec![PartialShape::vector(n), PartialShape::scalar()])
        })
        .cpu(kernel)
}

register_ops!(generate_vocab_remapping);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Operation, Tensor};

    fn remapped(new: &str, old: &str, offset: i64, count: i64, size: i64) -> Operation {
        let g = Graph::new();
        let file = |s: &str| g.constant(Tensor::string(s.as_bytes().to_vec())).unwrap();
        let b = g.op("GenerateVocabRemapping").input(&file(new)).input(&file(old));
        let b = b.attr("new_vocab_offset", offset).attr("num_new_vocab", count);
        b.attr("old_vocab_size", size).finish().unwrap()
    }

    #[test]
    fn entries_are_found_by_their_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, text: &str| {
            let p = dir.path().join(name);
            std::fs::write(&p, text).unwrap();
            p.to_str().unwrap().to_owned()
        };
        let (new, old) = (path("new", "a\nb\nc\nd\n"), path("old", "d\nb\nx\n"));
        let values = |op: Operation| {
            let list = eval(&op.output(0).unwrap()).to_vec::<i64>().unwrap();
            (list, eval(&op.output(1).unwrap()).to_scalar::<i32>().unwrap())
        };
        assert_eq!(values(remapped(&new, &old, 1, 3, -1)), (vec![1, -1, 0], 2));
        assert_eq!(values(remapped(&new, &old, 0, 4, 1)), (vec![-1, -1, -1, 0], 1));
        assert_eq!(
            fails(&remapped(&new, &old, 2, 3, -1).output(0).unwrap()).code(),
            Code::InvalidArgument
        );
        assert_eq!(
            fails(&remapped("/none", &old, 0, 1, -1).output(0).unwrap()).code(),
            Code::NotFound
        );
    }
}
