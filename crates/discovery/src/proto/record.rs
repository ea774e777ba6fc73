//! What a node says about itself, with its signature.

use core::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{NetworkId, NodeId, UnixMillis};
use peerage_transport::proto::{
    keypair::Keypair,
    signed::{Signable, Signed, SignedError},
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::key::DhtKey;
use crate::config::{EXPIRY, SKEW};

/// The longest record in bytes, signature included (as an ENR, EIP-778; parameters, 4.2).
pub const MAX_RECORD: usize = 300;

/// Addresses in a record at most (parameters, 4.2).
pub const MAX_ADDRS: usize = 4;

/// What a node signs about itself. Who it is and which version this is stand in the envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBody {
    /// Counts the versions of the record; the highest wins.
    pub seq: u64,
    /// Where the node can be reached; at most four.
    pub addrs: Vec<SocketAddr>,
    /// Feature bits.
    pub features: u64,
    /// When it was signed, by the node's own clock.
    pub issued_at: UnixMillis,
}

impl Signable for RecordBody {
    const DOMAIN: &'static str = "peerage-node-record";
    const VERSION: u16 = 1;
}

/// Bytes that are no record; the fault of who sent them, as they should have checked them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Not signed, or not for this, or not canonical.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// More than four addresses.
    #[error("{0} addresses in a record, 4 are allowed")]
    TooManyAddrs(usize),
}

impl RecordError {
    /// Whether a correct peer might have sent it: it may speak a newer version than we do.
    pub const fn is_innocent(&self) -> bool {
        matches!(self, Self::Signed(SignedError::UnknownVersion(_)))
    }
}

/// A record whose signature holds. Cloning shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    signed: Signed<RecordBody>,
    key: DhtKey,
}

impl NodeRecord {
    /// Signs a record for `network`. Addresses beyond the fourth are left out.
    pub fn sign(keypair: &Keypair, network: NetworkId, mut body: RecordBody) -> Self {
        body.addrs.truncate(MAX_ADDRS);
        Self::new(Signed::sign(keypair, network, body))
    }

    /// Reads a record off the wire.
    ///
    /// # Errors
    /// [`RecordError`], the sender's fault unless it [is innocent](RecordError::is_innocent).
    pub fn verify(encoded: Bytes, network: NetworkId) -> Result<Self, RecordError> {
        let signed = Signed::<RecordBody>::decode_and_verify(encoded, network, MAX_RECORD)?;
        match signed.value().addrs.len() {
            0..=MAX_ADDRS => Ok(Self::new(signed)),
            more => Err(RecordError::TooManyAddrs(more)),
        }
    }

    fn new(signed: Signed<RecordBody>) -> Self {
        let key = DhtKey::of(&signed.signer());
        Self(Arc::new(Inner { signed, key }))
    }

    /// Whose record it is.
    pub fn node(&self) -> NodeId {
        self.0.signed.signer()
    }

    /// The node's place in the key space.
    pub fn key(&self) -> DhtKey {
        self.0.key
    }

    /// The number of this version.
    pub fn seq(&self) -> u64 {
        self.body().seq
    }

