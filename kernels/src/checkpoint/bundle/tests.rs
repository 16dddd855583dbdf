use std::path::{Path, PathBuf};

use actorflow_core::half::{bf16, f16};
use actorflow_core::num_complex::Complex;
use proptest::prelude::*;

use super::super::Reader;
use super::super::slice::SliceSpec;
use super::*;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/bundle")
}

fn open(dir: &Path, name: &str) -> Result<Reader> {
    Reader::open(&format!("{}/{name}", dir.display()))
}

/// What TensorFlow has saved in `all`.
fn expected() -> Vec<(&'static str, Tensor)> {
    fn of<T: actorflow_core::Element>(f: impl Fn(f64) -> T, v: [f64; 6]) -> Tensor {
        Tensor::from_slice([2, 3], &v.map(f)).unwrap()
    }
    let (s, u) = ([-1., 0., 1., 2., 3., 100.], [0., 1., 2., 3., 100., 200.]);
    let complex = [(1.0, 2.0), (-0.0, -3.0)];
    let wide: Vec<i8> = (0..200 * 70).map(|x: i32| x as i8).collect();
    let parted: Vec<f32> = (0..40).map(|x| x as f32).collect();
    vec![
        ("float32", of(|x| x as f32, s)),
        ("float64", of(|x| x, s)),
        ("float16", of(f16::from_f64, s)),
        ("bfloat16", of(bf16::from_f64, s)),
        ("int8", of(|x| x as i8, s)),
        ("int16", of(|x| x as i16, s)),
        ("int32", of(|x| x as i32, s)),
        ("int64", of(|x| x as i64, s)),
        ("uint8", of(|x| x as u8, u)),
        ("uint16", of(|x| x as u16, u)),
        ("uint32", of(|x| x as u32, u)),
        ("uint64", of(|x| x as u64, u)),
        ("bool", Tensor::from([true, false, true])),
        (
            "complex64",
            Tensor::from(complex.map(|(a, b)| Complex::new(a as f32, b as f32))),
        ),
        ("complex128", Tensor::from(complex.map(|(a, b)| Complex::new(a, b)))),
        (
            "string",
            Tensor::strings([1, 3], vec![Bytes::new(), "a\0b".into(), vec![0xff; 300].into()]).unwrap(),
        ),
        ("scope/scalar", Tensor::from(7.5f32)),
        ("empty", Tensor::zeros(DType::F32, [0, 4]).unwrap()),
        ("parted", Tensor::from_slice([10, 4], &parted).unwrap()),
        ("wide", Tensor::from_slice([200, 70], &wide).unwrap()),
    ]
}

#[test]
fn what_tensorflow_has_saved_is_read_in_every_dtype() {
    let r = open(&data(), "all").unwrap();
    assert_eq!(r.entries().len(), expected().len());
    for (name, t) in expected() {
        assert_eq!(r.tensor(name).unwrap(), t, "{name}");
    }
    r.verify().unwrap();
    let part = r.slice("parted", &SliceSpec::parse("10 4 2,3:1,2").unwrap()).unwrap();
    assert_eq!(part, Tensor::from([[9f32, 10.0], [13.0, 14.0], [17.0, 18.0]]));
    let part = r
        .slice("wide", &SliceSpec::parse("200 70 199,1:64,2").unwrap())
        .unwrap();
    assert_eq!(
        part.as_slice::<i8>().unwrap(),
        [(199 * 70 + 64) as i8, (199 * 70 + 65) as i8]
    );
    assert_eq!(r.tensor("nothing").unwrap_err().code(), Code::NotFound);
}

#[test]
fn a_merged_bundle_has_several_data_files() {
    let r = open(&data(), "two").unwrap();
    assert_eq!(r.tensor("a").unwrap(), Tensor::from([1i32, 2, 3]));
    assert_eq!(r.tensor("b").unwrap(), Tensor::strings([2], vec!["x", "yz"]).unwrap());
    assert_eq!(
        r.tensor("m").unwrap(),
        Tensor::from([[1f32, 2.], [3., 4.], [5., 6.], [7., 8.]])
    );
}

