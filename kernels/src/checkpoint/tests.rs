use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use actorflow_core::error::{Code, Error, Result};
use actorflow_core::half::{bf16, f16};
use actorflow_core::num_complex::Complex;
use actorflow_core::tensor::Pool;
use actorflow_core::{DType, Shape, Tensor};
use proptest::prelude::*;

use super::manifest::{Manifest, SUFFIX};
use super::*;

fn prefix(dir: &Path, name: &str) -> Location {
    Location::of(&format!("{}/{name}", dir.display())).unwrap()
}

fn open(at: &Location) -> Result<Reader> {
    Reader::open_in(at, &Pool::new(usize::MAX, 0))
}

fn save(at: &Location, tensors: &[(&str, Tensor)]) {
    let mut w = Writer::new(at.clone());
    for (name, t) in tensors {
        w.add(name.as_bytes(), t).unwrap();
    }
    w.finish().unwrap();
}

/// A tensor of every dtype that can be saved, and of several shapes.
fn samples() -> Vec<(&'static str, Tensor)> {
    vec![
        ("f32", Tensor::from([[1f32, -0.0], [f32::NAN, f32::INFINITY]])),
        ("f64", Tensor::from([1e300f64])),
        ("f16", Tensor::from([f16::from_f32(1.5), f16::NAN])),
        ("bf16", Tensor::from([bf16::from_f32(-2.5)])),
        ("i8", Tensor::from([-128i8, 127])),
        ("i16", Tensor::from([i16::MIN])),
        ("i32", Tensor::from(7i32)),
        ("i64", Tensor::from([i64::MIN, i64::MAX])),
        ("u8", Tensor::from([0u8, 255])),
        ("u16", Tensor::from([65535u16])),
        ("u32", Tensor::from([u32::MAX])),
        ("u64", Tensor::from([u64::MAX])),
        ("bool", Tensor::from([true, false, true])),
        ("c64", Tensor::from([Complex::new(1f32, -2.0)])),
        (
            "c128",
            Tensor::from([[Complex::new(1f64, -2.0)], [Complex::new(0.0, 3.0)]]),
        ),
        (
            "str",
            Tensor::strings([1, 3], vec![&b""[..], b"a\0b", b"\xff\xfe"]).unwrap(),
        ),
        ("scalar str", Tensor::from("x")),
        ("no strings", Tensor::zeros(DType::Str, [0, 2]).unwrap()),
        ("empty", Tensor::zeros(DType::F32, [0, 4]).unwrap()),
        ("../../etc/passwd", Tensor::from(1u8)),
        ("/tmp/absolute", Tensor::from(2u8)),
        ("__metadata__", Tensor::from([3f64])),
        ("a|0,1", Tensor::from(1i16)),
        ("ü \"\\\n", Tensor::from(4i64)),
    ]
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_dtype_and_name_comes_back_from_one_shard_and_from_many() {
    for limit in [u64::MAX, 20, 1] {
        let dir = tempfile::tempdir().unwrap();
        let at = prefix(dir.path(), "m.ckpt-1");
        let mut w = Writer::new(at.clone()).shard_bytes(limit);
        for (name, t) in samples() {
            w.add(name.as_bytes(), &t).unwrap();
        }
        w.finish().unwrap();
        let r = open(&at).unwrap();
        r.verify().unwrap();
        assert_eq!(r.entries().len(), samples().len());
        for (name, t) in samples() {
            let got = r.tensor(name).unwrap();
            assert_eq!(got, t, "{name}");
            let e = r.entry(name).unwrap().1;
            assert_eq!((e.dtype().unwrap(), &e.shape), (t.dtype(), t.shape()));
        }
        // No name has become a path.
        assert!(files(dir.path()).iter().all(|f| f.starts_with("m.ckpt-1.")));
        assert_eq!(limit == u64::MAX, files(dir.path()).len() == 2);
    }
}

#[test]
fn shards_are_safetensors_files_that_the_library_reads() {
    let dir = tempfile::tempdir().unwrap();
    save(&prefix(dir.path(), "m"), &samples());
    let shard = files(dir.path())
        .into_iter()
        .find(|f| f.ends_with(".safetensors"))
        .unwrap();
    let bytes = std::fs::read(dir.path().join(shard)).unwrap();
    let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(read.len(), samples().len());
    let i64s = read.tensor("i64").unwrap();
    assert_eq!((i64s.dtype(), i64s.shape()), (safetensors::Dtype::I64, &[2][..]));
    assert_eq!(i64s.data(), [i64::MIN.to_le_bytes(), i64::MAX.to_le_bytes()].concat());
    assert_eq!(read.tensor("c128").unwrap().shape(), [2, 1, 2]);
    assert_eq!(read.tensor("str").unwrap().shape(), [24 + 5]);
}

#[test]
fn what_cannot_be_saved_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    let mut w = Writer::new(at.clone());
    let t = Tensor::from([[1f32, 2.0]]);
    w.add(b"a", &t).unwrap();
    for bad in [&b"a"[..], b"", b"\xff"] {
        assert_eq!(w.add(bad, &t).unwrap_err().code(), Code::InvalidArgument);
    }
    let v = Tensor::variants([0], Vec::new()).unwrap();
    assert!(w.add(b"v", &v).unwrap_err().message().contains("variant"));
    let spec = |s: &str| SliceSpec::parse(s).unwrap();
    assert!(w.add_slice(b"s", &spec("3 2 0,2:-"), &t).is_err());
    w.add_slice(b"s", &spec("3 2 0,1:-"), &t).unwrap();
    for bad in ["3 2 0,1:-", "4 2 1,1:-", "3 4 1,1:0,2"] {
        assert_eq!(
            w.add_slice(b"s", &spec(bad), &t).unwrap_err().code(),
            Code::InvalidArgument,
            "{bad}"
        );
    }
    assert!(w.add(b"s", &t).is_err());
    drop(w);
    assert!(files(dir.path()).is_empty());
    assert_eq!(open(&at).err().unwrap().code(), Code::NotFound);
}

