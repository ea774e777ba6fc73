//! The node as one protocol: discovery, gossip and chain, each unaware of the others beside and above it.
//!
//! ```text
//!            command ▼   ▲ event
//!   chain    ── asks gossip to publish, judges what gossip delivers
//!   gossip   ── delivers items upward
//!   discovery── wants candidates connected
//!   (peer manager, below: `Managed`)
//! ```
//! Nothing here waits or does I/O: the driver and the simulator run this very value.

use peerage_chain::proto::{Chain, Command as ChainCommand, Event as ChainEvent};
use peerage_core::{Action, Done, JobId, Layer, NetworkEvent, Now, Protocol, Timestamp};
use peerage_discovery::{Command as DiscoveryCommand, Discovery, Event as DiscoveryEvent};
use peerage_gossip::proto::Gossip;
use peerage_transport::proto::managed::Managed;

/// A whole node: what the driver runs.
pub type NodeStack = Managed<Overlay>;

/// Everything above the peer manager.
pub struct Overlay {
    discovery: Discovery,
    gossip: Gossip,
    chain: Chain,
    last: Now,
}

/// What is asked of an [`Overlay`].
#[derive(Debug)]
pub enum OverlayCommand {
    /// Of discovery.
    Discovery(DiscoveryCommand),
    /// Of the chain.
    Chain(ChainCommand),
}

/// What an [`Overlay`] tells.
#[derive(Debug)]
pub enum OverlayEvent {
    /// Discovery.
    Discovery(DiscoveryEvent),
    /// The chain; never its wishes to gossip, which are fulfilled within.
    Chain(ChainEvent),
}

impl Overlay {
    /// Puts the three together.
    pub fn new(discovery: Discovery, gossip: Gossip, chain: Chain) -> Self {
        Self { discovery, gossip, chain, last: Now::default() }
    }

    /// Discovery, to look at.
    pub const fn discovery(&self) -> &Discovery {
        &self.discovery
    }

    /// Gossip, to look at.
    pub const fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// The chain, to look at.
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }
}

impl Protocol for Overlay {
    type Command = OverlayCommand;
    type Event = OverlayEvent;
    type Storage = <Chain as Protocol>::Storage;
    type Compute = <Chain as Protocol>::Compute;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        self.last = now;
        match event.command() {
            Some(command) if command.belongs_to(Layer::Discovery) => self.discovery.handle_network(now, event),
            Some(command) if command.belongs_to(Layer::Gossip) => self.gossip.handle_network(now, event),
            Some(command) if command.belongs_to(Layer::Chain) => self.chain.handle_network(now, event),
            Some(_) => {} // connections skip and count what no layer claims
            None => {
                if let (Some(for_discovery), Some(for_gossip)) = (event.share(), event.share()) {
                    self.discovery.handle_network(now, for_discovery);
                    self.gossip.handle_network(now, for_gossip);
                }
                self.chain.handle_network(now, event);
            }
        }
    }

    fn handle_command(&mut self, now: Now, command: OverlayCommand) {
        self.last = now;
        match command {
            OverlayCommand::Discovery(command) => self.discovery.handle_command(now, command),
            OverlayCommand::Chain(command) => self.chain.handle_command(now, command),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.last = now;
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now.mono);
        if due(self.discovery.next_timeout()) {
            self.discovery.handle_timeout(now);
        }
        if due(self.gossip.next_timeout()) {
            self.gossip.handle_timeout(now);
        }
        if due(self.chain.next_timeout()) {
            self.chain.handle_timeout(now);
        }
    }

    fn handle_done(&mut self, now: Now, id: JobId, done: Done<Self>) {
        self.last = now;
        // Only the chain has jobs, so their ids need no owner.
        let done = match done {
            Done::Stored(output) => Done::Stored(output),
            Done::Computed(output) => Done::Computed(output),
        };
        self.chain.handle_done(now, id, done);
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        if let Some(action) = self.discovery.poll_action() {
            let lifted = action.lift(|job| match job {}, |job| match job {});
            return Some(lifted.unwrap_or_else(|event| Action::Emit(OverlayEvent::Discovery(event))));
        }
        if let Some(action) = self.gossip.poll_action() {
            let lifted = action.lift(|job| match job {}, |job| match job {});
            return Some(lifted.unwrap_or_else(|event| {
                self.chain.handle_command(self.last, ChainCommand::Gossip(event));
                Action::Routed
            }));
        }
        Some(match self.chain.poll_action()?.lift(|job| job, |job| job) {
            Ok(action) => action,
            Err(ChainEvent::Gossip(command)) => {
                self.gossip.handle_command(self.last, command);
                Action::Routed
            }
            Err(event) => Action::Emit(OverlayEvent::Chain(event)),
        })
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        [self.discovery.next_timeout(), self.gossip.next_timeout(), self.chain.next_timeout()]
            .into_iter()
            .flatten()
            .min()
    }
}
