//! Why somebody is not dialled: the same questions as before a dial, asked without one.

use core::fmt;
use peerage_core::{NodeId, Now, Unmet};

use super::{PeerManager, address::NetGroup};

/// Why no dial to a peer begins just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It is this node.
    Oneself,
    /// It is connected.
    Connected,
    /// It is being dialled.
    Dialled,
    /// Nor would it be if somebody wanted it at once.
    Unmet(Unmet),
    /// Nobody wants it, and the book has no place for it: it is not chosen.
    NoPlace,
    /// Nobody wants it, and there are as many connections as are to be kept.
    Enough,
    /// Nobody wants it, and there are as many connections into its group of addresses as are to be kept.
    GroupFull,
}

impl WhyNot {
    /// A stable name for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Oneself => "oneself",
            Self::Connected => "connected",
            Self::Dialled => "dialled",
            Self::Unmet(why) => why.label(),
            Self::NoPlace => "no_place",
            Self::Enough => "enough",
            Self::GroupFull => "group_full",
        }
    }
}

/// In words, for a person.
impl fmt::Display for WhyNot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oneself => "It is this node.",
            Self::Connected => "It is connected.",
            Self::Dialled => "It is being dialled.",
            Self::Unmet(why) => why.explain(),
            Self::NoPlace => "Nobody wants it just now, and it has no place in the address book.",
            Self::Enough => "Nobody wants it just now, and there are as many connections as `target_peers` says.",
            Self::GroupFull => {
                "Nobody wants it just now, and there are as many connections into its /16 or /32 as `outbound_per_group` says."
            }
        })
    }
}

impl PeerManager {
    /// Why a peer is not dialled just now; `None` if nothing is in the way, and it may be drawn at the next look, or later.
    pub fn why_not(&self, now: Now, peer: &NodeId) -> Option<WhyNot> {
        if *peer == self.config.local {
            return Some(WhyNot::Oneself);
        }
        if self.peers.contains_key(peer) {
            return Some(WhyNot::Connected);
        }
        if self.is_dialled(peer) {
            return Some(WhyNot::Dialled);
        }
        let Some(entry) = self.book.get(peer) else { return Some(WhyNot::Unmet(Unmet::NoAddress)) };
        let addr = match self.way_to(now, peer, entry) {
            Ok(addr) => addr,
            Err(why) => return Some(WhyNot::Unmet(why)),
        };
        if self.is_reserved(peer) {
            return None;
        }
        if !self.is_placed(peer, entry) {
            return Some(WhyNot::NoPlace);
        }
        if self.missing() == 0 {
            return Some(WhyNot::Enough);
        }
        let members = self.outbound_groups().get(&NetGroup::of(addr, self.config.addresses)).copied().unwrap_or(0);
        (members >= self.config.outbound_per_group).then_some(WhyNot::GroupFull)
    }
}
