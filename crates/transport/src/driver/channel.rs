//! The seam between the driver and what secures a stream.

use async_trait::async_trait;
use core::net::SocketAddr;
use peerage_core::{Closed, Connection, DropReason, Message, NodeId, Now, SecretRng};
use std::sync::Arc;

use super::BoxedStream;
use crate::proto::connection::{ConnectionConfig, SecureConnection};

/// Turns a byte stream into an authenticated, message-oriented connection. Noise is one, mutual TLS will be the other.
#[async_trait]
pub trait SecureChannel: Send + Sync + 'static {
    /// Prepares a connection on a fresh stream, on which nothing has been sent: the stream to go on with (a security
    /// layer below the records may wrap it) and the machine that speaks on it.
    ///
    /// # Errors
    /// How it ended, if a security layer failed on the stream: who ended it, and why.
    async fn open(
        &self,
        stream: BoxedStream,
        remote: SocketAddr,
        outbound: bool,
        expected: Option<NodeId>,
        now: Now,
    ) -> Result<(BoxedStream, Box<dyn Connection + Send>), Closed>;

    /// Whether the connections of this channel take such a message at all.
    ///
    /// # Errors
    /// Why not: `UnknownCommand` (no table of limits names it, so the other side would skip it) or `TooLong`; the sender's
    /// fault.
    fn allows(&self, message: &Message) -> Result<(), DropReason>;
}

/// `Noise_XX_25519_ChaChaPoly_SHA256` on the bare stream: the machine does it all.
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
        outbound: bool,
        expected: Option<NodeId>,
        now: Now,
    ) -> Result<(BoxedStream, Box<dyn Connection + Send>), Closed> {
        let config = Arc::clone(&self.0);
        let connection = SecureConnection::new(config, outbound, remote, expected, now, SecretRng::from_os());
        Ok((stream, Box::new(connection)))
    }

    fn allows(&self, message: &Message) -> Result<(), DropReason> {
        if !self.0.limits.knows(message.command) {
            return Err(DropReason::UnknownCommand);
        }
        if self.0.allows(message) { Ok(()) } else { Err(DropReason::TooLong) }
    }
}
