//! `UniformCandidateSampler`, `LogUniformCandidateSampler`, `LearnedUnigramCandidateSampler`,
//! `ThreadUnsafeUnigramCandidateSampler`, `FixedUnigramCandidateSampler`, `AllCandidateSampler`,
//! `ComputeAccidentalHits`.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::Arc;

use actorflow_core::error::{Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::resource::{Resource, ResourceManager};
use actorflow_core::{PartialShape, Tensor, register_ops};
use parking_lot::Mutex;

use super::sampler::Sampler;
use crate::files;
use crate::ops::random::stream::{Singles, Stream};

/// What a sampler has learned; it lives as long as the session.
struct Memory(Mutex<Sampler>);

impl Resource for Memory {
    fn kind(&self) -> &'static str {
        "candidate sampler"
    }
}

enum Source {
    Fixed(Sampler),
    /// The node's name and the number of classes.
    Learned(String, usize),
}

struct Candidates {
    source: Source,
    sampled: usize,
    columns: usize,
    unique: bool,
    stream: Stream,
}

fn positive(init: &KernelInit<'_>, name: &str) -> Result<usize> {
    let n = init.attrs.int(name)?;
    match usize::try_from(n) {
        Ok(n) if (1..=i32::MAX as usize).contains(&n) => Ok(n),
        _ => Err(Error::invalid(format!(
            "{name} must be a positive 32-bit number, got {n}"
        ))),
    }
}

/// The weights that a vocabulary file has, as the last column of comma-separated lines.
fn from_file(path: &str, policy: &FilePolicy) -> Result<Vec<f32>> {
    let text = String::from_utf8(files::read(policy, path)?)
        .map_err(|_| Error::data_loss(format!("the vocabulary {path} is not UTF-8")))?;
    let mut all = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let column = line.rsplit(',').next().unwrap_or(line).trim();
        let w = column
            .parse::<f32>()
            .map_err(|_| Error::invalid(format!("Wrong vocabulary format at line {}: {line:?} of {path}", n + 1)))?;
        all.push(w);
    }
    Ok(all)
}

fn fixed(init: &KernelInit<'_>, range: usize) -> Result<Sampler> {
    let (file, list) = (init.attrs.str("vocab_file")?, init.attrs.floats("unigrams")?);
    let given = match (file, list.is_empty()) {
        ("", true) => return Err(Error::invalid("Must provide either vocab_file or unigrams.")),
        ("", false) => list,
        (_, false) => return Err(Error::invalid("Must only provide one of vocab_file and unigrams.")),
        (path, true) => from_file(path, init.resources.files())?,
    };
    let (shards, shard) = (init.attrs.int("num_shards")?, init.attrs.int("shard")?);
    if shards < 1 || !(0..shards).contains(&shard) {
        return Err(Error::invalid(format!(
            "shard must be from 0 to {shards} - 1 (num_shards), got {shard}"
        )));
    }
    let reserved = usize::try_from(init.attrs.int("num_reserved_ids")?).unwrap_or(0);
    let distortion = init.attrs.float("distortion")?;
    if reserved > range {
        return Err(Error::invalid(format!(
            "num_reserved_ids {reserved} exceeds range_max {range}"
        )));
    }
    let mine = |i: usize| (i as i64) % shards == shard;
    let mut weights: Vec<f32> = (0..reserved).filter(|i| mine(*i)).map(|_| 0.0).collect();
    let mut total = 0.0f32;
    for (i, w) in given.into_iter().enumerate() {
        if mine(reserved + i) {
            let w = if distortion == 1.0 { w } else { w.powf(distortion) };
            weights.push(w);
            total += w;
        }
    }
    if weights.len() != range {
        return Err(Error::invalid(format!(
            "range is {range} must be equal to weights size {}",
            weights.len()
        )));
    }
    Sampler::fixed(weights, total)
}

