//! Hands the transactions of the block to the nodes, at the pace of the chain.

use core::time::Duration;
use std::sync::{Arc, PoisonError};

use peerage::{
    control::{ClientError, ControlClient, ErrorCode, Request, Response, Status},
    data_dir::DataDir,
};
use tokio::{
    sync::{
        Mutex, MutexGuard,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
    },
    task::JoinSet,
    time::sleep,
};

use crate::{
    block::{ACCOUNTS, Item},
    dice::Dice,
    network::{Fault, Network, OpenNodes, PRODUCER},
};

/// How many transactions are set free each time a block was made: one of each account, so that the block takes 50 steps
/// and there are blocks before, between and after everything that happens to the nodes.
const STEP: usize = ACCOUNTS;
/// Pause before something is tried again.
const RETRY: Duration = Duration::from_millis(20);

/// Which transactions are not yet under way.
#[derive(Debug)]
pub(crate) struct Gate {
    next: usize,
    total: usize,
    accounts: Vec<UnboundedSender<usize>>,
}

impl Gate {
    /// Takes the next `count` transactions out of the load; whoever asks hands them to a node himself.
    pub(crate) fn reserve(&mut self, count: usize) -> core::ops::Range<usize> {
        let from = self.next;
        self.next = (from + count).min(self.total);
        from..self.next
    }

    fn release(&mut self, count: usize) {
        for index in self.reserve(count) {
            // A worker that is gone has left a fault.
            let _fault = self.accounts[index % ACCOUNTS].send(index);
        }
    }
}

/// The load under way.
#[derive(Debug)]
pub(crate) struct Load {
    gate: Arc<Mutex<Gate>>,
    tasks: JoinSet<()>,
}

impl Load {
    /// Begins.
    pub(crate) fn start(network: &Network, items: &Arc<Vec<Item>>, dice: Dice) -> Self {
        let (mut tasks, mut accounts) = (JoinSet::new(), Vec::new());
        for _ in 0..ACCOUNTS {
            let (sender, receiver) = mpsc::unbounded_channel();
            accounts.push(sender);
            let worker = Worker {
                items: Arc::clone(items),
                open: network.open.clone(),
                fault: Arc::clone(&network.fault),
                dice,
            };
            tasks.spawn(worker.run(receiver));
        }
        let gate = Arc::new(Mutex::new(Gate { next: 0, total: items.len(), accounts }));
        tasks.spawn(pace(Arc::clone(&gate), network.dir(PRODUCER).clone()));
        Self { gate, tasks }
    }

    /// Holds the load: nothing new is set free as long as the guard lives.
    pub(crate) async fn hold(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().await
    }

    /// Whether every transaction was set free and acknowledged.
    pub(crate) fn is_done(&mut self) -> bool {
        while let Some(ended) = self.tasks.try_join_next() {
            ended.expect("tasks of the load do not panic");
        }
        self.tasks.is_empty()
    }
}

/// Sets transactions free, some for each block.
async fn pace(gate: Arc<Mutex<Gate>>, producer: DataDir) {
    let mut height = None;
    loop {
        {
            let mut gate = gate.lock().await;
            if gate.next == gate.total {
                // Workers end when nothing more can come.
                gate.accounts.clear();
                return;
            }
            gate.release(STEP);
        }
        loop {
            sleep(RETRY).await;
            // A producer that is suspended answers later.
            let Ok(status) = status(&producer).await else { continue };
            if height.replace(status.height) != Some(status.height) {
                break;
            }
        }
    }
}

async fn status(dir: &DataDir) -> Result<Status, ClientError> {
    match ControlClient::connect(dir).await?.call(Request::Status).await? {
        Response::Status(status) => Ok(*status),
        _ => Err(ClientError::Unexpected),
    }
}

/// Submits the transactions of one account in the order of their nonces, each to any node.
struct Worker {
    items: Arc<Vec<Item>>,
    open: OpenNodes,
    fault: Fault,
    dice: Dice,
}

impl Worker {
    async fn run(self, mut free: UnboundedReceiver<usize>) {
        while let Some(index) = free.recv().await {
            if let Err(fault) = self.submit(index).await {
                self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
                return;
            }
        }
    }

    /// Submits until some node acknowledges. Where a node died over it, nobody knows what it did with the transaction:
    /// the very same one goes to another node.
    async fn submit(&self, index: usize) -> Result<(), String> {
        let item = &self.items[index];
        for attempt in 0.. {
            let Some(dir) = self.open.pick(self.dice, &format!("node for {index}, attempt {attempt}")) else {
                sleep(RETRY).await;
                continue;
            };
            match submit(&dir, item).await {
                Ok(()) => break,
                Err(ClientError::Refused(refusal))
                    if !matches!(refusal.code, ErrorCode::Busy | ErrorCode::Stopping) =>
                {
                    return Err(format!("transaction {index} is refused at {}: {refusal}", dir.path().display()));
                }
                Err(ClientError::Unexpected) => return Err(format!("a strange answer to transaction {index}")),
                Err(_) => sleep(RETRY).await,
            }
        }
        Ok(())
    }
}

/// Submits one transaction to one node; `Ok` is the node's acknowledgement.
pub(crate) async fn submit(dir: &DataDir, item: &Item) -> Result<(), ClientError> {
    let request = Request::SubmitTx { tx: item.carrier.bytes.to_vec() };
    match ControlClient::connect(dir).await?.call(request).await? {
        Response::Submitted { id } if id == item.carrier.id => Ok(()),
        _ => Err(ClientError::Unexpected),
    }
}
