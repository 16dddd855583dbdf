//! Who may depend on whom: the picture at the top of ARCHITECTURE.md, held against every manifest.
//!
//! Reads `cargo metadata` without dependencies, the manifests themselves and Cargo.lock, so it needs no network.
#![allow(clippy::unwrap_used)] // helpers of tests
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::PathBuf;

use actorflow_tests::repo;
use cargo_metadata::{Metadata, MetadataCommand};
use toml::{Table, Value};

/// Every package of the workspace with the packages of the workspace that it may depend on. Dependencies of tests and
/// build scripts count too: a crate that needs another one for its tests is a crate whose tests are in the wrong place.
const PICTURE: &[(&str, &[&str])] = &[
    ("actorflow-core", &[]),
    ("actorflow-kernels", &["actorflow-core"]),
    ("actorflow-actors", &["actorflow-core"]),
    ("actorflow-transport", &["actorflow-core"]),
    (
        "actorflow",
        &[
            "actorflow-core",
            "actorflow-kernels",
            "actorflow-actors",
            "actorflow-transport",
        ],
    ),
    ("actorflow-cli", &["actorflow"]),
    ("actorflow-tests", ANYTHING),
    ("actorflow-bench", ANYTHING),
];

/// What the suites and the harness may depend on.
const ANYTHING: &[&str] = &[
    "actorflow-core",
    "actorflow-kernels",
    "actorflow-actors",
    "actorflow-transport",
    "actorflow",
    "actorflow-cli",
    "actorflow-tests",
    "actorflow-bench",
];

/// Families of crates that one package alone may name: the family's crate and those called `family-…`.
const OWNED: &[(&str, &str)] = &[("actix", "actorflow-actors"), ("quinn", "actorflow-transport")];

/// Families of crates that the vocabulary must not pull in, not even through another crate: threads of somebody else's
/// making, sockets and devices.
const NEVER_IN_CORE: &[&str] = &["tokio", "actix", "quinn", "cudarc"];

/// One dependency: who, on what, in which section.
type Edge = (String, String, String);

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(repo::root().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned(), "--locked".to_owned()])
        .exec()
        .expect("`cargo metadata --no-deps --offline --locked` succeeds")
}

/// Every dependency that a package of the workspace declares.
fn edges() -> Vec<Edge> {
    let metadata = metadata();
    let of = |package: &cargo_metadata::Package| -> Vec<Edge> {
        let edge = |dependency: &cargo_metadata::Dependency| {
            (
                package.name.to_string(),
                dependency.name.clone(),
                dependency.kind.to_string(),
            )
        };
        package.dependencies.iter().map(edge).collect()
    };
    metadata.workspace_packages().into_iter().flat_map(of).collect()
}

/// The manifest of every package of the workspace, by path relative to the repository's root.
fn manifests() -> Vec<(String, Table)> {
    let root = repo::root();
    let path = |package: &cargo_metadata::Package| -> PathBuf { package.manifest_path.clone().into() };
    let paths: Vec<PathBuf> = metadata().workspace_packages().into_iter().map(path).collect();
    assert_eq!(
        paths.len(),
        PICTURE.len(),
        "the workspace and the picture have the same number of packages"
    );
    paths
        .iter()
        .map(|path| {
            (
                path.strip_prefix(&root).unwrap_or(path).display().to_string(),
                read(path),
            )
        })
        .collect()
}

fn read(path: &std::path::Path) -> Table {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn in_family(name: &str, family: &str) -> bool {
    name.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// The edges between packages of the workspace that the picture does not have.
fn edges_off_the_picture(edges: &[Edge]) -> Vec<String> {
    let internal = |name: &str| PICTURE.iter().any(|(package, _)| *package == name);
    let allowed = |from: &str, to: &str| {
        PICTURE
            .iter()
            .any(|(package, may)| *package == from && may.contains(&to))
    };
    edges
        .iter()
        .filter(|(from, to, _)| internal(to) && !allowed(from, to))
        .map(|(from, to, kind)| {
            format!(
                "{from} -> {to} ({kind}): an edge that the picture in ARCHITECTURE.md does not have; \
                 let the two meet through a trait of actorflow-core"
            )
        })
        .collect()
}

/// The dependencies on an owned family by a package that does not own it.
fn owned_crates_elsewhere(edges: &[Edge]) -> Vec<String> {
    let mut found = Vec::new();
    for (family, owner) in OWNED {
        for (from, to, _) in edges
            .iter()
            .filter(|(from, to, _)| in_family(to, family) && from != owner)
        {
            found.push(format!(
                "{from} -> {to}: only {owner} names {family}; use what {owner} makes of it"
            ));
        }
    }
    found
}

/// Every crate that `package` reaches through `lock`, itself excluded, with the path of names that leads there.
fn reached(lock: &Table, package: &str) -> BTreeMap<String, String> {
    let mut dependencies: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for entry in lock["package"].as_array().expect("Cargo.lock lists packages") {
        let name = entry["name"].as_str().expect("a locked package has a name");
        let to = entry
            .get("dependencies")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        // An entry is `name`, or `name version` where several versions are locked.
        dependencies
            .entry(name)
            .or_default()
            .extend(to.filter_map(|to| to.split(' ').next()));
    }
    let mut paths = BTreeMap::new();
    let mut queue = VecDeque::from([(package, package.to_owned())]);
    while let Some((name, path)) = queue.pop_front() {
        for to in dependencies.get(name).into_iter().flatten() {
            let path = format!("{path} -> {to}");
            if !paths.contains_key(*to) {
                paths.insert((*to).to_owned(), path.clone());
                queue.push_back((to, path));
            }
        }
    }
    paths
}

/// The dependencies of a manifest that are not taken from the workspace's table.
fn declared_on_their_own(file: &str, manifest: &Table) -> Vec<String> {
    let mut found = in_sections(file, "", manifest);
    for (target, table) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        let table = table.as_table().expect("a target of a manifest is a table");
        found.extend(in_sections(file, &format!("target.{target}."), table));
    }
    found
}

fn in_sections(file: &str, prefix: &str, table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (name, value) in table.get(section).and_then(Value::as_table).into_iter().flatten() {
            let shared = value.get("workspace").and_then(Value::as_bool) == Some(true);
            if !shared || value.get("default-features").is_some() {
                found.push(format!(
                    "{file}: [{prefix}{section}] {name}: write `{name}.workspace = true` and declare version and \
                     features once, in [workspace.dependencies] of the root Cargo.toml"
                ));
            }
        }
    }
    found
}

