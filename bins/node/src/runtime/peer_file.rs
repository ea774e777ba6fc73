//! What the peer manager wants to know after a restart, on disk: the peers to come back to, and the bans.
//!
//! A restarted node must find its network even if its only configured seed is gone, and must not forget whom it sent away.
//! Each file is replaced as a whole; a damaged one is worth no more than a missing one and is said and ignored.

use core::net::SocketAddr;
use peerage_core::{NodeId, UnixMillis};
use peerage_transport::proto::{
    admission::Group,
    peer_manager::{Ban, KnownPeer, Subject},
};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::hex;

#[derive(Serialize, Deserialize)]
struct PeerLine {
    #[serde(with = "hex::text")]
    id: NodeId,
    addrs: Vec<SocketAddr>,
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

    /// The remembered peers; none if there is no readable file.
    pub(crate) fn load_peers(&self) -> Vec<KnownPeer> {
        load(&self.peers, read_peers)
    }

    /// The bans; none if there is no readable file.
    pub(crate) fn load_bans(&self) -> Vec<Ban> {
        load(&self.bans, read_bans)
    }

    pub(crate) fn save_peers(&self, peers: &[KnownPeer]) -> io::Result<()> {
        save(&self.peers, &write_peers(peers)?)
    }

    pub(crate) fn save_bans(&self, bans: &[Ban]) -> io::Result<()> {
        save(&self.bans, &write_bans(bans)?)
    }
}

/// The peers in the text of a `peers.json`.
pub(crate) fn read_peers(text: &[u8]) -> serde_json::Result<Vec<KnownPeer>> {
    let lines: Vec<PeerLine> = serde_json::from_slice(text)?;
    Ok(lines.into_iter().map(|line| KnownPeer { peer: line.id, addrs: line.addrs }).collect())
}

/// The text of a `peers.json`.
pub(crate) fn write_peers(peers: &[KnownPeer]) -> serde_json::Result<Vec<u8>> {
    let line = |known: &KnownPeer| PeerLine { id: known.peer, addrs: known.addrs.clone() };
    serde_json::to_vec_pretty(&peers.iter().map(line).collect::<Vec<_>>())
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

fn load<T>(path: &Path, read: impl FnOnce(&[u8]) -> serde_json::Result<Vec<T>>) -> Vec<T> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot read what was remembered; starting without");
            return Vec::new();
        }
    };
    read(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "what was remembered is damaged; starting without");
        Vec::new()
    })
}

/// Replaces a file: written beside it, then renamed over it.
fn save(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_bans_come_back_and_a_damaged_file_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = PeerFiles::new(dir.path());
        assert_eq!((files.load_peers(), files.load_bans()), (vec![], vec![]));

        let known = KnownPeer { peer: NodeId::from_bytes([7; 32]), addrs: vec![([127, 0, 0, 1], 4000).into()] };
        files.save_peers(std::slice::from_ref(&known)).expect("a writable directory");
        assert_eq!(files.load_peers(), [known]);

        let until = UnixMillis(5);
        let group = Subject::Group(Group::of([8, 8, 8, 8].into()));
        let bans = [
            Ban { subject: Subject::Peer(NodeId::from_bytes([7; 32])), until, times: 1 },
            Ban { subject: group, until, times: 2 },
        ];
        files.save_bans(&bans).expect("a writable directory");
        assert_eq!(files.load_bans(), bans);

        fs::write(dir.path().join("peers.json"), "[{").expect("a writable directory");
        assert_eq!(files.load_peers(), []);
    }
}
