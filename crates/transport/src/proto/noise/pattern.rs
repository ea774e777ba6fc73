//! Handshake patterns as data, spec 7: what each message carries.

use super::HASHLEN;

/// A step of a message pattern (spec 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The sender's ephemeral public key, in clear.
    E,
    /// The sender's static public key, encrypted once there is a key.
    S,
    /// DH of one of the initiator's keys, named first, and one of the responder's.
    Dh(Key, Key),
}

/// Which of a side's two key pairs takes part in a DH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Ephemeral,
    Static,
}

impl Token {
    const EE: Self = Self::Dh(Key::Ephemeral, Key::Ephemeral);
    const ES: Self = Self::Dh(Key::Ephemeral, Key::Static);
    const SE: Self = Self::Dh(Key::Static, Key::Ephemeral);
    const SS: Self = Self::Dh(Key::Static, Key::Static);
}

/// A handshake pattern in which the initiator writes the first message.
#[derive(Debug)]
pub(super) struct Pattern {
    /// The full protocol name (spec 8). Ours fill a hash exactly, which spares `InitializeSymmetric` its other case.
    pub(super) protocol_name: &'static [u8; HASHLEN],
    /// Whether the pre-message `<- s` stands: the initiator knows the responder's static key beforehand.
    pub(super) responder_static_known: bool,
    /// The message patterns, initiator and responder in turn.
    pub(super) messages: &'static [&'static [Token]],
}

/// Both static keys travel encrypted, and nothing has to be known beforehand (spec 7.5).
pub(super) const XX: Pattern = Pattern {
    protocol_name: b"Noise_XX_25519_ChaChaPoly_SHA256",
    responder_static_known: false,
    messages: &[&[Token::E], &[Token::E, Token::EE, Token::S, Token::ES], &[Token::S, Token::SE]],
};

/// The initiator knows the responder's static key and sends its own at once (spec 7.5).
pub(super) const IK: Pattern = Pattern {
    protocol_name: b"Noise_IK_25519_ChaChaPoly_SHA256",
    responder_static_known: true,
    messages: &[&[Token::E, Token::ES, Token::S, Token::SS], &[Token::E, Token::EE, Token::SE]],
};
