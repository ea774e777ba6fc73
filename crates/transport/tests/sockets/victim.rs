//! The node under attack: the real driver on TCP, and a protocol that echoes requests and tells what it saw.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use peerage_core::*;
use peerage_transport::{
    driver::{self, DriverConfig, Fabric, Handle, NoiseChannel, SecureChannel, TcpFabric},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        keypair::Keypair,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{AddressPolicy, KnownPeer, PeerCommand, PeerManager, PeerManagerConfig},
        recorder::Happening,
    },
};
use peerage_wire::{Limits, Magic, RecordKind, limits::MAX_CONTENT};
use tokio::sync::mpsc;

use crate::{hand::Hand, stage::in_time};

const fn command(index: u8, class: Class) -> Command {
    Command::new(Layer::Application, index, class)
}

pub(crate) const VOTE: Command = command(0, Class::Consensus);
pub(crate) const NOTE: Command = command(1, Class::Signal);
pub(crate) const ITEM: Command = command(2, Class::Gossip);
pub(crate) const BULK: Command = command(3, Class::Bulk);
/// A request that is answered with its own payload.
pub(crate) const ECHO: Command = command(4, Class::Signal);
/// A command that no table names.
pub(crate) const UNHEARD_OF: Command = command(7, Class::Signal);

pub(crate) const LIMITS: &[(Command, u32)] =
    &[(VOTE, 64 << 10), (NOTE, 32 << 10), (ITEM, MAX_CONTENT as u32), (BULK, MAX_CONTENT as u32), (ECHO, 32 << 10)];

/// The network of all stories.
pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

/// What the victim's protocol saw.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Saw {
    Up(NodeId),
    Down(NodeId, Closed),
    DialFailed(Closed),
    Message(NodeId, Command),
    Dropped(NodeId, DropReason),
    /// A question from somebody who says that it is this node.
    Early(NodeId),
    Response(Result<Message, RequestError>),
}

/// What the test asks of it.
pub(crate) enum Do {
    Send(NodeId, Message),
    Request(NodeId, Message, Duration),
    /// Answer a question that perhaps nobody asked.
    Respond(NodeId, RequestId, Message),
}

#[derive(Default)]
pub(crate) struct Echo(VecDeque<Action<Self>>);

