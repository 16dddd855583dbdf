use actorflow_core::{Code, DType};

use super::*;
use crate::train::optimizer::{Adam, Optimizer};

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.0.path().display())
    }

    fn here(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn manifests(&self) -> Vec<String> {
        let mut all: Vec<String> = std::fs::read_dir(self.0.path())
            .unwrap()
            .filter_map(|e| {
                e.unwrap()
                    .file_name()
                    .to_str()
                    .unwrap()
                    .strip_suffix(".manifest.json")
                    .map(str::to_owned)
            })
            .collect();
        all.sort();
        all
    }
}

/// A graph that trains `w` and a reference variable `r` by Adam.
fn model() -> (Graph, Operation) {
    let g = Graph::new();
    let w = g.variable("scope/w", Tensor::from([[1f32, -2.0], [3.0, 0.5]])).unwrap();
    let r = g
        .variable_builder("r")
        .reference()
        .build(Tensor::from([1f32, 1.0]))
        .unwrap();
    let loss = (w.value() + r.value())
        .unwrap()
        .square()
        .unwrap()
        .sum(&[], false)
        .unwrap();
    let step = g.global_step().unwrap();
    let train = Optimizer::from(Adam::new(0.1)).minimize_counting(&loss, &step).unwrap();
    (g, train)
}

fn values(g: &Graph, s: &Session) -> Vec<Tensor> {
    let all = g.variables().unwrap();
    let fetches: Vec<&Output> = all.iter().map(|v| v.value()).collect();
    s.run(&[], &fetches).unwrap()
}

fn started(g: &Graph) -> Session {
    let s = Session::new(g).unwrap();
    s.execute(&[&g.global_variables_initializer().unwrap()]).unwrap();
    s
}

#[test]
fn training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() {
    for sharded in [false, true] {
        let dir = Dir::new();
        let (g, train) = model();
        let options = SaverOptions {
            sharded,
            ..SaverOptions::default()
        };
        let saver = Saver::new(&g, options).unwrap();
        let s = started(&g);
        (0..3).for_each(|_| s.execute(&[&train]).unwrap());
        let path = saver.save(&s, &dir.path("m.ckpt"), Some(3)).unwrap();
        (0..4).for_each(|_| s.execute(&[&train]).unwrap());

        let other = Session::new(&g).unwrap();
        saver.restore(&other, &path).unwrap();
        (0..4).for_each(|_| other.execute(&[&train]).unwrap());
        assert_eq!(values(&g, &other), values(&g, &s));
        assert_eq!(latest_checkpoint(dir.here()).unwrap(), Some(path.clone()));
        let listed = list_variables(&path).unwrap();
        assert!(
            listed.contains(&("scope/w".into(), "float32".into(), vec![2, 2])),
            "{listed:?}"
        );
        assert_eq!(listed.len(), g.variables().unwrap().len());
        assert_eq!(dir.manifests(), ["m.ckpt-3"], "no part is left");
    }
}

#[test]
fn devices_have_shards_of_their_own() {
    let dir = Dir::new();
    let g = Graph::new();
    for i in 0..2 {
        let _d = g.device_scope(&format!("/job:ps/task:{i}"));
        g.variable(&format!("v{i}"), Tensor::from(i)).unwrap();
    }
    let options = SaverOptions {
        sharded: true,
        ..SaverOptions::default()
    };
    let saver = Saver::new(&g, options).unwrap();
    assert_eq!(
        saver
            .save_op()
            .graph()
            .nodes()
            .iter()
            .filter(|n| n.op_name() == "SaveV2")
            .count(),
        2
    );
    let s = started(&g);
    let path = saver.save(&s, &dir.path("m"), None).unwrap();
    let shards = std::fs::read_dir(dir.here()).unwrap();
    let shards = shards.filter(|e| {
        e.as_ref()
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .ends_with(".safetensors")
    });
    assert_eq!(shards.count(), 2);
    saver.restore(&Session::new(&g).unwrap(), &path).unwrap();
}

