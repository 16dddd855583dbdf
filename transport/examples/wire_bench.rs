//! Measures the transport: the round trip of an empty request, a notice with parcels behind it, large tensors, and many of
//! them at once.
//!
//! Between two endpoints of one process, over loopback: `cargo run --release -p actorflow-transport --example wire_bench`.
//! Between machines: `wire_bench serve DIR HOST:PORT` on one, which makes the folder DIR with an identity for each side, and
//! `wire_bench connect DIR HOST:PORT [STRIPES]` on the other, which has a copy of the folder.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use actorflow_core::{DType, Error, Result, Tensor};
use actorflow_transport::identity::{Authority, Identity};
use actorflow_transport::{Endpoint, EndpointOptions, Handler, Message, Parcel, Peer, Reply, cork};

struct Echo(parking_lot::Mutex<Sender<usize>>);

impl Handler for Echo {
    fn connected(&self, _: &Peer) {}
    fn lost(&self, _: &Peer, why: &Error) {
        if why.code() != actorflow_core::Code::Unavailable && why.code() != actorflow_core::Code::Cancelled {
            eprintln!("lost: {why}");
        }
    }
    fn request(&self, _: &Peer, message: Message, reply: Reply) {
        reply.send(Ok(message));
    }
    fn notice(&self, _: &Peer, message: Message) {
        if message.kind == 3 {
            let _ = self.0.lock().send(0);
        }
    }
    fn parcel(&self, _: &Peer, parcel: Parcel) {
        let _ = self.0.lock().send(parcel.size());
    }
}

fn endpoint(identity: Identity, at: SocketAddr, stripes: usize) -> Result<(Endpoint, Receiver<usize>)> {
    let (tell, told) = channel();
    let mut options = EndpointOptions::new(at, identity);
    options.limits.stripes = stripes;
    options.threads = options.limits.threads();
    let endpoint = Endpoint::bind(options, Arc::new(Echo(parking_lot::Mutex::new(tell))))?;
    Ok((endpoint, told))
}

fn report(what: &str, unit: &str, mut values: Vec<f64>, best_is_small: bool) {
    values.sort_by(f64::total_cmp);
    if !best_is_small {
        values.reverse();
    }
    let at = |q: f64| values[((values.len() - 1) as f64 * q) as usize];
    println!(
        "{what}: best {:.2} {unit}, median {:.2}, 90 % {:.2}",
        at(0.0),
        at(0.5),
        at(0.9)
    );
}

const SIDES: [&str; 2] = ["task/ps/0", "task/worker/0"];

/// Says of each parcel that it has come, until it is stopped.
fn serve(dir: &Path, at: &str) -> Result<()> {
    let authority = Authority::ephemeral("bench")?;
    for who in SIDES {
        let identity = authority.issue(who.parse()?, Duration::from_secs(24 * 3600))?;
        identity.save(&dir.join(who.replace('/', "-")))?;
    }
    let at = at.parse().map_err(|e| Error::invalid(format!("{at:?}: {e}")))?;
    let (server, arrived) = endpoint(Identity::load(&dir.join("task-ps-0"))?, at, 64)?;
    println!("at {}", server.local_addr());
    for _ in arrived {
        for peer in server.peers() {
            // Tells that it has come.
            peer.notify(Message::new(3))?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let here = SocketAddr::from(([127, 0, 0, 1], 0));
    let deadline = Instant::now() + Duration::from_secs(60);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            let authority = Authority::ephemeral("bench")?;
            let issue = |who: &str| authority.issue(who.parse()?, Duration::from_secs(3600));
            let (server, arrived) = endpoint(issue(SIDES[0])?, here, 3)?;
            let (worker, _keep) = endpoint(issue(SIDES[1])?, here, 3)?;
            let peer = worker.connect(&server.local_addr().to_string(), None, deadline)?;
            measure(&peer, &arrived)?;
            println!("worker {:?}", worker.counters());
            println!("server {:?}", server.counters());
        }
        ["serve", dir, at] => serve(Path::new(dir), at)?,
        ["connect", dir, at, ref stripes @ ..] => {
            let stripes = stripes.first().map_or(Ok(3), |n| n.parse());
            let stripes = stripes.map_err(|e| Error::invalid(format!("STRIPES: {e}")))?;
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let identity = Identity::load(&Path::new(dir).join("task-worker-0"))?;
            let (worker, arrived) = endpoint(identity, any, stripes)?;
            measure(&worker.connect(at, None, deadline)?, &arrived)?;
            println!("worker {:?}", worker.counters());
        }
        _ => {
            return Err(Error::invalid(
                "usage: wire_bench [serve DIR HOST:PORT | connect DIR HOST:PORT [STRIPES]]",
            ));
        }
    }
    Ok(())
}

fn measure(peer: &Peer, arrived: &Receiver<usize>) -> Result<()> {
    let deadline = || Instant::now() + Duration::from_secs(60);
    let mut trips = Vec::new();
    for i in 0..20_000 {
        let begin = Instant::now();
        peer.call(Message::new(1), deadline())?;
        if i > 1000 {
            trips.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    report("round trip of an empty request", "µs", trips, true);

    let mut trips = Vec::new();
    for i in 0..5_000 {
        let begin = Instant::now();
        {
            let _cork = cork();
            peer.notify(Message::new(2))?;
            for edge in 0..4 {
                peer.send(
                    Parcel {
                        step: 1,
                        edge,
                        tag: 0,
                        value: Some(Tensor::scalar(1.0f32)),
                    },
                    None,
                );
            }
        }
        for _ in 0..4 {
            let _ = arrived.recv();
        }
        if i > 500 {
            trips.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    report("a notice and four scalars, one way", "µs", trips, true);

    for megabytes in [1usize, 4, 64, 256] {
        let bytes = megabytes << 20;
        let tensor = Tensor::zeros(DType::U8, [bytes])?;
        let rounds = (2048 / megabytes).clamp(8, 200);
        let mut rates = Vec::new();
        for round in 0..rounds {
            let begin = Instant::now();
            peer.send(
                Parcel {
                    step: 1,
                    edge: 0,
                    tag: round as u64,
                    value: Some(tensor.clone()),
                },
                None,
            );
            let _ = arrived.recv();
            rates.push(bytes as f64 / begin.elapsed().as_secs_f64() / 1e9);
        }
        report(&format!("a tensor of {megabytes} MiB"), "GB/s", rates, false);
    }

    let tensor = Tensor::zeros(DType::U8, [4 << 20])?;
    let mut rates = Vec::new();
    for round in 0..8u64 {
        let begin = Instant::now();
        for tag in 0..64 {
            let parcel = Parcel {
                step: 1,
                edge: 0,
                tag: round * 64 + tag,
                value: Some(tensor.clone()),
            };
            peer.send(parcel, None);
        }
        for _ in 0..64 {
            let _ = arrived.recv();
        }
        rates.push(64.0 * tensor.byte_size() as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
    report("64 tensors of 4 MiB at once", "GB/s", rates, false);
    Ok(())
}
