use super::*;
use actorflow_core::Code;

/// An array as NumPy writes it.
fn file(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&[version, 0]);
    match version {
        1 => out.extend_from_slice(&(header.len() as u16).to_le_bytes()),
        _ => out.extend_from_slice(&(header.len() as u32).to_le_bytes()),
    }
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(data);
    out
}

fn header(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}   \n")
}

fn read(descr: &str, shape: &str, data: &[u8]) -> Result<Tensor> {
    read_npy(&file(1, &header(descr, "False", shape), data))
}

#[test]
fn every_dtype_and_rank_round_trips() {
    for d in DType::ALL
        .into_iter()
        .filter(|d| d.is_plain() && *d != DType::BF16 && !d.is_quantized())
    {
        for shape in [vec![], vec![3], vec![2, 3], vec![0, 4], vec![1, 2, 3, 1, 1]] {
            let n: usize = shape.iter().product();
            let bytes: Vec<u8> = (0..n * d.size()).map(|i| (i % 2) as u8).collect();
            let t = Tensor::from_bytes(d, shape, &bytes).unwrap();
            let file = write_npy(&t).unwrap();
            assert_eq!(read_npy(&file).unwrap(), t);
            assert_eq!((file.len() - bytes.len()) % ALIGN, 0, "the data is aligned");
        }
    }
    for shape in [vec![], vec![3], vec![0]] {
        let n: usize = shape.iter().product();
        let t = Tensor::strings(shape, vec!["ab", "", "a\0b"][..n].to_vec()).unwrap();
        assert_eq!(read_npy(&write_npy(&t).unwrap()).unwrap(), t);
    }
}

#[test]
fn the_header_is_what_numpy_writes() {
    let head = |t: &Tensor| String::from_utf8_lossy(&write_npy(t).unwrap()[10..]).into_owned();
    let start = "{'descr': '<f4', 'fortran_order': False, 'shape': ";
    assert!(head(&Tensor::scalar(1f32)).starts_with(&format!("{start}(), }}")));
    assert!(head(&Tensor::vector(&[1f32])).starts_with(&format!("{start}(1,), }}")));
    assert!(head(&Tensor::zeros(DType::F32, [2, 3]).unwrap()).starts_with(&format!("{start}(2, 3), }}")));
    assert!(head(&Tensor::zeros(DType::F32, [2, 3]).unwrap())[..118].ends_with('\n'));
}

#[test]
fn all_versions_byte_orders_and_layouts_are_read() {
    let want = Tensor::from([[1i32, 2, 3], [4, 5, 6]]);
    let le: Vec<u8> = [1i32, 2, 3, 4, 5, 6].iter().flat_map(|x| x.to_le_bytes()).collect();
    let be: Vec<u8> = [1i32, 2, 3, 4, 5, 6].iter().flat_map(|x| x.to_be_bytes()).collect();
    let columns: Vec<u8> = [1i32, 4, 2, 5, 3, 6].iter().flat_map(|x| x.to_le_bytes()).collect();
    for v in 1..=3 {
        assert_eq!(
            read_npy(&file(v, &header("<i4", "False", "(2, 3)"), &le)).unwrap(),
            want
        );
        assert_eq!(
            read_npy(&file(v, &header(">i4", "False", "(2, 3)"), &be)).unwrap(),
            want
        );
        assert_eq!(
            read_npy(&file(v, &header("<i4", "True", "(2, 3)"), &columns)).unwrap(),
            want
        );
    }
    assert_eq!(
        read("=i2", "(1L,)", &5i16.to_ne_bytes()).unwrap(),
        Tensor::vector(&[5i16])
    );
    let c: Vec<u8> = [1f32, -2.0].iter().flat_map(|x| x.to_be_bytes()).collect();
    let t = read(">c8", "()", &c).unwrap();
    assert_eq!(
        t.to_scalar::<actorflow_core::num_complex::Complex<f32>>().unwrap().im,
        -2.0
    );
    assert_eq!(
        read("?", "(3,)", &[0, 1, 7]).unwrap(),
        Tensor::vector(&[false, true, true])
    );
    let t = read_npy(&file(
        1,
        &header("|u1", "True", "(2, 2, 3)"),
        &[0, 6, 3, 9, 1, 7, 4, 10, 2, 8, 5, 11],
    ))
    .unwrap();
    assert_eq!(t.to_vec::<u8>().unwrap(), (0..12).collect::<Vec<u8>>());
}

