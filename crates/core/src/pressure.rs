//! Who owes how much when memory is short: what a runner tells the peer manager, which decides who goes without.

use core::time::Duration;

use crate::{
    LinkId, NodeId, Timestamp,
    budget::{Strain, Taken},
};

/// The least time between two looks at who owes how much (our guess: often enough to act before a pool is full, and a
/// hundredth of the processor at most with a thousand connections).
pub const LOOK: Duration = Duration::from_millis(20);
/// So long after the last refusal memory counts as short (our guess: five times as long as a connection waits to try again).
pub const AFTER_REFUSAL: Duration = Duration::from_millis(250);
/// Memory is short when this part of a pool, in eighths, is taken (our guess: room for what comes until somebody looks).
pub const HIGH_EIGHTHS: usize = 7;
/// It is short no more when this part, in eighths, is (our guess: one step frees an eighth of the pool).
pub const LOW_EIGHTHS: usize = 6;

impl Strain {
    /// Whether more is taken than the high mark, or, of a pool that was short before, than the low one.
    pub const fn is_high(self, before: bool) -> bool {
        self.used > self.limit / 8 * if before { LOW_EIGHTHS } else { HIGH_EIGHTHS }
    }
}

/// When to look at who owes how much: while memory is short, and once more when it is not. Whoever runs a stack asks it after
/// each turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookout {
    last: Option<Timestamp>,
    refused: u64,
    /// Memory counts as short until then, whatever is free.
    until: Option<Timestamp>,
    short: bool,
}

impl Lookout {
    /// Whether [`look`](Self::look) has something to do; costs a few loads.
    pub fn is_due(&self, strains: &[Strain; 3]) -> bool {
        self.short || refused(strains) > self.refused || strains.iter().any(|strain| strain.is_high(false))
    }

    /// Whether to tell the peer manager now who owes how much. `stopped` says that somebody is not read from because memory was
    /// short.
    pub fn look(&mut self, now: Timestamp, strains: &[Strain; 3], stopped: bool) -> bool {
        if self.last.is_some_and(|last| now < last + LOOK) {
            self.short = true; // and then there is a look
            return false;
        }
        let refused = refused(strains);
        if refused > self.refused {
            self.until = Some(now + AFTER_REFUSAL);
        }
        let full = strains.iter().any(|strain| strain.is_high(self.short));
        self.short = full || stopped || self.until.is_some_and(|until| now < until);
        (self.last, self.refused) = (Some(now), refused);
        true
    }

    /// When to ask again, if nothing happens before.
    pub fn next(&self) -> Option<Timestamp> {
        self.last.filter(|_| self.short).map(|last| last + LOOK)
    }
}

fn refused(strains: &[Strain; 3]) -> u64 {
    strains.iter().map(|strain| strain.refused).sum()
}

/// How full the pools are that peers fill, and who filled them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Messages that wait to be sent.
    pub outbound: Strain,
    /// Messages that are incomplete.
    pub reassembly: Strain,
    /// Messages that arrived and wait for the stack.
    pub inbox: Strain,
    /// The peers that owe more than their floor, in any order.
    pub debtors: Vec<Debtor>,
}

/// A peer that counts and owes more than its floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debtor {
    /// Its connection.
    pub link: LinkId,
    /// Who.
    pub peer: NodeId,
    /// Bytes that wait for it.
    pub owed: usize,
    /// Of these, bytes of messages that have begun to go out: nothing but the peer, or the end of the connection, frees them.
    pub begun: usize,
    /// What it took of late of what waited for it.
    pub taken: Taken,
    /// Bytes of its incomplete messages.
    pub reassembly: usize,
    /// Bytes of its messages that came in pieces and were completed, since the connection began.
    pub completed: u64,
    /// Bytes of its messages that wait for the stack.
    pub inbox: usize,
    /// Its floor, of what waits for it.
    pub sent_floor: usize,
    /// Its floor, of what it makes the node hold.
    pub held_floor: usize,
    /// Whether it would go on if the budget took what it sends.
    pub waits: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strains(used: usize, refused: u64) -> [Strain; 3] {
        [Strain { used, limit: 800, refused }, Strain::default(), Strain::default()]
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn while_memory_is_short_there_is_a_look_now_and_then_and_one_when_it_is_over() {
        let mut lookout = Lookout::default();
        assert!(!lookout.is_due(&strains(700, 0)), "an eighth is free");
        assert!(lookout.is_due(&strains(701, 0)) && lookout.look(at(0), &strains(701, 0), false));
        assert_eq!(lookout.next(), Some(at(20)));
        assert!(!lookout.look(at(19), &strains(790, 0), false), "so soon");
        assert!(lookout.look(at(20), &strains(601, 0), false), "above the low mark");
        assert!(lookout.look(at(40), &strains(600, 0), false), "whoever decides hears that it is over");
        assert_eq!((lookout.next(), lookout.is_due(&strains(600, 0))), (None, false));
    }

    #[test]
    fn a_refusal_and_whoever_is_stopped_keep_it_looking() {
        let mut lookout = Lookout::default();
        assert!(lookout.is_due(&strains(0, 1)) && lookout.look(at(0), &strains(0, 1), false));
        assert!(lookout.look(at(240), &strains(0, 1), false) && lookout.next() == Some(at(260)));
        assert!(lookout.look(at(260), &strains(0, 1), true) && lookout.next() == Some(at(280)));
        assert!(lookout.look(at(280), &strains(0, 1), false));
        assert_eq!(lookout.next(), None);
    }
}
