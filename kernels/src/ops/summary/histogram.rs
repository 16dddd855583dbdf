//! Values counted in buckets whose bounds grow by a tenth. TensorFlow's `histogram::Histogram`.
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use crate::protobuf::Message;

/// The upper bounds of the buckets: around zero from 1e-12 to 1e20 on both sides.
static LIMITS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut up = Vec::new();
    let mut v = 1e-12;
    while v < 1e20 {
        up.push(v);
        v *= 1.1;
    }
    up.push(f64::MAX);
    up.iter()
        .rev()
        .map(|x| -x)
        .chain([0.0])
        .chain(up.iter().copied())
        .collect()
});

/// The `HistogramProto` of finite values.
pub(super) fn encoded(values: impl Iterator<Item = f64>) -> Vec<u8> {
    let limits = &*LIMITS;
    let mut counts = vec![0.0f64; limits.len()];
    let (mut least, mut most, mut n, mut sum, mut squares) = (f64::MAX, -f64::MAX, 0.0, 0.0, 0.0);
    for x in values {
        let at = limits.partition_point(|l| *l <= x).min(limits.len() - 1);
        counts[at] += 1.0;
        (least, most) = (least.min(x), most.max(x));
        n += 1.0;
        sum += x;
        squares += x * x;
    }
    // A run of empty buckets is one.
    let (mut ends, mut kept) = (Vec::new(), Vec::new());
    let mut i = 0;
    while i < counts.len() {
        let empty = counts[i] == 0.0;
        let mut end = i;
        while empty && end + 1 < counts.len() && counts[end + 1] == 0.0 {
            end += 1;
        }
        ends.push(limits[end]);
        kept.push(counts[end]);
        i = end + 1;
    }
    Message::default()
        .double(1, least)
        .double(2, most)
        .double(3, n)
        .double(4, sum)
        .double(5, squares)
        .doubles(6, &ends)
        .doubles(7, &kept)
        .done()
}
