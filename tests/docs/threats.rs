//! The tests that the threat model names: each `package/target/name` of its tables is a test in the sources, each path exists.

use std::{fs, path::PathBuf};

use crate::{quoted, read, root, rows, rust_files};

/// Where the sources of a package's target are, as a path from the root, without `.rs`.
fn base(package: &str, target: &str) -> String {
    let dir = match package {
        "peerage" => "bins/node".to_owned(),
        "system-tests" => return format!("tests/{target}"),
        layer => format!("crates/{}", layer.strip_prefix("peerage-").unwrap_or(layer)),
    };
    if target == "lib" { format!("{dir}/src") } else { format!("{dir}/tests/{target}") }
}

/// The files of a target, each with its module path.
fn files(base: &str) -> Vec<(String, String)> {
    let single = format!("{base}.rs");
    if root().join(&single).is_file() {
        return vec![(single, String::new())];
    }
    if !root().join(base).is_dir() {
        return Vec::new();
    }
    let module = |file: &str| {
        let inside = file.trim_start_matches(base).trim_start_matches('/').trim_end_matches(".rs");
        let parts = inside.split('/').filter(|part| !["main", "lib", "mod"].contains(part));
        parts.collect::<Vec<_>>().join("::")
    };
    rust_files(base).into_iter().map(|file| (file.clone(), module(&file))).collect()
}

/// Whether `text` has a test of this name: an attribute that ends in `test` or `test(..)` stands right above it.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let heads = [format!("fn {name}("), format!("async fn {name}(")];
    let is_named = |line: &str| heads.iter().any(|head| line.starts_with(head.as_str()));
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    (0..lines.len()).filter(|at| is_named(lines[*at])).any(|at| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
        above.into_iter().any(|line| is_test(line))
    })
}

/// Whether what a row names is there: a path, or `package/target/name`.
fn exists(named: &str) -> bool {
    if ["crates/", "bins/", "tests/", "docs/"].iter().any(|start| named.starts_with(start)) {
        return root().join(named).exists();
    }
    let mut parts = named.splitn(3, '/');
    let (Some(package), Some(target), Some(name)) = (parts.next(), parts.next(), parts.next()) else { return false };
    files(&base(package, target)).into_iter().any(|(file, module)| {
        let rest = if module.is_empty() { Some(name) } else { name.strip_prefix(&format!("{module}::")) };
        let function = rest.map(|rest| rest.strip_prefix("tests::").unwrap_or(rest));
        function.is_some_and(|function| has_test(&read(&root().join(&file)), function))
    })
}

#[test]
fn each_test_that_the_threat_model_names_exists() {
    let page = read(&root().join("docs/threat-model.md"));
    let (mut missing, mut named) = (Vec::new(), 0);
    for (heading, cells) in rows(&page) {
        // The first table is about attackers and names no tests.
        let names_tests = ["Bad input", "What an operator can cause", "What one host"];
        if !names_tests.iter().any(|start| heading.starts_with(start)) {
            continue;
        }
        let last = cells.last().unwrap_or_else(|| panic!("{heading}: a row without cells"));
        let names: Vec<&str> = quoted(last).collect();
        assert!(!names.is_empty(), "{heading}: {cells:?} names no test");
        named += names.len();
        missing.extend(names.into_iter().filter(|name| !exists(name)).map(str::to_owned));
    }
    assert!(missing.is_empty(), "threat-model.md names what does not exist: {missing:#?}");
    assert!(named > 40, "{named} tests named: is the page read at all?");
}

#[test]
fn a_name_that_is_slightly_wrong_is_noticed() {
    let right = "system-tests/docs/threats::a_name_that_is_slightly_wrong_is_noticed";
    assert!(exists(right));
    for wrong in [
        "system-tests/docs/threats::a_name_that_is_slightly_wrong",
        "system-tests/docs/a_name_that_is_slightly_wrong_is_noticed",
        "system-tests/spec/threats::a_name_that_is_slightly_wrong_is_noticed",
        "system-tests/docs/threats::exists",
        "peerage-nothing/lib/x",
        "crates/nothing",
    ] {
        assert!(!exists(wrong), "{wrong}");
    }
    let file: PathBuf = root().join("tests/docs/threats.rs");
    assert!(fs::metadata(file).is_ok(), "paths are taken from the root");
}
