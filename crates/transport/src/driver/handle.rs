//! The thin handle by which users of a running stack reach it.

use core::{fmt, net::SocketAddr};
use peerage_core::{Budget, BudgetReport, Protocol};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{Bandwidth, BandwidthReport, LinkReport, bandwidth::Gates, registry::Registry, runner::Call};

/// The stack is not running any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the stack was stopped")]
pub struct Stopped;

/// A running stack. Cloning shares it. When the last handle is dropped the stack stops as by [`Handle::shutdown`], only that
/// nobody can wait for it.
pub struct Handle<P: Protocol> {
    pub(super) calls: mpsc::Sender<Call<P>>,
    pub(super) registry: Arc<Registry>,
    pub(super) budget: Budget,
    pub(super) gates: Arc<Gates>,
    pub(super) local_addr: SocketAddr,
}

impl<P: Protocol> Clone for Handle<P> {
    fn clone(&self) -> Self {
        Self {
            calls: self.calls.clone(),
            registry: Arc::clone(&self.registry),
            budget: self.budget.clone(),
            gates: Arc::clone(&self.gates),
            local_addr: self.local_addr,
        }
    }
}

impl<P: Protocol> fmt::Debug for Handle<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("local_addr", &self.local_addr).finish_non_exhaustive()
    }
}

impl<P: Protocol + 'static> Handle<P> {
    /// Gives the protocol a command; waits while too many others wait.
    ///
    /// # Errors
    /// [`Stopped`] if nobody will ever handle it.
    pub async fn command(&self, command: P::Command) -> Result<(), Stopped> {
        self.calls.send(Call::Command(command)).await.map_err(|_| Stopped)
    }

    /// Looks at the protocol on its own task, between two inputs.
    ///
    /// # Errors
    /// [`Stopped`] if it is gone.
    pub async fn inspect<R: Send + 'static>(&self, look: impl FnOnce(&P) -> R + Send + 'static) -> Result<R, Stopped> {
        let (sender, receiver) = oneshot::channel();
        let look = Box::new(move |protocol: &P| {
            // Whoever asked may have given up meanwhile.
            let _unheard = sender.send(look(protocol));
        });
        self.calls.send(Call::Inspect(look)).await.map_err(|_| Stopped)?;
        receiver.await.map_err(|_| Stopped)
    }

    /// Where others reach this node.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// All connections, including those in their handshake.
    pub fn links(&self) -> Vec<LinkReport> {
        self.registry.report()
    }

    /// The state of the ledger.
    pub fn budget(&self) -> BudgetReport {
        self.budget.report()
    }

    /// What passed over all connections, and what waits because of a limit.
    pub fn bandwidth(&self) -> BandwidthReport {
        self.gates.report()
    }

    /// Limits what the node sends and reads from now on, or lifts limits.
    pub fn limit_bandwidth(&self, limits: Bandwidth) {
        self.gates.set(limits);
    }

    /// Resolves once the stack has stopped, whoever or whatever stopped it.
    pub async fn stopped(&self) {
        self.calls.closed().await;
    }

    /// Stops everything: tells every peer, runs the queued storage jobs to their end, closes the store. Returns when that
    /// is done.
    pub async fn shutdown(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.calls.send(Call::Shutdown(sender)).await.is_ok() {
            // An error means that another shutdown was quicker, which is just as good.
            let _done = receiver.await;
        }
        self.stopped().await;
    }
}
