//! Decoding of graph and saved-model files within limits.
//!
//! A few bytes of protobuf can stand for hundreds of bytes of message (an empty node is two bytes in the
//! file), so a small hostile file could fill the memory. Before anything is allocated, `estimate`
//! walks the encoded bytes and adds up what the message will take; the walk allocates nothing itself.

use super::proto;
use bytes::{Buf, Bytes};
use prost::Message;
use std::fmt;
use std::mem::size_of;

/// How much a file may make the decoder do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeLimits {
    /// The longest file in bytes. Protobuf itself ends at 2 GiB.
    pub max_bytes: usize,
    /// The most memory in bytes that the decoded message may take besides the file's own buffer.
    pub max_memory: usize,
    /// How deep messages may nest; at most 100, where the protobuf decoder ends.
    pub max_depth: usize,
}

impl Default for DecodeLimits {
    /// 2 GiB of file, 4 GiB of message, 100 levels.
    fn default() -> Self {
        Self {
            max_bytes: i32::MAX as usize,
            max_memory: 4 << 30,
            max_depth: 100,
        }
    }
}

/// Why protobuf bytes or a message in them cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtoError {
    /// The bytes are not such a message, or the message contradicts itself.
    Invalid(String),
    /// A limit on size, memory or depth would be exceeded.
    TooLarge(String),
    /// The message is well formed but holds what the engine does not represent.
    Unsupported(String),
}

impl fmt::Display for ProtoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(m) | Self::TooLarge(m) | Self::Unsupported(m) => f.write_str(m),
        }
    }
}

impl std::error::Error for ProtoError {}

/// Decodes a serialized `GraphDef`.
///
/// Byte fields of the result share `bytes`. Errors: [`ProtoError::Invalid`] for truncated or malformed bytes,
/// [`ProtoError::TooLarge`] beyond `limits`.
pub fn decode_graph(bytes: Bytes, limits: &DecodeLimits) -> Result<proto::GraphDef, ProtoError> {
    decode(bytes, limits, Kind::Graph, "GraphDef")
}

/// Decodes the contents of a `saved_model.pb`.
///
/// Sharing and errors are those of [`decode_graph`].
pub fn decode_saved_model(bytes: Bytes, limits: &DecodeLimits) -> Result<proto::SavedModel, ProtoError> {
    decode(bytes, limits, Kind::SavedModel, "SavedModel")
}

/// Decodes a serialized `MetaGraphDef` (the `.meta` file beside a checkpoint).
///
/// Sharing and errors are those of [`decode_graph`].
pub fn decode_meta_graph(bytes: Bytes, limits: &DecodeLimits) -> Result<proto::MetaGraphDef, ProtoError> {
    decode(bytes, limits, Kind::MetaGraph, "MetaGraphDef")
}

/// Decodes a serialized `TensorProto`.
///
/// Sharing and errors are those of [`decode_graph`].
pub fn decode_tensor(bytes: Bytes, limits: &DecodeLimits) -> Result<proto::TensorProto, ProtoError> {
    decode(bytes, limits, Kind::Tensor, "TensorProto")
}

fn decode<M: Message + Default>(bytes: Bytes, limits: &DecodeLimits, kind: Kind, name: &str) -> Result<M, ProtoError> {
    if bytes.len() > limits.max_bytes {
        return Err(ProtoError::TooLarge(format!(
            "{name}: {} bytes, the limit is {}",
            bytes.len(),
            limits.max_bytes
        )));
    }
    let mut walk = Walk {
        limits,
        name,
        memory: size_of::<M>(),
    };
    walk.message(kind, &bytes, 1)?;
    M::decode(bytes).map_err(|e| ProtoError::Invalid(format!("{name}: {e}")))
}

/// The message types whose fields the walk looks into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Graph,
    Library,
    Function,
    ArgAttrs,
    Signature,
    Arg,
    AttrDef,
    Node,
    Attr,
    List,
    NameAttrs,
    Tensor,
    Shape,
    Resource,
    Variant,
    SavedModel,
    MetaGraph,
    MetaInfo,
    OpList,
    Collection,
    Interface,
    TensorInfo,
    Asset,
}