#[test]
fn checkpoints_of_the_first_version_are_read() {
    let r = open(&data(), "v1").unwrap();
    assert_eq!(r.tensor("f").unwrap(), Tensor::from([[1.5f32, -2.0], [3.0, 4.0]]));
    assert_eq!(r.tensor("i").unwrap(), Tensor::from([1i64, -2]));
    assert_eq!(r.tensor("s").unwrap(), Tensor::strings([2], vec!["x", "yz"]).unwrap());
    assert_eq!(r.tensor("m").unwrap(), Tensor::from(true));
    let part = open(&data(), "v1s-00001-of-00002").unwrap();
    let spec = SliceSpec::parse("4 2 2,2:1,1").unwrap();
    assert_eq!(part.slice("x", &spec).unwrap(), Tensor::from([[6f32], [8.0]]));
    assert_eq!(part.tensor("x").unwrap_err().code(), Code::InvalidArgument);

    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read(data().join("v1")).unwrap();
    let path = dir.path().join("v1");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        read_all(dir.path(), "v1").unwrap_err()
    };
    for n in 0..good.len() {
        assert_eq!(read(&good[..n]).code(), Code::DataLoss, "{n}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(read(&bad).code(), Code::DataLoss, "{bit}");
    }
}

fn copy(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for e in std::fs::read_dir(data()).unwrap() {
        let e = e.unwrap();
        if e.file_name().to_string_lossy().starts_with(name) {
            std::fs::copy(e.path(), dir.path().join(e.file_name())).unwrap();
        }
    }
    dir
}

/// Reads everything; an error must be `DATA_LOSS` (or say that the bundle is of a kind that is not supported).
fn read_all(dir: &Path, name: &str) -> Result<()> {
    let r = open(dir, name)?;
    for name in r.entries().keys() {
        r.tensor(name)?;
    }
    Ok(())
}

