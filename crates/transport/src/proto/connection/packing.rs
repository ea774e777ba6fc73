//! Compressed bodies on one connection: whether both sides agreed on them, what is sent so, and what it saved.
//!
//! A body is packed when its first byte is about to leave, by the first connection that gets so far, for all recipients of the
//! message ([`Resident`]): never twice, and never for nobody.
//!
//! Neither is a job for the compute lane. What both take is bounded by the longest message: to pack its 2 MiB takes about 2.2 ms,
//! to unpack them 0.3 ms, and 2.4 ms of what an attacker makes as slow as it can (row LZ4 of the bench), where sealing or opening
//! the same bytes takes 0.9 ms in the same place. To hand them to another thread would not make them less, and what one peer
//! sends would be out of order.

use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{Budget, Charge, ConnectionEvent, Pool, Resident};
use peerage_wire::{
    Fragmenter, Limits,
    compress::{self, MIN_BODY},
};

/// The feature bit of whoever takes compressed bodies: LZ4 blocks (wire, section 11).
pub const COMPRESSION: u64 = 1;

/// Bytes of bodies, and of their packed forms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    bytes: u64,
    packed: u64,
}

impl Tally {
    fn add(&mut self, bytes: usize, packed: usize) {
        self.bytes += bytes as u64;
        self.packed += packed as u64;
    }
}

#[derive(Debug)]
pub(super) struct Packing {
    limits: Arc<Limits>,
    budget: Budget,
    agreed: bool,
    sent: Tally,
    received: Tally,
}

impl Packing {
    /// For a connection on which both sides offered these features.
    pub(super) fn new(limits: Arc<Limits>, budget: Budget, features: u64) -> Self {
        let agreed = compress::AVAILABLE && features & COMPRESSION != 0;
        Self { limits, budget, agreed, sent: Tally::default(), received: Tally::default() }
    }

    pub(super) const fn agreed(&self) -> bool {
        self.agreed
    }

    /// Has the body of a message that is about to begin sent compressed, if that is worth it.
    pub(super) fn pack(&self, fragments: &mut Fragmenter, resident: &Resident) {
        if !self.agreed || fragments.packed().is_some() {
            return;
        }
        let message = fragments.message();
        let public = self.limits.is_public(message.command);
        let Some(body) = message.body.as_ref().filter(|body| public && body.len() > MIN_BODY) else { return };
        if let Some(packed) = resident.packed(|| self.make(body)) {
            let packed = packed.clone();
            fragments.send_packed(packed);
        }
    }

    /// The packed form of a body, paid for beside the body itself. Without memory for it there is none.
    fn make(&self, body: &Bytes) -> Option<(Bytes, Charge)> {
        let mut charge = self.budget.charge(Pool::Outbound, compress::pack_room(body.len())).ok()?;
        let packed = compress::pack(body)?;
        charge.shrink_to(packed.len());
        Some((packed.into(), charge))
    }

    /// A message begins to go out.
    pub(super) fn count_sent(&mut self, fragments: &Fragmenter) {
        if let (Some(body), Some(packed)) = (&fragments.message().body, fragments.packed()) {
            self.sent.add(body.len(), packed.len());
        }
    }

    /// A message is announced whose body is compressed.
    pub(super) fn count_received(&mut self, body: usize, packed: usize) {
        self.received.add(body, packed);
    }

    /// What was not told yet.
    pub(super) fn next_event(&mut self) -> Option<ConnectionEvent> {
        let (received, tally) = match (self.sent.bytes, self.received.bytes) {
            (0, 0) => return None,
            (0, _) => (true, &mut self.received),
            _ => (false, &mut self.sent),
        };
        let Tally { bytes, packed } = core::mem::take(tally);
        Some(ConnectionEvent::Packed { received, bytes, packed })
    }
}
