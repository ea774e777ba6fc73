//! Two hundred peers at once, of whom ninety do harm, and two more that catch up, at a node of 64 MiB: who is honest does not notice.

mod desk;
mod guests;

use std::{
    env,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use peerage_transport::driver::Clock;
use tokio::{runtime::Runtime, sync::watch, task::JoinSet};

use crate::{
    ALLOCATOR,
    stage::{PATIENCE, Report, Victim, alone},
    victim::{Plan, lines, say, status},
};
use desk::{CAP, Seen};
use guests::{Abuse, BLOCKS, Honest, catches_up};

/// How the parent asks for the victim of this story.
pub(crate) const CROWD: &str = "BOUNDED_CROWD";

const HONEST: usize = 110;
const SYNCING: usize = 2;
const DEAF: usize = 50;
const MAD: usize = 20;
const LOUD: usize = 20;

/// How often each honest peer says something before, and while, the others do harm.
const BEFORE: usize = 10;
const MEANWHILE: usize = 30;
/// Its rest in between.
const REST: Duration = Duration::from_millis(100);

/// What the child process does.
pub(crate) fn run() -> bool {
    let Ok(plan) = env::var(CROWD) else { return false };
    let plan = Plan::from_text(&plan);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let seen = Arc::new(Seen::default());
        let (handle, budget) = desk::start(plan, Arc::clone(&seen)).await;
        say(&format!("addr={}", handle.local_addr()));
        let mut lines = lines();
        while let Some(line) = lines.recv().await {
            assert_eq!(line, "report");
            let ledger = budget.report();
            let pools: String = ledger.pools.iter().map(|(pool, bytes)| format!(" {}={bytes}", pool.label())).collect();
            say(&format!(
                "peak={} resident={}{pools} refused={} allocated={} most={} rss={} hwm={} links={} notes={} unanswered={} shed={}",
                ledger.peak,
                ledger.resident,
                ledger.refused,
                ALLOCATOR.allocated(),
                ALLOCATOR.max_allocated(),
                status("VmRSS:"),
                status("VmHWM:"),
                handle.links().len(),
                seen.notes.load(Relaxed),
                seen.unanswered.load(Relaxed),
                seen.shed.load(Relaxed),
            ));
        }
    });
    true
}

/// How the story ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    charging: bool,
    offered: usize,
    /// Before anybody came, when all were there, and when it was over.
    idle: Report,
    met: Report,
    after: Report,
    /// How long echoes took, in order: before the others did harm, and meanwhile.
    before: Vec<Duration>,
    meanwhile: Vec<Duration>,
    /// What those got who catch up meanwhile.
    blocks: usize,
}

pub(crate) fn tell(charging: bool) -> Outcome {
    let _alone = alone();
    let runtime = Runtime::new().expect("threads");
    let told = async { tokio::time::timeout(PATIENCE, told(charging)).await };
    runtime.block_on(told).expect("the story has an end")
}

async fn told(charging: bool) -> Outcome {
    let plan = Plan { charging, open_port: false, blocks: false };
    let mut victim = Victim::start_as(CROWD, plan);
    let (addr, clock) = (victim.addr, Clock::start());
    let idle = victim.report();
    let (start, started) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let mut abuse = JoinSet::new();
    for number in 0..DEAF.max(MAD).max(LOUD) {
        let one = || Abuse { addr, start: started.clone(), over: ended.clone() };
        if number < DEAF {
            abuse.spawn(one().deaf(number));
        }
        if number < MAD {
            abuse.spawn(one().mad(number));
        }
        if number < LOUD {
            abuse.spawn(one().loud(number));
        }
    }
    let mut syncing = JoinSet::new();
    (0..SYNCING).for_each(|number| drop(syncing.spawn(catches_up(number, addr, started.clone()))));
    let mut honest = Vec::new();
    for number in 0..HONEST {
        honest.push(Honest::come(number, addr).await);
    }
    victim.until(|report| report["links"] == HONEST + SYNCING + DEAF + MAD + LOUD).await;
    let (mut honest, before) = all_talk(honest, BEFORE, clock).await;
    let met = victim.report();
    start.send_replace(true);
    let meanwhile;
    (honest, meanwhile) = all_talk(honest, MEANWHILE, clock).await;
    if !charging {
        victim.until(|report| report["hwm"] > 2 * CAP).await;
    }
    let blocks = syncing.join_all().await.into_iter().sum();
    let after = victim.report();
    end.send_replace(true);
    let offered = abuse.join_all().await.into_iter().sum();
    drop(honest);
    Outcome { charging, offered, idle, met, after, before, meanwhile, blocks }
}

/// All talk at once.
async fn all_talk(honest: Vec<Honest>, times: usize, clock: Clock) -> (Vec<Honest>, Vec<Duration>) {
    let mut talks = JoinSet::new();
    for (number, mut one) in honest.into_iter().enumerate() {
        talks.spawn(async move {
            tokio::time::sleep(REST * number as u32 / HONEST as u32).await;
            let took = one.talk(times, REST, clock).await;
            (one, took)
        });
    }
    let (honest, took): (Vec<_>, Vec<_>) = talks.join_all().await.into_iter().unzip();
    let mut took = took.concat();
    took.sort();
    (honest, took)
}

impl Outcome {
    fn growth(&self, now: &str, base: &Report, before: &str) -> usize {
        self.after[now].saturating_sub(base[before])
    }

    fn print(&self) {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let percentile = |took: &[Duration], percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e3;
        let mib_of = |now: &str, base: &Report, before: &str| mib(self.growth(now, base, before));
        println!(
            "crowd: charging={} offered={:.1} ledger={:.1} heap={:.1} heap_since_met={:.1} ledger_since_met={:.1} \
             resident={:.1} (MiB) p50_before={:.3} p50_meanwhile={:.3} p99_before={:.3} p99_meanwhile={:.3} (ms) shed={} \
             links={} blocks={}",
            self.charging,
            mib(self.offered),
            mib(self.after["peak"]),
            mib_of("most", &self.idle, "allocated"),
            mib_of("most", &self.met, "allocated"),
            mib_of("peak", &self.met, "resident"),
            mib_of("hwm", &self.idle, "rss"),
            percentile(&self.before, 50),
            percentile(&self.meanwhile, 50),
            percentile(&self.before, 99),
            percentile(&self.meanwhile, 99),
            self.after["shed"],
            self.after["links"],
            self.blocks,
        );
    }

    /// Whatever the others do, all that honest peers say arrives and is answered, and who catches up gets all that it asks for.
    pub(crate) fn nobody_honest_noticed(&self) {
        self.print();
        assert!(self.offered >= 10 * CAP, "{} bytes are no flood", self.offered);
        let (said, answered) = (HONEST * (BEFORE + MEANWHILE), self.before.len() + self.meanwhile.len());
        assert_eq!((answered, self.after["notes"], self.after["unanswered"]), (said, said, 0), "{self:#?}");
        assert_eq!(self.blocks, SYNCING * BLOCKS, "{self:#?}");
    }

    pub(crate) fn stays_within_the_budget(&self) {
        let (ledger, resident) = (self.after["peak"], self.growth("hwm", &self.idle, "rss"));
        assert!(ledger <= CAP, "{self:#?}");
        assert!(resident <= CAP + CAP / 10, "{resident} bytes are resident: {self:#?}");
    }

    pub(crate) fn passes_the_budget(&self) {
        let resident = self.growth("hwm", &self.idle, "rss");
        assert!(self.after["peak"] > CAP && resident > CAP + CAP / 10, "within the budget all the same: {self:#?}");
    }
}