/// Every way to read a checkpoint gives its values or an error of `codes`.
fn reads_or_fails(at: &Location, want: &[(&str, Tensor)], codes: &[Code]) -> Option<Error> {
    let all = || {
        let r = open(at)?;
        for (name, t) in want {
            assert_eq!(r.tensor(name)?, *t, "{name}");
        }
        Ok(())
    };
    let e: Error = all().err()?;
    assert!(codes.contains(&e.code()), "{e}");
    Some(e)
}

#[test]
fn a_checkpoint_cut_off_at_any_byte_or_with_any_bit_flipped_is_data_loss_naming_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    let want = [
        ("weights", Tensor::from([1f32, 2.0, 3.0])),
        ("words", Tensor::strings([2], vec!["ab", "c"]).unwrap()),
        ("flag", Tensor::from(true)),
    ];
    save(&at, &want);
    for file in files(dir.path()) {
        let path = dir.path().join(&file);
        let good = std::fs::read(&path).unwrap();
        for n in 0..good.len() {
            std::fs::write(&path, &good[..n]).unwrap();
            let e = reads_or_fails(&at, &want, &[Code::DataLoss]).unwrap();
            assert!(e.message().contains(&file), "{n} bytes: {e}");
        }
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let e = reads_or_fails(&at, &want, &[Code::DataLoss]);
            let e = e.unwrap_or_else(|| panic!("bit {bit} of {file} is not noticed"));
            assert!(e.message().contains(&file), "bit {bit}: {e}");
            if file.ends_with("safetensors") {
                assert!(want.iter().any(|(name, _)| e.message().contains(name)), "{e}");
                assert_eq!(open(&at).unwrap().verify().unwrap_err().code(), Code::DataLoss);
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    assert!(reads_or_fails(&at, &want, &[]).is_none());
    let shard = files(dir.path())
        .into_iter()
        .find(|f| f.ends_with("safetensors"))
        .unwrap();
    std::fs::remove_file(dir.path().join(&shard)).unwrap();
    let e = reads_or_fails(&at, &want, &[Code::DataLoss]).unwrap();
    assert!(e.message().contains(&shard) && e.message().contains("weights"), "{e}");
}

#[test]
fn a_crash_between_shard_and_manifest_leaves_the_old_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    save(&at, &[("a", Tensor::from(1i32))]);
    let mut w = Writer::new(at.clone());
    w.add(b"a", &Tensor::from(2i32)).unwrap();
    let crashed = w.prepare().unwrap();
    assert_eq!(files(dir.path()).len(), 3);
    assert_eq!(open(&at).unwrap().tensor("a").unwrap(), Tensor::from(1i32));
    crashed.commit().unwrap();
    assert_eq!(open(&at).unwrap().tensor("a").unwrap(), Tensor::from(2i32));
    assert_eq!(files(dir.path()).len(), 2, "the replaced shard is gone");
}