#[test]
fn threads_that_save_at_once_leave_whole_checkpoints_and_a_true_state() {
    for sharded in [false, true] {
        let dir = Dir::new();
        let (g, _) = model();
        let options = SaverOptions {
            sharded,
            max_to_keep: 3,
            ..SaverOptions::default()
        };
        let savers = [
            Saver::new(&g, options.clone()).unwrap(),
            Saver::new(&g, options).unwrap(),
        ];
        let s = started(&g);
        std::thread::scope(|scope| {
            for saver in [&savers[0], &savers[0], &savers[1]] {
                let (dir, s) = (&dir, &s);
                scope.spawn(move || (0..5).for_each(|n| drop(saver.save(s, &dir.path("m"), Some(n)).unwrap())));
            }
        });
        let latest = latest_checkpoint(dir.here()).unwrap().unwrap();
        Reader::open(&latest).unwrap().verify().unwrap();
        for name in dir.manifests() {
            Reader::open(&dir.path(&name)).unwrap().verify().unwrap();
        }
    }
}

#[test]
fn old_checkpoints_are_deleted_and_the_state_says_what_is_there() {
    let dir = Dir::new();
    let (g, _) = model();
    let options = SaverOptions {
        max_to_keep: 2,
        ..SaverOptions::default()
    };
    let saver = Saver::new(&g, options.clone()).unwrap();
    let s = started(&g);
    for step in 0..4 {
        saver.save(&s, &dir.path("m"), Some(step)).unwrap();
    }
    saver.save(&s, &dir.path("m"), Some(2)).unwrap();
    assert_eq!(dir.manifests(), ["m-2", "m-3"]);
    assert_eq!(std::fs::read_dir(dir.here()).unwrap().count(), 5);
    assert_eq!(saver.last_checkpoints(), [dir.path("m-3"), dir.path("m-2")]);
    let state = CheckpointState::read(dir.here()).unwrap().unwrap();
    assert_eq!(state.latest, Some(dir.path("m-2")));

    // Another process goes on.
    let next = Saver::new(&g, options).unwrap();
    next.recover(dir.here()).unwrap();
    next.save(&s, &dir.path("m"), Some(9)).unwrap();
    assert_eq!(dir.manifests(), ["m-2", "m-9"]);
    assert_eq!(latest_checkpoint(dir.here()).unwrap(), Some(dir.path("m-9")));
    remove(&Location::of(&dir.path("m-9")).unwrap()).unwrap();
    assert_eq!(latest_checkpoint(dir.here()).unwrap(), Some(dir.path("m-2")));
}

#[test]
fn what_a_crash_kept_from_being_deleted_is_deleted_later() {
    let dir = Dir::new();
    let (g, _) = model();
    let options = |max_to_keep| SaverOptions {
        max_to_keep,
        ..SaverOptions::default()
    };
    let s = started(&g);
    // As it is when a saver of two dies after it has named its fourth checkpoint and before it deletes two.
    let saver = Saver::new(&g, options(4)).unwrap();
    for step in 0..4 {
        saver.save(&s, &dir.path("m"), Some(step)).unwrap();
    }
    let next = Saver::new(&g, options(2)).unwrap();
    next.recover(dir.here()).unwrap();
    next.save(&s, &dir.path("m"), Some(4)).unwrap();
    assert_eq!(dir.manifests(), ["m-3", "m-4"]);
    let state = CheckpointState::read(dir.here()).unwrap().unwrap();
    assert_eq!(state.all, [dir.path("m-3"), dir.path("m-4")]);
}

#[test]
fn one_checkpoint_for_every_so_many_hours_stays() {
    let dir = Dir::new();
    let (g, _) = model();
    let options = SaverOptions {
        max_to_keep: 1,
        keep_checkpoint_every_n_hours: 0.0,
        ..SaverOptions::default()
    };
    let saver = Saver::new(&g, options).unwrap();
    let s = started(&g);
    for step in 0..3 {
        saver.save(&s, &dir.path("m"), Some(step)).unwrap();
    }
    assert_eq!(dir.manifests(), ["m-0", "m-1", "m-2"]);
}

