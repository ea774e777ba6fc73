use super::*;
use crate::driver::{
    Bandwidth,
    bandwidth::Gates,
    mailbox::{Post, mailbox},
};
use core::task::Waker;
use peerage_core::{Budget, Command, Layer, LinkInfo, Message, NodeId, Outbound};
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
    /// Answers that it was given to send.
    answers: usize,
    events: Vec<ConnectionEvent>,
    /// It panics at the next command.
    breaks: bool,
    /// It takes no bytes.
    deaf: bool,
    /// A timer ends that, and is over.
    timed: bool,
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
        assert!(!self.with(|state| state.breaks), "as it was told");
        match command {
            ConnectionCommand::Consumed { bytes, .. } => self.with(|state| state.to_send += bytes),
            ConnectionCommand::Respond { .. } => self.with(|state| state.answers += 1),
            ConnectionCommand::Listen(listens) => self.with(|state| state.deaf = !listens),
            _ => {}
        }
    }

    fn handle_timeout(&mut self, _: Now) {
        self.with(|state| state.deaf = false);
    }

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
        self.with(|state| (state.deaf && state.timed).then_some(Timestamp::ZERO))
    }

    fn wants_bytes(&self) -> bool {
        !self.with(|state| state.deaf)
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
    let stream = gate.metered(stream);
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
        self.task.turn(&mut Context::from_waker(Waker::noop()), Reading::Too)
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
        message: Message::new(Command::new(Layer::Application, 0, Class::Gossip), "x"),
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
    let desk = Arc::<Desk>::default();
    let bytes = size_of_val(&*desk) + size_of_val(&desk.run());
    assert!(bytes <= 1536, "the work and the future of a link task take {bytes} bytes");
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

#[tokio::test]
async fn an_answer_to_who_has_not_proved_itself_waits_for_that_while_the_operator_limits_what_is_written() {
    let egress = core::num::NonZeroU64::new(1 << 16);
    for limits in [Bandwidth { egress, ingress: None }, Bandwidth::default()] {
        let mut bench = bench_under(1 << 20, limits);
        let (message, budget) =
            (Message::new(Command::new(Layer::Application, 0, Class::Signal), vec![1; 100]), Budget::default());
        let resident = Arc::new(budget.nothing().into());
        let owed = bench.task.parts.account.owe(100).expect("below the limit");
        let outbound = Outbound { message, resident, owed };
        bench.post.put(&mut vec![ConnectionCommand::Respond { id: 1, outbound }]);
        assert_eq!(bench.turn(), Poll::Pending);
        assert_eq!(bench.script.with(|state| state.answers), usize::from(limits.egress.is_none()), "{limits:?}");
        let peer = NodeId::default();
        let remote = bench.task.parts.remote;
        let info = LinkInfo { peer, outbound: false, remote, listen: Vec::new(), features: 0, dial_key: None };
        bench.script.with(|state| state.events.push(ConnectionEvent::Established(info)));
        let sleeper = Arc::new(Sleeper::default());
        let waker = Waker::from(Arc::clone(&sleeper));
        let turn = |bench: &mut Bench| bench.task.turn(&mut Context::from_waker(&waker), Reading::Too);
        assert_eq!(turn(&mut bench), Poll::Pending);
        assert_eq!(sleeper.0.load(Relaxed), usize::from(limits.egress.is_some()), "it is at work again at once");
        assert_eq!(turn(&mut bench), Poll::Pending);
        assert_eq!(bench.script.with(|state| state.answers), 1, "{limits:?}");
    }
}

#[tokio::test]
async fn credit_that_the_operator_s_limit_keeps_unread_is_not_waited_for() {
    for (ingress, waits) in [(core::num::NonZeroU64::new(1 << 16), false), (None, true)] {
        let mut bench = bench_under(1 << 20, Bandwidth { egress: None, ingress });
        bench.task.proved = true;
        let _owed = bench.task.parts.account.owe(200_000).expect("below the limit");
        bench.other_end.write_all(&[1; 900_000]).await.expect("there is room");
        for _ in 0..20 {
            assert_eq!(bench.turn(), Poll::Pending);
            yield_now().await; // the runtime lets a task read only so often at a stretch
        }
        assert_eq!(bench.script.with(|state| state.heard) == 900_000, waits, "{ingress:?}");
        assert_eq!(bench.task.waits, waits, "{ingress:?}");
        // A turn that only writes does not know better.
        assert_eq!(bench.task.turn(&mut Context::from_waker(Waker::noop()), Reading::Not), Poll::Pending);
        assert_eq!(bench.task.waits, waits, "{ingress:?}");
    }
}

/// What woke the link task, as a count.
#[derive(Default)]
struct Sleeper(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Sleeper {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// A task that sleeps, with its work on a desk.
fn asleep(mut bench: Bench) -> (Desk, Arc<Sleeper>, Script, Post, DuplexStream) {
    let sleeper = Arc::<Sleeper>::default();
    let waker = Waker::from(Arc::clone(&sleeper));
    assert_eq!(bench.task.turn(&mut Context::from_waker(&waker), Reading::Too), Poll::Pending);
    let desk = Desk::default();
    desk.lay(bench.task);
    (desk, sleeper, bench.script, bench.post, bench.other_end)
}

fn leave(post: &Post, bytes: usize) -> Waker {
    let command = ConnectionCommand::Consumed { class: Class::Bulk, bytes };
    post.leave(&mut vec![command]).expect("it sleeps")
}

#[tokio::test]
async fn the_stack_task_sends_a_short_message_without_waking_the_link_task() {
    let (desk, sleeper, script, post, mut other_end) = asleep(bench(1 << 20));
    other_end.write_all(b"something to read").await.expect("there is room");
    let woken = sleeper.0.load(Relaxed);
    for _ in 0..3 {
        desk.send(&leave(&post, 500));
        other_end.read_exact(&mut [0; 500]).await.expect("it is on its way");
    }
    assert_eq!(sleeper.0.load(Relaxed), woken);
    assert_eq!(script.with(|state| state.heard), 0, "reading stays with the link task");
    desk.send(&leave(&post, 2 * WRITE_BYTES + 500));
    assert_eq!(sleeper.0.load(Relaxed), woken + 1, "what is more than a piece goes on there");
    let piece = WRITE_BYTES.next_multiple_of(1000);
    assert_eq!(script.with(|state| state.to_send), 2 * WRITE_BYTES + 500 - piece);
}

#[tokio::test]
async fn who_is_at_work_or_gone_is_woken_in_place_of_being_helped() {
    let (desk, sleeper, script, post, _other_end) = asleep(bench(1 << 20));
    let work = desk.work();
    desk.send(&leave(&post, 500));
    assert_eq!((sleeper.0.load(Relaxed), script.with(|state| state.to_send)), (1, 0), "it has not been touched");
    drop(work);
    desk.work().take();
    desk.send(&Waker::from(Arc::clone(&sleeper)));
    assert_eq!(sleeper.0.load(Relaxed), 2);
}

#[tokio::test]
async fn a_machine_that_panics_under_the_hands_of_the_stack_task_costs_its_own_connection() {
    let (desk, sleeper, script, post, mut other_end) = asleep(bench(1 << 20));
    script.with(|state| state.breaks = true);
    let desk = Arc::new(desk);
    desk.send(&leave(&post, 500));
    assert_eq!(sleeper.0.load(Relaxed), 1);
    desk.run().await;
    assert_eq!(other_end.read(&mut [0; 10]).await.expect("an end in order"), 0, "the stream is closed");
}

#[tokio::test]
async fn whoever_listens_again_reads_at_once_what_came_meanwhile() {
    let (desk, sleeper, script, post, mut other_end) = asleep(bench(1 << 20));
    let waker = Waker::from(Arc::clone(&sleeper));
    let woken = || sleeper.0.swap(0, Relaxed) > 0;
    let turn = || desk.work().as_mut().expect("it lies there").turn(&mut Context::from_waker(&waker), Reading::Too);
    // Its own timer ends a pause in the middle of a turn, after the time to read.
    script.with(|state| (state.deaf, state.timed) = (true, true));
    other_end.write_all(b"while it was deaf").await.expect("there is room");
    woken();
    assert_eq!((turn(), woken()), (Poll::Pending, true), "nobody else would wake it for what is there already");
    assert_eq!((turn(), script.with(|state| state.heard)), (Poll::Pending, 17));
    // The runner ends it, and the stack task works in its stead.
    script.with(|state| (state.deaf, state.timed) = (true, false));
    woken();
    assert_eq!((turn(), woken()), (Poll::Pending, false), "it waits for the runner's word");
    desk.send(&post.leave(&mut vec![ConnectionCommand::Listen(true)]).expect("it sleeps"));
    assert!(woken(), "the stack task does not read");
}
