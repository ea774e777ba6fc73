//! The node that the crowd comes to: the real driver and peer manager below a protocol that answers questions.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use peerage_core::{
    Action, Budget, Class, Command, Done, DropReason, JobId, Layer, Message, NetworkEvent, NoJob, NodeId, Now,
    Protocol, SecretRng, Seed, Stack, Timestamp,
};
use peerage_transport::{
    driver::{self, Clock, DriverConfig, Handle, NoiseChannel, TcpFabric},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        keypair::Keypair,
        managed::Managed,
        peer_manager::{AddressPolicy, PeerManager, PeerManagerConfig},
    },
};
use peerage_wire::{Limits, Magic, limits::MAX_CONTENT};

use crate::victim::{Plan, network};

/// The budget, and the peers that it has floors for: all who come, and places that stay free for those whom the node chooses.
pub(super) const CAP: usize = 64 << 20;
pub(super) const MAX_PEERS: usize = 224;

const fn command(index: u8, class: Class) -> Command {
    Command::new(Layer::Application, index, class)
}

/// A notification that is counted.
pub(super) const NOTE: Command = command(1, Class::Signal);
/// A request that is answered with its own bytes.
pub(super) const ECHO: Command = command(2, Class::Signal);
/// A request that is answered with [`ANSWER`] bytes.
pub(super) const ASK: Command = command(3, Class::Signal);
/// What no one answers and may be long.
pub(super) const ITEM: Command = command(4, Class::Gossip);
pub(super) const BULK: Command = command(5, Class::Bulk);
/// The answers' class is another than the questions'.
const TOLD: Command = command(6, Class::Gossip);
/// A long answer.
pub(super) const ANSWER: usize = 32 << 10;

const LIMITS: &[(Command, u32)] = &[
    (NOTE, 4 << 10),
    (ECHO, 4 << 10),
    (ASK, 64),
    (ITEM, MAX_CONTENT as u32),
    (BULK, MAX_CONTENT as u32),
    (TOLD, ANSWER as u32),
];

/// What it saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Notes that arrived.
    pub(super) notes: AtomicU64,
    /// Short messages that could not be sent.
    pub(super) unanswered: AtomicU64,
    /// Messages that were dropped because their recipient owed most.
    pub(super) shed: AtomicU64,
}

pub(super) struct Desk {
    actions: VecDeque<Action<Self>>,
    seen: Arc<Seen>,
}

impl Protocol for Desk {
    type Command = ();
    type Event = ();
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::Message { message: Message { command: NOTE, .. }, .. } => {
                self.seen.notes.fetch_add(1, Relaxed);
            }
            NetworkEvent::Request { peer, id, message, .. } => {
                let answer = match message.command {
                    ECHO => message,
                    // Bytes of their own: shared ones would be no memory.
                    _ => Message::new(TOLD, vec![7; ANSWER]),
                };
                self.actions.push_back(Action::Respond { to: peer, id, message: answer });
            }
            NetworkEvent::Dropped { command: ECHO, .. } => drop(self.seen.unanswered.fetch_add(1, Relaxed)),
            NetworkEvent::Dropped { reason: DropReason::Shed, .. } => drop(self.seen.shed.fetch_add(1, Relaxed)),
            _ => {}
        }
    }

    fn handle_command(&mut self, _: Now, (): ()) {}

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

pub(super) fn identity() -> NodeId {
    keypair().node_id()
}

fn keypair() -> Keypair {
    Keypair::from_seed(&[98; 32])
}

pub(super) async fn start(plan: Plan, seen: Arc<Seen>) -> (Handle<Managed<Desk>>, Budget) {
    // Without charging: the same ledger, with a cap that nothing reaches.
    let budget = if plan.charging { Budget::with_floors(CAP, MAX_PEERS) } else { Budget::new(usize::MAX / 2) };
    let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let peers = PeerManagerConfig {
        addresses: AddressPolicy::Loopback,
        max_peers: MAX_PEERS,
        ..PeerManagerConfig::new(identity())
    };
    let stack =
        Stack::new(Managed::new(PeerManager::new(peers, &Seed::from_u64(7)), Desk { actions: VecDeque::new(), seen }));
    let limits = Arc::new(Limits::new(&[LIMITS]));
    let mut rng = SecretRng::from_os();
    let connection =
        ConnectionConfig::new(Arc::new(keypair()), network(), Magic::DEV, limits, budget.clone(), &mut rng);
    let admission = AdmissionConfig { loopback_exempt: true, ..AdmissionConfig::default() };
    let config = DriverConfig { budget: budget.clone(), clock: Clock::start(), admission, ..DriverConfig::default() };
    let security = Arc::new(NoiseChannel::new(Arc::new(connection)));
    let handle = driver::spawn(config, Arc::new(fabric), security, stack, (), |_| ()).expect("threads");
    (handle, budget)
}
