//! A node of the stories: a probe over the peer manager over the driver.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use peerage_core::*;
use peerage_transport::{
    driver::{self, DriverConfig, Fabric, Handle, MemoryNetwork, NoiseChannel, SecureChannel, TcpFabric},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        inflow::InflowConfig,
        keypair::Keypair,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{AddressPolicy, BookLine, KnownPeer, PeerCommand, PeerEvent, PeerManager, PeerManagerConfig},
    },
};
use peerage_wire::{Limits, Magic};
use tokio::sync::mpsc;

#[cfg(feature = "tls")]
use crate::authority::Authority;
#[cfg(feature = "tls")]
use peerage_transport::driver::{Clock, tls::TlsChannel};

use crate::probe::{BULK, Disk, Do, ECHO, ITEM, LIMITS, Probe, Saw};

/// What waits longer fails: far beyond what any of it takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where streams come from.
#[derive(Clone)]
pub(crate) enum Net {
    Memory(MemoryNetwork),
    Tcp,
    /// TCP with mutual TLS in place of Noise.
    #[cfg(feature = "tls")]
    Tls(Arc<Authority>),
}

impl Net {
    /// One of each kind, for stories that must hold on both.
    pub(crate) fn both() -> [Self; 2] {
        [Self::memory(), Self::Tcp]
    }

    /// The same, and over TLS if there is TLS.
    pub(crate) fn all() -> Vec<Self> {
        let nets = Self::both().into_iter();
        #[cfg(feature = "tls")]
        let nets = nets.chain([Self::Tls(Arc::new(Authority::new("of the stories")))]);
        nets.collect()
    }

    /// What secures the streams of the node with this configuration.
    fn security(&self, config: Arc<ConnectionConfig>) -> Arc<dyn SecureChannel> {
        match self {
            Self::Memory(_) | Self::Tcp => Arc::new(NoiseChannel::new(config)),
            #[cfg(feature = "tls")]
            Self::Tls(authority) => {
                let files = authority.member(config.keypair.node_id());
                Arc::new(TlsChannel::new(config, files, Clock::start().now()).expect("a certificate that counts"))
            }
        }
    }

    pub(crate) fn memory() -> Self {
        Self::Memory(MemoryNetwork::new())
    }

    /// Joins at `addr`; with port 0 anywhere.
    pub(crate) async fn bind(&self, mut addr: SocketAddr) -> Arc<dyn Fabric> {
        match self {
            Self::Memory(network) => loop {
                match network.bind(addr) {
                    Ok(fabric) if addr.port() > 0 => return fabric,
                    _ => addr.set_port(addr.port().max(4_000) + 1),
                }
            },
            _ => Arc::new(TcpFabric::bind(addr).await.expect("the address is free")),
        }
    }
}

pub(crate) fn anywhere() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub(crate) fn network_id(number: u8) -> NetworkId {
    NetworkId::from_bytes([number; 32])
}

/// How a node is started; what rarely differs is filled in.
pub(crate) struct Plan {
    pub(crate) keypair: Arc<Keypair>,
    pub(crate) network: u8,
    pub(crate) peers: PeerManagerConfig,
    pub(crate) driver: DriverConfig,
    pub(crate) heartbeat: Duration,
    pub(crate) commands: Vec<(Command, u32)>,
    /// What it offers.
    pub(crate) features: u64,
}

impl Plan {
    /// A node that knows nobody. Its dice and keys follow from `number`.
    pub(crate) fn new(number: u8) -> Self {
        let keypair = Arc::new(Keypair::from_seed(&[number; 32]));
        let peers = PeerManagerConfig {
            addresses: AddressPolicy::Loopback,
            target_outbound: 4,
            ..PeerManagerConfig::new(keypair.node_id())
        };
        let admission = AdmissionConfig { loopback_exempt: true, ..AdmissionConfig::default() };
        // Faster than any machine, so that nothing but credit slows a peer down.
        let inflow = InflowConfig { rate: PerClass([1 << 40; 5]), burst: PerClass([1 << 40; 5]) };
        let driver = DriverConfig { admission, inflow, ..DriverConfig::default() };
        Self {
            keypair,
            network: 1,
            peers,
            driver,
            heartbeat: Duration::from_secs(30),
            commands: LIMITS.to_vec(),
            features: 0,
        }
    }

    /// A node that dials `friends`.
    pub(crate) fn knowing(number: u8, friends: impl IntoIterator<Item = KnownPeer>) -> Self {
        let mut plan = Self::new(number);
        plan.peers.reserved = friends.into_iter().collect();
        plan
    }

    pub(crate) fn id(&self) -> NodeId {
        self.keypair.node_id()
    }

    /// What connections of this node share.
    pub(crate) fn security(&self, listen: SocketAddr) -> Arc<ConnectionConfig> {
        let (keypair, limits) =
            (Arc::clone(&self.keypair), Arc::new(Limits::new(&[&self.commands]).with_public(&[&[ITEM, BULK]])));
        let budget = self.driver.budget.clone();
        let network = network_id(self.network);
        let mut rng = SecretRng::from_os();
        let mut config = ConnectionConfig::new(keypair, network, Magic::DEV, limits, budget, &mut rng);
        config.listen = vec![listen];
        config.features = self.features;
        config.heartbeat_interval = self.heartbeat;
        config.early = vec![ECHO];
        Arc::new(config)
    }

    pub(crate) async fn start(self, net: &Net) -> Node {
        let fabric = net.bind(anywhere()).await;
        self.start_on(net, fabric)
    }

    pub(crate) fn start_on(self, net: &Net, fabric: Arc<dyn Fabric>) -> Node {
        let security = net.security(self.security(fabric.local_addr()));
        self.start_with(security, fabric)
    }

