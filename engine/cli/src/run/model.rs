//! `actorflow run --saved-model`: one run of a signature.

use std::path::{Path, PathBuf};
use std::time::Instant;

use actorflow::npy::read_npy_file;
use actorflow::{DType, SavedModel, SessionOptions, Tensor};

use super::{Wanted, check_files, literal, report, with_file};
use crate::failure::Failure;

/// What the command line says about a model.
pub(super) struct Question<'a> {
    pub(super) dir: &'a Path,
    pub(super) tags: &'a [String],
    pub(super) signature: Option<&'a str>,
    pub(super) inputs: &'a [String],
    pub(super) outputs: &'a [String],
    pub(super) options: SessionOptions,
    pub(super) json: bool,
}

pub(super) fn run(q: Question<'_>) -> Result<(), Failure> {
    let tags: Vec<&str> = q.tags.iter().map(String::as_str).collect();
    let model = SavedModel::load_with(q.dir, &tags, q.options)?;
    let name = match (q.signature, model.signatures().keys().collect::<Vec<_>>().as_slice()) {
        (Some(name), _) => name.to_owned(),
        (None, [only]) => (*only).clone(),
        (None, _) => "serving_default".to_owned(),
    };
    let signature = model.signature(&name)?;
    let mut inputs = Vec::with_capacity(q.inputs.len());
    for text in q.inputs {
        let Some((input, value)) = text.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--input {text:?} must be NAME=FILE.npy or NAME=VALUE"
            )));
        };
        let dtype = signature.inputs.get(input).and_then(|s| s.dtype);
        inputs.push((input, read(input, value, dtype.unwrap_or(DType::F32))?));
    }
    let asked: Vec<(String, Option<PathBuf>)> = match q.outputs {
        [] => signature.outputs.keys().map(|n| (n.clone(), None)).collect(),
        some => {
            let split = |t: &String| {
                let (name, file) = with_file(t);
                (name.to_owned(), file)
            };
            some.iter().map(split).collect()
        }
    };
    let wanted: Vec<Wanted> = asked
        .iter()
        .cloned()
        .map(|(name, file)| Wanted { name, file })
        .collect();
    check_files(&wanted)?;
    let names: Vec<&str> = asked.iter().map(|(n, _)| n.as_str()).collect();
    let start = Instant::now();
    let values = model.fetch(&name, &inputs, &names)?;
    let seconds = start.elapsed().as_secs_f64();
    report(&wanted, &values, seconds, q.json)
}

fn read(name: &str, value: &str, dtype: DType) -> Result<Tensor, Failure> {
    match value.ends_with(".npy") {
        true => Ok(read_npy_file(value)?),
        false => {
            literal::parse(value, dtype).map_err(|e| Failure::Usage(format!("--input {name}: {e} (it is {dtype})")))
        }
    }
}
