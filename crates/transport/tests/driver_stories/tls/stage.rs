//! Two channels on one stream, seen from both ends.

use std::net::SocketAddr;

use peerage_core::*;
use peerage_transport::{
    driver::{BoxedStream, Clock, Fabric, SecureChannel, Target, TcpFabric, tls::TlsChannel, tls::TlsFiles},
    proto::connection::SecureConnection,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Plan, anywhere, in_time};

pub(crate) fn now() -> Now {
    Clock::start().now()
}

/// The channel of a node with these files.
pub(crate) fn channel(plan: &Plan, files: TlsFiles) -> TlsChannel {
    TlsChannel::new(plan.security(anywhere()), files, now()).expect("a certificate that counts")
}

/// Both ends of a fresh TCP stream, the dialled one first.
pub(crate) async fn streams() -> [(BoxedStream, SocketAddr); 2] {
    let fabric = TcpFabric::bind(anywhere()).await.expect("a free port");
    let addr = fabric.local_addr();
    let dialled = fabric.dial(addr).await.expect("somebody listens");
    [(dialled, addr), fabric.accept().await.expect("somebody dialled")]
}

/// A connection that a link task would run.
pub(crate) struct Link {
    stream: BoxedStream,
    connection: Box<dyn Connection + Send>,
    clock: Clock,
    closed: Option<Closed>,
}

impl Link {
    pub(crate) fn new(stream: BoxedStream, connection: Box<dyn Connection + Send>) -> Self {
        Self { stream, connection, clock: Clock::start(), closed: None }
    }

    /// Runs until somebody is there.
    pub(crate) async fn up(&mut self) -> LinkInfo {
        match self.until(|event| matches!(event, ConnectionEvent::Established(_))).await {
            ConnectionEvent::Established(info) => info,
            other => panic!("nobody is there: {other:?}"),
        }
    }

    /// The first thing that happens: somebody is there, or it is over.
    pub(crate) async fn first(&mut self) -> ConnectionEvent {
        let event = self.until(|event| matches!(event, ConnectionEvent::Established(_))).await;
        if let ConnectionEvent::Closed(closed) = &event {
            self.closed = Some(*closed);
        }
        event
    }

    /// Runs until the end, and lets the last words arrive.
    pub(crate) async fn ended(&mut self) -> Closed {
        let ConnectionEvent::Closed(closed) = self.until(|_| false).await else { unreachable!("nothing else ends it") };
        self.closed = Some(closed);
        self.goodbye().await
    }

    /// A turn of a task that waits to read; how the connection ended, if it did.
    pub(crate) async fn without_reading(&mut self) -> Option<Closed> {
        let now = self.clock.now();
        if self.connection.next_timeout().is_some_and(|at| at <= now.mono) {
            self.connection.handle_timeout(now);
        }
        let mut bytes = Vec::new();
        while self.connection.poll_transmit(now, &mut bytes, 1 << 20) {}
        self.stream.write_all(&bytes).await.expect("the other side is there");
        while let Some(event) = self.connection.poll_event() {
            if let ConnectionEvent::Closed(closed) = event {
                self.closed = Some(closed);
            }
        }
        self.closed
    }

    /// Lets the last words arrive, once it is over.
    pub(crate) async fn goodbye(&mut self) -> Closed {
        let closed = self.closed.expect("it is over");
        let goodbye = async {
            let _gone = self.stream.shutdown().await;
            while self.stream.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {}
        };
        // As long as a link task waits; whoever keeps its end open longer has heard it by then.
        let _ended = tokio::time::timeout(core::time::Duration::from_secs(1), goodbye).await;
        closed
    }

    async fn until(&mut self, is: impl Fn(&ConnectionEvent) -> bool) -> ConnectionEvent {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let event = self.connection.poll_event();
            let mut bytes = Vec::new();
            while self.connection.poll_transmit(self.clock.now(), &mut bytes, 1 << 20) {}
            let _gone = self.stream.write_all(&bytes).await;
            match event {
                Some(event) if is(&event) || matches!(event, ConnectionEvent::Closed(_)) => return event,
                Some(_) => continue,
                None => {}
            }
            let read = in_time("bytes", self.stream.read(&mut buffer)).await;
            let now = self.clock.now();
            match read {
                Ok(0) => self.connection.handle_stream_end(now, CloseReason::StreamEnded),
                Ok(count) => self.connection.handle_bytes(now, &buffer[..count]),
                Err(_) => self.connection.handle_stream_end(now, CloseReason::StreamError),
            }
        }
    }
}

async fn open(
    channel: &dyn SecureChannel,
    (stream, remote): (BoxedStream, SocketAddr),
    dials: bool,
    now: Now,
) -> Result<Link, Closed> {
    let target = dials.then_some(Target { expected: None, dial_key: None, question: None });
    let opened = in_time("a handshake", channel.open(stream, remote, target, now)).await;
    opened.map(|(stream, connection)| Link::new(stream, connection))
}

/// One end of a stream, up to the end of the connection.
pub(crate) async fn end(
    channel: &dyn SecureChannel,
    stream: (BoxedStream, SocketAddr),
    dials: bool,
    now: Now,
) -> Closed {
    match open(channel, stream, dials, now).await {
        Ok(mut link) => link.ended().await,
        Err(closed) => closed,
    }
}

/// How a connection from one to the other ends, on both sides.
pub(crate) async fn ends(dialler: &dyn SecureChannel, listener: &dyn SecureChannel) -> [Closed; 2] {
    let [dialled, accepted] = streams().await;
    let (one, other) = tokio::join!(end(dialler, dialled, true, now()), end(listener, accepted, false, now()));
    [one, other]
}

/// A connection from one to the other, once it stands on both sides.
pub(crate) async fn meet(dialler: &dyn SecureChannel, listener: &dyn SecureChannel) -> [(Link, LinkInfo); 2] {
    let [dialled, accepted] = streams().await;
    let up = async |channel, stream, dials| {
        let mut link = open(channel, stream, dials, now()).await.expect("TLS stands");
        let info = link.up().await;
        (link, info)
    };
    let (one, other) = tokio::join!(up(dialler, dialled, true), up(listener, accepted, false));
    [one, other]
}

/// A connection machine over a session that the test made up or took from elsewhere.
pub(crate) fn over(stream: BoxedStream, connection: SecureConnection) -> Link {
    Link::new(stream, Box::new(connection))
}
