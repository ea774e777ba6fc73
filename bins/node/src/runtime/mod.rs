//! A running node: the stack on the tokio driver, its store, its control socket.

mod answers;
mod names;
mod orders;
pub(crate) mod peer_file;
mod security;

use core::{future::Future, net::SocketAddr, time::Duration};
use peerage_chain::{
    proto::{
        Chain, Command as ChainCommand, Config as ChainConfig, ConfigError as ChainConfigError, Event as ChainEvent,
        Status as ChainStatus, genesis::Genesis, id::Account,
    },
    store::{OpenError, Store},
};
use peerage_core::{Budget, Now, Pool, SecretRng, Seed as DiceSeed, Stack};
use peerage_discovery::{Command as DiscoveryCommand, Config as DiscoveryConfig, Discovery};
use peerage_gossip::proto::{Config as GossipConfig, Gossip};
use peerage_transport::{
    driver::{
        self, Clock, DriverConfig, Fabric, Handle, NoiseChannel, SecureChannel, Stopped, TcpFabric,
        tls::{TlsChannel, TlsError},
    },
    key_file::{self, KeyFileError, KeyKind},
    proto::{
        admission::AdmissionConfig,
        connection::ConnectionConfig,
        keypair::Keypair,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{
            AddressPolicy, Ban, BookLine, KnownPeer, PeerCommand, PeerEvent, PeerManager, PeerManagerConfig,
        },
    },
};
use peerage_wire::Magic;
use std::{io, path::Path, sync::Arc};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    config::NodeConfig,
    control::{BindError, ControlCall, ControlServer, ErrorCode, PoolState, Refusal, Request, Response, Status},
    data_dir::DataDirLock,
    genesis::{GenesisFileError, load_genesis},
    stack::{NodeStack, Overlay, OverlayCommand, OverlayEvent},
};
use answers::{Answers, Waiting, account_state, unavailable};
use names::Names;
pub use peer_file::PeerFileError;
use peer_file::PeerFiles;

