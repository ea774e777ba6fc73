//! The seam between the engine and what carries messages: here the *ideal link*, which carries whole messages.
//!
//! The engine posts [`Outgoing`]s to an [`End`], asks it for the next fragment whenever the uplink is free, and hands each
//! [`Wire`] over at the other end when its last fragment arrived. What crosses this boundary is all that it takes to put
//! real connections here: nothing outside knows how an end keeps or cuts up what it has to send.

use bytes::Bytes;
use core::time::Duration;
use peerage_core::{
    Account, Charge, Class, Closed, Command, LinkId, LinkInfo, Message, Owed, PerClass, RequestId, Timestamp,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use crate::Path;

/// What travels from one end to the other.
pub(crate) enum Wire {
    Notify(Message),
    Request { id: u64, message: Message },
    Response { id: u64, message: Message },
    Heartbeat(Bytes),
    Close(Closed),
}

impl Wire {
    /// Bytes of the message, for the receiver's inbox.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Notify(message) | Self::Request { message, .. } | Self::Response { message, .. } => message.len(),
            Self::Heartbeat(_) | Self::Close(_) => 0,
        }
    }
}

/// Something that waits to be sent, with what pays for it.
pub(crate) struct Outgoing {
    pub(crate) wire: Wire,
    /// Bytes, headers included, that are still to be sent.
    pub(crate) left: usize,
    pub(crate) resident: Arc<Charge>,
    pub(crate) owed: Owed,
}

/// A request that waits for its answer.
pub(crate) struct OpenRequest {
    pub(crate) id: RequestId,
    pub(crate) command: Command,
}

/// One end of a link: what its node sends and has yet to take.
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) info: LinkInfo,
    /// Whether this end still stands.
    pub(crate) open: bool,
    pub(crate) admitted: bool,
    /// Whether its peer is to have a floor.
    pub(crate) seated: bool,
    queue: PerClass<VecDeque<Outgoing>>,
    /// Whether the node's uplink knows that this end has something of the class.
    pub(crate) enlisted: PerClass<bool>,
    pub(crate) account: Account,
    /// Whether something was shed and nobody was told yet that there is room again.
    pub(crate) shed: bool,
    /// The other end does not take more for now.
    pub(crate) paused: bool,
    /// This end takes nothing for now, because memory is short.
    pub(crate) stopped: bool,
    /// The path is still taken by the last fragment.
    pub(crate) busy: bool,
    /// When the last thing that this end sent arrives: nothing overtakes it.
    pub(crate) last_arrival: Timestamp,
    /// Arrived, not yet taken.
    pub(crate) waiting: VecDeque<Wire>,
    pub(crate) retrying: bool,
    /// Requests made from this end, by wire id.
    pub(crate) requests: BTreeMap<u64, OpenRequest>,
    /// Wire ids of requests that this end has yet to answer.
    pub(crate) inbound: BTreeMap<RequestId, u64>,
}

/// The next fragment of an end.
pub(crate) struct Fragment {
    pub(crate) bytes: usize,
    /// The message, if this is the end of it.
    pub(crate) complete: Option<Wire>,
    /// Whether the class has more.
    pub(crate) more: bool,
}

impl End {
    pub(crate) fn new(node: usize, info: LinkInfo, limit: usize) -> Self {
        Self {
            node,
            info,
            open: true,
            admitted: false,
            seated: false,
            queue: PerClass::from_fn(|_| VecDeque::new()),
            enlisted: PerClass::default(),
            account: peerage_core::Budget::account(limit),
            shed: false,
            paused: false,
            stopped: false,
            busy: false,
            last_arrival: Timestamp::ZERO,
            waiting: VecDeque::new(),
            retrying: false,
            requests: BTreeMap::new(),
            inbound: BTreeMap::new(),
        }
    }

    pub(crate) fn post(&mut self, class: Class, outgoing: Outgoing) {
        self.queue[class].push_back(outgoing);
    }

    pub(crate) fn has(&self, class: Class) -> bool {
        !self.queue[class].is_empty()
    }

    /// At most `limit` bytes of the first message of a class.
    pub(crate) fn fragment(&mut self, class: Class, limit: usize) -> Option<Fragment> {
        let queue = &mut self.queue[class];
        let first = queue.front_mut()?;
        let bytes = first.left.min(limit);
        first.left -= bytes;
        let complete = if first.left == 0 {
            queue.pop_front().map(|outgoing| outgoing.wire)
        } else {
            first.owed.begin();
            None
        };
        Some(Fragment { bytes, complete, more: !queue.is_empty() })
    }

    /// Drops what waits, the lowest class first and of that the newest, until so many bytes are free; nothing of which a part
    /// was sent. What nobody else waits for goes before what is only free when others have dropped it, too.
    pub(crate) fn shed(&mut self, bytes: usize) -> Vec<Wire> {
        let (mut dropped, mut freed) = (Vec::new(), 0);
        for alone in [true, false] {
            for class in Class::ALL.into_iter().rev() {
                let queue = &mut self.queue[class];
                for place in (0..queue.len()).rev() {
                    let outgoing = &queue[place];
                    let begun = outgoing.left < outgoing.owed.bytes();
                    if freed < bytes && !begun && alone == (Arc::strong_count(&outgoing.resident) == 1) {
                        freed += outgoing.left;
                        dropped.extend(queue.remove(place).map(|outgoing| outgoing.wire));
                    }
                }
            }
        }
        dropped
    }

    /// Whether the end may be told that there is room again: half of the queue is free.
    pub(crate) fn relieved(&self) -> bool {
        self.shed && self.account.owed() <= self.account.limit() / 2
    }

    /// Ends it and forgets what it had to send and to take.
    pub(crate) fn close(&mut self) -> BTreeMap<u64, OpenRequest> {
        self.open = false;
        self.queue = PerClass::from_fn(|_| VecDeque::new());
        self.waiting.clear();
        self.inbound.clear();
        core::mem::take(&mut self.requests)
    }
}

/// Two ends and what is between them.
pub(crate) struct Link {
    pub(crate) ends: [End; 2],
    pub(crate) path: Path,
    /// Set while a partition lies between the ends: the number of that partition.
    pub(crate) cut: Option<u64>,
}

impl Link {
    /// Whether an end may send right now.
    pub(crate) fn may_send(&self, side: usize) -> bool {
        let end = &self.ends[side];
        end.open && !end.paused && !end.busy && self.cut.is_none()
    }

    /// When something whose last byte leaves `side` at `sent` arrives at the other.
    pub(crate) fn arrival(&mut self, side: usize, sent: Timestamp, jitter: Duration) -> Timestamp {
        let at = (sent + self.path.latency + jitter).max(self.ends[side].last_arrival);
        self.ends[side].last_arrival = at;
        at
    }
}

/// The key of the link of which `id` names an end.
pub(crate) const fn key(id: LinkId) -> u64 {
    id.0 >> 1
}

/// Which of the two ends `id` names.
pub(crate) const fn side(id: LinkId) -> usize {
    (id.0 & 1) as usize
}

/// The name of an end.
pub(crate) const fn name(key: u64, side: usize) -> LinkId {
    LinkId(key << 1 | side as u64)
}

/// The name of the end opposite to `id`.
pub(crate) const fn other(id: LinkId) -> LinkId {
    LinkId(id.0 ^ 1)
}
