//! A reader's progress. TensorFlow's `ReaderBase`.

#![forbid(unsafe_code)]

use std::sync::{Arc, Weak};

use actorflow_core::Tensor;
use actorflow_core::actor::{Actor, Mailbox};
use actorflow_core::cancel::CancelToken;
use actorflow_core::error::{Error, Result};
use actorflow_core::files::FilePolicy;
use actorflow_core::kernel::{Continuation, Resume};
use bytes::Bytes;

use super::source::{Format, Source};
use crate::ops::queue::room::{Counter, Desk, Room, Served, ask, later};
use crate::ops::queue::state::{Queue, Request as QueueRequest};
use crate::protobuf::{Message, Value, fields};

/// A request for records.
pub struct Request {
    /// Where the names of files come from.
    queue: Arc<Desk<Queue>>,
    /// The most records of a batch; `None` for a single one.
    most: Option<usize>,
    keys: Vec<Bytes>,
    values: Vec<Bytes>,
    /// Set when it first asks for work; tells its answer from those of others.
    number: u64,
    step: (u64, CancelToken),
}

impl Request {
    /// A request of a step.
    pub fn new(queue: Arc<Desk<Queue>>, most: Option<usize>, step: (u64, CancelToken)) -> Request {
        Request {
            queue,
            most,
            keys: Vec::new(),
            values: Vec::new(),
            number: 0,
            step,
        }
    }

    fn finish(&mut self) -> Result<Vec<Tensor>> {
        let (keys, values) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.values));
        let list = |v: Vec<Bytes>| match self.most {
            Some(_) => Tensor::strings([v.len()], v),
            None => Ok(Tensor::string(v.into_iter().next().unwrap_or_default())),
        };
        Ok(vec![list(keys)?, list(values)?])
    }
}

/// The state of a reader.
pub struct Reader {
    name: String,
    format: Arc<Format>,
    files: FilePolicy,
    me: Weak<Actor<Room<Reader>>>,
    source: Option<Source>,
    progress: Progress,
    /// The request whose work is on its way.
    asked: Option<u64>,
    /// What came of it.
    arrived: Option<(u64, Result<Bytes>)>,
    next: u64,
}

/// How far a reader has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Names that were taken from queues.
    pub started: i64,
    /// Of these, those that are read to the end.
    pub finished: i64,
    /// Records that were given.
    pub produced: i64,
    /// The last name that was taken.
    pub work: Bytes,
}

/// Delivers the name of a file to a reader.
struct ToReader {
    reader: Weak<Actor<Room<Reader>>>,
    number: u64,
    step: (u64, CancelToken),
}

impl Resume for ToReader {
    fn resume(self: Box<Self>, outputs: Result<Vec<Tensor>>) {
        let number = self.number;
        let name = outputs.and_then(|o| match o.first().map(Tensor::as_strings) {
            Some(Ok([s])) => Ok(s.clone()),
            _ => Err(Error::invalid(
                "Expected to dequeue a one-element string tensor as a reader's work",
            )),
        });
        if let Some(reader) = self.reader.upgrade() {
            later(&reader, move |r: &mut Reader| {
                r.asked = None;
                r.arrived = Some((number, name));
            });
        }
    }

    fn step_id(&self) -> u64 {
        self.step.0
    }

    fn cancel(&self) -> &CancelToken {
        &self.step.1
    }
}

impl Reader {
    /// A reader's desk; it reads what `files` allows.
    pub fn desk(name: &str, format: Format, files: FilePolicy, mailbox: Box<dyn Mailbox>) -> Desk<Reader> {
        let format = Arc::new(format);
        let reader = Reader {
            name: name.to_owned(),
            format: format.clone(),
            files,
            me: Weak::new(),
            source: None,
            progress: Progress::default(),
            asked: None,
            arrived: None,
            next: 0,
        };
        let desk = Desk::new(name, format, reader, mailbox);
        let me = Arc::downgrade(desk.actor());
        // Nobody else knows the actor yet, so this runs at once.
        desk.actor().send(move |room| room.counter.me = me);
        desk
    }

    /// How far it has come.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Forgets everything.
    pub fn reset(&mut self) {
        self.source = None;
        self.progress = Progress::default();
        self.arrived = None;
    }

    fn serializable(&self) -> Result<()> {
        match *self.format {
            Format::Name | Format::Whole => Ok(()),
            _ => Err(Error::unimplemented(format!(
                "Reader {:?} cannot save or restore its state",
                self.name
            ))),
        }
    }

    /// The progress as bytes, TensorFlow's `ReaderBaseState`.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` for readers whose place in a file is a part of their state.
    pub fn saved(&self) -> Result<Vec<u8>> {
        self.serializable()?;
        let p = &self.progress;
        Ok(Message::default()
            .int(1, p.started as u64)
            .int(2, p.finished as u64)
            .int(3, p.produced as u64)
            .bytes(4, &p.work)
            .done())
    }

