use super::*;
use DataType::*;

fn proto(dtype: DataType, dims: &[i64]) -> TensorProto {
    TensorProto {
        dtype: dtype as i32,
        tensor_shape: Some(shape_to_proto(Some(dims))),
        ..Default::default()
    }
}

fn read(p: &TensorProto) -> PlainTensor {
    tensor_from_proto(p, 1 << 20).expect("a valid tensor")
}

fn floats(t: &PlainTensor) -> Vec<f32> {
    let TensorData::Bytes(b) = &t.data else {
        panic!("numbers")
    };
    b.as_chunks::<4>().0.iter().map(|&c| f32::from_le_bytes(c)).collect()
}

#[test]
fn the_last_typed_value_stands_for_the_rest() {
    let p = TensorProto {
        float_val: vec![1.0, 2.5],
        ..proto(DtFloat, &[2, 2])
    };
    assert_eq!(floats(&read(&p)), [1.0, 2.5, 2.5, 2.5]);
    assert_eq!(floats(&read(&proto(DtFloat, &[2]))), [0.0, 0.0], "no value means zeros");
    let p = TensorProto {
        float_val: vec![1.0, 2.0, 3.0],
        ..proto(DtFloat, &[2])
    };
    assert_eq!(floats(&read(&p)), [1.0, 2.0], "values beyond the shape are ignored");
}

#[test]
fn each_typed_field_becomes_the_bytes_of_its_dtype() {
    let check = |p: TensorProto, expect: &[u8]| {
        let t = read(&p);
        assert_eq!(
            t.data,
            TensorData::Bytes(Bytes::copy_from_slice(expect)),
            "{:?}",
            t.dtype
        );
        assert_eq!(read(&tensor_to_proto(&t).expect("writable")), t);
    };
    check(
        TensorProto {
            double_val: vec![1.0],
            ..proto(DtDouble, &[])
        },
        &1f64.to_le_bytes(),
    );
    check(
        TensorProto {
            int_val: vec![-2],
            ..proto(DtInt8, &[1])
        },
        &[0xfe],
    );
    check(
        TensorProto {
            int_val: vec![200],
            ..proto(DtUint8, &[2])
        },
        &[200, 200],
    );
    check(
        TensorProto {
            int_val: vec![-2],
            ..proto(DtInt16, &[1])
        },
        &[0xfe, 0xff],
    );
    check(
        TensorProto {
            int_val: vec![65535],
            ..proto(DtUint16, &[1])
        },
        &[0xff, 0xff],
    );
    check(
        TensorProto {
            int_val: vec![-1],
            ..proto(DtInt32, &[1])
        },
        &[0xff; 4],
    );
    check(
        TensorProto {
            int64_val: vec![-1],
            ..proto(DtInt64, &[1])
        },
        &[0xff; 8],
    );
    check(
        TensorProto {
            uint32_val: vec![u32::MAX],
            ..proto(DtUint32, &[1])
        },
        &[0xff; 4],
    );
    check(
        TensorProto {
            uint64_val: vec![u64::MAX],
            ..proto(DtUint64, &[1])
        },
        &[0xff; 8],
    );
    check(
        TensorProto {
            bool_val: vec![true, false],
            ..proto(DtBool, &[3])
        },
        &[1, 0, 0],
    );
    check(
        TensorProto {
            half_val: vec![0x3c00],
            ..proto(DtHalf, &[1])
        },
        &[0x00, 0x3c],
    );
    check(
        TensorProto {
            half_val: vec![0x3f80],
            ..proto(DtBfloat16, &[1])
        },
        &[0x80, 0x3f],
    );
    check(
        TensorProto {
            scomplex_val: vec![1.0, 2.0],
            ..proto(DtComplex64, &[1])
        },
        &[1f32.to_le_bytes(), 2f32.to_le_bytes()].concat(),
    );
    check(
        TensorProto {
            dcomplex_val: vec![1.0, 2.0],
            ..proto(DtComplex128, &[1])
        },
        &[1f64.to_le_bytes(), 2f64.to_le_bytes()].concat(),
    );
    check(
        TensorProto {
            float8_val: vec![7].into(),
            ..proto(DtFloat8E5m2, &[2])
        },
        &[7, 7],
    );
}

#[test]
fn raw_contents_must_have_exactly_the_length_of_the_shape() {
    let p = TensorProto {
        tensor_content: vec![0; 8].into(),
        ..proto(DtFloat, &[2])
    };
    assert_eq!(floats(&read(&p)), [0.0, 0.0]);
    for dims in [&[1][..], &[3], &[2, 2]] {
        let p = TensorProto {
            tensor_content: vec![0; 8].into(),
            ..proto(DtFloat, dims)
        };
        assert!(
            matches!(tensor_from_proto(&p, 1 << 20), Err(ProtoError::Invalid(_))),
            "{dims:?}"
        );
    }
    let p = TensorProto {
        tensor_content: vec![0, 7, 1].into(),
        ..proto(DtBool, &[3])
    };
    assert_eq!(read(&p).data, TensorData::Bytes(Bytes::from_static(&[0, 1, 1])));
}

