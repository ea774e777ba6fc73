//! The node under attack, in a process of its own: as the binary puts it together, on TCP, with a store on disk.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use peerage::stack::{NodeStack, Overlay, OverlayCommand, OverlayEvent};
use peerage_chain::{
    proto::{
        Chain, Command, Config as ChainConfig, Event,
        genesis::{Genesis, GenesisFile},
        id::{Account, Producer, TxId},
        transaction::{EncodedTransaction, Op, Transaction, TransactionBody},
    },
    store::Store,
};
use peerage_core::{Budget, NetworkId, SecretRng, Seed, Stack, UnixMillis};
use peerage_discovery::{Config as DiscoveryConfig, Discovery};
use peerage_gossip::{Config as GossipConfig, Gossip};
use peerage_transport::{
    driver::{self, Clock, DriverConfig, Fabric, Handle, NoiseChannel, TcpFabric},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        keypair::Keypair,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{AddressPolicy, PeerManager, PeerManagerConfig},
    },
};
use peerage_wire::{Limits, Magic};

use crate::{ALLOCATOR, bound};

/// How the parent asks for a victim: a [`Plan`] in the environment of the child.
pub(crate) const PLAN: &str = "BOUNDED_VICTIM";

/// What each line begins with that is for the parent; the test harness prints too.
pub(crate) const MARK: &str = "victim: ";

const CHAIN: u64 = 21;

/// How the victim is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Whether memory is charged against the cap, or against a cap that nothing ever reaches.
    pub(crate) charging: bool,
    /// Whether strangers are limited by address as on an open port. Otherwise loopback is exempt, as on a developer's
    /// machine.
    pub(crate) open_port: bool,
    /// Whether it makes blocks, and has one of the largest from the beginning.
    pub(crate) blocks: bool,
}

impl Plan {
    pub(crate) fn to_text(self) -> String {
        [self.charging, self.open_port, self.blocks].map(|flag| if flag { '1' } else { '0' }).iter().collect()
    }

    pub(crate) fn from_text(text: &str) -> Self {
        let flags: Vec<bool> = text.chars().map(|flag| flag == '1').collect();
        let [charging, open_port, blocks] = flags[..] else { panic!("no plan: {text}") };
        Self { charging, open_port, blocks }
    }
}

fn producer_key() -> Arc<Keypair> {
    Arc::new(Keypair::from_seed(&[200; 32]))
}

pub(crate) fn genesis() -> Arc<Genesis> {
    let producer = Producer(*producer_key().node_id().as_bytes());
    let file = GenesisFile::solo(CHAIN, "bounded", producer, UnixMillis(1_700_000_000_000));
    Arc::new(Genesis::new(&file).expect("a valid genesis"))
}

pub(crate) fn network() -> NetworkId {
    genesis().network_id()
}

/// One new key of so many bytes in the name of whoever signs.
pub(crate) fn tx(signer: &Keypair, nonce: u64, bytes: usize) -> EncodedTransaction {
    let account = Account(*signer.node_id().as_bytes());
    let key = [account.as_bytes().as_slice(), &nonce.to_be_bytes()].concat();
    let ops = vec![Op::Put { key, value: vec![7; bytes], expected_version: 0 }];
    let body = TransactionBody { chain_id: CHAIN, account, nonce, valid_until: 1_000_000, ops };
    Transaction::sign(body, signer).expect("valid").encode().expect("not too large")
}

/// What the honest peer of every story wants in the chain.
pub(crate) fn honest_tx(nonce: u64) -> EncodedTransaction {
    tx(&Keypair::from_seed(&[1; 32]), nonce, 200)
}

/// How many of those there are at most.
const HONEST: u64 = 64;

/// What the victim's events told.
#[derive(Default)]
struct Seen {
    /// How many of the honest peer's transactions were taken, as one bit each.
    served: AtomicU64,
    height: AtomicU64,
}

/// What the binary does in the child process.
pub(crate) fn run(plan: &str) {
    let plan = Plan::from_text(plan);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let directory = tempfile::tempdir().expect("a directory");
        let seen = Arc::new(Seen::default());
        let (handle, budget) = start(plan, directory.path(), &seen).await;
        if plan.blocks {
            fill_a_block(&handle).await;
        }
        say(&format!("addr={}", handle.local_addr()));
        let (mut stalled, mut lines) = (None, lines());
        while let Some(line) = lines.recv().await {
            match line.as_str() {
                "stall" => stalled = Some(stall(&handle).await),
                "go" => stalled = None,
                "report" => say(&report(&handle, &budget, &seen)),
                other => panic!("an order that nobody knows: {other}"),
            }
        }
        drop(stalled);
    });
}

pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{MARK}{line}").and_then(|()| out.flush()).expect("the parent reads");
}