    /// Where the node says that it can be reached.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.body().addrs
    }

    /// All that the node says.
    pub fn body(&self) -> &RecordBody {
        self.0.signed.value()
    }

    /// The bytes to send, as they were signed.
    pub fn encoded(&self) -> &Bytes {
        self.0.signed.encoded()
    }

    /// Whether the record is of use at civil time `wall`: neither older than 48 hours nor from the future, with ten
    /// minutes of grace for clocks.
    pub fn is_current(&self, wall: UnixMillis) -> bool {
        let issued_at = self.body().issued_at;
        wall.since(issued_at) <= EXPIRY + SKEW && issued_at.since(wall) <= SKEW
    }

    /// Whether the record may be passed on at civil time `wall`. There is no grace here: it is left to those who read the
    /// answer, so that a record which is in its time for us is so for everybody whose clock differs by less.
    pub(super) fn may_be_served(&self, wall: UnixMillis) -> bool {
        let issued_at = self.body().issued_at;
        issued_at <= wall && wall.since(issued_at) <= EXPIRY
    }

    /// Whether both are of one node and one number, but not the same: nobody signs that by accident.
    pub fn contradicts(&self, other: &Self) -> bool {
        self.node() == other.node() && self.seq() == other.seq() && self.body() != other.body()
    }

    /// Whether this one takes the place of `other`.
    pub fn supersedes(&self, other: &Self) -> bool {
        self.seq() > other.seq()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

    fn keypair() -> Keypair {
        Keypair::from_seed(&[1; 32])
    }

    fn body() -> RecordBody {
        let addrs = vec![([8, 8, 8, 8], 4_000).into()];
        RecordBody { seq: 300, addrs, features: 5, issued_at: UnixMillis(1_000_000_000_000) }
    }

    #[test]
    fn the_largest_record_fits_and_survives_the_wire() {
        let addrs = vec![SocketAddr::from(([0xffff; 8], u16::MAX)); 9];
        let body = RecordBody { seq: u64::MAX, addrs, features: u64::MAX, issued_at: UnixMillis(u64::MAX) };
        let record = NodeRecord::sign(&keypair(), NETWORK, body);
        assert_eq!(record.addrs().len(), MAX_ADDRS);
        assert!(record.encoded().len() <= MAX_RECORD, "{} bytes", record.encoded().len());
        assert_eq!(NodeRecord::verify(record.encoded().clone(), NETWORK), Ok(record));
    }

    /// The layout of the wire, byte by byte. Changing it takes a new version number.
    #[test]
    fn the_encoding_is_frozen() {
        let record = NodeRecord::sign(&keypair(), NETWORK, body());
        let encoded = record.encoded();
        assert_eq!(encoded[..32], *keypair().node_id().as_bytes());
        assert_eq!(encoded[96..98], [0, 1], "the version");
        let expected = [0xac, 2, 1, 0, 8, 8, 8, 8, 0xa0, 0x1f, 5, 0x80, 0xa0, 0x94, 0xa5, 0x8d, 0x1d];
        assert_eq!(encoded[98..], expected, "seq, addresses, features, issued at");
    }

    #[test]
    fn five_addresses_are_refused_though_signed() {
        let body = RecordBody { addrs: vec![([8, 8, 8, 8], 4_000).into(); 5], ..body() };
        let signed = Signed::sign(&keypair(), NETWORK, body);
        assert_eq!(NodeRecord::verify(signed.encoded().clone(), NETWORK), Err(RecordError::TooManyAddrs(5)));
    }

    #[test]
    fn a_record_of_another_network_or_with_a_changed_byte_does_not_verify() {
        let record = NodeRecord::sign(&keypair(), NETWORK, body());
        let elsewhere = NetworkId::from_bytes([2; 32]);
        assert!(NodeRecord::verify(record.encoded().clone(), elsewhere).is_err());
        for at in 0..record.encoded().len() {
            let mut forged = record.encoded().to_vec();
            forged[at] ^= 1;
            let error = NodeRecord::verify(forged.into(), NETWORK).expect_err("forged");
            assert_eq!(error.is_innocent(), (96..98).contains(&at), "byte {at}: {error}");
        }
    }

    #[test]
    fn a_record_lives_two_days_give_or_take_the_clocks() {
        let record = NodeRecord::sign(&keypair(), NETWORK, body());
        let issued = body().issued_at;
        let minutes = |minutes: u64| Duration::from_mins(minutes);
        assert!(record.is_current(issued) && record.is_current(issued + minutes(48 * 60 + 10)));
        assert!(!record.is_current(issued + minutes(48 * 60 + 11)));
        assert!(record.is_current(UnixMillis(issued.0 - 10 * 60_000)));
        assert!(
            !record.is_current(UnixMillis(issued.0 - 10 * 60_000 - 1)),
            "one that never expires would be worth forging"
        );
    }

    #[test]
    fn two_records_of_one_number_contradict_each_other_unless_they_are_one() {
        let record = NodeRecord::sign(&keypair(), NETWORK, body());
        let other = NodeRecord::sign(&keypair(), NETWORK, RecordBody { features: 6, ..body() });
        let next = NodeRecord::sign(&keypair(), NETWORK, RecordBody { seq: 301, ..body() });
        assert!(record.contradicts(&other) && !record.contradicts(&record.clone()));
        assert!(!record.contradicts(&next) && next.supersedes(&record) && !record.supersedes(&next));
        let somebody = NodeRecord::sign(&Keypair::from_seed(&[2; 32]), NETWORK, RecordBody { features: 6, ..body() });
        assert!(!record.contradicts(&somebody));
    }
}
