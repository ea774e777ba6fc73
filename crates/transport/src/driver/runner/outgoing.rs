//! What the stack sends: charged to its recipients, and handed to their connections.

use core::time::Duration;
use peerage_core::{
    Charge, Command, ConnectionCommand, DropReason, LinkId, Message, NetworkEvent, NodeId, Outbound, Pool, Protocol,
    RequestError, RequestId,
};
use peerage_wire::limits::MESSAGE_OVERHEAD;
use std::sync::Arc;

use crate::{driver::link::count_dropped, proto::connection::credit::cost};

use super::{Asked, Runner};

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
        let resident = self.config.budget.charge(Pool::Outbound, bytes).map(Arc::new);
        for peer in to {
            let outcome = match &resident {
                Ok(resident) => self.outbound(peer, message, Arc::clone(resident)).and_then(|(link, outbound)| {
                    let sent = self.registry.command(link, ConnectionCommand::Notify(outbound));
                    if sent { Ok(()) } else { Err(DropReason::ConnectionLost) }
                }),
                Err(_) => self.send_from_floor(peer, message),
            };
            if let Err(reason) = outcome {
                self.shed(peer, message.command, reason);
            }
        }
    }

    /// Charges a message to its recipient's account.
    pub(super) fn outbound(
        &self,
        peer: NodeId,
        message: &Message,
        resident: Arc<Charge>,
    ) -> Result<(LinkId, Outbound), DropReason> {
        self.security.allows(message)?;
        let link = *self.live.get(&peer).ok_or(DropReason::NotConnected)?;
        let account = self.registry.account(link).ok_or(DropReason::ConnectionLost)?;
        let owed = account.owe(cost(message.len())).map_err(|_| DropReason::PeerOverLimit)?;
        Ok((link, Outbound { message: message.clone(), resident, owed }))
    }

    fn shed(&mut self, peer: NodeId, command: Command, reason: DropReason) {
        count_dropped(reason, 1);
        // What did not fit now may fit later; what is too long or has lost its connection never will.
        let passing = matches!(reason, DropReason::PeerOverLimit | DropReason::OverBudget);
        if let Some(link) = self.live.get(&peer).filter(|_| passing)
            && self.registry.starve(*link)
        {
            // Its task may sleep: any command wakes it, and this one changes nothing.
            self.registry.command(*link, ConnectionCommand::Heartbeat(self.heartbeat.clone()));
        }
        self.stack.push(NetworkEvent::Shed { peer, command, reason });
    }

    pub(super) fn request(&mut self, to: NodeId, id: RequestId, message: Message, timeout: Duration) {
        let command = message.command;
        let wire_id = self.number();
        let charged = self.charge_to(to, message.len());
        let sent =
            charged.and_then(|charge| self.outbound(to, &message, Arc::new(charge))).and_then(|(link, outbound)| {
                self.asked.insert(wire_id, Asked { link, peer: to, id, command });
                let sent = self.registry.command(link, ConnectionCommand::Request { id: wire_id, outbound, timeout });
                if sent { Ok(()) } else { Err(DropReason::ConnectionLost) }
            });
        if let Err(reason) = sent {
            count_dropped(reason, 1);
            self.asked.remove(&wire_id);
            let result = Err(RequestError::Dropped(reason));
            self.stack.push(NetworkEvent::Response { peer: to, id, command, result });
        }
    }

    pub(super) fn respond(&mut self, to: NodeId, id: RequestId, message: Message) {
        let Some((link, wire_id)) = self.to_answer.remove(&id) else {
            return self.shed(to, message.command, DropReason::Unrequested);
        };
        let charged = self.charge_to(to, message.len());
        let outbound = charged.and_then(|charge| self.outbound(to, &message, Arc::new(charge)));
        match outbound {
            // The answer goes where the question came from, or nowhere.
            Ok((live, outbound)) if live == link => {
                self.registry.command(link, ConnectionCommand::Respond { id: wire_id, outbound });
            }
            Ok(_) => self.shed(to, message.command, DropReason::ConnectionLost),
            Err(reason) => self.shed(to, message.command, reason),
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }
}
