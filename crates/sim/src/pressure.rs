//! Memory is short in a simulated node: its peer manager is told who owes how much, as by the driver, and what it decides is done.

use peerage_core::{
    Charge, Debtor, DropReason, LinkId, Lookout, Message, NetworkEvent, NodeId, Pool, Pressure, Protocol, RequestError,
    Strain,
};
use std::sync::Arc;

use crate::{
    Sim,
    link::{self, Wire},
    sim::Event,
};

/// The lookout of a node, and whether an event will wake it.
#[derive(Default)]
pub(crate) struct Memory {
    lookout: Lookout,
    awaited: bool,
}

impl<P: Protocol> Sim<P> {
    fn strains(&self, node: usize) -> [Strain; 3] {
        [Pool::Outbound, Pool::Reassembly, Pool::Inbox].map(|pool| self.nodes[node].budget.strain(pool))
    }

    /// Sees to it that somebody looks, if memory is short.
    pub(crate) fn watch_memory(&mut self, node: usize) {
        let strains = self.strains(node);
        let this = &mut self.nodes[node];
        if !this.memory.awaited && this.memory.lookout.is_due(&strains) {
            this.memory.awaited = true;
            let at = this.memory.lookout.next().map_or(self.now.mono, |next| next.max(self.now.mono));
            self.queue.push(at, Event::Memory { node });
        }
    }

    pub(crate) fn look_at_memory(&mut self, node: usize) {
        let strains = self.strains(node);
        let links: Vec<_> = self.nodes[node].links.iter().copied().collect();
        let stopped = links.iter().any(|link| self.end_of(*link).is_some_and(|end| end.stopped));
        let memory = &mut self.nodes[node].memory;
        memory.awaited = false;
        if memory.lookout.look(self.now.mono, &strains, stopped) {
            self.fit_floors(node);
            let [outbound, reassembly, inbox] = strains;
            let debtors = links.into_iter().filter_map(|link| self.debtor(link)).collect();
            let pressure = Pressure { outbound, reassembly, inbox, debtors };
            self.give(node, NetworkEvent::Pressure(Box::new(pressure)));
        }
        self.watch_memory(node);
    }

    fn debtor(&self, link: LinkId) -> Option<Debtor> {
        let end = self.end_of(link).filter(|end| end.admitted)?;
        let account = &end.account;
        let debtor = Debtor {
            link,
            peer: end.info.peer,
            owed: account.owed(),
            begun: account.begun(),
            taken: account.taken(self.now.mono),
            reassembly: 0,
            completed: 0,
            inbox: account.held(Pool::Inbox),
            sent_floor: account.floor(Pool::Outbound),
            held_floor: account.floor(Pool::Inbox),
            waits: end.retrying,
        };
        (debtor.owed > debtor.sent_floor || debtor.inbox > debtor.held_floor).then_some(debtor)
    }

    /// Whether what waits on a link waits for nothing but the other end: its path is taken, or it takes no more.
    pub(crate) fn note_waiting(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&link::key(id)) else { return };
        let account = &link.ends[link::side(id)].account;
        account.wait(self.now.mono, account.owed() > 0 && !link.may_send(link::side(id)));
    }

    /// A peer has a floor from now on.
    pub(crate) fn seat(&mut self, id: LinkId) {
        let Some(end) = self.end_mut(id) else { return };
        end.seated = true;
        let (node, account) = (end.node, end.account.clone());
        self.nodes[node].budget.seat(&account);
    }

    /// There are to be floors for so many peers.
    pub(crate) fn set_seats(&mut self, node: usize, seats: usize) {
        self.nodes[node].budget.set_seats(seats);
        self.fit_floors(node);
    }

    /// Makes all floors as large as they are to be now, as far as they are free.
    fn fit_floors(&self, node: usize) {
        let this = &self.nodes[node];
        let seated = || this.links.iter().filter_map(|link| self.end_of(*link)).filter(|end| end.seated);
        // First those who have too much: then there is something for the others.
        seated().chain(seated()).for_each(|end| this.budget.seat(&end.account));
    }

    /// Drops what waits to be sent, the lowest class first, until so many bytes are free.
    pub(crate) fn shed_waiting(&mut self, link: LinkId, bytes: usize) {
        let Some(end) = self.end_mut(link) else { return };
        let (node, peer) = (end.node, end.info.peer);
        for wire in end.shed(bytes) {
            match wire {
                Wire::Request { id, .. } => {
                    let open = self.end_mut(link).and_then(|end| end.requests.remove(&id));
                    if let Some(open) = open {
                        self.fail(node, peer, open, RequestError::Dropped(DropReason::Shed));
                    }
                }
                Wire::Notify(message) | Wire::Response { message, .. } => {
                    self.shed(node, peer, &message, DropReason::Shed);
                }
                Wire::Heartbeat(_) | Wire::Close(_) => {}
            }
        }
    }

    /// Takes what arrives on a link, or not.
    pub(crate) fn listen_to(&mut self, link: LinkId, listens: bool) {
        if let Some(end) = self.end_mut(link) {
            end.stopped = !listens;
            self.take_waiting(link);
        }
    }

    /// Pays for a message out of its recipient's floor, when nothing is left that all share.
    pub(crate) fn floor_of_recipient(
        &self,
        node: usize,
        peer: NodeId,
        message: &Message,
        reason: DropReason,
    ) -> Result<Arc<Charge>, DropReason> {
        let this = &self.nodes[node];
        let end = this.link_to(&peer).filter(|_| reason == DropReason::OverBudget).and_then(|link| self.end_of(link));
        let charge = end.map(|end| this.budget.charge_for(&end.account, Pool::Outbound, message.len()));
        charge.ok_or(reason)?.map(Arc::new).map_err(|_| reason)
    }
}
