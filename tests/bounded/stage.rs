//! One story at a time: a victim in a process of its own, those who attack it, somebody honest, and the figures.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, LazyLock, Once},
    time::Duration,
};

use peerage_chain::proto::{HEAD, Summary, TRANSACTIONS_TOPIC};
use peerage_core::Message;
use peerage_gossip::proto::ITEM;
use peerage_transport::proto::keypair::Keypair;
use peerage_wire::{Envelope, payload};
use tokio::{
    io::AsyncWriteExt,
    runtime::Runtime,
    sync::{Mutex, OwnedMutexGuard},
};

use crate::{
    attack::{Attack, Flood},
    bound,
    hand::{Hand, connect, pieces},
    victim::{self, MARK, PLAN, Plan, honest_tx},
};

/// What waits longer fails: far beyond what any of it takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// One flood at a time: each needs the whole machine.
static ALONE: LazyLock<Arc<Mutex<()>>> = LazyLock::new(Arc::default);

/// The right to tell a story.
pub(crate) fn alone() -> OwnedMutexGuard<()> {
    Arc::clone(&ALONE).blocking_lock_owned()
}

/// What happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    flood: Flood,
    plan: Plan,
    /// The victim's stack stands still while the flood comes.
    stalled: bool,
}

impl Story {
    pub(crate) const fn of(flood: Flood, plan: Plan) -> Self {
        Self { flood, plan, stalled: false }
    }

    pub(crate) const fn stalled(flood: Flood, plan: Plan) -> Self {
        Self { flood, plan, stalled: true }
    }
}

/// What the victim says about itself.
pub(crate) type Report = BTreeMap<String, usize>;

/// How a story ended, in bytes.
#[derive(Debug)]
pub(crate) struct Figures {
    story: Story,
    offered: usize,
    /// Before anybody was connected.
    idle: Report,
    /// When all had left.
    left: Report,
}

/// Pools of what waits for something and does not stay.
const WAITING: [&str; 5] = ["outbound", "reassembly", "inbox", "command", "job"];

/// Tells one story after the other. While the victim of one works off what it has, the next begins.
pub(crate) fn tell(stories: &[Story]) -> Vec<Figures> {
    std::thread::scope(|scope| {
        let told: Vec<_> = stories
            .iter()
            .map(|story| {
                let alone = alone();
                scope.spawn(move || {
                    let runtime = Runtime::new().expect("threads");
                    let told = async { tokio::time::timeout(PATIENCE, told(*story, alone)).await };
                    runtime.block_on(told).unwrap_or_else(|_| panic!("no end: {story:?}"))
                })
            })
            .collect();
        told.into_iter().map(|story| story.join().expect("the story above went wrong")).collect()
    })
}

async fn told(story: Story, alone: OwnedMutexGuard<()>) -> Figures {
    let mut victim = Victim::start(story.plan);
    let idle = victim.report();
    // Somebody honest is there before, and stays.
    let mut honest = Honest { addr: victim.addr, hand: None, served: 0 };
    honest.is_served(&mut victim).await;
    if story.plan.blocks {
        victim.until(|report| report["height"] > 0).await;
    }

    let mut attack = Attack::prepare(story.flood, victim.addr).await;
    if story.stalled {
        victim.order("stall");
        attack.run().await;
        victim.order("go");
    }
    attack.run().await;
    victim.settles().await;
    if !story.plan.charging {
        // The flood may have to wait for the machine, but for nothing else.
        victim.until(|report| report["hwm"] > 5 * bound::CAP).await;
    }
    // While the attackers are still there, with all that they hold.
    honest.is_served(&mut victim).await;
    let offered = attack.offered();
    attack.leave().await;
    honest.hand = None;

    // The victim works off what it has, and looks for those who are gone; meanwhile the next story may begin.
    drop(alone);
    let left = victim.until(|report| WAITING.iter().all(|pool| report[*pool] == 0) && report["links"] == 0).await;
    let figures = Figures { story, offered, idle, left };
    figures.print();
    figures
}

