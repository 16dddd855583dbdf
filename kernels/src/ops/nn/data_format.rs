//! `DataFormatDimMap`, `DataFormatVecPermute`: axes and shapes of one layout in another.
#![forbid(unsafe_code)]

use actorflow_core::error::{Error, Result};
use actorflow_core::kernel::{Kernel, KernelInit, OpContext};
use actorflow_core::op::{Category, OpDef};
use actorflow_core::{Attrs, DType, Tensor, register_ops};

use crate::shapes;

/// For each dimension of the destination its place in the source.
fn places(attrs: &Attrs) -> Result<Vec<usize>> {
    let (src, dst) = (attrs.str("src_format")?, attrs.str("dst_format")?);
    let wrong = |what: String| Error::invalid(format!("{what}: src_format {src:?}, dst_format {dst:?}"));
    if !matches!(src.len(), 4 | 5) || src.len() != dst.len() {
        return Err(wrong(
            "Source and destination format must both have 4 or 5 characters".into(),
        ));
    }
    let find = |c: char| {
        src.find(c).ok_or_else(|| {
            wrong(format!(
                "Destination and source format must be permutations, but {c:?} is missing"
            ))
        })
    };
    let places = dst.chars().map(find).collect::<Result<Vec<_>>>()?;
    let mut sorted = places.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|w| w[0] == w[1]) {
        return Err(wrong("Formats must name each dimension once".into()));
    }
    Ok(places)
}

fn like(t: &Tensor, values: &[i64]) -> Result<Tensor> {
    match t.dtype() {
        DType::I32 => {
            let short: Vec<i32> = values.iter().map(|x| *x as i32).collect();
            Tensor::from_slice(t.shape(), &short)
        }
        _ => Tensor::from_slice(t.shape(), values),
    }
}

fn dim_map(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let places = places(init.attrs)?;
    let mut map = vec![0i64; places.len()];
    for (to, from) in places.iter().enumerate() {
        map[*from] = to as i64;
    }
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let n = map.len() as i64;
        let one = |a: i64| match a + if a < 0 { n } else { 0 } {
            i if (0..n).contains(&i) => Ok(map[i as usize]),
            _ => Err(Error::invalid(format!(
                "axis {a} is out of range for a format of {n} dimensions"
            ))),
        };
        let out = x.to_i64_vec()?.into_iter().map(one).collect::<Result<Vec<_>>>()?;
        let t = like(x, &out)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn vec_permute(init: &KernelInit<'_>) -> Result<Box<dyn Kernel>> {
    let all = places(init.attrs)?;
    let (src, dst) = (
        init.attrs.str("src_format")?.to_owned(),
        init.attrs.str("dst_format")?.to_owned(),
    );
    // The spatial dimensions alone, for vectors of sizes.
    let spatial = |s: &str| s.chars().filter(|c| !matches!(c, 'N' | 'C')).collect::<String>();
    let (s, d) = (spatial(&src), spatial(&dst));
    let inner: Vec<usize> = d.chars().filter_map(|c| s.find(c)).collect();
    Ok(Box::new(move |cx: &mut OpContext<'_>| {
        let x = cx.input(0)?;
        let dims = x.shape().dims();
        let pick = match dims {
            [n] | [n, 2] if *n == all.len() => &all,
            [n] | [n, 2] if *n == inner.len() => &inner,
            _ => {
                return Err(Error::invalid(format!(
                    "the input must be a vector or a matrix with two columns, of {} or {} rows, got shape {}",
                    all.len(),
                    inner.len(),
                    x.shape()
                )));
            }
        };
        let row = dims.get(1).copied().unwrap_or(1);
        let v = x.to_i64_vec()?;
        let out: Vec<i64> = pick
            .iter()
            .flat_map(|p| v[p * row..(p + 1) * row].iter().copied())
            .collect();
        let t = like(x, &out)?;
        cx.set_output(0, t);
        Ok(())
    }))
}

fn definition(name: &'static str) -> OpDef {
    OpDef::new(name, Category::Nn)
        .input("x: T")
        .output("y: T")
        .attr("T: {int32, int64} = DT_INT32")
        .attr("src_format: string = 'NHWC'")
        .attr("dst_format: string = 'NCHW'")
}

fn dim_map_op() -> OpDef {
    definition("DataFormatDimMap")
        .doc("The axes of `dst_format` that axes of `src_format` are.")
        .shape(shapes::unchanged)
        .cpu(dim_map)
}

fn vec_permute_op() -> OpDef {
    definition("DataFormatVecPermute")
        .doc("A vector with an element (or a matrix with a row) for each dimension of `src_format`, in the order of `dst_format`.")
        .shape(shapes::unchanged)
        .cpu(vec_permute)
}

register_ops!(dim_map_op, vec_permute_op);

#[cfg(test)]
mod tests {
    use crate::testing::{eval, fails};
    use actorflow_core::{Code, Graph, Output, Tensor};

    fn op(name: &str, x: Tensor, src: &str, dst: &str) -> Output {
        let g = Graph::new();
        let x = g.constant(x).unwrap();
        g.op(name)
            .input(&x)
            .attr("src_format", src)
            .attr("dst_format", dst)
            .output()
            .unwrap()
    }

    #[test]
    fn axes_and_sizes_follow_the_layout() {
        let y = op("DataFormatDimMap", Tensor::from([0i32, 1, 2, 3, -1]), "NHWC", "NCHW");
        assert_eq!(eval(&y), Tensor::from([0i32, 2, 3, 1, 1]));
        let y = op("DataFormatVecPermute", Tensor::from([7i64, 4, 9, 3]), "NHWC", "NCHW");
        assert_eq!(eval(&y), Tensor::from([7i64, 3, 4, 9]));
        let y = op(
            "DataFormatVecPermute",
            Tensor::from([[1i32, 2], [3, 4]]),
            "NHWC",
            "HWNC",
        );
        assert_eq!(eval(&y), Tensor::from([[1i32, 2], [3, 4]]));
        let y = op("DataFormatVecPermute", Tensor::from([1i32, 2, 3]), "NDHWC", "NCWHD");
        assert_eq!(eval(&y), Tensor::from([3i32, 2, 1]));
    }

    #[test]
    fn what_fits_no_layout_is_refused() {
        for (name, x) in [
            ("DataFormatDimMap", Tensor::from([4i32])),
            ("DataFormatVecPermute", Tensor::from([4i32; 5])),
        ] {
            assert_eq!(fails(&op(name, x, "NHWC", "NCHW")).code(), Code::InvalidArgument);
        }
        assert_eq!(
            fails(&op("DataFormatDimMap", Tensor::from([0i32]), "NHWC", "NHHC")).code(),
            Code::InvalidArgument
        );
    }
}