/// What the walk does with the payload of one length-delimited field.
enum Field {
    /// A message, kept in a `Vec`, an `Option` or a `Box`.
    Message(Kind),
    /// A map entry whose value is a message.
    Map(Kind),
    /// Bytes that stay in the file's buffer.
    Shared,
    /// Packed values as wide in memory as in the file.
    Fixed,
    /// Anything else: text, packed variable-length numbers, small messages, unknown fields.
    Other,
}

/// Room that a map takes as soon as it has an entry: one leaf of eleven slots.
const MAP_LEAF: usize = 11 * (size_of::<String>() + size_of::<proto::AttrValue>()) + 16;

impl Kind {
    fn size(self) -> usize {
        match self {
            Kind::Graph => size_of::<proto::GraphDef>(),
            Kind::Library => size_of::<proto::FunctionDefLibrary>(),
            Kind::Function => size_of::<proto::FunctionDef>(),
            Kind::ArgAttrs => size_of::<proto::function_def::ArgAttrs>(),
            Kind::Signature => size_of::<proto::OpDef>(),
            Kind::Arg => size_of::<proto::op_def::ArgDef>(),
            Kind::AttrDef => size_of::<proto::op_def::AttrDef>(),
            Kind::Node => size_of::<proto::NodeDef>(),
            Kind::Attr => size_of::<proto::AttrValue>(),
            Kind::List => size_of::<proto::attr_value::ListValue>(),
            Kind::NameAttrs => size_of::<proto::NameAttrList>(),
            Kind::Tensor => size_of::<proto::TensorProto>(),
            Kind::Shape => size_of::<proto::TensorShapeProto>(),
            Kind::Resource => size_of::<proto::ResourceHandleProto>(),
            Kind::Variant => size_of::<proto::VariantTensorDataProto>(),
            Kind::SavedModel => size_of::<proto::SavedModel>(),
            Kind::MetaGraph => size_of::<proto::MetaGraphDef>(),
            Kind::MetaInfo => size_of::<proto::meta_graph_def::MetaInfoDef>(),
            Kind::OpList => size_of::<proto::OpList>(),
            Kind::Collection => size_of::<proto::CollectionDef>(),
            Kind::Interface => size_of::<proto::SignatureDef>(),
            Kind::TensorInfo => size_of::<proto::TensorInfo>(),
            Kind::Asset => size_of::<proto::AssetFileDef>(),
        }
    }

    fn field(self, number: u64) -> Field {
        use Field::{Fixed, Map, Message, Shared};
        match (self, number) {
            (Kind::Graph, 1) | (Kind::Function, 3) => Message(Kind::Node),
            (Kind::Graph, 2) => Message(Kind::Library),
            (Kind::Library, 1) => Message(Kind::Function),
            (Kind::Function, 1) | (Kind::OpList, 1) => Message(Kind::Signature),
            (Kind::Function, 5) | (Kind::ArgAttrs, 1) | (Kind::Node, 5) | (Kind::NameAttrs, 2) => Map(Kind::Attr),
            (Kind::Function, 7) => Map(Kind::ArgAttrs),
            (Kind::Signature, 2 | 3) => Message(Kind::Arg),
            (Kind::Signature, 4) => Message(Kind::AttrDef),
            (Kind::AttrDef, 3 | 7) => Message(Kind::Attr),
            (Kind::Attr, 1) => Message(Kind::List),
            (Kind::Attr | Kind::List, 2) | (Kind::Tensor, 4 | 8 | 18) | (Kind::Variant, 2) => Shared,
            (Kind::Attr | Kind::List, 7) | (Kind::Tensor, 2) | (Kind::TensorInfo, 3) => Message(Kind::Shape),
            (Kind::Attr | Kind::List, 8) | (Kind::Variant, 3) => Message(Kind::Tensor),
            (Kind::Attr, 10) | (Kind::List, 9) => Message(Kind::NameAttrs),
            (Kind::List, 4) | (Kind::Tensor, 5 | 6 | 9 | 12) => Fixed,
            (Kind::Tensor, 14) => Message(Kind::Resource),
            (Kind::Tensor, 15) => Message(Kind::Variant),
            (Kind::SavedModel, 2) => Message(Kind::MetaGraph),
            (Kind::MetaGraph, 1) => Message(Kind::MetaInfo),
            (Kind::MetaGraph, 2) => Message(Kind::Graph),
            (Kind::MetaGraph, 4) => Map(Kind::Collection),
            (Kind::MetaGraph, 5) => Map(Kind::Interface),
            (Kind::MetaGraph, 6) => Message(Kind::Asset),
            (Kind::MetaInfo, 2) => Message(Kind::OpList),
            (Kind::Interface, 1 | 2) => Map(Kind::TensorInfo),
            (Kind::Interface, 4) => Map(Kind::Tensor),
            (Kind::Asset, 1) => Message(Kind::TensorInfo),
            _ => Field::Other,
        }
    }
}

