//! Which incarnation of a subject is the living one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

/// The incarnation of a visitor: somebody who looks at its peers and is no run of its subject. It neither closes
/// connections of others nor is closed for them, and its peers take no work from it.
pub const VISITOR: u64 = 0;

/// Subjects that are remembered; beyond it the ones with the smallest incarnations are forgotten.
const REMEMBERED: usize = 64 << 10;

/// What is to be done about a peer that has introduced itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first of its subject, or the same as before.
    Welcome,
    /// It is a later run of its subject: connections of earlier ones are to be closed.
    Newer,
    /// A later run of its subject is known: this connection is to be closed.
    Stale {
        /// The latest incarnation known.
        latest: u64,
    },
}

/// The latest incarnation of every subject that has been seen. Only subjects that exist once have one: of a client any
/// number of runs may live at the same time; and a [`VISITOR`] is no run of anybody.
#[derive(Debug, Clone, Default)]
pub struct Fences {
    latest: BTreeMap<String, u64>,
}

impl Fences {
    /// Nothing has been seen.
    pub fn new() -> Fences {
        Fences::default()
    }

    /// Judges a peer by its subject and incarnation, and remembers it.
    pub fn judge(&mut self, subject: &str, incarnation: u64) -> Verdict {
        if incarnation == VISITOR || subject.starts_with("client/") {
            return Verdict::Welcome;
        }
        match self.latest.get_mut(subject) {
            Some(latest) if incarnation < *latest => Verdict::Stale { latest: *latest },
            Some(latest) if incarnation > *latest => {
                *latest = incarnation;
                Verdict::Newer
            }
            Some(_) => Verdict::Welcome,
            None => {
                if self.latest.len() >= REMEMBERED {
                    let oldest = self.latest.iter().min_by_key(|(_, i)| **i).map(|(s, _)| s.clone());
                    oldest.map(|s| self.latest.remove(&s));
                }
                self.latest.insert(subject.to_owned(), incarnation);
                Verdict::Welcome
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_fences_the_earlier_ones_for_good() {
        let mut f = Fences::new();
        assert_eq!(f.judge("task/ps/0", 5), Verdict::Welcome);
        assert_eq!(f.judge("task/ps/0", 5), Verdict::Welcome);
        assert_eq!(f.judge("task/ps/0", 7), Verdict::Newer);
        assert_eq!(f.judge("task/ps/0", 5), Verdict::Stale { latest: 7 });
        assert_eq!(f.judge("task/ps/1", 1), Verdict::Welcome);
    }

    #[test]
    fn a_visitor_neither_fences_nor_is_fenced() {
        let mut f = Fences::new();
        assert_eq!(f.judge("chief/main", VISITOR), Verdict::Welcome);
        assert_eq!(f.judge("chief/main", 3), Verdict::Welcome);
        assert_eq!(f.judge("chief/main", VISITOR), Verdict::Welcome);
        assert_eq!(f.judge("chief/main", 2), Verdict::Stale { latest: 3 });
    }

    #[test]
    fn runs_of_a_client_live_side_by_side() {
        let mut f = Fences::new();
        assert_eq!(f.judge("client/alice", 9), Verdict::Welcome);
        assert_eq!(f.judge("client/alice", 3), Verdict::Welcome);
    }
}
