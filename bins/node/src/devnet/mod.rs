//! A devnet: nodes as processes of their own on this machine, under load, and the check of what they wrote.
//!
//! Reading order: this file says what happens when; [`layout`] makes the files, [`child`] and [`network`] run the
//! processes, [`load`] and [`account`] submit transactions, [`propagation`] follows them, [`summary`] judges.

pub mod account;
pub mod child;
pub mod histogram;
pub mod layout;
pub mod load;
pub mod network;
pub mod propagation;
pub mod summary;

use core::{fmt, time::Duration};
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use peerage_core::Timestamp;
use peerage_transport::{driver::Clock, key_file::KeyFileError};
use thiserror::Error;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    ca::CaError,
    commands::verify::{self, Verdict},
    config::{ParseSeedError, Security},
    control::ClientError,
    data_dir::DataDirError,
    genesis::GenesisFileError,
};
use layout::Layout;
use load::{Journal, Load, Shared};
use network::Network;
pub use summary::Summary;
use summary::ms;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program of the nodes, which understands `run --exit-with-stdin --dir DIR`.
    pub executable: PathBuf,
    /// How many nodes, one at least.
    pub nodes: usize,
    /// Transactions a second; none at 0.
    pub rate: u32,
    /// How long the load lasts; until Ctrl-C if nothing is said.
    pub duration: Option<Duration>,
    /// Where directories are made; in a temporary one, removed after success, if nothing is said.
    pub dir: Option<PathBuf>,
    /// What secures connections.
    pub security: Security,
}

/// Why a devnet did not come up, or was given up.
#[derive(Debug, Error)]
pub enum DevnetError {
    /// There is a node's directory already.
    #[error("{} exists already: give another --dir, or remove the devnet that is there", .0.display())]
    Occupied(PathBuf),
    /// A node's directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A key file.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The certificates.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The genesis.
    #[error(transparent)]
    Genesis(#[from] GenesisFileError),
    /// A node says that it listens where nobody can dial.
    #[error("the first node cannot be a seed for the others: {0}")]
    Address(ParseSeedError),
    /// A node ended by itself.
    #[error("{node} ended by itself with {how}: see {log}")]
    Died {
        /// Which.
        node: String,
        /// Exit code or signal.
        how: String,
        /// Its log.
        log: String,
    },
    /// A node does not answer after its start.
    #[error("{node} does not answer on its control socket: see {log}")]
    Mute {
        /// Which.
        node: String,
        /// Its log.
        log: String,
    },
    /// A node could not be watched.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Ctrl-C before it was up, or a second one while it was stopping.
    #[error("interrupted; the nodes were killed")]
    Interrupted,
    /// The check of the stores broke off.
    #[error("the stores could not be verified: {0}")]
    Verify(String),
    /// The operating system refused.
    #[error("cannot {action} {}: {reason}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        reason: io::Error,
    },
}

impl DevnetError {
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |reason| Self::Io { action, path, reason }
    }
}

/// Runs a devnet from its first file to the check of its stores; lines for people go to `out`.
///
/// Must be called within a tokio runtime with time and I/O. If the future is dropped, the nodes are killed.
///
/// # Errors
/// [`DevnetError`]: it did not come up, or was given up. Whatever is wrong with one that did is in the summary.
pub async fn run(options: Options, out: &mut impl Write) -> Result<Summary, DevnetError> {
    let mut lines = Lines(out);
    let mut interrupts = Interrupts::listen()?;
    let layout = Layout::create(options.nodes, options.dir.clone(), options.security)?;
    let root = layout.root().display();
    let result = stages(&options, &layout, &mut interrupts, &mut lines).await;
    if result.as_ref().is_ok_and(Summary::ok) {
        match layout.remove_if_temporary() {
            Ok(true) => {}
            Ok(false) => lines.say(format_args!("directory    {root}")),
            Err(error) => lines.say(format_args!("directory    {root} could not be removed: {error}")),
        }
    } else {
        lines.say(format_args!("directory    {root} is kept, with stores, journal and a log of each node"));
    }
    result
}

