//! The load: transactions at a steady rate, from many accounts, each handed to a random node.
//!
//! The rate does not wait for the nodes (an open loop): what was held up is caught up with. An account has one
//! submission under way at a time, so its nonces are given out in order, and there are enough accounts for the rate.

use core::time::Duration;
use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use peerage_chain::proto::{id::TxId, transaction::EncodedTransaction};
use peerage_core::{SecretRng, Timestamp};
use peerage_transport::{driver::Clock, proto::keypair::Keypair};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    account::{VALUE_BYTES, Writer},
    propagation::Tracker,
};
use crate::{
    control::{ClientError, ControlClient, ErrorCode, Request, Response, TxState},
    data_dir::DataDir,
};

/// Accounts at least; our guess.
const LEAST_ACCOUNTS: usize = 32;
/// Accounts at most; our guess, a bound on tasks.
const MOST_ACCOUNTS: usize = 4096;
/// Transactions of an account that may be uncommitted: half of the gap between nonces that a node lets wait (64, by
/// default), for nodes may be blocks apart.
const UNCOMMITTED: usize = 32;
/// Connections to a node at a time: half of what its control socket serves.
const CONNECTIONS: usize = 32;
/// How often the load catches up with its rate. Our guess: well below the time between blocks.
const TICK: Duration = Duration::from_millis(5);
/// How much later than due a transaction may begin and still count. Our guess: unnoticed in a rate per second.
const LAST_ONES: Duration = Duration::from_millis(100);
/// Pause before a submission without an answer is repeated. Our guess.
const RETRY: Duration = Duration::from_millis(100);

/// How many accounts a rate takes: one submission of each may take half a second then.
pub fn accounts_for(rate: u32) -> usize {
    (rate as usize / 2).clamp(LEAST_ACCOUNTS, MOST_ACCOUNTS)
}

/// How many transactions should have been begun after a time.
pub fn due(rate: u32, elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// The file of transaction ids: each stands there before any node sees the transaction.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// A new, empty one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::create_new(path)? })
    }

    /// Writes an id down. It has left this process when this returns.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn append(&mut self, id: TxId) -> io::Result<()> {
        self.file.write_all(format!("{id}\n").as_bytes())?;
        self.file.flush()
    }
}

/// A lock that a panic elsewhere does not close: what it guards is sound between any two of its calls.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the tasks of the load share with those who watch the nodes.
#[derive(Debug)]
pub struct Shared {
    tracker: Mutex<Tracker>,
    journal: Mutex<Journal>,
    /// One for each transaction that is due.
    tickets: Semaphore,
    /// By account: how many more transactions may be uncommitted.
    room: Vec<Semaphore>,
    nodes: Vec<Doors>,
}

/// The ways into a node.
#[derive(Debug)]
struct Doors {
    dir: DataDir,
    slots: Semaphore,
    idle: Mutex<Vec<ControlClient>>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    rate: u32,
    /// Transactions that are ever due.
    limit: u64,
    clock: Clock,
    started: Timestamp,
    pacer: JoinSet<()>,
    workers: JoinSet<io::Result<()>>,
}

impl Shared {
    /// For a load of this rate on the nodes in these directories.
    pub fn new(rate: u32, nodes: &[DataDir], journal: Journal) -> Self {
        let doors = |dir: &DataDir| Doors {
            dir: dir.clone(),
            slots: Semaphore::new(CONNECTIONS),
            idle: Mutex::new(Vec::new()),
        };
        Self {
            tracker: Mutex::new(Tracker::new(nodes.len())),
            journal: Mutex::new(journal),
            tickets: Semaphore::new(0),
            room: (0..accounts_for(rate)).map(|_| Semaphore::new(UNCOMMITTED)).collect(),
            nodes: nodes.iter().map(doors).collect(),
        }
    }

    /// Reads or changes what is known about transactions.
    pub fn with_tracker<T>(&self, change: impl FnOnce(&mut Tracker) -> T) -> T {
        change(&mut locked(&self.tracker))
    }

    /// A node committed a transaction.
    pub fn committed(&self, node: usize, id: TxId, at: u64) {
        if let Some(account) = self.with_tracker(|tracker| tracker.committed(node, id, at)) {
            self.room[account].add_permits(1);
        }
    }
}

impl Load {
    /// Begins, with new accounts. With a duration, exactly as many transactions are due as belong to it.
    pub fn start(shared: Arc<Shared>, rate: u32, duration: Option<Duration>, chain_id: u64) -> Self {
        let clock = Clock::start();
        let started = clock.now().mono;
        let mut workers = JoinSet::new();
        for account in 0..shared.room.len() {
            let mut random = SecretRng::from_os();
            let writer = Writer::new(chain_id, Keypair::generate(&mut random));
            workers.spawn(work(Arc::clone(&shared), account, writer, random));
        }
        let mut pacer = JoinSet::new();
        let limit = duration.map_or(u64::MAX, |duration| due(rate, duration));
        pacer.spawn(pace(Arc::clone(&shared), rate, limit, clock, started));
        Self { shared, rate, limit, clock, started, pacer, workers }
    }

