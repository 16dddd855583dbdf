//! Certificates that are renewed, expire and are revoked while steps go on.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod cluster;

use std::time::{Duration, Instant};

use actorflow::cluster::identity::{Identity, JoinService, remember_authority, serve};
use actorflow::cluster::{ClusterInfo, ConnectOptions, Renewal, Server, TaskName};
use actorflow::{Code, DType, Graph, GraphVariables, Operation, Output, Session, Tensor};
use cluster::{Cluster, HOUR, doubled, on_ps};

const TASKS: &[(&str, u32)] = &[("ps", 0), ("worker", 0)];

/// A queue on the parameter server: what takes from it, for a worker, and what puts into it.
fn queue(g: &Graph) -> (Output, Operation) {
    let types = || vec![DType::F32];
    let (head, put) = {
        let _ps = g.device_scope("/job:ps/task:0");
        let queue = g.op("FIFOQueueV2").attr("component_types", types()).output().unwrap();
        let head = g.op("QueueDequeueV2").input(&queue).attr("component_types", types());
        let put = g.op("QueueEnqueueV2").input(&queue);
        let put = put.input_list(&[g.constant(21f32).unwrap()]).finish().unwrap();
        (head.output().unwrap(), put)
    };
    let _worker = g.device_scope("/job:worker/task:0");
    ((&head * 2f32).unwrap(), put)
}