    /// Starts with a channel of one's own.
    pub(crate) fn start_with(self, security: Arc<dyn SecureChannel>, fabric: Arc<dyn Fabric>) -> Node {
        let (id, addr) = (self.id(), fabric.local_addr());
        let peers = PeerManager::new(self.peers, &Seed::from_bytes(*id.as_bytes()));
        let stack = Stack::new(Managed::new(peers, Probe::default()));
        let (sender, events) = mpsc::unbounded_channel();
        let budget = self.driver.budget.clone();
        let handle = driver::spawn(self.driver, fabric, security, stack, Disk::new(), move |event| {
            // The test may have seen enough.
            let _unheard = sender.send(event);
        });
        let handle = handle.expect("threads can be started");
        Node { id, addr, budget, handle, events, unread: Vec::new(), remembered: Vec::new() }
    }
}

/// A running node and what it saw.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) budget: Budget,
    pub(crate) handle: Handle<Managed<Probe>>,
    events: mpsc::UnboundedReceiver<ManagedEvent<Saw>>,
    /// What was seen while something else was waited for.
    unread: Vec<Saw>,
    /// The list that its peer manager gave last.
    pub(crate) remembered: Vec<BookLine>,
}

impl Node {
    /// How others know it.
    pub(crate) fn known(&self) -> KnownPeer {
        KnownPeer { peer: self.id, addrs: vec![self.addr] }
    }

    pub(crate) async fn order(&self, what: Do) {
        self.handle.command(ManagedCommand::Upper(what)).await.expect("the stack runs");
    }

    pub(crate) async fn order_peers(&self, what: PeerCommand) {
        self.handle.command(ManagedCommand::Peers(what)).await.expect("the stack runs");
    }

    pub(crate) async fn send(&self, to: &Self, message: Message) {
        self.order(Do::Send(vec![to.id], message)).await;
    }

    fn note(&mut self, event: ManagedEvent<Saw>) -> Saw {
        match event {
            ManagedEvent::Upper(saw) => saw,
            ManagedEvent::Peers(PeerEvent::Remember(list)) => {
                self.remembered = list;
                Saw::Remember(self.remembered.len())
            }
            ManagedEvent::Peers(_) => Saw::Manager,
        }
    }

    /// The first thing seen, and not returned before, that `is` what the test waits for.
    pub(crate) async fn see(&mut self, what: &str, is: impl Fn(&Saw) -> bool) -> Saw {
        if let Some(place) = self.unread.iter().position(&is) {
            return self.unread.remove(place);
        }
        loop {
            let Ok(event) = tokio::time::timeout(PATIENCE, self.events.recv()).await else {
                let last = self.unread.len().saturating_sub(20);
                panic!("{}: waited in vain for {what}; last seen: {:#?}", self.id.short(), &self.unread[last..]);
            };
            let saw = self.note(event.expect("the stack runs"));
            if is(&saw) {
                return saw;
            }
            self.unread.push(saw);
        }
    }

    pub(crate) async fn see_up(&mut self, peer: NodeId) -> LinkInfo {
        match self.see("a peer up", |saw| matches!(saw, Saw::Up(up, _) if *up == peer)).await {
            Saw::Up(_, info) => info,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn see_down(&mut self, peer: NodeId) -> Closed {
        match self.see("a peer down", |saw| matches!(saw, Saw::Down(down, _) if *down == peer)).await {
            Saw::Down(_, closed) => closed,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn see_dial_failed(&mut self) -> Closed {
        match self.see("a dial that failed", |saw| matches!(saw, Saw::DialFailed(..))).await {
            Saw::DialFailed(_, closed) => closed,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn see_message(&mut self, from: NodeId, command: Command) -> Message {
        let is = |saw: &Saw| matches!(saw, Saw::Message(peer, message) if *peer == from && message.command == command);
        match self.see("a message", is).await {
            Saw::Message(_, message) => message,
            other => unreachable!("{other:?}"),
        }
    }

    pub(crate) async fn see_response(&mut self, id: u64) -> Result<Message, RequestError> {
        match self.see("a response", |saw| matches!(saw, Saw::Response(of, _) if *of == id)).await {
            Saw::Response(_, result) => result,
            other => unreachable!("{other:?}"),
        }
    }

    /// Everything that was seen and not returned before.
    pub(crate) fn rest(&mut self) -> Vec<Saw> {
        while let Ok(event) = self.events.try_recv() {
            let saw = self.note(event);
            self.unread.push(saw);
        }
        std::mem::take(&mut self.unread)
    }

    /// Waits until everything that was asked of the stack is done with.
    pub(crate) async fn settled(&self) {
        // A look comes behind the commands before it; a second one behind what they caused on this stack.
        for _ in 0..2 {
            self.handle.inspect(|_| ()).await.expect("the stack runs");
        }
    }

    pub(crate) fn resident(&self) -> usize {
        self.budget.report().resident
    }
}

/// Two nodes of which `b` dialled `a`, and both have seen it.
pub(crate) async fn pair(net: &Net, a: Plan, b: Plan) -> (Node, Node) {
    let mut a = a.start(net).await;
    let mut b = b;
    b.peers.reserved.push(a.known());
    let mut b = b.start(net).await;
    assert!(b.see_up(a.id).await.outbound);
    assert!(!a.see_up(b.id).await.outbound);
    (a, b)
}

/// Waits until a condition holds that no event announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    in_time(what, looking).await;
}

pub(crate) async fn in_time<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// Bytes that differ from place to place, so that no mix-up stays unseen.
pub(crate) fn pattern(seed: usize, len: usize) -> Bytes {
    (0..len).map(|i| (i.wrapping_mul(31) ^ i >> 8 ^ seed) as u8).collect()
}
