//! Rules have numbers, and each names tests.

use std::fs;

use crate::document::{DOCUMENTS, has_must, root, rules};

#[test]
fn each_rule_says_must_and_names_its_tests() {
    for rule in DOCUMENTS.into_iter().flat_map(rules) {
        assert!(has_must(&rule.text), "{}: a numbered rule without MUST", rule.place);
        assert!(!rule.tests.is_empty(), "{}: no test holds this rule", rule.place);
    }
}

#[test]
fn numbers_are_those_of_the_sections_and_ascend_by_one() {
    for document in DOCUMENTS {
        let (mut last, mut count) = ((0, 0), 0);
        for rule in rules(document) {
            assert_eq!(rule.document, document);
            assert_eq!(rule.section, rule.under, "{}: it stands in another section", rule.place);
            let expected = if rule.section == last.0 { last.1 + 1 } else { 1 };
            assert!(rule.section >= last.0 && rule.number == expected, "{}: number out of order", rule.place);
            last = (rule.section, rule.number);
            count += 1;
        }
        assert!(count > 5, "{document}.md has {count} rules: is it read at all?");
    }
}

#[test]
fn the_glossary_is_alphabetical_and_brief() {
    let text = fs::read_to_string(root().join("docs/glossary.md")).expect("the glossary is there");
    let entries: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- **")).collect();
    assert!(entries.len() > 50, "{} entries: is it read at all?", entries.len());
    let term =
        |entry: &str| entry.split_once("**: ").map(|(term, _)| term.to_lowercase()).expect("a term and its meaning");
    for pair in entries.windows(2) {
        assert!(term(pair[0]) < term(pair[1]), "{} before {}", term(pair[0]), term(pair[1]));
    }
    assert!(entries.iter().all(|entry| entry.len() < 200), "a line or two each");
}
