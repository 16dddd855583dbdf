//! Replicas as threads, servers as actors, and a scheduler that chooses who goes on.

pub(crate) mod actors;
pub(crate) mod replica;
pub(crate) mod ring;
pub(crate) mod world;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Runs a model under many schedules: half of them at random, half with few changes of who goes first (PCT, Burckhardt et
/// al. 2010). A model that cannot go on, as all of its threads wait, fails; so does one that does not end.
///
/// `ACTORFLOW_SCHEDULES` says how many there are.
pub(crate) fn schedules(model: impl Fn() + Send + Sync + Clone + 'static) {
    let all = std::env::var("ACTORFLOW_SCHEDULES").map_or(200, |n| n.parse().expect("a number of schedules"));
    let config = || {
        let mut config = Config::new();
        config.stack_size = 512 << 10;
        config
    };
    Runner::new(RandomScheduler::new_from_seed(1, all / 2), config()).run(model.clone());
    Runner::new(PctScheduler::new_from_seed(2, 3, all - all / 2), config()).run(model);
}