impl Candidates {
    fn of(init: &KernelInit<'_>) -> Result<Candidates> {
        let (sampled, columns) = (positive(init, "num_sampled")?, positive(init, "num_true")?);
        let range = || init.attrs.int("range_max").map(|n| n.max(1) as u64);
        let source = match init.op {
            "AllCandidateSampler" => Source::Fixed(Sampler::All(sampled as u64)),
            "UniformCandidateSampler" => Source::Fixed(Sampler::Uniform(range()?)),
            "LogUniformCandidateSampler" => Source::Fixed(Sampler::LogUniform(range()?)),
            "FixedUnigramCandidateSampler" => Source::Fixed(fixed(init, positive(init, "range_max")?)?),
            _ => Source::Learned(init.name.to_owned(), positive(init, "range_max")?),
        };
        Ok(Candidates {
            source,
            sampled,
            columns,
            unique: init.attrs.bool("unique")?,
            stream: Stream::new(init)?,
        })
    }

    fn memory(&self, resources: &Arc<ResourceManager>, name: &str, range: usize) -> Result<Arc<Memory>> {
        let make = || Ok(Memory(Mutex::new(Sampler::learned(range))));
        // No node can have this name.
        resources
            .get_or_create("", &format!("{name}:counts"), make)?
            .get::<Memory>()
    }

    fn draw(&self, cx: &mut OpContext<'_>, sampler: &mut Sampler) -> Result<()> {
        let t = cx.input(0)?;
        let &[rows, columns] = t.shape().dims() else {
            return Err(Error::invalid(format!(
                "true_classes must be a matrix, got shape {}",
                t.shape()
            )));
        };
        if columns != self.columns {
            return Err(Error::invalid(format!(
                "true_classes must have num_true columns, expected: {columns} was: {}",
                self.columns
            )));
        }
        let range = sampler.range();
        if self.unique && self.sampled > sampler.possible() {
            return Err(Error::invalid(format!(
                "Sampler's range is too small: {} different classes of {}",
                self.sampled,
                sampler.possible()
            )));
        }
        let classes = t.as_slice::<i64>()?;
        if let Some(c) = classes.iter().find(|c| u64::try_from(**c).map_or(true, |c| c >= range)) {
            return Err(Error::invalid(format!(
                "`true_candidate` out of range [0, {range}), received {c}"
            )));
        }
        let mut random = Singles::new(self.stream.reserve(512 * self.sampled as u64));
        let batch = sampler.batch(self.sampled, self.unique, classes, &mut random);
        sampler.update(classes);
        let expected = Tensor::from_slice([rows, columns], &batch.true_expected)?;
        cx.set_output(0, Tensor::vector(&batch.classes));
        cx.set_output(1, expected);
        cx.set_output(2, Tensor::vector(&batch.expected));
        Ok(())
    }
}

impl Kernel for Candidates {
    fn compute(&self, cx: &mut OpContext<'_>) -> Result<()> {
        match &self.source {
            Source::Fixed(Sampler::All(n)) => self.draw(cx, &mut Sampler::All(*n)),
            Source::Fixed(Sampler::Uniform(n)) => self.draw(cx, &mut Sampler::Uniform(*n)),
            Source::Fixed(Sampler::LogUniform(n)) => self.draw(cx, &mut Sampler::LogUniform(*n)),
            Source::Fixed(Sampler::Fixed { weights, total, alias }) => {
                let mut own = Sampler::Fixed {
                    weights: weights.clone(),
                    total: *total,
                    alias: alias.clone(),
                };
                self.draw(cx, &mut own)
            }
            Source::Fixed(Sampler::Learned { .. }) => Err(Error::internal("a sampler that learns is kept elsewhere")),
            Source::Learned(name, range) => {
                let memory = self.memory(&cx.step().resources, name, *range)?;
                let mut sampler = memory.0.lock();
                self.draw(cx, &mut sampler)
            }
        }
    }
}

