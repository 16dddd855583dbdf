//! The protobuf code that is checked in is what the `.proto` files say.
//!
//! `engine/src/graphdef/proto/tensorflow.rs` is generated from `engine/proto/*.proto` by protox (a
//! protobuf compiler in Rust, no `protoc`) and prost-build. To change it, edit a `.proto` file and run
//!
//! ```text
//! cargo test -p actorflow-tests --test protobuf_code -- --ignored regenerate
//! ```

use std::path::{Path, PathBuf};

const FILES: [&str; 6] = [
    "types.proto",
    "tensor.proto",
    "graph.proto",
    "saved_model.proto",
    "tensor_bundle.proto",
    "event.proto",
];

fn engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine")
}

fn checked_in() -> PathBuf {
    engine().join("src/graphdef/proto/tensorflow.rs")
}

/// Compiles the `.proto` files. Maps become `BTreeMap`, so that encoding is deterministic; byte fields
/// become `Bytes`, so that decoding shares the buffer of the file; the large variants of an attribute
/// are boxed, because a map's node holds room for eleven of them.
fn generate() -> String {
    let include = engine().join("proto");
    let descriptors = protox::compile(FILES, [&include]).expect("the .proto files compile");
    let out = tempfile::tempdir().expect("a scratch directory");
    prost_build::Config::new()
        .out_dir(out.path())
        .btree_map(["."])
        .bytes(["."])
        .boxed(".tensorflow.AttrValue.value.list")
        .boxed(".tensorflow.AttrValue.value.tensor")
        .compile_fds(descriptors)
        .expect("prost generates code");
    std::fs::read_to_string(out.path().join("tensorflow.rs")).expect("the generated file")
}

#[test]
fn checked_in_protobuf_code_is_current() {
    let current = std::fs::read_to_string(checked_in()).expect("the checked-in file");
    assert!(
        current == generate(),
        "engine/src/graphdef/proto/tensorflow.rs differs from engine/proto/*.proto: regenerate it \
         (see the head of {})",
        file!()
    );
}

#[test]
#[ignore = "writes engine/src/graphdef/proto/tensorflow.rs"]
fn regenerate() {
    std::fs::write(checked_in(), generate()).expect("the source tree is writable");
}