async fn stages<W: Write>(
    options: &Options,
    layout: &Layout,
    interrupts: &mut Interrupts,
    lines: &mut Lines<'_, W>,
) -> Result<Summary, DevnetError> {
    let Options { nodes, rate, duration, .. } = options;
    let until = duration.map_or_else(|| "until Ctrl-C".to_owned(), |duration| format!("for {duration:?}"));
    lines.say(format_args!("devnet       {nodes} nodes, {rate} transactions a second {until}"));
    if options.dir.is_some() || duration.is_none() {
        let root = layout.root().display();
        lines.say(format_args!("directory    {root}"));
        lines.say(format_args!("look at it   peerage status --dir {root}/{}", layout::name(0)));
        lines.say(format_args!("             tail -f {root}/{}/log", layout::name(0)));
    }
    let journal = Journal::create(&layout.journal()).map_err(DevnetError::io("create", layout.journal()))?;
    let shared = Arc::new(Shared::new(*rate, layout.nodes(), journal));

    let starting = async {
        let mut network = Network::start(&options.executable, layout).await?;
        let met = network.meet().await;
        network.watch(&shared).await?;
        Ok::<_, DevnetError>((network, met))
    };
    let (mut network, met) = tokio::select! {
        started = starting => started?,
        () = interrupts.next() => return Err(DevnetError::Interrupted),
    };
    if !met {
        lines
            .say(format_args!("warning      the nodes have not found all of each other; the load begins all the same"));
    }

    let mut load = Load::start(Arc::clone(&shared), *rate, *duration, layout.genesis().chain_id());
    let mut troubles = Vec::new();
    troubles.extend(under_load(*duration, &mut network, &mut load, &shared, interrupts, lines).await);
    let due = load.stop();
    let peers_min = network.ask().await.iter().map(|status| status.as_ref().map_or(0, |status| status.peers)).min();

    lines.say(format_args!("\ndraining"));
    let winding_up = async {
        troubles.extend(network.drain(&mut load, &shared).await);
        drop(load);
        lines.say(format_args!("stopping"));
        troubles.extend(network.stop().await);
        lines.say(format_args!("verifying    {}\n", layout.journal().display()));
        let verdict = verdict(layout).await?;
        // A node that died is noticed by each step in turn.
        let mut told = std::collections::BTreeSet::new();
        troubles.retain(|trouble| told.insert(trouble.clone()));
        Ok::<_, DevnetError>((troubles, verdict))
    };
    let (troubles, verdict) = tokio::select! {
        wound_up = winding_up => wound_up?,
        () = interrupts.next() => return Err(DevnetError::Interrupted),
    };

    let (counts, propagation) = shared.with_tracker(|tracker| (tracker.counts(), tracker.propagation()));
    let summary = Summary {
        nodes: *nodes,
        due,
        submitted: counts.submitted,
        rejected: counts.refused,
        peers_min: peers_min.unwrap_or(0),
        propagation,
        missed_events: counts.missed_events,
        troubles,
        verdict,
    };
    // A reader that went away does not change the result.
    let _ = summary.print(lines.0);
    Ok(summary)
}

/// Lets the load run for as long as it should, with a line every second. `Some` says why it ended early.
async fn under_load<W: Write>(
    duration: Option<Duration>,
    network: &mut Network,
    load: &mut Load,
    shared: &Shared,
    interrupts: &mut Interrupts,
    lines: &mut Lines<'_, W>,
) -> Option<String> {
    let clock = Clock::start();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    seconds.tick().await; // the first is immediate
    let over = async {
        match duration {
            Some(duration) => sleep(duration).await,
            None => core::future::pending().await,
        }
    };
    tokio::pin!(over);
    lines.say(format_args!(
        "\n{:>7}  {:>5}  {:>9}  {:>7}  {:>9}  {:>7}  {:>7}  {:>7}",
        "time", "peers", "height", "mempool", "committed", "tx/s", "p50 ms", "p99 ms"
    ));
    let mut before = (Timestamp::ZERO, 0);
    loop {
        tokio::select! {
            () = &mut over => {
                load.last_ones().await;
                return None;
            }
            () = interrupts.next() => return None,
            error = load.failed() => return Some(format!("the load failed: {error}")),
            _ = seconds.tick() => {
                if let Some(error) = network.died() {
                    return Some(error.to_string());
                }
                let statuses = network.ask().await;
                let now = clock.now().mono;
                let (committed, (p50, p99)) =
                    shared.with_tracker(|tracker| (tracker.counts().committed, tracker.take_recent()));
                let rate = (committed - before.1) as f64 / now.since(before.0).as_secs_f64();
                before = (now, committed);
                let answers = || statuses.iter().flatten();
                lines.say(format_args!(
                    "{:>6.0}s  {:>5}  {:>9}  {:>7}  {committed:>9}  {rate:>7.1}  {:>7}  {:>7}",
                    now.since(Timestamp::ZERO).as_secs_f64(),
                    Range::of(answers().map(|status| status.peers as u64)),
                    Range::of(answers().map(|status| status.height)),
                    Range::of(answers().map(|status| status.mempool_txs as u64)),
                    ms(p50),
                    ms(p99),
                ));
            }
        }
    }
}

async fn verdict(layout: &Layout) -> Result<Verdict, DevnetError> {
    let journal = layout.journal();
    let dirs = layout.nodes().iter().enumerate();
    let dirs = dirs.map(|(index, dir)| (layout::name(index), dir.path().to_owned())).collect();
    let checked = tokio::task::spawn_blocking(move || {
        let journal = verify::read_journal(&journal).map_err(|error| DevnetError::Verify(error.to_string()))?;
        Ok(verify::check(dirs, Some(&journal)))
    });
    checked.await.unwrap_or_else(|error| Err(DevnetError::Verify(error.to_string())))
}

/// What all nodes say: one number, or the least and the greatest.
struct Range(Option<(u64, u64)>);

impl Range {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        Self(values.fold(None, |range, value| match range {
            None => Some((value, value)),
            Some((least, greatest)) => Some((value.min(least), value.max(greatest))),
        }))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.pad("-"),
            Some((least, greatest)) if least == greatest => f.pad(&least.to_string()),
            Some((least, greatest)) => f.pad(&format!("{least}-{greatest}")),
        }
    }
}

/// Lines for people.
struct Lines<'a, W>(&'a mut W);

impl<W: Write> Lines<'_, W> {
    /// Prints one. A reader that went away does not stop the devnet.
    fn say(&mut self, line: fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{line}").and_then(|()| self.0.flush());
    }
}

/// Ctrl-C, or the wish of whoever manages this process that it end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn listen() -> Result<Self, DevnetError> {
        let listen = |kind| signal(kind).map_err(DevnetError::io("listen for", "signals"));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_as_short_as_can_be() {
        let range = |values: &[u64]| format!("{:>5}", Range::of(values.iter().copied()));
        assert_eq!([range(&[]), range(&[4, 4]), range(&[5, 3, 4])], ["    -", "    4", "  3-5"]);
    }
}
