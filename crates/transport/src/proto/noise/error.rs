//! What can go wrong in Noise, sorted by whose fault it is.

use thiserror::Error;

/// A failed Noise operation. After an error in a handshake the [`HandshakeState`](super::HandshakeState) is spent;
/// after an error on a [`CipherState`](super::CipherState) its counter has not moved, but since a TCP stream neither
/// loses nor repeats anything, the connection is lost all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoiseError {
    // The peer's fault, or that of somebody between us.
    /// The tag does not match: wrong keys, another transcript, or a byte changed on the way.
    #[error("authentication tag does not match")]
    Authentication,
    /// The message ends before the keys and tags its pattern calls for.
    #[error("message is shorter than its keys and tags")]
    TooShort,
    /// The message exceeds [`MAX_MESSAGE_LEN`](super::MAX_MESSAGE_LEN).
    #[error("message exceeds 65,535 bytes")]
    TooLong,
    /// The peer's public key is a point of small order, so the shared secret would be known to everybody.
    #[error("peer's public key makes the shared secret a constant")]
    NonContributory,

    // Our own fault: the caller's order of operations.
    /// `write_message` while the peer's message is due, or `read_message` while ours is.
    #[error("it is the other side's turn")]
    OutOfTurn,
    /// Another handshake message after the last one.
    #[error("the handshake is already complete")]
    HandshakeComplete,
    /// `split` before the last handshake message.
    #[error("the handshake is not complete")]
    HandshakeIncomplete,
    /// The handshake failed earlier, and a failed handshake is never continued (spec 5.3).
    #[error("the handshake failed earlier")]
    HandshakeFailed,
    /// The payload does not fit one Noise message.
    #[error("payload does not fit a message of 65,535 bytes")]
    PayloadTooLong,

    // Nobody's fault.
    /// The key was used 2^60 times; the connection has to be opened anew.
    #[error("cipher key is used up")]
    NonceExhausted,
}

impl NoiseError {
    /// Whether bytes that came from outside caused it. Under a handshake nobody has been authenticated yet, so the
    /// blame goes to an address, not to an identity.
    #[must_use]
    pub const fn is_remote_fault(self) -> bool {
        match self {
            Self::Authentication | Self::TooShort | Self::TooLong | Self::NonContributory => true,
            Self::OutOfTurn
            | Self::HandshakeComplete
            | Self::HandshakeIncomplete
            | Self::HandshakeFailed
            | Self::PayloadTooLong
            | Self::NonceExhausted => false,
        }
    }
}
