//! `Noise_XX_25519_ChaChaPoly_SHA256` and `Noise_IK_25519_ChaChaPoly_SHA256`, as in the Noise Protocol Framework, revision 34.
//!
//! Names are the specification's: [`CipherState`] (5.1), `SymmetricState` (5.2), [`HandshakeState`] (5.3); "spec"
//! in these files means <https://noiseprotocol.org/noise.html>. On top of it, [`identity`] proves which Ed25519
//! identity owns the X25519 static key that the handshake authenticated.
//!
//! A handshake, seen from either side, is `read_message` and `write_message` in turn, then [`HandshakeState::split`]:
//!
//! ```
//! use peerage_transport::proto::noise::{DhKeypair, HandshakeState, Role};
//! use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//!
//! // A fixed seed keeps the example repeatable; a node draws keys from the operating system.
//! let mut rng = ChaCha20Rng::seed_from_u64(1);
//! let (alice, bob) = (DhKeypair::generate(&mut rng), DhKeypair::generate(&mut rng));
//! let mut initiator = HandshakeState::xx(Role::Initiator, b"prologue", alice, &mut rng);
//! let mut responder = HandshakeState::xx(Role::Responder, b"prologue", bob, &mut rng);
//!
//! let mut message = Vec::new();
//! initiator.write_message(b"", &mut message)?; // -> e
//! responder.read_message(&message)?;
//! message.clear();
//! responder.write_message(b"hello", &mut message)?; // <- e, ee, s, es
//! assert_eq!(initiator.read_message(&message)?, b"hello");
//! message.clear();
//! initiator.write_message(b"", &mut message)?; // -> s, se
//! responder.read_message(&message)?;
//!
//! let (mut alice, mut bob) = (initiator.split()?, responder.split()?);
//! assert_eq!(alice.handshake_hash, bob.handshake_hash);
//! let mut record = b"transport".to_vec();
//! let tag = alice.send.encrypt_with_ad(b"", &mut record)?;
//! record.extend_from_slice(&tag);
//! assert_eq!(bob.receive.decrypt_with_ad(b"", &mut record)?, b"transport");
//! # Ok::<(), peerage_transport::proto::noise::NoiseError>(())
//! ```
//!
//! Reading order: `dh.rs`, `aead.rs`, `cipher_state.rs`, `symmetric_state.rs`, `pattern.rs`, `handshake_state.rs`,
//! `identity.rs`, `error.rs`.

mod aead;
mod cipher_state;
mod dh;
mod error;
mod handshake_state;
pub mod identity;
mod pattern;
mod symmetric_state;
#[cfg(test)]
mod tests;

pub use aead::TAG_LEN;
pub use cipher_state::{CipherState, MAX_NONCE};
pub use dh::{DHLEN, DhKeypair};
pub use error::NoiseError;
pub use handshake_state::{HandshakeState, Split};
pub use symmetric_state::HASHLEN;

/// The longest Noise message, handshake or transport, in bytes, tag included (spec 3).
pub const MAX_MESSAGE_LEN: usize = 65_535;

/// Who dialled. The initiator writes the first handshake message (spec 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that dialled.
    Initiator,
    /// The side that was dialled.
    Responder,
}

impl Role {
    /// The other side's role.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}
