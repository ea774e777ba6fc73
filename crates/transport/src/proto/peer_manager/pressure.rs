//! Memory is short: what the [shedder](crate::proto::shedder) decides becomes what the runner does.

use peerage_core::{Action, Now, Outlet, Pressure};

use super::PeerManager;
use crate::proto::shedder::Measure;

impl PeerManager {
    /// Those whom the operator named go last.
    pub(super) fn relieve(&mut self, now: Now, pressure: &Pressure) {
        let mut shedder = core::mem::take(&mut self.shedder);
        let measures = shedder.look(now.mono, pressure, |peer| self.is_privileged(peer));
        self.shedder = shedder;
        for measure in measures {
            let outlet = match measure {
                Measure::Shed { link, bytes } => Outlet::Shed { link, bytes },
                Measure::Stop(link) => Outlet::Stop(link),
                Measure::Resume(link) => Outlet::Resume(link),
                Measure::Close { peer, reason } => {
                    self.end(now, &peer, reason);
                    continue;
                }
            };
            self.actions.push_back(Action::Link(outlet));
        }
    }
}
