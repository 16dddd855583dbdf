//! `StringToHashBucket`, `StringToHashBucketFast`, `StringToHashBucketStrong`, `Fingerprint`.

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{DType, PartialShape, register_ops};

use super::hash::{fingerprint64, murmur64, siphash};
use super::support::{map_to, scalar};
use crate::shapes;

fn buckets(init: &KernelInit<'_>, hash: impl Fn(&[u8]) -> u64 + Send + Sync + 'static) -> Result<Box<dyn Kernel>> {
    let n = init.attrs.int("num_buckets")?;
    let n = u64::try_from(n).ok().filter(|n| *n > 0);
    let n = n.ok_or_else(|| Error::invalid("num_buckets must be positive"))?;
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let t = map_to::<i64>(cx, 0, |s| Ok((hash(s) % n) as i64))?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn hashing(name: &'static str, input: &str) -> OpDef {
    OpDef::new(name, Category::String)
        .input(input)
        .output("output: int64")
        .attr("num_buckets: int >= 1")
        .shape(shapes::unchanged)
        .not_differentiable()
}

fn string_to_hash_bucket() -> OpDef {
    hashing("StringToHashBucket", "string_tensor: string")
        .doc("The 64-bit Murmur hash of every string, modulo the number of buckets.")
        .cpu(|init| buckets(init, murmur64))
}

fn string_to_hash_bucket_fast() -> OpDef {
    hashing("StringToHashBucketFast", "input: string")
        .doc("The farmhash fingerprint of every string, modulo the number of buckets.")
        .cpu(|init| buckets(init, fingerprint64))
}

fn string_to_hash_bucket_strong() -> OpDef {
    hashing("StringToHashBucketStrong", "input: string")
        .doc("SipHash of every string by a secret key of two numbers, modulo the number of buckets.")
        .attr("key: list(int)")
        .cpu(|init| {
            let [a, b] = init.attrs.ints("key")?[..] else {
                return Err(Error::invalid("key must have 2 elements"));
            };
            buckets(init, move |s| siphash([a as u64, b as u64], s))
        })
}

fn fingerprint() -> OpDef {
    OpDef::new("Fingerprint", Category::String)
        .doc("The farmhash fingerprint of every row, as eight bytes.")
        .input("data: T")
        .input("method: string")
        .output("fingerprint: uint8")
        .attr("T: type")
        .shape(|cx| {
            let rows = cx.input(0).with_rank_at_least(1)?.dim(0);
            Ok(vec![PartialShape::from([rows, Some(8)])])
        })
        .not_differentiable()
        .cpu(|_| Ok(Box::new(fingerprint_kernel)))
}

fn fingerprint_kernel(cx: &mut OpContext<'_>) -> Result<()> {
    let (data, method) = (cx.input(0)?, scalar(cx, 1, "the method")?);
    if &method[..] != b"farmhash64" {
        return Err(Error::invalid(format!(
            "unsupported fingerprint method {:?}",
            String::from_utf8_lossy(method)
        )));
    }
    let Some(&rows) = data.shape().dims().first() else {
        return Err(Error::invalid("data must be at least a vector"));
    };
    let row = data.len().checked_div(rows).unwrap_or(0);
    // A string counts by its own fingerprint; a row that is one string is that.
    let strings: Option<Vec<u8>> = data
        .as_strings()
        .ok()
        .map(|s| s.iter().flat_map(|s| fingerprint64(s).to_le_bytes()).collect());
    let mut t = cx.alloc(DType::U8, [rows, 8])?;
    let out = t.as_mut_slice::<u8>().unwrap_or(&mut []);
    let (bytes, size) = match &strings {
        Some(s) => (&s[..], 8 * row),
        None => {
            let b = data
                .bytes()
                .ok_or_else(|| Error::unimplemented(format!("Fingerprint of {}", data.dtype())))?;
            (b, row * data.dtype().size())
        }
    };
    for (i, o) in out.chunks_exact_mut(8).enumerate() {
        let part = &bytes[i * size..(i + 1) * size];
        if strings.is_some() && row == 1 {
            o.copy_from_slice(part);
        } else {
            o.copy_from_slice(&fingerprint64(part).to_le_bytes());
        }
    }
    cx.set_output(0, t);
    Ok(())
}

register_ops!(
    string_to_hash_bucket,
    string_to_hash_bucket_fast,
    string_to_hash_bucket_strong,
    fingerprint,
);

#[cfg(test)]
mod tests {
    use crate::testing::eval;
    use actorflow_core::{Graph, Tensor};

    #[test]
    fn buckets_are_those_of_tensorflow() {
        let g = Graph::new();
        let x = g
            .constant(Tensor::strings([2], vec!["Hello", "TensorFlow"]).unwrap())
            .unwrap();
        let y = g
            .op("StringToHashBucketFast")
            .input(&x)
            .attr("num_buckets", 3i64)
            .output()
            .unwrap();
        // The values of TensorFlow's documentation for strings_to_hash_bucket_fast.
        assert_eq!(eval(&y), Tensor::from([0i64, 2]));
    }

    #[test]
    fn rows_have_fingerprints() {
        let g = Graph::new();
        let method = g.constant("farmhash64").unwrap();
        let print = |x: Tensor| {
            let x = g.constant(x).unwrap();
            eval(&g.op("Fingerprint").input(&x).input(&method).output().unwrap())
                .to_vec::<u8>()
                .unwrap()
        };
        assert_eq!(
            print([[1i32, 2], [3, 4]].into())[..8],
            [76, 18, 253, 133, 168, 204, 240, 10]
        );
        let words = print(Tensor::strings([2], vec!["a", "bc"]).unwrap());
        assert_eq!(words[8..], [119, 129, 82, 223, 68, 160, 90, 83]);
        let rows = print(Tensor::strings([2, 2], vec!["a", "bc", "", "d"]).unwrap());
        assert_eq!(rows[..8], [85, 27, 103, 37, 147, 177, 144, 87]);
    }
}