#[test]
fn two_savers_of_one_prefix_and_a_reader_never_see_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    let value = |n: i32| Tensor::full([100], n).unwrap();
    let both = |n: i32| [("a", value(n)), ("b", value(n))];
    save(&at, &both(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let savers: Vec<_> = (0..2)
            .map(|k| {
                let at = &at;
                s.spawn(move || (0..15).for_each(|i| save(at, &both(2 * i + k))))
            })
            .collect();
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let [a, b] =
                    with_reader(&at, &Pool::new(usize::MAX, 0), |r| Ok([r.tensor("a")?, r.tensor("b")?])).unwrap();
                assert_eq!(a, b);
            }
        });
        for saver in savers {
            saver.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(open(&at).unwrap().verify().is_ok());
}

/// Puts another manifest with a right checksum in the place of `m`'s.
fn forge(dir: &Path, change: impl Fn(&str) -> String) {
    let path = dir.join(format!("m{SUFFIX}"));
    let text = std::fs::read_to_string(&path).unwrap();
    let body = &text[32..text.len() - 2];
    let forged = change(body);
    assert_ne!(forged, body);
    let crc = crc32c::crc32c(forged.as_bytes());
    std::fs::write(&path, format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":{forged}}}\n")).unwrap();
}

#[test]
fn forged_manifests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    save(
        &at,
        &[
            ("a", Tensor::from([1f32, 2.0, 3.0])),
            ("b", Tensor::from([1f32, 2.0, 4.0])),
        ],
    );
    std::fs::write(dir.path().join("outside"), b"secret").unwrap();
    let sub = dir.path().join("sub");
    std::fs::create_dir(&sub).unwrap();
    let names = files(dir.path());
    for f in names.iter().filter(|f| f.starts_with("m.")) {
        std::fs::copy(dir.path().join(f), sub.join(f)).unwrap();
    }
    let shard = names.iter().find(|f| f.ends_with("safetensors")).unwrap();
    let offset = |body: &str| {
        let rest = body.split("\"offset\":").nth(1).unwrap();
        rest[..rest.find(',').unwrap()].to_owned()
    };
    let replaced = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        Box::new(move |body: &str| body.replacen(&from, &to, 1)) as Box<dyn Fn(&str) -> String>
    };
    let changes = [
        replaced(shard, "../outside"),
        replaced(shard, "/etc/passwd"),
        replaced(shard, "nowhere"),
        replaced("\"float32\"", "\"float64\""),
        replaced("\"float32\"", "\"resource\""),
        replaced("\"float32\"", "\"half\""),
        replaced("[3]", "[4]"),
        replaced("[3]", "[4611686018427387904,4]"),
        replaced("[3]", "[-3]"),
        replaced("\"shard\":0", "\"shard\":1"),
        replaced("\"offset\":", "\"offset\":1"),
        replaced("\"offset\":", "\"offset\":9999999999"),
        replaced("\"bytes\":12", "\"bytes\":99999999999"),
        replaced("\"key\"", "\"yek\""),
        replaced("\"actorflow-checkpoint\"", "\"other\""),
        Box::new(|body: &str| {
            // Both tensors in the same bytes.
            let (first, at) = (offset(body), body.rfind("\"offset\":").unwrap() + 9);
            format!("{}{first}{}", &body[..at], &body[at + body[at..].find(',').unwrap()..])
        }),
    ];
    let path = sub.join(format!("m{SUFFIX}"));
    let good = std::fs::read(&path).unwrap();
    let at = prefix(&sub, "m");
    for change in changes {
        forge(&sub, &change);
        let done = open(&at).and_then(|r| Ok((r.tensor("a")?, r.tensor("b")?)));
        let e = done.expect_err(&String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        assert_eq!(e.code(), Code::DataLoss, "{e}");
        std::fs::write(&path, &good).unwrap();
    }
    forge(&sub, |b| b.replacen("\"version\":1", "\"version\":2", 1));
    assert_eq!(open(&at).err().unwrap().code(), Code::Unimplemented);
}

