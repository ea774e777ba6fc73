//! What a handshake leads to: keys and a peer, or a reason and what is said of it.

use core::net::SocketAddr;

use peerage_core::{CloseReason, Closed, NodeId};

use super::{ConnectionConfig, FEATURES, Pattern};
use crate::proto::noise::{CipherState, HandshakeState, Split, identity::RemoteIdentity};

/// What a handshake yields.
#[derive(Debug)]
pub(in crate::proto::connection) struct Secured {
    pub(in crate::proto::connection) pattern: Pattern,
    pub(in crate::proto::connection) keys: Split,
    pub(in crate::proto::connection) peer: NodeId,
    /// Offered by both.
    pub(in crate::proto::connection) features: u64,
    pub(in crate::proto::connection) listen: Vec<SocketAddr>,
}

impl Secured {
    pub(super) fn new(config: &ConnectionConfig, pattern: Pattern, keys: Split, remote: &RemoteIdentity) -> Self {
        let features = config.features & remote.hello.features() & FEATURES;
        Self { pattern, keys, peer: remote.node_id, features, listen: remote.hello.listen().to_vec() }
    }
}

/// Why there is no connection, and what the other side is told.
#[derive(Debug)]
pub(in crate::proto::connection) struct Failure {
    pub(in crate::proto::connection) closed: Closed,
    pub(in crate::proto::connection) answer: Answer,
}

#[derive(Debug)]
pub(in crate::proto::connection) enum Answer {
    /// Nothing: it ended the connection itself, or does not speak our language.
    Silence,
    /// A REFUSE record in clear.
    Refuse,
    /// A CLOSE record under this key: the other side has its keys already.
    Close(CipherState),
}

impl Failure {
    pub(super) const fn refuse(reason: CloseReason) -> Self {
        Self { closed: Closed::by_us(reason), answer: Answer::Refuse }
    }

    pub(super) const fn silent(closed: Closed) -> Self {
        Self { closed, answer: Answer::Silence }
    }

    /// For when the last message was read: the keys stand, whatever else is wrong. If they do not, in clear.
    pub(super) fn after_keys(reason: CloseReason, noise: HandshakeState) -> Self {
        match noise.split() {
            Ok(keys) => Self { closed: Closed::by_us(reason), answer: Answer::Close(keys.send) },
            Err(_) => Self::refuse(reason),
        }
    }
}