/// Why a node did not start, or had to end.
#[derive(Debug, Error)]
pub enum RunError {
    /// A key file of the data directory.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The genesis file.
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// What is remembered of peers.
    #[error(transparent)]
    Peers(#[from] PeerFileError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] BindError),
    /// The producer key is not the one that the genesis names.
    #[error("{0}; move producer.key out of the data directory, or use the genesis that names it")]
    Chain(#[from] ChainConfigError),
    /// The listening address.
    #[error("cannot listen on {addr}: {reason}; choose another address with --listen, or stop what uses this one")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why.
        reason: io::Error,
    },
    /// No thread can be started.
    #[error("cannot start the node's threads: {0}")]
    Threads(io::Error),
    /// The store failed while the node ran.
    #[error("the store failed: {0}; the node stopped so that nothing is acknowledged which is not on disk")]
    StoreFailed(String),
}

/// Events that a watcher may be behind before it misses some: about ten seconds of a fast network (our guess).
const WATCH_BACKLOG: usize = 16_384;
/// Memory that the store may use for its cache (our guess; not part of the budget, which pays for what peers make us keep).
const STORE_CACHE: usize = 64 << 20;

/// What is said of a job that panicked: a fault of the program, or damage that it did not expect.
const JOB_PANICKED: &str =
    "a job panicked; see the log, check the store with `peerage verify`, and start the node again";

/// What ends a running node from within.
enum Ending {
    Asked,
    StoreFailed(String),
}

/// Runs a node until `stop` resolves, a client asks it to stop, or its store fails; then says goodbye to everybody and
/// closes the store.
///
/// # Errors
/// [`RunError`]: what did not start, with what to do about it.
pub async fn run(config: NodeConfig, lock: DataDirLock, stop: impl Future<Output = ()>) -> Result<(), RunError> {
    let clock = Clock::start();
    let dir = lock.dir();
    let genesis = Arc::new(load_genesis(&dir.genesis())?);
    let identity = Arc::new(key_file::load(&dir.identity_key(), KeyKind::Identity)?);
    let producer = producer_key(&dir.producer_key())?;
    let store = Store::open(&dir.store(), Arc::clone(&genesis), STORE_CACHE)?;
    let fabric =
        TcpFabric::bind(config.listen()).await.map_err(|reason| RunError::Listen { addr: config.listen(), reason })?;
    let listen = fabric.local_addr();
    let files = PeerFiles::new(dir.path());
    let budget = Budget::with_floors(config.budget_bytes(), config.max_peers());
    let mut rng = SecretRng::from_os();
    let seeds = Names::resolve(config.seeds(), "seed").await;
    let reserved = Names::resolve(config.reserved(), "reserved peer").await;
    let (book, bans) = (files.load_book()?, files.load_bans()?);
    let book_key = book.key.unwrap_or_else(|| rng.bytes32());

    let stack = build_stack(
        clock.now(),
        Parts {
            config: &config,
            genesis: &genesis,
            identity: &identity,
            producer: producer.clone(),
            listen,
            seeds: seeds.known(),
            reserved: reserved.known(),
            remembered: book.lines,
            book_key: DiceSeed::from_bytes(book_key),
            bans,
            budget: &budget,
            dice: DiceSeed::from_bytes(rng.bytes32()),
        },
    )?;
    let security = security::connections(&config, &genesis, &identity, listen, &budget, &mut rng);
    let (security, tls) = channel(Arc::new(security), &config, clock)?;

    let (watchers, _) = broadcast::channel(WATCH_BACKLOG);
    let (server, mut calls) = ControlServer::bind(&lock, watchers.clone())?;
    let answers = Arc::new(Answers::default());
    let (endings, mut ended) = mpsc::unbounded_channel();
    let (remember, mut remembered) = watch::channel(Remembered::default());
    let on_event = {
        let (answers, watchers, endings) = (Arc::clone(&answers), watchers.clone(), endings.clone());
        move |event| match event {
            ManagedEvent::Peers(PeerEvent::Fault { peer, fault }) => {
                tracing::debug!(%peer, %fault, "fault");
                metrics::counter!("peerage_faults_total", "fault" => fault.label()).increment(1);
            }
            ManagedEvent::Peers(PeerEvent::Evicted { peer, by }) => {
                tracing::debug!(%peer, ?by, "evicted");
                metrics::counter!("peerage_evictions_total").increment(1);
            }
            ManagedEvent::Peers(PeerEvent::Unmet { peer, why }) => {
                metrics::counter!("peerage_wants_unmet_total", "reason" => why.label()).increment(1);
                tracing::debug!(%peer, why = why.label(), "wanted in vain");
            }
            ManagedEvent::Peers(PeerEvent::ReservedUndialled { peer, why }) => {
                tracing::warn!(
                    %peer, why = why.label(),
                    "a reserved peer cannot be dialled; check its address, and the lists `allow` and `deny`, in config.toml"
                );
            }
            ManagedEvent::Peers(PeerEvent::TwoHosts { peer, kept, refused }) => {
                metrics::counter!("peerage_two_hosts_total").increment(1);
                tracing::warn!(
                    %peer, %kept, %refused,
                    "one identity came from two hosts; the first connection stays. If that node did not move, its key was copied"
                );
            }
            ManagedEvent::Peers(event) => remember.send_modify(|remembered| remembered.note(event)),
            ManagedEvent::Upper(OverlayEvent::Discovery(event)) => tracing::debug!(?event, "discovery"),
            ManagedEvent::Upper(OverlayEvent::Chain(ChainEvent::StoreFailed(error))) => {
                drop(endings.send(Ending::StoreFailed(error.to_string())));
            }
            ManagedEvent::Upper(OverlayEvent::Chain(event)) => answers.heard(event, &watchers),
        }
    };
    let admission = AdmissionConfig { loopback_exempt: on_one_machine(&genesis), ..AdmissionConfig::default() };
    let bandwidth = config.bandwidth();
    let driver = DriverConfig { budget: budget.clone(), clock, admission, bandwidth, ..DriverConfig::default() };
    let handle = driver::spawn(driver, Arc::new(fabric), security, Stack::new(stack), store, on_event)
        .map_err(RunError::Threads)?;
    tracing::info!(
        node = %identity.node_id(), network = genesis.network(), network_id = %genesis.network_id(), %listen,
        producer = producer.is_some(), "node started"
    );

    let saving = tokio::spawn(async move {
        // Only the latest state is written, however many there were meanwhile.
        while remembered.changed().await.is_ok() {
            let (files, latest) = (files.clone(), remembered.borrow_and_update().clone());
            let save = move || latest.save(&files, book_key);
            let saved = tokio::task::spawn_blocking(save).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "cannot save what the peer manager wants remembered");
            }
        }
    });
    let serving = tokio::spawn(server.run());
    let node = Arc::new(Node {
        handle,
        answers,
        genesis,
        identity,
        producer: producer.is_some(),
        tls,
        clock,
        budget,
        endings,
        orders: tokio::sync::Mutex::default(),
    });
    let looking = [
        tokio::spawn(follow_reserved(Arc::clone(&node), reserved)),
        tokio::spawn(follow_seeds(Arc::clone(&node), seeds)),
    ];
    tokio::pin!(stop);
    let ending = loop {
        tokio::select! {
            () = &mut stop => break Ending::Asked,
            Some(ending) = ended.recv() => break ending,
            () = node.handle.stopped() => break Ending::StoreFailed(JOB_PANICKED.to_owned()),
            Some(call) = calls.recv() => { tokio::spawn(Arc::clone(&node).answer(call)); }
        }
    };
    tracing::info!("stopping");
    looking.iter().for_each(tokio::task::JoinHandle::abort);
    // What was gathered is told before the end, so that a stop forgets nothing that a crash might. A stack that stopped by itself
    // tells nothing more.
    let _stopped = node.handle.command(ManagedCommand::Peers(PeerCommand::Remember)).await;
    let _told = node.handle.inspect(|_| ()).await;
    node.handle.shutdown().await;
    // Clients get the last answers before their connections end with the server.
    while let Ok(call) = calls.try_recv() {
        drop(call);
    }
    tokio::time::sleep(LAST_ANSWERS).await;
    serving.abort();
    // The stack is gone and with it whoever could want more to be saved: what is queued is written, then this ends.
    drop(saving.await);
    tracing::info!("stopped");
    match ending {
        Ending::Asked => Ok(()),
        Ending::StoreFailed(error) => Err(RunError::StoreFailed(error)),
    }
}

