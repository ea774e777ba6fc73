//! Where streams come from: TCP, or pipes within one process.

use async_trait::async_trait;
use core::net::SocketAddr;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::{TcpListener, TcpStream},
    sync::{Mutex as AsyncMutex, mpsc},
};

/// A byte stream in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Some byte stream.
pub type BoxedStream = Box<dyn Stream>;

/// A way to reach others and to be reached.
#[async_trait]
pub trait Fabric: Send + Sync + 'static {
    /// The address at which others reach this node.
    fn local_addr(&self) -> SocketAddr;
    /// The next stream that somebody opened to this node. Safe to cancel.
    async fn accept(&self) -> io::Result<(BoxedStream, SocketAddr)>;
    /// Opens a stream to somebody.
    async fn dial(&self, addr: SocketAddr) -> io::Result<BoxedStream>;
}

/// Bytes that the kernel may hold unsent. Whatever is in there goes before a more urgent message that comes later, so it
/// is kept small (parameters, 1.2).
const NOTSENT_LOWAT: u32 = 32 << 10;
/// Connections that the system may accept ahead of us (what tokio asks for); it turns away or delays those that follow. What
/// we took from it waits in a bounded queue of the driver, so nobody can make us hold more sockets than we judge.
const LISTEN_BACKLOG: i32 = 1024;
/// The system asks after so much silence whether the other host is there, and how often from then on (our guess: heartbeats
/// come before; this is for what has none yet, or takes its leave).
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// Streams over TCP.
#[derive(Debug)]
pub struct TcpFabric {
    listener: TcpListener,
    local: SocketAddr,
}

impl TcpFabric {
    /// Listens on `addr`; port 0 lets the system choose. The unspecified address of IPv6 takes IPv4 too, whatever the
    /// system's default is.
    ///
    /// # Errors
    /// Of the machine: the port is in use, or may not be used by this user.
    #[expect(clippy::unused_async, reason = "it wants a runtime around it, as all that opens sockets")]
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        // As the standard library does: a node that was just stopped leaves connections behind that end later. On Windows
        // the option means something else.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    fn prepare(stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        let (time, interval) = KEEPALIVE;
        SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(time).with_interval(interval))
    }
}

#[async_trait]
impl Fabric for TcpFabric {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn accept(&self) -> io::Result<(BoxedStream, SocketAddr)> {
        let (stream, remote) = self.listener.accept().await?;
        Self::prepare(&stream)?;
        // Who comes by IPv4 to a socket of both kinds is who it is, not one of a group of clothed addresses.
        Ok((Box::new(stream), SocketAddr::new(remote.ip().to_canonical(), remote.port())))
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<BoxedStream> {
        let stream = TcpStream::connect(addr).await?;
        Self::prepare(&stream)?;
        Ok(Box::new(stream))
    }
}

type Listeners = Arc<Mutex<BTreeMap<SocketAddr, mpsc::Sender<(DuplexStream, SocketAddr)>>>>;

/// A network of pipes within one process: the same driver and the same bytes without a socket.
#[derive(Clone, Debug, Default)]
pub struct MemoryNetwork {
    listeners: Listeners,
}

/// What a pipe holds before its writer waits, as a small socket buffer would.
const PIPE_BYTES: usize = 64 << 10;
/// Streams that may wait to be accepted; the usual backlog of a listening socket.
const BACKLOG: usize = 128;

impl MemoryNetwork {
    /// A network without anybody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins the network at `addr`.
    ///
    /// # Errors
    /// Of the caller: somebody is there already.
    pub fn bind(&self, addr: SocketAddr) -> io::Result<Arc<dyn Fabric>> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.get(&addr).is_some_and(|sender| !sender.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        listeners.insert(addr, sender);
        Ok(Arc::new(MemoryFabric { network: self.clone(), local: addr, incoming: AsyncMutex::new(receiver) }))
    }
}

struct MemoryFabric {
    network: MemoryNetwork,
    local: SocketAddr,
    incoming: AsyncMutex<mpsc::Receiver<(DuplexStream, SocketAddr)>>,
}

#[async_trait]
impl Fabric for MemoryFabric {
    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    async fn accept(&self) -> io::Result<(BoxedStream, SocketAddr)> {
        // The receiver lives as long as we do and its sender is kept in the network.
        let (stream, remote) = self.incoming.lock().await.recv().await.ok_or(io::ErrorKind::NotConnected)?;
        Ok((Box::new(stream), remote))
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<BoxedStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let listener = {
            let listeners = self.network.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.get(&addr).cloned().ok_or(io::ErrorKind::ConnectionRefused)?
        };
        listener.send((theirs, self.local)).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[tokio::test]
    async fn each_stream_is_prepared() {
        let fabric = TcpFabric::bind((Ipv4Addr::LOCALHOST, 0).into()).await.expect("a free port");
        let stream = TcpStream::connect(fabric.local_addr()).await.expect("it listens");
        TcpFabric::prepare(&stream).expect("a stream that stands");
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("readable"), "small messages leave at once");
        assert!(socket.keepalive().expect("readable"));
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(socket.tcp_notsent_lowat().expect("readable"), NOTSENT_LOWAT);
    }

    #[tokio::test]
    async fn a_node_that_listens_everywhere_takes_both_kinds_of_addresses_and_names_them_plainly() {
        let Ok(fabric) = TcpFabric::bind((Ipv6Addr::UNSPECIFIED, 0).into()).await else {
            return; // a machine without IPv6
        };
        let port = fabric.local_addr().port();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("IPv4 is served");
        let (_, remote) = fabric.accept().await.expect("it just came");
        assert_eq!(remote, stream.local_addr().expect("it stands"));
        assert!(remote.is_ipv4(), "{remote}");
        if let Ok(stream) = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await {
            let (_, remote) = fabric.accept().await.expect("it just came");
            assert_eq!(remote, stream.local_addr().expect("it stands"));
        }
    }
}
