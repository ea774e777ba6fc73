//! rust-libp2p: TCP, Noise, Yamux, with a stream protocol of the application's own.

use std::time::Duration;

use futures::{StreamExt, future::join};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder,
    core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade},
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    swarm::SwarmEvent,
    tcp, yamux,
};
use libp2p_stream::{Behaviour, Control, IncomingStreams};
use tokio::{io::duplex, task::JoinHandle};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt, TokioAsyncReadCompatExt};

pub(crate) const NAME: &str = "libp2p (tcp, noise, yamux)";
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/bench/1");

/// A swarm with new keys that keeps idle connections.
pub(crate) fn swarm() -> Swarm<Behaviour> {
    SwarmBuilder::with_existing_identity(Keypair::generate_ed25519())
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .expect("the configuration is sound")
        .with_behaviour(|_| Behaviour::new())
        .expect("the behaviour cannot fail")
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
        .build()
}

/// The noise upgrade alone, as a swarm does it: one configuration cloned for all connections.
pub(crate) struct Noise(noise::Config, noise::Config);

impl Noise {
    pub(crate) fn new() -> Self {
        let config = || noise::Config::new(&Keypair::generate_ed25519()).expect("keys");
        Self(config(), config())
    }

    /// A handshake of both sides through a pipe.
    pub(crate) async fn handshake(&self) {
        let (ours, theirs) = duplex(8 << 10);
        let (a, b) = join(
            self.0.clone().upgrade_outbound(ours.compat(), "/noise"),
            self.1.clone().upgrade_inbound(theirs.compat(), "/noise"),
        )
        .await;
        assert!(a.is_ok() && b.is_ok());
    }
}

/// A swarm that runs on a task of its own until this is dropped.
pub(crate) struct Running {
    pub(crate) id: PeerId,
    pub(crate) control: Control,
    pub(crate) incoming: IncomingStreams,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts a swarm that listens on loopback, and where.
pub(crate) async fn listen() -> (Running, Multiaddr) {
    let mut swarm = swarm();
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("an address")).expect("a free port");
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            break address;
        }
    };
    let id = *swarm.local_peer_id();
    (run(swarm), addr.with(Protocol::P2p(id)))
}

/// Starts a swarm that is connected to all of these.
pub(crate) async fn dial(addrs: &[Multiaddr]) -> Running {
    let mut swarm = swarm();
    for addr in addrs {
        swarm.dial(addr.clone()).expect("an address to dial");
        while !matches!(swarm.select_next_some().await, SwarmEvent::ConnectionEstablished { .. }) {}
    }
    run(swarm)
}

fn run(mut swarm: Swarm<Behaviour>) -> Running {
    let id = *swarm.local_peer_id();
    let mut control = swarm.behaviour().new_control();
    let incoming = control.accept(PROTOCOL).expect("nobody else takes them");
    let task = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    Running { id, control, incoming, task }
}

/// A new stream from one swarm to another, both ends.
pub(crate) async fn stream(from: &mut Running, to: &mut Running) -> (Compat<Stream>, Compat<Stream>) {
    let (ours, theirs) = join(from.control.open_stream(to.id, PROTOCOL), to.incoming.next()).await;
    let (_, theirs) = theirs.expect("a stream");
    (ours.expect("a stream").compat(), theirs.compat())
}

/// One stream between two new swarms; they end with what is returned last.
pub(crate) async fn pair() -> (Compat<Stream>, Compat<Stream>, (Running, Running)) {
    let (mut b, addr) = listen().await;
    let mut a = dial(&[addr]).await;
    let (ours, theirs) = stream(&mut a, &mut b).await;
    (ours, theirs, (a, b))
}
