//! What the engine does with messages and links.

use core::{net::SocketAddr, time::Duration};
use peerage_core::{
    Class, CloseReason, Closed, DropReason, LinkId, LinkInfo, LinkStats, Message, NetworkEvent, NodeId, Outlet, Pool,
    Protocol, RequestError, RequestId, Timestamp,
};
use std::sync::Arc;

use crate::{
    Sim,
    digest::Kind,
    link::{self, End, Link, OpenRequest, Outgoing, Wire},
    sim::Event,
};

/// After which time a full ledger is asked again (our guess: short against a round trip).
const RETRY: Duration = Duration::from_millis(10);

/// First of the ports that inbound connections seem to come from; there are 28,232 of them (Linux's default
/// `ip_local_port_range`, 32768 to 60999).
const FIRST_EPHEMERAL_PORT: u16 = 32_768;

impl<P: Protocol> Sim<P> {
    /// Joins two running nodes as a pair of peer managers would, without any: both get a `PeerUp` now, `a` as the one who
    /// dialled. Nothing happens if either is crashed, both are one, or a partition lies between them.
    pub fn connect(&mut self, a: usize, b: usize) {
        let reachable = self.nodes[a].group == self.nodes[b].group;
        if a != b && reachable && self.is_running(a) && self.is_running(b) {
            let key = self.join(a, b);
            self.admit(a, link::name(key, 0), false);
            self.admit(b, link::name(key, 1), false);
            self.settle();
        }
    }

    /// Ends all links that `a` has with `b`, as if `a` had closed them.
    pub fn disconnect(&mut self, a: usize, b: usize, reason: CloseReason) {
        let peer = self.nodes[b].id;
        let links = self.nodes[a].links.iter().copied();
        let ours: Vec<_> = links.filter(|id| self.end_of(*id).is_some_and(|end| end.info.peer == peer)).collect();
        for id in ours {
            self.close(id, reason);
        }
        self.settle();
    }

    /// Sends a notification in the name of node `from`, behind the back of its protocol: what a malicious peer might
    /// send. Nothing happens where the two are not connected.
    pub fn send_as(&mut self, from: usize, to: usize, message: Message) {
        let to = [self.nodes[to].id];
        self.notify(from, &to, message);
        self.settle();
    }

    /// Splits the network: nothing passes between nodes of different groups; nodes in no group make up one together.
    /// Links across stand still, and break after [`SimConfig::silence`](crate::SimConfig::silence); messages under way
    /// wait. Dials across time out. It replaces an earlier partition.
    pub fn partition(&mut self, groups: &[&[usize]]) {
        for node in &mut self.nodes {
            node.group = 0;
        }
        for (number, group) in groups.iter().enumerate() {
            for node in *group {
                self.nodes[*node].group = number + 1;
            }
        }
        self.partitions += 1;
        self.hash.note(self.now.mono, 0, Kind::Partition, groups.len() as u64);
        let mut healed = Vec::new();
        for (key, link) in &mut self.links {
            let [a, b] = &link.ends;
            let cut = self.nodes[a.node].group != self.nodes[b.node].group;
            if cut && link.cut.is_none() {
                link.cut = Some(self.partitions);
                let silent = Event::Silent { link: *key, cut: self.partitions };
                self.queue.push(self.now.mono + self.config.silence, silent);
            } else if !cut && link.cut.take().is_some() {
                healed.push(*key);
            }
        }
        for key in healed {
            for side in [0, 1] {
                self.enlist(link::name(key, side));
                self.take_waiting(link::name(key, side));
            }
        }
        self.settle();
    }

    /// Ends a partition: links that still stand go on where they stopped.
    pub fn heal(&mut self) {
        self.partition(&[]);
    }

    pub(crate) fn end_of(&self, id: LinkId) -> Option<&End> {
        self.links.get(&link::key(id)).map(|link| &link.ends[link::side(id)]).filter(|end| end.open)
    }

    pub(crate) fn end_mut(&mut self, id: LinkId) -> Option<&mut End> {
        self.links.get_mut(&link::key(id)).map(|link| &mut link.ends[link::side(id)]).filter(|end| end.open)
    }

