//! The live connections of a node, as handles see them.

use core::net::SocketAddr;
use peerage_core::{Account, ConnectionCommand, LinkId, NodeId};
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

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

/// All live connections, until their tasks are over. Written by the stack task, once or twice in the life of a connection, and
/// read by handles: one lock is enough. A guard never lives over an `.await`.
#[derive(Debug, Default)]
pub(super) struct Registry(RwLock<BTreeMap<LinkId, LinkHandle>>);

impl Registry {
    pub(super) fn insert(&self, link: LinkId, handle: LinkHandle) {
        self.write().insert(link, handle);
    }

    pub(super) fn established(&self, link: LinkId, peer: NodeId) {
        if let Some(handle) = self.write().get_mut(&link) {
            handle.peer = Some(peer);
        }
    }

    pub(super) fn remove(&self, link: LinkId) {
        self.write().remove(&link);
    }

    pub(super) fn command(&self, link: LinkId, command: ConnectionCommand) {
        if let Some(handle) = self.read().get(&link) {
            handle.post.put(&mut vec![command]);
        }
    }

    pub(super) fn command_all(&self, mut command: impl FnMut() -> ConnectionCommand) {
        for handle in self.read().values() {
            handle.post.put(&mut vec![command()]);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    pub(super) fn report(&self) -> Vec<LinkReport> {
        let report = |(link, handle): (&LinkId, &LinkHandle)| LinkReport {
            link: *link,
            remote: handle.remote,
            outbound: handle.outbound,
            peer: handle.peer,
            owed: handle.account.owed(),
        };
        self.read().iter().map(report).collect()
    }

    /// Each change is one call of the map, so a panic leaves nothing half done behind the lock.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<LinkId, LinkHandle>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<LinkId, LinkHandle>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
