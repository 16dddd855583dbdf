//! Workers that go through examples in epochs: the model's gradient says which ones a batch has, so that the parameters
//! count how often each was used.

use std::path::Path;
use std::time::Duration;

use actorflow::cluster::Server;
use actorflow::data::SyncBatches;
use actorflow::train::monitored::MonitoredSession;
use actorflow::train::monitored::hooks::{CheckpointSaverHook, Every};
use actorflow::train::parallel::Replica;
use actorflow::{Code, Result, Session, SessionOptions, Tensor};

use super::Pace;

/// Examples in an epoch: no multiple of what a step uses.
const EXAMPLES: u64 = super::SMALL as u64;
const BATCH: usize = 8;
/// So many epochs are a multiple of it.
pub(crate) const EPOCHS: u64 = 8;

/// One for each use of an example.
fn uses(numbers: &[u64]) -> Result<Vec<Tensor>> {
    let mut uses = vec![0f32; EXAMPLES as usize];
    numbers.iter().for_each(|i| uses[*i as usize] += 1.0);
    Ok(vec![Tensor::vector(&uses)])
}

/// Says how often each example was used, from the fewest times to the most.
fn tell(replica: &Replica) -> Result<()> {
    let scale = replica.options().replicas as f32;
    let all = replica.parameters()?[0].1.to_vec::<f32>()?;
    let all = all.iter().map(|x| -x * scale);
    let least = all.clone().fold(f32::INFINITY, f32::min);
    println!("USES {least} {}", all.fold(f32::NEG_INFINITY, f32::max));
    Ok(())
}

fn batches(replica: &Replica) -> Result<(SyncBatches, usize)> {
    let of = replica.options();
    Ok((SyncBatches::new(EXAMPLES, Some(5), of.replicas, BATCH)?, of.replica))
}

/// Others may still need what this process has.
fn stay() {
    println!("END");
    std::thread::sleep(Duration::from_secs(60));
}

/// Takes steps until all epochs are over.
pub(super) fn train(mut replica: Replica, session: &Session, pace: &Pace) -> Result<()> {
    let (batches, me) = batches(&replica)?;
    replica.start(session)?;
    loop {
        let step = replica.position().and_then(|at| {
            if at >= batches.steps(EPOCHS) {
                return Ok(None);
            }
            pace.wait(at);
            pace.compute();
            replica.step(&uses(&batches.of(at, me)?)?).map(Some)
        });
        match step {
            Ok(Some(r)) => println!("STEP {} {}", r.global_step, u8::from(r.applied)),
            Ok(None) => break,
            Err(e) if matches!(e.code(), Code::Unavailable | Code::Aborted | Code::Cancelled) => {
                std::thread::sleep(Duration::from_millis(50));
                println!("AGAIN {e}");
            }
            Err(e) => return Err(e),
        }
    }
    tell(&replica)?;
    stay();
    Ok(())
}

/// The same in a monitored session, which goes on from a checkpoint when values are lost.
pub(super) fn monitored(
    dir: &Path,
    server: Server,
    replica: Replica,
    options: SessionOptions,
    pace: &Pace,
) -> Result<()> {
    let (batches, me) = batches(&replica)?;
    let checkpoints = dir.join("checkpoints").display().to_string();
    let mut s = MonitoredSession::for_replica(replica)
        .sessions(move |g| Session::on(g, &server, options.clone()))
        .checkpoint_dir(&checkpoints)
        .chief_hook(CheckpointSaverHook::new(&checkpoints, Every::Steps(5)))
        .build()?;
    loop {
        let r = s.step_with(|at| {
            pace.wait(at);
            pace.compute();
            uses(&batches.of(at, me)?)
        })?;
        println!("STEP {} {}", r.global_step, u8::from(r.applied));
        if r.global_step >= batches.steps(EPOCHS) {
            break;
        }
    }
    s.replica().map_or(Ok(()), tell)?;
    stay();
    drop(s);
    Ok(())
}
