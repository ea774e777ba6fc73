//! Limits of bandwidth over TLS, in virtual time: what counts is what passes the socket.

use core::{
    num::NonZeroU64,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use std::{io, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use peerage_core::*;
use peerage_transport::driver::{Bandwidth, BoxedStream, Fabric};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use super::stage::channel;
use crate::{
    authority::Authority,
    harness::{Net, Node, Plan, anywhere, eventually, pattern},
    probe::{BULK, VOTE},
};

/// What passed the sockets of a node, as whoever sells it the line counts.
#[derive(Default)]
struct Line {
    sent: AtomicU64,
    received: AtomicU64,
}

/// The streams of another fabric, each of them counted.
struct Counted {
    fabric: Arc<dyn Fabric>,
    line: Arc<Line>,
}

#[async_trait]
impl Fabric for Counted {
    fn local_addr(&self) -> SocketAddr {
        self.fabric.local_addr()
    }

    async fn accept(&self) -> io::Result<(BoxedStream, SocketAddr)> {
        let (stream, remote) = self.fabric.accept().await?;
        Ok((Box::new(Socket { stream, line: Arc::clone(&self.line) }), remote))
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<BoxedStream> {
        let stream = self.fabric.dial(addr).await?;
        Ok(Box::new(Socket { stream, line: Arc::clone(&self.line) }))
    }
}

struct Socket {
    stream: BoxedStream,
    line: Arc<Line>,
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.line.received.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.line.sent.fetch_add(count as u64, Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

async fn start(authority: &Authority, net: &Net, mut plan: Plan, bandwidth: Bandwidth) -> (Node, Arc<Line>) {
    plan.driver.owed_per_peer = usize::MAX;
    plan.driver.bandwidth = bandwidth;
    let line = Arc::<Line>::default();
    let fabric = Arc::new(Counted { fabric: net.bind(anywhere()).await, line: Arc::clone(&line) });
    let security = Arc::new(channel(&plan, authority.member(plan.id())));
    (plan.start_with(security, fabric), line)
}

/// Two members, the second of which dialled the first.
async fn members(limits: [Bandwidth; 2]) -> [(Node, Arc<Line>); 2] {
    let (authority, net) = (Authority::new("of ours"), Net::memory());
    let mut first = start(&authority, &net, Plan::new(1), limits[0]).await;
    let mut second = start(&authority, &net, Plan::knowing(2, [first.0.known()]), limits[1]).await;
    second.0.see_up(first.0.id).await;
    first.0.see_up(second.0.id).await;
    [first, second]
}

#[tokio::test(start_paused = true)]
async fn all_that_passes_the_socket_is_counted_the_handshake_of_tls_and_its_goodbye_included() {
    let [(mut a, line_a), (mut b, line_b)] = members([Bandwidth::default(); 2]).await;
    for _ in 0..20 {
        a.send(&b, Message::with_body(VOTE, vec![1], pattern(1, 40))).await;
        b.see_message(a.id, VOTE).await;
        sleep(Duration::from_millis(100)).await;
    }
    b.handle.shutdown().await;
    a.see_down(b.id).await;
    let same = |node: &Node, line: &Line| {
        let report = node.handle.bandwidth();
        (report.sent, report.received) == (line.sent.load(Relaxed), line.received.load(Relaxed))
    };
    eventually("the goodbye", || same(&a, &line_a) && same(&b, &line_b)).await;
    let report = a.handle.bandwidth();
    println!("{} sent, {} received", report.sent, report.received);
    assert!(report.sent > 20 * (40 + 22) + 500, "a certificate and its proof alone are 500 bytes: {}", report.sent);
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_for_what_tls_makes_of_it() {
    let limit = 100_000;
    let egress = Bandwidth { egress: NonZeroU64::new(limit), ingress: None };
    let ingress = Bandwidth { egress: None, ingress: NonZeroU64::new(limit) };
    for limits in [[egress, Bandwidth::default()], [Bandwidth::default(), ingress]] {
        let [(a, line_a), (b, line_b)] = members(limits).await;
        let content = pattern(7, 1_000_000);
        for number in 0..4_u64 {
            a.send(&b, Message::with_body(BULK, number.to_be_bytes().to_vec(), content.clone())).await;
        }
        sleep(Duration::from_secs(1)).await;
        let counter = if limits[0] == egress { &line_a.sent } else { &line_b.received };
        for _ in 0..2 {
            let before = counter.load(Relaxed);
            sleep(Duration::from_secs(10)).await;
            let passed = counter.load(Relaxed) - before;
            println!("{passed} bytes in ten seconds of {limit} each");
            assert!(passed.abs_diff(10 * limit) <= limit / 2, "{passed} bytes instead of {}", 10 * limit);
        }
        let (sent, spent) = (line_a.sent.load(Relaxed), a.handle.bandwidth().egress.written.0.iter().sum::<u64>());
        assert!(limits[0] != egress || sent > spent, "{sent} bytes, {spent} of them of records: TLS adds some");
    }
}
