//! Reading `docs/protocol`: rules, tables, vectors.

use std::{env, fs, path::PathBuf};

/// The documents, by their names without `.md`.
pub(crate) const DOCUMENTS: [&str; 5] = ["wire", "transport", "discovery", "gossip", "chain"];

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn path(document: &str) -> PathBuf {
    root().join("docs/protocol").join(document).with_extension("md")
}

pub(crate) fn read(document: &str) -> String {
    let path = path(document);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A test that a rule names: `package/target/name`, the target `lib` for unit tests of a library.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reference {
    pub(crate) package: String,
    pub(crate) target: String,
    pub(crate) name: String,
}

/// A numbered rule: a paragraph that begins with its name in bold and ends with its tests.
#[derive(Debug)]
pub(crate) struct Rule {
    /// Where it stands, for messages: `wire.md:17`.
    pub(crate) place: String,
    pub(crate) document: String,
    pub(crate) section: u32,
    pub(crate) number: u32,
    /// Section of the heading above it.
    pub(crate) under: u32,
    pub(crate) text: String,
    pub(crate) tests: Vec<Reference>,
}

/// A paragraph outside code blocks, with its first line's number and the section above it.
struct Paragraph {
    line: usize,
    section: u32,
    text: String,
}

fn paragraphs(text: &str) -> Vec<Paragraph> {
    let (mut found, mut section, mut fenced, mut open) = (Vec::<Paragraph>::new(), 0, false, false);
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            fenced = !fenced;
            open = false;
        } else if fenced || line.trim().is_empty() {
            open = false;
        } else if let Some(heading) = line.strip_prefix("## ") {
            let number = heading.split('.').next().and_then(|number| number.parse().ok());
            section = number.unwrap_or_else(|| panic!("line {}: a section without a number: {line}", index + 1));
            open = false;
        } else if open {
            let last = found.last_mut().expect("open");
            last.text.push(' ');
            last.text.push_str(line.trim());
        } else {
            found.push(Paragraph { line: index + 1, section, text: line.trim().into() });
            open = true;
        }
    }
    found
}

/// The rules of a document. A `MUST` or a test outside a rule, and a rule that is not well formed, are mistakes.
pub(crate) fn rules(document: &str) -> Vec<Rule> {
    let mut rules = Vec::new();
    for Paragraph { line, section, text } in paragraphs(&read(document)) {
        let place = format!("{document}.md:{line}");
        let bold = text.strip_prefix("**").and_then(|rest| rest.split_once("**"));
        let name = bold.and_then(|(name, rest)| Some((name.strip_prefix(document)?.trim().split_once('.')?, rest)));
        let Some(((major, minor), rest)) = name else {
            assert!(!has_must(&text), "{place}: MUST outside a numbered rule: {text}");
            assert!(!text.contains("[test:"), "{place}: a test outside a numbered rule: {text}");
            continue;
        };
        let digits = |part: &str| part.parse().unwrap_or_else(|_| panic!("{place}: no number: {part}"));
        let begin = rest.find("[test:").unwrap_or(rest.len());
        let (text, tests) = rest.split_at(begin);
        rules.push(Rule {
            under: section,
            document: document.into(),
            section: digits(major),
            number: digits(minor),
            text: text.trim().into(),
            tests: tests
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .split_inclusive(']')
                .map(|one| reference(&place, one))
                .collect(),
            place,
        });
    }
    rules
}

fn reference(place: &str, text: &str) -> Reference {
    let inner = text.trim().strip_prefix("[test: ").and_then(|rest| rest.strip_suffix(']'));
    let parts: Vec<&str> = inner.map(|inner| inner.splitn(3, '/').collect()).unwrap_or_default();
    let [package, target, name] = parts[..] else { panic!("{place}: no [test: package/target/name]: {text}") };
    Reference { package: package.into(), target: target.into(), name: name.into() }
}

pub(crate) fn has_must(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "MUST")
}

/// The cells of each row of the tables whose header begins with these cells.
pub(crate) fn table(document: &str, header: &[&str]) -> Vec<Vec<String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').into()).collect()
    };
    let (text, mut rows, mut inside) = (read(document), Vec::new(), false);
    for line in text.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if inside {
            rows.push(cells(line));
        } else {
            inside = cells(line).iter().zip(header).filter(|(cell, wanted)| cell == wanted).count() == header.len();
        }
    }
    rows.retain(|row| !row[0].starts_with("---") && !row[0].starts_with(":-"));
    rows
}

/// The text of the one block of this language in a document.
pub(crate) fn block(document: &str, language: &str) -> String {
    let (text, begin) = (read(document), format!("```{language}\n"));
    let mut parts = text.split(&begin);
    let (Some(_), Some(rest), None) = (parts.next(), parts.next(), parts.next()) else {
        panic!("{document}.md: not one block of {language}")
    };
    rest.split_once("```").expect("a block ends").0.into()
}

/// A block of test vectors: lines of `key = value`, long values in hexadecimal on lines of their own.
pub(crate) struct Vector {
    name: &'static str,
    lines: String,
}

impl Vector {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, lines: String::new() }
    }

    pub(crate) fn text(mut self, key: &str, value: impl core::fmt::Display) -> Self {
        self.lines.push_str(&format!("{key} = {value}\n"));
        self
    }

    pub(crate) fn hex(self, key: &str, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match bytes.len() {
            0 => self.text(key, "(nothing)"),
            1..=32 => self.text(key, digits(bytes)),
            _ => {
                let mut this = self;
                this.lines.push_str(&format!("{key} =\n"));
                bytes.chunks(32).for_each(|chunk| this.lines.push_str(&format!("  {}\n", digits(chunk))));
                this
            }
        }
    }
}

/// Compares all vectors of a document with what was computed; with `BLESS` set writes them instead.
pub(crate) fn hold(document: &str, vectors: &[Vector]) {
    let text = read(document);
    let (mut written, mut seen, mut rest) = (String::new(), Vec::new(), text.as_str());
    const BEGIN: &str = "```text vector:";
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, block) = after.split_once('\n').expect("the name ends with its line");
        let (old, behind) = block.split_once("```").expect("a block ends");
        let vector = vectors.iter().find(|vector| vector.name == name);
        let vector = vector.unwrap_or_else(|| panic!("{document}.md: nothing computes the vector {name}"));
        if env::var_os("BLESS").is_none() {
            assert_eq!(old, vector.lines, "{document}.md: vector {name} is not what the code writes");
        }
        written.push_str(&format!("{before}{BEGIN}{name}\n{}```", vector.lines));
        seen.push(name);
        rest = behind;
    }
    written.push_str(rest);
    let names: Vec<_> = vectors.iter().map(|vector| vector.name).collect();
    assert_eq!(seen, names, "{document}.md: its vectors, in order");
    if env::var_os("BLESS").is_some() {
        fs::write(path(document), written).expect("the documents are writable");
    }
}
