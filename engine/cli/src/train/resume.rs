//! Checkpoints of a training, and going on from one.
//!
//! A checkpoint has the model's variables, the optimizer's, and three more: the number of steps made, the sum of the
//! losses of the epoch that has begun, and a fingerprint of what decides the order of the rows. With them a training that
//! was killed goes on to the same numbers as one that was not.

use actorflow::checkpoint::Reader;
use actorflow::train::saver::SavedVariable;
use actorflow::{DType, Error, Operation, Output, Result, Saver, SaverOptions, Session, Tensor, Variable};
use actorflow::{GraphVariables, latest_checkpoint};

use super::Args;
use super::data::Split;
use super::model::Model;

/// How far a training has come.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Progress {
    /// Steps made.
    pub(super) steps: u64,
    /// The sum of the losses of the steps of the present epoch.
    pub(super) loss: f64,
}

/// Saves a training every so many steps.
pub(super) struct Checkpoints {
    saver: Saver,
    prefix: String,
    every: u64,
    steps: Variable,
    loss: Variable,
    fingerprint: Variable,
    own: i64,
    note: Operation,
    feeds: [Output; 3],
}

impl Checkpoints {
    /// Adds to the model's graph what saves and restores; `None` if the user wants no checkpoints.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the directory is no text.
    pub(super) fn new(args: &Args, split: &Split, model: &Model) -> Result<Option<Checkpoints>> {
        let Some(dir) = &args.checkpoint else {
            return Ok(None);
        };
        let dir = dir
            .to_str()
            .ok_or_else(|| Error::invalid(format!("{} is not UTF-8", dir.display())))?;
        let g = &model.graph;
        let variable = |name: &str, zero: Tensor| g.variable_builder(name).not_trainable().build(zero);
        let steps = variable("progress/steps", Tensor::from(0i64))?;
        let loss = variable("progress/loss", Tensor::from(0f64))?;
        let fingerprint = variable("progress/fingerprint", Tensor::from(0i64))?;
        let feeds = [
            g.placeholder("progress/feed_steps", DType::I64, actorflow::PartialShape::scalar())?,
            g.placeholder("progress/feed_loss", DType::F64, actorflow::PartialShape::scalar())?,
            g.placeholder(
                "progress/feed_fingerprint",
                DType::I64,
                actorflow::PartialShape::scalar(),
            )?,
        ];
        let set = [
            steps.assign(&feeds[0])?,
            loss.assign(&feeds[1])?,
            fingerprint.assign(&feeds[2])?,
        ];
        let note = g.group("progress/note", &set)?;
        let all = g.variables()?;
        let options = SaverOptions {
            variables: Some(all.iter().map(|v| SavedVariable::new(v.name(), v.handle())).collect()),
            ..SaverOptions::default()
        };
        Ok(Some(Checkpoints {
            saver: Saver::new(g, options)?,
            prefix: format!("{}/model.ckpt", dir.trim_end_matches('/')),
            every: args.checkpoint_every.map_or(u64::MAX, u64::from),
            steps,
            loss,
            fingerprint,
            own: fingerprint_of(args, split, model),
            note,
            feeds,
        }))
    }

    /// Restores the latest checkpoint of the directory; `None` if there is none.
    ///
    /// # Errors
    /// `DATA_LOSS` if it is damaged; `INVALID_ARGUMENT` if it is of another training.
    pub(super) fn resume(&self, session: &Session) -> Result<Option<Progress>> {
        let dir = self.prefix.trim_end_matches("model.ckpt").trim_end_matches('/');
        let dir = if dir.is_empty() { "/" } else { dir };
        self.saver.recover(dir)?;
        let Some(path) = latest_checkpoint(dir)? else {
            return Ok(None);
        };
        // Variables of another model need not even have the same shapes.
        self.check_fingerprint(&path)?;
        self.saver.restore(session, &path)?;
        let got = session.run(&[], &[self.steps.value(), self.loss.value()])?;
        Ok(Some(Progress {
            steps: u64::try_from(got[0].to_scalar::<i64>()?)
                .map_err(|_| Error::data_loss(format!("{path} says that less than no step was made")))?,
            loss: got[1].to_scalar::<f64>()?,
        }))
    }

    /// Whether the checkpoint is of this training.
    fn check_fingerprint(&self, path: &str) -> Result<()> {
        let reader = Reader::open(path)?;
        let name = self.fingerprint.name();
        if !reader.entries().contains_key(&name) {
            return Err(Error::invalid(format!(
                "{path} was not written by `actorflow train`; give another --checkpoint directory"
            )));
        }
        if reader.tensor(&name)?.to_scalar::<i64>()? != self.own {
            return Err(Error::invalid(format!(
                "{path} was written by a training with other data, batch, seed, model, hidden units, optimizer or learning \
                 rate; give the same options, or another --checkpoint directory"
            )));
        }
        Ok(())
    }

    /// Saves if it is time.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn step(&self, session: &Session, now: &Progress) -> Result<()> {
        match now.steps.is_multiple_of(self.every) {
            true => self.save(session, now),
            false => Ok(()),
        }
    }

    /// Saves.
    ///
    /// # Errors
    /// What the file system says.
    pub(super) fn save(&self, session: &Session, now: &Progress) -> Result<()> {
        let [steps, loss, fingerprint] = &self.feeds;
        let step = i64::try_from(now.steps).unwrap_or(i64::MAX);
        let run = session.runner().feed(steps, step).feed(loss, now.loss);
        run.feed(fingerprint, self.own).target(&self.note).run()?;
        self.saver.save(session, &self.prefix, Some(step)).map(drop)
    }
}

/// What must be the same for a training to go on as if it had not stopped. The number of epochs may be another one,
/// unless the learning rate falls by it.
fn fingerprint_of(args: &Args, split: &Split, model: &Model) -> i64 {
    let mut h = Fnv::default();
    for name in [args.dataset.name(), args.model.name(), args.optimizer.name()] {
        h.bytes(name.as_bytes());
        h.bytes(&[0]);
    }
    let epochs = if args.model.rate_falls() { args.epochs() } else { 0 };
    let sizes = [
        model.parameters as u64,
        split.width as u64,
        model.rate.to_bits(),
        args.seed,
    ];
    for n in sizes.into_iter().chain([u64::from(args.batch), u64::from(epochs)]) {
        h.bytes(&n.to_le_bytes());
    }
    for (label, row) in split
        .train
        .labels
        .iter()
        .zip(split.train.pixels.chunks(split.width.max(1)))
    {
        h.bytes(&label.to_le_bytes());
        for p in row {
            h.bytes(&p.to_le_bytes());
        }
    }
    h.0 as i64
}

/// The hash FNV-1a, which is the same in every version of the program.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn bytes(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