#[test]
fn strings_come_from_string_val_or_from_length_prefixed_contents() {
    let s = |v: &[&'static str]| TensorData::Strings(v.iter().map(|s| Bytes::from_static(s.as_bytes())).collect());
    let p = TensorProto {
        string_val: vec!["a".into(), "bc".into()],
        ..proto(DtString, &[3])
    };
    let t = read(&p);
    assert_eq!(t.data, s(&["a", "bc", "bc"]));
    assert_eq!(read(&tensor_to_proto(&t).expect("writable")), t);
    assert_eq!(read(&proto(DtString, &[])).data, s(&[""]));
    let p = TensorProto {
        tensor_content: Bytes::from_static(b"\x01\x02abc"),
        ..proto(DtString, &[2])
    };
    assert_eq!(read(&p).data, s(&["a", "bc"]));
    for bad in [
        &b"\x01\x02ab"[..],
        b"\x01\x02abcd",
        b"\x01",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01a",
    ] {
        let p = TensorProto {
            tensor_content: Bytes::from_static(bad),
            ..proto(DtString, &[2])
        };
        assert!(
            matches!(tensor_from_proto(&p, 1 << 20), Err(ProtoError::Invalid(_))),
            "{bad:?}"
        );
    }
}

#[test]
fn huge_or_malformed_shapes_are_refused_before_allocating() {
    let error = |dims: &[i64]| tensor_from_proto(&proto(DtFloat, dims), 1 << 30).expect_err("refused");
    assert!(matches!(error(&[1 << 40]), ProtoError::TooLarge(_)));
    assert!(matches!(error(&[i64::MAX, 2]), ProtoError::TooLarge(_)));
    assert!(matches!(error(&[i64::MAX, i64::MAX]), ProtoError::Invalid(_)));
    assert!(matches!(error(&[-1]), ProtoError::Invalid(_)));
    assert!(matches!(error(&[-7]), ProtoError::Invalid(_)));
    assert!(matches!(error(&[1; 255]), ProtoError::Invalid(_)));
    let p = TensorProto {
        tensor_shape: Some(shape_to_proto(None)),
        ..proto(DtFloat, &[])
    };
    assert!(matches!(tensor_from_proto(&p, 1 << 30), Err(ProtoError::Invalid(_))));
    let empty = tensor_from_proto(&proto(DtFloat, &[i64::MAX, i64::MAX, 0]), 0).expect("no element");
    assert_eq!(empty.data, TensorData::Bytes(Bytes::new()));
}

#[test]
fn dtypes_that_are_none_or_have_no_bytes_are_named() {
    for n in [0, 77, 101, -3] {
        let p = TensorProto {
            dtype: n,
            ..Default::default()
        };
        assert!(matches!(tensor_from_proto(&p, 100), Err(ProtoError::Invalid(m)) if m.contains(&n.to_string())));
    }
    let e = tensor_from_proto(&proto(DtResource, &[]), 100).expect_err("a resource");
    assert_eq!(e, ProtoError::Unsupported("a tensor of the type DT_RESOURCE".into()));
    assert_eq!(base_dtype(101), Ok(DtFloat));
    assert!(base_dtype(100).is_err() && base_dtype(0).is_err() && base_dtype(i32::MIN).is_err());
}

#[test]
fn equal_elements_are_written_once() {
    let bytes: Bytes = [1.5f32; 1000]
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect::<Vec<u8>>()
        .into();
    let t = PlainTensor {
        dtype: DtFloat,
        shape: vec![10, 100],
        data: TensorData::Bytes(bytes),
    };
    let p = tensor_to_proto(&t).expect("writable");
    assert_eq!((p.float_val.as_slice(), p.tensor_content.len()), (&[1.5][..], 0));
    assert_eq!(read(&p), t);
    let zeros = PlainTensor {
        dtype: DtFloat,
        shape: vec![2],
        data: TensorData::Bytes(vec![0, 0, 0, 0x80, 0, 0, 0, 0].into()),
    };
    let p = tensor_to_proto(&zeros).expect("writable");
    assert_eq!(p.tensor_content.len(), 8, "-0.0 and 0.0 are different elements");
}

#[test]
fn data_that_does_not_fit_the_shape_is_not_written() {
    let t = PlainTensor {
        dtype: DtFloat,
        shape: vec![3],
        data: TensorData::Bytes(vec![0; 8].into()),
    };
    assert!(matches!(tensor_to_proto(&t), Err(ProtoError::Invalid(_))));
    let t = PlainTensor {
        dtype: DtFloat,
        shape: vec![1],
        data: TensorData::Strings(vec![Bytes::new()]),
    };
    assert!(matches!(tensor_to_proto(&t), Err(ProtoError::Invalid(_))));
}

#[test]
fn partial_shapes_keep_what_is_unknown() {
    assert_eq!(partial_shape(&shape_to_proto(None)), Ok(None));
    assert_eq!(partial_shape(&shape_to_proto(Some(&[2, -1]))), Ok(Some(vec![2, -1])));
    assert!(partial_shape(&shape_to_proto(Some(&[-2]))).is_err());
}
