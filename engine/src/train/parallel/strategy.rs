//! How the replicas of a model agree about its next values.

use std::fmt;
use std::str::FromStr;

use actorflow_core::{Error, Result};

/// How the replicas of a model agree about its next values. As text: `async`, `async-scaled`, `sync`, `sync+backup1`,
/// `hybrid2x2`, `ssp3`, `allreduce`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// Each replica's gradients are applied on arrival, at most once.
    Async {
        /// Divide the learning rate of an update by one more than the number of updates that its values are old, after
        /// W. Zhang et al., "Staleness-aware Async-SGD", IJCAI 2016.
        scale_by_staleness: bool,
    },
    /// Every update is the mean of the gradients of all replicas but `backup`, whichever come first: J. Chen et al.,
    /// "Revisiting Distributed Synchronous SGD", 2016. Without any in reserve it is what one machine does with the
    /// batches of all.
    Sync {
        /// How many replicas are in reserve.
        backup: usize,
    },
    /// Groups that are synchronous inside and asynchronous among each other.
    Hybrid {
        /// How many groups.
        groups: usize,
        /// How many replicas each.
        replicas: usize,
    },
    /// As `Async`, but nobody is more than `bound` steps ahead of the slowest: Q. Ho et al., "More Effective Distributed ML
    /// via a Stale Synchronous Parallel Parameter Server", NIPS 2013.
    Ssp {
        /// The bound in steps.
        bound: u64,
    },
    /// Synchronous without parameter servers: every replica keeps the parameters, and each adds up a share of the
    /// gradients for all.
    AllReduce,
}

impl Strategy {
    /// Fails unless so many replicas can work by the strategy.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` saying how many it needs.
    pub fn check(self, replicas: usize) -> Result<()> {
        let wrong = |needs: String| {
            Err(Error::invalid(format!(
                "strategy {self} needs {needs}, but there are {replicas} replicas"
            )))
        };
        match self {
            _ if replicas == 0 => wrong("at least 1".to_owned()),
            Strategy::Sync { backup } if backup >= replicas => wrong(format!("more than {backup}")),
            Strategy::Hybrid { groups, replicas: each } if groups.checked_mul(each) != Some(replicas) => {
                wrong(format!("{groups} times {each}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether replicas wait for others before their gradients are applied.
    pub fn is_synchronous(self) -> bool {
        !matches!(self, Strategy::Async { .. } | Strategy::Ssp { .. })
    }

    /// Groups, members of each, how many of them make an update, and the bound on how far one may be ahead.
    pub(super) fn rules(self, replicas: usize) -> (usize, usize, usize, Option<u64>) {
        match self {
            Strategy::Async { .. } => (replicas, 1, 1, None),
            Strategy::Ssp { bound } => (replicas, 1, 1, Some(bound)),
            Strategy::Sync { backup } => (1, replicas, replicas.saturating_sub(backup), None),
            Strategy::Hybrid { groups, replicas } => (groups, replicas, replicas, None),
            Strategy::AllReduce => (1, replicas, replicas, None),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strategy::Async {
                scale_by_staleness: false,
            } => f.write_str("async"),
            Strategy::Async {
                scale_by_staleness: true,
            } => f.write_str("async-scaled"),
            Strategy::Sync { backup: 0 } => f.write_str("sync"),
            Strategy::Sync { backup } => write!(f, "sync+backup{backup}"),
            Strategy::Hybrid { groups, replicas } => write!(f, "hybrid{groups}x{replicas}"),
            Strategy::Ssp { bound } => write!(f, "ssp{bound}"),
            Strategy::AllReduce => f.write_str("allreduce"),
        }
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(s: &str) -> Result<Strategy> {
        let parse = || {
            Some(match s {
                "async" => Strategy::Async {
                    scale_by_staleness: false,
                },
                "async-scaled" => Strategy::Async {
                    scale_by_staleness: true,
                },
                "sync" => Strategy::Sync { backup: 0 },
                "allreduce" => Strategy::AllReduce,
                _ => {
                    if let Some(n) = s.strip_prefix("sync+backup") {
                        return n.parse().ok().map(|backup| Strategy::Sync { backup });
                    }
                    if let Some(n) = s.strip_prefix("ssp") {
                        return n.parse().ok().map(|bound| Strategy::Ssp { bound });
                    }
                    let (groups, replicas) = s.strip_prefix("hybrid")?.split_once('x')?;
                    Strategy::Hybrid {
                        groups: groups.parse().ok().filter(|n| *n > 0)?,
                        replicas: replicas.parse().ok().filter(|n| *n > 0)?,
                    }
                }
            })
        };
        parse().ok_or_else(|| {
            Error::invalid(format!(
                "{s:?} is no strategy; there are async, async-scaled, sync, sync+backup1, hybrid2x2, ssp3 and allreduce, with \
                 any numbers"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strategies_are_read_back_from_their_text() {
        for text in [
            "async",
            "async-scaled",
            "sync",
            "sync+backup2",
            "hybrid2x3",
            "ssp0",
            "ssp12",
            "allreduce",
        ] {
            assert_eq!(text.parse::<Strategy>().unwrap().to_string(), text);
        }
        for wrong in [
            "",
            "Sync",
            "sync+backup",
            "ssp",
            "ssp-1",
            "hybrid2",
            "hybrid0x2",
            "hybrid2x2x2",
        ] {
            assert!(wrong.parse::<Strategy>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_strategy_says_how_many_replicas_it_needs() {
        assert!(Strategy::Sync { backup: 1 }.check(2).is_ok());
        assert!(Strategy::Sync { backup: 2 }.check(2).is_err());
        let hybrid = Strategy::Hybrid { groups: 2, replicas: 2 };
        assert!(hybrid.check(4).is_ok() && hybrid.check(3).is_err());
        assert!(Strategy::AllReduce.check(0).is_err());
    }
}
