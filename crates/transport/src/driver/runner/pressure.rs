//! Memory is short: the peer manager is told who owes how much, and what it decides is done.

use peerage_core::{
    Charge, ConnectionCommand, Debtor, DropReason, LinkId, Message, NetworkEvent, NodeId, Pool, Pressure, Protocol,
    Resident, Strain, Timestamp,
};
use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::proto::connection::credit::cost;

use super::Runner;

impl<P, F> Runner<P, F>
where
    P: Protocol + Send + 'static,
    P::Command: Send + 'static,
    P::Event: Send + 'static,
    F: FnMut(P::Event) + Send + 'static,
{
    /// Tells the peer manager who owes how much, if memory is short or was at the last look.
    pub(super) fn look_at_memory(&mut self) {
        let strains = [Pool::Outbound, Pool::Reassembly, Pool::Inbox].map(|pool| self.config.budget.strain(pool));
        if !self.lookout.is_due(&strains) {
            return;
        }
        let stopped = self.links.values().any(|link| link.stopped);
        let now = self.clock.now().mono;
        if self.lookout.look(now, &strains, stopped) {
            self.fit_floors();
            let pressure = Box::new(self.pressure(now, strains));
            self.stack.push(NetworkEvent::Pressure(pressure));
        }
    }

    fn pressure(&self, now: Timestamp, [outbound, reassembly, inbox]: [Strain; 3]) -> Pressure {
        let debtor = |(peer, link): (&NodeId, &LinkId)| {
            let entry = self.links.get(link)?;
            let account = &entry.account;
            let debtor = Debtor {
                link: *link,
                peer: *peer,
                owed: account.owed(),
                begun: account.begun(),
                taken: account.taken(now),
                reassembly: account.held(Pool::Reassembly),
                completed: account.completed(),
                inbox: account.held(Pool::Inbox),
                sent_floor: account.floor(Pool::Outbound),
                held_floor: account.floor(Pool::Inbox),
                // Whoever we do not read cannot go on, whatever the budget would take.
                waits: entry.waits || entry.stopped,
            };
            let within = debtor.owed <= debtor.sent_floor && debtor.reassembly + debtor.inbox <= debtor.held_floor;
            (!within).then_some(debtor)
        };
        Pressure { outbound, reassembly, inbox, debtors: self.live.iter().filter_map(debtor).collect() }
    }

    /// Lets a connection drop what waits to be sent.
    pub(super) fn relieve(&mut self, link: LinkId, bytes: usize) {
        let Some(entry) = self.links.get(&link) else { return }; // it ended just before
        count_measure("shed");
        entry.starved.store(true, Relaxed); // whoever loses messages hears when there is room again
        self.order(link, ConnectionCommand::Shed { bytes });
    }

    /// Reads from a connection, or not.
    pub(super) fn listen_to(&mut self, link: LinkId, listens: bool) {
        let Some(entry) = self.links.get_mut(&link).filter(|entry| entry.stopped == listens) else { return };
        entry.stopped = !listens;
        if !listens {
            count_measure("stop");
        }
        self.order(link, ConnectionCommand::Listen(listens));
    }

    /// A peer counts from now on, or is no guest any more: it has a floor.
    pub(super) fn seat(&mut self, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // it ended just before
        entry.seated = true;
        self.config.budget.seat(&entry.account);
    }

    /// There are to be floors for so many peers.
    pub(super) fn set_seats(&mut self, seats: usize) {
        self.config.budget.set_seats(seats);
        self.fit_floors();
    }

    /// Makes all floors as large as they are to be now, as far as they are free: others may have more than they should, or were still
    /// about to leave, when a peer got its own.
    fn fit_floors(&self) {
        let seated = || self.links.values().filter(|entry| entry.seated);
        // First those who have too much: then there is something for the others.
        seated().chain(seated()).for_each(|entry| self.config.budget.seat(&entry.account));
    }

    /// Pays for a message to one peer: from what all share, or if there is nothing left, from the peer's floor.
    pub(super) fn charge_to(&self, peer: NodeId, len: usize) -> Result<Charge, DropReason> {
        let shared = self.config.budget.charge(Pool::Outbound, cost(len));
        shared
            .or_else(|refused| {
                let entry = self.live.get(&peer).and_then(|link| self.links.get(link)).ok_or(refused)?;
                self.config.budget.charge_for(&entry.account, Pool::Outbound, cost(len))
            })
            .map_err(|_| DropReason::OverBudget)
    }

    /// Sends a message for whose bytes nothing is left that all share.
    pub(super) fn send_from_floor(&mut self, peer: NodeId, message: &Message) -> Result<(), DropReason> {
        let charge = self.charge_to(peer, message.len())?;
        let (link, outbound) = self.outbound(peer, message, Arc::new(Resident::without_packed(charge)))?;
        self.order(link, ConnectionCommand::Notify(outbound));
        Ok(())
    }
}

fn count_measure(measure: &'static str) {
    metrics::counter!("peerage_memory_measures_total", "measure" => measure).increment(1);
}