impl Protocol for Echo {
    type Command = Do;
    type Event = Saw;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        let saw = match event {
            NetworkEvent::PeerUp { peer, .. } => Saw::Up(peer),
            NetworkEvent::PeerDown { peer, closed } => Saw::Down(peer, closed),
            NetworkEvent::DialFailed { closed, .. } => Saw::DialFailed(closed),
            NetworkEvent::Message { peer, message, .. } => Saw::Message(peer, message.command),
            NetworkEvent::Request { peer, id, message, .. } => {
                return self.0.push_back(Action::Respond { to: peer, id, message });
            }
            NetworkEvent::Early { claims, id, message, .. } => {
                self.0.push_back(Action::Respond { to: claims, id, message });
                Saw::Early(claims)
            }
            NetworkEvent::Response { result, .. } => Saw::Response(result.map(|(message, _)| message)),
            NetworkEvent::Dropped { peer, reason, .. } => Saw::Dropped(peer, reason),
            _ => return,
        };
        self.0.push_back(Action::Emit(saw));
    }

    fn handle_command(&mut self, _: Now, what: Do) {
        self.0.push_back(match what {
            Do::Send(to, message) => Action::Send { to: vec![to], message },
            Do::Respond(to, id, message) => Action::Respond { to, id, message },
            Do::Request(to, message, timeout) => Action::Request { to, id: RequestId(0), message, timeout },
        });
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.0.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

/// How the victim is set up; what rarely differs is filled in. Everybody is on loopback, so the limits by address are
/// lifted unless the story is about them.
pub(crate) struct Plan {
    pub(crate) connection: ConnectionConfig,
    pub(crate) driver: DriverConfig,
    /// How its peer manager behaves; who it is and which addresses it may dial are filled in.
    pub(crate) peers: PeerManagerConfig,
    /// Whom it dials.
    pub(crate) dials: Vec<KnownPeer>,
}

pub(crate) fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

/// The identity of every victim.
pub(crate) const VICTIM: u8 = 200;

impl Plan {
    pub(crate) fn new() -> Self {
        Self::of(VICTIM)
    }

    /// The same for a node with another identity.
    pub(crate) fn of(number: u8) -> Self {
        let admission = AdmissionConfig { loopback_exempt: true, ..AdmissionConfig::default() };
        let driver = DriverConfig { admission, ..DriverConfig::default() };
        let connection = configuration(keypair(number), driver.budget.clone());
        let peers = PeerManagerConfig::new(connection.keypair.node_id());
        Self { connection, driver, peers, dials: Vec::new() }
    }

    /// Limits by address as on an open port.
    pub(crate) fn open_port(change: impl FnOnce(&mut AdmissionConfig)) -> Self {
        let mut plan = Self::new();
        plan.driver.admission = AdmissionConfig::default();
        change(&mut plan.driver.admission);
        plan
    }

    /// A victim that dials this peer here.
    pub(crate) fn dialling(peer: NodeId, addr: SocketAddr) -> Self {
        let mut plan = Self::new();
        plan.dials = vec![KnownPeer { peer, addrs: vec![addr] }];
        plan
    }

    pub(crate) async fn start(self) -> Victim {
        let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        self.start_on(fabric)
    }

    pub(crate) fn start_on(self, fabric: TcpFabric) -> Victim {
        self.start_over(fabric, |connection| Arc::new(NoiseChannel::new(connection)))
    }

    /// Starts with what is to secure its connections.
    pub(crate) fn start_over(
        self,
        fabric: TcpFabric,
        channel: impl FnOnce(Arc<ConnectionConfig>) -> Arc<dyn SecureChannel>,
    ) -> Victim {
        let (addr, budget) = (fabric.local_addr(), self.driver.budget.clone());
        let id = self.connection.keypair.node_id();
        let peers =
            PeerManagerConfig { local: id, addresses: AddressPolicy::Loopback, reserved: self.dials, ..self.peers };
        let peers = PeerManager::new(peers, &Seed::from_u64(7));
        let stack = Stack::new(Managed::new(peers, Echo::default()));
        let (sender, events) = mpsc::unbounded_channel();
        let channel = channel(Arc::new(self.connection));
        let handle = driver::spawn(self.driver, Arc::new(fabric), channel, stack, (), move |event| {
            if let ManagedEvent::Upper(saw) = event {
                // The story may have seen enough.
                let _unheard = sender.send(saw);
            }
        });
        Victim { addr, id, budget, handle: handle.expect("threads can be started"), events, unread: VecDeque::new() }
    }
}

/// The configuration of anybody here.
pub(crate) fn configuration(keypair: Keypair, budget: Budget) -> ConnectionConfig {
    let limits = Arc::new(Limits::new(&[LIMITS]).with_public(&[&[ITEM, BULK]]));
    let mut rng = SecretRng::from_os();
    let config = ConnectionConfig::new(Arc::new(keypair), NETWORK, Magic::DEV, limits, budget, &mut rng);
    ConnectionConfig { early: vec![ECHO], ..config }
}

pub(crate) struct Victim {
    pub(crate) addr: SocketAddr,
    pub(crate) id: NodeId,
    pub(crate) budget: Budget,
    pub(crate) handle: Handle<Managed<Echo>>,
    events: mpsc::UnboundedReceiver<Saw>,
    /// What was seen and is to be seen once more.
    unread: VecDeque<Saw>,
}

impl Victim {
    pub(crate) async fn start() -> Self {
        Plan::new().start().await
    }

    pub(crate) async fn order(&self, what: Do) {
        self.handle.command(ManagedCommand::Upper(what)).await.expect("the stack runs");
    }

    pub(crate) async fn order_peers(&self, what: PeerCommand) {
        self.handle.command(ManagedCommand::Peers(what)).await.expect("the stack runs");
    }

    /// What its flight recorder has of somebody, the oldest first.
    pub(crate) async fn flight(&self, peer: NodeId) -> Vec<Happening> {
        let look = move |stack: &Managed<Echo>| stack.recorder().flight(&peer).map(|entry| entry.what).collect();
        self.handle.inspect(look).await.expect("the stack runs")
    }

    /// Waits until it saw something.
    pub(crate) async fn see(&mut self, what: &str, is: impl Fn(&Saw) -> bool) -> Saw {
        loop {
            let saw = match self.unread.pop_front() {
                Some(saw) => saw,
                None => in_time(what, self.events.recv()).await.expect("the stack runs"),
            };
            if is(&saw) {
                return saw;
            }
        }
    }

    /// Puts back what was seen, for somebody else to see.
    pub(crate) fn again(&mut self, saw: Saw) {
        self.unread.push_front(saw);
    }

    /// Somebody who speaks by hand, once it counts: what it says next finds it a peer, and its end is told.
    pub(crate) async fn meets(&mut self, number: u8) -> Hand {
        let hand = Hand::shake(self.addr, number).await;
        self.see("whoever speaks by hand", |saw| *saw == Saw::Up(hand.id)).await;
        hand
    }

    pub(crate) async fn see_down(&mut self, peer: NodeId) -> Closed {
        match self.see("a peer down", |saw| matches!(saw, Saw::Down(down, _) if *down == peer)).await {
            Saw::Down(_, closed) => closed,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn see_dial_failed(&mut self) -> Closed {
        match self.see("a dial that failed", |saw| matches!(saw, Saw::DialFailed(_))).await {
            Saw::DialFailed(closed) => closed,
            other => unreachable!("{other:?}"),
        }
    }

    /// What it saw and the story has not taken.
    pub(crate) fn rest(&mut self) -> Vec<Saw> {
        self.unread.drain(..).chain(std::iter::from_fn(|| self.events.try_recv().ok())).collect()
    }

    /// The end of a story: those who are still there take leave, and nothing that was kept for anybody is left.
    pub(crate) async fn ends_clean(self, here: impl IntoIterator<Item = Hand>) {
        for mut hand in here {
            hand.send(RecordKind::Close, &[CloseReason::Shutdown.code()]).await;
        }
        crate::stage::eventually("all are gone", || self.handle.links().is_empty()).await;
        self.handle.shutdown().await;
        crate::stage::eventually("all is given back", || self.budget.report().resident == 0).await;
    }
}
