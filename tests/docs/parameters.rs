//! The numbers and where they come from.

use std::collections::BTreeSet;

use crate::{
    number::{Code, defined, written},
    quoted, read, root, rows, rust_files,
};

fn page() -> String {
    read(&root().join("docs/parameters.md"))
}

/// The sections that can be cited: `N.M` of each heading of the third level.
fn sections() -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for line in page().lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            let number = heading.split(' ').next().and_then(section);
            found.push(number.unwrap_or_else(|| panic!("a section without a number: {heading}")));
        }
    }
    found
}

/// `N.M`, whatever follows.
fn section(text: &str) -> Option<(u32, u32)> {
    let (part, rest) = text.split_once('.')?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    Some((part.parse().ok()?, rest[..digits].parse().ok()?))
}

/// `transport/proto/x.rs` of the tables, from the root.
fn source(path: &str) -> String {
    let (layer, rest) = path.split_once('/').unwrap_or_else(|| panic!("{path} names no layer"));
    if layer == "node" { format!("bins/node/src/{rest}") } else { format!("crates/{layer}/src/{rest}") }
}

#[test]
fn sections_have_numbers_that_ascend_by_one() {
    let mut last = (0, 0);
    for (part, number) in sections() {
        let expected = if part == last.0 { (part, last.1 + 1) } else { (last.0 + 1, 1) };
        assert_eq!((part, number), expected, "parameters.md: section out of order");
        last = (part, number);
    }
    assert!(last.0 > 3, "parameters.md ends with part {}: is it read at all?", last.0);
}

#[test]
fn each_value_is_the_one_in_the_code() {
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (heading, cells) in rows(&page()) {
        let [parameter, value, code, origin] = &cells[..] else { panic!("{heading}: a row of {} cells", cells.len()) };
        assert!(!origin.is_empty(), "{heading}: {parameter} has no origin");
        let mut words = quoted(code);
        let path = source(words.next().unwrap_or_else(|| panic!("{heading}: {parameter} names no file")));
        assert!(root().join(&path).is_file(), "{heading}: {parameter}: there is no {path}");
        let Some(name) = words.next() else { continue };
        let text = read(&root().join(&path));
        if !value.starts_with(|c: char| c.is_ascii_digit()) {
            let here = text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == name);
            assert!(here, "{heading}: {parameter}: there is no {name} in {path}");
            continue;
        }
        let said = written(value).unwrap_or_else(|| panic!("{heading}: {parameter}: {value} is no number"));
        let end = path.find("/src/").map_or(0, |at| at + "/src".len());
        let rest: String = rust_files(&path[..end]).iter().map(|path| read(&root().join(path))).collect();
        let found = defined(Code { file: &text, rest: &rest }, name);
        compared += 1;
        if !found.contains(&said) {
            wrong.push(format!("{heading}: {parameter}: {value} is {said:?}, {name} in {path} is {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "parameters.md is not what the code says: {wrong:#?}");
    assert!(compared > 80, "{compared} numbers compared: are they found at all?");
}

/// The text of a file's comments, lines joined; what stands in its code is left out.
fn comments(text: &str) -> String {
    let comment = |line: &str| {
        let at = line.find("//")?;
        Some(line[at..].trim_start_matches(['/', '!']).trim().to_owned())
    };
    text.lines().filter_map(comment).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_citation_in_the_code_names_a_section() {
    let sections: BTreeSet<_> = sections().into_iter().collect();
    let (mut wrong, mut cited) = (Vec::new(), 0);
    let files = ["crates", "bins", "tests"].into_iter().flat_map(rust_files);
    for path in files.filter(|path| !path.starts_with("tests/docs/")) {
        let text = comments(&read(&root().join(&path)));
        for (at, word) in text.match_indices("parameters") {
            let after = &text[at + word.len()..];
            let number = after.strip_prefix(", ").filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            match number {
                Some(number) if section(number).is_some_and(|number| sections.contains(&number)) => cited += 1,
                None if !text[..at].ends_with('(') => {} // the word, not the page
                _ => wrong.push(format!("{path}: parameters{}", after.chars().take(12).collect::<String>())),
            }
        }
        // Sources that a reader of this repository does not have.
        for private in ["design decision", "protocol research", "protocol notes", "Decisions, \"", "architecture, \""] {
            if text.contains(private) {
                wrong.push(format!("{path}: {private}"));
            }
        }
    }
    assert!(wrong.is_empty(), "citations that lead nowhere: {wrong:#?}");
    assert!(cited > 30, "{cited} citations: are they found at all?");
}

#[test]
fn each_link_leads_somewhere() {
    for link in page().split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        assert!(root().join("docs").join(link).exists(), "parameters.md links to {link}, which does not exist");
    }
}
