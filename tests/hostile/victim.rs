//! The node under attack: all of it, as `peerage run` starts it, in this process.

use std::{collections::BTreeMap, fs, net::SocketAddr, sync::Arc};

use peerage::{
    config::{Layer, NodeConfig},
    control::{ControlClient, Request, Response, Status},
    data_dir::DataDir,
    genesis::write_genesis,
    runtime::{self, RunError},
};
use peerage_chain::proto::{
    genesis::{Genesis, GenesisFile},
    id::Producer,
};
use peerage_core::{NodeId, UnixMillis};
use peerage_transport::{
    key_file::{self, KeyKind},
    proto::keypair::Keypair,
};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::stage::{self, Stage, in_time};

/// The key of a cast member.
pub(crate) fn keypair(number: u8) -> Keypair {
    Keypair::from_seed(&[number; 32])
}

/// Who is who.
const VICTIM: u8 = 200;
pub(crate) const PRODUCER: u8 = 201;

/// A running node. It makes no blocks, unless the story says so: the producer's key is in the hands of the story.
pub(crate) struct Victim {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) genesis: Arc<Genesis>,
    pub(crate) stage: Stage,
    dir: DataDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), RunError>>,
    _root: TempDir,
}

impl Victim {
    /// A node of a network on one machine, where limits by address do not apply.
    pub(crate) async fn start() -> Self {
        Self::of_network("dev", false).await
    }

    /// A node that makes the blocks.
    pub(crate) async fn producing() -> Self {
        Self::of_network("dev", true).await
    }

    /// A node of the network with this name; any but `dev` has the rules of an open port.
    pub(crate) async fn of_network(name: &str, producing: bool) -> Self {
        let stage = Stage::set().await;
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = DataDir::create(&root.path().join("node")).expect("a new directory");
        let identity = keypair(VICTIM);
        key_file::create(&dir.identity_key(), KeyKind::Identity, &identity).expect("a new file");
        if producing {
            key_file::create(&dir.producer_key(), KeyKind::Producer, &keypair(PRODUCER)).expect("a new file");
        }
        let producer = Producer(*keypair(PRODUCER).node_id().as_bytes());
        let file = GenesisFile::solo(7, name, producer, UnixMillis(1_700_000_000_000));
        let genesis = write_genesis(&dir.genesis(), &file).expect("a new file");
        let settings = Layer { listen: Some(([127, 0, 0, 1], 0).into()), ..Layer::default() };
        let config = NodeConfig::resolve(dir.path(), None, [], settings).expect("settings that make sense");
        let lock = dir.lock().expect("nobody else uses it");
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(runtime::run(config, lock, async move { drop(stopped.await) }));
        let control = dir.control();
        stage::eventually("the control socket", || fs::exists(&control).unwrap_or(false)).await;
        let mut victim = Self {
            id: identity.node_id(),
            addr: ([127, 0, 0, 1], 0).into(),
            genesis: Arc::new(genesis),
            stage,
            dir,
            stop,
            running,
            _root: root,
        };
        victim.addr = victim.until("the store is open", |_| true).await.listen;
        victim
    }

    /// Asks it as its user.
    pub(crate) async fn ask(&self, request: Request) -> Response {
        let ask = async { ControlClient::connect(&self.dir).await?.call(request).await };
        in_time("an answer", ask).await.expect("the node answers its user")
    }

    /// Its state, as soon as that is as it should be.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let looking = async {
            loop {
                let answer = match ControlClient::connect(&self.dir).await {
                    Ok(mut client) => client.call(Request::Status).await.ok(),
                    Err(_) => None,
                };
                if let Some(Response::Status(status)) = answer
                    && holds(&status)
                {
                    return *status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        in_time(what, looking).await
    }

    /// What was counted of these kinds since the story began.
    pub(crate) fn counted(&self, kinds: &[&str]) -> BTreeMap<String, u64> {
        let mut counted = self.stage.counted();
        counted.retain(|name, _| kinds.iter().any(|kind| name.starts_with(kind)));
        counted
    }

    /// Exactly these faults, refusals, bans and drops are counted, now or soon; links that came and went are not looked at.
    pub(crate) async fn counts(&self, expected: &[(&str, u64)]) {
        let expected: BTreeMap<_, _> = expected.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let counted = || {
            let mut counted = self.counted(&[
                "peerage_faults_total",
                "peerage_transactions_refused_total",
                "peerage_blocks_refused_total",
                "peerage_messages_dropped_total",
            ]);
            // The attackers run in this process too: what they say to a connection that is gone by now is counted as well.
            for theirs in ["unrequested", "not_connected", "connection_lost"] {
                counted.remove(&format!("peerage_messages_dropped_total{{reason={theirs}}}"));
            }
            counted
        };
        let deadline = tokio::time::Instant::now() + stage::PATIENCE;
        while counted() != expected {
            assert!(tokio::time::Instant::now() < deadline, "counted {:#?}, expected {expected:#?}", counted());
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// The end of a story: it stops when told to, and has nothing to complain of.
    pub(crate) async fn stops_well(self) {
        // It may have stopped already, which is seen below.
        let _stopped = self.stop.send(());
        let ended = in_time("the end", self.running).await.expect("no panic");
        assert!(ended.is_ok(), "{ended:?}");
    }
}
