//! Our side of a comparison: whole stacks on loopback sockets, with a protocol that makes load.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use peerage_core::{
    Action, Class, Command, Done, DropReason, JobId, Layer, Message, NetworkEvent, NetworkId, NoJob, NodeId, Now,
    PerClass, Protocol, RequestId, SecretRng, Seed, Stack, Timestamp,
};
use peerage_transport::{
    driver::{self, DriverConfig, Handle, NoiseChannel, TcpFabric},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        inflow::InflowConfig,
        keypair::Keypair,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{AddressPolicy, KnownPeer, PeerManager, PeerManagerConfig},
    },
};
use peerage_wire::{Limits, Magic, limits::MAX_CONTENT};
use tokio::sync::{mpsc, oneshot};

const fn command(index: u8, class: Class) -> Command {
    Command::new(Layer::Application, index, class)
}

/// Carries the time at which it was sent.
pub(crate) const VOTE: Command = command(0, Class::Consensus);
/// A request that is answered with its own payload.
pub(crate) const ECHO: Command = command(1, Class::Signal);
/// A small notification.
pub(crate) const ITEM: Command = command(2, Class::Gossip);
/// A piece of a large transfer.
pub(crate) const PIECE: Command = command(3, Class::Bulk);
/// So many notifications have arrived.
const ACK: Command = command(4, Class::Signal);

const LIMITS: &[(Command, u32)] =
    &[(VOTE, 64 << 10), (ECHO, 64 << 10), (ITEM, MAX_CONTENT as u32), (PIECE, MAX_CONTENT as u32), (ACK, 16)];

static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds on a clock that all nodes of this process share.
pub(crate) fn nanos() -> u64 {
    u64::try_from(EPOCH.elapsed().as_nanos()).expect("the program does not run for centuries")
}

/// A message of `len` bytes that begins with the present time.
pub(crate) fn stamped(command: Command, len: usize) -> Message {
    let mut bytes = vec![5; len];
    bytes[..8].copy_from_slice(&nanos().to_be_bytes());
    Message::new(command, bytes)
}

/// How a sender keeps within what may wait for a peer, as any application must: the receiver tells how much has arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    /// Notifications that may be under way.
    pub(crate) window: u64,
    /// The receiver acknowledges every so many.
    pub(crate) every: u64,
}

/// What is asked of a node.
pub(crate) enum Do {
    /// Send one notification.
    Send(NodeId, Message),
    /// Ask, and tell the sender once the answer is there.
    Ask(NodeId, Message, oneshot::Sender<()>),
    /// Send the same notification so often, as fast as the window permits.
    Stream { to: NodeId, message: Message, count: u64, window: u64 },
    /// Stop all streams.
    Stop,
    /// Acknowledge every so many notifications, and tell when `count` have arrived.
    Expect { every: u64, count: u64 },
}

/// What a node tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Saw {
    Up(NodeId),
    /// The peer has so many of our notifications.
    Acked(u64),
    /// All that was expected has arrived.
    Finished,
    /// A vote, so many nanoseconds after it was sent.
    Vote(u64),
}

struct Streaming {
    message: Message,
    left: u64,
    unacked: u64,
    window: u64,
}

/// Makes load, and takes it.
#[derive(Default)]
pub(crate) struct Load {
    actions: VecDeque<Action<Self>>,
    asked: BTreeMap<u64, oneshot::Sender<()>>,
    next_ask: u64,
    streams: BTreeMap<NodeId, Streaming>,
    arrived: u64,
    every: u64,
    expected: u64,
}

impl Load {
    fn pump(&mut self, to: NodeId) {
        let Some(stream) = self.streams.get_mut(&to) else { return };
        while stream.left > 0 && stream.unacked < stream.window {
            stream.left -= 1;
            stream.unacked += 1;
            self.actions.push_back(Action::Send { to: vec![to], message: stream.message.clone() });
        }
        if stream.left == 0 {
            self.streams.remove(&to);
        }
    }

    fn notified(&mut self, peer: NodeId, message: &Message) {
        match message.command {
            VOTE => {
                let sent = u64::from_be_bytes(*message.head.first_chunk().expect("a vote begins with its time"));
                self.actions.push_back(Action::Emit(Saw::Vote(nanos() - sent)));
            }
            ACK => {
                let count = u64::from_be_bytes(*message.head.first_chunk().expect("a number"));
                if let Some(stream) = self.streams.get_mut(&peer) {
                    stream.unacked -= count;
                    self.pump(peer);
                }
                self.actions.push_back(Action::Emit(Saw::Acked(count)));
            }
            _ => {
                self.arrived += 1;
                if self.every > 0 && self.arrived.is_multiple_of(self.every) {
                    let ack = Message::new(ACK, self.every.to_be_bytes().to_vec());
                    self.actions.push_back(Action::Send { to: vec![peer], message: ack });
                }
                if self.arrived == self.expected {
                    self.actions.push_back(Action::Emit(Saw::Finished));
                }
            }
        }
    }
}

