//! The seam between the driver and what secures a stream.

use async_trait::async_trait;
use core::net::SocketAddr;
use peerage_core::{Closed, Connection, DialKey, DropReason, Message, NodeId, Now, SecretRng};
use std::sync::Arc;

use super::BoxedStream;
use crate::proto::connection::{ConnectionConfig, SecureConnection};

/// Whom a dialled stream should lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Who must answer; anyone if `None`.
    pub expected: Option<NodeId>,
    /// The key that its process had when it was last met, for channels that can use it.
    pub dial_key: Option<DialKey>,
    /// What to ask with the first words, for channels whose first words can carry it.
    pub question: Option<Message>,
}

/// Turns a byte stream into an authenticated, message-oriented connection. Noise is one, mutual TLS the other (`driver/tls`).
#[async_trait]
pub trait SecureChannel: Send + Sync + 'static {
    /// Prepares a connection on a fresh stream, on which nothing has been sent: the stream to go on with (a security
    /// layer below the records may wrap it) and the machine that speaks on it. A stream with a target was dialled, the
    /// others were accepted.
    ///
    /// # Errors
    /// How it ended, if a security layer failed on the stream: who ended it, and why.
    async fn open(
        &self,
        stream: BoxedStream,
        remote: SocketAddr,
        target: Option<Target>,
        now: Now,
    ) -> Result<(BoxedStream, Box<dyn Connection + Send>), Closed>;

    /// Whether the connections of this channel take such a message at all.
    ///
    /// # Errors
    /// Why not: `UnknownCommand` (no table of limits names it, so the other side would skip it) or `TooLong`; the sender's
    /// fault.
    fn allows(&self, message: &Message) -> Result<(), DropReason>;
}

/// `Noise_IK_25519_ChaChaPoly_SHA256` towards processes that were met before, else `Noise_XX_25519_ChaChaPoly_SHA256`, on
/// the bare stream: the machine does it all.
pub struct NoiseChannel(Arc<ConnectionConfig>);

impl NoiseChannel {
    /// All connections of a node share one configuration.
    pub const fn new(config: Arc<ConnectionConfig>) -> Self {
        Self(config)
    }
}

#[async_trait]
impl SecureChannel for NoiseChannel {
    async fn open(
        &self,
        stream: BoxedStream,
        remote: SocketAddr,
        target: Option<Target>,
        now: Now,
    ) -> Result<(BoxedStream, Box<dyn Connection + Send>), Closed> {
        let (config, rng) = (Arc::clone(&self.0), SecretRng::from_os());
        let connection = match target {
            Some(Target { expected, dial_key, question }) => {
                SecureConnection::ask(config, remote, expected, dial_key, question, now, rng)
            }
            None => SecureConnection::new(config, false, remote, None, now, rng),
        };
        Ok((stream, Box::new(connection)))
    }

    fn allows(&self, message: &Message) -> Result<(), DropReason> {
        self.0.permits(message)
    }
}
