//! Particular values, batches, and operands that are refused.

use super::*;

#[test]
fn beta_zero_does_not_read_the_output() {
    let (a, b) = (vec![1.0f32; 6], vec![1.0f32; 6]);
    let mut c = vec![f32::NAN; 4];
    let (a, b) = (Mat::dense(&a, 2, 3).unwrap(), Mat::dense(&b, 3, 2).unwrap());
    gemm(
        &Serial,
        1.0,
        a,
        b,
        0.0,
        MatMut::dense(&mut c, 2, 2).unwrap(),
        Epilogue::NONE,
    )
    .unwrap();
    assert_eq!(c, [3.0; 4]);
    let none: [f32; 0] = [];
    let mut c = vec![f32::NAN; 4];
    let (a, b) = (Mat::dense(&none, 2, 0).unwrap(), Mat::dense(&none, 0, 2).unwrap());
    gemm(
        &Serial,
        1.0,
        a,
        b,
        0.0,
        MatMut::dense(&mut c, 2, 2).unwrap(),
        Epilogue::NONE,
    )
    .unwrap();
    assert_eq!(c, [0.0; 4]);
}

#[test]
fn strides_of_single_rows_and_columns_may_be_anything() {
    let (a, b, mut c) = ([2.0f32], [3.0f32], [0.0f32]);
    let max = usize::MAX;
    let (a, b) = (
        Mat::new(&a, 1, 1, max, max).unwrap(),
        Mat::new(&b, 1, 1, max, max).unwrap(),
    );
    gemm(
        &Serial,
        1.0,
        a,
        b,
        0.0,
        MatMut::new(&mut c, 1, 1, max).unwrap(),
        Epilogue::NONE,
    )
    .unwrap();
    assert_eq!(c, [6.0]);
}

#[test]
fn relu_keeps_nan() {
    let mut c = vec![0.0f32; 2];
    let (a, b) = ([f32::NAN], [1.0, -1.0]);
    let (a, b) = (Mat::dense(&a, 1, 1).unwrap(), Mat::dense(&b, 1, 2).unwrap());
    gemm(
        &Serial,
        1.0,
        a,
        b,
        0.0,
        MatMut::dense(&mut c, 1, 2).unwrap(),
        Epilogue { bias: None, relu: true },
    )
    .unwrap();
    assert!(c.iter().all(|x| x.is_nan()));
}

#[test]
fn integers_wrap() {
    let mut c = [0i32];
    let (a, b) = ([i32::MAX, 2], [2, i32::MAX]);
    let (a, b) = (Mat::dense(&a, 1, 2).unwrap(), Mat::dense(&b, 2, 1).unwrap());
    gemm(
        &Serial,
        1,
        a,
        b,
        0,
        MatMut::dense(&mut c, 1, 1).unwrap(),
        Epilogue::NONE,
    )
    .unwrap();
    assert_eq!(c, [-4]);
}

#[test]
fn conjugates_are_taken_on_the_way() {
    let i = Complex::new(0.0f32, 1.0);
    let mut c = [Complex::new(0.0, 0.0)];
    let data = [i];
    let a = Mat::dense(&data, 1, 1).unwrap();
    gemm(
        &Serial,
        Complex::new(1.0, 0.0),
        a.conj(),
        a,
        i,
        MatMut::dense(&mut c, 1, 1).unwrap(),
        Epilogue::NONE,
    )
    .unwrap();
    assert_eq!(c[0], Complex::new(1.0, 0.0));
}