    /// After the duration: gives the last transactions that are due the moment they need to begin.
    pub async fn last_ones(&self) {
        let begun = async {
            while self.shared.with_tracker(|tracker| tracker.counts().submitted) < self.limit {
                sleep(TICK).await;
            }
        };
        // What does not begin in time is a load that was not kept up, which the count tells.
        let _ = timeout(LAST_ONES, begun).await;
    }

    /// Begins no more transactions. Returns how many should have been begun until now.
    pub fn stop(&mut self) -> u64 {
        self.pacer.abort_all();
        self.shared.tickets.close();
        self.shared.room.iter().for_each(Semaphore::close);
        due(self.rate, self.clock.now().mono.since(self.started)).min(self.limit)
    }

    /// After [`stop`](Self::stop): waits until every submission under way is answered. Safe to cancel.
    ///
    /// # Errors
    /// The journal could not be written.
    pub async fn finished(&mut self) -> io::Result<()> {
        while let Some(worker) = self.workers.join_next().await {
            worker.unwrap_or_else(|error| Err(io::Error::other(error)))?;
        }
        Ok(())
    }

    /// Waits for the load to fail; never returns while it goes well. Safe to cancel.
    pub async fn failed(&mut self) -> io::Error {
        match self.workers.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => io::Error::other(error),
            Some(Ok(Ok(()))) | None => io::Error::other("a worker stopped by itself"),
        }
    }
}

/// Gives out a ticket for each transaction that is due.
async fn pace(shared: Arc<Shared>, rate: u32, limit: u64, clock: Clock, started: Timestamp) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut given = 0;
    while given < limit {
        ticks.tick().await;
        let due = due(rate, clock.now().mono.since(started)).min(limit);
        // A semaphore has a limit; nobody is that far behind.
        let more = usize::try_from(due - given).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS / 2);
        if shared.tickets.available_permits() <= Semaphore::MAX_PERMITS / 2 {
            shared.tickets.add_permits(more);
        }
        given = due;
    }
}

/// One account: a transaction for each ticket it gets.
async fn work(shared: Arc<Shared>, account: usize, mut writer: Writer, mut random: SecretRng) -> io::Result<()> {
    loop {
        // An account that is far ahead of the chain leaves the tickets to others.
        let Ok(room) = shared.room[account].acquire().await else { return Ok(()) };
        let Ok(ticket) = shared.tickets.acquire().await else { return Ok(()) };
        ticket.forget();
        let mut value = [0; VALUE_BYTES];
        value.chunks_mut(32).for_each(|part| part.copy_from_slice(&random.bytes32()[..part.len()]));
        let tx = writer.next(value);
        locked(&shared.journal).append(tx.id)?;
        shared.with_tracker(|tracker| tracker.submitted(tx.id, account));
        if submit(&shared, &tx, &mut random).await {
            SemaphorePermit::forget(room);
            writer.taken();
        } else {
            shared.with_tracker(|tracker| tracker.refused(tx.id));
        }
    }
}

/// Hands a transaction to a random node, and to others until one has answered; `false` if it refused for good.
async fn submit(shared: &Shared, tx: &EncodedTransaction, random: &mut SecretRng) -> bool {
    loop {
        let [a, b, ..] = random.bytes32();
        let node = &shared.nodes[usize::from(u16::from_be_bytes([a, b])) % shared.nodes.len()];
        match node.call(Request::SubmitTx { tx: tx.bytes.to_vec() }).await {
            Ok(_) => return true,
            Err(ClientError::Refused(refusal)) if refusal.code == ErrorCode::TxRejected => {
                // An earlier attempt whose answer was lost may have had its way.
                match node.call(Request::TxStatus { id: tx.id }).await {
                    Ok(Response::TxStatus(TxState::Pending | TxState::Committed(_))) => return true,
                    Ok(_) => return false,
                    Err(_) => {}
                }
            }
            // Without an answer nobody knows; asking again is harmless.
            Err(_) => {}
        }
        sleep(RETRY).await;
    }
}

impl Doors {
    async fn call(&self, request: Request) -> Result<Response, ClientError> {
        let _slot = self.slots.acquire().await.map_err(|_| ClientError::Closed)?;
        let idle = locked(&self.idle).pop();
        let mut client = match idle {
            Some(client) => client,
            None => ControlClient::connect(&self.dir).await?,
        };
        let answer = client.call(request).await;
        if matches!(answer, Ok(_) | Err(ClientError::Refused(_))) {
            locked(&self.idle).push(client);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_to_the_transaction_and_nothing_overflows() {
        assert_eq!(due(50, Duration::from_secs(20)), 1000);
        assert_eq!(due(3, Duration::from_millis(333)), 0);
        assert_eq!(due(3, Duration::from_millis(334)), 1);
        assert_eq!(due(u32::MAX, Duration::MAX), u64::MAX);
        assert_eq!((accounts_for(0), accounts_for(1000), accounts_for(u32::MAX)), (32, 500, 4096));
    }

    #[test]
    fn a_journal_holds_what_was_appended_and_is_never_begun_twice() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("journal");
        let mut journal = Journal::create(&path).expect("created");
        journal.append(TxId([1; 32])).expect("written");
        journal.append(TxId([2; 32])).expect("written");
        let text = std::fs::read_to_string(&path).expect("readable before it is closed");
        assert_eq!(text, format!("{}\n{}\n", TxId([1; 32]), TxId([2; 32])));
        assert!(Journal::create(&path).is_err());
    }
}