#[test]
fn variables_are_saved_under_other_names_and_in_parts() {
    let dir = Dir::new();
    let g = Graph::new();
    let a = g.variable("a", Tensor::from([[1f32, 2.0]])).unwrap();
    let b = g.variable("b", Tensor::from([[3f32, 4.0], [5.0, 6.0]])).unwrap();
    let list = vec![
        SavedVariable::new("table", a.handle()).slice("3 2 0,1:-"),
        SavedVariable::new("table", b.handle()).slice("3 2 1,2:-"),
        SavedVariable::new("alias", a.handle()),
    ];
    let options = SaverOptions {
        variables: Some(list.clone()),
        ..SaverOptions::default()
    };
    let saver = Saver::new(&g, options).unwrap();
    let path = saver.save(&started(&g), &dir.path("m"), None).unwrap();
    let r = Reader::open(&path).unwrap();
    assert_eq!(
        r.tensor("table").unwrap(),
        Tensor::from([[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]])
    );
    assert_eq!(r.tensor("alias").unwrap(), Tensor::from([[1f32, 2.0]]));
    let s = Session::new(&g).unwrap();
    saver.restore(&s, &path).unwrap();
    assert_eq!(
        s.run(&[], &[b.value()]).unwrap()[0],
        Tensor::from([[3f32, 4.0], [5.0, 6.0]])
    );

    let twice = SaverOptions {
        variables: Some(vec![list[2].clone(), list[2].clone()]),
        ..SaverOptions::default()
    };
    assert_eq!(Saver::new(&g, twice).err().unwrap().code(), Code::InvalidArgument);
    let none = SaverOptions {
        variables: Some(vec![SavedVariable::new("x", a.value())]),
        ..SaverOptions::default()
    };
    assert!(Saver::new(&g, none).err().unwrap().message().contains("not a variable"));
    assert_eq!(
        Saver::new(&Graph::new(), SaverOptions::default()).err().unwrap().code(),
        Code::InvalidArgument
    );
}

#[test]
fn the_variables_of_an_imported_graph_are_found_without_collections() {
    let dir = Dir::new();
    let (g, _) = model();
    let saver = Saver::new(&g, SaverOptions::default()).unwrap();
    let path = saver.save(&started(&g), &dir.path("m"), None).unwrap();
    let bytes = crate::graphdef::export_graph(&g).unwrap();
    let other = crate::graphdef::import_graph(bytes).unwrap().graph;
    let again = Saver::new(&other, SaverOptions::default()).unwrap();
    assert_eq!(again.names().len(), saver.names().len());
    let s = Session::new(&other).unwrap();
    again.restore(&s, &path).unwrap();
    let w = s.run(&[], &[&other.output("scope/w/Read").unwrap()]).unwrap();
    assert_eq!(w[0], Tensor::from([[1f32, -2.0], [3.0, 0.5]]));
}

#[test]
fn what_does_not_fit_is_refused_with_the_name() {
    let dir = Dir::new();
    let save = |g: &Graph| {
        let saver = Saver::new(g, SaverOptions::default()).unwrap();
        saver.save(&started(g), &dir.path("m"), None).unwrap()
    };
    let make = |name: &str, t: Tensor, reference: bool| {
        let g = Graph::new();
        let b = g.variable_builder(name);
        if reference { b.reference() } else { b }.build(t).unwrap();
        g
    };
    for reference in [false, true] {
        let path = save(&make("v", Tensor::from([1f32, 2.0]), reference));
        let restore = |g: Graph| {
            let saver = Saver::new(&g, SaverOptions::default()).unwrap();
            saver.restore(&Session::new(&g).unwrap(), &path).unwrap_err()
        };
        let e = restore(make("other", Tensor::from([1f32, 2.0]), reference));
        assert!(
            e.code() == Code::NotFound && e.message().contains("other") && e.message().contains(&path),
            "{e}"
        );
        let e = restore(make("v", Tensor::from([1i32, 2]), reference));
        assert!(
            e.code() == Code::InvalidArgument && e.message().contains("int32"),
            "{e}"
        );
        let e = restore(make("v", Tensor::zeros(DType::F32, [3]).unwrap(), reference));
        assert!(e.code() == Code::InvalidArgument && e.message().contains("[3]"), "{e}");
    }
    let g = make("v", Tensor::from(1f32), false);
    let saver = Saver::new(&g, SaverOptions::default()).unwrap();
    let e = saver
        .save(&Session::new(&g).unwrap(), &dir.path("never"), None)
        .unwrap_err();
    assert_eq!(e.code(), Code::FailedPrecondition);
    assert_eq!(
        saver.restore(&started(&g), &dir.path("nope")).unwrap_err().code(),
        Code::NotFound
    );
    assert!(!exists(&dir.path("never")).unwrap());
}

#[test]
fn a_path_that_climbs_is_the_programs_own_right() {
    let dir = Dir::new();
    std::fs::create_dir(dir.path("sub")).unwrap();
    let (g, _) = model();
    let saver = Saver::new(&g, SaverOptions::default()).unwrap();
    let s = started(&g);
    saver.save(&s, &dir.path("sub/../m"), None).unwrap();
    assert_eq!(dir.manifests(), ["m"]);
    saver.restore(&s, &dir.path("sub/../m")).unwrap();
}