/// What the peer manager wants kept over a restart; `None` where it has not said yet.
#[derive(Clone, Default)]
struct Remembered {
    book: Option<Vec<BookLine>>,
    bans: Option<Vec<Ban>>,
}

impl Remembered {
    fn note(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Remember(lines) => self.book = Some(lines),
            PeerEvent::Bans(bans) => self.bans = Some(bans),
            PeerEvent::Fault { .. }
            | PeerEvent::Banned { .. }
            | PeerEvent::BanRefused { .. }
            | PeerEvent::Unbanned { .. }
            | PeerEvent::Evicted { .. }
            | PeerEvent::Unmet { .. }
            | PeerEvent::ReservedUndialled { .. }
            | PeerEvent::TwoHosts { .. } => {}
        }
    }

    fn save(&self, files: &PeerFiles, book_key: [u8; 32]) -> io::Result<()> {
        // Neither is worth less because the other cannot be written.
        let book = self.book.as_ref().map_or(Ok(()), |lines| files.save_book(book_key, lines));
        let bans = self.bans.as_ref().map_or(Ok(()), |bans| files.save_bans(bans));
        book.and(bans)
    }
}

/// How long the control socket outlives the stack, so that answers under way are written (our guess).
const LAST_ANSWERS: Duration = Duration::from_millis(50);

struct Parts<'a> {
    config: &'a NodeConfig,
    genesis: &'a Arc<Genesis>,
    identity: &'a Arc<Keypair>,
    producer: Option<Arc<Keypair>>,
    listen: SocketAddr,
    seeds: Vec<KnownPeer>,
    reserved: Vec<KnownPeer>,
    remembered: Vec<BookLine>,
    book_key: DiceSeed,
    bans: Vec<Ban>,
    budget: &'a Budget,
    dice: DiceSeed,
}

fn build_stack(now: Now, parts: Parts<'_>) -> Result<NodeStack, ChainConfigError> {
    let Parts {
        config,
        genesis,
        identity,
        producer,
        listen,
        seeds,
        reserved,
        remembered,
        book_key,
        bans,
        budget,
        dice,
    } = parts;
    let addresses = if on_one_machine(genesis) { AddressPolicy::Loopback } else { AddressPolicy::Public };
    let peers = PeerManager::new(
        PeerManagerConfig {
            acquire_timeout: config.acquire_timeout(),
            idle_timeout: config.idle_timeout(),
            target_outbound: config.target_peers(),
            max_peers: config.max_peers(),
            outbound_per_group: config.outbound_per_group(),
            reserved,
            seeds: seeds.clone(),
            trusted: config.trusted().to_vec(),
            allow: config.allow().to_vec(),
            deny: config.deny().to_vec(),
            remembered,
            book_key: Some(book_key),
            bans,
            addresses,
            ..PeerManagerConfig::new(identity.node_id())
        },
        &dice,
    );
    let advertised = Some(config.advertise().unwrap_or(listen)).filter(|addr| !addr.ip().is_unspecified());
    if advertised.is_none() {
        tracing::warn!(
            %listen,
            "no address to tell others: they can be dialled from here, but nobody can find this node; set `advertise` in \
             config.toml, or --advertise, to the address at which it can be reached"
        );
    }
    let discovery = Discovery::new(
        DiscoveryConfig {
            addrs: advertised.into_iter().collect(),
            seeds: seeds.into_iter().map(|seed| (seed.peer, seed.addrs)).collect(),
            addresses,
            target: config.target_peers(),
            ..DiscoveryConfig::new(Arc::clone(identity), genesis.network_id(), dice, budget.clone())
        },
        now,
    );
    let gossip = Gossip::new(GossipConfig::default(), budget);
    let chain = Chain::new(
        Arc::clone(genesis),
        ChainConfig { producer, outbox: config.outbox(), ..ChainConfig::default() },
        budget,
    )?;
    Ok(Managed::new(peers, Overlay::new(discovery, gossip, chain)))
}