    /// Goes on where a reader was saved; forgets everything if it cannot.
    ///
    /// # Errors
    /// `UNIMPLEMENTED` as [`saved`](Self::saved); `INVALID_ARGUMENT` for anything that is no such state.
    pub fn restore(&mut self, state: &[u8]) -> Result<()> {
        let restored = self.try_restore(state);
        if restored.is_err() {
            self.reset();
        }
        restored
    }

    fn try_restore(&mut self, state: &[u8]) -> Result<()> {
        self.serializable()?;
        let p =
            parsed(state).ok_or_else(|| Error::invalid(format!("Could not parse state for reader {:?}", self.name)))?;
        if p.started < 0 || p.finished < 0 || p.produced < 0 || p.finished > p.started {
            return Err(Error::invalid(format!(
                "Unexpected state for reader {:?}: started {}, finished {}, produced {}",
                self.name, p.started, p.finished, p.produced
            )));
        }
        self.source = match p.started > p.finished {
            true => Some(Source::open(p.work.clone(), &self.format, &self.files)?),
            false => None,
        };
        self.progress = p;
        self.arrived = None;
        Ok(())
    }

    /// Starts on a source if none is being read; `false` if the name of one is on its way.
    fn start(&mut self, request: &mut Request) -> Result<bool> {
        while self.source.is_none() {
            match self.arrived.take() {
                Some((_, Ok(name))) => {
                    self.source = Some(Source::open(name.clone(), &self.format, &self.files)?);
                    self.progress.work = name;
                    self.progress.started += 1;
                }
                Some((number, Err(e))) if number == request.number => return Err(e),
                // The request that asked is gone.
                Some(_) => {}
                None => {
                    if self.asked.is_none() {
                        self.next += 1;
                        request.number = self.next;
                        self.asked = Some(self.next);
                        let to = ToReader {
                            reader: self.me.clone(),
                            number: self.next,
                            step: request.step.clone(),
                        };
                        ask(
                            request.queue.actor(),
                            QueueRequest::Dequeue,
                            Continuation::new(Box::new(to)),
                        );
                    }
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn read(&mut self, request: &mut Request) -> Result<bool> {
        let most = request.most.unwrap_or(1);
        while request.keys.len() < most {
            if !self.start(request)? {
                return Ok(false);
            }
            let record = match &mut self.source {
                Some(s) => s.advance()?,
                None => None,
            };
            let last = record.as_ref().is_none_or(|r| r.last);
            if let Some(r) = record {
                self.progress.produced += 1;
                request.keys.push(r.key);
                request.values.push(r.value);
            }
            if last {
                self.source = None;
                self.progress.finished = self.progress.started;
                if !request.keys.is_empty() {
                    break;
                }
            }
        }
        Ok(true)
    }
}

fn parsed(from: &[u8]) -> Option<Progress> {
    let mut p = Progress::default();
    fields(from, |n, value| {
        match (n, value) {
            (1, Value::Varint(x)) => p.started = x as i64,
            (2, Value::Varint(x)) => p.finished = x as i64,
            (3, Value::Varint(x)) => p.produced = x as i64,
            (4, Value::Bytes(work)) => p.work = Bytes::copy_from_slice(work),
            _ => return None,
        }
        Some(())
    })?;
    Some(p)
}

impl Counter for Reader {
    type Request = Request;
    type Info = Arc<Format>;
    const KIND: &'static str = "reader";

    fn line(_: &Request) -> usize {
        0
    }

    fn serve(&mut self, request: &mut Request, _: bool) -> Served {
        match self.read(request) {
            Ok(true) => Served::Done(request.finish()),
            Ok(false) => Served::Waits,
            Err(e) => Served::Done(Err(e)),
        }
    }

    fn withdraw(&mut self, _: Request) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use actorflow_core::actor::local_mailboxes;
    use actorflow_core::error::Code;

    fn reader(format: Format) -> Arc<Actor<Room<Reader>>> {
        Reader::desk("r", format, FilePolicy::anything(), local_mailboxes()())
            .actor()
            .clone()
    }

    #[test]
    fn progress_survives_as_bytes_and_nonsense_is_refused() {
        let state = [8, 130, 1, 16, 1, 24, 7, 34, 2, b'x', b'y'];
        let r = reader(Format::Name);
        let saved = r.call(move |room| room.counter.restore(&state).and_then(|()| room.counter.saved()));
        assert_eq!(saved.unwrap().unwrap(), state);
        for cut in 0..state.len() {
            let part = state[..cut].to_vec();
            // A state may end after any field.
            let whole = [0, 3, 5, 7, 11].contains(&cut);
            assert_eq!(
                r.call(move |room| room.counter.restore(&part).is_ok()).unwrap(),
                whole,
                "{cut}"
            );
        }
        let e = reader(Format::Lines { skip: 0 }).call(|room| room.counter.saved().unwrap_err());
        assert_eq!(e.unwrap().code(), Code::Unimplemented);
    }
}
