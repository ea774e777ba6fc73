//! The map of the workspace.

use std::collections::BTreeSet;

use crate::{quoted, read, root, rows, rust_files, source_dirs};

fn page() -> String {
    read(&root().join("docs/architecture.md"))
}

/// The files that the tables list, as paths from the root: a file's row stands under the heading with its directory.
fn listed() -> Vec<String> {
    let mut found = Vec::new();
    for (heading, cells) in rows(&page()) {
        let Some(dir) = quoted(&heading).next() else { continue };
        let file = quoted(&cells[0]).next().unwrap_or_else(|| panic!("{heading}: a row without a file: {cells:?}"));
        assert!(cells.len() == 2 && !cells[1].is_empty(), "{dir}/{file}: it has no line");
        found.push(format!("{dir}/{file}"));
    }
    found
}

#[test]
fn each_source_file_has_its_line_and_each_line_its_file() {
    let is_test = |path: &String| path.ends_with("/tests.rs") || path.contains("/tests/");
    let files: BTreeSet<_> =
        source_dirs().iter().flat_map(|dir| rust_files(dir)).filter(|path| !is_test(path)).collect();
    assert!(files.len() > 100, "{} source files: are they found at all?", files.len());
    let listed = listed();
    let lines: BTreeSet<_> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), lines.len(), "architecture.md lists a file twice");
    let missing: Vec<_> = files.difference(&lines).collect();
    assert!(missing.is_empty(), "architecture.md has no line for {missing:#?}");
    let gone: Vec<_> = lines.difference(&files).collect();
    assert!(gone.is_empty(), "architecture.md lists files that do not exist: {gone:#?}");
}

#[test]
fn each_path_named_in_the_text_exists() {
    let page = page();
    // Code blocks are pictures; in them a line may begin with a directory.
    let (mut paths, mut fenced) = (BTreeSet::new(), false);
    for line in page.lines() {
        fenced ^= line.starts_with("```");
        if fenced {
            paths.extend(line.split_whitespace().next().filter(|word| word.contains('/')));
        } else if !line.starts_with("| `") {
            paths.extend(quoted(line).filter(|text| text.contains('/') && !text.ends_with('/')));
        }
    }
    let rows = rows(&page);
    for (_, cells) in rows.iter().filter(|(heading, _)| !heading.contains('`')) {
        paths.extend(cells.iter().flat_map(|cell| quoted(cell)).filter(|text| text.contains('/')));
    }
    assert!(paths.len() > 20, "{} paths: are they found at all?", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "architecture.md names {path}, which does not exist");
    }
    for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(root().join("docs").join(link).exists(), "architecture.md links to {link}, which does not exist");
    }
}