#[test]
fn saving_over_a_forged_manifest_deletes_no_other_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    save(&at, &[("a", Tensor::from(1i32))]);
    let shard = files(dir.path())
        .into_iter()
        .find(|f| f.ends_with("safetensors"))
        .unwrap();
    std::fs::write(dir.path().join("mine.safetensors"), b"x").unwrap();
    forge(dir.path(), |b| b.replacen(&shard, "mine.safetensors", 1));
    save(&at, &[("a", Tensor::from(2i32))]);
    assert!(dir.path().join("mine.safetensors").exists());
}

#[test]
fn parts_of_several_checkpoints_merge_into_one() {
    let dir = tempfile::tempdir().unwrap();
    let part = |n: usize| prefix(&dir.path().join("tmp"), &format!("part-{n}"));
    let spec = |s: &str| SliceSpec::parse(s).unwrap();
    for n in 0..2 {
        let mut w = Writer::new(part(n));
        w.add(format!("own{n}").as_bytes(), &Tensor::from(n as i64)).unwrap();
        let row = Tensor::from([[n as f32, 1.0]]);
        w.add_slice(b"both", &spec(&format!("2 2 {n},1:-")), &row).unwrap();
        w.finish().unwrap();
    }
    let at = prefix(dir.path(), "m");
    save(&at, &[("old", Tensor::from(1i32))]);
    let options = MergeOptions {
        delete_old_dirs: true,
        allow_missing: false,
    };
    let missing = merge(&[part(0), part(7)], &at, options).unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    merge(&[part(0), part(1)], &at, options).unwrap();
    let r = open(&at).unwrap();
    r.verify().unwrap();
    assert_eq!(r.entries().keys().collect::<Vec<_>>(), ["both", "own0", "own1"]);
    assert_eq!(r.tensor("both").unwrap(), Tensor::from([[0f32, 1.0], [1.0, 1.0]]));
    assert_eq!(r.tensor("own1").unwrap(), Tensor::from(1i64));
    assert!(!dir.path().join("tmp").exists());
    assert_eq!(files(dir.path()).len(), 3);

    save(&part(0), &[("x", Tensor::from(1i32))]);
    save(&part(1), &[("x", Tensor::from(1i32))]);
    let twice = merge(&[part(0), part(1)], &at, options).unwrap_err();
    assert!(twice.code() == Code::InvalidArgument && twice.message().contains("Duplicate tensor keyed by x"));
    assert_eq!(open(&part(0)).unwrap().tensor("x").unwrap(), Tensor::from(1i32));
    let some = MergeOptions {
        allow_missing: true,
        delete_old_dirs: false,
    };
    assert!(merge(&[part(8)], &at, some).is_err());
    merge(&[part(8), part(1)], &at, some).unwrap();
    assert_eq!(open(&at).unwrap().entries().len(), 1);
}

