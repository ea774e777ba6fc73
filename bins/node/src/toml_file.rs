//! TOML files written by people: errors name the file, the line, the key, and the key that was probably meant.

use serde::de::DeserializeOwned;
use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::{Path, PathBuf},
};
use thiserror::Error;
use toml::de::DeTable;

/// More than any file that a person writes here. 1 MiB: our guess.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The keys of each table, by the table's dotted path; the root is `""`.
pub type Schema = &'static [(&'static str, &'static [&'static str])];

/// Why a file cannot be used. The operator's to mend.
#[derive(Debug, Error)]
pub enum TomlError {
    /// The operating system refused.
    #[error("cannot read {}: {reason}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
    /// Far too long for what it should be.
    #[error("{} is longer than {MAX_FILE_BYTES} bytes: is it the right file?", .0.display())]
    TooLong(PathBuf),
    /// A key that means nothing.
    #[error(
        "{}:{line}: unknown key `{key}`{}", .path.display(),
        .suggestion.map_or_else(|| ": remove it".to_owned(), |known| format!("; did you mean `{known}`?"))
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, with the path of its table.
        key: String,
        /// The nearest key that this table knows, if one is near.
        suggestion: Option<&'static str>,
    },
    /// Not TOML, or a value of the wrong kind.
    #[error("{}:{line}: {message}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

/// A file that was read and understood.
#[derive(Debug)]
pub struct TomlFile<T> {
    /// Its value.
    pub value: T,
    path: PathBuf,
    text: String,
}

impl<T: DeserializeOwned> TomlFile<T> {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TomlError`].
    pub fn load(path: &Path, schema: Schema) -> Result<Self, TomlError> {
        let read = |reason| TomlError::Read { path: path.to_owned(), reason };
        let mut text = String::new();
        File::open(path).map_err(read)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(read)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(TomlError::TooLong(path.to_owned()));
        }
        Self::parse(path, text, schema)
    }

    /// Understands the text of the file `path`.
    ///
    /// # Errors
    /// [`TomlError`].
    pub fn parse(path: &Path, text: String, schema: Schema) -> Result<Self, TomlError> {
        let invalid = |error: toml::de::Error| TomlError::Invalid {
            path: path.to_owned(),
            line: error.span().map_or(1, |span| line_of(&text, &span)),
            message: error.message().to_owned(),
        };
        let table = DeTable::parse(&text).map_err(invalid)?;
        if let Some((at, key, suggestion)) = unknown_key(table.get_ref(), "", schema) {
            return Err(TomlError::UnknownKey { path: path.to_owned(), line: line_of(&text, &at), key, suggestion });
        }
        let value = toml::from_str(&text).map_err(invalid)?;
        Ok(Self { value, path: path.to_owned(), text })
    }
}

impl<T> TomlFile<T> {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The line, from 1, on which a key stands, e.g. `limits.nonce_gap`; 1 if it is not there.
    pub fn line(&self, key: &str) -> usize {
        let Ok(table) = DeTable::parse(&self.text) else { return 1 };
        let mut table = table.get_ref();
        let mut line = 1;
        for part in key.split('.') {
            let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref().as_ref() == part) else { break };
            line = line_of(&self.text, &name.span());
            let Some(inner) = value.get_ref().as_table() else { break };
            table = inner;
        }
        line
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// The first unknown key: where it is, its path, and what was probably meant.
fn unknown_key(
    table: &DeTable<'_>,
    path: &str,
    schema: Schema,
) -> Option<(Range<usize>, String, Option<&'static str>)> {
    let known = schema.iter().find(|(name, _)| *name == path).map(|(_, keys)| *keys)?;
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    keys.into_iter().find_map(|(key, value)| {
        let name = key.get_ref().as_ref();
        let inner = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if !known.contains(&name) {
            return Some((key.span(), inner, nearest(name, known)));
        }
        unknown_key(value.get_ref().as_table()?, &inner, schema)
    })
}

/// The candidate that differs least from `word`, if it is a third of the letters at most.
pub fn nearest(word: &str, candidates: &[&'static str]) -> Option<&'static str> {
    let best = candidates.iter().map(|candidate| (distance(word, candidate), *candidate)).min()?;
    (best.0 <= 1.max(word.chars().count().min(64) / 3)).then_some(best.1)
}

/// Edit distance with swaps of neighbours (optimal string alignment; Damerau 1964), of the first 64 letters.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = substituted.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant_and_nonsense_finds_none() {
        let known = ["listen", "advertise", "target_peers", "max_peers"];
        assert_eq!(nearest("lisetn", &known), Some("listen"));
        assert_eq!(nearest("target-peers", &known), Some("target_peers"));
        assert_eq!(nearest("max_peer", &known), Some("max_peers"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!((distance("", "abc"), distance("ab", "ba"), distance("kitten", "sitting")), (3, 1, 3));
    }
}
