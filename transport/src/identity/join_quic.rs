//! Joining over QUIC: the service of an authority, and the blocking calls of nodes. The exchanges are those of
//! [`join`](mod@super::join); here are sockets, deadlines and limits.
#![forbid(unsafe_code)]

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use actorflow_core::{Code, Error, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::authority::Authority;
use super::certificate::peer_identity;
use super::join::{
    Client, MAX_REQUEST, MAX_RESPONSE, Renewal, Request, Server, client_tls_join, client_tls_renew, finish_revocations,
};
use super::node::Identity;
use super::rate::RateLimit;
use super::revocations::Revocations;
use super::subject::Subject;

/// How long the service gives one connection from its first packet to its last.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many connections the service serves at once; more are turned away.
const MAX_CONNECTIONS: usize = 256;

/// How often the service takes a fresh certificate and the present revocations for its handshakes.
const REFRESH: Duration = Duration::from_secs(3600);

/// How long a service that is dropped waits for answers in progress.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a node stays to tell the authority that it is done.
const PARTING: Duration = Duration::from_millis(100);

/// The service of an authority, on a thread of its own. Dropping it closes the socket and joins the thread.
#[derive(Debug)]
pub struct JoinService {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl JoinService {
    /// The address it listens at, with the port that the system chose if 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for JoinService {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing left to end.
            let _ = thread.join();
        }
    }
}

/// Serves the authority at `addr` to nodes that join, renew or ask for revocations.
///
/// An address is validated before anything is computed for it, and may ask 256 times at once and 4 times a second after
/// that; 256 connections are served at once, each for 10 s at most.
///
/// # Errors
/// Those of binding the socket and of starting the thread.
pub fn serve(addr: SocketAddr, authority: &Authority) -> Result<JoinService> {
    serve_with(addr, Server::new(authority), authority)
}

/// As [`serve`], with a [`Server`] of the caller's making, for certificates of another lifetime.
///
/// # Errors
/// As [`serve`].
pub fn serve_with(addr: SocketAddr, server: Server, authority: &Authority) -> Result<JoinService> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AddrInUse => Error::failed_precondition(format!(
            "cannot serve the authority at {addr}: {error}: another process has this UDP port, perhaps a daemon that serves \
             the authority already; end it, or choose another address (--join-address of a daemon, --bind of `cluster serve`)"
        )),
        _ => Error::from(error).context(format!("cannot serve the authority at {addr}")),
    };
    let socket = UdpSocket::bind(addr).map_err(failed)?;
    let addr = socket.local_addr().map_err(failed)?;
    let runtime = runtime()?;
    let config = server_config(authority)?;
    let endpoint = {
        let _inside = runtime.enter();
        Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime)).map_err(failed)?
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let authority = authority.clone();
    let thread = thread::Builder::new()
        .name("actorflow-join".to_owned())
        .spawn(move || {
            runtime.spawn(accept(endpoint.clone(), Arc::new(server), authority));
            // Either end of the channel says the same: stop.
            let _ = runtime.block_on(stopped);
            endpoint.close(VarInt::from_u32(0), b"the service ends");
            let _ = runtime.block_on(async { timeout(FAREWELL, endpoint.wait_idle()).await });
            runtime.shutdown_timeout(FAREWELL);
        })
        .map_err(failed)?;
    Ok(JoinService {
        addr,
        stop: Some(stop),
        thread: Some(thread),
    })
}

fn runtime() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(4)
        .build()
        .map_err(|error| Error::from(error).context("no runtime for the joining protocol"))
}

fn server_config(authority: &Authority) -> Result<quinn::ServerConfig> {
    let tls = QuicServerConfig::try_from(authority.server_tls_join()?)
        .map_err(|_| Error::internal("the TLS provider lacks QUIC's first cipher suite"))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(transport());
    config.migration(false);
    Ok(config)
}

/// One exchange is all that a connection is for.
fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(VarInt::from_u32(10_000).into()));
    Arc::new(transport)
}

