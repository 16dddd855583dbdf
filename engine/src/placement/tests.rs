use super::*;
use crate::queue::{Queue, QueueKind};
use crate::{Code, DType, GraphVariables, Operation, Output, PartialShape};

mod costs;
mod random;
mod servers;

/// Devices of these names.
fn devices(names: &[&str]) -> Vec<DeviceInfo> {
    names
        .iter()
        .map(|n| DeviceInfo {
            name: n.parse().unwrap(),
            memory: 1 << 30,
            threads: 1,
            incarnation: 7,
        })
        .collect()
}

fn cpus(n: usize) -> Vec<DeviceInfo> {
    let names: Vec<String> = (0..n).map(|i| format!("/job:localhost/task:0/cpu:{i}")).collect();
    devices(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

fn cluster() -> Vec<DeviceInfo> {
    devices(&[
        "/job:worker/replica:0/task:0/cpu:0",
        "/job:worker/task:1/cpu:0",
        "/job:ps/task:0/cpu:0",
        "/job:ps/task:1/cpu:0",
    ])
}

fn source(g: &Graph, device: &str) -> Output {
    let x = g.op("Placeholder").attr("dtype", DType::F32).device(device);
    x.attr("shape", PartialShape::scalar()).output().unwrap()
}

fn named(g: &Graph, name: &str, device: &str) -> Operation {
    let b = g.op("NoOp").name(name).device(device);
    b.finish().unwrap()
}

fn soft() -> PlaceOptions {
    PlaceOptions {
        soft: true,
        ..PlaceOptions::default()
    }
}

fn hard(g: &Graph, devices: &[DeviceInfo]) -> Result<Placement> {
    place(g, devices, None, &PlaceOptions::default())
}

#[test]
fn what_asks_for_nothing_goes_to_the_default_device() {
    let g = Graph::new();
    let x = named(&g, "x", "");
    assert_eq!(hard(&g, &cpus(3)).unwrap().device_of(x.id()), 0);
    let options = PlaceOptions {
        default_device: 2,
        ..PlaceOptions::default()
    };
    let p = place(&g, &cpus(3), None, &options).unwrap();
    assert_eq!((p.device_of(x.id()), p.len(), p.moves()), (2, 1, &[][..]));
    assert!(!p.is_empty());
}

#[test]
fn partial_names_narrow_the_choice() {
    let g = Graph::new();
    let asked = [
        "/cpu:0",
        "/job:ps",
        "/task:1",
        "/job:ps/task:1",
        "/job:worker/task:1/device:CPU:*",
    ];
    let ids: Vec<NodeId> = asked.iter().map(|d| named(&g, "n", d).id()).collect();
    let p = hard(&g, &cluster()).unwrap();
    let got: Vec<usize> = ids.iter().map(|n| p.device_of(*n)).collect();
    assert_eq!(got, [0, 2, 1, 3, 1]);
}

#[test]
fn colocated_nodes_are_together_even_by_a_name_that_no_node_has() {
    let g = Graph::new();
    let a = named(&g, "a", "");
    let b = g.op("NoOp").colocate_with("a").device("/cpu:1").finish().unwrap();
    let c = g.op("NoOp").colocate_with("no_node").finish().unwrap();
    let d = g.op("NoOp").colocate_with("no_node").device("/cpu:2").finish().unwrap();
    let p = hard(&g, &cpus(3)).unwrap();
    let got = [a, b, c, d].map(|n| p.device_of(n.id()));
    assert_eq!(got, [1, 1, 2, 2]);
}

#[test]
fn what_takes_a_reference_is_with_the_variable_and_what_reads_it_is_not() {
    let g = Graph::new();
    let v = g.op("VariableV2").attr("dtype", DType::F32).device("/cpu:1");
    let v = v.attr("shape", PartialShape::scalar()).output().unwrap();
    let on = g.constant(true).unwrap();
    let switch = g.op("RefSwitch").input(&v).input(&on).finish().unwrap();
    let value = source(&g, "/cpu:2");
    let side = switch.output(1).unwrap();
    let assign = g.op("Assign").input(&side).input(&value).finish().unwrap();
    let read = g.op("Add").input(&v).input(&v).finish().unwrap();
    let p = hard(&g, &cpus(3)).unwrap();
    assert_eq!([&switch, &assign, &read].map(|n| p.device_of(n.id())), [1, 1, 0]);
}

#[test]
fn what_takes_a_handle_is_with_the_resource() {
    let g = Graph::new();
    let scope = g.device_scope("/cpu:1");
    let v = g.variable("v", 1.0f32).unwrap();
    let queue = Queue::builder(&g, QueueKind::Fifo, &[(DType::F32, PartialShape::scalar())])
        .build()
        .unwrap();
    drop(scope);
    let x = source(&g, "/cpu:2");
    let assign = g
        .op("AssignAddVariableOp")
        .input(v.handle())
        .input(&x)
        .finish()
        .unwrap();
    let put = queue.enqueue(&[x]).unwrap();
    let p = hard(&g, &cpus(3)).unwrap();
    assert_eq!([&assign, &put].map(|n| p.device_of(n.id())), [1, 1]);
}

#[test]
fn a_loop_may_span_devices_while_its_arrays_stay_together() {
    let g = Graph::new();
    let xs = g.op("Fill").device("/cpu:2").input(&g.constant([4i32]).unwrap());
    let xs = xs.input(&g.constant(1.0f32).unwrap()).output().unwrap();
    let ys = crate::flow::map_fn(&[xs], &[DType::F32], |x| Ok(vec![x[0].square()?]), Default::default()).unwrap();
    for free in [Free::Default, Free::CostModel, Free::Scatter(3)] {
        let options = PlaceOptions {
            free,
            ..PlaceOptions::default()
        };
        let p = place(&g, &cpus(4), None, &options).unwrap();
        for n in g.nodes() {
            for (r, t) in n.inputs().iter().zip(n.input_types()) {
                let together = p.device_of(r.node) == p.device_of(n.id());
                assert!(*t != DType::Resource || together, "{free:?} {}", n.name());
            }
        }
        assert_eq!(p.len(), g.len());
    }
    assert_eq!(ys.len(), 1);
}

fn list_and_item(g: &Graph) -> [Operation; 2] {
    let (shape, one) = (g.constant(-1i32).unwrap(), g.constant(1i32).unwrap());
    let list = g.op("EmptyTensorList").input(&shape).input(&one).device("/task:0");
    let list = list.attr("element_dtype", DType::F32).finish().unwrap();
    let length = g
        .op("TensorListLength")
        .input(&list.output(0).unwrap())
        .device("/cpu:0");
    [list, length.finish().unwrap()]
}

#[test]
fn variants_stay_in_their_task_and_locks_on_their_device() {
    let g = Graph::new();
    let list = list_and_item(&g);
    let two = devices(&["/job:a/task:0/cpu:0", "/job:a/task:1/cpu:0"]);
    let p = hard(&g, &two).unwrap();
    assert_eq!(list.map(|n| p.device_of(n.id())), [0, 0]);

    let g = Graph::new();
    let mutex = g.op("MutexV2").device("/cpu:1").output().unwrap();
    let lock = g.op("MutexLock").input(&mutex).output().unwrap();
    let same = g.op("Identity").input(&lock).output().unwrap();
    let consume = g.op("ConsumeMutexLock").input(&same).finish().unwrap();
    let p = hard(&g, &cpus(2)).unwrap();
    assert_eq!(p.device_of(consume.id()), 1);
}

#[test]
fn operations_that_find_their_state_by_name_are_together() {
    let g = Graph::new();
    let x = source(&g, "");
    let stage = g
        .op("Stage")
        .input_list(&[x])
        .attr("shared_name", "area")
        .device("/cpu:1");
    stage.finish().unwrap();
    let types = vec![DType::F32];
    let take = g
        .op("Unstage")
        .attr("dtypes", types.clone())
        .attr("shared_name", "area");
    let take = take.finish().unwrap();
    let other = g.op("Unstage").attr("dtypes", types).attr("shared_name", "other");
    let other = other.finish().unwrap();
    let p = hard(&g, &cpus(2)).unwrap();
    assert_eq!([take, other].map(|n| p.device_of(n.id())), [1, 0]);
}

#[test]
fn a_device_that_there_is_not_is_an_error_with_node_line_and_devices() {
    let g = Graph::new();
    named(&g, "x", "/cpu:7");
    let e = hard(&g, &cpus(2)).unwrap_err();
    assert_eq!((e.code(), e.node()), (Code::InvalidArgument, Some("x")));
    for part in [
        "\"x\", built at engine/src/placement/tests.rs",
        "asks for \"/device:CPU:7\"",
        "there is no such device",
        "/job:localhost/task:0/device:CPU:1",
        "soft placement",
    ] {
        assert!(e.message().contains(part), "{part}: {e}");
    }
}

#[test]
fn nodes_that_cannot_be_together_are_both_named_with_what_they_ask_for_and_why() {
    let g = Graph::new();
    let ps = g.op("VariableV2").attr("dtype", DType::F32).name("w").device("/job:ps");
    let v = ps.attr("shape", PartialShape::scalar()).output().unwrap();
    let x = source(&g, "");
    let assign = g.op("Assign").input(&v).input(&x).name("a");
    let assign = assign.device("/job:worker").finish().unwrap();
    g.op("NoOp").colocate_with("a").device("/task:0").finish().unwrap();
    let e = hard(&g, &cluster()).unwrap_err();
    assert_eq!(e.node(), Some(assign.name().as_str()));
    for part in [
        "\"w\", built at",
        "asks for \"/job:ps\"",
        "\"a\", built at",
        "asks for \"/job:worker\"",
        "\"a\" takes a reference from \"w\"",
        "/job:ps/task:1/device:CPU:0",
    ] {
        assert!(e.message().contains(part), "{part}: {e}");
    }
    assert!(!e.message().contains("/task:0\""), "{e}");
}

#[test]
fn three_nodes_that_only_together_leave_no_device_are_all_named() {
    let g = Graph::new();
    named(&g, "a", "/job:ps");
    g.op("NoOp")
        .name("b")
        .colocate_with("a")
        .device("/task:1")
        .finish()
        .unwrap();
    g.op("NoOp")
        .name("c")
        .colocate_with("b")
        .device("/cpu:1")
        .finish()
        .unwrap();
    let d = devices(&[
        "/job:ps/task:0/cpu:1",
        "/job:ps/task:1/cpu:0",
        "/job:worker/task:1/cpu:1",
    ]);
    let e = hard(&g, &d).unwrap_err();
    for part in [
        "\"a\"",
        "\"b\"",
        "\"c\"",
        "\"b\" is colocated with \"a\", \"c\" is colocated with \"b\"",
    ] {
        // The path from the first to the last of them.
        assert!(e.message().contains(part), "{part}: {e}");
    }
}

#[test]
fn soft_placement_moves_to_the_nearest_device_and_says_so() {
    let g = Graph::new();
    let a = named(&g, "a", "/job:ps/task:1/cpu:3");
    let b = named(&g, "b", "/job:worker/task:5");
    let c = named(&g, "c", "/gpu:0");
    let fine = named(&g, "d", "/job:ps");
    let p = place(&g, &cluster(), None, &soft()).unwrap();
    let got = [&a, &b, &c, &fine].map(|n| p.device_of(n.id()));
    assert_eq!(got, [3, 0, 0, 2]);
    let said: Vec<String> = p.moves().iter().map(Move::to_string).collect();
    assert_eq!(said.len(), 3);
    assert_eq!(
        said[0],
        "node \"a\" asked for /job:ps/task:1/device:CPU:3 and was placed on /job:ps/task:1/device:CPU:0: there is no \
         such device"
    );
    assert_eq!(p.moves()[1].node, b.id());
    assert_eq!(p.moves()[2].asked.to_string(), "/device:GPU:0");
}

#[test]
fn soft_placement_never_separates_what_belongs_together() {
    let g = Graph::new();
    let a = named(&g, "a", "/job:ps/task:1");
    let b = g
        .op("NoOp")
        .name("b")
        .colocate_with("a")
        .device("/job:worker")
        .finish()
        .unwrap();
    let p = place(&g, &cluster(), None, &soft()).unwrap();
    assert_eq!(p.device_of(a.id()), p.device_of(b.id()));
    let [moved] = p.moves() else { panic!("{:?}", p.moves()) };
    assert!(moved.why.contains("\"b\" is colocated with \"a\""), "{moved}");
}

#[test]
fn a_device_without_kernels_takes_nothing() {
    let g = Graph::new();
    let x = named(&g, "x", "");
    let d = devices(&["/job:a/task:0/gpu:0", "/job:a/task:0/cpu:0"]);
    assert_eq!(hard(&g, &d).unwrap().device_of(x.id()), 1);
    named(&g, "y", "/gpu:0");
    let e = hard(&g, &d).unwrap_err();
    assert!(e.message().contains("NoOp has no kernel for GPU"), "{e}");
    let p = place(&g, &d, None, &soft()).unwrap();
    assert_eq!(p.moves()[0].why, "NoOp has no kernel for GPU");
    let e = place(&g, &d[..1], None, &soft()).unwrap_err();
    assert_eq!(e.code(), Code::InvalidArgument);
}

#[test]
fn nodes_placed_before_stay_and_new_ones_follow_them() {
    let g = Graph::new();
    let v = g.op("VariableV2").attr("dtype", DType::F32).name("v");
    let v = v.attr("shape", PartialShape::scalar()).output().unwrap();
    let scattered = PlaceOptions {
        default_device: 2,
        ..PlaceOptions::default()
    };
    let before = place(&g, &cpus(3), None, &scattered).unwrap();
    let x = source(&g, "");
    let assign = g.op("Assign").input(&v).input(&x).finish().unwrap();
    let free = named(&g, "free", "");
    assert_eq!((before.get(free.id()), before.device_of(free.id())), (None, 2));
    let p = place(&g, &cpus(3), Some(&before), &PlaceOptions::default()).unwrap();
    let got = [v.op().id(), assign.id(), free.id()].map(|n| p.device_of(n));
    assert_eq!(got, [2, 2, 0]);

    g.op("NoOp")
        .name("late")
        .colocate_with("v")
        .device("/cpu:1")
        .finish()
        .unwrap();
    let e = place(&g, &cpus(3), Some(&p), &PlaceOptions::default()).unwrap_err();
    assert!(
        e.message().contains("\"v\", built at") && e.message().contains("CPU:2 earlier"),
        "{e}"
    );
    let p = place(&g, &cpus(3), Some(&p), &soft()).unwrap();
    assert_eq!(p.moves().len(), 1);
    let again = place(&g, &cpus(3), Some(&p), &PlaceOptions::default()).unwrap();
    assert_eq!(again, p);
}

#[test]
fn nodes_on_different_devices_since_earlier_cannot_be_brought_together() {
    let g = Graph::new();
    named(&g, "a", "/cpu:0");
    named(&g, "b", "/cpu:1");
    let before = hard(&g, &cpus(2)).unwrap();
    g.op("NoOp").colocate_with("a").colocate_with("b").finish().unwrap();
    for options in [PlaceOptions::default(), soft()] {
        let e = place(&g, &cpus(2), Some(&before), &options).unwrap_err();
        assert!(e.message().contains("\"a\"") && e.message().contains("\"b\""), "{e}");
    }
}

#[test]
fn a_constant_goes_where_it_is_used_and_a_shape_where_its_tensor_is() {
    let g = Graph::new();
    let x = source(&g, "/cpu:1");
    let c = g.constant(1.0f32).unwrap();
    let sum = g.op("Add").input(&x).input(&c).device("/cpu:2").output().unwrap();
    let shape = g.op("Shape").input(&sum).output().unwrap();
    let same = g.op("Identity").input(&shape).output().unwrap();
    let twice = g.constant(2.0f32).unwrap();
    g.op("Neg").input(&twice).device("/cpu:1").finish().unwrap();
    g.op("Neg").input(&twice).device("/cpu:2").finish().unwrap();
    let unused = g.constant(3.0f32).unwrap();
    let p = hard(&g, &cpus(3)).unwrap();
    let got = [&c, &shape, &same, &twice, &unused].map(|o| p.device_of(o.op().id()));
    assert_eq!(got, [2, 2, 2, 0, 0]);
}

#[test]
fn scattering_uses_all_devices_and_the_seed_decides() {
    let g = Graph::new();
    for _ in 0..64 {
        named(&g, "n", "");
    }
    let with = |seed| {
        let options = PlaceOptions {
            free: Free::Scatter(seed),
            ..PlaceOptions::default()
        };
        place(&g, &cpus(4), None, &options).unwrap()
    };
    let used: HashSet<usize> = g.nodes().iter().map(|n| with(1).device_of(n.id())).collect();
    assert_eq!(used.len(), 4);
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn wrong_devices_and_options_are_errors() {
    let g = Graph::new();
    named(&g, "x", "");
    let message = |d: &[DeviceInfo]| hard(&g, d).unwrap_err().message().to_owned();
    assert!(message(&[]).contains("there are 0 devices"));
    assert!(message(&devices(&["/job:a/cpu:0"])).contains("not full"));
    let twice = devices(&["/job:a/task:0/cpu:0", "/job:a/replica:0/task:0/cpu:0"]);
    assert!(message(&twice).contains("two devices"));
    let before = hard(&g, &cpus(1)).unwrap();
    let e = place(&Graph::new(), &cpus(1), Some(&before), &soft()).unwrap_err();
    assert!(e.message().contains("earlier placement"), "{e}");
}