/// What secures connections, and the part of it that can be told to look at its files.
type Channel = (Arc<dyn SecureChannel>, Option<Arc<TlsChannel>>);

/// What secures connections, and the same again if it has certificates to watch.
fn channel(connection: Arc<ConnectionConfig>, config: &NodeConfig, clock: Clock) -> Result<Channel, TlsError> {
    let Some(files) = config.tls() else { return Ok((Arc::new(NoiseChannel::new(connection)), None)) };
    let tls = Arc::new(TlsChannel::new(connection, files.clone(), clock.now())?);
    tls.keep_watch(clock);
    Ok((Arc::<TlsChannel>::clone(&tls), Some(tls)))
}

/// The key that makes blocks, if the data directory has one.
fn producer_key(path: &Path) -> Result<Option<Arc<Keypair>>, KeyFileError> {
    if path.exists() { key_file::load(path, KeyKind::Producer).map(Arc::new).map(Some) } else { Ok(None) }
}

/// Whether the network is for developers and lives in 127.0.0.0/8: then, and there alone, limits by address are lifted and
/// learned addresses are dialled.
fn on_one_machine(genesis: &Genesis) -> bool {
    genesis.network() == "dev"
}

/// The magic with which every record in clear of a network begins: three are known by name, an operator's own comes from its
/// id.
pub fn magic(genesis: &Genesis) -> Magic {
    match genesis.network() {
        "main" => Magic::MAIN,
        "test" => Magic::TEST,
        "dev" => Magic::DEV,
        _ => {
            let id = genesis.network_id();
            let [a, b, c, ..] = *id.as_bytes();
            Magic(u32::from_be_bytes([0xf7, a, b, c]))
        }
    }
}

/// Looks up the names of reserved peers again and again, and says where they are now.
async fn follow_reserved(node: Arc<Node>, mut names: Names) {
    while let Some(after) = names.look_again_after() {
        tokio::time::sleep(after).await;
        for known in names.look_again(names::look_up).await {
            let peer = known.peer;
            let still =
                node.handle.inspect(move |stack| stack.peers().reserved().any(|known| known.peer == peer)).await;
            // The operator may have released it since.
            if still.is_ok_and(|still| still) {
                let command = ManagedCommand::Peers(PeerCommand::Reserve(known));
                let _stopping = node.handle.command(command).await;
            }
        }
    }
}

/// The same of seeds, which discovery wants where they are.
async fn follow_seeds(node: Arc<Node>, mut names: Names) {
    while let Some(after) = names.look_again_after() {
        tokio::time::sleep(after).await;
        if names.look_again(names::look_up).await.is_empty() {
            continue;
        }
        // First the peer manager, which dials a seed where it is configured to be whatever that is.
        let seeds = names.known();
        let places = seeds.iter().map(|seed| (seed.peer, seed.addrs.clone())).collect();
        let wanted = OverlayCommand::Discovery(DiscoveryCommand::SetSeeds(places));
        for command in [ManagedCommand::Peers(PeerCommand::Seeds(seeds)), ManagedCommand::Upper(wanted)] {
            let _stopping = node.handle.command(command).await;
        }
    }
}

/// What answers clients of the control socket.
struct Node {
    handle: Handle<NodeStack>,
    answers: Arc<Answers>,
    genesis: Arc<Genesis>,
    identity: Arc<Keypair>,
    producer: bool,
    tls: Option<Arc<TlsChannel>>,
    clock: Clock,
    budget: Budget,
    endings: mpsc::UnboundedSender<Ending>,
    /// Held while an operator's order is carried out.
    orders: tokio::sync::Mutex<()>,
}

