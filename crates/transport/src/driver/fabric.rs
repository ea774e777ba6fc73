//! Where streams come from: TCP, or pipes within one process.

use async_trait::async_trait;
use core::net::SocketAddr;
use socket2::SockRef;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
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

/// Streams over TCP.
#[derive(Debug)]
pub struct TcpFabric {
    listener: TcpListener,
    local: SocketAddr,
}

impl TcpFabric {
    /// Listens on `addr`; port 0 lets the system choose.
    ///
    /// # Errors
    /// Of the machine: the port is in use, or may not be used by this user.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let local = listener.local_addr()?;
        Ok(Self { listener, local })
    }

    fn prepare(stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        SockRef::from(stream).set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
        Ok(())
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
        Ok((Box::new(stream), remote))
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
