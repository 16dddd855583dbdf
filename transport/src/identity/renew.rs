//! Keeping an identity fresh: renewal before it expires, and the revocations of others.
#![forbid(unsafe_code)]

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use actorflow_core::{Error, Result};

use super::clock::seconds;
use super::crypto::sha256;
use super::join_quic::{fetch_revocations, renew};
use super::node::Identity;

/// How often the revocations are fetched, unless somebody asks for another time.
pub const REVOCATIONS_EVERY: Duration = Duration::from_secs(60);

/// How long one attempt may take, which is also how long a [`Renewer`] that is dropped may have to wait.
const ATTEMPT: Duration = Duration::from_secs(5);

/// The waits after the first failure and after many.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// The longest wait between two looks at the clock, so that one that is set, or a machine that slept, is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What a [`Renewer`] reports.
#[derive(Debug, Clone)]
pub enum Update {
    /// The certificate was renewed: use, and save, this identity from now on.
    Renewed(Identity),
    /// Others' certificates were revoked: the same identity, with the new list.
    Revocations(Identity),
    /// An attempt failed; the next one follows after a wait. The identity in use stays as it is.
    Failed {
        /// Why.
        error: Error,
        /// How long until the next attempt.
        retry_in: Duration,
    },
}

/// Renews an identity when two thirds of its lifetime have passed and fetches revocations in between, on a thread of its
/// own. Dropping it ends the thread, after the attempt in progress (at most 5 s).
#[derive(Debug)]
pub struct Renewer {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Renewer {
    /// Keeps `identity` fresh by the authority at `addr` (`HOST:PORT`), with the revocations fetched every
    /// [`REVOCATIONS_EVERY`]. `report` is called on the renewer's thread.
    ///
    /// # Errors
    /// Those of starting the thread.
    pub fn start(addr: &str, identity: Identity, report: impl FnMut(Update) + Send + 'static) -> Result<Renewer> {
        Self::start_with(addr, identity, REVOCATIONS_EVERY, report)
    }

    /// As [`start`](Self::start), with another time between two fetches of the revocations.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        addr: &str,
        identity: Identity,
        revocations_every: Duration,
        report: impl FnMut(Update) + Send + 'static,
    ) -> Result<Renewer> {
        Self::begin(addr, identity, revocations_every, None, report)
    }

