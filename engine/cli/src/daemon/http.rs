//! A small HTTP server for probes and metrics: `GET` of a few paths, one answer for each connection.
//!
//! Answers are made from memory, so one connection is served after the other; each has two seconds.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An answer: status, content type, body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    /// A line of text.
    pub(crate) fn text(status: u16, body: impl Into<String>) -> Answer {
        let mut body = body.into();
        body.push('\n');
        Answer {
            status,
            content_type: "text/plain; charset=utf-8",
            body,
        }
    }
}

/// What answers a `GET` of a path; `None`: there is no such page.
pub(crate) type Pages = dyn Fn(&str) -> Option<Answer> + Send + Sync;

/// The longest request that is read, in bytes.
const MOST: usize = 8 << 10;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The server; dropping it closes the port.
pub(crate) struct HttpServer {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Serves pages at an address.
    ///
    /// # Errors
    /// What the system says about the address.
    pub(crate) fn start(addr: SocketAddr, pages: Box<Pages>) -> std::io::Result<HttpServer> {
        let listener = TcpListener::bind(addr)?;
        let addr = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("actorflow-http".into())
            .spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    if stopped.load(Ordering::SeqCst) {
                        break;
                    }
                    // A client that went away or is too slow gets nothing; that is its own affair.
                    let _ = serve(stream, &*pages);
                }
            })?;
        Ok(HttpServer {
            addr,
            stop,
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that the system chose if 0 was asked for.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut to = self.addr;
        if to.ip().is_unspecified() {
            to.set_ip(match to {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // Wakes the thread; without a connection it stays until the process ends, which harms nobody.
        if TcpStream::connect_timeout(&to, PATIENCE).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

fn serve(mut stream: TcpStream, pages: &Pages) -> std::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE))?;
    let head = read_head(&mut stream, deadline)?;
    let mut words = head.lines().next().unwrap_or_default().split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let answer = match method {
        "GET" | "HEAD" => pages(path).unwrap_or_else(|| Answer::text(404, "there is no such page")),
        _ => Answer::text(405, "only GET is answered"),
    };
    let reason = match answer.status {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(answer.body.as_bytes())?;
    }
    stream.flush()
}

/// The lines before the body.
fn read_head(stream: &mut TcpStream, deadline: Instant) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > MOST {
            return Err(ErrorKind::InvalidData.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&part[..n]),
        }
    }
    String::from_utf8(head).map_err(|_| ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(addr: SocketAddr, request: &str) -> String {
        let mut s = TcpStream::connect(addr).unwrap();
        s.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        s.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn pages_are_answered_and_others_are_not_found() {
        let pages = |path: &str| (path == "/healthz").then(|| Answer::text(200, "ok"));
        let server = HttpServer::start("127.0.0.1:0".parse().unwrap(), Box::new(pages)).unwrap();
        let at = server.addr();
        let got = ask(at, "GET /healthz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(
            got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with("\r\n\r\nok\n"),
            "{got}"
        );
        assert!(ask(at, "GET /secret HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask(at, "POST /healthz HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        let head = ask(at, "HEAD /healthz HTTP/1.1\r\n\r\n");
        assert!(
            head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"),
            "{head}"
        );
    }

    #[test]
    fn a_request_that_is_too_long_is_dropped_and_the_next_one_answered() {
        let pages = |_: &str| Some(Answer::text(200, "ok"));
        let server = HttpServer::start("127.0.0.1:0".parse().unwrap(), Box::new(pages)).unwrap();
        let mut s = TcpStream::connect(server.addr()).unwrap();
        // The server may have hung up before all of it is written.
        let _ = s.write_all(&vec![b'a'; 64 << 10]);
        drop(s);
        assert!(ask(server.addr(), "GET / HTTP/1.0\r\n\r\n").contains(" 200 "));
    }

    #[test]
    fn dropping_the_server_closes_the_port() {
        let server = HttpServer::start("127.0.0.1:0".parse().unwrap(), Box::new(|_| None)).unwrap();
        let at = server.addr();
        drop(server);
        assert!(TcpStream::connect(at).is_err());
    }
}
