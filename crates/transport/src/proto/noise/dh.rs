//! DH functions, spec 4.1, with Curve25519 (spec 12.1).

use core::fmt;

use rand_core::CryptoRng;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::NoiseError;

/// Length in bytes of an X25519 public key and of a shared secret (spec 12.1).
pub const DHLEN: usize = 32;

/// An X25519 key pair, static or ephemeral. The secret is wiped when it is dropped and never printed.
///
/// The static one lives as long as the process and is never stored: what lasts is the Ed25519 identity, which signs
/// it in every handshake (see [`identity`](super::identity)).
#[derive(Clone)]
pub struct DhKeypair {
    secret: StaticSecret,
    public: [u8; DHLEN],
}

impl DhKeypair {
    /// `GENERATE_KEYPAIR()` of spec 4.1: takes exactly 32 bytes from `rng`, which are the secret before clamping.
    #[must_use]
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let secret = StaticSecret::random_from_rng(rng);
        let public = PublicKey::from(&secret).to_bytes();
        Self { secret, public }
    }

    /// The public key, as it goes on the wire.
    #[must_use]
    pub const fn public(&self) -> &[u8; DHLEN] {
        &self.public
    }

    /// `DH(key_pair, public_key)` of spec 4.1.
    ///
    /// A peer's point of small order yields zeros whatever our secret is. Spec 12.1 allows that to be an error, and
    /// here it is [`NoiseError::NonContributory`]: no honest peer ever sends such a key.
    pub(super) fn dh(&self, remote: &[u8; DHLEN]) -> Result<Zeroizing<[u8; DHLEN]>, NoiseError> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(*remote));
        if !shared.was_contributory() {
            return Err(NoiseError::NonContributory);
        }
        Ok(Zeroizing::new(shared.to_bytes()))
    }
}

impl fmt::Debug for DhKeypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DhKeypair").field("public", &self.public).finish_non_exhaustive()
    }
}
