//! What a handshake leads to: keys and a peer, or a reason and what is said of it.

use core::net::SocketAddr;

use peerage_core::{CloseReason, Closed, Message, NodeId};

use super::{ConnectionConfig, Pattern};
use crate::proto::{
    connection::records::LastWord,
    noise::{HandshakeState, Split, identity::RemoteIdentity},
};

/// What a handshake yields.
#[derive(Debug)]
pub(in crate::proto::connection) struct Secured {
    pub(in crate::proto::connection) channel: Channel,
    pub(in crate::proto::connection) peer: NodeId,
    /// Offered by both.
    pub(in crate::proto::connection) features: u64,
    pub(in crate::proto::connection) listen: Vec<SocketAddr>,
    /// What message 1 of IK asked, and the id of that request.
    pub(in crate::proto::connection) early: Option<(u64, Message)>,
}

/// What protects the records from now on.
#[derive(Debug)]
pub(in crate::proto::connection) enum Channel {
    /// The keys of a Noise handshake.
    Noise {
        /// Which one it was.
        pattern: Pattern,
        /// What it yielded.
        keys: Split,
    },
    /// The stream itself.
    Below,
}

impl Secured {
    pub(super) fn new(config: &ConnectionConfig, channel: Channel, remote: &RemoteIdentity) -> Self {
        let features = config.offered() & remote.hello.features();
        Self { channel, peer: remote.node_id, features, listen: remote.hello.listen().to_vec(), early: None }
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
    /// A CLOSE record: for the other side the connection stands already.
    Close(LastWord),
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
            Ok(keys) => Self { closed: Closed::by_us(reason), answer: Answer::Close(LastWord::Sealed(keys.send)) },
            Err(_) => Self::refuse(reason),
        }
    }
}