#[test]
fn batches_broadcast_and_match_single_products() {
    let mut values = Values(1);
    for (batch, m, n, k) in [
        (1, 64, 64, 300),
        (3, 17, 33, 20),
        (40, 8, 9, 10),
        (5, 200, 100, 90),
        (64, 40, 40, 40),
    ] {
        let a: Vec<f32> = values.take(batch * m * k).into_iter().map(|x| x as f32).collect();
        let b: Vec<f32> = values.take(2 * k * n).into_iter().map(|x| x as f32).collect();
        let list: Vec<usize> = (0..batch).map(|i| i % 2 * k * n).collect();
        let mut want = vec![0.0; batch * m * n];
        for i in 0..batch {
            let one = MatMut::dense(&mut want[i * m * n..(i + 1) * m * n], m, n).unwrap();
            let a = Mat::dense(&a[i * m * k..], m, k).unwrap();
            gemm(
                &Serial,
                1.0,
                a,
                Mat::dense(&b[list[i]..], k, n).unwrap(),
                0.0,
                one,
                Epilogue::NONE,
            )
            .unwrap();
        }
        for threads in [1, 2, 4] {
            let mut c = vec![f32::NAN; batch * m * n];
            gemm_batched(
                &Threads(threads),
                batch,
                1.0,
                (Mat::dense(&a, m, k).unwrap(), Offsets::Every(m * k)),
                (Mat::dense(&b, k, n).unwrap(), Offsets::At(&list)),
                0.0,
                (MatMut::dense(&mut c, m, n).unwrap(), m * n),
                Epilogue::NONE,
            )
            .unwrap();
            assert_eq!(c, want, "batch of {batch} on {threads} threads");
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let data = [0.0f32; 12];
    assert_eq!(Mat::new(&data, 3, 5, 5, 1).unwrap_err(), GemmError::OutOfBounds);
    assert_eq!(
        Mat::new(&data, usize::MAX, 2, usize::MAX, 1).unwrap_err(),
        GemmError::OutOfBounds
    );
    assert!(Mat::new(&data, 1000, 12, 0, 1).is_ok());
    let mut c = [0.0f32; 12];
    assert_eq!(MatMut::new(&mut c, 3, 4, 3).unwrap_err(), GemmError::Overlap);
    assert_eq!(MatMut::new(&mut c, 4, 4, 4).unwrap_err(), GemmError::OutOfBounds);
    let mut product = |a: Mat<'_, f32>, b: Mat<'_, f32>, bias: Option<&[f32]>| {
        gemm(
            &Serial,
            1.0,
            a,
            b,
            0.0,
            MatMut::dense(&mut c, 3, 4).unwrap(),
            Epilogue { bias, relu: false },
        )
    };
    let mat = |rows, cols| Mat::dense(&data, rows, cols).unwrap();
    assert_eq!(product(mat(3, 2), mat(3, 4), None), Err(GemmError::Mismatch));
    assert_eq!(product(mat(2, 2), mat(2, 4), None), Err(GemmError::Mismatch));
    assert_eq!(product(mat(3, 2), mat(2, 3), None), Err(GemmError::Mismatch));
    assert_eq!(
        product(mat(3, 2), mat(2, 4), Some(&data[..3])),
        Err(GemmError::Mismatch)
    );
    let mut batched = |step: usize, offsets: Offsets<'_>| {
        let c = MatMut::dense(&mut c, 2, 2).unwrap();
        gemm_batched(
            &Serial,
            3,
            1.0,
            (mat(2, 2), offsets),
            (mat(2, 2), offsets),
            0.0,
            (c, step),
            Epilogue::NONE,
        )
    };
    assert_eq!(batched(4, Offsets::Every(4)), Ok(()));
    assert_eq!(batched(3, Offsets::Every(4)), Err(GemmError::Overlap));
    assert_eq!(batched(5, Offsets::Every(4)), Err(GemmError::OutOfBounds));
    assert_eq!(batched(4, Offsets::Every(5)), Err(GemmError::OutOfBounds));
    assert_eq!(batched(4, Offsets::Every(usize::MAX)), Err(GemmError::OutOfBounds));
    assert_eq!(batched(4, Offsets::At(&[0, 8])), Err(GemmError::OutOfBounds));
    assert_eq!(batched(4, Offsets::At(&[0, 9, 0])), Err(GemmError::OutOfBounds));
}

/// A sum of products over stretches of two arrays, and the same written out.
fn check_chain<T: Scalar + PartialEq + std::fmt::Debug>(m: usize, n: usize, links: &[Link]) {
    let mut values = Values(m as u64 * 31 + n as u64);
    let mut take = |len: usize| values.take(len).into_iter().map(T::of).collect::<Vec<T>>();
    let (a, b, bias, before) = (take(400), take(900), take(n), take(m * (n + 3)));
    let chain = Chain {
        a: &a,
        a_row: 3,
        a_col: 7,
        b: &b,
        b_row: n + 2,
    };
    let mut c = before.clone();
    let to = MatMut::new(&mut c, m, n, n + 3).unwrap();
    let epilogue = Epilogue {
        bias: Some(&bias),
        relu: true,
    };
    gemm_chain(chain, links, T::of(2.0), to, epilogue).unwrap();
    for i in 0..m {
        for j in 0..n + 3 {
            let (got, old) = (c[i * (n + 3) + j].f64(), before[i * (n + 3) + j].f64());
            if j >= n {
                assert_eq!(got, old);
                continue;
            }
            let mut want = T::of(2.0).f64() * old + bias[j].f64();
            for l in links {
                for k in 0..l.k {
                    want += a[l.a + i * 3 + k * 7].f64() * b[l.b + k * (n + 2) + j].f64();
                }
            }
            let want = want.max(0.0);
            let close = (got - want).abs() <= 100.0 * T::EPSILON * (1.0 + want.abs());
            assert!(close, "{got} for {want} at ({i}, {j}) of {m} by {n}, {links:?}");
        }
    }
}

#[test]
fn sums_of_products_are_those_of_their_links() {
    let link = |a, b, k| Link { a, b, k };
    let lists: [&[Link]; 4] = [
        &[],
        &[link(5, 11, 9)],
        &[link(0, 40, 3), link(17, 0, 0), link(90, 3, 12), link(1, 1, 1)],
        &[link(400, 900, 0)],
    ];
    for links in lists {
        for (m, n) in [(1, 1), (2, 40), (3, 17), (12, 33), (25, 32), (13, 5)] {
            check_chain::<f32>(m, n, links);
            check_chain::<f64>(m, n, links);
            check_chain::<i32>(m, n, links);
        }
    }
}

#[test]
fn a_link_outside_of_its_array_is_refused() {
    let (a, b, mut c) = ([1f32; 10], [1f32; 10], [0f32; 4]);
    let chain = Chain {
        a: &a,
        a_row: 4,
        a_col: 1,
        b: &b,
        b_row: 2,
    };
    let mut run = |a, b, k| {
        let c = MatMut::dense(&mut c, 2, 2).unwrap();
        gemm_chain(chain, &[Link { a, b, k }], 0.0, c, Epilogue::NONE)
    };
    assert_eq!(run(0, 0, 5), Ok(()));
    assert_eq!(run(2, 0, 5), Err(GemmError::OutOfBounds));
    assert_eq!(run(0, 1, 5), Err(GemmError::OutOfBounds));
    assert_eq!(run(usize::MAX, 0, 1), Err(GemmError::OutOfBounds));
    assert_eq!(run(0, 0, usize::MAX), Err(GemmError::OutOfBounds));
}

#[test]
fn the_caches_are_plausible() {
    let caches = simd::Caches::here();
    assert!((1..=64).contains(&caches.first_ways), "{caches:?}");
    assert!(((128 << 10)..=(256 << 20)).contains(&caches.second_bytes), "{caches:?}");
}

#[test]
fn rows_of_every_layout_give_the_same_bits_for_every_height_width_and_depth() {
    let mut values = Values(11);
    for m in 1..=13 {
        for n in [1, 7, 15, 16, 17, 31, 32, 33, 50, 64, 81] {
            for k in [1, 3, 4, 5, 8, 18, 139] {
                let a: Vec<f32> = values.take(m * k).iter().map(|x| *x as f32).collect();
                let b: Vec<f32> = values.take(k * n).iter().map(|x| *x as f32).collect();
                let at = |row: usize, column: usize| {
                    let mut laid = vec![f32::NAN; (m - 1) * row + (k - 1) * column + 1];
                    for i in 0..m {
                        for j in 0..k {
                            laid[i * row + j * column] = a[i * k + j];
                        }
                    }
                    let a = Mat::new(&laid, m, k, row, column).unwrap();
                    let mut c = vec![0.0; m * n];
                    let dense = MatMut::dense(&mut c, m, n).unwrap();
                    gemm(
                        &Serial,
                        1.0,
                        a,
                        Mat::dense(&b, k, n).unwrap(),
                        0.0,
                        dense,
                        Epilogue::NONE,
                    )
                    .unwrap();
                    c
                };
                let along = at(k + 2, 1);
                assert_eq!(along, at(1, m + 3), "down {m} {n} {k}");
                assert_eq!(along, at(2 * k + 1, 2), "spread {m} {n} {k}");
                for (i, c) in along.iter().enumerate() {
                    let sum: f64 = (0..k)
                        .map(|j| f64::from(a[i / n * k + j]) * f64::from(b[j * n + i % n]))
                        .sum();
                    assert!((f64::from(*c) - sum).abs() < 1e-5 * k as f64, "{m} {n} {k}: {c} {sum}");
                }
            }
        }
    }
}
