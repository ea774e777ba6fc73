//! The genesis file: what all nodes of a network must agree on, as TOML.

use peerage_chain::proto::genesis::{Genesis, GenesisError, GenesisFile};
use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;

use crate::toml_file::{Schema, TomlError, TomlFile};

/// The keys of a genesis file.
pub(crate) const SCHEMA: Schema = &[
    ("", &["chain_id", "network", "producers", "ordering", "time", "block_interval_ms", "limits"]),
    ("limits", &["max_block_bytes", "max_tx_bytes", "mempool_bytes", "nonce_gap"]),
];

const HEADER: &str = "\
# Genesis of a Peerage network. Every node of the network needs the same one: its hash is the network's id, and nodes of
# different networks refuse each other.
";

/// A genesis that cannot be used. The operator's to mend; each says how.
#[derive(Debug, Error)]
pub enum GenesisFileError {
    /// There is none.
    #[error(
        "there is no genesis at {}: copy the one of the network you want to join there, or start a new network with \
         `peerage init` in an empty directory", .0.display()
    )]
    Missing(PathBuf),
    /// It cannot be read or understood.
    #[error(transparent)]
    File(#[from] TomlError),
    /// It is understood but makes no sense.
    #[error("{}:{line}: {error}; {}", .path.display(), remedy(.error))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        error: GenesisError,
    },
    /// It holds something that TOML cannot carry.
    #[error("the genesis cannot be written as TOML: {0}")]
    Unwritable(#[from] toml::ser::Error),
    /// There is one already. A genesis is not overwritten.
    #[error("{} exists already: a network's genesis never changes; use another directory for another network", .0.display())]
    Exists(PathBuf),
    /// The operating system refused.
    #[error("cannot write {}: {reason}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
}

/// The key to which an error belongs.
fn key(error: &GenesisError) -> String {
    match error {
        GenesisError::Name(_) => "network".to_owned(),
        GenesisError::ProducerCount(_)
        | GenesisError::ProducerKey(_)
        | GenesisError::DuplicateProducer(_)
        | GenesisError::SoloProducers(_) => "producers".to_owned(),
        GenesisError::Interval(_) => "block_interval_ms".to_owned(),
        GenesisError::Limit(name) => format!("limits.{name}"),
    }
}

fn remedy(error: &GenesisError) -> &'static str {
    match error {
        GenesisError::Name(_) => "give the network a short name",
        GenesisError::ProducerCount(_) => "list the public keys of the producers",
        GenesisError::ProducerKey(_) => "list public keys as `peerage key show FILE` prints them",
        GenesisError::DuplicateProducer(_) => "list each key once",
        GenesisError::SoloProducers(_) => "all other nodes follow it without being named",
        GenesisError::Interval(_) => "give it in milliseconds",
        GenesisError::Limit(_) => "leave the line out to get the default",
    }
}

/// Reads and checks a genesis file.
///
/// # Errors
/// [`GenesisFileError`], naming the line and the remedy.
pub fn load_genesis(path: &Path) -> Result<Genesis, GenesisFileError> {
    let file = match TomlFile::<GenesisFile>::load(path, SCHEMA) {
        Err(TomlError::Read { path, reason }) if reason.kind() == io::ErrorKind::NotFound => {
            return Err(GenesisFileError::Missing(path));
        }
        file => file?,
    };
    check(&file)
}

pub(crate) fn check(file: &TomlFile<GenesisFile>) -> Result<Genesis, GenesisFileError> {
    Genesis::new(&file.value).map_err(|error| GenesisFileError::Invalid {
        path: file.path().to_owned(),
        line: file.line(&key(&error)),
        error,
    })
}