/// The sum so far, and what it must not exceed.
struct Walk<'a> {
    limits: &'a DecodeLimits,
    name: &'a str,
    memory: usize,
}

impl Walk<'_> {
    fn invalid(&self, what: &str) -> ProtoError {
        ProtoError::Invalid(format!("{}: {what}", self.name))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ProtoError> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.max_memory {
            return Err(ProtoError::TooLarge(format!(
                "{}: the decoded message would take more than {} bytes",
                self.name, self.limits.max_memory
            )));
        }
        Ok(())
    }

    fn message(&mut self, kind: Kind, mut buf: &[u8], depth: usize) -> Result<(), ProtoError> {
        if depth > self.limits.max_depth {
            let m = format!(
                "{}: messages nest deeper than {} levels",
                self.name, self.limits.max_depth
            );
            return Err(ProtoError::TooLarge(m));
        }
        let mut has_map = false;
        while !buf.is_empty() {
            let key = self.varint(&mut buf)?;
            let number = key >> 3;
            match key & 7 {
                0 => {
                    self.varint(&mut buf)?;
                    self.charge(8)?;
                }
                1 => {
                    self.take(&mut buf, 8)?;
                    self.charge(8)?;
                }
                5 => {
                    self.take(&mut buf, 4)?;
                    self.charge(8)?;
                }
                2 => {
                    let len = self.varint(&mut buf)?;
                    let payload = self.take(&mut buf, len)?;
                    match kind.field(number) {
                        Field::Message(inner) => {
                            self.charge(inner.size())?;
                            self.message(inner, payload, depth + 1)?;
                        }
                        Field::Map(value) => {
                            if !has_map {
                                has_map = true;
                                self.charge(MAP_LEAF)?;
                            }
                            self.charge(size_of::<String>() + value.size())?;
                            self.map_entry(value, payload, depth + 1)?;
                        }
                        Field::Shared => self.charge(size_of::<Bytes>())?,
                        Field::Fixed => self.charge(payload.len())?,
                        Field::Other => self.charge(payload.len().saturating_mul(8).saturating_add(48))?,
                    }
                }
                _ => return Err(self.invalid("malformed field (groups are not supported)")),
            }
        }
        Ok(())
    }

    /// A map entry is a message of its own: the key is field 1, the value field 2.
    fn map_entry(&mut self, value: Kind, mut buf: &[u8], depth: usize) -> Result<(), ProtoError> {
        while !buf.is_empty() {
            let key = self.varint(&mut buf)?;
            match key & 7 {
                0 => {
                    self.varint(&mut buf)?;
                }
                1 => {
                    self.take(&mut buf, 8)?;
                }
                5 => {
                    self.take(&mut buf, 4)?;
                }
                2 => {
                    let len = self.varint(&mut buf)?;
                    let payload = self.take(&mut buf, len)?;
                    if key >> 3 == 2 {
                        self.message(value, payload, depth + 1)?;
                    } else {
                        self.charge(payload.len())?;
                    }
                }
                _ => return Err(self.invalid("malformed map entry")),
            }
        }
        Ok(())
    }

    fn varint(&self, buf: &mut &[u8]) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some((&byte, rest)) = buf.split_first() else {
                return Err(self.invalid("truncated"));
            };
            *buf = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.invalid("malformed number"))
    }

    fn take<'b>(&self, buf: &mut &'b [u8], len: u64) -> Result<&'b [u8], ProtoError> {
        match usize::try_from(len) {
            Ok(len) if len <= buf.len() => {
                let head = &buf[..len];
                buf.advance(len);
                Ok(head)
            }
            _ => Err(self.invalid("truncated")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::attr_value::Value;

    const CASES: [(&str, &[u8]); 2] = [
        ("while_loop.pb", include_bytes!("testdata/while_loop.pb")),
        ("momentum_step.pb", include_bytes!("testdata/momentum_step.pb")),
    ];

    fn node(name: &str, attr: Value) -> proto::NodeDef {
        let attr = [("value".to_string(), proto::AttrValue { value: Some(attr) })].into();
        proto::NodeDef {
            name: name.into(),
            op: "Const".into(),
            attr,
            ..Default::default()
        }
    }

    #[test]
    fn graphs_written_by_tensorflow_round_trip() {
        for (name, bytes) in CASES {
            let graph = decode_graph(Bytes::from_static(bytes), &DecodeLimits::default()).expect(name);
            assert!(graph.node.len() > 5, "{name}");
            assert!(
                graph.node.iter().all(|n| !n.name.is_empty() && !n.op.is_empty()),
                "{name}"
            );
            assert_eq!(graph.versions.as_ref().map(|v| v.producer > 100), Some(true), "{name}");
            let again = graph.encode_to_vec();
            let back = decode_graph(Bytes::from(again.clone()), &DecodeLimits::default()).expect(name);
            assert_eq!(graph, back, "{name}");
            assert_eq!(again, back.encode_to_vec(), "encoding is deterministic: {name}");
        }
    }

    #[test]
    fn every_truncation_is_an_error_or_a_shorter_graph() {
        for (name, bytes) in CASES {
            for end in 0..bytes.len() {
                if let Err(e) = decode_graph(Bytes::from_static(&bytes[..end]), &DecodeLimits::default()) {
                    assert!(matches!(e, ProtoError::Invalid(_)), "{name} at {end}: {e}");
                }
            }
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        for (_, bytes) in CASES {
            for i in 0..bytes.len() {
                for bit in [0x01, 0x10, 0x80] {
                    let mut copy = bytes.to_vec();
                    copy[i] ^= bit;
                    let _ = decode_graph(copy.into(), &DecodeLimits::default());
                }
            }
        }
    }

    #[test]
    fn a_small_file_of_many_empty_nodes_is_refused_before_it_fills_the_memory() {
        let bytes: Bytes = [0x0a, 0x00].repeat(1 << 20).into();
        let limits = DecodeLimits {
            max_memory: 64 << 20,
            ..Default::default()
        };
        let e = decode_graph(bytes, &limits).expect_err("a million nodes");
        assert!(matches!(e, ProtoError::TooLarge(_)), "{e}");
        assert!(e.to_string().contains("67108864"), "{e}");
    }

    #[test]
    fn a_file_beyond_the_size_limit_is_refused() {
        let limits = DecodeLimits {
            max_bytes: 10,
            ..Default::default()
        };
        let e = decode_graph(Bytes::from_static(&[0; 11]), &limits).expect_err("11 bytes");
        assert_eq!(e, ProtoError::TooLarge("GraphDef: 11 bytes, the limit is 10".into()));
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut value = Value::I(1);
        for _ in 0..60 {
            let attr = [("a".to_string(), proto::AttrValue { value: Some(value) })].into();
            value = Value::Func(proto::NameAttrList { name: "f".into(), attr });
        }
        let graph = proto::GraphDef {
            node: vec![node("n", value)],
            ..Default::default()
        };
        let e = decode_graph(graph.encode_to_vec().into(), &DecodeLimits::default()).expect_err("180 levels");
        assert_eq!(
            e,
            ProtoError::TooLarge("GraphDef: messages nest deeper than 100 levels".into())
        );
    }

    #[test]
    fn large_constants_share_the_file_buffer_and_do_not_count() {
        let tensor = proto::TensorProto {
            tensor_content: vec![7u8; 1 << 20].into(),
            ..Default::default()
        };
        let graph = proto::GraphDef {
            node: vec![node("c", Value::Tensor(Box::new(tensor)))],
            ..Default::default()
        };
        let file = Bytes::from(graph.encode_to_vec());
        let range = file.as_ptr_range();
        let limits = DecodeLimits {
            max_memory: 8 << 10,
            ..Default::default()
        };
        let back = decode_graph(file.clone(), &limits).expect("a constant");
        let Some(Value::Tensor(t)) = &back.node[0].attr["value"].value else {
            panic!("a tensor")
        };
        assert!(range.contains(&t.tensor_content.as_ptr()));
    }
}