impl Node {
    async fn answer(self: Arc<Self>, call: ControlCall) {
        let ControlCall { request, reply } = call;
        let result = match request {
            Request::Shutdown => {
                // The client hears of it before anything stops; it may have hung up all the same.
                let _unheard = reply.send(Ok(Response::Stopping));
                drop(self.endings.send(Ending::Asked));
                return;
            }
            Request::SubmitTx { tx } => match self.budget.charge(Pool::Command, tx.len()) {
                Ok(_until_the_stack_has_it) => {
                    return self.ask(reply, |token| ChainCommand::Submit { token, tx: tx.into() }).await;
                }
                Err(over) => Err(Refusal::new(ErrorCode::Busy, over)),
            },
            Request::Get { key } => return self.ask(reply, |token| ChainCommand::Get { token, key }).await,
            Request::TxStatus { id } => return self.ask(reply, |token| ChainCommand::Transaction { token, id }).await,
            Request::Status => self.status().await,
            Request::Peers => self.peers().await,
            Request::Why { peer } => self.why(peer).await,
            Request::Bans => self.bans().await,
            Request::Lists => self.lists().await,
            Request::Limits(change) => self.limits(change).await,
            Request::Order(order) => self.order(order).await,
            Request::Bandwidth { egress, ingress } => self.bandwidth(egress, ingress).await,
            Request::Account { pubkey } => self.account(pubkey).await,
            Request::ReloadTls => self.reload_tls().await,
            Request::Watch => Err(Refusal::new(ErrorCode::BadRequest, "the control server answers this itself")),
        };
        let _unheard = reply.send(result);
    }

    async fn reload_tls(&self) -> Result<Response, Refusal> {
        let Some(tls) = self.tls.clone() else {
            return Err(Refusal::new(ErrorCode::BadRequest, "this node speaks Noise: it has no certificates"));
        };
        let now = self.clock.now();
        // Files are read, so not on a thread that connections need.
        let reloaded = tokio::task::spawn_blocking(move || tls.reload(now)).await;
        match reloaded.map_err(|error| Refusal::new(ErrorCode::Internal, error))? {
            Ok(ended) => Ok(Response::Reloaded { ended }),
            Err(error) => Err(Refusal::new(ErrorCode::Unusable, error)),
        }
    }

    /// Asks the chain; its answer goes straight to the client.
    async fn ask(&self, reply: oneshot::Sender<Result<Response, Refusal>>, command: impl FnOnce(u64) -> ChainCommand) {
        let token = self.answers.ask(Waiting::Client(reply));
        // If the stack is gone, the question is dropped with it, which tells the client that the node is stopping.
        let _stopped = self.command(command(token)).await;
    }

    async fn command(&self, command: ChainCommand) -> Result<(), Stopped> {
        self.handle.command(ManagedCommand::Upper(OverlayCommand::Chain(command))).await
    }

    async fn chain_status(&self) -> Result<ChainStatus, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let token = self.answers.ask(Waiting::Status(sender));
        self.command(ChainCommand::Status { token }).await.map_err(stopping)?;
        receiver.await.map_err(|_| stopping(Stopped))
    }

    async fn status(&self) -> Result<Response, Refusal> {
        let chain = self.chain_status().await?;
        let peers = self.handle.inspect(|stack| stack.peers().peers().count()).await.map_err(stopping)?;
        let head = chain.head.ok_or_else(|| Refusal::new(ErrorCode::Busy, "the store is being opened"))?;
        let budget = self.handle.budget();
        Ok(Response::Status(Box::new(Status {
            node_id: self.identity.node_id(),
            network: self.genesis.network().to_owned(),
            network_id: self.genesis.network_id(),
            chain_id: self.genesis.chain_id(),
            listen: self.handle.local_addr(),
            producer: self.producer,
            height: head.height,
            head: head.id,
            state_root: head.state_root,
            peers,
            mempool_txs: chain.pool,
            mempool_bytes: chain.pool_bytes,
            outbox_txs: chain.outbox,
            resident_bytes: budget.resident,
            budget_bytes: budget.cap,
            pools: PoolState::all(&self.budget),
            uptime_ms: self.clock.now().mono.0 / 1_000_000,
            traffic: self.handle.bandwidth().into(),
        })))
    }

    async fn account(&self, account: Account) -> Result<Response, Refusal> {
        let (sender, receiver) = oneshot::channel();
        let token = self.answers.ask(Waiting::Account(sender));
        self.command(ChainCommand::Account { token, account }).await.map_err(stopping)?;
        let status = receiver.await.map_err(|_| stopping(Stopped))?.map_err(unavailable)?;
        let height = self.chain_status().await?.head.map_or(0, |head| head.height);
        Ok(account_state(self.genesis.chain_id(), status, height))
    }
}

fn stopping(stopped: Stopped) -> Refusal {
    Refusal::new(ErrorCode::Stopping, stopped)
}