/// Checks a genesis and writes it to a new file. It is on the disk when this returns.
///
/// # Errors
/// [`GenesisFileError`]; nothing is overwritten.
pub fn write_genesis(path: &Path, genesis: &GenesisFile) -> Result<Genesis, GenesisFileError> {
    let text = format!("{HEADER}{}", toml::to_string(genesis)?);
    // What is written must be what is read: checked on the way.
    let checked = check(&TomlFile::parse(path, text.clone(), SCHEMA)?)?;
    let write = |reason: io::Error| match reason.kind() {
        io::ErrorKind::AlreadyExists => GenesisFileError::Exists(path.to_owned()),
        _ => GenesisFileError::Write { path: path.to_owned(), reason },
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(write)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(write)?;
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_chain::proto::{genesis::Ordering, id::Producer};
    use peerage_core::UnixMillis;

    fn genesis() -> GenesisFile {
        GenesisFile::solo(7, "test", Producer([0xab; 32]), UnixMillis(1_700_000_000_000))
    }

    #[test]
    fn a_genesis_reads_back_what_was_written_and_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("genesis.toml");
        assert!(matches!(load_genesis(&path), Err(GenesisFileError::Missing(at)) if at == path));
        let written = write_genesis(&path, &genesis()).expect("valid");
        assert_eq!(load_genesis(&path).expect("valid"), written);
        assert!(matches!(write_genesis(&path, &genesis()), Err(GenesisFileError::Exists(_))));
        let largest = GenesisFile { chain_id: u64::MAX, ..genesis() };
        let path = dir.path().join("largest");
        let written = write_genesis(&path, &largest).expect("valid");
        assert_eq!(load_genesis(&path).expect("all 64 bits survive"), written);
    }

    #[test]
    fn one_producer_orders_whether_the_file_says_so_or_not() {
        let text = toml::to_string(&genesis()).expect("plain values");
        let parse = |text: String| TomlFile::parse(Path::new("g.toml"), text, SCHEMA).map_err(GenesisFileError::from);
        let said = parse(text.clone()).and_then(|file| check(&file)).expect("valid");
        assert!(text.contains("ordering = \"solo\"\n"), "{text}");
        let unsaid = parse(text.replace("ordering = \"solo\"\n", "")).and_then(|file| check(&file)).expect("valid");
        assert_eq!((unsaid.ordering(), unsaid.network_id()), (Ordering::Solo, said.network_id()));
        let error = parse(text.replace("\"solo\"", "\"duet\"")).expect_err("not known").to_string();
        assert!(error.contains("duet") && error.contains("`solo`"), "{error}");
    }

    #[test]
    fn an_error_names_the_line_and_the_remedy() {
        let keys = format!("producers = [\"{}\"]", "ab".repeat(32));
        let lines = |lines: &[&str]| {
            let text = lines.join("\n");
            let file = TomlFile::parse(Path::new("g.toml"), text, SCHEMA).map_err(GenesisFileError::from);
            file.and_then(|file| check(&file)).expect_err("must be refused").to_string()
        };
        let error = lines(&["chain_id = 1", "network = \"\"", &keys, "time = 0"]);
        assert_eq!(
            error,
            "g.toml:2: the network name has 0 bytes, 1 to 64 are permitted; give the network a short name"
        );
        let error = lines(&["chain_id = 1", "network = \"n\"", "producers = [\"x\"]", "time = 0"]);
        assert!(error.starts_with("g.toml:3: ") && error.contains("peerage key show"), "{error}");
        let two = format!("producers = [\"{}\", \"{}\"]", "ab".repeat(32), "cd".repeat(32));
        let error = lines(&["chain_id = 1", "network = \"n\"", "time = 0", &two]);
        assert!(error.starts_with("g.toml:4: 2 producers") && error.contains("name only the one"), "{error}");
        let error = lines(&["chain_id = 1", "network = \"n\"", &keys, "time = 0", "[limits]", "nonce_gap = 0"]);
        assert!(error.starts_with("g.toml:6: limit nonce_gap"), "{error}");
        let error = lines(&["chain_id = 1", "netwrok = \"n\"", &keys, "time = 0"]);
        assert_eq!(error, "g.toml:2: unknown key `netwrok`; did you mean `network`?");
        let error = lines(&["chain_id = 1", "network = \"n\"", &keys]);
        assert!(error.contains("time"), "{error}");
    }
}
