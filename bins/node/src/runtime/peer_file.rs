//! What the peer manager wants to know after a restart, on disk: the address book, and the bans.
//!
//! A restarted node must find its network even if its only configured seed is gone, and must not forget whom it sent away.
//! Each file is replaced as a whole, so what could not be read must be out of the way before: a damaged one is worth no more than
//! a missing one and is put aside; one of a later version, or one that the system does not let us read now, ends the start and
//! stays. A line of the book that makes no sense is left out, and the others count.

use core::net::{IpAddr, SocketAddr};
use peerage_core::{NodeId, UnixMillis};
use peerage_transport::proto::{
    admission::Group,
    peer_manager::{Ban, BookLine, KnownPeer, Subject},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::hex;

/// A file of the peer manager because of which a node does not start; it stays as it is. The operator's to mend.
#[derive(Debug, Error)]
pub enum PeerFileError {
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}; see to it, or move the file away: it is only what the node remembers of its peers", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
    /// A later program wrote it.
    #[error(
        "{} has version {version}, which this program does not know: run the later program that wrote it, or move the file away: \
         it is only what the node remembers of its peers",
        .path.display()
    )]
    Later {
        /// Which file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
}

/// Why the text of such a file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum Unreadable {
    /// A later program wrote it, of this version.
    #[error("version {0}")]
    Later(u64),
    /// It is not what any program wrote.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
}

/// The version of `peers.json` that is written. A file of an earlier one, which was a list of peers that were good once, is
/// read too.
const BOOK_VERSION: u64 = 1;
/// Addresses of one peer that are read: what a signed record carries.
const MOST_ADDRS: usize = 4;

/// The address book as a file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SavedBook {
    /// The secret that says where a peer stands in the book; `None` if the file has none.
    pub(crate) key: Option<[u8; 32]>,
    /// The peers.
    pub(crate) lines: Vec<BookLine>,
}

