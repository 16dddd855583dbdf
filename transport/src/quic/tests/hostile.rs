//! Strangers, and members that mean harm: refused before anything is read, or cut off within the limits, and nobody else
//! notices. They speak QUIC by a library of their own, to do what an endpoint never would.
#![forbid(unsafe_code)]

use std::future::Future;

use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use super::*;
use crate::frame::{Body, Frame, Hello, Stamp};
use crate::identity::Identity;
use crate::limits::Limits;

const ALPN: &[&[u8]] = &[b"actorflow/1"];
const MIB: usize = 1 << 20;

fn wait<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let limited = async { tokio::time::timeout(PATIENCE, what).await };
    runtime.unwrap().block_on(limited).expect("it hangs")
}

/// Somebody who takes the server for whoever it says it is.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS without a certificate.
fn nameless() -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    config
}

/// A connection as a member, or somebody, makes it who does not keep to the protocol.
async fn intrude(
    addr: SocketAddr,
    tls: ClientConfig,
) -> (quinn::Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let mut config = quinn::EndpointConfig::default();
    config.max_udp_payload_size(60_000).unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut endpoint = quinn::Endpoint::new(config, None, socket, Arc::new(quinn::TokioRuntime)).unwrap();
    let crypto = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(crypto)));
    let made = endpoint.connect(addr, "actorflow").unwrap().await;
    (endpoint, made)
}

fn member(who: &str) -> Identity {
    authority().issue(subject(who), Duration::from_secs(3600)).unwrap()
}

/// A server with little memory, a member that it must go on serving, and the memory.
struct Target {
    server: Endpoint,
    pool: Arc<Pool>,
    modest: Peer,
    _modest: Endpoint,
}