/// The parent's orders, until it closes the pipe or dies.
pub(crate) fn lines() -> tokio::sync::mpsc::Receiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn start(plan: Plan, directory: &std::path::Path, seen: &Arc<Seen>) -> (Handle<NodeStack>, Budget) {
    let genesis = genesis();
    let identity = Arc::new(Keypair::from_seed(&[99; 32]));
    // Without charging: the same ledger, with a cap that nothing reaches.
    let budget =
        if plan.charging { Budget::with_floors(bound::CAP, bound::MAX_PEERS) } else { Budget::new(usize::MAX / 2) };
    let (clock, mut rng) = (Clock::start(), SecretRng::from_os());
    let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
    let dice = Seed::from_u64(7);
    let peers = PeerManagerConfig {
        addresses: AddressPolicy::Loopback,
        max_peers: bound::MAX_PEERS,
        ..PeerManagerConfig::new(identity.node_id())
    };
    let discovery = DiscoveryConfig {
        addrs: vec![fabric.local_addr()],
        addresses: AddressPolicy::Loopback,
        ..DiscoveryConfig::new(Arc::clone(&identity), genesis.network_id(), dice, budget.clone())
    };
    let overlay = Overlay::new(
        Discovery::new(discovery, clock.now()),
        Gossip::new(GossipConfig::default(), &budget),
        Chain::new(
            Arc::clone(&genesis),
            ChainConfig { producer: plan.blocks.then(producer_key), ..ChainConfig::default() },
            &budget,
        )
        .expect("the producer's key"),
    );
    let stack = Stack::new(Managed::new(PeerManager::new(peers, &dice), overlay));
    let limits = Limits::new(&[peerage_discovery::LIMITS, peerage_gossip::proto::LIMITS, peerage_chain::proto::LIMITS]);
    let network = genesis.network_id();
    let connection = ConnectionConfig::new(identity, network, Magic::DEV, Arc::new(limits), budget.clone(), &mut rng);
    let store = Store::open(&directory.join("store"), genesis, bound::STORE_CACHE).expect("a new store");
    let honest: BTreeMap<TxId, u64> = (0..HONEST).map(|nonce| (honest_tx(nonce).id, nonce)).collect();
    let seen = Arc::clone(seen);
    let on_event = move |event| match event {
        ManagedEvent::Upper(OverlayEvent::Chain(Event::TxAccepted { id })) => {
            if let Some(nonce) = honest.get(&id) {
                seen.served.fetch_or(1 << nonce, Relaxed);
            }
        }
        ManagedEvent::Upper(OverlayEvent::Chain(Event::BlockCommitted { head, .. })) => {
            seen.height.store(head.height, Relaxed);
        }
        _ => {}
    };
    let admission = AdmissionConfig { loopback_exempt: !plan.open_port, ..AdmissionConfig::default() };
    let config = DriverConfig { budget: budget.clone(), clock, admission, ..DriverConfig::default() };
    let security = Arc::new(NoiseChannel::new(Arc::new(connection)));
    let handle = driver::spawn(config, Arc::new(fabric), security, stack, store, on_event).expect("threads");
    (handle, budget)
}

/// Transactions in the first block, and bytes of each: nearly as much as fits.
const FIRST: usize = 7;
const FIRST_BYTES: usize = 250_000;
/// How long the first block is at least.
pub(crate) const FIRST_BLOCK: usize = FIRST * FIRST_BYTES;

/// Its own users make it put as much as fits into its first block, which it makes once somebody is connected.
async fn fill_a_block(handle: &Handle<NodeStack>) {
    let signer = Keypair::from_seed(&[2; 32]);
    for nonce in 0..FIRST as u64 {
        let command = Command::Submit { token: nonce, tx: tx(&signer, nonce, FIRST_BYTES).bytes };
        handle.command(ManagedCommand::Upper(OverlayCommand::Chain(command))).await.expect("it runs");
    }
    let pool = |stack: &NodeStack| stack.upper().chain().status().pool;
    while handle.inspect(pool).await.expect("it runs") < FIRST {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The stack does nothing more until the returned end is dropped; connections go on. As a slow disk would have it, or a
/// protocol that computes too long.
async fn stall(handle: &Handle<NodeStack>) -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel::<()>();
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let handle = handle.clone();
    tokio::spawn(async move {
        let look = move |_: &NodeStack| {
            // Whoever waits for this is still there.
            let _unheard = begun.send(());
            tokio::task::block_in_place(|| receiver.recv().err())
        };
        handle.inspect(look).await
    });
    beginning.await.expect("the stack stands still");
    sender
}

fn report(handle: &Handle<NodeStack>, budget: &Budget, seen: &Seen) -> String {
    let ledger = budget.report();
    let pools: String = ledger.pools.iter().map(|(pool, bytes)| format!(" {}={bytes}", pool.label())).collect();
    format!(
        "peak={} resident={}{pools} refused={} allocated={} most={} rss={} hwm={} links={} served={} height={}",
        ledger.peak,
        ledger.resident,
        ledger.refused,
        ALLOCATOR.allocated(),
        ALLOCATOR.max_allocated(),
        status("VmRSS:"),
        status("VmHWM:"),
        handle.links().len(),
        seen.served.load(Relaxed),
        seen.height.load(Relaxed)
    )
}

/// A value of `/proc/self/status`, in bytes; 0 where there is no such file.
pub(crate) fn status(name: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<usize>().ok()).unwrap_or(0) << 10
}

/// The plan, if this process is a victim.
pub(crate) fn plan() -> Option<String> {
    env::var(PLAN).ok()
}
