//! The bytes of the exchange in which a node joins, renews its certificate or asks for revocations.
//!
//! A message is `AFJ`, the version 1, a kind, and that kind's fields, each a length (`u32`, big-endian) and its bytes.
//! Every length is checked against its field's limit before anything is read, and nothing may follow the last field.
#![forbid(unsafe_code)]

use std::fmt;

use actorflow_core::{Code, Error, Result};

use super::certificate::MAX_CERTIFICATE;
use super::node::MAX_REVOKED;
use super::request::MAX_CSR;
use super::revocations::Revocations;
use super::subject::Subject;
use super::tokens::MAX_SECRET;

/// The longest request, in bytes.
pub const MAX_REQUEST: usize = 8 << 10;

/// The longest response, in bytes: the list of revocations is what takes room.
pub const MAX_RESPONSE: usize = MAX_REVOKED + (32 << 10);

const MAGIC: &[u8; 4] = b"AFJ\x01";
const MAX_SUBJECT: usize = 160;
const MAX_MESSAGE: usize = 2 << 10;

/// What a node asks of the authority. Its debug form does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Request {
    /// To become `subject`, by the token with this secret.
    Join {
        /// Who the node wants to be.
        subject: Subject,
        /// The token's secret.
        secret: String,
        /// The signing request, PKCS #10 in DER form.
        csr: Vec<u8>,
    },
    /// To go on being `subject`, by the certificate shown in the handshake.
    Renew {
        /// Who the node is.
        subject: Subject,
        /// The signing request for the new key.
        csr: Vec<u8>,
    },
    /// The list of revocations, for whoever has shown a certificate.
    Revocations,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Join { subject, .. } => write!(f, "Join({subject})"),
            Request::Renew { subject, .. } => write!(f, "Renew({subject})"),
            Request::Revocations => f.write_str("Revocations"),
        }
    }
}

impl Request {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Request::Join { subject, secret, csr } => {
                message(1, &[subject.to_string().as_bytes(), secret.as_bytes(), csr])
            }
            Request::Renew { subject, csr } => message(2, &[subject.to_string().as_bytes(), csr]),
            Request::Revocations => message(3, &[]),
        }
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if they are no request.
    pub fn decode(bytes: &[u8]) -> Result<Request> {
        let (kind, mut fields) = Fields::open(bytes, MAX_REQUEST, "request")?;
        let request = match kind {
            1 => Request::Join {
                subject: fields.text(MAX_SUBJECT)?.parse()?,
                secret: fields.text(MAX_SECRET)?.to_owned(),
                csr: fields.bytes(MAX_CSR)?.to_vec(),
            },
            2 => Request::Renew {
                subject: fields.text(MAX_SUBJECT)?.parse()?,
                csr: fields.bytes(MAX_CSR)?.to_vec(),
            },
            3 => Request::Revocations,
            _ => return Err(fields.malformed("its kind is unknown")),
        };
        fields.close()?;
        Ok(request)
    }
}

/// What the authority answers.
#[derive(Debug, Clone)]
pub enum Response {
    /// The certificate that was asked for, the CA's, and what is revoked.
    Granted {
        /// The node's certificate in DER form.
        leaf: Vec<u8>,
        /// The CA's certificate in DER form.
        ca: Vec<u8>,
        /// The revocations.
        revocations: Revocations,
    },
    /// No, and why.
    Refused(Error),
    /// The revocations alone.
    Revocations(Revocations),
}

