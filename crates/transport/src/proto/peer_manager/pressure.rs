//! Memory is short: what the [shedder](crate::proto::shedder) decides becomes what the runner does.

use peerage_core::{Action, Fault, NodeId, Now, Outlet, Pressure};

use super::PeerManager;
use crate::proto::shedder::{Known, Measure};

impl PeerManager {
    /// Those whom the operator named go last. Whoever is disconnected has its group answer for it, lest it just come again.
    pub(super) fn relieve(&mut self, now: Now, pressure: &Pressure) {
        let mut shedder = core::mem::take(&mut self.shedder);
        let measures = shedder.look(now.mono, pressure, |peer| self.debtor(peer));
        self.shedder = shedder;
        for measure in measures {
            let outlet = match measure {
                Measure::Shed { link, bytes } => Outlet::Shed { link, bytes },
                Measure::Stop(link) => Outlet::Stop(link),
                Measure::Resume(link) => Outlet::Resume(link),
                Measure::Close { peer, reason } => {
                    if let Some(known) = self.peers.get(&peer) {
                        self.shedder.is_fugitive(known.link); // it answers below, once
                    }
                    self.end(now, &peer, reason);
                    if !self.is_privileged(&peer) {
                        self.report(now, peer, Fault::KeptMemory);
                    }
                    continue;
                }
            };
            self.actions.push_back(Action::Link(outlet));
        }
    }

    fn debtor(&self, peer: &NodeId) -> Known {
        let group = self.peers.get(peer).and_then(|peer| self.group_of(peer.info.remote));
        Known { last: self.is_privileged(peer), group }
    }
}