#[test]
fn bytes_and_text_lose_their_padding() {
    let t = read("|S3", "(3,)", b"ab\0\0\0\0a\0b").unwrap();
    assert_eq!(t, Tensor::strings([3], vec!["ab", "", "a\0b"]).unwrap());
    let text: Vec<u8> = "hé\0€\0\0".chars().flat_map(|c| (c as u32).to_be_bytes()).collect();
    let t = read(">U3", "(2,)", &text).unwrap();
    assert_eq!(t, Tensor::strings([2], vec!["hé", "€"]).unwrap());
    assert_eq!(
        read("|S0", "(2,)", b"").unwrap(),
        Tensor::strings([2], vec!["", ""]).unwrap()
    );
    let e = read("<U1", "()", &0xd800u32.to_le_bytes()).unwrap_err();
    assert!(e.message().contains("0xd800"), "{e}");
}

#[test]
fn what_has_no_npy_form_says_so() {
    let code = |t: &Tensor| write_npy(t).unwrap_err();
    let e = code(&Tensor::zeros(DType::BF16, [2]).unwrap());
    assert_eq!(e.code(), Code::Unimplemented);
    assert!(e.message().contains("float32"));
    assert_eq!(code(&Tensor::from("a\0")).code(), Code::InvalidArgument);
}

#[test]
fn foreign_dtypes_are_named() {
    for d in ["|O", "<M8[ns]", "|V2", "<f16", "<c32", "<i3", "<f", "S+1", "<é"] {
        let e = read(d, "(1,)", &[0; 16]).unwrap_err();
        assert_eq!(e.code(), Code::Unimplemented, "{d}");
        assert!(e.message().contains(d), "{e}");
    }
    let records = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
    assert_eq!(
        read_npy(&file(1, records, &[0; 4])).unwrap_err().code(),
        Code::Unimplemented
    );
}

#[test]
fn malformed_files_are_refused() {
    let ok = header("<f4", "False", "(2,)");
    let data = [0u8; 8];
    assert!(read_npy(&file(1, &ok, &data)).is_ok());
    let headers = [
        "",
        "{",
        "{}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}",
        "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 2}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2 2)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': ((2,),)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
        "{'descr': '\\x3cf4', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4, 'fortran_order': False, 'shape': (2,)}",
    ];
    for h in headers {
        let e = read_npy(&file(1, h, &data)).unwrap_err();
        assert_eq!(e.code(), Code::InvalidArgument, "{h}: {e}");
    }
    assert!(read("<f4", "(2,)", &data[..7]).is_err());
    assert!(read("<f4", "(1,)", &data).is_err(), "bytes left over");
    assert!(read("|S0", "(99999999999,)", b"").is_err(), "strings from nothing");
    assert!(read("|S18446744073709551615", "(2,)", b"").is_err());
    let whole = file(2, &ok, &data);
    for end in 0..whole.len() {
        assert!(read_npy(&whole[..end]).is_err(), "cut at {end}");
    }
    assert_eq!(read_npy(&file(9, &ok, &data)).unwrap_err().code(), Code::Unimplemented);
}

#[test]
fn files_are_named_in_errors() {
    let e = read_npy_file("/no/such/file.npy").unwrap_err();
    assert_eq!(e.code(), Code::NotFound);
    assert!(e.message().contains("/no/such/file.npy"));
}
