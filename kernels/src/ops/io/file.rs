//! `ReadFile`, `WriteFile`, `MatchingFiles`: whole files and names of files.

#![forbid(unsafe_code)]

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::files::Access;
use actorflow_core::kernel::OpContext;
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{PartialShape, Tensor, register_ops};

use super::matching::paths;
use super::support::one_string;
use crate::checkpoint::Location;
use crate::checkpoint::store::graph_path;
use crate::files::is_dir;
use crate::shapes;

/// The file of input 0, with which that may be done, and which must not be a directory.
fn file(cx: &OpContext<'_>, access: Access) -> Result<Location> {
    let name = one_string(cx.input(0)?, "filename")?;
    let text = graph_path(name)?;
    if is_dir(cx.files(), text, access)? {
        return Err(Error::failed_precondition(format!("{text}; Is a directory")));
    }
    Location::in_graph(name, cx.files())
}

fn read_file() -> OpDef {
    OpDef::new("ReadFile", Category::Io)
        .doc("The contents of a file.")
        .input("filename: string")
        .output("contents: string")
        // What is in a file changes: it must be read in every step.
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            shapes::scalar(cx)
        })
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let contents = file(cx, Access::Read)?.read()?;
                cx.set_output(0, Tensor::string(contents));
                Ok(())
            }))
        })
}

fn write_file() -> OpDef {
    OpDef::new("WriteFile", Category::Io)
        .doc("Writes a file as a whole, with the directories that it needs.")
        .input("filename: string")
        .input("contents: string")
        .stateful()
        .shape(|cx| {
            cx.input(0).with_rank(0)?;
            cx.input(1).with_rank(0)?;
            shapes::none(cx)
        })
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let contents = one_string(cx.input(1)?, "contents")?.clone();
                file(cx, Access::Write)?.write(vec![contents])
            }))
        })
}

fn matching_files() -> OpDef {
    OpDef::new("MatchingFiles", Category::Io)
        .doc("The names of the files that match patterns, sorted: `*`, `?` and `[a-z]` in any part of the path.")
        .input("pattern: string")
        .output("filenames: string")
        .stateful()
        .shape(|cx| {
            if cx.input(0).rank().is_some_and(|r| r > 1) {
                return Err(Error::invalid("patterns must be a scalar or a vector"));
            }
            Ok(vec![PartialShape::vector(None)])
        })
        .not_differentiable()
        .cpu(|_| {
            Ok(Box::new(|cx: &mut OpContext<'_>| {
                let patterns = cx.input(0)?;
                if patterns.shape().rank() > 1 {
                    return Err(Error::invalid(format!(
                        "Input patterns tensor must be scalar or vector, but had shape: {}",
                        patterns.shape()
                    )));
                }
                let mut all = Vec::new();
                for pattern in patterns.as_strings()? {
                    match paths(graph_path(pattern)?, cx.files()) {
                        Err(e) if e.code() == Code::NotFound => {}
                        other => all.extend(other?),
                    }
                }
                all.sort_unstable();
                let t = Tensor::strings([all.len()], all)?;
                cx.set_output(0, t);
                Ok(())
            }))
        })
}

register_ops!(read_file, write_file, matching_files);