impl Response {
    /// The bytes. A list of revocations over the limit of a message makes it a refusal.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Response::Granted { leaf, ca, revocations } => {
                Self::with_list(revocations, |list| message(1, &[leaf, ca, list]))
            }
            Response::Revocations(revocations) => Self::with_list(revocations, |list| message(3, &[list])),
            Response::Refused(error) => {
                let mut end = error.message().len().min(MAX_MESSAGE);
                while !error.message().is_char_boundary(end) {
                    end -= 1;
                }
                let text = &error.message().as_bytes()[..end];
                message(2, &[&[number_of(error.code())], text])
            }
        }
    }

    fn with_list(revocations: &Revocations, encode: impl FnOnce(&[u8]) -> Vec<u8>) -> Vec<u8> {
        let list = revocations.to_json();
        match list.len() <= MAX_REVOKED {
            true => encode(list.as_bytes()),
            false => Response::Refused(Error::exhausted(format!(
                "{} certificates are revoked, more than a message holds; make a new cluster",
                revocations.len()
            )))
            .encode(),
        }
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` or `DATA_LOSS` if they are no response.
    pub fn decode(bytes: &[u8]) -> Result<Response> {
        let (kind, mut fields) = Fields::open(bytes, MAX_RESPONSE, "response")?;
        let response = match kind {
            1 => Response::Granted {
                leaf: fields.bytes(MAX_CERTIFICATE)?.to_vec(),
                ca: fields.bytes(MAX_CERTIFICATE)?.to_vec(),
                revocations: Revocations::from_json(fields.bytes(MAX_REVOKED)?)?,
            },
            2 => {
                let code = match fields.bytes(1)? {
                    [number] => code_of(*number),
                    _ => return Err(fields.malformed("its code is missing")),
                };
                Response::Refused(Error::new(code, fields.text(MAX_MESSAGE)?))
            }
            3 => Response::Revocations(Revocations::from_json(fields.bytes(MAX_REVOKED)?)?),
            _ => return Err(fields.malformed("its kind is unknown")),
        };
        fields.close()?;
        Ok(response)
    }
}

/// The codes that a refusal carries; any other arrives as `UNKNOWN`. The numbers are TensorFlow's.
const CODES: &[(u8, Code)] = &[
    (3, Code::InvalidArgument),
    (7, Code::PermissionDenied),
    (8, Code::ResourceExhausted),
    (9, Code::FailedPrecondition),
    (13, Code::Internal),
    (16, Code::Unauthenticated),
];

fn number_of(code: Code) -> u8 {
    CODES
        .iter()
        .find(|(_, known)| *known == code)
        .map_or(2, |(number, _)| *number)
}

fn code_of(number: u8) -> Code {
    let known = CODES.iter().find(|(known, _)| *known == number);
    known.map_or(Code::Unknown, |(_, code)| *code)
}

fn message(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + fields.iter().map(|field| 4 + field.len()).sum::<usize>());
    bytes.extend_from_slice(MAGIC);
    bytes.push(kind);
    for field in fields {
        let length = u32::try_from(field.len()).expect("fields are far below 4 GiB");
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(field);
    }
    bytes
}

/// Reads fields in order.
struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    /// The kind of a message, and its fields.
    fn open(bytes: &'a [u8], limit: usize, what: &'static str) -> Result<(u8, Self)> {
        let mut fields = Fields { rest: bytes, what };
        if bytes.len() > limit {
            return Err(fields.malformed("it is too long"));
        }
        if fields.take(MAGIC.len())? != MAGIC {
            return Err(fields.malformed("it is not of this protocol, or of another version"));
        }
        let kind = fields.take(1)?[0];
        Ok((kind, fields))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| self.malformed("it is cut off"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes(&mut self, limit: usize) -> Result<&'a [u8]> {
        let prefix = self
            .take(4)?
            .iter()
            .fold(0u32, |length, byte| length << 8 | u32::from(*byte));
        match usize::try_from(prefix) {
            Ok(length) if length <= limit => self.take(length),
            _ => Err(self.malformed("a field is too long")),
        }
    }

    fn text(&mut self, limit: usize) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(limit)?).map_err(|_| self.malformed("a text is not UTF-8"))
    }

    fn close(self) -> Result<()> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.malformed("bytes follow it")),
        }
    }

    fn malformed(&self, why: &str) -> Error {
        Error::invalid(format!("malformed {} of the joining protocol: {why}", self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let subject: Subject = "task/ps/0".parse().unwrap();
        vec![
            Request::Join {
                subject: subject.clone(),
                secret: "aft_x".to_owned(),
                csr: vec![1, 2, 3],
            },
            Request::Renew { subject, csr: vec![4] },
            Request::Revocations,
        ]
    }

    fn responses() -> Vec<Response> {
        let list = Revocations::from_json(format!("{{\"{}\":7}}", "4".repeat(32)).as_bytes()).unwrap();
        vec![
            Response::Granted {
                leaf: vec![1],
                ca: vec![2],
                revocations: list.clone(),
            },
            Response::Refused(Error::new(Code::PermissionDenied, "no")),
            Response::Revocations(list),
        ]
    }

    #[test]
    fn messages_are_read_back() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()).unwrap(), request);
        }
        for response in responses() {
            let read = Response::decode(&response.encode()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{response:?}"));
        }
    }

    #[test]
    fn a_message_cut_off_anywhere_or_extended_is_refused() {
        for request in requests() {
            let mut bytes = request.encode();
            for end in 0..bytes.len() {
                assert!(Request::decode(&bytes[..end]).is_err());
            }
            bytes.push(0);
            assert!(Request::decode(&bytes).is_err());
        }
        for response in responses() {
            let mut bytes = response.encode();
            for end in 0..bytes.len() {
                assert!(Response::decode(&bytes[..end]).is_err());
            }
            bytes.push(0);
            assert!(Response::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_length_beyond_its_limit_is_refused_before_anything_is_read() {
        let mut bytes = MAGIC.to_vec();
        bytes.push(1);
        bytes.extend_from_slice(&u32::MAX.to_be_bytes());
        let error = Request::decode(&bytes).unwrap_err();
        assert!(error.message().contains("a field is too long"), "{error}");
    }

    #[test]
    fn any_byte_changed_is_an_error_or_another_message_but_no_panic() {
        for request in requests() {
            let bytes = request.encode();
            for at in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] ^= flip;
                    if let Ok(read) = Request::decode(&changed) {
                        assert_ne!(read, request);
                    }
                }
            }
        }
    }

    #[test]
    fn a_request_is_shown_without_its_secret() {
        let shown = format!("{:?}", requests());
        assert!(!shown.contains("aft_x"), "{shown}");
    }

    #[test]
    fn a_long_refusal_is_cut_at_a_character() {
        let refusal = Response::Refused(Error::invalid("ä".repeat(MAX_MESSAGE)));
        match Response::decode(&refusal.encode()).unwrap() {
            Response::Refused(error) => assert!(error.message().len() <= MAX_MESSAGE),
            other => panic!("{other:?}"),
        }
    }
}
