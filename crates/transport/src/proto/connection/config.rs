//! What all connections of a node share.

use core::{net::SocketAddr, time::Duration};
use std::sync::Arc;

use peerage_core::{Budget, Class, Command, DropReason, Message, NetworkId};
use peerage_wire::{Limits, Magic, compress};
use rand_core::CryptoRng;

use super::{credit, handshake::FEATURES, packing::COMPRESSION};
use crate::proto::{keypair::Keypair, noise::DhKeypair};

/// The only wire version so far.
pub const WIRE_VERSION: u8 = 1;

/// Records a direction between two `Rekey()`s (parameters, 1.2: 2^16, hence 1 GiB at most). Both sides count, so it
/// is part of the protocol; a node that sets another number talks only to its like.
pub const REKEY_EVERY: u64 = 1 << 16;

/// How long the budget may refuse before the connection ends. Longer than a message may stand still (`pace.rs`), so that
/// whoever holds memory for nothing goes before whoever waits for it.
const BUDGET_PATIENCE: Duration = Duration::from_secs(15);

/// What all connections of a node share; one `Arc` of it per node.
///
/// [`new`](Self::new) fills in what rarely differs; the fields are public so that the rest can be set before it is
/// shared.
#[derive(Debug)]
pub struct ConnectionConfig {
    /// Who this node is.
    pub keypair: Arc<Keypair>,
    /// The network that it belongs to; peers of another are refused.
    pub network: NetworkId,
    /// The kind of that network; whoever sends another magic gets no answer.
    pub magic: Magic,
    /// The lowest and the highest wire version that the node speaks.
    pub versions: (u8, u8),
    /// Feature bits that the node offers, 56 of them: the top byte carries the agreed version on the wire and is ignored.
    /// [`COMPRESSION`](super::COMPRESSION) says that it takes compressed bodies, and sends them to who takes them too; a build
    /// without the feature `lz4` never offers that one. None by default.
    pub features: u64,
    /// Where the node listens, to tell the peers; the first four count.
    pub listen: Vec<SocketAddr>,
    /// How long a message of each command may be. A command that no table names is skipped on arrival.
    pub limits: Arc<Limits>,
    /// Requests that may come, and go, with message 1 of IK, before anybody has shown to be there: what answers one must change
    /// nothing by it, and ask nothing of who asks but the name that message 1 claims: only who has that name reads the answer. None
    /// by default.
    ///
    /// Whoever is asked so and has not named the command, whether it knows it or not, ends the handshake with `bad_handshake`.
    /// So a command that is added here is asked so, by [`Want::Ask`](peerage_core::Want::Ask), when all nodes have it here.
    pub early: Vec<Command>,
    /// Pays for messages while they arrive and until the stack is done with them.
    pub budget: Budget,
    /// The X25519 key of this process.
    pub static_key: DhKeypair,
    /// How long a handshake may take, from the stream's beginning (parameters, 1.1: 5 s).
    pub handshake_deadline: Duration,
    /// How much silence of the peer makes us ping (parameters, 1.3: 30 s).
    pub heartbeat_interval: Duration,
    /// How much silence of the peer ends the connection (parameters, 1.3: 90 s).
    pub dead_after: Duration,
    /// While a message is incomplete, 10 KiB at least must arrive in each window of this length, whatever they are
    /// (parameters, 1.3: slower than 1 KiB/s over 10 s ends the connection).
    pub stall_window: Duration,
    /// How long the budget may refuse a message that arrives before the connection ends: 15 s by default.
    pub budget_patience: Duration,
    /// Records a direction between two rekeys: [`REKEY_EVERY`], except in tests.
    pub rekey_every: u64,
}

impl ConnectionConfig {
    /// The usual configuration of a node that listens nowhere. Draws the static key of this process from `rng`.
    pub fn new(
        keypair: Arc<Keypair>,
        network: NetworkId,
        magic: Magic,
        limits: Arc<Limits>,
        budget: Budget,
        rng: &mut impl CryptoRng,
    ) -> Self {
        Self {
            keypair,
            network,
            magic,
            versions: (WIRE_VERSION, WIRE_VERSION),
            features: 0,
            listen: Vec::new(),
            limits,
            early: Vec::new(),
            budget,
            static_key: DhKeypair::generate(rng),
            handshake_deadline: Duration::from_secs(5),
            heartbeat_interval: Duration::from_secs(30),
            dead_after: Duration::from_secs(90),
            stall_window: Duration::from_secs(10),
            budget_patience: BUDGET_PATIENCE,
            rekey_every: REKEY_EVERY,
        }
    }

    /// The feature bits that are offered in fact.
    pub(super) const fn offered(&self) -> u64 {
        let possible = if compress::AVAILABLE { u64::MAX } else { !COMPRESSION };
        self.features & possible & FEATURES
    }

    /// Whether a connection sends this message at all, and its other side takes it.
    ///
    /// # Errors
    /// Why not: `UnknownCommand` (no table of limits names it) or `TooLong`; the sender's fault.
    pub fn permits(&self, message: &Message) -> Result<(), DropReason> {
        if !self.limits.knows(message.command) {
            return Err(DropReason::UnknownCommand);
        }
        if self.allows(message) { Ok(()) } else { Err(DropReason::TooLong) }
    }

    /// Whether a connection sends this message: neither longer than its command allows nor than its class ever has
    /// credit for, and not of class `Control`, which is the transport's own. What is not allowed is dropped, a request
    /// with [`DropReason::TooLong`](peerage_core::DropReason::TooLong), so ask before.
    pub fn allows(&self, message: &Message) -> bool {
        let class = message.command.class();
        class != Class::Control
            && message.len() <= self.limits.of(message.command)
            && credit::cost(message.len()) <= credit::largest(class)
    }
}
