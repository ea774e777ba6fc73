//! The layers: which crate may name which, held against what cargo says.

use std::{collections::BTreeMap, process::Command};

/// The allowed edges between crates of this workspace, dev-dependencies included where marked `dev`. A crate may name
/// only what stands here; the picture is in `docs/architecture.md`, "Layers".
const ALLOWED: &[(&str, &[&str], &[&str])] = &[
    // (crate, normal dependencies, further dev-dependencies)
    ("peerage-core", &[], &[]),
    ("peerage-sim", &["peerage-core"], &[]),
    ("peerage-wire", &["peerage-core"], &["peerage-sim"]),
    ("peerage-transport", &["peerage-core", "peerage-wire"], &["peerage-sim"]),
    ("peerage-discovery", &["peerage-core", "peerage-wire", "peerage-transport"], &["peerage-sim"]),
    ("peerage-gossip", &["peerage-core", "peerage-wire", "peerage-transport", "peerage-discovery"], &["peerage-sim"]),
    (
        "peerage-chain",
        &["peerage-core", "peerage-wire", "peerage-transport", "peerage-discovery", "peerage-gossip"],
        &["peerage-sim"],
    ),
    (
        "peerage",
        &["peerage-core", "peerage-wire", "peerage-transport", "peerage-discovery", "peerage-gossip", "peerage-chain"],
        &["peerage-sim"],
    ),
    (
        "system-tests",
        &[],
        &[
            "peerage",
            "peerage-core",
            "peerage-wire",
            "peerage-transport",
            "peerage-discovery",
            "peerage-gossip",
            "peerage-chain",
            "peerage-sim",
        ],
    ),
];

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

#[test]
fn no_crate_names_one_beside_or_above_it() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let names: Vec<_> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let allowed: BTreeMap<_, _> = ALLOWED.iter().map(|(name, normal, dev)| (*name, (*normal, *dev))).collect();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let (normal, dev) = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the table of layers"));
        for dependency in package["dependencies"].as_array().expect("a list of dependencies") {
            let on = dependency["name"].as_str().expect("a name");
            if !names.contains(&on) {
                continue; // not one of ours
            }
            let for_tests = dependency["kind"].as_str() == Some("dev");
            assert!(normal.contains(&on) || for_tests && dev.contains(&on), "{name} must not name {on}");
        }
    }
    assert_eq!(allowed.len(), names.len(), "the table names a crate that does not exist");
}

#[test]
fn versions_are_written_once_at_the_root() {
    for package in metadata()["packages"].as_array().expect("a list of packages") {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(manifest).expect("the manifest is there");
        let own = text.lines().find(|line| line.contains("version =") || line.contains("version="));
        assert_eq!(own, None, "{manifest}: a version of its own");
    }
}