/// Takes connections until the endpoint is closed.
async fn accept(endpoint: Endpoint, server: Arc<Server>, authority: Authority) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut limit = RateLimit::default();
    let mut refreshed = Instant::now();
    loop {
        let incoming = match timeout(REFRESH, endpoint.accept()).await {
            Ok(None) => return,
            Ok(Some(incoming)) => Some(incoming),
            Err(_) => None,
        };
        if refreshed.elapsed() >= REFRESH {
            refreshed = Instant::now();
            // The one in use is good for a day, so a failure leaves many more attempts.
            if let Ok(config) = server_config(&authority) {
                endpoint.set_server_config(Some(config));
            }
        }
        let Some(incoming) = incoming else { continue };
        if !incoming.remote_address_validated() {
            // Fails only if the address is validated.
            let _ = incoming.retry();
            continue;
        }
        let place = Arc::clone(&places).try_acquire_owned();
        match place {
            Ok(place) if limit.admits(incoming.remote_address().ip(), Instant::now()) => {
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    // A peer that is slow, refused or gone is its own concern: the audit log has what it asked for.
                    let _ = timeout(PATIENCE, answer(incoming, server)).await;
                    drop(place);
                });
            }
            _ => incoming.refuse(),
        }
    }
}

/// Reads the one request of a connection and answers it.
async fn answer(incoming: Incoming, server: Arc<Server>) -> Option<()> {
    let connection = incoming.accept().ok()?.await.ok()?;
    let peer = connection.remote_address();
    let member = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .and_then(|chain| chain.first().and_then(|leaf| peer_identity(leaf).ok()));
    let (mut send, mut receive) = connection.accept_bi().await.ok()?;
    let request = receive.read_to_end(MAX_REQUEST).await.ok()?;
    // Signing waits for files and for the lock of the state.
    let answer = move || match &member {
        Some(member) => server.answer_member(&request, member, peer),
        None => server.answer(&request, peer),
    };
    let response = tokio::task::spawn_blocking(answer).await.ok()?;
    send.write_all(&response).await.ok()?;
    send.finish().ok()?;
    // The node closes the connection when it has read everything.
    connection.closed().await;
    Some(())
}

/// Joins the cluster whose authority serves at `addr` (`HOST:PORT`) and whose CA has the hash `sha256:…`, as `subject`, by
/// the token with this secret. The key is made here. Blocks, at most until `deadline`.
///
/// # Errors
/// `UNAUTHENTICATED` if the authority there is another one or does not know the token, `PERMISSION_DENIED` if the token is
/// used up or for another subject, `UNAVAILABLE` if nobody answers, `DEADLINE_EXCEEDED`, `INVALID_ARGUMENT`.
pub fn join(addr: &str, ca_hash: &str, secret: &str, subject: Subject, deadline: Instant) -> Result<Identity> {
    let client = Client::new(subject, secret, ca_hash)?;
    let response = exchange(addr, client_tls_join(ca_hash)?, client.request(), deadline)?;
    client.finish(&response)
}

/// Renews `identity` at the authority at `addr` (`HOST:PORT`): a new key, a new certificate for the same subject, and the
/// present revocations. Blocks, at most until `deadline`.
///
/// # Errors
/// `UNAUTHENTICATED` or `PERMISSION_DENIED` if the present certificate has expired or was revoked, and as [`join`].
pub fn renew(addr: &str, identity: &Identity, deadline: Instant) -> Result<Identity> {
    let renewal = Renewal::new(identity)?;
    let response = exchange(addr, client_tls_renew(identity)?, renewal.request(), deadline)?;
    renewal.finish(&response)
}

/// The present revocations, from the authority at `addr` (`HOST:PORT`). Blocks, at most until `deadline`.
///
/// # Errors
/// As [`renew`].
pub fn fetch_revocations(addr: &str, identity: &Identity, deadline: Instant) -> Result<Revocations> {
    let request = Request::Revocations.encode();
    finish_revocations(&exchange(addr, client_tls_renew(identity)?, request, deadline)?)
}

/// Sends a request and reads the response, on a runtime of this call's own.
fn exchange(addr: &str, tls: ClientConfig, request: Vec<u8>, deadline: Instant) -> Result<Vec<u8>> {
    let addr = addr.to_owned();
    // A thread of its own, because a thread that runs another runtime cannot wait for this one.
    let thread = thread::Builder::new()
        .name("actorflow-join".to_owned())
        .spawn(move || {
            let runtime = runtime()?;
            let outcome = runtime.block_on(exchange_at(&addr, tls, &request, deadline));
            // A look-up of a name that hangs is left to end by itself.
            runtime.shutdown_background();
            outcome
        })
        .map_err(|error| Error::from(error).context("no thread for the joining protocol"))?;
    thread
        .join()
        .unwrap_or_else(|_| Err(Error::internal("the exchange with the authority panicked")))
}

