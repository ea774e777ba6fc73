//! The processes of a devnet together: start, watch, ask, drain, stop.

use core::time::Duration;
use std::{path::Path, sync::Arc};

use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    DevnetError,
    child::{NodeProcess, status},
    layout::{Layout, name},
    load::{Load, Shared},
};
use crate::{
    config::Seed,
    control::{ControlClient, Event, EventStream, Status},
    data_dir::DataDir,
};

/// Peers that every node should have before the load, if there are so many others (the specification's number).
const WANTED_PEERS: usize = 4;
/// How long nodes may take to find each other. Our guess: several rounds of discovery.
const PEERS_DEADLINE: Duration = Duration::from_secs(20);
/// How long a node may take to say how it is. Our guess; on an idle machine it is a millisecond.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);
/// How long everything may take to come to rest after the load (the specification's number).
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);
/// Pause before nodes are asked again. Our guess.
const POLL: Duration = Duration::from_millis(100);

/// The running nodes, in order. Dropping it kills them.
#[derive(Debug)]
pub struct Network {
    nodes: Vec<NodeProcess>,
    watchers: JoinSet<()>,
}

impl Network {
    /// Starts all nodes of a layout: the first, then the others with the first as their seed.
    ///
    /// # Errors
    /// [`DevnetError`]; no process is left behind.
    pub async fn start(executable: &Path, layout: &Layout) -> Result<Self, DevnetError> {
        let start = |index: usize| NodeProcess::start(executable, name(index), &layout.nodes()[index]);
        layout.configure(0, Vec::new())?;
        let mut first = start(0)?;
        let Status { node_id, listen, .. } = first.answers().await?;
        let seed: Seed = format!("{node_id}@{listen}").parse().map_err(DevnetError::Address)?;
        let mut nodes = vec![first];
        for index in 1..layout.nodes().len() {
            layout.configure(index, vec![seed.clone()])?;
            nodes.push(start(index)?);
        }
        for node in &mut nodes {
            node.answers().await?;
        }
        Ok(Self { nodes, watchers: JoinSet::new() })
    }

    /// Waits until every node has the peers it should have; `false` if that did not come about in time.
    pub async fn meet(&self) -> bool {
        let wanted = (self.nodes.len() - 1).min(WANTED_PEERS);
        let met = async {
            while self.ask().await.iter().any(|status| status.as_ref().is_none_or(|status| status.peers < wanted)) {
                sleep(POLL).await;
            }
        };
        timeout(PEERS_DEADLINE, met).await.is_ok()
    }

    /// From now on, tells `shared` what each node says about transactions.
    ///
    /// # Errors
    /// [`DevnetError::Client`].
    pub async fn watch(&mut self, shared: &Arc<Shared>) -> Result<(), DevnetError> {
        for (index, node) in self.nodes.iter().enumerate() {
            let events = ControlClient::connect(node.dir()).await?.watch().await?;
            self.watchers.spawn(watch(index, node.dir().clone(), events, Arc::clone(shared)));
        }
        Ok(())
    }

    /// Asks all nodes how they are; `None` for one that does not say in time.
    pub async fn ask(&self) -> Vec<Option<Status>> {
        let mut asked = JoinSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let dir = node.dir().clone();
            asked.spawn(async move {
                let answer = timeout(STATUS_DEADLINE, status(&dir)).await;
                (index, answer.ok().and_then(Result::ok))
            });
        }
        let mut answers = vec![None; self.nodes.len()];
        for (index, answer) in asked.join_all().await {
            answers[index] = answer;
        }
        answers
    }

    /// A node that ended by itself, if there is one.
    pub fn died(&mut self) -> Option<DevnetError> {
        self.nodes.iter_mut().find_map(NodeProcess::died)
    }

    /// Waits until every submission is answered, every pool is empty, every transaction in a block everywhere, and all
    /// have one head. `Some` says what did not come about in time.
    pub async fn drain(&mut self, load: &mut Load, shared: &Shared) -> Option<String> {
        let mut step = "submissions have no answer";
        let drained = async {
            if let Err(error) = load.finished().await {
                return Err(format!("the load failed: {error}"));
            }
            let mut last = None;
            loop {
                let statuses = self.ask().await;
                let rest = at_rest(&statuses);
                let (all_committed, missed) =
                    shared.with_tracker(|tracker| (tracker.all_committed(), tracker.counts().missed_events));
                // Without all events nobody knows from them; pools and heads are what is left to go by.
                if !all_committed && missed == 0 {
                    step = "transactions are in no block at some node";
                } else if rest.is_none() {
                    step = "pools are not empty, or heads differ";
                } else if rest == last {
                    return Ok(());
                }
                last = rest;
                if let Some(error) = self.died() {
                    return Err(error.to_string());
                }
                sleep(POLL).await;
            }
        };
        match timeout(DRAIN_DEADLINE, drained).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("not at rest {} s after the load: {step}", DRAIN_DEADLINE.as_secs())),
        }
    }

    /// Stops all nodes at the same time. Returns what was not as it should be.
    pub async fn stop(mut self) -> Vec<String> {
        self.watchers.shutdown().await;
        let mut stopping = JoinSet::new();
        for node in self.nodes.drain(..) {
            stopping.spawn(node.stop());
        }
        let mut troubles: Vec<String> = stopping.join_all().await.into_iter().flatten().collect();
        troubles.sort();
        troubles
    }
}

/// The head of all nodes, if all say the same and nothing waits anywhere.
fn at_rest(statuses: &[Option<Status>]) -> Option<(u64, String, String)> {
    let of = |status: &Status| (status.height, status.head.to_string(), status.state_root.to_string());
    let first = of(statuses.first()?.as_ref()?);
    let same = |status: &Option<Status>| {
        status.as_ref().is_some_and(|status| status.mempool_txs == 0 && status.outbox_txs == 0 && of(status) == first)
    };
    statuses.iter().all(same).then_some(first)
}

/// Passes on what one node says, for as long as it runs.
async fn watch(node: usize, dir: DataDir, mut events: EventStream, shared: Arc<Shared>) {
    loop {
        while let Ok(Some(event)) = events.next().await {
            match event {
                Event::Accepted { id, unix_nanos } => {
                    shared.with_tracker(|tracker| tracker.accepted(node, id, unix_nanos));
                }
                Event::Acked { id, unix_nanos } => {
                    shared.with_tracker(|tracker| tracker.acked(node, id, unix_nanos));
                }
                Event::Committed { ids, unix_nanos, .. } => {
                    ids.into_iter().for_each(|id| shared.committed(node, id, unix_nanos));
                }
                Event::Missed { events } => shared.with_tracker(|tracker| tracker.missed(events)),
                // What was acknowledged and then dropped counts as not committed.
                Event::Dropped { .. } => {}
            }
        }
        // The stream broke; how much was said meanwhile nobody knows.
        shared.with_tracker(|tracker| tracker.missed(1));
        events = loop {
            sleep(POLL).await;
            if let Ok(client) = ControlClient::connect(&dir).await
                && let Ok(events) = client.watch().await
            {
                break events;
            }
        };
    }
}
