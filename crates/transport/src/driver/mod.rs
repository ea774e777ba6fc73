//! The one tokio driver: it runs a [`Stack`] on real sockets, or on in-memory pipes, and its jobs on two lanes.
//!
//! ```text
//!  user ── Handle ──┐                       ┌── storage lane: one thread that owns the store, first in first out
//!                   ▼                       │
//!              stack task (Runner) ─────────┤
//!                ▲      │                   └── compute lane: a few threads, in no order
//!       events   │      │ commands
//!                │      ▼
//!        link tasks, one a connection ── Fabric (TCP, or pipes in memory)
//! ```
//! Each link task owns a pure [`Connection`](peerage_core::Connection) and a stream; the stack task owns the stack. They
//! talk through mailboxes one way and a channel the other, whose contents are charged to the budget before they enter.

mod bandwidth;
mod channel;
mod clock;
mod fabric;
mod handle;
mod lanes;
mod link;
mod mailbox;
mod metered;
mod registry;
mod runner;
#[cfg(feature = "tls")]
pub mod tls;

pub use bandwidth::{Bandwidth, BandwidthReport};
pub use channel::{NoiseChannel, SecureChannel, Target};
pub use clock::Clock;
pub use fabric::{BoxedStream, Fabric, MemoryNetwork, TcpFabric};
pub use handle::{Handle, Stopped};
pub use registry::LinkReport;

use core::time::Duration;
use peerage_core::{Budget, Job, Protocol, Stack};
use std::{io, sync::Arc};

use crate::proto::{admission::AdmissionConfig, inflow::InflowConfig};
use registry::Registry;
use runner::Runner;

/// The default of [`DriverConfig::dial_timeout`].
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// The default of [`DriverConfig::write_patience`].
const WRITE_PATIENCE: Duration = Duration::from_secs(90);

/// How the driver behaves, beside what the stack decides.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// The ledger for everything that waits.
    pub budget: Budget,
    /// The clock of the process: whoever builds machines and runs them should give them one.
    pub clock: Clock,
    /// What may wait for one peer, in bytes. Default 4 MiB (parameters, 2.3).
    pub owed_per_peer: usize,
    /// Who may begin a handshake, and how many connections there are in all.
    pub admission: AdmissionConfig,
    /// How fast one peer may make the node work.
    pub inflow: InflowConfig,
    /// What the node may send and read in all. Default: no limits. [`Handle::limit_bandwidth`] changes them later.
    pub bandwidth: Bandwidth,
    /// A stream that does not stand by then failed. Default 3 s (our guess; discovery allows a candidate 5 s, handshake
    /// included).
    pub dial_timeout: Duration,
    /// Whoever takes nothing of what waits for it for so long is sent away as a slow peer. Default 90 s (our guess: as long as
    /// silence is borne).
    pub write_patience: Duration,
    /// Threads of the compute lane. Default 2 (our guess: signature checks beside an otherwise idle node).
    pub compute_threads: usize,
}

impl Default for DriverConfig {
    fn default() -> Self {
        Self {
            budget: Budget::default(),
            clock: Clock::start(),
            owed_per_peer: 4 << 20,
            admission: AdmissionConfig::default(),
            inflow: InflowConfig::default(),
            bandwidth: Bandwidth::default(),
            dial_timeout: DIAL_TIMEOUT,
            write_patience: WRITE_PATIENCE,
            compute_threads: 2,
        }
    }
}

/// Starts a stack: sockets, lanes and the stack task. `store` is handed to the storage lane; `on_event` is called on the
/// stack task for each event of the protocol and must not block.
///
/// Must be called within a tokio runtime. Everything ends with [`Handle::shutdown`].
///
/// # Errors
/// Of the machine: a thread of a lane cannot be started.
pub fn spawn<P>(
    config: DriverConfig,
    fabric: Arc<dyn Fabric>,
    security: Arc<dyn SecureChannel>,
    stack: Stack<P>,
    store: <P::Storage as Job>::Resource,
    on_event: impl FnMut(P::Event) + Send + 'static,
) -> io::Result<Handle<P>>
where
    P: Protocol + Send + 'static,
    P::Command: Send + 'static,
    P::Event: Send + 'static,
{
    let registry = Arc::new(Registry::default());
    let (runner, handle) = Runner::new(config, fabric, security, Arc::clone(&registry), stack, store, on_event)?;
    tokio::spawn(runner.run());
    Ok(handle)
}