#[test]
fn a_task_renews_its_certificate_in_the_midst_of_steps() {
    // The first certificates are good for some seconds only.
    let short = Duration::from_secs(6);
    let begun = Instant::now();
    let c = Cluster::with(TASKS, |_| {}).unwrap();
    let issue = |who: &str, ttl| c.authority.issue(who.parse().unwrap(), ttl).unwrap();
    c.servers[0].set_identity(issue("task/ps/0", short)).unwrap();
    c.servers[1].set_identity(issue("task/worker/0", short)).unwrap();
    let g = Graph::new();
    let (taken, put) = queue(&g);
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let s = c.connect(&g, 1);
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    std::thread::scope(|scope| {
        // It takes longer than the change of connections.
        let long = scope.spawn(|| s.run(&[], &[&taken]));
        std::thread::sleep(Duration::from_millis(300));
        for (server, who) in c.servers.iter().zip(["task/ps/0", "task/worker/0"]) {
            server.set_identity(c.identity(who)).unwrap();
        }
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
            std::thread::sleep(Duration::from_millis(20));
        }
        s.execute(&[&put]).unwrap();
        assert_eq!(long.join().unwrap().unwrap()[0], Tensor::scalar(42f32));
    });
    // What was shown at first expires, and nobody notices.
    while begun.elapsed() < short + Duration::from_secs(2) {
        assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_client_whose_certificate_is_revoked_is_cut_off_and_others_are_not() {
    let c = Cluster::new(TASKS);
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let (s, other) = (c.connect(&g, 1), c.connect(&g, 0));
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s.run(&[], &[&y]).unwrap();
    let eve = {
        let mut options = c.client();
        options.identity = c.identity("client/eve");
        let serial = options.identity.serial().to_owned();
        let target = c.servers[1].target();
        (
            actorflow::Session::connect(&g, &target, &options, cluster::options()).unwrap(),
            serial,
        )
    };
    eve.0.run(&[], &[&y]).unwrap();
    c.authority.revoke(&eve.1).unwrap();
    let list = c.authority.revocations().unwrap();
    for (server, who) in c.servers.iter().zip(["task/ps/0", "task/worker/0"]) {
        server.set_identity(c.identity(who).with_revocations(&list)).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(20);
    let e = loop {
        match eve.0.run(&[], &[&y]) {
            Ok(_) => assert!(Instant::now() < until, "she still computes"),
            Err(e) => break e,
        }
    };
    assert!(matches!(e.code(), Code::Unavailable | Code::Unauthenticated), "{e}");
    assert!(eve.0.run(&[], &[&y]).is_err());
    for s in [&s, &other] {
        assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
    }
}

/// Serves a cluster's authority.
fn service(c: &Cluster) -> JoinService {
    serve("127.0.0.1:0".parse().unwrap(), &c.authority).unwrap()
}

/// The identity of a member in a folder as `actorflow cluster join` makes it.
fn joined(c: &Cluster, authority: &JoinService, who: &str, ttl: Duration) -> (tempfile::TempDir, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let identity = c.authority.issue(who.parse().unwrap(), ttl).unwrap();
    identity.save(dir.path()).unwrap();
    remember_authority(dir.path(), &authority.addr().to_string()).unwrap();
    let loaded = Identity::load(dir.path()).unwrap();
    (dir, loaded)
}

#[test]
fn sessions_and_servers_of_programs_renew_their_certificates_by_themselves() {
    // What they show at first is good for some seconds only.
    let short = Duration::from_secs(5);
    let begun = Instant::now();
    let mut c = Cluster::new(&[]);
    let authority = service(&c);
    for (job, _) in TASKS {
        c.spec = c.spec.with_task(job, 0, &cluster::free_addr()).unwrap();
    }
    let mut homes = Vec::new();
    for (job, _) in TASKS {
        let (home, identity) = joined(&c, &authority, &format!("task/{job}/0"), short);
        let mut options = c.server_options(job, 0);
        options.renewal = Renewal::of(&identity);
        assert_eq!(
            options.renewal.as_ref().unwrap().authority,
            authority.addr().to_string()
        );
        options.identity = identity;
        c.servers.push(Server::start(options).unwrap());
        homes.push(home);
    }
    let (home, identity) = joined(&c, &authority, "client/test", short);
    homes.push(home);
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let client = ConnectOptions::new(identity);
    let s = Session::connect(&g, &c.servers[1].target(), &client, cluster::options()).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    while begun.elapsed() < short + Duration::from_secs(3) {
        assert_eq!(s.run(&[], &[&y]).unwrap()[0], Tensor::from([2f32, 4.0]));
        std::thread::sleep(Duration::from_millis(20));
    }
    // And the next start of the program finds the new ones.
    for home in &homes {
        let kept = Identity::load(home.path()).unwrap();
        assert!(kept.not_after() > std::time::SystemTime::now() + HOUR, "{kept:?}");
    }
}

#[test]
fn clients_learn_of_revocations_as_they_connect_and_while_they_are_connected() {
    let c = Cluster::new(TASKS);
    let authority = service(&c);
    let (home, identity) = joined(&c, &authority, "client/test", HOUR);
    let mut client = ConnectOptions::new(identity);
    client.renewal.as_mut().unwrap().every = Duration::from_millis(200);
    let g = Graph::new();
    let y = doubled(&g, &on_ps(&g, Tensor::from([1f32, 2.0])));
    let s = Session::connect(&g, &c.servers[0].target(), &client, cluster::options()).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s.run(&[], &[&y]).unwrap();
    // The tasks themselves do not know of it.
    let worker = TaskName::new("worker", 0).unwrap();
    c.authority.revoke("task/worker/0").unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let e = loop {
        match s.run(&[], &[&y]) {
            Ok(_) => assert!(Instant::now() < until, "the worker is still trusted"),
            Err(e) => break e,
        }
    };
    assert_eq!(e.task(), Some("/job:worker/task:0"), "{e}");
    until_kept(&home, &c);

    // Whoever connects now does not trust it for a moment, whatever its folder knows.
    let (other, identity) = joined(&c, &authority, "client/other", HOUR);
    let mut client = ConnectOptions::new(identity);
    client.connect_timeout = Duration::from_secs(3);
    assert!(ClusterInfo::connect(&c.servers[1].target(), &client).is_err());
    let info = ClusterInfo::connect(&c.servers[0].target(), &client).unwrap();
    assert!(info.task(&worker).is_err());
    info.task(&TaskName::new("ps", 0).unwrap()).unwrap();
    until_kept(&other, &c);

    // An authority that is away stops nobody, and an address that is none is refused.
    drop(authority);
    ClusterInfo::connect(&c.servers[0].target(), &client).unwrap();
    client.renewal = Some(Renewal::at("nowhere"));
    let e = ClusterInfo::connect(&c.servers[0].target(), &client).err().unwrap();
    assert!(
        e.code() == Code::InvalidArgument && e.message().contains("host:port"),
        "{e}"
    );
}

/// Waits until a folder has the authority's list of revocations.
fn until_kept(home: &tempfile::TempDir, c: &Cluster) {
    let (list, until) = (
        c.authority.revocations().unwrap(),
        Instant::now() + Duration::from_secs(20),
    );
    while *Identity::load(home.path()).unwrap().revocations() != list {
        assert!(Instant::now() < until, "the list is not kept");
        std::thread::sleep(Duration::from_millis(20));
    }
}
