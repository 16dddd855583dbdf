//! What a connection does with the frames that come.
#![forbid(unsafe_code)]

use std::time::Duration;

use actorflow_core::Error;

use super::connection::{Connection, Greeted};
use super::{Action, BULK, Class, Time};
use crate::frame::{Body, Credit, Fault, Frame, Hello, Outcome, Stamp};

impl<K> Connection<K> {
    /// A frame has come.
    pub fn receive(&mut self, frame: Frame, now: Time) {
        if self.over.is_some() {
            return;
        }
        self.heard(now);
        self.counted.frames_received += 1;
        let incarnation = self.peer.as_ref().map(|p| p.incarnation);
        let Some(incarnation) = incarnation else {
            match frame.body {
                Body::Hello(hello) => self.greet(frame.stamp, hello, now),
                _ => self.fault(&Fault::Malformed("something came before the hello".to_owned())),
            }
            return;
        };
        if frame.stamp.incarnation != incarnation {
            // Whoever sent it took no room on this connection, so none is given back.
            self.counted.stale_incarnation += 1;
            return;
        }
        let bytes = frame.body.payload();
        if frame.credited && !self.inbound.receive(bytes) {
            let what = format!("{bytes} bytes were sent without room for them");
            return self.fault(&Fault::Oversized(what));
        }
        let credited = frame.credited.then_some(bytes);
        let old = frame.stamp.epoch != 0 && frame.stamp.epoch < self.floor;
        if old && !matches!(frame.body, Body::Credit(_) | Body::Ping { .. } | Body::Hello(_)) {
            return self.stale(frame, credited);
        }
        if credited.is_none() && bytes >= BULK {
            let what = format!("{bytes} bytes that take no room");
            return self.fault(&Fault::Malformed(what));
        }
        match frame.body {
            Body::Hello(_) => self.fault(&Fault::Malformed("a second hello".to_owned())),
            Body::Ping { silence } => {
                let deaf = Duration::from_millis(silence) > self.local.timing.idle / 2;
                self.deaf = deaf.then_some(now);
            }
            Body::Credit(credit) => {
                if self.outbound.grant(credit, now) {
                    self.unpark();
                } else {
                    self.fault(&Fault::Malformed("more room than was taken".to_owned()));
                }
            }
            Body::Parcel(parcel) => {
                if credited.is_none() {
                    return self.fault(&Fault::Malformed("a parcel that takes no room".to_owned()));
                }
                self.deliver(Action::Parcel(parcel), credited);
            }
            Body::Notice(message) => self.deliver(Action::Notice(message), credited),
            Body::Request { id, message } => {
                if self.asked.len() >= self.local.limits.pending_requests {
                    let e = Error::exhausted(format!(
                        "{} requests wait for an answer already",
                        self.local.limits.pending_requests
                    ));
                    self.refuse(id, e);
                    return self.dropped(credited);
                }
                if self.asked.insert(id, message.kind).is_some() {
                    return self.fault(&Fault::Malformed("a request's number came twice".to_owned()));
                }
                self.deliver(Action::Request { id, message }, credited);
            }
            Body::Answer { id, outcome } => self.answered(id, outcome, credited),
        }
    }

    fn deliver(&mut self, action: Action<K>, credited: Option<u64>) {
        self.actions.push_back(action);
        self.deliveries.push_back(credited);
    }

    /// Gives back the room of a frame that is not delivered.
    fn dropped(&mut self, credited: Option<u64>) {
        if let Some(bytes) = credited {
            self.delivered(bytes);
        }
    }

    fn refuse(&mut self, id: u64, why: Error) {
        let outcome = Outcome::of(Err(why.in_task(&self.local.subject)));
        self.put(Class::Control, Body::Answer { id, outcome }, false);
    }

    fn answered(&mut self, id: u64, outcome: Outcome, credited: Option<u64>) {
        self.dropped(credited);
        self.requests.was_read(id);
        match self.requests.remove(id) {
            Some(pending) => {
                let result = outcome.into_result();
                self.actions.push_back(Action::Answered(pending.then, result));
            }
            None => self.counted.late_answers += 1,
        }
    }

    /// A frame of an epoch that is over. Who waits for an answer is told, everything else is dropped.
    fn stale(&mut self, frame: Frame, credited: Option<u64>) {
        self.counted.stale_epoch += 1;
        let (theirs, ours) = (frame.stamp.epoch, self.floor);
        let why = Error::aborted(format!(
            "of epoch {theirs}, but the cluster is in epoch {ours}: make a new session, or let the task into the epoch \
             (actorflow cluster epoch)"
        ));
        match frame.body {
            Body::Request { id, .. } => self.refuse(id, why.context("the request is")),
            Body::Answer { id, .. } => {
                let failed = Outcome::of(Err(why.context("the answer is").in_task(&self.subject)));
                return self.answered(id, failed, credited);
            }
            _ => {}
        }
        self.dropped(credited);
    }

    /// The stream cannot be read on, or the peer does what it must not: the connection ends.
    pub fn fault(&mut self, fault: &Fault) {
        match fault {
            Fault::Malformed(_) => self.counted.malformed += 1,
            Fault::Oversized(_) | Fault::Exhausted(_) => self.counted.oversized += 1,
        }
        self.close(fault.to_error());
    }

    fn greet(&mut self, stamp: Stamp, hello: Hello, now: Time) {
        if hello.cluster != self.local.cluster {
            let why = format!(
                "it belongs to cluster {:?}, this side to {:?}",
                hello.cluster, self.local.cluster
            );
            return self.close(Error::unauthenticated(why));
        }
        if hello.subject != self.subject {
            let why = format!("it calls itself {:?} against its certificate", hello.subject);
            return self.close(Error::unauthenticated(why));
        }
        // What is under way is this side's memory, too, whatever the peer says that it takes.
        let own = &self.local.limits;
        let window = Credit {
            frames: hello.window.min(own.in_flight.max(1) as u64),
            bytes: hello.window_bytes.min(own.in_flight_bytes.max(1) as u64),
        };
        self.outbound.open(window, now);
        let (stripe, stripes) = (hello.stripe, hello.stripes);
        self.peer = Some(Greeted {
            incarnation: stamp.incarnation,
            hello,
        });
        self.counted.connected += 1;
        self.actions.push_back(Action::Connected {
            incarnation: stamp.incarnation,
            epoch: stamp.epoch,
            stripe,
            stripes,
        });
    }
}
