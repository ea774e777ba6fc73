//! A disk that is full: the store says so, the machine tells it once, and nothing is promised or made any more.

use std::{
    fmt, io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use peerage_chain::{
    proto::{Command, Config, Event, Refusal, Unavailable},
    store::{Store, StoreError},
};
use peerage_core::Budget;
use peerage_sim::SimConfig;
use redb::StorageBackend;

use super::{
    SECOND,
    node::{Net, Node, PRODUCER, genesis, keypair, tx},
};

/// A disk that keeps its bytes from one store to the next, and can be filled up.
#[derive(Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    full: Arc<AtomicBool>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("full", &self.full).finish_non_exhaustive()
    }
}

impl Disk {
    fn with<T>(&self, look: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        look(&mut self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn room(&self) -> io::Result<()> {
        let full = self.full.load(Ordering::Relaxed);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn store(&self) -> Store {
        Store::with_backend(self.clone(), genesis(), 1 << 20).expect("there is room")
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("a small disk")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|bytes| bytes.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = place(offset);
        self.with(|bytes| match bytes.get(at..at + out.len()) {
            Some(found) => {
                out.copy_from_slice(found);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        // As on a real disk: a longer file takes no room before it is written to.
        self.with(|bytes| bytes.resize(place(len), 0));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.room()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        let at = place(offset);
        self.with(|bytes| bytes[at..at + data.len()].copy_from_slice(data));
        Ok(())
    }
}

/// A network of a producer and a follower, of which `node` has this disk.
fn network(seed: u64, node: usize, disk: &Disk) -> Net {
    let mut net = Net::with(SimConfig::new(seed), 2).line();
    replace(&mut net, node, disk.store());
    net
}

/// Starts a node anew with this store.
fn replace(net: &mut Net, node: usize, store: Store) {
    net.sim.crash(node);
    let producer = (node == 0).then(|| Arc::new(keypair(PRODUCER)));
    let budget: Budget = net.sim.budget(node).clone();
    net.sim.restart(node, Node::new(Config { producer, ..Config::default() }, &budget), store);
    net.sim.connect(0, 1);
    net.sim.run_for(5 * SECOND);
}

/// What a node told about its store.
fn failures(events: &[(usize, Event)], node: usize) -> Vec<&StoreError> {
    let of = events.iter().filter(|(at, _)| *at == node);
    of.filter_map(|(_, event)| match event {
        Event::StoreFailed(error) => Some(error),
        _ => None,
    })
    .collect()
}

fn is_full(error: &StoreError) -> bool {
    let StoreError::Database(error) = error else { return false };
    matches!(&**error, redb::Error::Io(reason) if reason.kind() == io::ErrorKind::StorageFull)
}

#[test]
fn a_producer_whose_disk_is_full_says_so_once_promises_nothing_and_stops() {
    let disk = Disk::default();
    let mut net = network(31, 0, &disk);
    net.submit(0, &tx(1, 0));
    net.sim.run_for(2 * SECOND);
    net.collect();
    assert_eq!((net.height(0), net.height(1), net.acknowledged.len()), (1, 1, 1));

    disk.full.store(true, Ordering::Relaxed);
    for nonce in 1..10 {
        net.submit(0, &tx(1, nonce));
        net.submit(1, &tx(2, nonce - 1)); // these reach the producer from outside
        net.sim.run_for(SECOND);
    }
    net.sim.command(0, Command::Get { token: 1_000, key: b"1/0".to_vec() });
    net.sim.run_for(10 * SECOND);
    let events = net.collect();
    let told = failures(&events, 0);
    assert!(told.len() == 1 && is_full(told[0]), "{told:?}");
    assert!(told[0].to_string().contains("make room on the disk and start the node again"), "{}", told[0]);
    assert!(net.refused.iter().all(|(_, refusal)| *refusal == Refusal::StoreFailed), "{:?}", net.refused);
    assert_eq!(net.refused.len(), 9, "each of its own users was refused");
    assert_eq!(net.acknowledged.len(), 1 + 9, "the follower's users were promised, by the follower's disk");
    assert_eq!((net.height(0), net.height(1)), (1, 1), "no block without a disk");
    assert!(events.iter().any(|(_, event)| matches!(event, Event::Got { token: 1_000, result: Err(Unavailable) })));

    // Room again, and a new start: all that was promised is committed.
    disk.full.store(false, Ordering::Relaxed);
    net.sim.crash(0);
    drop(net.sim.take_resource(0));
    let store = disk.store();
    assert_eq!(store.head().expect("readable").height, 1);
    let budget = net.sim.budget(0).clone();
    let config = Config { producer: Some(Arc::new(keypair(PRODUCER))), ..Config::default() };
    net.sim.restart(0, Node::new(config, &budget), store);
    net.sim.connect(0, 1);
    net.sim.run_for(30 * SECOND);
    assert_eq!((net.outbox(0), net.outbox(1)), (0, 0));
    let reports = net.audit();
    assert!(reports.iter().all(|(_, report)| report.transactions.len() == 10 && report.problems.is_empty()));
}

#[test]
fn a_follower_whose_disk_is_full_keeps_the_block_that_it_has_and_gets_the_others_later() {
    let disk = Disk::default();
    let mut net = network(32, 1, &disk);
    net.submit(0, &tx(1, 0));
    net.sim.run_for(2 * SECOND);
    disk.full.store(true, Ordering::Relaxed);
    for nonce in 1..4 {
        net.submit(0, &tx(1, nonce));
        net.sim.run_for(SECOND);
    }
    let events = net.collect();
    let told = failures(&events, 1);
    assert!(told.len() == 1 && is_full(told[0]), "{told:?}");
    assert_eq!((net.height(0), net.height(1)), (4, 1));
    net.submit(1, &tx(2, 0));
    net.sim.run_for(SECOND);
    net.collect();
    assert!(matches!(&net.refused[..], [(_, Refusal::StoreFailed)]), "{:?}", net.refused);

    disk.full.store(false, Ordering::Relaxed);
    net.sim.crash(1);
    drop(net.sim.take_resource(1));
    let budget = net.sim.budget(1).clone();
    net.sim.restart(1, Node::new(Config::default(), &budget), disk.store());
    net.sim.connect(0, 1);
    net.sim.run_for(10 * SECOND);
    assert_eq!(net.height(1), 4);
    assert!(net.audit().iter().all(|(_, report)| report.problems.is_empty()));
}

#[test]
fn a_store_is_made_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("chain.redb");
    // What a crash leaves of a store that was being made: a file of the right size without contents.
    std::fs::write(path.with_extension("new"), [0; 73_728]).expect("written");
    let store = Store::open(&path, genesis(), 1 << 20).expect("what was left is no store and in nobody's way");
    assert_eq!(store.head().expect("readable").height, 0);
    drop(store);
    let names: Vec<_> =
        std::fs::read_dir(dir.path()).expect("ours").map(|entry| entry.expect("ours").file_name()).collect();
    assert_eq!(names, ["chain.redb"]);
    Store::open(&path, genesis(), 1 << 20).expect("and it opens under its name");
}