impl Protocol for Load {
    type Command = Do;
    type Event = Saw;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        match event {
            NetworkEvent::PeerUp { peer, .. } => self.actions.push_back(Action::Emit(Saw::Up(peer))),
            NetworkEvent::Message { peer, message, .. } => self.notified(peer, &message),
            NetworkEvent::Request { peer, id, message, .. } => {
                self.actions.push_back(Action::Respond { to: peer, id, message });
            }
            NetworkEvent::Response { id, result, .. } => {
                assert!(result.is_ok(), "{result:?}");
                if let Some(asker) = self.asked.remove(&id.0) {
                    asker.send(()).expect("the asker waits");
                }
            }
            NetworkEvent::Dropped { reason: reason @ (DropReason::PeerOverLimit | DropReason::OverBudget), .. } => {
                panic!("the window is too large: {reason:?}")
            }
            NetworkEvent::PeerDown { closed, .. } if !self.streams.is_empty() => panic!("a connection ended: {closed}"),
            _ => {}
        }
    }

    fn handle_command(&mut self, _: Now, what: Do) {
        match what {
            Do::Send(to, message) => self.actions.push_back(Action::Send { to: vec![to], message }),
            Do::Ask(to, message, asker) => {
                self.next_ask += 1;
                self.asked.insert(self.next_ask, asker);
                let (id, timeout) = (RequestId(self.next_ask), Duration::from_secs(30));
                self.actions.push_back(Action::Request { to, id, message, timeout });
            }
            Do::Stream { to, message, count, window } => {
                self.streams.insert(to, Streaming { message, left: count, unacked: 0, window });
                self.pump(to);
            }
            Do::Stop => self.streams.clear(),
            Do::Expect { every, count } => (self.arrived, self.every, self.expected) = (0, every, count),
        }
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, _: JobId, _: Done<Self>) {}

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

/// The network that all nodes here belong to.
pub(crate) const NETWORK: NetworkId = NetworkId::from_bytes([1; 32]);

/// Limits that nothing here reaches: what is measured is the work, not the brakes.
pub(crate) fn unhindered() -> DriverConfig {
    let admission =
        AdmissionConfig { loopback_exempt: true, max_links: 1 << 20, half_open: 1 << 12, ..Default::default() };
    let inflow = InflowConfig { rate: PerClass([1 << 40; 5]), burst: PerClass([1 << 40; 5]) };
    DriverConfig { admission, inflow, ..DriverConfig::default() }
}

/// What the connections of the node with these keys share.
pub(crate) fn connection_config(keypair: Arc<Keypair>, driver: &DriverConfig) -> ConnectionConfig {
    let limits = Arc::new(Limits::new(&[LIMITS]));
    let mut rng = SecretRng::from_os();
    let config = ConnectionConfig::new(keypair, NETWORK, Magic::DEV, limits, driver.budget.clone(), &mut rng);
    ConnectionConfig { early: vec![ECHO], ..config }
}

/// A stack on a socket of loopback.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) handle: Handle<Managed<Load>>,
    pub(crate) saw: mpsc::UnboundedReceiver<Saw>,
}

impl Node {
    /// A node with the keys of `number` that dials `friends`.
    pub(crate) async fn start(number: u64, friends: Vec<KnownPeer>, heartbeat: Duration) -> Self {
        let keypair = Arc::new(Keypair::from_seed(&seed(number)));
        let id = keypair.node_id();
        let driver = unhindered();
        let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let mut security = connection_config(keypair, &driver);
        security.heartbeat_interval = heartbeat;
        let peers = PeerManagerConfig {
            addresses: AddressPolicy::Loopback,
            // So that none is one too many, whoever dialled.
            max_peers: 1 << 21,
            target_outbound: 1 << 20,
            // Whom a row wants once is there to stay, however long it takes until all are.
            idle_timeout: Duration::from_secs(3600),
            reserved: friends,
            ..PeerManagerConfig::new(id)
        };
        let stack = Stack::new(Managed::new(PeerManager::new(peers, &Seed::from_u64(number)), Load::default()));
        let (sender, saw) = mpsc::unbounded_channel();
        let on_event = move |event| {
            if let ManagedEvent::Upper(event) = event {
                // Whoever measures may have seen enough.
                let _unheard = sender.send(event);
            }
        };
        let channel = Arc::new(NoiseChannel::new(Arc::new(security)));
        let handle =
            driver::spawn(driver, Arc::new(fabric), channel, stack, (), on_event).expect("threads can be started");
        let addr = handle.local_addr();
        Self { id, addr, handle, saw }
    }

    /// How others know it.
    pub(crate) fn known(&self) -> KnownPeer {
        KnownPeer { peer: self.id, addrs: vec![self.addr] }
    }

    pub(crate) async fn order(&self, what: Do) {
        order(&self.handle, what).await;
    }

    /// Waits for something of which `take` makes a value.
    pub(crate) async fn see<T>(&mut self, take: impl Fn(Saw) -> Option<T>) -> T {
        loop {
            let saw = tokio::time::timeout(Duration::from_secs(60), self.saw.recv()).await;
            if let Some(value) = take(saw.expect("it does not take a minute").expect("the stack runs")) {
                return value;
            }
        }
    }

    pub(crate) async fn see_up(&mut self) -> NodeId {
        self.see(|saw| if let Saw::Up(peer) = saw { Some(peer) } else { None }).await
    }
}

/// Gives a node an order through its handle.
pub(crate) async fn order(handle: &Handle<Managed<Load>>, what: Do) {
    handle.command(ManagedCommand::Upper(what)).await.expect("the stack runs");
}

/// The keys of the node with this number.
pub(crate) fn seed(number: u64) -> [u8; 32] {
    let mut seed = [7; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    seed
}

/// Two nodes with a connection; the second one dialled.
pub(crate) async fn pair() -> (Node, Node) {
    let heartbeat = Duration::from_secs(30);
    let mut a = Node::start(1, Vec::new(), heartbeat).await;
    let mut b = Node::start(2, vec![a.known()], heartbeat).await;
    b.see_up().await;
    a.see_up().await;
    (a, b)
}

/// A message of `len` bytes, which all who send it share.
pub(crate) fn filled(command: Command, len: usize) -> Message {
    Message::with_body(command, Bytes::new(), vec![7; len])
}