    /// As [`start_with`](Self::start_with), for an identity that was [refreshed](refresh) just now.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_fresh(
        addr: &str,
        identity: Identity,
        revocations_every: Duration,
        report: impl FnMut(Update) + Send + 'static,
    ) -> Result<Renewer> {
        Self::begin(addr, identity, revocations_every, Some(Instant::now()), report)
    }

    fn begin(
        addr: &str,
        identity: Identity,
        every: Duration,
        fetched: Option<Instant>,
        report: impl FnMut(Update) + Send + 'static,
    ) -> Result<Renewer> {
        let (stop, stopped) = mpsc::channel();
        let addr = addr.to_owned();
        let thread = thread::Builder::new()
            .name("actorflow-renew".to_owned())
            .spawn(move || run(&addr, identity, every, fetched, report, &stopped))
            .map_err(|error| Error::from(error).context("no thread to renew the certificate"))?;
        Ok(Renewer {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Ends it, without waiting for the attempt in progress.
    pub fn stop(mut self) {
        drop(self.stop.take());
        drop(self.thread.take());
    }
}

/// The identity as the authority at `addr` (`HOST:PORT`) has it now: renewed if that is due, else the same one with the
/// present revocations. Blocks, at most until `deadline`.
///
/// # Errors
/// As [`renew`].
pub fn refresh(addr: &str, identity: &Identity, deadline: Instant) -> Result<Identity> {
    match next(identity, SystemTime::now(), None, REVOCATIONS_EVERY) {
        Next::Renew => renew(addr, identity, deadline),
        _ => Ok(identity.with_revocations(&fetch_revocations(addr, identity, deadline)?)),
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            // `report` itself may drop the renewer; a thread cannot wait for its own end.
            && thread.thread().id() != thread::current().id()
        {
            // A thread that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Renew,
    FetchRevocations,
    Wait(Duration),
}

/// Decides from the certificate's dates, the wall clock, and the time since the last fetch.
fn next(identity: &Identity, now: SystemTime, fetched: Option<Duration>, every: Duration) -> Next {
    let until_renewal = renewal_at(identity).saturating_sub(seconds(now));
    if until_renewal == 0 {
        return Next::Renew;
    }
    match fetched.and_then(|passed| every.checked_sub(passed)) {
        Some(left) if !left.is_zero() => Next::Wait(left.min(Duration::from_secs(until_renewal)).min(LONGEST_WAIT)),
        _ => Next::FetchRevocations,
    }
}

/// When to renew, in seconds since 1970: after two thirds of the lifetime, and up to a twelfth of it later, spread by the
/// serial number, so that tasks started together do not ask together.
fn renewal_at(identity: &Identity) -> u64 {
    let lifetime = seconds(identity.not_after()).saturating_sub(identity.not_before());
    let spread = u64::from(sha256(identity.serial().as_bytes())[0]);
    identity.not_before() + lifetime / 3 * 2 + lifetime / 12 * spread / 256
}

/// The wait after `failures` failures in a row. A short life leaves room for several attempts before its end.
fn backoff(failures: u32, identity: &Identity) -> Duration {
    let lifetime = seconds(identity.not_after()).saturating_sub(identity.not_before());
    let doublings = failures.saturating_sub(1).min(16);
    (FIRST_RETRY * (1 << doublings))
        .min(LAST_RETRY)
        .min(Duration::from_secs(lifetime / 24))
        .max(FIRST_RETRY)
}

fn run(
    addr: &str,
    mut identity: Identity,
    every: Duration,
    mut fetched: Option<Instant>,
    mut report: impl FnMut(Update),
    stopped: &mpsc::Receiver<()>,
) {
    let mut failures = 0u32;
    loop {
        let passed = fetched.map(|at| at.elapsed());
        let attempt = match next(&identity, SystemTime::now(), passed, every) {
            Next::Wait(wait) => match stopped.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => continue,
                _ => return,
            },
            Next::Renew => identity
                .check_dates(SystemTime::now())
                .and_then(|()| renew(addr, &identity, Instant::now() + ATTEMPT))
                .map(|renewed| Some(Update::Renewed(renewed))),
            Next::FetchRevocations => fetch_revocations(addr, &identity, Instant::now() + ATTEMPT).map(|list| {
                let news = list != *identity.revocations();
                news.then(|| Update::Revocations(identity.with_revocations(&list)))
            }),
        };
        let wait = match attempt {
            Ok(update) => {
                failures = 0;
                fetched = Some(Instant::now());
                if let Some(Update::Renewed(fresh) | Update::Revocations(fresh)) = &update {
                    identity = fresh.clone();
                }
                if let Some(update) = update {
                    report(update);
                }
                Duration::ZERO
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let retry_in = backoff(failures, &identity);
                report(Update::Failed { error, retry_in });
                retry_in
            }
        };
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::super::join_quic::serve;
    use super::super::{Authority, Subject};
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MINUTE: Duration = Duration::from_secs(60);

    fn subject() -> Subject {
        "task/ps/0".parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn renewal_is_due_after_two_thirds_of_the_lifetime_and_before_three_quarters() {
        let authority = Authority::ephemeral("c").unwrap();
        for _ in 0..20 {
            let identity = authority.issue(subject(), DAY).unwrap();
            let (start, end) = (identity.not_before(), seconds(identity.not_after()));
            let due = renewal_at(&identity);
            assert!(due >= start + (end - start) / 3 * 2 && due <= start + (end - start) / 4 * 3);
            assert_eq!(next(&identity, at(due), Some(Duration::ZERO), MINUTE), Next::Renew);
            let before = next(&identity, at(due - 1), Some(Duration::ZERO), MINUTE);
            assert_eq!(before, Next::Wait(Duration::from_secs(1)));
        }
    }

    #[test]
    fn revocations_are_fetched_at_once_and_then_at_intervals() {
        let authority = Authority::ephemeral("c").unwrap();
        let identity = authority.issue(subject(), DAY).unwrap();
        let now = SystemTime::now();
        assert_eq!(next(&identity, now, None, MINUTE), Next::FetchRevocations);
        assert_eq!(next(&identity, now, Some(MINUTE), MINUTE), Next::FetchRevocations);
        let wait = next(&identity, now, Some(MINUTE / 2), MINUTE);
        assert_eq!(wait, Next::Wait(MINUTE / 2));
        let long = next(&identity, now, Some(Duration::ZERO), DAY);
        assert_eq!(long, Next::Wait(LONGEST_WAIT));
    }

    #[test]
    fn retries_are_further_and_further_apart_up_to_a_bound() {
        let authority = Authority::ephemeral("c").unwrap();
        let identity = authority.issue(subject(), DAY).unwrap();
        assert_eq!(backoff(1, &identity), Duration::from_secs(1));
        assert_eq!(backoff(4, &identity), Duration::from_secs(8));
        assert_eq!(backoff(u32::MAX, &identity), LAST_RETRY);
        let short = authority.issue(subject(), MINUTE * 4).unwrap();
        assert!(backoff(u32::MAX, &short) <= Duration::from_secs(11));
    }

    #[test]
    fn an_aging_identity_is_renewed_and_learns_of_revocations() {
        let authority = Authority::ephemeral("c").unwrap();
        let service = serve("127.0.0.1:0".parse().unwrap(), &authority).unwrap();
        let aged = SystemTime::now() - DAY / 24 * 20;
        let old = authority.issue_at(subject(), DAY, aged).unwrap();
        let (sender, updates) = mpsc::channel();
        let addr = service.addr().to_string();
        let every = Duration::from_millis(10);
        let renewer = Renewer::start_with(&addr, old.clone(), every, move |update| {
            // The test may have ended.
            let _ = sender.send(update);
        });
        let _renewer = renewer.unwrap();
        let Ok(Update::Renewed(fresh)) = updates.recv_timeout(MINUTE) else {
            panic!("a renewed identity comes first");
        };
        assert_eq!(fresh.subject(), old.subject());
        assert!(fresh.not_after() > old.not_after() && fresh.serial() != old.serial());

        let other = authority.issue("task/ps/1".parse().unwrap(), DAY).unwrap();
        authority.revoke(other.serial()).unwrap();
        let Ok(Update::Revocations(warned)) = updates.recv_timeout(MINUTE) else {
            panic!("the new list comes next");
        };
        assert!(warned.revocations().contains(other.serial()));
        assert_eq!(warned.serial(), fresh.serial());
    }

    #[test]
    fn an_identity_is_refreshed_at_once() {
        let authority = Authority::ephemeral("c").unwrap();
        let service = serve("127.0.0.1:0".parse().unwrap(), &authority).unwrap();
        let (addr, until) = (service.addr().to_string(), Instant::now() + MINUTE);
        let other = authority.issue("task/ps/1".parse().unwrap(), DAY).unwrap();
        authority.revoke(other.serial()).unwrap();
        let young = authority.issue(subject(), DAY).unwrap();
        let same = refresh(&addr, &young, until).unwrap();
        assert_eq!(same.serial(), young.serial());
        assert!(same.revocations().contains(other.serial()));
        let aged = SystemTime::now() - DAY / 24 * 20;
        let old = authority.issue_at(subject(), DAY, aged).unwrap();
        let renewed = refresh(&addr, &old, until).unwrap();
        assert!(renewed.serial() != old.serial() && renewed.revocations().contains(other.serial()));
    }

    #[test]
    fn an_authority_that_is_away_is_reported_and_dropping_the_renewer_ends_it() {
        let authority = Authority::ephemeral("c").unwrap();
        let old = authority.issue_at(subject(), DAY, SystemTime::now() - DAY * 2).unwrap();
        let (sender, updates) = mpsc::channel();
        let renewer = Renewer::start("127.0.0.1:1", old, move |update| {
            let _ = sender.send(update);
        });
        let Ok(Update::Failed { error, retry_in }) = updates.recv_timeout(MINUTE) else {
            panic!("a failure is reported");
        };
        assert!(error.message().contains("join again"), "{error}");
        assert_eq!(retry_in, FIRST_RETRY);
        drop(renewer);
        assert!(updates.iter().count() < 2);
    }
}
