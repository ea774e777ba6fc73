//! What goes together goes into the same records, without a timer.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use peerage_core::*;
use peerage_transport::{
    driver::{self, BoxedStream, Fabric, NoiseChannel},
    proto::{
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::PeerManager,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use crate::{
    harness::{Net, PATIENCE, Plan, anywhere, in_time},
    probe::{Disk, Do, ECHO, Probe, Saw},
};

/// Counts how often its streams are written to.
struct Counting(Arc<dyn Fabric>, Arc<AtomicUsize>);

struct CountingStream(BoxedStream, Arc<AtomicUsize>);

#[async_trait]
impl Fabric for Counting {
    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    async fn accept(&self) -> io::Result<(BoxedStream, SocketAddr)> {
        self.0.accept().await
    }

    async fn dial(&self, addr: SocketAddr) -> io::Result<BoxedStream> {
        Ok(Box::new(CountingStream(self.0.dial(addr).await?, Arc::clone(&self.1))))
    }
}

impl AsyncRead for CountingStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// So many tasks that know nothing of each other ask so often each, one request at a time; how often that was written.
async fn writes(tasks: u64, rounds: u64) -> usize {
    let (net, count) = (Net::memory(), Arc::<AtomicUsize>::default());
    let answering = Plan::new(1).start(&net).await;
    let plan = Plan::knowing(2, [answering.known()]);
    let fabric = Arc::new(Counting(net.bind(anywhere()).await, Arc::clone(&count)));
    let security = NoiseChannel::new(plan.security(fabric.local_addr()));
    let stack = Stack::new(Managed::new(PeerManager::new(plan.peers, &Seed::from_u64(2)), Probe::default()));
    let waiting = Arc::new(Mutex::new(BTreeMap::<u64, oneshot::Sender<()>>::new()));
    let (up, is_up) = oneshot::channel();
    let (answers, mut up) = (Arc::clone(&waiting), Some(up));
    let on_event = move |event| match event {
        ManagedEvent::Upper(Saw::Up(..)) => up.take().into_iter().for_each(|up| up.send(()).expect("it is waited for")),
        ManagedEvent::Upper(Saw::Response(id, result)) => {
            result.expect("an answer");
            let asker = answers.lock().expect("no panic before").remove(&id).expect("asked once");
            asker.send(()).expect("it is waited for");
        }
        _ => {}
    };
    let handle = driver::spawn(plan.driver, fabric, Arc::new(security), stack, Disk::new(), on_event);
    let handle = handle.expect("threads can be started");
    in_time("the connection", is_up).await.expect("the stack runs");
    let before = count.load(Relaxed);
    let tasks = (0..tasks).map(|task| {
        let (handle, waiting, to) = (handle.clone(), Arc::clone(&waiting), answering.id);
        tokio::spawn(async move {
            for id in (0..rounds).map(|round| task * rounds + round) {
                let (sender, answered) = oneshot::channel();
                waiting.lock().expect("no panic before").insert(id, sender);
                let request = Do::Request(to, id, Message::new(ECHO, "ask"), PATIENCE);
                handle.command(ManagedCommand::Upper(request)).await.expect("the stack runs");
                answered.await.expect("an answer");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        in_time("all answers", task).await.expect("no panic");
    }
    count.load(Relaxed) - before
}

/// With a single thread, where nothing but the order of turns brings requests together.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_of_a_crowd_share_records_and_that_of_a_loner_leaves_at_once() {
    let alone = writes(1, 50).await;
    assert!((50..60).contains(&alone), "{alone} writes for 50 requests, each of which waits for the answer before");
    let crowd = writes(16, 50).await;
    assert!(crowd <= 800 / 4, "{crowd} writes for 800 requests, of which 16 wait at a time");
}
