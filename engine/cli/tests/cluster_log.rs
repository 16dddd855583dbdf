//! What an operator reads in the daemons' logs, as JSON; `docs/cluster.md` lists the events.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod clusters;
mod command;

use std::time::Duration;

use actorflow::cluster::identity::serve;
use actorflow::{Code, DType, Graph, Session, Tensor};
use clusters::{Daemons, options};
use rustix::process::Signal;
use serde_json::Value;

const JSON: [&str; 2] = ["--log-format", "json"];

/// A run in which the worker makes so many numbers and a parameter server adds them up.
fn sum_of(
    daemons: &Daemons,
    session: &mut Option<(Session, actorflow::Output, actorflow::Output)>,
    n: i32,
) -> actorflow::Result<f32> {
    let (session, count, sum) = session.get_or_insert_with(|| {
        let g = Graph::new();
        let count = g.placeholder("count", DType::I32, [Some(1)]).unwrap();
        let many = {
            let _worker = g.device_scope("/job:worker/task:0");
            let one = g.constant(1f32).unwrap();
            g.op("Fill").name("many").input(&count).input(&one).output().unwrap()
        };
        let sum = {
            let _ps = g.device_scope("/job:ps/task:0");
            many.sum(&[], false).unwrap()
        };
        let session = Session::connect(&g, &daemons.target("ps", 0), &daemons.client(), options()).unwrap();
        (session, count, sum)
    });
    session.run(&[(&*count, Tensor::from([n]))], &[&*sum])?[0].to_scalar()
}

/// A number of 64 bits, which is text so that every reader of JSON keeps all its digits.
fn number(value: &Value) -> Option<u64> {
    value.as_str()?.parse().ok()
}

fn is(event: &Value, field: &str, value: &str) -> bool {
    event[field] == value
}

#[test]
fn the_log_tells_who_came_who_went_what_failed_and_what_was_refused() {
    let daemons = Daemons::new(&[("ps", 0), ("worker", 0)]);
    let ps = daemons.start("ps", 0, &JSON);
    let worker = daemons.start("worker", 0, &[&JSON[..], &["--memory", "1MiB"]].concat());
    let ready = ps.event("ready", |e| is(e, "task", "/job:ps/task:0"));
    assert!(
        is(&ready, "level", "INFO") && number(&ready["incarnation"]).is_some() && ready["timestamp"].is_string(),
        "{ready}"
    );

    let mut session = None;
    assert_eq!(sum_of(&daemons, &mut session, 1000).unwrap(), 1000.0);
    let came = ps.event("connected", |e| is(e, "peer", "task/worker/0"));
    assert!(
        number(&came["incarnation"]).is_some() && came["addr"].is_string(),
        "{came}"
    );
    // More than the worker's memory.
    let e = sum_of(&daemons, &mut session, 10_000_000).unwrap_err();
    assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
    let failed = worker.event("step failed", |e| is(e, "code", "RESOURCE_EXHAUSTED"));
    assert!(is(&failed, "level", "WARN") && is(&failed, "node", "many"), "{failed}");
    assert!(
        is(&failed, "of", "client/test") && number(&failed["step"]).is_some(),
        "{failed}"
    );

    // It dies without a word, and another run of it comes before it is missed.
    worker.signal(Signal::KILL);
    let again = daemons.start("worker", 0, &JSON);
    // A step that is begun before its coming is noticed may fail for the one that has died.
    let mut session = None;
    clusters::until("the new run is not used", || {
        sum_of(&daemons, &mut session, 1000).is_ok()
    });
    let gone = ps.event("fenced", |e| is(e, "peer", "task/worker/0"));
    assert!(
        is(&gone, "level", "WARN") && gone["incarnation"] == came["incarnation"],
        "{gone}"
    );
    again.signal(Signal::TERM);
    let lost = ps.event("lost", |e| is(e, "peer", "task/worker/0"));
    assert!(number(&lost["incarnation"]) > number(&came["incarnation"]), "{lost}");
    again.event("ended", |_| true);

    // A stranger.
    let stranger = Daemons::new(&[]);
    let mut client = stranger.client();
    client.connect_timeout = Duration::from_secs(5);
    let info = actorflow::cluster::ClusterInfo::connect(&daemons.target("ps", 0), &client);
    assert!(info.is_err());
    let refused = ps.event("refused", |e| is(e, "what", "handshakes"));
    assert!(refused["count"].as_u64() >= Some(1), "{refused}");
}

#[test]
fn the_log_tells_of_certificates() {
    let mut daemons = Daemons::new(&[("ps", 0), ("worker", 0)]);
    // One task renews it after two thirds, the other one does not know where.
    daemons.ttl = Duration::from_secs(6);
    let service = serve("127.0.0.1:0".parse().unwrap(), &daemons.authority).unwrap();
    let addr = service.addr().to_string();
    let foe = daemons.authority.issue("client/eve".parse().unwrap(), daemons.ttl * 10);
    daemons.authority.revoke(foe.unwrap().serial()).unwrap();
    let ps = daemons.start("ps", 0, &[&JSON[..], &["--authority-address", &addr]].concat());
    let _worker = daemons.start("worker", 0, &JSON);
    assert_eq!(sum_of(&daemons, &mut None, 10).unwrap(), 10.0);
    let revoked = ps.event("certificates revoked", |_| true);
    assert_eq!(revoked["revoked"], 1, "{revoked}");
    let renewed = ps.event("certificate renewed", |_| true);
    assert!(
        renewed["serial"].is_string() && is(&renewed, "level", "INFO"),
        "{renewed}"
    );
    let over = ps.event("certificate not valid any more", |e| is(e, "peer", "task/worker/0"));
    assert!(over["error"].as_str().unwrap().contains("expired"), "{over}");
}
