//! The messages inside summaries. Fields of value zero are left out, as in proto3.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::{DType, Tensor};

use crate::ops::parse::wire::head;
use crate::protobuf::{self, Value};

/// A tensor as a `TensorProto`.
///
/// # Errors
/// `UNIMPLEMENTED` for resources and variants.
pub(super) fn tensor(t: &Tensor) -> Result<Vec<u8>> {
    let m = head(t);
    Ok(match (t.dtype(), t.bytes()) {
        (DType::Str, _) => t.as_strings()?.iter().fold(m, |m, s| m.part(8, s)),
        (_, Some(bytes)) => m.bytes(4, bytes),
        (d, None) => return Err(Error::unimplemented(format!("a tensor of {d} cannot be a summary"))),
    }
    .done())
}

/// The fields of a message: their numbers and, of those that have bytes, these; `None` if it is malformed.
pub(super) fn fields(from: &[u8]) -> Option<Vec<(u64, &[u8])>> {
    let mut all = Vec::new();
    protobuf::fields(from, |n, value| {
        let bytes = if let Value::Bytes(b) = value { b } else { &[] };
        all.push((n, bytes));
        Some(())
    })?;
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Message;

    #[test]
    fn messages_are_read_as_they_were_written_and_torn_ones_refused() {
        let m = Message::default()
            .part(1, b"ab")
            .int(2, 300)
            .double(3, 0.0)
            .double(4, 1.5)
            .done();
        assert_eq!(fields(&m), Some(vec![(1, &b"ab"[..]), (2, b""), (4, b"")]));
        assert_eq!(fields(&m[..3]), None);
        assert_eq!(fields(&[0xff; 12]), None);
        assert_eq!(fields(&[7]), None);
    }
}
