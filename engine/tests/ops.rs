//! The typed functions of `actorflow::ops`: each kind of input and attribute, in graphs that run.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use actorflow::{Code, DType, Graph, GraphVariables, Output, PartialShape, Result, Session, Tensor, ops};

fn run(fetches: &[&Output]) -> Vec<Tensor> {
    Session::new(fetches[0].graph()).unwrap().run(&[], fetches).unwrap()
}

#[test]
fn inputs_one_by_one_and_in_lists() -> Result<()> {
    let g = Graph::new();
    let a = ops::const_(&g, [[1f32, 2.0], [3.0, 4.0]], DType::F32).output()?;
    let b = ops::zeros_like(&a).output()?;
    let sum = ops::add_n(&[a.clone(), a.clone(), b.clone()]).output()?;
    let axis = g.constant(0i32)?;
    let joined = ops::concat_v2(&[a.clone(), b], &axis).output()?;
    let stacked = ops::pack(&[axis.clone(), axis.clone()]).axis(-1).output()?;
    let same = ops::identity_n(&[a.clone(), axis]).outputs()?;
    let values = run(&[&sum, &joined, &stacked, &same[0], &same[1]]);
    assert_eq!(values[0], Tensor::from([[2f32, 4.0], [6.0, 8.0]]));
    assert_eq!(
        values[1],
        Tensor::from([[1f32, 2.0], [3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    );
    assert_eq!(values[2], Tensor::from([0i32, 0]));
    assert_eq!(values[3], Tensor::from([[1f32, 2.0], [3.0, 4.0]]));
    assert_eq!(values[4], Tensor::from(0i32));
    Ok(())
}

#[test]
fn attributes_of_every_kind() -> Result<()> {
    let g = Graph::new();
    let x = g.constant([[1f32, -2.0], [3.0, 4.0]])?;
    // A bool, a float, a type that is required, one that is optional.
    let product = ops::mat_mul(&x, &x).transpose_b(true).output()?;
    let leaky = ops::leaky_relu(&x).alpha(0.5).output()?;
    let whole = ops::cast(&x, DType::I32).truncate(true).output()?;
    let one = g.constant(1i32)?;
    let most = ops::arg_max(&x, &one).output_type(DType::I32).output()?;
    // Lists of integers and of floats, and strings.
    let shape = g.constant([1i32, 2, 2, 1])?;
    let picture = ops::reshape(&x, &shape).output()?;
    let pooled = ops::max_pool(&picture, &[1, 2, 2, 1], &[1, 2, 2, 1], "VALID")
        .data_format("NHWC")
        .output()?;
    let flat = ops::squeeze(&pooled).squeeze_dims(&[0, 1]).output()?;
    let buckets = ops::bucketize(&x, &[0.0, 3.5]).output()?;
    let text = ops::as_string(&whole).width(3).fill("0").output()?;
    // A shape.
    let given = ops::placeholder_with_default(&x, [None, Some(2)]).output()?;
    let values = run(&[&product, &leaky, &whole, &most, &flat, &buckets, &text, &given]);
    assert_eq!(values[0], Tensor::from([[5f32, -5.0], [-5.0, 25.0]]));
    assert_eq!(values[1], Tensor::from([[1f32, -1.0], [3.0, 4.0]]));
    assert_eq!(values[2], Tensor::from([[1i32, -2], [3, 4]]));
    assert_eq!(values[3], Tensor::from([0i32, 1]));
    assert_eq!(values[4], Tensor::from([[4f32]]));
    assert_eq!(values[5], Tensor::from([[1i32, 0], [1, 2]]));
    assert_eq!(values[6].as_strings()?, ["001", "-02", "003", "004"]);
    assert_eq!(values[7].shape().dims(), [2, 2]);
    assert_eq!(given.shape(), PartialShape::from([None, Some(2)]));
    Ok(())
}

#[test]
fn several_outputs() -> Result<()> {
    let g = Graph::new();
    let x = g.constant([3f32, 9.0, 1.0, 9.0])?;
    let (axis, k) = (g.constant(0i32)?, g.constant(2i32)?);
    let halves = ops::split(&axis, &x, 2).outputs()?;
    let best = ops::top_kv2(&x, &k).sorted(true).outputs()?;
    let unique = ops::unique(&x).out_idx(DType::I64).outputs()?;
    let big = g.constant([false, true, false, true])?;
    let places = ops::where_(&big).output()?;
    let values = run(&[&halves[0], &halves[1], &best[1], &unique[0], &unique[1], &places]);
    assert_eq!(values[0], Tensor::from([3f32, 9.0]));
    assert_eq!(values[1], Tensor::from([1f32, 9.0]));
    assert_eq!(values[2], Tensor::from([1i32, 3]));
    assert_eq!(values[3], Tensor::from([3f32, 9.0, 1.0]));
    assert_eq!(values[4], Tensor::from([0i64, 1, 2, 1]));
    assert_eq!(values[5], Tensor::from([[1i64], [3]]));
    Ok(())
}

#[test]
fn resources_and_references_have_state() -> Result<()> {
    let g = Graph::new();
    let two = g.constant([2f32, 2.0])?;
    let handle = ops::var_handle_op(&g, DType::F32, [2usize]).shared_name("v").output()?;
    let set = ops::assign_variable_op(&handle, &two).operation()?;
    let add = ops::assign_add_variable_op(&handle, &two)
        .control_input(&set)
        .operation()?;
    let read = ops::read_variable_op(&handle, DType::F32)
        .control_input(&add)
        .output()?;
    let by_reference = ops::variable_v2(&g, [2usize], DType::F32).output()?;
    let assigned = ops::assign(&by_reference, &read).validate_shape(true).output()?;
    let queue = ops::fifo_queue_v2(&g, &[DType::F32, DType::I32])
        .shapes(&[PartialShape::from([2usize]), PartialShape::from([0usize; 0])])
        .capacity(3)
        .output()?;
    let number = g.constant(7i32)?;
    let put = ops::queue_enqueue_v2(&queue, &[assigned.clone(), number]).operation()?;
    let got = ops::queue_dequeue_v2(&queue, &[DType::F32, DType::I32])
        .control_input(&put)
        .outputs()?;
    // A variable of the training library stands for its own tensor.
    let w = g.variable("w", Tensor::from([1f32, 2.0]))?;
    let more = ops::add_v2(&w, &two).output()?;

    let session = Session::new(&g)?;
    session.execute(&[&g.global_variables_initializer()?])?;
    let values = session.run(&[], &[&got[0], &got[1], &more])?;
    assert_eq!(values[0], Tensor::from([4f32, 4.0]));
    assert_eq!(values[1], Tensor::from(7i32));
    assert_eq!(values[2], Tensor::from([3f32, 4.0]));
    assert_eq!(session.run(&[], &[&by_reference])?[0], Tensor::from([4f32, 4.0]));
    Ok(())
}

#[test]
fn random_numbers_follow_their_seeds() -> Result<()> {
    let g = Graph::new();
    let shape = g.constant([4i32])?;
    let draw = || ops::random_uniform(&shape, DType::F32).seed(3).seed2(5).output();
    let (a, b) = (draw()?, draw()?);
    let values = run(&[&a, &b]);
    assert_eq!(values[0], values[1]);
    assert_ne!(values[0], Tensor::from([0f32; 4]));
    Ok(())
}

#[test]
fn a_node_has_the_name_device_and_dependencies_that_it_was_given() -> Result<()> {
    let g = Graph::new();
    let first = ops::no_op(&g).name("first").device("/cpu:0").operation()?;
    let x = g.constant(1f32)?;
    let y = ops::leaky_relu(&x)
        .name("second")
        .device("/cpu:0")
        .control_input(&first)
        .attr("_note", "kept")
        .output()?;
    let beside = ops::neg(&x).colocate_with("second").operation()?;
    let node = y.op().node();
    assert_eq!((node.name(), node.control_inputs()), ("second", &[first.id()][..]));
    assert!(
        node.device().to_ascii_lowercase().contains("cpu:0"),
        "{}",
        node.device()
    );
    assert_eq!(y.op_attr("_note"), Some("kept".into()));
    assert_eq!(beside.node().colocate_with(), ["second"]);
    Ok(())
}

#[test]
fn lists_that_may_be_empty_take_the_graph_and_others_want_a_tensor() -> Result<()> {
    let g = Graph::new();
    let (a, b) = (g.constant("a")?, g.constant("b")?);
    let joined = ops::string_join(&g, &[a, b]).separator("-").output()?;
    let fixed = ops::string_format(&g, &[]).template("nothing to add").output()?;
    let values = run(&[&joined, &fixed]);
    assert_eq!(values[0], Tensor::from("a-b"));
    assert_eq!(values[1], Tensor::from("nothing to add"));

    let (e, line) = (ops::add_n(&[]).name("sum").output().unwrap_err(), line!());
    assert_eq!(e.code(), Code::InvalidArgument);
    assert!(e.message().contains("AddN needs at least one tensor"), "{e}");
    assert_eq!(e.location().map(|l| l.line()), Some(line));
    Ok(())
}

#[test]
fn an_error_names_the_node_and_the_line_that_called_the_function() -> Result<()> {
    let g = Graph::new();
    let x = g.constant([[1f32, 2.0, 3.0]])?;
    let (e, line) = (ops::mat_mul(&x, &x).name("bad").output().unwrap_err(), line!());
    assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("bad")));
    let place = e.location().unwrap();
    assert_eq!((place.file().ends_with("ops.rs"), place.line()), (true, line));

    let e = ops::max_pool(&x, &[1; 4], &[1; 4], "ODD").output().unwrap_err();
    assert!(e.message().contains("cannot be \"ODD\"; allowed: SAME, VALID"), "{e}");
    let other = Graph::new();
    let e = ops::add_v2(&x, &other.constant(1f32)?).output().unwrap_err();
    assert!(e.message().contains("of another graph"), "{e}");
    assert_eq!(g.len(), 1, "a node that is refused is not added");
    Ok(())
}
