//! The seam between the driver and what secures a stream.

use async_trait::async_trait;
use core::net::SocketAddr;
use peerage_core::{Connection, Message, NodeId, Now, SecretRng};
use std::{io, sync::Arc};

use super::BoxedStream;
use crate::proto::connection::{ConnectionConfig, SecureConnection};

/// Turns a byte stream into an authenticated, message-oriented connection. Noise is one, mutual TLS will be the other.
#[async_trait]
pub trait SecureChannel: Send + Sync + 'static {
    /// Prepares a connection on a fresh stream, on which nothing has been sent: the stream to go on with (a security
    /// layer below the records may wrap it) and the machine that speaks on it.
    ///
    /// # Errors
    /// Of the stream, or of a security layer that failed on it.
    async fn open(
        &self,
        stream: BoxedStream,
        remote: SocketAddr,
        outbound: bool,
        expected: Option<NodeId>,
        now: Now,
    ) -> io::Result<(BoxedStream, Box<dyn Connection + Send>)>;

    /// Whether the connections of this channel take such a message at all.
    fn allows(&self, message: &Message) -> bool;
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
    ) -> io::Result<(BoxedStream, Box<dyn Connection + Send>)> {
        let config = Arc::clone(&self.0);
        let connection = SecureConnection::new(config, outbound, remote, expected, now, SecretRng::from_os());
        Ok((stream, Box::new(connection)))
    }

    fn allows(&self, message: &Message) -> bool {
        self.0.allows(message)
    }
}
