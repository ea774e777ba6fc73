//! `HandshakeState`, spec 5.3.

use core::fmt;

use rand_core::CryptoRng;

use super::dh::{DHLEN, DhKeypair};
use super::pattern::{IK, Key, Pattern, Token, XX};
use super::symmetric_state::{HASHLEN, SymmetricState};
use super::{MAX_MESSAGE_LEN, NoiseError, Role};
use super::{aead::TAG_LEN, cipher_state::CipherState};

/// One side of a handshake under way.
///
/// Its messages alternate: the initiator writes the first, the responder reads it and writes the second, and so on.
/// The first error ends it (spec 5.3): every later call answers [`NoiseError::HandshakeFailed`], and the owner drops
/// it, which wipes its secrets (but for the cipher's key under the feature `ring`).
pub struct HandshakeState {
    symmetric: SymmetricState,
    /// The local static key pair.
    s: DhKeypair,
    /// The local ephemeral key pair, drawn at the start and sent where the pattern says so.
    e: DhKeypair,
    /// The remote static public key, once received (or known beforehand).
    rs: Option<[u8; DHLEN]>,
    /// The remote ephemeral public key, once received.
    re: Option<[u8; DHLEN]>,
    role: Role,
    pattern: &'static Pattern,
    /// Messages done so far, in both directions.
    done: usize,
    failed: bool,
}

/// What a handshake yields: the two directions of the connection, and whom they lead to.
#[derive(Debug)]
pub struct Split {
    /// Encrypts what we send.
    pub send: CipherState,
    /// Decrypts what we receive.
    pub receive: CipherState,
    /// `h` after the last message: the same on both sides, unique to this connection (channel binding, spec 11.2).
    pub handshake_hash: [u8; HASHLEN],
    /// The peer's static public key, which this handshake authenticated.
    pub remote_static: [u8; DHLEN],
}

impl HandshakeState {
    /// `Initialize` for `Noise_XX_25519_ChaChaPoly_SHA256`.
    ///
    /// `prologue` is what both sides must agree on without trusting it (spec 6), `s` the local static key pair.
    /// Takes exactly 32 bytes from `rng`, the ephemeral secret, which no other handshake may ever see.
    #[must_use]
    pub fn xx(role: Role, prologue: &[u8], s: DhKeypair, rng: &mut impl CryptoRng) -> Self {
        Self::initialize(&XX, role, prologue, s, None, rng)
    }

    /// `Initialize` for `Noise_IK_25519_ChaChaPoly_SHA256` as the initiator, who knows the responder's static key `rs`.
    /// Otherwise as [`xx`](Self::xx).
    #[must_use]
    pub fn ik_initiator(prologue: &[u8], s: DhKeypair, rs: [u8; DHLEN], rng: &mut impl CryptoRng) -> Self {
        Self::initialize(&IK, Role::Initiator, prologue, s, Some(rs), rng)
    }

    /// The same as the responder, whose static key the initiator knows.
    #[must_use]
    pub fn ik_responder(prologue: &[u8], s: DhKeypair, rng: &mut impl CryptoRng) -> Self {
        Self::initialize(&IK, Role::Responder, prologue, s, None, rng)
    }

    /// `Initialize(handshake_pattern, initiator, prologue, s, e, rs, re)`. `rs` is the responder's static key, given
    /// to an initiator whose pattern presumes it.
    pub(super) fn initialize(
        pattern: &'static Pattern,
        role: Role,
        prologue: &[u8],
        s: DhKeypair,
        rs: Option<[u8; DHLEN]>,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let mut symmetric = SymmetricState::initialize_symmetric(pattern.protocol_name);
        symmetric.mix_hash(prologue);
        if pattern.responder_static_known {
            match role {
                Role::Initiator => symmetric.mix_hash(&rs.expect("a pattern with pre-message `<- s` is given rs")),
                Role::Responder => symmetric.mix_hash(s.public()),
            }
        }
        let e = DhKeypair::generate(rng);
        Self { symmetric, s, e, rs, re: None, role, pattern, done: 0, failed: false }
    }

    /// `h` after the messages so far, the same on both sides. Between messages it names this handshake and no other,
    /// which is why the identity proof signs it.
    #[must_use]
    pub const fn handshake_hash(&self) -> &[u8; HASHLEN] {
        self.symmetric.handshake_hash()
    }

    /// The local static public key.
    #[must_use]
    pub const fn local_static(&self) -> &[u8; DHLEN] {
        self.s.public()
    }

    /// The peer's static public key, once its message was read. Until [`split`](Self::split) it is a claim: in XX the
    /// responder's is proved by message 2 itself, the initiator's by message 3. In IK the initiator knows it beforehand,
    /// and the responder has it once it could be decrypted, even if the rest of message 1 could not.
    #[must_use]
    pub const fn remote_static(&self) -> Option<&[u8; DHLEN]> {
        self.rs.as_ref()
    }

    /// Our role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// Whether the next message is ours to write. False once the handshake is complete.
    #[must_use]
    pub const fn is_my_turn(&self) -> bool {
        let initiators = self.done.is_multiple_of(2);
        !self.is_complete() && initiators == matches!(self.role, Role::Initiator)
    }