/// A tensor and a way to cut it into boxes.
fn cut() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<usize>>)> {
    proptest::collection::vec(1usize..5, 0..4).prop_flat_map(|dims| {
        let cuts: Vec<_> = dims.iter().map(|d| proptest::collection::vec(0..=*d, 0..3)).collect();
        (Just(dims), cuts)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_tensor_saved_in_boxes_is_restored_whole_and_in_any_part(
        (dims, cuts) in cut(), strings in any::<bool>(), pick in any::<u64>(), limit in 1u64..200,
    ) {
        let full = Shape::new(&dims);
        let mut boxes = vec![Window { start: vec![], length: vec![] }];
        for (d, cut) in dims.iter().zip(&cuts) {
            let mut ends: Vec<usize> = cut.iter().copied().chain([0, *d]).collect();
            ends.sort_unstable();
            ends.dedup();
            boxes = boxes.iter().flat_map(|b| ends.windows(2).map(move |e| {
                let mut b = b.clone();
                b.start.push(e[0]);
                b.length.push(e[1] - e[0]);
                b
            })).collect();
        }
        let whole = Window::whole(&full);
        let value = |w: &Window| {
            let mut v = vec![0i32; w.count()];
            whole.for_each_run(w, |f, t, n| (0..n).for_each(|i| v[t + i] = (f + i) as i32));
            match strings {
                true => Tensor::strings(w.shape(), v.iter().map(|x| "#".repeat(*x as usize)).collect()).unwrap(),
                false => Tensor::from_slice(w.shape(), &v).unwrap(),
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let at = prefix(dir.path(), "m");
        let mut w = Writer::new(at.clone()).shard_bytes(limit);
        for b in &boxes {
            let spec = SliceSpec { full: full.clone(), window: b.clone() };
            w.add_slice(b"t", &spec, &value(b)).unwrap();
        }
        w.finish().unwrap();
        let r = open(&at).unwrap();
        prop_assert_eq!(r.tensor("t").unwrap(), value(&whole));
        let mut part = whole.clone();
        let mut pick = pick;
        for (d, n) in dims.iter().enumerate() {
            part.start[d] = (pick % *n as u64) as usize;
            part.length[d] = 1 + (pick / 7 % (*n - part.start[d]) as u64) as usize;
            pick /= 31;
        }
        let spec = SliceSpec { full: full.clone(), window: part.clone() };
        prop_assert_eq!(r.slice("t", &spec).unwrap(), value(&part));
        if boxes.len() > 1 {
            let mut w = Writer::new(at.clone());
            for b in &boxes[1..] {
                let spec = SliceSpec { full: full.clone(), window: b.clone() };
                w.add_slice(b"t", &spec, &value(b)).unwrap();
            }
            w.finish().unwrap();
            prop_assert_eq!(open(&at).unwrap().tensor("t").unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn a_manifest_of_any_bytes_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::of_text(&bytes).is_err());
        let crc = crc32c::crc32c(&bytes);
        let mut text = format!("{{\"crc32c\":\"{crc:08x}\",\"manifest\":").into_bytes();
        text.extend(&bytes);
        text.extend(b"}\n");
        prop_assert!(Manifest::of_text(&text).is_err());
    }
}

#[test]
fn a_manifest_says_the_same_after_a_round_trip() {
    let m = Manifest::new(Vec::new(), BTreeMap::new());
    assert_eq!(Manifest::of_text(m.to_text().unwrap().as_bytes()).unwrap(), m);
}

#[test]
fn the_memory_budget_holds_for_what_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    let at = prefix(dir.path(), "m");
    save(&at, &[("big", Tensor::zeros(DType::F32, [4096]).unwrap())]);
    let r = Reader::open_in(&at, &Pool::new(1024, 0)).unwrap();
    assert_eq!(r.tensor("big").unwrap_err().code(), Code::ResourceExhausted);
}
