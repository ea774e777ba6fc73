//! The live connections of a node.

use core::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};
use dashmap::DashMap;
use peerage_core::{Account, ConnectionCommand, LinkId, NodeId};
use tokio::sync::mpsc::UnboundedSender;

/// What is needed to use a connection from outside its task.
#[derive(Clone, Debug)]
pub(super) struct LinkHandle {
    pub(super) remote: SocketAddr,
    pub(super) outbound: bool,
    /// Set once the other side has proved itself.
    pub(super) peer: Option<NodeId>,
    pub(super) account: Account,
    pub(super) starved: std::sync::Arc<AtomicBool>,
    pub(super) commands: UnboundedSender<ConnectionCommand>,
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

/// All live connections. Read by handles, written by the tasks; a guard never lives over an `.await`.
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

    /// Hands a command to the task of a connection; false if it is gone.
    pub(super) fn command(&self, link: LinkId, command: ConnectionCommand) -> bool {
        self.0.get(&link).is_some_and(|handle| handle.commands.send(command).is_ok())
    }

    pub(super) fn command_all(&self, mut command: impl FnMut() -> ConnectionCommand) {
        for handle in &self.0 {
            // A task that ended meanwhile wants no command.
            let _gone = handle.commands.send(command());
        }
    }

    pub(super) fn account(&self, link: LinkId) -> Option<Account> {
        self.0.get(&link).map(|handle| handle.account.clone())
    }

    /// Notes that a message to this connection was shed, so that its task tells when there is room again; whether that is news.
    pub(super) fn starve(&self, link: LinkId) -> bool {
        self.0.get(&link).is_some_and(|handle| !handle.starved.swap(true, Relaxed))
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
