//! The live connections of a node, as handles see them.

use core::net::SocketAddr;
use dashmap::DashMap;
use peerage_core::{Account, ConnectionCommand, LinkId, NodeId};
use std::sync::Arc;

use super::mailbox::Post;

/// What is needed to look at a connection, or to end it, from outside its task.
#[derive(Clone, Debug)]
pub(super) struct LinkHandle {
    pub(super) remote: SocketAddr,
    pub(super) outbound: bool,
    /// Set once the other side has proved itself.
    pub(super) peer: Option<NodeId>,
    pub(super) account: Account,
    pub(super) post: Arc<Post>,
}

/// A connection as seen from outside, for status pages.
#[derive(Clone, Debug)]
pub struct LinkReport {
    /// The connection.
    pub link: LinkId,
    /// The address of the other end.
    pub remote: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// Who is there; `None` while the handshake lasts.
    pub peer: Option<NodeId>,
    /// Bytes that wait for it.
    pub owed: usize,
}

/// All live connections, until their tasks are over. Read by handles, written by the stack task; a guard never lives over
/// an `.await`.
#[derive(Debug, Default)]
pub(super) struct Registry(DashMap<LinkId, LinkHandle>);

impl Registry {
    pub(super) fn insert(&self, link: LinkId, handle: LinkHandle) {
        self.0.insert(link, handle);
    }

    pub(super) fn established(&self, link: LinkId, peer: NodeId) {
        if let Some(mut handle) = self.0.get_mut(&link) {
            handle.peer = Some(peer);
        }
    }

    pub(super) fn remove(&self, link: LinkId) {
        self.0.remove(&link);
    }

    pub(super) fn command(&self, link: LinkId, command: ConnectionCommand) {
        if let Some(handle) = self.0.get(&link) {
            handle.post.put(&mut vec![command]);
        }
    }

    pub(super) fn command_all(&self, mut command: impl FnMut() -> ConnectionCommand) {
        for handle in &self.0 {
            handle.post.put(&mut vec![command()]);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn report(&self) -> Vec<LinkReport> {
        let mut links: Vec<_> = self
            .0
            .iter()
            .map(|entry| {
                let (link, handle) = entry.pair();
                LinkReport {
                    link: *link,
                    remote: handle.remote,
                    outbound: handle.outbound,
                    peer: handle.peer,
                    owed: handle.account.owed(),
                }
            })
            .collect();
        links.sort_by_key(|link| link.link);
        links
    }
}
