//! Where in the book a peer may stand: buckets that a secret of the node chooses, so that no party can aim at one, and that
//! depend on groups of addresses, so that one party reaches only few of them (Bitcoin Core's `addrman`).

use core::{
    hash::{BuildHasher, Hash},
    net::SocketAddr,
};
use peerage_core::{KeyedState, NodeId};

use super::address::NetGroup;

/// Places in a bucket (our guess; Bitcoin Core 64).
pub(super) const BUCKET: usize = 16;
/// Buckets of peers that others told of (our guess; Bitcoin Core 1,024).
pub(super) const NEW_BUCKETS: usize = 256;
/// Of these, within reach of those who tell from one group of addresses: a sixteenth, as in Bitcoin Core (64 of 1,024).
pub(super) const NEW_PER_SOURCE: usize = 16;
/// Buckets of peers that a dial of ours reached (our guess; Bitcoin Core 256).
pub(super) const TRIED_BUCKETS: usize = 64;
/// Of these, within reach of one group of addresses: one in 32, as in Bitcoin Core (8 of 256).
pub(super) const TRIED_PER_GROUP: usize = 2;

/// A place in a table: bucket times [`BUCKET`], and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot(pub(super) u16);

/// Says which slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slots(pub(super) KeyedState);

impl Slots {
    fn pick(&self, what: impl Hash, among: usize) -> usize {
        usize::try_from(self.0.hash_one(what) % among as u64).unwrap_or(0)
    }

    fn slot(bucket: usize, place: usize) -> Slot {
        Slot(u16::try_from(bucket * BUCKET + place).unwrap_or(u16::MAX))
    }

    /// The one place of a peer at `addr` in the table of those that others told of.
    pub(super) fn new_slot(&self, peer: &NodeId, addr: SocketAddr, group: NetGroup, source: NetGroup) -> Slot {
        let reach = self.pick((0u8, source, group), NEW_PER_SOURCE);
        let bucket = self.pick((1u8, source, reach as u64), NEW_BUCKETS);
        Self::slot(bucket, self.pick((2u8, bucket as u64, peer, addr), BUCKET))
    }

    /// The one place of a peer at `addr` in the table of those that our dials reached.
    pub(super) fn tried_slot(&self, peer: &NodeId, addr: SocketAddr, group: NetGroup) -> Slot {
        let reach = self.pick((3u8, addr), TRIED_PER_GROUP);
        let bucket = self.pick((4u8, group, reach as u64), TRIED_BUCKETS);
        Self::slot(bucket, self.pick((5u8, bucket as u64, peer, addr), BUCKET))
    }
}
