use super::*;
use crate::driver::{
    Bandwidth,
    bandwidth::Gates,
    mailbox::{Post, mailbox},
};
use core::task::Waker;
use peerage_core::{Budget, Message};
use std::sync::Mutex;
use tokio::{
    io::DuplexStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

/// A machine of which the test decides what it has to say; it notes what it hears.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Bytes that it would send.
    to_send: usize,
    /// The most that it was asked for at once.
    asked: Vec<usize>,
    heard: usize,
    events: Vec<ConnectionEvent>,
}

impl Script {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().expect("no panic before"))
    }
}

impl Connection for Script {
    fn handle_bytes(&mut self, _: Now, bytes: &[u8]) {
        self.with(|state| state.heard += bytes.len());
    }

    fn handle_stream_end(&mut self, _: Now, reason: CloseReason) {
        self.with(|state| state.events.push(ConnectionEvent::Closed(Closed::by_network(reason))));
    }

    fn handle_command(&mut self, _: Now, command: ConnectionCommand) {
        if let ConnectionCommand::Consumed { bytes, .. } = command {
            self.with(|state| state.to_send += bytes);
        }
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn poll_transmit(&mut self, _: Now, buf: &mut Vec<u8>, limit: usize) -> bool {
        self.with(|state| {
            state.asked.push(limit);
            // Whole records, as the real one.
            let count = limit.next_multiple_of(1000).min(state.to_send);
            state.to_send -= count;
            buf.resize(buf.len() + count, 7);
            count > 0
        })
    }

    fn wants_to_send(&mut self) -> PerClass<bool> {
        PerClass::from_fn(|class| class == Class::Bulk && self.with(|state| state.to_send > 0))
    }

    fn poll_record(&mut self, now: Now, buf: &mut Vec<u8>, _: Class, limit: usize) -> bool {
        self.poll_transmit(now, buf, limit)
    }

    fn poll_event(&mut self) -> Option<ConnectionEvent> {
        self.with(|state| state.events.pop())
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }

    fn wants_bytes(&self) -> bool {
        true
    }
}

struct Bench {
    script: Script,
    task: LinkTask,
    post: Post,
    events: UnboundedReceiver<(LinkId, LinkEvent)>,
    other_end: DuplexStream,
}

/// A link task over a pipe that holds so many bytes.
fn bench(pipe: usize) -> Bench {
    bench_under(pipe, Bandwidth::default())
}

/// The same under the operator's limits.
fn bench_under(pipe: usize, limits: Bandwidth) -> Bench {
    let (stream, other_end) = tokio::io::duplex(pipe);
    let (script, (post, mail), (sender, events)) = (Script::default(), mailbox(), unbounded_channel());
    let (connection, stream) = (Box::new(script.clone()), Box::new(stream));
    let (account, remote) = (Budget::account(1 << 20), ([127, 0, 0, 1], 1).into());
    let (clock, link, starved) = (Clock::start(), LinkId(1), Arc::default());
    let gate = Gates::new(clock, Arc::default(), limits).join(link);
    let patience = Duration::from_secs(90);
    let parts = LinkParts {
        link,
        remote,
        connection,
        stream,
        clock,
        account,
        starved,
        mail,
        events: sender,
        gate,
        write_patience: patience,
    };
    let task = LinkTask::new(parts);
    Bench { script, task, post, events, other_end }
}

impl Bench {
    fn turn(&mut self) -> Poll<Turn> {
        self.task.turn(&mut Context::from_waker(Waker::noop()))
    }

