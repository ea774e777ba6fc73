//! What the peer manager wants to know after a restart, on disk: the address book, and the bans.
//!
//! A restarted node must find its network even if its only configured seed is gone, and must not forget whom it sent away.
//! Each file is replaced as a whole; a damaged one is worth no more than a missing one and is said and ignored. A line of the
//! book that makes no sense is left out, and the others count.

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

use crate::hex;

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

    /// The book; an empty one if there is no readable file.
    pub(crate) fn load_book(&self) -> SavedBook {
        load(&self.peers, read_book)
    }

    /// The bans; none if there is no readable file.
    pub(crate) fn load_bans(&self) -> Vec<Ban> {
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
pub(crate) fn read_book(text: &[u8]) -> serde_json::Result<SavedBook> {
    use serde::de::Error;
    let (key, values) = match serde_json::from_slice(text)? {
        serde_json::Value::Array(values) => (None, values),
        file => {
            let BookFile { version, key, peers } = serde_json::from_value(file)?;
            if version != BOOK_VERSION {
                return Err(Error::custom(format_args!("version {version}; this program reads {BOOK_VERSION}")));
            }
            let key = key.try_into().map_err(|_| Error::custom("a key has 32 bytes"))?;
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
pub(crate) fn read_bans(text: &[u8]) -> serde_json::Result<Vec<Ban>> {
    let subject = |line| match line {
        SubjectLine::Peer(peer) => Subject::Peer(peer),
        SubjectLine::Group(group) => Subject::Group(group),
    };
    let lines: Vec<BanLine> = serde_json::from_slice(text)?;
    let ban = |line: BanLine| Ban { subject: subject(line.subject), until: line.until_unix_ms, times: line.times };
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
    };
    serde_json::to_vec_pretty(&bans.iter().map(line).collect::<Vec<_>>())
}

fn load<T: Default>(path: &Path, read: impl FnOnce(&[u8]) -> serde_json::Result<T>) -> T {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return T::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read what was remembered; starting without");
            return T::default();
        }
    };
    read(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "what was remembered is damaged; starting without");
        T::default()
    })
}

/// Replaces a file: written beside it, then renamed over it.
fn save(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    // The book has a secret in it.
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u8) -> BookLine {
        let addrs = vec![([127, 0, 0, 1], 4000).into()];
        BookLine::good_once(KnownPeer { peer: NodeId::from_bytes([number; 32]), addrs })
    }

    #[test]
    fn peers_and_bans_come_back_and_a_damaged_file_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = PeerFiles::new(dir.path());
        assert_eq!((files.load_book(), files.load_bans()), (SavedBook::default(), vec![]));

        let line = BookLine {
            tried: false,
            last_good: Some(UnixMillis(9)),
            stayed: true,
            heard: UnixMillis(8),
            failures: 2,
            source: Some([8, 8, 8, 8].into()),
            stands_by: Some(([8, 8, 8, 9], 4000).into()),
            anchor: true,
            ..line(7)
        };
        files.save_book([3; 32], std::slice::from_ref(&line)).expect("a writable directory");
        assert_eq!(files.load_book(), SavedBook { key: Some([3; 32]), lines: vec![line] });

        let until = UnixMillis(5);
        let group = Subject::Group(Group::of([8, 8, 8, 8].into()));
        let bans = [
            Ban { subject: Subject::Peer(NodeId::from_bytes([7; 32])), until, times: 1 },
            Ban { subject: group, until, times: 2 },
        ];
        files.save_bans(&bans).expect("a writable directory");
        assert_eq!(files.load_bans(), bans);

        fs::write(dir.path().join("peers.json"), "[{").expect("a writable directory");
        assert_eq!(files.load_book(), SavedBook::default());
    }

    #[test]
    fn a_file_from_before_there_were_versions_is_read_as_peers_that_were_good() {
        let text = format!(r#"[{{"id":"{}","addrs":["127.0.0.1:4000"]}}]"#, "07".repeat(32));
        assert_eq!(read_book(text.as_bytes()).expect("valid"), SavedBook { key: None, lines: vec![line(7)] });
    }

    #[test]
    fn a_line_that_makes_no_sense_is_left_out_and_a_later_version_is_not_guessed_at() {
        let good = format!(r#"{{"id":"{}","addrs":["127.0.0.1:4000"]}}"#, "07".repeat(32));
        let crowded = format!(r#"{{"id":"{}","addrs":[{}]}}"#, "08".repeat(32), [r#""127.0.0.1:4000""#; 5].join(","));
        let bad = ["null", "{}", r#"{"id":"x","addrs":[]}"#, r#"{"id":7}"#, &crowded].join(",");
        let file = |version: u64| {
            let text = format!(r#"{{"version":{version},"key":"{}","peers":[{bad},{good}]}}"#, "03".repeat(32));
            read_book(text.as_bytes())
        };
        assert_eq!(file(1).expect("valid"), SavedBook { key: Some([3; 32]), lines: vec![line(7)] });
        let refused = file(2).expect_err("unknown").to_string();
        assert!(refused.contains("version 2"), "{refused}");
        read_book(br#"{"version":1,"key":"00","peers":[]}"#).expect_err("a short key");
    }
}