impl Figures {
    /// The most that the ledger held.
    fn ledger(&self) -> usize {
        self.left["peak"]
    }

    /// What the heap grew by at most.
    fn heap(&self) -> usize {
        self.left["most"].saturating_sub(self.idle["allocated"])
    }

    /// What the resident memory grew by at most.
    fn resident(&self) -> usize {
        self.left["hwm"].saturating_sub(self.idle["rss"])
    }

    /// What the heap has now, beyond what it had at first.
    fn kept(&self) -> usize {
        self.left["allocated"].saturating_sub(self.idle["allocated"])
    }

    fn bound(&self, charged: usize) -> usize {
        let flood = self.story.flood;
        let (links, strangers) = if flood == Flood::HalfOpen { (1, bound::MAX_LINKS) } else { (bound::LINKS, 0) };
        let checking = if matches!(flood, Flood::Items | Flood::All) { bound::CHECKING } else { 0 };
        bound::heap(charged, links, strangers) + checking
    }

    fn print(&self) {
        static HEAD: Once = Once::new();
        HEAD.call_once(|| {
            println!(
                "{:<24} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}   (MiB)",
                "flood", "offered", "ledger", "heap", "bound", "RSS", "bound", "kept", "charged"
            );
        });
        let Story { flood, plan, stalled } = self.story;
        let stalled = if stalled { ", stalled" } else { "" };
        let name = format!("{flood:?}{stalled}{}", if plan.charging { "" } else { ", uncharged" });
        let bound = self.bound(bound::CAP);
        let columns = [
            self.offered,
            self.ledger(),
            self.heap(),
            bound,
            self.resident(),
            bound::resident(bound),
            self.kept(),
            self.left["resident"],
        ];
        let columns = columns.map(|bytes| format!(" {:>8.1}", bytes as f64 / f64::from(1 << 20))).concat();
        println!("{name:<24}{columns}");
    }

    fn offers_ten_budgets(&self) {
        assert!(self.offered >= 10 * bound::CAP, "{} bytes are no flood: {self:#?}", self.offered);
    }

    /// What is charged is what is held, give or take what the formula says of everything else.
    fn agree(&self) {
        let (heap, most) = (self.heap(), self.bound(self.ledger()));
        assert!(heap <= most, "{heap} bytes of heap, for which {most} were charged or are fixed: {self:#?}");
        let (kept, charged) = (self.left["mempool"] + self.left["table"], self.left["resident"]);
        assert_eq!(charged, kept, "something is charged that is not kept: {self:#?}");
        let (kept, most) = (self.kept(), charged + bound::at_rest(self.story.plan.blocks));
        assert!(kept <= most, "{kept} bytes stay on the heap, for which {most} are charged or fixed: {self:#?}");
    }

    /// The bound holds, and the three agree.
    pub(crate) fn hold(&self) {
        self.offers_ten_budgets();
        self.agree();
        let (ledger, heap, resident) = (self.ledger(), self.heap(), self.resident());
        let bound = self.bound(bound::CAP);
        assert!(ledger <= bound::CAP, "the ledger passed its cap: {self:#?}");
        assert!(heap <= bound, "{heap} bytes of heap, {bound} are the bound: {self:#?}");
        assert!(resident <= bound::resident(bound), "{resident} bytes are resident: {self:#?}");
    }

    /// Without charging nothing holds the flood back: by each of the three measures the bound is broken. The ledger still
    /// counts, so that at ten times the budget it can be compared with what the heap had.
    pub(crate) fn break_the_bound(&self) {
        self.offers_ten_budgets();
        self.agree();
        let (ledger, heap, resident) = (self.ledger(), self.heap(), self.resident());
        let bound = self.bound(bound::CAP);
        assert!(ledger > bound::CAP, "{ledger} bytes are within the cap all the same: {self:#?}");
        assert!(heap > bound, "{heap} bytes of heap are within the bound all the same: {self:#?}");
        assert!(resident > bound::resident(bound), "{resident} bytes resident are, too: {self:#?}");
        assert!(heap >= ledger / 10 * 9, "{ledger} bytes were charged for {heap} that were there: {self:#?}");
    }
}

