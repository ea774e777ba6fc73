//! The far ends: each an identity, a socket and a connection machine.

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use peerage_core::{CloseReason, Connection, ConnectionEvent, NodeId, Now, SecretRng};
use peerage_transport::{
    driver::Clock,
    proto::{connection::SecureConnection, keypair::Keypair},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::{machines, node::seed};

/// Numbers of identities begin here.
const FIRST: u64 = 1_000;
/// As much as a socket takes at once.
const FLIGHT: usize = 4 << 10;

/// Many far ends, on one port and an address each.
pub(super) struct Crowd {
    port: u16,
    clock: Clock,
    stands: mpsc::UnboundedSender<()>,
    standing: mpsc::UnboundedReceiver<()>,
}

impl Crowd {
    pub(super) async fn listen() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let (stands, standing) = mpsc::unbounded_channel();
        let clock = Clock::start();
        let tell = stands.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("loopback");
                let SocketAddr::V4(local) = stream.local_addr().expect("a TCP stream") else { panic!("not IPv4") };
                let [_, _, high, low] = local.ip().octets();
                let number = usize::from(u16::from_be_bytes([high, low]));
                tokio::spawn(hold(stream, number, false, clock, tell.clone()));
            }
        });
        Self { port, clock, stands, standing }
    }

    /// Who the far end with this number is.
    pub(super) fn id(number: usize) -> NodeId {
        Keypair::from_seed(&seed(FIRST + number as u64)).node_id()
    }

    pub(super) fn addr(&self, number: usize) -> SocketAddr {
        super::far_addr(number, self.port)
    }

    /// Lets these dial a node and waits until their connections stand.
    pub(super) async fn dial(self, node: SocketAddr, numbers: Range<usize>) -> Self {
        let count = numbers.len();
        for number in numbers {
            let (clock, stands) = (self.clock, self.stands.clone());
            tokio::spawn(async move {
                let stream = TcpStream::connect(node).await.expect("the child listens");
                hold(stream, number, true, clock, stands).await;
            });
        }
        self.accepted(count).await
    }

    /// Waits until so many more connections stand.
    pub(super) async fn accepted(mut self, count: usize) -> Self {
        for _ in 0..count {
            let stands = tokio::time::timeout(Duration::from_secs(120), self.standing.recv()).await;
            stands.expect("a handshake takes less").expect("we hold a sender");
        }
        self
    }
}

/// Keeps a connection until the other side or the runtime ends it.
async fn hold(mut stream: TcpStream, number: usize, outbound: bool, clock: Clock, stands: mpsc::UnboundedSender<()>) {
    stream.set_nodelay(true).expect("a TCP stream");
    let config = machines::config(FIRST + number as u64);
    let remote = stream.peer_addr().expect("a TCP stream");
    let rng = SecretRng::from_os();
    let mut machine = SecureConnection::new(Arc::clone(&config), outbound, remote, None, now(&clock), rng);
    let (mut incoming, mut outgoing) = (vec![0; FLIGHT], Vec::new());
    loop {
        outgoing.clear();
        machine.poll_transmit(now(&clock), &mut outgoing, FLIGHT);
        if stream.write_all(&outgoing).await.is_err() {
            return;
        }
        while let Some(event) = machine.poll_event() {
            match event {
                // The measurement may be over.
                ConnectionEvent::Established(_) => drop(stands.send(())),
                ConnectionEvent::Closed(closed) => {
                    assert!(closed.reason == CloseReason::StreamEnded, "far end {number}: {closed}");
                    return;
                }
                _ => {}
            }
        }
        tokio::select! {
            read = stream.read(&mut incoming) => match read {
                Ok(count @ 1..) => machine.handle_bytes(now(&clock), &incoming[..count]),
                // The child was killed, or turned us away.
                _ => return,
            },
            () = clock.sleep_until(machine.next_timeout()) => machine.handle_timeout(now(&clock)),
        }
    }
}

fn now(clock: &Clock) -> Now {
    clock.now()
}