/// Tries the addresses of `addr` in turn; the last one's error is reported.
async fn exchange_at(addr: &str, tls: ClientConfig, request: &[u8], deadline: Instant) -> Result<Vec<u8>> {
    let unknown = |why: &dyn std::fmt::Display| {
        Error::invalid(format!(
            "the authority's address {addr:?} is unknown ({why}); write HOST:PORT"
        ))
    };
    let addresses: Vec<SocketAddr> = within(deadline, addr, tokio::net::lookup_host(addr))
        .await?
        .map_err(|error| unknown(&error))?
        .collect();
    let tls = QuicClientConfig::try_from(tls)
        .map_err(|_| Error::internal("the TLS provider lacks QUIC's first cipher suite"))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport());
    let mut outcome = Err(unknown(&"it has no address"));
    for (tried, address) in addresses.iter().enumerate() {
        // What is left is shared by the addresses that are left.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let until = Instant::now() + left / share;
        outcome = exchange_with(*address, &config, request, until).await;
        // Only an address where nobody answers is worth another one.
        match &outcome {
            Err(error) if error.code() == Code::DeadlineExceeded => {}
            _ => return outcome,
        }
    }
    outcome
}

async fn within<T>(deadline: Instant, what: impl std::fmt::Display, work: impl Future<Output = T>) -> Result<T> {
    timeout(deadline.saturating_duration_since(Instant::now()), work)
        .await
        .map_err(|_| {
            Error::deadline(format!(
                "the authority at {what} did not answer in time; is it running, and does UDP reach it?"
            ))
        })
}

async fn exchange_with(
    address: SocketAddr,
    config: &quinn::ClientConfig,
    request: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>> {
    let local: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let endpoint = Endpoint::client(SocketAddr::new(local, 0))?;
    let work = converse(&endpoint, address, config, request);
    let outcome = within(deadline, address, work).await.and_then(|outcome| outcome);
    endpoint.close(VarInt::from_u32(0), b"done");
    // So that the authority hears of the end. The outcome does not depend on it.
    let _ = timeout(PARTING, endpoint.wait_idle()).await;
    outcome
}

async fn converse(
    endpoint: &Endpoint,
    address: SocketAddr,
    config: &quinn::ClientConfig,
    request: &[u8],
) -> Result<Vec<u8>> {
    // The name is not sent and not compared: the CA's hash and the authority's name in its certificate are.
    let connecting = endpoint
        .connect_with(config.clone(), address, "actorflow")
        .map_err(|error| Error::invalid(format!("cannot connect to {address}: {error}")))?;
    let connection = connecting.await.map_err(|error| lost(address, &error))?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| lost(address, &error))?;
    // If the connection is refused while the request is sent, reading says why.
    let _ = send.write_all(request).await;
    let _ = send.finish();
    match receive.read_to_end(MAX_RESPONSE).await {
        Ok(response) => Ok(response),
        Err(quinn::ReadToEndError::TooLong) => Err(Error::data_loss("the authority's response is too long")),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(error))) => Err(lost(address, &error)),
        Err(error) => Err(Error::new(
            Code::Unavailable,
            format!("the authority at {address} broke off: {error}"),
        )),
    }
}

