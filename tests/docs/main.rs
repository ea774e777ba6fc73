//! `docs/architecture.md` and `docs/parameters.md` against the code: each source file has its line, each path exists, each
//! number is the one in the code, each citation names a section, each patch that breaks a rule of the protocol still fits.

mod architecture;
mod bounds;
mod mutants;
mod number;
mod parameters;
mod reasons;
mod threats;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the workspace.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The Rust files below a directory of the workspace, as paths from its root, in order.
fn rust_files(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).unwrap_or_else(|error| panic!("{dir}: {error}")) {
        let entry = entry.expect("a readable directory");
        let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(rust_files(&path));
        } else if path.ends_with(".rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The directories with the sources of crates: `crates/*/src` and `bins/node/src`.
fn source_dirs() -> Vec<String> {
    let crates = fs::read_dir(root().join("crates")).expect("crates");
    let names = crates.map(|entry| entry.expect("a readable directory").file_name().to_string_lossy().into_owned());
    let mut dirs: Vec<_> = names.map(|name| format!("crates/{name}/src")).collect();
    dirs.push("bins/node/src".into());
    dirs.sort();
    dirs
}

/// The rows of a document's tables, without their headers, each with the heading above it (without its `#`s).
fn rows(text: &str) -> Vec<(String, Vec<String>)> {
    let (mut heading, mut body, mut found) = (String::new(), false, Vec::new());
    for line in text.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim().into();
        }
        if !line.starts_with('|') {
            body = false;
        } else if line.starts_with("|---") {
            body = true;
        } else if body {
            found.push((heading.clone(), line.trim_matches('|').split('|').map(|cell| cell.trim().into()).collect()));
        }
    }
    found
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
