//! The event hash: two runs are the same if and only if it is.

use bytes::Bytes;
use peerage_core::{Closed, JobId, Lane, LinkInfo, Message, NetworkEvent, NodeId, RequestError, RequestId, Timestamp};
use sha2::{Digest, Sha256};

/// What is delivered besides network events.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Kind {
    Timeout = 64,
    Command = 65,
    Done = 66,
    Crash = 67,
    Restart = 68,
    Partition = 69,
}

/// SHA-256 over all that was delivered to any node, in order.
#[derive(Clone)]
pub(crate) struct EventHash(Sha256);

impl EventHash {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Sha256::new().chain_update(b"peerage-sim").chain_update(seed.to_be_bytes()))
    }

    pub(crate) fn value(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }

    /// Notes something that is no network event.
    pub(crate) fn note(&mut self, at: Timestamp, node: usize, kind: Kind, detail: u64) {
        self.begin(at, node, kind as u8, detail);
    }

    /// Notes the result of a job.
    pub(crate) fn done(&mut self, at: Timestamp, node: usize, lane: Lane, id: JobId) {
        self.begin(at, node, Kind::Done as u8, id.0);
        self.0.update([lane as u8]);
    }

    /// Notes a network event.
    pub(crate) fn network(&mut self, at: Timestamp, node: usize, event: &NetworkEvent) {
        match event {
            NetworkEvent::LinkUp { link, info } => {
                self.begin(at, node, 0, link.0);
                self.info(info);
            }
            NetworkEvent::LinkDown { link, closed } => {
                self.begin(at, node, 1, link.0);
                self.closed(*closed);
            }
            NetworkEvent::DialFailed { addr, closed, .. } => {
                self.begin(at, node, 2, addr.port().into());
                self.closed(*closed);
            }
            NetworkEvent::Unmet { peer, why } => {
                self.peer(at, node, 14, peer);
                self.0.update(why.label());
            }
            NetworkEvent::PeerUp { info, .. } => {
                self.begin(at, node, 3, 0);
                self.info(info);
            }
            NetworkEvent::PeerDown { peer, closed } => {
                self.peer(at, node, 4, peer);
                self.closed(*closed);
            }
            NetworkEvent::Message { peer, message, .. } => {
                self.peer(at, node, 5, peer);
                self.message(message);
            }
            NetworkEvent::Request { peer, id: RequestId(id), message, .. } => {
                self.peer(at, node, 6, peer);
                self.0.update(id.to_be_bytes());
                self.message(message);
            }
            NetworkEvent::Early { claims, id: RequestId(id), message, .. } => {
                self.peer(at, node, 15, claims);
                self.0.update(id.to_be_bytes());
                self.message(message);
            }
            NetworkEvent::Response { peer, id: RequestId(id), command, result } => {
                self.peer(at, node, 7, peer);
                self.0.update(id.to_be_bytes());
                self.0.update(command.number().to_be_bytes());
                match result {
                    Ok((message, _)) => self.message(message),
                    Err(RequestError::Timeout) => self.0.update([1]),
                    Err(RequestError::Closed(closed)) => self.closed(*closed),
                    Err(RequestError::Dropped(reason)) => self.0.update([2, reason.code()]),
                }
            }
            NetworkEvent::Dropped { peer, command, reason } => {
                self.peer(at, node, 8, peer);
                self.0.update(command.number().to_be_bytes());
                self.0.update([reason.code()]);
            }
            NetworkEvent::Writable { peer } => self.peer(at, node, 9, peer),
            // All that is in it follows from the round trip.
            NetworkEvent::PeerStats { peer, stats } => {
                self.peer(at, node, 10, peer);
                self.0.update(stats.rtt.as_nanos().to_be_bytes());
            }
            NetworkEvent::Heartbeat { peer, data } => {
                self.peer(at, node, 11, peer);
                self.bytes(data);
            }
            // Streams are none of the simulator's business: nobody here is turned away for an address.
            NetworkEvent::TurnedAway { reason, .. } => self.begin(at, node, 12, u64::from(reason.code())),
            NetworkEvent::Pressure(pressure) => {
                for debtor in &pressure.debtors {
                    self.peer(at, node, 13, &debtor.peer);
                    self.0.update((debtor.owed as u64).to_be_bytes());
                    self.0.update((debtor.inbox as u64).to_be_bytes());
                }
            }
        }
    }

    /// One call with a fixed array instead of four: this is done for each event.
    fn begin(&mut self, at: Timestamp, node: usize, kind: u8, detail: u64) {
        let mut head = [0; 25];
        head[..8].copy_from_slice(&at.0.to_be_bytes());
        head[8..16].copy_from_slice(&(node as u64).to_be_bytes());
        head[16] = kind;
        head[17..].copy_from_slice(&detail.to_be_bytes());
        self.0.update(head);
    }

    fn peer(&mut self, at: Timestamp, node: usize, kind: u8, peer: &NodeId) {
        self.begin(at, node, kind, 0);
        self.0.update(peer.as_bytes());
    }

    fn info(&mut self, info: &LinkInfo) {
        self.0.update(info.peer.as_bytes());
        self.0.update([info.outbound.into()]);
        self.0.update(info.remote.port().to_be_bytes());
    }

    fn closed(&mut self, closed: Closed) {
        self.0.update([closed.by as u8, closed.reason.code()]);
    }

    fn message(&mut self, message: &Message) {
        self.0.update(message.command.number().to_be_bytes());
        self.bytes(&message.head);
        match &message.body {
            Some(body) => self.bytes(body),
            None => self.0.update([0xff; 8]), // no length: not the same as an empty body
        }
    }

    fn bytes(&mut self, bytes: &Bytes) {
        self.0.update((bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}