#[derive(Serialize, Deserialize)]
struct BookFile {
    version: u64,
    #[serde(with = "hex::bytes")]
    key: Vec<u8>,
    peers: Vec<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct PeerLine {
    #[serde(with = "hex::text")]
    id: NodeId,
    addrs: Vec<SocketAddr>,
    /// Files without a version have only peers that were good.
    #[serde(default = "yes")]
    tried: bool,
    #[serde(default)]
    last_good_unix_ms: Option<UnixMillis>,
    #[serde(default)]
    stayed: bool,
    #[serde(default = "unknown")]
    heard_unix_ms: UnixMillis,
    #[serde(default)]
    failures: u32,
    #[serde(default)]
    source: Option<IpAddr>,
    #[serde(default)]
    stands_by: Option<SocketAddr>,
    #[serde(default)]
    anchor: bool,
}

const fn yes() -> bool {
    true
}

const fn unknown() -> UnixMillis {
    UnixMillis(0)
}

/// One ban: of an identity or of a group of addresses.
#[derive(Serialize, Deserialize)]
struct BanLine {
    #[serde(flatten)]
    subject: SubjectLine,
    until_unix_ms: UnixMillis,
    times: u32,
    /// Earlier programs did not say.
    #[serde(default)]
    by_hand: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubjectLine {
    Peer(#[serde(with = "hex::text")] NodeId),
    Group(#[serde(with = "hex::text")] Group),
}

/// The files of the peer manager in a data directory.
#[derive(Clone, Debug)]
pub(crate) struct PeerFiles {
    peers: PathBuf,
    bans: PathBuf,
}

impl PeerFiles {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { peers: data_dir.join("peers.json"), bans: data_dir.join("bans.json") }
    }

    /// The book; an empty one if there is no file, or a damaged one, which is put aside.
    pub(crate) fn load_book(&self) -> Result<SavedBook, PeerFileError> {
        load(&self.peers, read_book)
    }

    /// The bans; none if there is no file, or a damaged one, which is put aside.
    pub(crate) fn load_bans(&self) -> Result<Vec<Ban>, PeerFileError> {
        load(&self.bans, read_bans)
    }

    pub(crate) fn save_book(&self, key: [u8; 32], lines: &[BookLine]) -> io::Result<()> {
        save(&self.peers, &write_book(key, lines)?)
    }

    pub(crate) fn save_bans(&self, bans: &[Ban]) -> io::Result<()> {
        save(&self.bans, &write_bans(bans)?)
    }
}

/// The book in the text of a `peers.json`.
pub(crate) fn read_book(text: &[u8]) -> Result<SavedBook, Unreadable> {
    use serde::de::Error;
    let (key, values) = match serde_json::from_slice(text)? {
        serde_json::Value::Array(values) => (None, values),
        file => {
            refuse_later(&file, BOOK_VERSION)?;
            let BookFile { version, key, peers } = serde_json::from_value(file)?;
            if version != BOOK_VERSION {
                return Err(serde_json::Error::custom(format_args!("no program wrote version {version}")).into());
            }
            let key = key.try_into().map_err(|_| serde_json::Error::custom("a key has 32 bytes"))?;
            (Some(key), peers)
        }
    };
    let total = values.len();
    let line = |value| serde_json::from_value::<PeerLine>(value).ok().filter(|line| line.addrs.len() <= MOST_ADDRS);
    let lines: Vec<_> = values.into_iter().filter_map(line).map(book_line).collect();
    if lines.len() < total {
        tracing::warn!(left_out = total - lines.len(), "some peers of peers.json make no sense");
    }
    Ok(SavedBook { key, lines })
}

fn book_line(line: PeerLine) -> BookLine {
    BookLine {
        known: KnownPeer { peer: line.id, addrs: line.addrs },
        tried: line.tried,
        last_good: line.last_good_unix_ms,
        stayed: line.stayed,
        heard: line.heard_unix_ms,
        failures: line.failures,
        source: line.source,
        stands_by: line.stands_by,
        anchor: line.anchor,
    }
}

/// The text of a `peers.json`.
pub(crate) fn write_book(key: [u8; 32], lines: &[BookLine]) -> serde_json::Result<Vec<u8>> {
    let line = |line: &BookLine| {
        serde_json::to_value(PeerLine {
            id: line.known.peer,
            addrs: line.known.addrs.clone(),
            tried: line.tried,
            last_good_unix_ms: line.last_good,
            stayed: line.stayed,
            heard_unix_ms: line.heard,
            failures: line.failures,
            source: line.source,
            stands_by: line.stands_by,
            anchor: line.anchor,
        })
    };
    let peers = lines.iter().map(line).collect::<serde_json::Result<_>>()?;
    serde_json::to_vec_pretty(&BookFile { version: BOOK_VERSION, key: key.to_vec(), peers })
}

/// The bans in the text of a `bans.json`.
pub(crate) fn read_bans(text: &[u8]) -> Result<Vec<Ban>, Unreadable> {
    let subject = |line| match line {
        SubjectLine::Peer(peer) => Subject::Peer(peer),
        SubjectLine::Group(group) => Subject::Group(group),
    };
    let file = serde_json::from_slice(text)?;
    refuse_later(&file, 0)?; // there is no version of it yet
    let lines: Vec<BanLine> = serde_json::from_value(file)?;
    let ban = |line: BanLine| Ban {
        subject: subject(line.subject),
        until: line.until_unix_ms,
        times: line.times,
        by_hand: line.by_hand,
    };
    Ok(lines.into_iter().map(ban).collect())
}

/// The text of a `bans.json`.
pub(crate) fn write_bans(bans: &[Ban]) -> serde_json::Result<Vec<u8>> {
    let line = |ban: &Ban| BanLine {
        subject: match ban.subject {
            Subject::Peer(peer) => SubjectLine::Peer(peer),
            Subject::Group(group) => SubjectLine::Group(group),
        },
        until_unix_ms: ban.until,
        times: ban.times,
        by_hand: ban.by_hand,
    };
    serde_json::to_vec_pretty(&bans.iter().map(line).collect::<Vec<_>>())
}

fn refuse_later(file: &serde_json::Value, known: u64) -> Result<(), Unreadable> {
    match file.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > known => Err(Unreadable::Later(version)),
        _ => Ok(()),
    }
}

fn load<T: Default>(path: &Path, read: impl FnOnce(&[u8]) -> Result<T, Unreadable>) -> Result<T, PeerFileError> {
    let failed = |action| move |reason| PeerFileError::Io { action, path: path.to_owned(), reason };
    let text = match fs::read(path) {
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        text => text.map_err(failed("read"))?,
    };
    match read(&text) {
        Ok(read) => Ok(read),
        Err(Unreadable::Later(version)) => Err(PeerFileError::Later { path: path.to_owned(), version }),
        Err(Unreadable::Damaged(error)) => {
            let aside = path.with_extension("json.bad");
            fs::rename(path, &aside).map_err(failed("put aside"))?;
            tracing::warn!(
                path = %path.display(), aside = %aside.display(), %error,
                "what was remembered is damaged and was put aside; starting without"
            );
            Ok(T::default())
        }
    }
}

/// Replaces a file: written beside it, then renamed over it.
fn save(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    // The book has a secret in it, and a file that is there keeps the mode that it has.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests;
