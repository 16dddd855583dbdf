//! Measures the transport between two endpoints of one process over loopback: the round trip of an empty request, a
//! notice with parcels behind it, and large tensors.
//!
//! `cargo run --release -p actorflow-transport --example wire_bench`
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use actorflow_core::{DType, Error, Result, Tensor};
use actorflow_transport::identity::Authority;
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
    fn notice(&self, _: &Peer, _: Message) {}
    fn parcel(&self, _: &Peer, parcel: Parcel) {
        let _ = self.0.lock().send(parcel.size());
    }
}

fn endpoint(authority: &Authority, who: &str) -> Result<(Endpoint, Receiver<usize>)> {
    let identity = authority.issue(who.parse()?, Duration::from_secs(3600))?;
    let (tell, told) = channel();
    let options = EndpointOptions::new(SocketAddr::from(([127, 0, 0, 1], 0)), identity);
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

fn main() -> Result<()> {
    let authority = Authority::ephemeral("bench")?;
    let (server, arrived) = endpoint(&authority, "task/ps/0")?;
    let (worker, _keep) = endpoint(&authority, "task/worker/0")?;
    let deadline = || Instant::now() + Duration::from_secs(60);
    let peer = worker.connect(&server.local_addr().to_string(), None, deadline())?;

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
    println!("worker {:?}", worker.counters());
    println!("server {:?}", server.counters());
    Ok(())
}