#[test]
fn a_bundle_cut_off_at_any_byte_or_with_any_bit_flipped_is_data_loss() {
    let dir = copy("two");
    for e in std::fs::read_dir(dir.path()).unwrap() {
        let path = e.unwrap().path();
        let good = std::fs::read(&path).unwrap();
        for n in 0..good.len() {
            std::fs::write(&path, &good[..n]).unwrap();
            let e = read_all(dir.path(), "two").expect_err("cut off");
            assert_eq!(e.code(), Code::DataLoss, "{n}: {e}");
            assert!(e.message().contains(path.file_name().unwrap().to_str().unwrap()), "{e}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            match read_all(dir.path(), "two") {
                Err(e) => assert_eq!(e.code(), Code::DataLoss, "{bit}: {e}"),
                Ok(()) => panic!("bit {bit} of {path:?} is not noticed"),
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    read_all(dir.path(), "two").unwrap();
    std::fs::remove_file(dir.path().join("two.data-00001-of-00002")).unwrap();
    assert_eq!(read_all(dir.path(), "two").unwrap_err().code(), Code::DataLoss);
}

#[test]
fn the_index_of_many_dtypes_survives_truncation_and_flips() {
    let good = std::fs::read(data().join("all.index")).unwrap();
    let at = Location::of("nowhere/all").unwrap();
    for n in 0..good.len() {
        assert!(Bundle::of_index(&at, &good[..n]).is_err());
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Bundle::of_index(&at, &bad).is_err(), "{bit}");
    }
}

/// A table with one block, whose checksums are right.
fn forged(block: &[u8]) -> Vec<u8> {
    fn put(out: &mut Vec<u8>, block: &[u8]) -> [u8; 2] {
        let at = [out.len() as u8, block.len() as u8];
        out.extend_from_slice(block);
        out.push(0);
        let crc = masked(crc32c::crc32c(&out[at[0] as usize..]));
        out.extend_from_slice(&crc.to_le_bytes());
        at
    }
    assert!(block.len() < 100);
    let mut out = Vec::new();
    let data = put(&mut out, block);
    let meta = put(&mut out, &[0, 0, 0, 0, 1, 0, 0, 0]);
    let mut index = vec![0, 1, 2, b'z'];
    index.extend(data);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let index = put(&mut out, &index);
    let start = out.len();
    out.extend(meta);
    out.extend(index);
    out.resize(start + 40, 0);
    out.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    out
}

/// A block: the header and one tensor `a` with that entry.
fn block(header: &[u8], entry: &[u8]) -> Vec<u8> {
    let mut b = vec![0, 0, header.len() as u8];
    b.extend_from_slice(header);
    b.extend([0, 1, entry.len() as u8, b'a']);
    b.extend_from_slice(entry);
    b.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    b
}

#[test]
fn forged_entries_are_refused_without_allocating_what_they_promise() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f.data-00000-of-00001"), 1f32.to_le_bytes()).unwrap();
    let crc = masked(crc32c::crc32c(&1f32.to_le_bytes())).to_le_bytes();
    let entry = |shape: &[u8], shard: u8, offset: u8, size: &[u8], dtype: u8| {
        let mut e = vec![8, dtype, 18, shape.len() as u8];
        e.extend_from_slice(shape);
        e.extend([24, shard, 32, offset, 40]);
        e.extend_from_slice(size);
        e.push(53);
        e.extend(crc);
        e
    };
    let header = [8, 1, 26, 2, 8, 1];
    let read = |header: &[u8], entry: &[u8]| {
        std::fs::write(dir.path().join("f.index"), forged(&block(header, entry))).unwrap();
        open(dir.path(), "f").and_then(|r| r.tensor("a"))
    };
    assert_eq!(read(&header, &entry(&[], 0, 0, &[4], 1)).unwrap(), Tensor::from(1f32));
    let huge = [0x12, 10, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f];
    let huge_size = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let bad: [(&[u8], Vec<u8>); 12] = [
        (&header, entry(&huge, 0, 0, &[4], 1)),
        (&header, entry(&huge, 0, 0, &huge_size, 1)),
        (&header, entry(&huge, 0, 0, &huge_size, 7)),
        (&header, entry(&[], 0, 0, &huge_size, 1)),
        (&header, entry(&[], 0, 1, &[4], 1)),
        (&header, entry(&[], 1, 0, &[4], 1)),
        (&header, entry(&[], 0, 0, &[3], 1)),
        (&header, entry(&[], 0, 0, &[4], 10)),
        (&header, entry(&[0x12, 2, 8, 2], 0, 0, &[4], 1)),
        (
            &header,
            entry(
                &[0x12, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
                0,
                0,
                &[4],
                1,
            ),
        ),
        (&[8, 0], entry(&[], 0, 0, &[4], 1)),
        (&header, [&entry(&[], 0, 0, &[4], 1)[..], &[58, 2, 10, 0]].concat()),
    ];
    for (i, (header, entry)) in bad.iter().enumerate() {
        assert_eq!(read(header, entry).unwrap_err().code(), Code::DataLoss, "{i}");
    }
    for (header, dtype) in [
        (&[8, 1, 16, 1][..], 1),
        (&[8, 1, 26, 2, 16, 9], 1),
        (&header, 21),
        (&header, 24),
    ] {
        let e = read(header, &entry(&[], 0, 0, &[4], dtype)).unwrap_err();
        assert_eq!(e.code(), Code::Unimplemented, "{e}");
    }
}

#[test]
fn keys_that_grow_by_sharing_do_not_fill_memory() {
    // Each entry shares the whole last key and adds a byte: quadratic in memory.
    let mut b = Vec::new();
    for n in 0..20_000u32 {
        let mut shared = Vec::new();
        let mut rest = n;
        while rest >= 0x80 {
            shared.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        shared.push(rest as u8);
        b.extend(shared);
        b.extend([1, 0, b'k']);
    }
    b.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    let mut out = b.clone();
    let seal = |out: &mut Vec<u8>, from: usize| {
        out.push(0);
        let crc = masked(crc32c::crc32c(&out[from..]));
        out.extend(crc.to_le_bytes());
    };
    seal(&mut out, 0);
    let varint = |mut n: usize| {
        let mut v = Vec::new();
        while n >= 0x80 {
            v.push(n as u8 | 0x80);
            n >>= 7;
        }
        v.push(n as u8);
        v
    };
    let handle = [varint(0), varint(b.len())].concat();
    let from = out.len();
    let mut index = vec![0, 1, handle.len() as u8, b'z'];
    index.extend(&handle);
    index.extend([0, 0, 0, 0, 1, 0, 0, 0]);
    out.extend(&index);
    seal(&mut out, from);
    let mut footer = [varint(from), varint(index.len()), varint(from), varint(index.len())].concat();
    footer.resize(40, 0);
    out.extend(footer);
    out.extend(0xdb47_7524_8b80_fb57u64.to_le_bytes());
    assert_eq!(table::entries(&out).unwrap_err().code(), Code::DataLoss);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_block_of_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
        let _ = Bundle::of_index(&Location::of("nowhere/x").unwrap(), &forged(&bytes));
        let _ = snappy::decompressed(&bytes);
        let _ = Proto::of(&bytes);
        let _ = strings(&bytes, 3);
        if let Ok((first, entries)) = First::of_table(&Location::of("nowhere/x").unwrap(), &forged(&bytes)) {
            for (name, e) in &entries {
                let _ = first.read(name, e, 0, &Pool::new(1 << 20, 0));
            }
        }
    }
}
