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