/// The victim's process. It ends when its pipe does.
pub(crate) struct Victim {
    child: Child,
    orders: ChildStdin,
    words: BufReader<ChildStdout>,
    pub(crate) addr: SocketAddr,
}

impl Victim {
    fn start(plan: Plan) -> Self {
        Self::start_as(PLAN, plan)
    }

    /// A victim of the story that this variable of the environment names.
    pub(crate) fn start_as(story: &str, plan: Plan) -> Self {
        let mut child = Command::new(env::current_exe().expect("a test runs from a file"))
            .args(["--exact", "the_process_of_a_victim", "--nocapture"])
            .env(story, plan.to_text())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it can be started again");
        let (orders, words) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut victim = Self { child, orders, words: BufReader::new(words), addr: ([0; 4], 0).into() };
        let hello = victim.word();
        victim.addr = hello.strip_prefix("addr=").and_then(|addr| addr.parse().ok()).expect("its address");
        victim
    }

    fn word(&mut self) -> String {
        loop {
            let mut line = String::new();
            let count = self.words.read_line(&mut line).expect("a pipe");
            assert!(count > 0, "the victim is dead");
            if let Some(word) = line.trim_end().strip_prefix(MARK) {
                return word.to_owned();
            }
        }
    }

    fn order(&mut self, what: &str) {
        writeln!(self.orders, "{what}").expect("the victim lives");
    }

    pub(crate) fn report(&mut self) -> Report {
        self.order("report");
        let word = self.word();
        let field = |text: &str| {
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        word.split(' ').map(|text| field(text).unwrap_or_else(|| panic!("no report: {word}"))).collect()
    }

    /// Waits until it holds neither more nor less than a moment before, or has been busy for long enough.
    async fn settles(&mut self) {
        let mut before = None;
        for _ in 0..20 {
            let held = Some(self.report()["resident"]);
            if held == before {
                return;
            }
            before = held;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Waits until its report is as it should be.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Report) -> bool) -> Report {
        loop {
            let report = self.report();
            if holds(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It may be dead already.
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// A peer that wants one transaction after the other in the chain and follows all rules.
struct Honest {
    addr: SocketAddr,
    hand: Option<Hand>,
    /// How many of its transactions were taken.
    served: u64,
}

impl Honest {
    /// Its next transaction is taken, however often it has to be said.
    async fn is_served(&mut self, victim: &mut Victim) {
        let nonce = self.served;
        let bytes = honest_tx(nonce).bytes;
        let item = Message::with_body(ITEM, payload::to_bytes(&TRANSACTIONS_TOPIC), bytes);
        loop {
            // A connection that broke, or stands still, is made anew.
            let said = tokio::time::timeout(Duration::from_secs(5), self.say(&item)).await;
            if !matches!(said, Ok(Ok(()))) {
                self.hand = None;
            }
            for _ in 0..10 {
                if victim.report()["served"] >> nonce & 1 == 1 {
                    self.served += 1;
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn say(&mut self, message: &Message) -> std::io::Result<()> {
        let hand = match &mut self.hand {
            Some(hand) => hand,
            hand => {
                // As an attacker that no flood has.
                let stream = connect(60_000, self.addr).await?;
                let mut fresh = Hand::shake(stream, &Arc::new(Keypair::from_seed(&[1; 32]))).await?;
                let head = Summary { height: 0, id: victim::genesis().block_id() };
                let hello = Message::new(HEAD, payload::to_bytes(&head));
                for frames in pieces(hello, Envelope::Notification) {
                    let record = fresh.keys.seal(&frames);
                    fresh.stream.write_all(&record).await?;
                }
                hand.insert(fresh)
            }
        };
        for frames in pieces(message.clone(), Envelope::Notification) {
            let record = hand.keys.seal(&frames);
            hand.stream.write_all(&record).await?;
        }
        // What it is told is read and not looked at.
        let mut buffer = [0; 4096];
        while hand.stream.try_read(&mut buffer).is_ok_and(|count| count > 0) {}
        Ok(())
    }
}