    /// Lets the machine have so many bytes more to send.
    fn load(&self, bytes: usize) {
        self.post.put(&mut vec![ConnectionCommand::Consumed { class: Class::Bulk, bytes }]);
    }
}

#[tokio::test]
async fn whoever_has_much_to_write_lets_all_others_go_first_after_each_piece() {
    let mut bench = bench(1 << 20);
    bench.load(100_000);
    let mut turns = Vec::new();
    while let Poll::Ready(turn) = bench.turn() {
        turns.push(turn);
    }
    assert_eq!(turns, [Turn::Pause; 3], "100,000 bytes are three pieces of 32 KiB and a rest");
    assert_eq!(bench.script.with(|state| state.to_send), 0);
    assert_eq!(bench.task.outgoing.capacity(), 0, "what is written is not kept");
}

#[tokio::test]
async fn when_the_socket_takes_no_more_a_single_record_is_decided_ahead_of_it() {
    let mut bench = bench(40_000);
    bench.load(200_000);
    while bench.turn() == Poll::Ready(Turn::Pause) {}
    let waiting = bench.task.outgoing.len() - bench.task.written;
    assert!(0 < waiting && waiting <= WRITE_BYTES + 1000, "{waiting} bytes wait for the socket");
    bench.script.with(|state| state.asked.clear());
    let mut taken = vec![0; 1000];
    for _ in 0..160 {
        bench.other_end.read_exact(&mut taken).await.expect("it is there");
        assert_eq!(bench.turn(), Poll::Pending);
    }
    let asked = bench.script.with(|state| core::mem::take(&mut state.asked));
    assert!(asked.len() > 50 && asked.iter().all(|limit| *limit <= 1000), "{asked:?} at once to a slow socket");
    bench.other_end.read_exact(&mut vec![0; 40_000]).await.expect("all of it comes");
    assert_eq!(bench.turn(), Poll::Pending);
    assert_eq!((bench.task.outgoing.capacity(), bench.script.with(|state| state.to_send)), (0, 0));
}

#[tokio::test]
async fn a_turn_tells_all_that_happened_at_once_and_reads_no_more_than_its_share() {
    let mut bench = bench(1 << 20);
    let message = || ConnectionEvent::Message {
        message: Message::new(peerage_core::Command::new(peerage_core::Layer::Application, 0, Class::Gossip), "x"),
        charge: Budget::default().nothing(),
    };
    bench.script.with(|state| state.events.extend((0..20).map(|_| message())));
    bench.other_end.write_all(&vec![1; READ_BYTES + 1]).await.expect("there is room");
    assert_eq!(bench.turn(), Poll::Pending);
    assert_eq!(bench.script.with(|state| state.heard), READ_BYTES, "the rest waits until others had their turn");
    assert_eq!(bench.events.try_recv().expect("told").1.len(), 20);
    assert!(bench.events.try_recv().is_err(), "in one piece");
    assert_eq!(bench.turn(), Poll::Pending);
    assert_eq!(bench.script.with(|state| state.heard), READ_BYTES + 1);
}

#[tokio::test]
async fn an_idle_connection_holds_no_buffers_and_its_task_is_small() {
    let mut bench = bench(1 << 20);
    bench.load(50_000);
    bench.other_end.write_all(&[1; 50_000]).await.expect("there is room");
    while bench.turn().is_ready() {}
    assert_eq!(bench.task.outgoing.capacity(), 0);
    let bytes = size_of_val(&bench.task.run());
    assert!(bytes <= 1536, "the future of a link task takes {bytes} bytes");
}

#[tokio::test]
async fn what_the_operator_s_limit_holds_back_is_not_waited_for_and_what_the_socket_does_not_take_is() {
    let egress = core::num::NonZeroU64::new(1 << 16);
    // A pipe that holds all of it, and one that holds a record in part.
    for (pipe, limits, waits) in [
        (1 << 20, Bandwidth { egress, ingress: None }, false),
        (500, Bandwidth { egress, ingress: None }, true),
        (500, Bandwidth::default(), true),
    ] {
        let mut bench = bench_under(pipe, limits);
        bench.task.proved = true;
        let _owed = bench.task.parts.account.owe(200_000).expect("below the limit");
        bench.load(200_000);
        while bench.turn().is_ready() {}
        assert!(bench.script.with(|state| state.to_send) > 0, "{limits:?}");
        assert_eq!(bench.task.waits, waits, "a pipe of {pipe}, {limits:?}");
    }
    // Something waits, and the machine has nothing to send.
    let mut bench = bench(1 << 20);
    let owed = bench.task.parts.account.owe(1000).expect("below the limit");
    assert_eq!((bench.turn(), bench.task.waits), (Poll::Pending, true));
    drop(owed);
    assert_eq!((bench.turn(), bench.task.waits), (Poll::Pending, false));
}
