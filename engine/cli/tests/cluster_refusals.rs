//! What the commands of a cluster refuse, and what they say about it.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

mod command;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use command::ACTORFLOW;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn flags_that_do_not_fit_each_other_are_refused() {
    for (args, says) in [
        (&["token", "--client", "alice", "--task", "1"][..], "--task"),
        (&["token", "--chief", "bob", "--task", "1"], "--task"),
        (&["local", "--base-port", "0"], "--base-port"),
    ] {
        let ran = Command::new(ACTORFLOW).arg("cluster").args(args).output().unwrap();
        let stderr = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(says), "{args:?}: {stderr}");
    }
}

#[test]
fn what_stands_in_the_way_is_named_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let command = |args: &[&str]| {
        let ran = Command::new(ACTORFLOW)
            .args(args)
            .env("ACTORFLOW_HOME", dir.path())
            .env_remove("TF_CONFIG")
            .output()
            .unwrap();
        (ran.status.code(), String::from_utf8_lossy(&ran.stderr).into_owned())
    };
    // A port that somebody has: the task's, the authority's, that of the metrics.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let here = taken.local_addr().unwrap().to_string();
    assert_eq!(
        command(&["cluster", "init", text(&ca), "--name", "mine", "--addr", &here]).0,
        Some(0)
    );
    let cluster = format!(r#"{{"ps": ["{here}"]}}"#);
    let of_ca = ["daemon", "--cluster", &cluster, "--job", "ps", "--authority", text(&ca)];
    let (code, said) = command(&[&of_ca[..], &["--join-address", "127.0.0.1:0"]].concat());
    assert_eq!(code, Some(1));
    assert!(
        said.contains("another process has this UDP port") && said.contains("--bind"),
        "{said}"
    );
    let (_, said) = command(&[&of_ca[..], &["--join-address", &here]].concat());
    assert!(
        said.contains("another process has this UDP port") && said.contains("--join-address"),
        "{said}"
    );
    let (_, said) = command(&["cluster", "serve", "--authority", text(&ca), "--bind", &here]);
    assert!(said.contains("another process has this UDP port"), "{said}");
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = tcp.local_addr().unwrap().to_string();
    let free = [
        "--join-address",
        "127.0.0.1:0",
        "--bind",
        "127.0.0.1:0",
        "--metrics",
        &metrics,
    ];
    let (_, said) = command(&[&of_ca[..], &free].concat());
    assert!(
        said.contains("another process has this TCP port") && said.contains("--metrics"),
        "{said}"
    );

    // A token for any task has a place for the number.
    let (code, said) = command(&["cluster", "token", "--authority", text(&ca), "--job", "ps"]);
    assert!(
        code == Some(0) && said.contains("put the task's number in place of INDEX"),
        "{said}"
    );
    let (_, said) = command(&["cluster", "token", "--authority", text(&ca), "--client", "alice"]);
    assert!(said.contains("run the line above on the machine that joins"), "{said}");

    // An identity that is none.
    let me = dir.path().join("me");
    std::fs::create_dir(&me).unwrap();
    let key = me.join("identity.pem");
    std::fs::write(&key, "garbage").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let (_, said) = command(&["cluster", "status", "127.0.0.1:1", "--identity", text(&me)]);
    assert!(
        said.contains("identity.pem") && said.contains("damaged") && said.contains("join the cluster again"),
        "{said}"
    );
    assert!(!said.contains("revoked.json"), "{said}");

    // Another cluster's CA.
    drop(taken);
    let other = actorflow::cluster::identity::Authority::ephemeral("other").unwrap();
    let service = actorflow::cluster::identity::serve("127.0.0.1:0".parse().unwrap(), &other).unwrap();
    let token = other
        .token(&actorflow::cluster::identity::TokenSpec {
            subject: "task/ps/0"
                .parse::<actorflow::cluster::identity::Subject>()
                .unwrap()
                .into(),
            ttl: Duration::from_secs(60),
            uses: 1,
        })
        .unwrap();
    let line = token.join_command(&service.addr().to_string());
    let secret = dir.path().join("secret");
    std::fs::write(&secret, line.split(' ').nth(2).unwrap()).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let hash = actorflow::cluster::identity::Authority::ephemeral("mine")
        .unwrap()
        .ca_hash();
    let (code, said) = command(&[
        "cluster",
        "join",
        "--addr",
        &service.addr().to_string(),
        "--ca-hash",
        &hash,
        "--as",
        "task/ps/0",
        "--token-file",
        text(&secret),
    ]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("--ca-hash") && said.contains("is the address right?"),
        "{said}"
    );
}