    fn jitter(&mut self, key: u64) -> Duration {
        let bound = self.links.get(&key).map_or(Duration::ZERO, |link| link.path.jitter);
        Duration::from_nanos(Self::below(&mut self.jitter, u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX)))
    }

    // ---- links ----

    pub(crate) fn outlet(&mut self, node: usize, outlet: Outlet) {
        match outlet {
            Outlet::Dial { addr, expected, .. } => self.dial(node, addr, expected),
            // A link of which the protocol does not know yet that it is gone.
            Outlet::Admit(id)
            | Outlet::AdmitGuest(id)
            | Outlet::Seat(id)
            | Outlet::Close { link: id, .. }
            | Outlet::Shed { link: id, .. }
            | Outlet::Stop(id)
            | Outlet::Resume(id)
                if self.end_of(id).is_none_or(|end| end.node != node) => {}
            Outlet::Admit(id) => self.admit(node, id, false),
            Outlet::AdmitGuest(id) => self.admit(node, id, true),
            Outlet::Seat(id) => self.seat(id),
            Outlet::Seats(seats) => self.set_seats(node, seats),
            Outlet::Close { link, reason } => self.close(link, reason),
            // Whoever is kept out by its address is turned away by the peer manager, after the handshake instead of before.
            Outlet::Doors(_) => {}
            Outlet::Shed { link, bytes } => self.shed_waiting(link, bytes),
            Outlet::Stop(link) => self.listen_to(link, false),
            Outlet::Resume(link) => self.listen_to(link, true),
        }
    }

    /// A dial takes a round trip, and a request may follow at once: as long, to the answer, as with a handshake whose first words ask
    /// it. What a stranger's handshake takes beyond that is not simulated, nor what those words are.
    fn dial(&mut self, node: usize, addr: SocketAddr, expected: Option<NodeId>) {
        let path = self.by_addr.get(&addr).map_or(self.config.path, |target| self.path(node, *target));
        let life = self.nodes[node].life;
        let extra = Self::below(&mut self.jitter, u64::try_from(path.jitter.as_nanos()).unwrap_or(u64::MAX));
        let at = self.now.mono + path.latency * 2 + Duration::from_nanos(extra);
        self.queue.push(at, Event::Dialled { node, life, addr, expected });
    }

    pub(crate) fn dialled(&mut self, node: usize, addr: SocketAddr, expected: Option<NodeId>) {
        let failed = |reason| NetworkEvent::DialFailed { addr, expected, closed: Closed::by_us(reason) };
        match self.by_addr.get(&addr).copied() {
            Some(target) if self.nodes[target].group != self.nodes[node].group => {
                let life = self.nodes[node].life;
                let closed = Closed::by_network(CloseReason::DialTimeout);
                let at = self.now.mono + self.config.dial_timeout;
                self.queue.push(at, Event::DialFailed { node, life, addr, expected, closed });
            }
            Some(target) if target == node => self.give(node, failed(CloseReason::SelfConnection)),
            Some(target) if !self.is_running(target) => self.refused(node, addr, expected),
            Some(target) if expected.is_some_and(|id| id != self.nodes[target].id) => {
                self.give(node, failed(CloseReason::WrongPeer));
            }
            Some(target) => {
                let key = self.join(node, target);
                for (side, number) in [node, target].into_iter().enumerate() {
                    let link = link::name(key, side);
                    if let Some(info) = self.end_of(link).map(|end| end.info.clone()) {
                        self.give(number, NetworkEvent::LinkUp { link, info });
                    }
                }
            }
            None => self.refused(node, addr, expected),
        }
    }

    fn refused(&mut self, node: usize, addr: SocketAddr, expected: Option<NodeId>) {
        let closed = Closed::by_network(CloseReason::DialRefused);
        self.give(node, NetworkEvent::DialFailed { addr, expected, closed });
    }

    /// A new link; `a` dialled.
    fn join(&mut self, a: usize, b: usize) -> u64 {
        let key = self.next_link;
        self.next_link += 1;
        let (dialler, listener) = (&self.nodes[a], &self.nodes[b]);
        let port = FIRST_EPHEMERAL_PORT + (key % 28_232) as u16;
        let to_listener = LinkInfo {
            peer: listener.id,
            outbound: true,
            remote: listener.addr,
            listen: vec![listener.addr],
            features: 0,
            dial_key: None,
        };
        let to_dialler = LinkInfo {
            peer: dialler.id,
            outbound: false,
            remote: SocketAddr::new(dialler.addr.ip(), port),
            listen: vec![dialler.addr],
            features: 0,
            dial_key: None,
        };
        let ends = [End::new(a, to_listener, self.config.queue), End::new(b, to_dialler, self.config.queue)];
        self.links.insert(key, Link { ends, path: self.path(a, b), cut: None });
        self.nodes[a].links.insert(link::name(key, 0));
        self.nodes[b].links.insert(link::name(key, 1));
        key
    }

    fn admit(&mut self, node: usize, id: LinkId, guest: bool) {
        let Some(end) = self.end_mut(id).filter(|end| !end.admitted) else { return };
        end.admitted = true;
        let (info, account) = (end.info.clone(), end.account.clone());
        self.nodes[node].budget.enter(&account);
        if !guest {
            self.seat(id);
        }
        let links = self.nodes[node].peers.entry(info.peer).or_default();
        links.push(id);
        if links.len() == 1 {
            self.give(node, NetworkEvent::PeerUp { peer: info.peer, info });
        }
        // Heartbeats of a node that admits many at once are spread over a second.
        let phase = Duration::from_nanos(Self::below(&mut self.jitter, 1_000_000_000));
        self.queue.push(self.now.mono + phase, Event::Heartbeat { end: id });
        self.take_waiting(id);
    }

    fn close(&mut self, id: LinkId, reason: CloseReason) {
        self.end(id, Closed::by_us(reason));
        self.tell_closed(id, Closed::by_them(reason));
    }

    /// Lets the other end know, behind everything that this end has sent.
    pub(crate) fn tell_closed(&mut self, id: LinkId, closed: Closed) {
        let (key, side) = (link::key(id), link::side(id));
        let Some(link) = self.links.get_mut(&key).filter(|link| link.ends[side ^ 1].open) else { return };
        let at = link.arrival(side, self.now.mono, Duration::ZERO);
        self.queue.push(at, Event::Arrive { end: link::other(id), wire: Wire::Close(closed) });
    }

    /// Ends one end and tells its node.
    pub(crate) fn end(&mut self, id: LinkId, closed: Closed) {
        let Some(end) = self.end_mut(id) else { return };
        let requests = end.close();
        let (node, peer, admitted) = (end.node, end.info.peer, end.admitted);
        let this = &mut self.nodes[node];
        this.links.remove(&id);
        let mut gone = false;
        if let Some(links) = this.peers.get_mut(&peer) {
            links.retain(|link| *link != id);
            gone = admitted && links.is_empty();
            if links.is_empty() {
                this.peers.remove(&peer);
            }
        }
        self.give(node, NetworkEvent::LinkDown { link: id, closed });
        // While another link to the same peer is admitted the peer is not gone.
        if gone {
            self.give(node, NetworkEvent::PeerDown { peer, closed });
        }
        for open in requests.into_values() {
            self.fail(node, peer, open, RequestError::Closed(closed));
        }
        if self.links.get(&link::key(id)).is_some_and(|link| link.ends.iter().all(|end| !end.open)) {
            self.links.remove(&link::key(id));
        }
    }

    pub(crate) fn silent(&mut self, key: u64, cut: u64) {
        if self.links.get(&key).is_some_and(|link| link.cut == Some(cut)) {
            for side in [0, 1] {
                self.end(link::name(key, side), Closed::by_us(CloseReason::HeartbeatTimeout));
            }
        }
    }

    pub(crate) fn heartbeat(&mut self, id: LinkId) {
        let Some(end) = self.end_of(id) else { return };
        let (node, peer, key, side) = (end.node, end.info.peer, link::key(id), link::side(id));
        self.queue.push(self.now.mono + self.config.heartbeat, Event::Heartbeat { end: id });
        let jitter = self.jitter(key);
        let Some(link) = self.links.get_mut(&key).filter(|link| link.cut.is_none()) else { return };
        let rtt = link.path.latency * 2 + jitter;
        if let Some(data) = &self.nodes[node].heartbeat {
            let at = link.arrival(side, self.now.mono, jitter);
            self.queue.push(at, Event::Arrive { end: link::other(id), wire: Wire::Heartbeat(data.clone()) });
        }
        self.give(node, NetworkEvent::PeerStats { peer, stats: LinkStats::first(rtt, 0) });
    }

    // ---- sending ----

    pub(crate) fn notify(&mut self, node: usize, to: &[NodeId], message: Message) {
        let resident = self.resident(node, &message);
        for peer in to {
            let resident = resident.clone().or_else(|reason| self.floor_of_recipient(node, *peer, &message, reason));
            let posted = resident.and_then(|resident| {
                self.post(node, *peer, message.command.class(), resident, Wire::Notify(message.clone()))
            });
            if let Err(reason) = posted {
                self.shed(node, *peer, &message, reason);
            }
        }
    }

    pub(crate) fn request(&mut self, node: usize, to: NodeId, id: RequestId, message: Message, timeout: Duration) {
        let open = OpenRequest { id, command: message.command };
        let number = self.nodes[node].next_request;
        self.nodes[node].next_request += 1;
        let class = message.command.class();
        let posted = self
            .resident(node, &message)
            .or_else(|reason| self.floor_of_recipient(node, to, &message, reason))
            .and_then(|resident| self.post(node, to, class, resident, Wire::Request { id: number, message }));
        match posted {
            Ok(link) => {
                if let Some(end) = self.end_mut(link) {
                    end.requests.insert(number, open);
                }
                self.queue.push(self.now.mono + timeout, Event::RequestTimeout { end: link, id: number });
            }
            Err(reason) => {
                self.mark_shed(node, to, reason);
                self.fail(node, to, open, RequestError::Dropped(reason));
            }
        }
    }

    pub(crate) fn respond(&mut self, node: usize, to: NodeId, id: RequestId, message: Message) {
        let links = self.nodes[node].peers.get(&to).cloned().unwrap_or_default();
        let asked = links.into_iter().find_map(|link| Some((link, self.end_mut(link)?.inbound.remove(&id)?)));
        // The connection of the request is gone, and who asked knows it.
        let Some((link, wire_id)) = asked else { return };
        let wire = Wire::Response { id: wire_id, message: message.clone() };
        let posted = self
            .resident(node, &message)
            .or_else(|reason| self.floor_of_recipient(node, to, &message, reason))
            .and_then(|resident| self.post_on(link, message.command.class(), resident, wire));
        if let Err(reason) = posted {
            self.shed(node, to, &message, reason);
        }
    }

    fn resident(&self, node: usize, message: &Message) -> Result<Arc<peerage_core::Charge>, DropReason> {
        if message.len() > self.config.message_limit {
            return Err(DropReason::TooLong);
        }
        let charge = self.nodes[node].budget.charge(Pool::Outbound, message.len());
        charge.map(Arc::new).map_err(|_| DropReason::OverBudget)
    }

    fn post(
        &mut self,
        node: usize,
        to: NodeId,
        class: Class,
        resident: Arc<peerage_core::Charge>,
        wire: Wire,
    ) -> Result<LinkId, DropReason> {
        let link = self.nodes[node].link_to(&to).ok_or(DropReason::NotConnected)?;
        self.post_on(link, class, resident, wire)
    }

    fn post_on(
        &mut self,
        id: LinkId,
        class: Class,
        resident: Arc<peerage_core::Charge>,
        wire: Wire,
    ) -> Result<LinkId, DropReason> {
        let framing = self.config.framing;
        let end = self.end_mut(id).ok_or(DropReason::NotConnected)?;
        let left = (wire.len() + framing).max(1);
        let owed = end.account.owe(left).map_err(|_| DropReason::PeerOverLimit)?;
        end.post(class, Outgoing { wire, left, resident, owed });
        self.enlist(id);
        self.note_waiting(id);
        Ok(id)
    }

    pub(crate) fn shed(&mut self, node: usize, peer: NodeId, message: &Message, reason: DropReason) {
        self.mark_shed(node, peer, reason);
        self.nodes[node].traffic.shed += 1;
        self.give(node, NetworkEvent::Dropped { peer, command: message.command, reason });
    }

    /// Remembers to say `Writable`. An empty queue frees nothing that would remind us, hence the event.
    fn mark_shed(&mut self, node: usize, peer: NodeId, reason: DropReason) {
        if !matches!(reason, DropReason::PeerOverLimit | DropReason::OverBudget | DropReason::Shed) {
            return; // waiting would not help
        }
        let Some(link) = self.nodes[node].link_to(&peer) else { return };
        if let Some(end) = self.end_mut(link).filter(|end| !end.shed) {
            end.shed = true;
            self.queue.push(self.now.mono + RETRY, Event::Relief { end: link });
        }
    }

    pub(crate) fn relieve(&mut self, id: LinkId) {
        if let Some(end) = self.end_mut(id).filter(|end| end.relieved()) {
            end.shed = false;
            let (node, peer) = (end.node, end.info.peer);
            self.give(node, NetworkEvent::Writable { peer });
        }
    }

    /// Tells the uplink what an end has to send, if it may.
    fn enlist(&mut self, id: LinkId) {
        let side = link::side(id);
        let Some(link) = self.links.get_mut(&link::key(id)).filter(|link| link.may_send(side)) else { return };
        let end = &mut link.ends[side];
        let node = end.node;
        for class in Class::ALL {
            if end.has(class) && !end.enlisted[class] {
                end.enlisted[class] = true;
                self.nodes[node].uplink.ready[class].push_back(id);
            }
        }
        self.pump(node);
    }

    /// Sends fragments while the uplink is free: the most urgent class first, links in turn.
    pub(crate) fn pump(&mut self, node: usize) {
        loop {
            let uplink = &mut self.nodes[node].uplink;
            if uplink.ready.0.iter().all(|ready| ready.is_empty()) {
                return;
            }
            if uplink.free_at > self.now.mono {
                if !core::mem::replace(&mut uplink.awaited, true) {
                    self.queue.push(uplink.free_at, Event::Uplink { node });
                }
                return;
            }
            let next = Class::ALL.into_iter().find_map(|class| Some((class, uplink.ready[class].pop_front()?)));
            if let Some((class, id)) = next {
                self.transmit(node, class, id);
            }
        }
    }

    fn transmit(&mut self, node: usize, class: Class, id: LinkId) {
        let (key, side, limit) = (link::key(id), link::side(id), self.config.fragment.max(1));
        let Some(link) = self.links.get_mut(&key) else { return };
        let may_send = link.may_send(side);
        let end = &mut link.ends[side];
        end.enlisted[class] = false;
        if !may_send {
            return; // enlisted again once it may
        }
        let Some(fragment) = end.fragment(class, limit) else { return };
        end.account.took(self.now.mono, fragment.bytes);
        let uplink = &mut self.nodes[node].uplink;
        let free_at = self.now.mono + serialisation(fragment.bytes, uplink.rate);
        uplink.free_at = free_at;
        let mut sent = free_at;
        if let Some(rate) = link.path.rate.filter(|rate| *rate < uplink.rate) {
            sent = self.now.mono + serialisation(fragment.bytes, rate.max(1));
            end.busy = true;
            self.queue.push(sent, Event::PathFree { end: id });
        } else if fragment.more || fragment.complete.is_none() {
            end.enlisted[class] = true;
            uplink.ready[class].push_back(id);
        }
        if let Some(wire) = fragment.complete {
            self.nodes[node].count_sent(class, wire.len());
            self.send(id, sent, wire);
            self.relieve(id);
        }
        self.note_waiting(id);
    }

    fn send(&mut self, id: LinkId, sent: Timestamp, wire: Wire) {
        let jitter = self.jitter(link::key(id));
        if let Some(link) = self.links.get_mut(&link::key(id)) {
            let at = link.arrival(link::side(id), sent, jitter);
            self.queue.push(at, Event::Arrive { end: link::other(id), wire });
        }
    }

    pub(crate) fn path_free(&mut self, id: LinkId) {
        if let Some(end) = self.end_mut(id) {
            end.busy = false;
            self.enlist(id);
            self.note_waiting(id);
        }
    }

    // ---- receiving ----

    pub(crate) fn arrive(&mut self, id: LinkId, wire: Wire) {
        if let Some(end) = self.end_mut(id) {
            end.waiting.push_back(wire);
            self.take_waiting(id);
        }
    }

    pub(crate) fn retry(&mut self, id: LinkId) {
        if let Some(end) = self.end_mut(id) {
            end.retrying = false;
            self.take_waiting(id);
        }
    }

    /// Takes what arrived at an end, as far as the partition, the admission and the ledger allow. What must wait holds
    /// back the sender, as an unread socket would.
    pub(crate) fn take_waiting(&mut self, id: LinkId) {
        let (key, side) = (link::key(id), link::side(id));
        let blocked = loop {
            let Some(link) = self.links.get_mut(&key).filter(|link| link.ends[side].open) else { return };
            let (cut, end) = (link.cut.is_some(), &mut link.ends[side]);
            if !cut && let Some(Wire::Close(closed)) = end.waiting.back() {
                let closed = *closed;
                return self.end(id, closed);
            }
            let Some(wire) = end.waiting.front() else { break false };
            if cut || !end.admitted || end.stopped {
                break true;
            }
            let node = end.node;
            let Ok(charge) = self.nodes[node].budget.charge_for(&end.account, Pool::Inbox, wire.len()) else {
                if !core::mem::replace(&mut end.retrying, true) {
                    self.queue.push(self.now.mono + RETRY, Event::Retry { end: id });
                }
                self.watch_memory(node);
                break true;
            };
            if let Some(wire) = end.waiting.pop_front() {
                self.deliver(id, wire, charge);
            }
        };
        if let Some(sender) = self.end_mut(link::other(id))
            && core::mem::replace(&mut sender.paused, blocked)
            && !blocked
        {
            self.enlist(link::other(id));
            self.note_waiting(link::other(id));
        }
    }

    fn deliver(&mut self, id: LinkId, wire: Wire, charge: peerage_core::Charge) {
        let Some(end) = self.end_mut(id) else { return };
        let (node, peer) = (end.node, end.info.peer);
        let bytes = wire.len();
        let (class, event) = match wire {
            Wire::Notify(message) => (message.command.class(), NetworkEvent::Message { peer, message, charge }),
            Wire::Request { id: wire_id, message } => {
                let next = &mut self.nodes[node].next_request;
                let inbound = RequestId(*next);
                *next += 1;
                if let Some(end) = self.end_mut(id) {
                    end.inbound.insert(inbound, wire_id);
                }
                (message.command.class(), NetworkEvent::Request { peer, id: inbound, message, charge })
            }
            Wire::Response { id: wire_id, message } => {
                // Answered too late: the protocol was told of the timeout.
                let Some(OpenRequest { id, command }) = end.requests.remove(&wire_id) else { return };
                let class = message.command.class();
                (class, NetworkEvent::Response { peer, id, command, result: Ok((message, charge)) })
            }
            Wire::Heartbeat(data) => return self.give(node, NetworkEvent::Heartbeat { peer, data }),
            Wire::Close(closed) => return self.end(id, closed),
        };
        self.nodes[node].count_received(class, bytes);
        self.hash.network(self.now.mono, node, &event);
        if let Some(stack) = &mut self.nodes[node].stack {
            stack.push_from(id, class, bytes, event);
            self.touch(node);
        }
    }

    pub(crate) fn request_timeout(&mut self, id: LinkId, number: u64) {
        let Some(end) = self.end_mut(id) else { return };
        let Some(open) = end.requests.remove(&number) else { return };
        let (node, peer) = (end.node, end.info.peer);
        self.fail(node, peer, open, RequestError::Timeout);
    }

    pub(crate) fn fail(&mut self, node: usize, peer: NodeId, open: OpenRequest, error: RequestError) {
        let OpenRequest { id, command } = open;
        self.give(node, NetworkEvent::Response { peer, id, command, result: Err(error) });
    }
}

/// How long `bytes` take at `rate` bytes a second.
fn serialisation(bytes: usize, rate: u64) -> Duration {
    Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate)
}