fn sampler(name: &'static str) -> OpDef {
    let mut def = OpDef::new(name, Category::Random)
        .doc("Classes drawn at random, and how often each of them and each true class is expected among them.")
        .input("true_classes: int64")
        .output("sampled_candidates: int64")
        .output("true_expected_count: float")
        .output("sampled_expected_count: float")
        .attr("num_true: int >= 1")
        .attr("num_sampled: int >= 1")
        .attr("unique: bool");
    if name != "AllCandidateSampler" {
        def = def.attr("range_max: int >= 1");
    }
    if name == "FixedUnigramCandidateSampler" {
        def = def
            .attr("vocab_file: string = ''")
            .attr("distortion: float = 1.0")
            .attr("num_reserved_ids: int = 0")
            .attr("num_shards: int >= 1 = 1")
            .attr("shard: int >= 0 = 0")
            .attr("unigrams: list(float) = []");
    }
    def.attr("seed: int = 0")
        .attr("seed2: int = 0")
        .stateful()
        .not_differentiable()
        .shape(|cx| {
            let known = |name: &str| Ok::<_, Error>(usize::try_from(cx.attrs().int(name)?).ok());
            let rows = cx.input(0).with_rank(2)?.dim(0);
            let sampled = PartialShape::vector(known("num_sampled")?);
            let expected = PartialShape::from([rows, known("num_true")?]);
            Ok(vec![sampled.clone(), expected, sampled])
        })
        .cpu(|init| Ok(Box::new(Candidates::of(init)?)))
}

fn samplers() -> Vec<OpDef> {
    [
        "UniformCandidateSampler",
        "LogUniformCandidateSampler",
        "LearnedUnigramCandidateSampler",
        "ThreadUnsafeUnigramCandidateSampler",
        "FixedUnigramCandidateSampler",
        "AllCandidateSampler",
    ]
    .map(sampler)
    .into()
}

fn hits(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let columns = positive(init, "num_true")?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let (t, sampled) = (cx.input(0)?, cx.input(1)?);
        if t.shape().rank() != 2 || t.shape()[1] != columns {
            return Err(Error::invalid(format!(
                "true_classes must be a batch_size * num_true matrix with {columns} columns, got shape {}",
                t.shape()
            )));
        }
        if sampled.shape().rank() != 1 {
            return Err(Error::invalid(format!(
                "sampled_candidates must be a vector, which is typically an output from CandidateSampler, got shape {}",
                sampled.shape()
            )));
        }
        let places: HashMap<i64, i64> = sampled
            .as_slice::<i64>()?
            .iter()
            .zip(0..)
            .map(|(c, i)| (*c, i))
            .collect();
        let (mut indices, mut ids) = (Vec::new(), Vec::new());
        for (i, c) in t.as_slice::<i64>()?.iter().enumerate() {
            if let Some(at) = places.get(c) {
                indices.push(i32::try_from(i / columns).unwrap_or(i32::MAX));
                ids.push(*at);
            }
        }
        let weights = vec![f32::MIN; ids.len()];
        cx.set_output(0, Tensor::vector(&indices));
        cx.set_output(1, Tensor::vector(&ids));
        cx.set_output(2, Tensor::vector(&weights));
        Ok(())
    }))
}

fn accidental_hits() -> OpDef {
    OpDef::new("ComputeAccidentalHits", Category::Random)
        .doc("Where true classes are among the sampled ones: rows, places and weights that mask them.")
        .input("true_classes: int64")
        .input("sampled_candidates: int64")
        .output("indices: int32")
        .output("ids: int64")
        .output("weights: float")
        .attr("num_true: int")
        .attr("seed: int = 0")
        .attr("seed2: int = 0")
        .not_differentiable()
        .shape(|cx| {
            cx.input(0).with_rank(2)?;
            cx.input(1).with_rank(1)?;
            Ok(vec![PartialShape::vector(None); 3])
        })
        .cpu(hits)
}

register_ops!(all samplers);
register_ops!(accidental_hits);