/// Why there is no connection, or no more.
fn lost(address: SocketAddr, error: &ConnectionError) -> Error {
    let code = match error {
        ConnectionError::TransportError(error) => Some(u64::from(error.code)),
        ConnectionError::ConnectionClosed(close) => Some(u64::from(close.error_code)),
        _ => None,
    };
    // QUIC's codes for a TLS alert, and for turning a connection away.
    match code {
        Some(0x100..=0x1ff) => {
            let mut text = format!("the handshake with the authority at {address} failed: {error}");
            if text.contains("UnknownIssuer") {
                text += "; its CA is another one than this member's or the one with the hash that was given (--ca-hash): is the \
                         address right? `actorflow cluster token` prints hash and address where the authority is";
            }
            Error::new(Code::Unauthenticated, text)
        }
        Some(0x2) => Error::new(
            Code::Unavailable,
            format!("the authority at {address} turns connections away; try again in a minute"),
        ),
        _ => Error::new(
            Code::Unavailable,
            format!("no connection with the authority at {address}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::TokenSpec;
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn service() -> (Authority, JoinService, String) {
        let authority = Authority::ephemeral("c").unwrap();
        let service = serve("127.0.0.1:0".parse().unwrap(), &authority).unwrap();
        let addr = service.addr().to_string();
        (authority, service, addr)
    }

    fn secret(authority: &Authority, pattern: &str) -> String {
        let spec = TokenSpec {
            subject: pattern.parse().unwrap(),
            ttl: HOUR,
            uses: 1,
        };
        authority.token(&spec).unwrap().secret().to_owned()
    }

    #[test]
    fn a_node_joins_renews_and_fetches_revocations() {
        let (authority, _service, addr) = service();
        let secret = secret(&authority, "task/worker/*");
        let hash = authority.ca_hash();
        let identity = join(&addr, &hash, &secret, subject("task/worker/1"), soon()).unwrap();
        assert_eq!(identity.subject(), &subject("task/worker/1"));
        assert_eq!(identity.ca_hash(), hash);

        let renewed = renew(&addr, &identity, soon()).unwrap();
        assert_eq!(renewed.subject(), identity.subject());
        assert_ne!(renewed.serial(), identity.serial());

        authority.revoke(identity.serial()).unwrap();
        let list = fetch_revocations(&addr, &renewed, soon()).unwrap();
        assert!(list.contains(identity.serial()) && !list.contains(renewed.serial()));
    }

    #[test]
    fn a_token_is_good_for_one_node_only() {
        let (authority, _service, addr) = service();
        let secret = secret(&authority, "client/a");
        let hash = authority.ca_hash();
        join(&addr, &hash, &secret, subject("client/a"), soon()).unwrap();
        let error = join(&addr, &hash, &secret, subject("client/a"), soon()).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        let audit = authority.audit().tail(10).unwrap().join("\n");
        assert!(audit.contains("used up") && audit.contains("127.0.0.1:"), "{audit}");
        assert!(!audit.contains(&secret));
    }

    #[test]
    fn another_clusters_authority_is_refused_before_it_sees_the_secret() {
        let (authority, _service, addr) = service();
        let other = Authority::ephemeral("c").unwrap();
        let secret = secret(&authority, "client/a");
        let error = join(&addr, &other.ca_hash(), &secret, subject("client/a"), soon()).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        join(&addr, &authority.ca_hash(), &secret, subject("client/a"), soon()).expect("the token is unspent");
    }

    #[test]
    fn a_revoked_member_can_neither_renew_nor_ask() {
        let (authority, _service, addr) = service();
        let identity = authority.issue(subject("task/ps/0"), HOUR).unwrap();
        authority.revoke("task/ps/0").unwrap();
        let error = renew(&addr, &identity, soon()).unwrap_err();
        assert_eq!(error.code(), Code::PermissionDenied, "{error}");
        assert!(fetch_revocations(&addr, &identity, soon()).is_err());
    }

    #[test]
    fn an_expired_or_foreign_member_fails_the_handshake_of_renewal() {
        let (authority, _service, addr) = service();
        let day_ago = SystemTime::now() - 24 * HOUR;
        let expired = authority.issue_at(subject("task/ps/0"), HOUR, day_ago).unwrap();
        let error = renew(&addr, &expired, soon()).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
        let foreign = Authority::ephemeral("c").unwrap().issue(subject("task/ps/0"), HOUR);
        let error = renew(&addr, &foreign.unwrap(), soon()).unwrap_err();
        assert_eq!(error.code(), Code::Unauthenticated, "{error}");
    }

    #[test]
    fn a_request_that_is_no_request_is_answered_with_a_refusal() {
        let (authority, _service, addr) = service();
        let tls = || client_tls_join(&authority.ca_hash()).unwrap();
        let response = exchange(&addr, tls(), b"GET / HTTP/1.1".to_vec(), soon()).unwrap();
        assert_eq!(finish_revocations(&response).unwrap_err().code(), Code::InvalidArgument);
        let response = exchange(&addr, tls(), Request::Revocations.encode(), soon()).unwrap();
        assert_eq!(finish_revocations(&response).unwrap_err().code(), Code::Unauthenticated);
    }

    #[test]
    fn an_address_where_nobody_answers_is_an_error_at_the_deadline() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = silent.local_addr().unwrap().to_string();
        let authority = Authority::ephemeral("c").unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let secret = secret(&authority, "client/a");
        let error = join(&addr, &authority.ca_hash(), &secret, subject("client/a"), deadline).unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(error.message().contains(&addr), "{error}");
    }

    #[test]
    fn a_malformed_address_is_an_error() {
        let authority = Authority::ephemeral("c").unwrap();
        let identity = authority.issue(subject("task/ps/0"), HOUR).unwrap();
        for addr in ["", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999"] {
            let error = renew(addr, &identity, soon()).unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn a_service_that_is_dropped_frees_its_address() {
        let (authority, service, addr) = service();
        drop(service);
        serve(addr.parse().unwrap(), &authority).expect("the address is free");
    }
}