impl Target {
    fn new() -> Target {
        let pool = Pool::new(8 * MIB, 0);
        let mut o = options("task/ps/0");
        o.pool = Some(pool.clone());
        o.timing.handshake = Duration::from_millis(800);
        o.limits = Limits {
            message: 2 * MIB,
            tensor: 2 * MIB,
            in_flight_bytes: 2 * MIB,
            streams: 16,
            ..Limits::default()
        };
        let (server, _) = bind(o);
        let (endpoint, _) = bind(options("task/worker/1"));
        let modest = endpoint
            .connect(&server.local_addr().to_string(), None, soon())
            .unwrap();
        Target {
            server,
            pool,
            modest,
            _modest: endpoint,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Others are served as before, and memory was kept within what one peer may use.
    fn is_unharmed(&self) {
        let before = self.modest.call(Message::new(1), soon());
        assert!(before.is_ok(), "{before:?}");
        let stats = self.pool.stats();
        assert!(stats.peak <= 7 * MIB, "{} bytes", stats.peak);
    }
}

/// The first frame of a member, sound.
fn hello(who: &str) -> Vec<u8> {
    let body = Body::Hello(Hello {
        cluster: "mars".to_owned(),
        subject: who.to_owned(),
        header: 1000,
        message: 1 << 20,
        tensor: 1 << 20,
        window_bytes: 1 << 20,
        window: 100,
        pending_requests: 100,
        stripes: 0,
        stripe: false,
    });
    bytes_of(body, false)
}

fn bytes_of(body: Body, credited: bool) -> Vec<u8> {
    let stamp = Stamp {
        epoch: 0,
        incarnation: 77,
    };
    let frame = Frame { stamp, credited, body };
    frame.encode().unwrap().chunks.concat()
}

/// A parcel with a tensor of so many bytes.
fn parcel_of(bytes: usize) -> Vec<u8> {
    let value = Some(Tensor::zeros(DType::U8, [bytes]).unwrap());
    bytes_of(Body::Parcel(parcel(1, value)), true)
}

#[test]
fn a_stranger_is_refused_before_anything_that_it_sends_is_read() {
    let t = Target::new();
    let day = Duration::from_secs(24 * 3600);
    let long_ago = std::time::SystemTime::now() - 2 * day;
    let expired = authority().issue_at(subject("task/worker/0"), day, long_ago).unwrap();
    let foreign = Authority::ephemeral("mars").unwrap();
    let foreign = foreign.issue(subject("task/worker/0"), day).unwrap();
    let strangers = [
        ("nameless", nameless()),
        ("expired", expired.client_tls(ALPN).unwrap()),
        ("foreign", {
            // It does not mind who the server is, so that the server has to.
            let mut of_foreign = foreign.client_tls(ALPN).unwrap();
            of_foreign.dangerous().set_certificate_verifier(Arc::new(Gullible));
            of_foreign
        }),
    ];
    for (who, tls) in strangers {
        wait(async {
            let (_endpoint, made) = intrude(t.addr(), tls).await;
            // A client of TLS 1.3 believes to be connected before the server has looked at its certificate.
            if let Ok(connection) = made {
                if let Ok((mut send, _)) = connection.open_bi().await {
                    let _ = send.write_all(&hello("task/worker/0")).await;
                }
                let why = connection.closed().await;
                assert!(
                    matches!(why, quinn::ConnectionError::ConnectionClosed(_)),
                    "{who}: {why}"
                );
            }
        });
    }
    assert_eq!(t.server.counters().handshakes_refused, 3);
    t.is_unharmed();
    // A hello that was read would have made it known.
    assert_eq!(t.server.counters().connected, 1);
    assert_eq!(t.server.peers().len(), 1);
}

/// What a member does that is connected, after a sound hello or before any.
async fn misbehave<F: Future<Output = ()>>(
    addr: SocketAddr,
    greets: bool,
    what: impl FnOnce(quinn::Connection, quinn::SendStream) -> F,
) -> quinn::ConnectionError {
    let tls = member("task/worker/0").client_tls(ALPN).unwrap();
    let (_endpoint, made) = intrude(addr, tls).await;
    let connection = made.unwrap();
    let (mut control, _receive) = connection.open_bi().await.unwrap();
    if greets {
        control.write_all(&hello("task/worker/0")).await.unwrap();
    }
    what(connection.clone(), control).await;
    connection.closed().await
}

#[test]
fn streams_without_a_hello_are_not_read_and_end_with_the_handshakes_time() {
    let t = Target::new();
    let why = wait(misbehave(t.addr(), false, |connection, control| async move {
        let _control = control;
        let mut streams = Vec::new();
        // As many as are allowed; one more is never granted.
        while let Ok(Ok(mut s)) = tokio::time::timeout(Duration::from_millis(200), connection.open_uni()).await {
            let _ = tokio::time::timeout(Duration::from_millis(20), s.write_all(&vec![7; 256 << 10])).await;
            streams.push(s);
        }
        assert!(streams.len() <= 16, "{} streams", streams.len());
    }));
    let quinn::ConnectionError::ApplicationClosed(close) = why else {
        panic!("{why}")
    };
    assert!(String::from_utf8_lossy(&close.reason).contains("no hello"), "{close}");
    t.is_unharmed();
    assert!(t.pool.stats().peak < MIB);
}

/// A worker that has said hello and has heard the server's, of which the server knows nothing.
async fn greet(
    addr: SocketAddr,
) -> (
    quinn::Endpoint,
    quinn::Connection,
    (quinn::SendStream, quinn::RecvStream),
) {
    let tls = member("task/worker/0").client_tls(ALPN).unwrap();
    let (endpoint, made) = intrude(addr, tls).await;
    let connection = made.unwrap();
    let (mut control, mut receive) = connection.open_bi().await.unwrap();
    control.write_all(&hello("task/worker/0")).await.unwrap();
    assert!(receive.read_chunk(usize::MAX, true).await.unwrap().is_some());
    (endpoint, connection, (control, receive))
}

/// Something after the hello, by which the server knows that the worker has heard.
async fn ping(control: &mut quinn::SendStream) {
    let frame = bytes_of(Body::Ping { silence: 0 }, false);
    control.write_all(&frame).await.unwrap();
}

#[test]
fn a_peer_that_has_not_heard_the_hello_is_not_announced() {
    let t = Target::new();
    let here = |count: usize| {
        let of_it = |p: &Peer| p.info().subject == subject("task/worker/0");
        t.server.peers().iter().filter(|p| of_it(p)).count() == count
    };
    wait(async {
        let (_endpoint, _connection, (mut control, _receive)) = greet(t.addr()).await;
        // It has heard, but how is the server to know?
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(here(0));
        ping(&mut control).await;
        while !here(1) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    t.is_unharmed();
}

#[test]
fn a_connection_that_comes_up_after_its_side_has_renewed_is_made_anew() {
    let t = Target::new();
    let dialed = || {
        let links = t.server.shared.all_links();
        let to = |l: &&Arc<link::Link>| l.dialed && l.expect == Some(subject("task/worker/0"));
        links.iter().filter(to).count()
    };
    wait(async {
        let (_endpoint, _connection, (mut control, _receive)) = greet(t.addr()).await;
        t.server.set_identity(member("task/ps/0")).unwrap();
        assert_eq!(dialed(), 0, "nobody is there yet");
        ping(&mut control).await;
        while dialed() == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
}

#[test]
fn whoever_waits_for_a_connection_that_the_peer_never_finishes_dials() {
    let t = Target::new();
    let (other, _) = bind(options("task/worker/0"));
    let (tell, told) = std::sync::mpsc::channel();
    wait(async {
        let (endpoint, connection, _streams) = greet(t.addr()).await;
        let (at, who) = (other.local_addr().to_string(), subject("task/worker/0"));
        let then: ConnectThen = Box::new(move |made| tell.send(made).unwrap());
        t.server.connect_then(&at, Some(&who), soon(), then);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(told.try_recv().is_err(), "nobody is there yet");
        connection.close(0u32.into(), b"never mind");
        endpoint.wait_idle().await;
    });
    let peer = told.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(peer.info().addr, other.local_addr());
    t.is_unharmed();
}

#[test]
fn frames_that_are_malformed_or_beyond_a_limit_end_their_connection_without_memory() {
    let t = Target::new();
    let sound = parcel_of(100_000);
    // Beyond the limit for a tensor, as its header says.
    let large = parcel_of(3 * MIB)[..5000].to_vec();
    let mut huge = sound.clone();
    // The length of the payload, in the prefix.
    huge[16..24].copy_from_slice(&(1u64 << 50).to_le_bytes());
    let mut damaged = sound.clone();
    damaged[30..60].fill(0xee);
    let mut noise = sound.clone();
    noise.fill(0x5a);
    let cases = [
        (large, 0, 1),
        (huge, 1, 0),
        (damaged, 1, 0),
        (noise, 1, 0),
        (hello("task/worker/0"), 1, 0),
    ];
    for (bytes, malformed, oversized) in cases {
        let before = t.server.counters();
        let why = wait(misbehave(t.addr(), true, |connection, control| async move {
            let _control = control;
            let mut s = connection.open_uni().await.unwrap();
            // It may be closed before all of it is sent.
            let _ = s.write_all(&bytes).await;
            let _ = s.finish();
        }));
        assert!(matches!(why, quinn::ConnectionError::ApplicationClosed(_)), "{why}");
        let after = t.server.counters();
        let told = (after.malformed - before.malformed, after.oversized - before.oversized);
        assert_eq!(told, (malformed, oversized), "{why}");
        t.is_unharmed();
    }
    assert!(t.pool.stats().peak < MIB, "{}", t.pool.stats().peak);
}

#[test]
fn a_flood_of_streams_and_of_frames_that_take_no_room_harms_nobody() {
    let t = Target::new();
    // Streams opened and dropped, thousands of them, each with the beginning of a large tensor.
    let beginning = parcel_of(2 * MIB)[..2000].to_vec();
    let why = wait(misbehave(t.addr(), true, |connection, control| async move {
        let _control = control;
        for _ in 0..5000 {
            let Ok(mut s) = connection.open_uni().await else { return };
            let _ = s.write_all(&beginning).await;
            let _ = s.reset(0u32.into());
        }
        connection.close(0u32.into(), b"");
    }));
    drop(why);
    t.is_unharmed();
    // Promises of memory by many at a time, none of which is kept.
    let beginning = parcel_of(2 * MIB)[..2000].to_vec();
    let why = wait(misbehave(t.addr(), true, |connection, control| async move {
        let _control = control;
        let mut open = Vec::new();
        for _ in 0..16 {
            let Ok(mut s) = connection.open_uni().await else { return };
            let _ = s.write_all(&beginning).await;
            open.push(s);
        }
        // More is promised than there is room for.
        connection.closed().await;
    }));
    assert!(matches!(why, quinn::ConnectionError::ApplicationClosed(_)), "{why}");
    t.is_unharmed();
}

#[test]
fn a_flood_of_handshakes_from_one_address_leaves_another_ones_join_unharmed() {
    let mut o = options("task/ps/0");
    o.limits = Limits {
        handshakes: 8,
        handshakes_per_address: 5,
        ..Limits::default()
    };
    o.timing.handshake = PATIENCE;
    o.timing.idle = PATIENCE;
    let (server, _) = bind(o);
    let addr = server.local_addr();
    wait(async {
        // Connected, but they never say hello.
        let (mut silent, mut refused) = (Vec::new(), 0);
        for _ in 0..12 {
            let (endpoint, made) = intrude(addr, member("task/worker/0").client_tls(ALPN).unwrap()).await;
            match made {
                Ok(connection) => silent.push((endpoint, connection)),
                Err(_) => refused += 1,
            }
        }
        assert_eq!((silent.len(), refused), (5, 7));
        let mut elsewhere = options("task/worker/1");
        elsewhere.bind = SocketAddr::from(([127, 0, 0, 2], 0));
        let (worker, _) = bind(elsewhere);
        let joined = worker.connect(&addr.to_string(), None, soon());
        assert!(joined.unwrap().call(Message::new(1), soon()).is_ok());
        // They are still there.
        assert!(silent.iter().all(|(_, c)| c.close_reason().is_none()));
    });
    // An attempt may be made twice before it is known to be refused.
    assert!(server.counters().handshakes_refused >= 7);
}

#[test]
fn a_member_with_many_connections_leaves_room_for_others() {
    let mut o = options("task/ps/0");
    o.limits = Limits {
        connections: 10,
        connections_per_member: 3,
        ..Limits::default()
    };
    let (server, of_server) = bind(o);
    let addr = server.local_addr().to_string();
    // Runs of one client live side by side.
    let mut greedy = Vec::new();
    for i in 0..5 {
        let (endpoint, _) = bind(options("client/alice"));
        let made = endpoint.connect(&addr, None, soon());
        match made {
            Ok(peer) => greedy.push((endpoint, peer)),
            Err(e) => {
                assert_eq!(e.code(), Code::ResourceExhausted, "{e}");
                assert!(e.message().contains("client/alice has made 3"), "{e}");
            }
        }
        assert_eq!(greedy.len(), (i + 1).min(3));
    }
    assert!(server.counters().handshakes_refused >= 2);
    let (worker, _) = bind(options("task/worker/1"));
    let joined = worker.connect(&addr, None, soon());
    assert!(joined.unwrap().call(Message::new(1), soon()).is_ok());
    // One that ends makes room.
    drop(greedy.pop());
    of_server.lost();
    let (again, _) = bind(options("client/alice"));
    assert!(again.connect(&addr, None, soon()).is_ok());
}

#[test]
fn large_headers_that_nothing_follows_reserve_no_memory_on_however_many_connections() {
    let pool = Pool::new(96 * MIB, 0);
    let mut o = options("task/ps/0");
    o.pool = Some(pool.clone());
    assert_eq!(o.limits, Limits::default());
    let (server, of_server) = bind(o);
    let (worker, _) = bind(options("task/worker/1"));
    let addr = server.local_addr();
    let modest = worker.connect(&addr.to_string(), None, soon()).unwrap();
    // 40 MiB are announced, and a hundred bytes come of them.
    let whole = parcel_of(40 * MIB);
    let beginning = whole[..whole.len() - 40 * MIB + 100].to_vec();
    drop(whole);
    wait(async {
        let mut kept = Vec::new();
        for who in ["task/worker/0", "task/worker/0", "task/worker/2", "client/alice"] {
            let (endpoint, made) = intrude(addr, member(who).client_tls(ALPN).unwrap()).await;
            let connection = made.unwrap();
            let (mut control, receive) = connection.open_bi().await.unwrap();
            control.write_all(&hello(who)).await.unwrap();
            let mut streams = Vec::new();
            for _ in 0..2 {
                let mut s = connection.open_uni().await.unwrap();
                s.write_all(&beginning).await.unwrap();
                streams.push(s);
            }
            kept.push((endpoint, connection, control, receive, streams));
        }
        // They stay, and say that they are there.
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            for (_, connection, control, _, _) in &mut kept {
                control
                    .write_all(&bytes_of(Body::Ping { silence: 0 }, false))
                    .await
                    .unwrap();
                assert_eq!(connection.close_reason(), None);
            }
        }
        assert!(pool.stats().used < MIB, "{:?}", pool.stats());
        let sent = parcel(5, Some(ramp(45 * MIB)));
        modest.send(sent.clone(), None);
        assert!(of_server.parcel() == sent);
        assert!(modest.call(Message::new(1), soon()).is_ok());
        for (_, connection, ..) in &kept {
            assert_eq!(connection.close_reason(), None);
        }
    });
}