    /// Whether every message has been exchanged, so that [`split`](Self::split) succeeds.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.done == self.pattern.messages.len()
    }

    /// `WriteMessage(payload, message_buffer)`: appends the next message to `out`.
    ///
    /// # Errors
    /// Ours: [`NoiseError::OutOfTurn`], [`NoiseError::HandshakeComplete`], [`NoiseError::HandshakeFailed`],
    /// [`NoiseError::PayloadTooLong`]. The peer's: [`NoiseError::NonContributory`]. `out` is as it was then.
    pub fn write_message(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        let tokens = self.begin_message(true)?;
        let start = out.len();
        let result = self
            .write_tokens(tokens, payload, out)
            .and_then(|()| if out.len() - start > MAX_MESSAGE_LEN { Err(NoiseError::PayloadTooLong) } else { Ok(()) });
        if result.is_err() {
            out.truncate(start);
        }
        self.end_message(result)
    }

    /// `ReadMessage(message, payload_buffer)`: the payload of the peer's next message.
    ///
    /// # Errors
    /// Ours: [`NoiseError::OutOfTurn`], [`NoiseError::HandshakeComplete`], [`NoiseError::HandshakeFailed`]. The
    /// sender's: [`NoiseError::TooLong`], [`NoiseError::TooShort`], [`NoiseError::NonContributory`],
    /// [`NoiseError::Authentication`].
    pub fn read_message(&mut self, message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        let tokens = self.begin_message(false)?;
        let result =
            if message.len() > MAX_MESSAGE_LEN { Err(NoiseError::TooLong) } else { self.read_tokens(tokens, message) };
        self.end_message(result)
    }

    /// `Split()`, after the last message.
    ///
    /// # Errors
    /// Ours: [`NoiseError::HandshakeFailed`], [`NoiseError::HandshakeIncomplete`].
    pub fn split(self) -> Result<Split, NoiseError> {
        if self.failed {
            return Err(NoiseError::HandshakeFailed);
        }
        let (true, Some(remote_static)) = (self.is_complete(), self.rs) else {
            return Err(NoiseError::HandshakeIncomplete);
        };
        let (first, second) = self.symmetric.split();
        let (send, receive) = match self.role {
            Role::Initiator => (first, second),
            Role::Responder => (second, first),
        };
        Ok(Split { send, receive, handshake_hash: *self.handshake_hash(), remote_static })
    }

    /// The tokens of the next message, if it is due in this direction. A call out of turn changes nothing.
    fn begin_message(&self, writing: bool) -> Result<&'static [Token], NoiseError> {
        if self.failed {
            return Err(NoiseError::HandshakeFailed);
        }
        let tokens = *self.pattern.messages.get(self.done).ok_or(NoiseError::HandshakeComplete)?;
        if self.is_my_turn() == writing { Ok(tokens) } else { Err(NoiseError::OutOfTurn) }
    }

    /// Counts the message, or marks the handshake as failed.
    fn end_message<T>(&mut self, result: Result<T, NoiseError>) -> Result<T, NoiseError> {
        match result {
            Ok(_) => self.done += 1,
            Err(_) => self.failed = true,
        }
        result
    }

    fn write_tokens(&mut self, tokens: &[Token], payload: &[u8], out: &mut Vec<u8>) -> Result<(), NoiseError> {
        for &token in tokens {
            match token {
                Token::E => {
                    out.extend_from_slice(self.e.public());
                    self.symmetric.mix_hash(self.e.public());
                }
                Token::S => self.symmetric.encrypt_and_hash(self.s.public(), out)?,
                Token::Dh(initiators, responders) => self.mix_dh(initiators, responders)?,
            }
        }
        self.symmetric.encrypt_and_hash(payload, out)
    }

    fn read_tokens(&mut self, tokens: &[Token], mut message: &[u8]) -> Result<Vec<u8>, NoiseError> {
        for &token in tokens {
            match token {
                Token::E => {
                    let (re, rest) = message.split_first_chunk().ok_or(NoiseError::TooShort)?;
                    self.symmetric.mix_hash(re);
                    self.re = Some(*re);
                    message = rest;
                }
                Token::S => {
                    let len = if self.symmetric.has_key() { DHLEN + TAG_LEN } else { DHLEN };
                    let sealed = message.split_off(..len).ok_or(NoiseError::TooShort)?;
                    let rs = self.symmetric.decrypt_and_hash(sealed)?;
                    self.rs = Some(rs.try_into().expect("as long as what was sealed, less the tag: DHLEN"));
                }
                Token::Dh(initiators, responders) => self.mix_dh(initiators, responders)?,
            }
        }
        self.symmetric.decrypt_and_hash(message)
    }

    /// `MixKey(DH(..))` of one of the initiator's keys and one of the responder's.
    fn mix_dh(&mut self, initiators: Key, responders: Key) -> Result<(), NoiseError> {
        let (local, remote) = match self.role {
            Role::Initiator => (initiators, responders),
            Role::Responder => (responders, initiators),
        };
        let local = match local {
            Key::Ephemeral => &self.e,
            Key::Static => &self.s,
        };
        let remote = match remote {
            Key::Ephemeral => &self.re,
            Key::Static => &self.rs,
        };
        let remote = remote.as_ref().expect("a valid pattern sends a key before it uses it (spec 7.3)");
        self.symmetric.mix_key(&*local.dh(remote)?);
        Ok(())
    }
}

impl fmt::Debug for HandshakeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeState")
            .field("role", &self.role)
            .field("done", &self.done)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}
