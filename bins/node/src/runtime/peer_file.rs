//! The peers to come back to, on disk.
//!
//! A restarted node must find its network even if its only configured seed is gone. The file is replaced as a whole; a
//! damaged one is worth no more than a missing one and is said and ignored.

use core::net::SocketAddr;
use peerage_core::NodeId;
use peerage_transport::proto::peer_manager::KnownPeer;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::hex;

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(with = "hex::text")]
    id: NodeId,
    addrs: Vec<SocketAddr>,
}

/// The file of remembered peers in a data directory.
#[derive(Clone, Debug)]
pub(crate) struct PeerFile(PathBuf);

impl PeerFile {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self(data_dir.join("peers.json"))
    }

    /// The remembered peers; none if there is no readable file.
    pub(crate) fn load(&self) -> Vec<KnownPeer> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "cannot read the remembered peers; starting without");
                return Vec::new();
            }
        };
        match serde_json::from_slice::<Vec<Line>>(&text) {
            Ok(lines) => lines.into_iter().map(|line| KnownPeer { peer: line.id, addrs: line.addrs }).collect(),
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "the remembered peers are damaged; starting without");
                Vec::new()
            }
        }
    }

    /// Replaces the file: written beside it, then renamed over it.
    pub(crate) fn save(&self, peers: &[KnownPeer]) -> io::Result<()> {
        let lines: Vec<_> = peers.iter().map(|known| Line { id: known.peer, addrs: known.addrs.clone() }).collect();
        let beside = self.0.with_extension("json.new");
        let mut file = fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(&lines)?)?;
        file.sync_all()?;
        fs::rename(&beside, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_peers_come_back_and_a_damaged_file_counts_as_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = PeerFile::new(dir.path());
        assert_eq!(file.load(), []);
        let known = KnownPeer { peer: NodeId::from_bytes([7; 32]), addrs: vec![([127, 0, 0, 1], 4000).into()] };
        file.save(std::slice::from_ref(&known)).expect("a writable directory");
        assert_eq!(file.load(), [known]);
        fs::write(dir.path().join("peers.json"), "[{").expect("a writable directory");
        assert_eq!(file.load(), []);
    }
}
