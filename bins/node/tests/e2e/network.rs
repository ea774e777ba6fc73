//! Nodes as processes of their own, with signals as the only lever: nothing here reaches into a node.

use core::time::Duration;
use std::{
    fs::{self, OpenOptions},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use peerage::{
    control::{ClientError, ControlClient, Peer, Request, Response, Status, TxState},
    data_dir::DataDir,
    genesis::write_genesis,
};
use peerage_chain::proto::{
    genesis::{Genesis, GenesisFile},
    id::{Producer, TxId},
};
use peerage_core::{NodeId, UnixMillis};
use peerage_transport::key_file::{self, KeyKind};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::dice::Dice;

/// How long anything that is bound to happen may take. Generous: it is a guard against waiting for ever.
const DEADLINE: Duration = Duration::from_secs(120);
/// Pause before something is looked at again.
const POLL: Duration = Duration::from_millis(25);
/// The node that makes the blocks. Not the seed, so that the one's death is not the other's.
pub(crate) const PRODUCER: usize = 1;

/// The nodes that take transactions at the moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpenNodes(Arc<Mutex<Vec<(usize, DataDir)>>>);

impl OpenNodes {
    fn change(&self, change: impl FnOnce(&mut Vec<(usize, DataDir)>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// One of them, if there is any.
    pub(crate) fn pick(&self, dice: Dice, what: &str) -> Option<DataDir> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = u64::try_from(open.len().checked_sub(1)?).expect("few nodes");
        let choice = usize::try_from(dice.roll(what, 0..=last)).expect("few nodes");
        open.get(choice).map(|(_, dir)| dir.clone())
    }
}

/// What is wrong beyond repair, said by a task of the test to the one that would wait in vain.
pub(crate) type Fault = Arc<Mutex<Option<String>>>;

#[derive(Debug, PartialEq, Eq)]
enum Process {
    Running,
    Frozen,
    /// Never started, killed, or stopped.
    Gone,
}

#[derive(Debug)]
struct Node {
    dir: DataDir,
    id: NodeId,
    child: Option<Child>,
    process: Process,
}

impl Node {
    fn pid(&self) -> String {
        self.child.as_ref().map(|child| child.id().to_string()).expect("a process is there")
    }
}

/// A network of processes, and the directory in which they live. Dropping it kills them; if that is because the test
/// fails, the directory stays.
#[derive(Debug)]
pub(crate) struct Network {
    dice: Dice,
    genesis_file: GenesisFile,
    pub(crate) genesis: Arc<Genesis>,
    nodes: Vec<Node>,
    pub(crate) open: OpenNodes,
    pub(crate) fault: Fault,
    ground: TempDir,
}

impl Network {
    /// A network without nodes.
    pub(crate) fn new(dice: Dice) -> Self {
        let producer = Producer(*dice.keypair("producer").node_id().as_bytes());
        let genesis_file = GenesisFile::solo(1 + dice.0, "dev", producer, UnixMillis(1_700_000_000_000));
        let genesis = Arc::new(Genesis::new(&genesis_file).expect("valid"));
        let prefix = format!("e2e-seed-{}-", dice.0);
        let ground = tempfile::Builder::new().prefix(&prefix).tempdir_in(env!("CARGO_TARGET_TMPDIR"));
        let (nodes, open, fault) = (Vec::new(), OpenNodes::default(), Fault::default());
        Self { dice, genesis_file, genesis, nodes, open, fault, ground: ground.expect("a directory") }
    }

    /// Makes the directory of another node, which knows the nodes in `seeds` and nobody else, and says its number.
    pub(crate) async fn add(&mut self, seeds: &[usize], outbox: bool) -> usize {
        let number = self.nodes.len();
        let mut path = self.ground.path().join(format!("node-{number}"));
        if number == 3 && cfg!(target_os = "linux") {
            // A data directory may lie deeper than the path of a socket can say.
            path.extend(["x".repeat(150), "y".repeat(150)]);
        }
        let dir = DataDir::create(&path).expect("a directory");
        let identity = self.dice.keypair(&format!("node {number}"));
        key_file::create(&dir.identity_key(), KeyKind::Identity, &identity).expect("a key file");
        if number == PRODUCER {
            let producer = self.dice.keypair("producer");
            key_file::create(&dir.producer_key(), KeyKind::Producer, &producer).expect("a key file");
        }
        write_genesis(&dir.genesis(), &self.genesis_file).expect("a genesis");
        let mut known = Vec::new();
        for seed in seeds {
            let status = self.status(*seed).await.expect("a seed that runs");
            known.push(format!("{:?}", format!("{}@{}", status.node_id, status.listen)));
        }
        let filter = std::env::var("E2E_LOG").unwrap_or_else(|_| "info".to_owned());
        let config = format!(
            "listen = \"127.0.0.1:0\"\nseeds = [{}]\noutbox = {outbox}\n[log]\nfilter = {filter:?}\n",
            known.join(", ")
        );
        fs::write(dir.config(), config).expect("a configuration");
        self.nodes.push(Node { dir, id: identity.node_id(), child: None, process: Process::Gone });
        number
    }

    /// Who a node is.
    pub(crate) fn id(&self, number: usize) -> NodeId {
        self.nodes[number].id
    }

    /// Where a node lives.
    pub(crate) fn dir(&self, number: usize) -> &DataDir {
        &self.nodes[number].dir
    }

    /// All nodes that run now.
    pub(crate) fn running(&self) -> Vec<usize> {
        let running = self.nodes.iter().zip(0..).filter(|(node, _)| node.process == Process::Running);
        running.map(|(_, number)| number).collect()
    }

    /// Starts a node and waits until it answers. The load does not come to it yet.
    pub(crate) async fn start(&mut self, number: usize) -> Status {
        let node = &mut self.nodes[number];
        assert_eq!(node.process, Process::Gone, "node {number} is there already");
        let log = node.dir.path().join("log");
        let log = OpenOptions::new().append(true).create(true).open(log).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerage"));
        command.arg("run").arg("--exit-with-stdin").arg("--dir").arg(node.dir.path());
        for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PEERAGE_")) {
            command.env_remove(variable);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone().expect("a log file")).stderr(log);
        node.child = Some(command.spawn().expect("the program"));
        node.process = Process::Running;
        self.until(&format!("node {number} answers"), async |network| network.status(number).await).await
    }

    /// Lets the load come to a node.
    pub(crate) fn open(&self, number: usize) {
        let dir = self.nodes[number].dir.clone();
        self.open.change(|open| open.push((number, dir)));
    }

    fn close(&self, number: usize) {
        self.open.change(|open| open.retain(|(other, _)| *other != number));
    }

    /// Ends a process without warning.
    pub(crate) fn kill(&mut self, number: usize) {
        self.close(number);
        let node = &mut self.nodes[number];
        let mut child = node.child.take().expect("a process is there");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        node.process = Process::Gone;
    }

    /// Suspends a process and waits until it stands still.
    pub(crate) async fn freeze(&mut self, number: usize) {
        self.close(number);
        let pid = self.nodes[number].pid();
        signal("-STOP", &pid);
        self.nodes[number].process = Process::Frozen;
        self.until(&format!("node {number} stands still"), async |_| {
            // The state follows the name, which stands in parentheses (proc(5)).
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
            let state = stat.rsplit(')').next().map(str::trim_start);
            state.is_some_and(|state| state.starts_with('T')).then_some(())
        })
        .await;
    }

    /// Lets a suspended process go on, and the load come to it again.
    pub(crate) fn thaw(&mut self, number: usize) {
        signal("-CONT", &self.nodes[number].pid());
        self.nodes[number].process = Process::Running;
        self.open(number);
    }

    /// Asks a node something.
    pub(crate) async fn ask(&self, number: usize, request: Request) -> Result<Response, ClientError> {
        ControlClient::connect(&self.nodes[number].dir).await?.call(request).await
    }

    /// How a node is, if it says so.
    pub(crate) async fn status(&self, number: usize) -> Option<Status> {
        match self.ask(number, Request::Status).await {
            Ok(Response::Status(status)) => Some(*status),
            _ => None,
        }
    }

    /// With whom a node is connected, if it says so.
    pub(crate) async fn peers(&self, number: usize) -> Option<Vec<Peer>> {
        match self.ask(number, Request::Peers).await {
            Ok(Response::Peers(peers)) => Some(peers),
            _ => None,
        }
    }

    /// What a node knows of a transaction, if it says so.
    pub(crate) async fn tx_status(&self, number: usize, id: TxId) -> Option<TxState> {
        match self.ask(number, Request::TxStatus { id }).await {
            Ok(Response::TxStatus(state)) => Some(state),
            _ => None,
        }
    }

    /// Looks again and again until `probe` finds something.
    ///
    /// # Panics
    /// If it never does, or a process ends by itself meanwhile, or the load reports a fault.
    pub(crate) async fn until<T>(&mut self, what: &str, mut probe: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let found = timeout(DEADLINE, async {
            loop {
                if let Some(found) = probe(self).await {
                    return found;
                }
                self.check();
                sleep(POLL).await;
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => panic!("waited for {} s in vain: {what}{}", DEADLINE.as_secs(), self.describe().await),
        }
    }

    /// Waits until a node has come to a height.
    pub(crate) async fn height(&mut self, number: usize, height: u64) -> u64 {
        let what = format!("node {number} comes to height {height}");
        self.until(&what, async |network| {
            network.status(number).await.map(|status| status.height).filter(|now| *now >= height)
        })
        .await
    }

    fn check(&mut self) {
        if let Some(fault) = self.fault.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            panic!("{fault}");
        }
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.child.as_mut().and_then(|child| child.try_wait().expect("it is ours")) {
                panic!("node {number} ended by itself: {status}");
            }
        }
    }

    async fn describe(&self) -> String {
        let mut text = String::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let state = match node.process {
                Process::Running => match timeout(Duration::from_secs(2), self.status(number)).await {
                    Ok(Some(s)) => format!(
                        "height {}, head {}, {} peers, {} in the pool, {} in the outbox",
                        s.height, s.head, s.peers, s.mempool_txs, s.outbox_txs
                    ),
                    _ => "does not answer".to_owned(),
                },
                ref other => format!("{other:?}"),
            };
            text.push_str(&format!("\n  node {number}: {state}"));
        }
        text
    }

    /// Asks all nodes to stop and waits until they have.
    pub(crate) async fn stop(&mut self) {
        for number in self.running() {
            self.close(number);
            let stopping = self.ask(number, Request::Shutdown).await;
            assert!(matches!(stopping, Ok(Response::Stopping)), "node {number} refuses to stop: {stopping:?}");
            let mut child = self.nodes[number].child.take().expect("it runs");
            self.nodes[number].process = Process::Gone;
            let ended =
                self.until(&format!("node {number} ends"), async |_| child.try_wait().expect("it is ours")).await;
            assert!(ended.success(), "node {number}, asked to stop, ended with {ended}");
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // Suspended ones, too. Whoever ended already cannot be killed.
            let _ended = child.kill();
            let _ended = child.wait();
        }
        if std::thread::panicking() {
            self.ground.disable_cleanup(true);
            let (seed, ground) = (self.dice.0, self.ground.path().display());
            eprintln!("this was E2E_SEED={seed}; directories and logs of the nodes are kept in {ground}");
        }
    }
}

fn signal(name: &str, pid: &str) {
    // The shell's own `kill` is there on every machine; the program of that name is not.
    let status = Command::new("sh").args(["-c", &format!("kill {name} {pid}")]).status().expect("a shell");
    assert!(status.success(), "kill {name} {pid}: {status}");
}
