//! The tests that the rules name: they exist, and they pass.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::document::{DOCUMENTS, Reference, root, rules};

fn references() -> BTreeSet<Reference> {
    DOCUMENTS.into_iter().flat_map(rules).flat_map(|rule| rule.tests).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("a readable directory").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The root directory of a package's target and its Rust files, each with its module path.
fn sources(Reference { package, target, .. }: &Reference) -> Vec<(PathBuf, Vec<String>)> {
    let dir = match package.as_str() {
        "peerage" => root().join("bins/node"),
        "system-tests" => root().join("tests"),
        library => root().join("crates").join(library.strip_prefix("peerage-").unwrap_or(library)),
    };
    let tests = if package == "system-tests" { dir.clone() } else { dir.join("tests") };
    let base = if target == "lib" { dir.join("src") } else { tests.join(target) };
    let single = tests.join(target).with_extension("rs");
    if target != "lib" && single.is_file() {
        return vec![(single, Vec::new())];
    }
    let mut found = files(&base);
    found.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let module = |path: &Path| {
        let inside = path.strip_prefix(&base).expect("found there").with_extension("");
        let mut parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if matches!(parts.last().map(String::as_str), Some("main" | "lib" | "mod")) {
            parts.pop();
        }
        parts
    };
    found.into_iter().map(|path| (path.clone(), module(&path))).collect()
}

/// Whether `text` defines a test called `function`: directly above it, among attributes and comments, stands `#[test]`.
fn defines(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let wanted = format!("fn {function}(");
    let is_test = |at: usize| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        above.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    };
    lines.iter().enumerate().any(|(at, line)| {
        let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.starts_with(&wanted) && is_test(at)
    })
}

#[test]
fn each_named_test_exists() {
    let mut missing = Vec::new();
    for reference in references() {
        let mut path: Vec<&str> = reference.name.split("::").collect();
        let function = path.pop().expect("a split has a part");
        let here = sources(&reference).into_iter().any(|(file, module)| {
            let rest = path.strip_prefix(module.iter().map(String::as_str).collect::<Vec<_>>().as_slice());
            let fits = matches!(rest, Some([] | ["tests"]));
            fits && fs::read_to_string(file).is_ok_and(|text| defines(&text, function))
        });
        if !here {
            missing.push(reference);
        }
    }
    assert!(missing.is_empty(), "rules name tests that do not exist: {missing:#?}");
}

/// Which tests of which targets a log of `cargo test` reports, and whether they passed. The target is that of the line
/// `Running .. (target/debug/deps/NAME-HASH)` above: the crate's name for unit tests, the file's for others.
fn outcomes(log: &str) -> BTreeSet<(String, String, bool)> {
    let (mut target, mut found) = (String::new(), BTreeSet::new());
    for line in log.lines().map(str::trim) {
        if let Some((_, binary)) = line.strip_prefix("Running ").and_then(|rest| rest.rsplit_once('(')) {
            let name = binary.trim_end_matches(')').rsplit(['/', '\\']).next().unwrap_or_default();
            target = name.rsplit_once('-').map_or(name, |(name, _)| name).into();
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let name = name.trim_end_matches(" - should panic");
            found.insert((target.clone(), name.into(), outcome == "ok"));
        }
    }
    found
}

fn not_passed(log: &str, references: impl IntoIterator<Item = Reference>) -> Vec<Reference> {
    let outcomes = outcomes(log);
    let passed = |Reference { package, target, name }: &Reference| {
        let target = if target == "lib" { package.replace('-', "_") } else { target.clone() };
        let outcome = |passed| outcomes.contains(&(target.clone(), name.clone(), passed));
        outcome(true) && !outcome(false)
    };
    references.into_iter().filter(|reference| !passed(reference)).collect()
}

#[test]
fn each_named_test_passed_in_the_log() {
    let Some(path) = env::var_os("SPEC_TEST_LOG") else {
        eprintln!("skipped: SPEC_TEST_LOG is not set, so no log of `cargo test --workspace` was looked at");
        return;
    };
    let log = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let missing = not_passed(&log, references());
    assert!(missing.is_empty(), "rules name tests that the log does not report as passed: {missing:#?}");
}

#[test]
fn a_log_is_read_as_cargo_writes_it() {
    let log = "   Compiling a v1\n     Running unittests src/lib.rs (target/debug/deps/peerage_wire-0a1b)\n\
        running 2 tests\ntest a::good ... ok\ntest a::bad ... FAILED\n\
             Running tests/errors.rs (target/debug/deps/errors-2c)\ntest good ... ok\ntest later ... ignored\n";
    let of = |target: &str, name: &str| Reference {
        package: "peerage-wire".into(),
        target: target.into(),
        name: name.into(),
    };
    let all =
        [of("lib", "a::good"), of("lib", "a::bad"), of("errors", "good"), of("errors", "later"), of("lib", "good")];
    assert_eq!(not_passed(log, all.clone()), [all[1].clone(), all[3].clone(), all[4].clone()]);
}

#[test]
fn a_function_is_a_test_only_under_its_attribute() {
    let text =
        "#[test]\n#[cfg(unix)]\n/// Why.\nfn one() {}\n\nfn two() {}\n    #[tokio::test]\n    async fn three() {\n";
    assert_eq!(["one", "two", "three", "on"].map(|name| defines(text, name)), [true, false, true, false]);
}
