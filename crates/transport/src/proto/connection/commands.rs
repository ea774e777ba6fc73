//! The transport's own messages: all of class `Control`, all notifications, none fragmented.

use peerage_core::{Class, Command, Layer, UnixMillis};
use serde::{Deserialize, Serialize};

/// Asks for a [`PONG`] with the same nonce: head [`Beat`].
pub const PING: Command = Command::new(Layer::Transport, 0, Class::Control);
/// Answers a [`PING`]: head [`Answer`].
pub const PONG: Command = Command::new(Layer::Transport, 1, Class::Control);
/// Lets the other side send more: head [`Grant`].
pub const CREDIT: Command = Command::new(Layer::Transport, 2, Class::Control);

/// Opaque bytes of a heartbeat, at most (parameters, 1.3).
pub const MAX_HEARTBEAT_DATA: usize = 64;

/// A nonce of 64 bits as varint, a length byte, the data.
const MAX_BEAT: usize = 10 + 1 + MAX_HEARTBEAT_DATA;

/// The same, and a time of 64 bits as varint.
const MAX_ANSWER: usize = MAX_BEAT + 10;

/// A class, and 32 bits as varint.
const MAX_GRANT: usize = 1 + 5;

/// The longest message of each command, head and body together, in bytes.
pub const LIMITS: &[(Command, u32)] = &[(PING, MAX_BEAT as u32), (PONG, MAX_ANSWER as u32), (CREDIT, MAX_GRANT as u32)];

/// A heartbeat that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Drawn by whoever pings: who does not receive the ping cannot answer it, nor answer it early.
    pub nonce: u64,
    /// Opaque bytes of the stack, [`MAX_HEARTBEAT_DATA`] at most.
    pub data: Vec<u8>,
}

/// A heartbeat that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// That of the [`Beat`].
    pub nonce: u64,
    /// What the answerer's clock says as it answers: an estimate of how far it goes wrong, and nothing else, comes of it.
    pub wall: UnixMillis,
    /// Opaque bytes of the answerer's stack, [`MAX_HEARTBEAT_DATA`] at most.
    pub data: Vec<u8>,
}

/// More credit for one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// [`Class`] by number.
    pub class: u8,
    /// Bytes as counted by [`cost`](super::credit::cost); not zero, and never more than was spent.
    pub bytes: u32,
}
