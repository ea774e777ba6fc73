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

/// The numbers of parts 6.2 and 6.3 are what a node takes of others: whoever writes another peer finds them in `chain.md`.
#[test]
fn each_limit_of_the_chain_stands_in_its_document() {
    let page = rows(&page());
    let found = |section: &str, name: &str| -> Vec<String> {
        let here = page.iter().filter(|(heading, _)| heading.split(' ').next() == Some(section));
        here.filter(|(_, cells)| quoted(&cells[2]).nth(1) == Some(name)).map(|(_, cells)| cells[1].clone()).collect()
    };
    let (mut wrong, mut listed) = (Vec::new(), BTreeSet::new());
    let document = rows(&read(&root().join("docs/protocol/chain.md")));
    for (_, cells) in document.iter().filter(|(heading, _)| heading.ends_with(". Limits")) {
        let [limit, value, _, parameter] = &cells[..] else { panic!("a row of {} cells: {cells:?}", cells.len()) };
        let (section, name) = (parameter.split(' ').next().unwrap_or_default(), quoted(parameter).next());
        let name = name.unwrap_or_else(|| panic!("{limit}: no parameter"));
        listed.insert((section.to_owned(), name.to_owned()));
        let values = found(section, name);
        let said = written(value);
        if said.is_none() || values.is_empty() || values.iter().any(|value| written(value) != said) {
            wrong.push(format!("{limit}: {value}, and {name} of {section} in parameters.md is {values:?}"));
        }
    }
    assert!(wrong.is_empty(), "chain.md says otherwise than parameters.md: {wrong:#?}");
    for (heading, cells) in &page {
        let section = heading.split(' ').next().unwrap_or_default();
        if let Some(name) = quoted(&cells[2]).nth(1).filter(|_| ["6.2", "6.3"].contains(&section)) {
            assert!(listed.contains(&(section.into(), name.into())), "chain.md does not list {name} of {section}");
        }
    }
}

/// Constants that limit something have a number and no name of their own in the protocol: none may be forgotten in the table.
fn constants_without_a_parameter(dir: &str, is_limit: impl Fn(&str, &str) -> bool) -> (usize, Vec<String>) {
    let (page, mut seen, mut missing) = (page(), 0, Vec::new());
    for path in rust_files(dir).into_iter().filter(|path| !path.contains("/tests")) {
        let text = read(&root().join(&path));
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for line in code.lines() {
            let Some((_, rest)) =
                line.split_once("const ").filter(|(before, _)| ["", "pub(super) ", "pub(crate) "].contains(before))
            else {
                continue;
            };
            let Some((name, kind)) = rest.split_once(": ").filter(|(name, _)| *name != "_") else { continue };
            let is_number = ["u32", "u64", "usize", "Duration"].iter().any(|number| kind.starts_with(number));
            if is_number && is_limit(&path, name) {
                seen += 1;
                let stands_as = path.strip_prefix("crates/").unwrap_or(&path).replace("/src/", "/");
                if !page.contains(&format!("`{stands_as}` `{name}`")) {
                    missing.push(format!("{path}: {name}"));
                }
            }
        }
    }
    (seen, missing)
}

#[test]
fn each_constant_of_the_chain_has_a_parameter() {
    // Not limits: what is derived from others, and formats, whose numbers stand in the document.
    let exempt = ["MAX_PUSH_BYTES", "MAX_BATCH_HEAD_BYTES", "MAX_SUMMARY_BYTES", "MAX_REQUEST_BYTES"];
    let formats = ["block", "genesis", "id", "transaction"].map(|file| format!("crates/chain/src/proto/{file}.rs"));
    let is_limit = |path: &str, name: &str| {
        !path.contains("/state/") && !formats.iter().any(|format| format == path) && !exempt.contains(&name)
    };
    let (seen, missing) = constants_without_a_parameter("crates/chain/src/proto", is_limit);
    assert!(missing.is_empty(), "parameters.md does not name {missing:#?}");
    assert!(seen > 25, "{seen} constants: are they found at all?");
}

#[test]
fn each_constant_of_the_peer_manager_has_a_parameter() {
    // SCALE is a unit.
    let is_limit = |_: &str, name: &str| name != "SCALE";
    let (seen, missing) = constants_without_a_parameter("crates/transport/src/proto/peer_manager", is_limit);
    assert!(missing.is_empty(), "parameters.md does not name {missing:#?}");
    assert!(seen > 45, "{seen} constants: are they found at all?");
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
