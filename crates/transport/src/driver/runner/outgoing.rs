//! What the stack sends: charged to its recipients, and handed to their connections.

use core::{sync::atomic::Ordering::Relaxed, time::Duration};
use peerage_core::{
    Class, Command, ConnectionCommand, DropReason, LinkId, Message, NetworkEvent, NodeId, Outbound, PerClass, Pool,
    Progress, Protocol, RequestError, RequestId, Resident,
};
use peerage_wire::limits::MESSAGE_OVERHEAD;
use std::sync::Arc;

use crate::{
    driver::link::count_dropped,
    proto::connection::credit::{batch, cost},
};

use super::{Asked, Link, Runner, WRITTEN_BYTES, WRITTEN_LINKS, links::is_early};

impl<P, F> Runner<P, F>
where
    P: Protocol + Send + 'static,
    P::Command: Send + 'static,
    P::Event: Send + 'static,
    F: FnMut(P::Event) + Send + 'static,
{
    pub(super) fn send(&mut self, to: Vec<NodeId>, message: &Message) {
        // The bytes are shared, the places in the queues are not.
        let bytes = message.len() + to.len() * MESSAGE_OVERHEAD;
        let resident = self.config.budget.charge(Pool::Outbound, bytes).map(|charge| Arc::new(charge.into()));
        for peer in to {
            let outcome = match &resident {
                Ok(resident) => self.outbound(peer, message, Arc::clone(resident)).map(|(link, outbound)| {
                    self.order(link, ConnectionCommand::Notify(outbound));
                }),
                Err(_) => self.send_from_floor(peer, message),
            };
            if let Err(reason) = outcome {
                self.tell_dropped(peer, message.command, reason);
            }
        }
    }

    /// Charges a message to its recipient's account.
    pub(super) fn outbound(
        &self,
        peer: NodeId,
        message: &Message,
        resident: Arc<Resident>,
    ) -> Result<(LinkId, Outbound), DropReason> {
        self.security.allows(message)?;
        let link = *self.live.get(&peer).ok_or(DropReason::NotConnected)?;
        // A task that is gone takes nothing, though its last word may still be on its way here.
        let entry = self.links.get(&link).filter(|entry| !entry.post.is_closed()).ok_or(DropReason::ConnectionLost)?;
        let owed = entry.account.owe(cost(message.len())).map_err(|_| DropReason::PeerOverLimit)?;
        Ok((link, Outbound { message: message.clone(), resident, owed }))
    }

    fn tell_dropped(&mut self, peer: NodeId, command: Command, reason: DropReason) {
        count_dropped(reason, 1);
        // What did not fit now may fit later; what is too long or has lost its connection never will.
        let passing = matches!(reason, DropReason::PeerOverLimit | DropReason::OverBudget);
        let link = self.live.get(&peer).filter(|_| passing).copied();
        if let Some((link, entry)) = link.and_then(|link| Some((link, self.links.get(&link)?)))
            && !entry.starved.swap(true, Relaxed)
        {
            // Its task may sleep: any command wakes it, and this one changes nothing.
            self.order(link, ConnectionCommand::Heartbeat(self.heartbeat.clone()));
        }
        self.stack.push(NetworkEvent::Dropped { peer, command, reason });
    }

    pub(super) fn request(&mut self, to: NodeId, id: RequestId, message: Message, timeout: Duration) {
        let command = message.command;
        let wire_id = self.number();
        let charged = self.charge_to(to, message.len());
        let sent =
            charged.and_then(|charge| self.outbound(to, &message, Arc::new(charge.into()))).map(|(link, outbound)| {
                self.asked.insert(wire_id, Asked { link, peer: to, id, command });
                self.order(link, ConnectionCommand::Request { id: wire_id, outbound, timeout });
            });
        if let Err(reason) = sent {
            count_dropped(reason, 1);
            self.asked.remove(&wire_id);
            let result = Err(RequestError::Dropped(reason));
            self.stack.push(NetworkEvent::Response { peer: to, id, command, result });
        }
    }

    pub(super) fn respond(&mut self, to: NodeId, id: RequestId, message: Message) {
        match self.answer(to, id, &message) {
            Ok((link, command)) => self.order(link, command),
            // Whoever hangs up on the answer to a question that it only repeated must not be told of as a peer.
            Err(reason) if is_early(id) => count_dropped(reason, 1),
            Err(reason) => self.tell_dropped(to, message.command, reason),
        }
    }

    /// An answer on its way to the connection of its question.
    fn answer(
        &mut self,
        to: NodeId,
        id: RequestId,
        message: &Message,
    ) -> Result<(LinkId, ConnectionCommand), DropReason> {
        let (link, id) = self.to_answer.remove(&id).ok_or(DropReason::Unrequested)?;
        let outbound = match self.links.get(&link) {
            // It was asked with the first words, and who asks counts as nobody yet.
            Some(entry) if !entry.admitted => self.early_answer(entry, message)?,
            _ => {
                let charge = self.charge_to(to, message.len())?;
                let (live, outbound) = self.outbound(to, message, Arc::new(charge.into()))?;
                // The answer goes where the question came from, or nowhere.
                if live != link {
                    return Err(DropReason::ConnectionLost);
                }
                outbound
            }
        };
        Ok((link, ConnectionCommand::Respond { id, outbound }))
    }

    /// Charges an answer to somebody who has no seat in the budget: only while there is room for everybody.
    fn early_answer(&self, entry: &Link, message: &Message) -> Result<Outbound, DropReason> {
        self.security.allows(message)?;
        let charge = self.config.budget.charge(Pool::Outbound, message.len() + MESSAGE_OVERHEAD);
        let charge = charge.map_err(|_| DropReason::OverBudget)?;
        let owed = entry.account.owe(cost(message.len())).map_err(|_| DropReason::PeerOverLimit)?;
        Ok(Outbound { message: message.clone(), resident: Arc::new(charge.into()), owed })
    }

    /// Puts a command for a connection aside; [`flush`](Self::flush) hands over all of them at once.
    pub(super) fn order(&mut self, link: LinkId, command: ConnectionCommand) {
        let Some(entry) = self.links.get_mut(&link) else { return }; // it ended just before
        if entry.outgoing.is_empty() {
            self.touched.push(link);
            entry.outgoing_bytes = 0;
        }
        entry.outgoing_bytes += match &command {
            ConnectionCommand::Notify(outbound)
            | ConnectionCommand::Request { outbound, .. }
            | ConnectionCommand::Respond { outbound, .. } => outbound.message.len(),
            _ => 0,
        };
        entry.outgoing.push(command);
    }

    /// The stack consumed a message: its credit is returned with the next [`flush`](Self::flush), or later if the peer sends
    /// faster than it may.
    pub(super) fn consumed(&mut self, link: LinkId, class: Class, bytes: usize) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        if entry.consumed == PerClass::default() {
            self.owing.push(link);
        }
        entry.consumed[class] += bytes;
    }

    /// Hands over what was put aside: one wake-up for each connection, which then sees all of it. If nothing else is to be
    /// done and it is little, it is written at once.
    pub(super) fn flush(&mut self, progress: Progress) {
        let now = self.now.mono;
        let mut links = core::mem::take(&mut self.owing);
        for link in links.drain(..) {
            let Some(entry) = self.links.get_mut(&link) else { continue };
            let consumed = core::mem::take(&mut entry.consumed);
            let mut returned = PerClass::default();
            for (class, bytes) in consumed.iter().filter(|(_, bytes)| **bytes > 0) {
                returned[class] = entry.inflow.consumed(now, class, *bytes);
            }
            self.grant(link, &returned);
        }
        self.owing = links;
        let mut links = core::mem::take(&mut self.touched);
        let few = progress == Progress::Quiet && links.len() <= WRITTEN_LINKS;
        for link in links.drain(..) {
            let Some(entry) = self.links.get_mut(&link) else { continue };
            match entry.post.leave(&mut entry.outgoing) {
                Some(sleeper) if few && entry.outgoing_bytes <= WRITTEN_BYTES => entry.desk.send(&sleeper),
                Some(sleeper) => sleeper.wake(),
                None => {}
            }
        }
        self.touched = links;
    }

    /// Returns credit that is due: a connection tells its peer of a good part of a window at once and of nothing less
    /// ([`credit`](crate::proto::connection::credit)), so it is not woken for less either.
    fn grant(&mut self, link: LinkId, returned: &PerClass<usize>) {
        let Some(entry) = self.links.get_mut(&link) else { return };
        if let Some(at) = entry.inflow.next_release() {
            self.releases.set(link, at);
        }
        for (class, bytes) in returned.iter().filter(|(_, bytes)| **bytes > 0) {
            let Some(entry) = self.links.get_mut(&link) else { return };
            entry.due[class] += bytes;
            if entry.due[class] >= batch(class) {
                let bytes = core::mem::take(&mut entry.due[class]);
                let bytes = self.gates.consumed(self.now.mono, link, class, bytes);
                if bytes > 0 {
                    self.order(link, ConnectionCommand::Consumed { class, bytes });
                }
            }
        }
    }

    /// Returns credit that was held back until now.
    pub(super) fn release_credit(&mut self) {
        let now = self.now.mono;
        while let Some(link) = self.releases.pop_due(now) {
            let Some(entry) = self.links.get_mut(&link) else { continue };
            let returned = entry.inflow.release(now);
            self.grant(link, &returned);
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