#[track_caller]
fn none(found: Vec<String>) {
    assert!(
        found.is_empty(),
        "{} thing(s) to put right:\n{}",
        found.len(),
        found.join("\n")
    );
}

#[test]
fn the_picture_shows_every_package_of_the_workspace() {
    let packages: BTreeSet<String> = metadata()
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect();
    let pictured: BTreeSet<String> = PICTURE.iter().map(|(package, _)| (*package).to_owned()).collect();
    assert_eq!(
        packages, pictured,
        "a new package needs its place in ARCHITECTURE.md's picture and in this test"
    );
}

#[test]
fn packages_depend_on_each_other_as_the_picture_says() {
    none(edges_off_the_picture(&edges()));
}

#[test]
fn crates_behind_an_interface_are_named_by_one_package() {
    none(owned_crates_elsewhere(&edges()));
}

#[test]
fn the_vocabulary_pulls_in_no_runtime_socket_or_device() {
    let lock = read(&repo::root().join("Cargo.lock"));
    let reached = reached(&lock, "actorflow-core");
    assert!(
        !reached.is_empty(),
        "Cargo.lock knows actorflow-core and what it depends on"
    );
    let banned = |name: &String| NEVER_IN_CORE.iter().any(|family| in_family(name, family));
    let cure = "the vocabulary stays free of it; move what needs it to actors, kernels or transport";
    none(
        reached
            .iter()
            .filter(|(name, _)| banned(name))
            .map(|(_, path)| format!("{path}: {cure}"))
            .collect(),
    );
}

#[test]
fn every_dependency_comes_from_the_workspace_table() {
    none(
        manifests()
            .iter()
            .flat_map(|(file, manifest)| declared_on_their_own(file, manifest))
            .collect(),
    );
}

#[test]
fn every_package_takes_the_shared_lints_and_edition() {
    let mut found = Vec::new();
    for (file, manifest) in manifests() {
        let shared = |value: Option<&Value>| {
            value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
        };
        let package = &manifest["package"];
        if !shared(manifest.get("lints")) {
            found.push(format!("{file}: write `[lints]` with `workspace = true`"));
        }
        for key in ["version", "edition", "rust-version", "license", "repository", "authors"] {
            if !shared(package.get(key)) {
                found.push(format!("{file}: [package] {key}: write `{key}.workspace = true`"));
            }
        }
        if package
            .get("description")
            .and_then(Value::as_str)
            .is_none_or(str::is_empty)
        {
            found.push(format!(
                "{file}: [package] description: say in a line what the package is for"
            ));
        }
    }
    none(found);
}

#[test]
fn an_edge_off_the_picture_is_reported() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned(), "normal".to_owned());
    assert!(
        edges_off_the_picture(&[
            edge("actorflow-kernels", "actorflow-core"),
            edge("actorflow-cli", "clap")
        ])
        .is_empty()
    );
    for (from, to) in [
        ("actorflow-core", "actorflow-kernels"),
        ("actorflow-kernels", "actorflow-actors"),
        ("actorflow-cli", "actorflow-core"),
        ("actorflow", "actorflow-tests"),
        ("newcomer", "actorflow-core"),
    ] {
        let found = edges_off_the_picture(&[edge(from, to)]);
        assert!(
            found.len() == 1 && found[0].contains(&format!("{from} -> {to}")),
            "{found:?}"
        );
    }
}

#[test]
fn an_owned_crate_elsewhere_is_reported() {
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned(), "normal".to_owned());
    assert!(owned_crates_elsewhere(&[edge("actorflow-actors", "actix"), edge("actorflow", "quinnly")]).is_empty());
    let edges = [
        edge("actorflow", "actix"),
        edge("actorflow-actors", "quinn-proto"),
        edge("actorflow", "actix-rt"),
    ];
    assert_eq!(owned_crates_elsewhere(&edges).len(), 3);
}

#[test]
fn a_crate_reached_through_others_is_reported_with_its_path() {
    let lock: Table = "[[package]]\nname = 'a'\ndependencies = ['b 1.0.0']\n[[package]]\nname = 'b'\n\
                       dependencies = ['tokio', 'a']\n[[package]]\nname = 'tokio'\n"
        .parse()
        .unwrap();
    assert_eq!(reached(&lock, "a")["tokio"], "a -> b -> tokio");
}

#[test]
fn a_dependency_declared_on_its_own_is_reported() {
    let manifest: Table = "[dependencies]\na.workspace = true\nb = { workspace = true, features = ['x'] }\nc = '1'\n\
                           [dev-dependencies]\nd = { path = '../d' }\n[target.'cfg(loom)'.dependencies]\ne = '1'\n"
        .parse()
        .unwrap();
    let found = declared_on_their_own("x/Cargo.toml", &manifest);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .any(|line| line.starts_with("x/Cargo.toml: [target.cfg(loom).dependencies] e:")),
        "{found:?}"
    );
}
