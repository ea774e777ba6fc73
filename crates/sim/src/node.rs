//! One simulated node.

use bytes::Bytes;
use core::net::SocketAddr;
use peerage_core::{
    Budget, Charge, Class, Fault, Job, JobId, LinkId, NodeId, PerClass, Protocol, Stack, Timestamp, Want,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::pressure::Memory;

/// What a job of the storage lane works on.
pub type Resource<P> = <<P as Protocol>::Storage as Job>::Resource;

/// A node to be added to a simulation.
pub struct NodeSpec<P: Protocol> {
    /// Who it is; unique in the simulation.
    pub id: NodeId,
    /// Where it listens; unique in the simulation.
    pub addr: SocketAddr,
    /// What it runs.
    pub protocol: P,
    /// What its storage jobs work on: its disk.
    pub resource: Resource<P>,
    /// Its ledger: share it with the protocol if that charges too.
    pub budget: Budget,
    /// What it can send in bytes a second, if not what the configuration says.
    pub uplink: Option<u64>,
    /// How far its civil clock is ahead of the simulation's, in milliseconds; negative if it is behind.
    pub clock_ahead_ms: i64,
}

impl<P: Protocol> NodeSpec<P> {
    /// A node with a ledger of its own and the uplink of the configuration.
    pub fn new(id: NodeId, addr: SocketAddr, protocol: P, resource: Resource<P>) -> Self {
        Self { id, addr, protocol, resource, budget: Budget::default(), uplink: None, clock_ahead_ms: 0 }
    }
}

/// Messages and bytes, by class; bytes are those of the messages without headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Messages that left the node.
    pub sent: PerClass<u64>,
    /// Bytes that left the node.
    pub sent_bytes: PerClass<u64>,
    /// Messages that the node took.
    pub received: PerClass<u64>,
    /// Bytes that the node took.
    pub received_bytes: PerClass<u64>,
    /// Messages that the node wanted to send and that were dropped instead.
    pub shed: u64,
}

/// Where a crash hits, relative to a storage job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// The job did nothing yet.
    Before,
    /// The job did all it does, but the protocol never hears of it.
    After,
}

/// Which storage job a crash hits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CrashAt {
    /// The k-th from now on, from 1.
    Job(u64),
    /// Each with this probability, 0 to 1.
    Chance(f64),
}

/// The queue of a node towards its network interface.
pub(crate) struct Uplink {
    pub(crate) rate: u64,
    pub(crate) free_at: Timestamp,
    /// Whether an event will come when it is free.
    pub(crate) awaited: bool,
    /// Ends that have something to send, by class; each at most once.
    pub(crate) ready: PerClass<VecDeque<LinkId>>,
}

pub(crate) struct Work<J> {
    pub(crate) id: JobId,
    pub(crate) job: J,
    pub(crate) _charge: Option<Charge>,
}

pub(crate) struct Node<P: Protocol> {
    pub(crate) id: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) budget: Budget,
    pub(crate) clock_ahead_ms: i64,
    /// `None` while it is crashed.
    pub(crate) stack: Option<Stack<P>>,
    /// The disk outlives the process, until somebody takes it.
    pub(crate) resource: Option<Resource<P>>,
    /// Counts crashes: what was scheduled for an earlier life is void.
    pub(crate) life: u32,
    pub(crate) wake: Option<Timestamp>,
    pub(crate) dirty: bool,
    pub(crate) memory: Memory,
    /// Admitted links of each peer, oldest first.
    pub(crate) peers: BTreeMap<NodeId, Vec<LinkId>>,
    pub(crate) links: BTreeSet<LinkId>,
    pub(crate) heartbeat: Option<Bytes>,
    pub(crate) uplink: Uplink,
    /// The first is being worked on.
    pub(crate) storage: VecDeque<Work<P::Storage>>,
    pub(crate) compute: Vec<Work<P::Compute>>,
    pub(crate) computing: usize,
    pub(crate) crashes: Vec<(CrashPoint, CrashAt)>,
    /// On which side of a partition it is.
    pub(crate) group: usize,
    pub(crate) next_request: u64,
    pub(crate) events: Vec<(Timestamp, P::Event)>,
    pub(crate) reports: Vec<(Timestamp, NodeId, Fault)>,
    pub(crate) wants: VecDeque<Want>,
    pub(crate) traffic: Traffic,
}

impl<P: Protocol> Node<P> {
    pub(crate) fn new(spec: NodeSpec<P>, uplink: u64) -> Self {
        Self {
            id: spec.id,
            addr: spec.addr,
            budget: spec.budget,
            clock_ahead_ms: spec.clock_ahead_ms,
            stack: Some(Stack::new(spec.protocol)),
            resource: Some(spec.resource),
            life: 0,
            wake: None,
            dirty: false,
            memory: Memory::default(),
            peers: BTreeMap::new(),
            links: BTreeSet::new(),
            heartbeat: None,
            uplink: Uplink {
                rate: spec.uplink.unwrap_or(uplink).max(1),
                free_at: Timestamp::ZERO,
                awaited: false,
                ready: PerClass::from_fn(|_| VecDeque::new()),
            },
            storage: VecDeque::new(),
            compute: Vec::new(),
            computing: 0,
            crashes: Vec::new(),
            group: 0,
            next_request: 0,
            events: Vec::new(),
            reports: Vec::new(),
            wants: VecDeque::new(),
            traffic: Traffic::default(),
        }
    }

    /// The link over which the node talks to a peer: the one admitted last.
    pub(crate) fn link_to(&self, peer: &NodeId) -> Option<LinkId> {
        self.peers.get(peer)?.last().copied()
    }

    pub(crate) const fn count_sent(&mut self, class: Class, bytes: usize) {
        self.traffic.sent.0[class as usize] += 1;
        self.traffic.sent_bytes.0[class as usize] += bytes as u64;
    }

    pub(crate) const fn count_received(&mut self, class: Class, bytes: usize) {
        self.traffic.received.0[class as usize] += 1;
        self.traffic.received_bytes.0[class as usize] += bytes as u64;
    }
}
