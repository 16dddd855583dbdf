//! Why connections end.
#![forbid(unsafe_code)]

use actorflow_core::{Code, Error};
use quinn_proto::{ConnectionError, TransportErrorCode};

use crate::frame::code_of;

/// Whether the peer has closed the connection, of which it has known why.
pub(super) fn is_meant(reason: &ConnectionError) -> bool {
    matches!(reason, ConnectionError::ApplicationClosed(_))
}

/// Why QUIC says that a connection is lost, to a peer that was known (`up`) or not.
pub(super) fn reason(reason: &ConnectionError, up: bool) -> Error {
    let crypto = |code: TransportErrorCode| (0x100..0x200).contains(&u64::from(code));
    match reason {
        ConnectionError::ApplicationClosed(close) => {
            let text = format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason));
            // Of a peer that was there it counts that it is not any more, whatever its reason.
            let code = if up {
                Code::Unavailable
            } else {
                code_of(close.error_code.into_inner())
            };
            Error::new(code, text)
        }
        ConnectionError::TransportError(e) if crypto(e.code) && !up => {
            Error::unauthenticated(format!("the certificates do not pass: {e}"))
        }
        ConnectionError::ConnectionClosed(close) if crypto(close.error_code) && !up => {
            Error::unauthenticated(format!("the peer does not accept this side's certificate: {close}"))
        }
        ConnectionError::ConnectionClosed(close) if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
            Error::unavailable("the peer takes no more connections now")
        }
        ConnectionError::TimedOut if up => Error::unavailable("not heard of any more"),
        ConnectionError::TimedOut => Error::unavailable("nobody answers"),
        ConnectionError::Reset => Error::unavailable("its process has ended or restarted"),
        other => Error::unavailable(other.to_string()),
    }
}
