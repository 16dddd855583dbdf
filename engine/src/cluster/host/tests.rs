#![allow(clippy::unwrap_used)] // tests

use actorflow_core::actor::local_mailboxes;
use actorflow_core::{DType, Tensor};
use actorflow_transport::identity::Authority;
use actorflow_transport::{Endpoint, EndpointOptions, Handler, Message, Parcel, Peer, Reply};

use super::early::BESIDE;
use super::*;
use crate::SessionOptions;
use crate::cluster::{ClusterSpec, Server, ServerOptions, TaskName};

const KEY: EdgeKey = EdgeKey { edge: 0, tag: 0 };

fn host() -> Arc<Host> {
    Host::new(Vec::new(), ResourceManager::new(local_mailboxes()), 1 << 20)
}

fn begin(host: &Host, step: u64) -> Result<()> {
    let share = SharePlan {
        devices: Vec::new(),
        routes: Arc::new([]),
        feeds: 0,
        fetches: 0,
        edge_names: Arc::new([]),
        peers: Vec::new(),
    };
    let options = ShareOptions {
        step,
        deadline: None,
        cancel: &CancelToken::new(),
        trace: None,
    };
    host.begin(&Arc::new(share), &options, None).map(drop)
}

#[test]
fn what_comes_for_steps_that_never_begin_is_bounded_and_does_not_stay() {
    let host = host();
    for step in 0..EARLY_STEPS as u64 + 10 {
        host.arrived(step, KEY, None, "/job:worker/task:0");
    }
    assert_eq!(host.steps.len(), EARLY_STEPS);
    assert_eq!(host.dropped.orphaned.load(Relaxed), 10);
    // A step of which something is missing does not begin as if it were whole; one that was in time does.
    let e = begin(&host, EARLY_STEPS as u64 + 3).unwrap_err();
    assert!(e.message().contains("aborted before it began"), "{e}");
    begin(&host, 3).unwrap();
    host.drop_orphans(Instant::now() + EARLY);
    assert_eq!(host.steps.len(), 1);
    assert_eq!(host.early.load(Relaxed), 0);
}

#[test]
fn what_comes_early_is_bounded_in_bytes_for_each_member() {
    let host = host();
    let (bad, good) = ("/job:worker/task:0", "/job:worker/task:1");
    let half = Tensor::zeros(DType::F32, [(1 << 17) - BESIDE / 4]).unwrap();
    // Two of them fill a member's share, whether they are for one step or for two.
    for step in 1..=2 {
        host.arrived(step, KEY, Some(half.clone()), bad);
    }
    assert_eq!(host.early_bytes.of(bad), 1 << 20);
    host.arrived(3, KEY, None, bad);
    host.arrived(1, EdgeKey { edge: 1, tag: 0 }, Some(half.clone()), bad);
    assert_eq!(host.dropped.orphaned.load(Relaxed), 2);
    // What was refused is missing, so that these steps do not begin; what they held is free.
    for step in [1, 3] {
        let e = begin(&host, step).unwrap_err();
        assert!(e.message().contains("more had come for it"), "{e}");
    }
    assert_eq!(host.early_bytes.of(bad), 1 << 19);
    // Others have a share of their own, of which the first value may be as large as it likes.
    host.arrived(4, KEY, Some(Tensor::zeros(DType::F32, [1 << 20]).unwrap()), good);
    host.arrived(5, KEY, None, good);
    assert!(begin(&host, 5).is_err());
    // A step that begins takes what has come for it.
    begin(&host, 2).unwrap();
    begin(&host, 4).unwrap();
    assert_eq!((host.early_bytes.of(bad), host.early_bytes.of(good)), (0, 0));
    // In a step that has begun nothing is early.
    host.arrived(2, EdgeKey { edge: 7, tag: 0 }, Some(half.clone()), bad);
    assert_eq!(host.early_bytes.of(bad), 0);
    host.arrived(6, KEY, Some(half), bad);
    host.drop_orphans(Instant::now() + EARLY);
    assert_eq!((host.early_bytes.of(bad), host.early.load(Relaxed)), (0, 0));
}

struct Deaf;

impl Handler for Deaf {
    fn connected(&self, _: &Peer) {}
    fn lost(&self, _: &Peer, _: &Error) {}
    fn request(&self, _: &Peer, _: Message, _: Reply) {}
    fn notice(&self, _: &Peer, _: Message) {}
    fn parcel(&self, _: &Peer, _: Parcel) {}
}

#[test]
fn a_member_that_sends_for_steps_that_never_begin_does_not_fill_a_tasks_memory() {
    const SENT: u64 = 100;
    let authority = Authority::ephemeral("c").unwrap();
    let identity = |who: &str| {
        let ttl = Duration::from_secs(3600);
        authority.issue(who.parse().unwrap(), ttl).unwrap()
    };
    let addr = std::net::UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let spec = ClusterSpec::new().with_task("ps", 0, &addr).unwrap();
    let mut options = ServerOptions::new(spec, TaskName::new("ps", 0).unwrap(), identity("task/ps/0"));
    options.session = SessionOptions {
        pin: false,
        ..SessionOptions::with_threads(1)
    };
    options.limits.early_bytes = 1 << 20;
    let server = Server::start(options).unwrap();
    let me = EndpointOptions::new("127.0.0.1:0".parse().unwrap(), identity("task/worker/0"));
    let endpoint = Endpoint::bind(me, Arc::new(Deaf)).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let peer = endpoint.connect(&addr, None, until).unwrap();
    let value = Tensor::zeros(DType::F32, [64 << 10]).unwrap();
    for step in 1..=SENT {
        let parcel = Parcel {
            step,
            edge: 0,
            tag: 0,
            value: Some(value.clone()),
        };
        peer.send(parcel, Some(Box::new(|taken| taken.unwrap())));
    }
    // Three of them have room; the others are gone as soon as they have come.
    loop {
        let status = server.status();
        if status.orphaned == SENT - 3 && status.memory <= 1 << 20 {
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(peer.is_alive());
}

#[test]
fn who_has_no_part_in_a_step_that_is_in_progress_cannot_end_it() {
    let host = host();
    begin(&host, 7).unwrap();
    host.never(7);
    assert!(host.cancel_token(7).is_some_and(|c| !c.is_cancelled()));
    host.never(8);
    assert!(begin(&host, 8).is_err());
}

#[test]
fn steps_that_stand_still_are_no_hope_for_others() {
    let host = host();
    begin(&host, 1).unwrap();
    begin(&host, 2).unwrap();
    assert_eq!(host.status(1, Some(true)).unwrap().others, 1);
    // Whoever is no coordinator only looks.
    assert_eq!(host.status(2, None).unwrap().others, 0);
    assert_eq!(host.status(1, Some(false)).unwrap().others, 1);
    assert_eq!(host.status(2, Some(false)).unwrap().others, 1);
}
