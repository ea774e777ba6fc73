//! Credit: how much of a class may be under way before the receiver's stack has consumed it.
//!
//! The scheme is that of HTTP/2 (RFC 9113, 5.2), by class instead of by stream and without a window for the whole
//! connection: what all classes hold together is bounded by the sum of the windows, and by the node's budget. A message
//! is paid for as a whole when its first byte is sent, so that one that was begun never stalls half-way.

use peerage_core::{Class, CloseReason, PerClass};
use peerage_wire::limits::MESSAGE_OVERHEAD;

use super::commands::Grant;

/// How many bytes of a class may be under way, from the beginning. `Control` has no credit, since credit itself travels
/// in it, but a rate: 32 messages at once and one a second.
///
/// Our guesses: a class holds at least one message of its greatest length while a quarter of the window is still to be
/// returned, and gossip and bulk 4 MiB, which fill 320 Mbit/s at a round trip of 100 ms.
pub const fn window(class: Class) -> usize {
    match class {
        Class::Control => 0,
        Class::Consensus => 1 << 20,
        Class::Signal => 512 << 10,
        Class::Gossip | Class::Bulk => 4 << 20,
    }
}

/// What a message of `len` bytes, head and body together, costs: its bytes and what its receiver's memory pays besides.
/// It is what the receiver's charge for the message holds, and what is to be given as
/// [`Consumed`](peerage_core::ConnectionCommand::Consumed).
pub const fn cost(len: usize) -> usize {
    len + MESSAGE_OVERHEAD
}

/// The most that one message of a class may cost: what is sure to come back although up to a quarter is withheld.
pub const fn largest(class: Class) -> usize {
    window(class) - batch(class)
}

/// Credit is returned when this much is due, so that it takes few bytes itself (HTTP/2 stacks return half; a quarter
/// keeps more of the window usable). A runner may keep back what is less, as long as it keeps it all in one place.
pub const fn batch(class: Class) -> usize {
    window(class) / 4
}

/// What we may still send.
#[derive(Debug)]
pub(super) struct SendCredit(PerClass<usize>);

impl SendCredit {
    pub(super) fn new() -> Self {
        Self(PerClass::from_fn(window))
    }

    pub(super) fn covers(&self, class: Class, cost: usize) -> bool {
        cost <= self.0[class]
    }

    /// Pays for a message that [`covers`](Self::covers) allowed.
    pub(super) fn spend(&mut self, class: Class, cost: usize) {
        self.0[class] -= cost;
    }

    /// The peer grants more. It can return only what was spent: anything else is a number that it made up.
    pub(super) fn earn(&mut self, grant: Grant) -> Result<(), CloseReason> {
        let class = Class::from_u8(grant.class).ok_or(CloseReason::MalformedMessage)?;
        let sum = self.0[class].saturating_add(grant.bytes as usize);
        if grant.bytes == 0 || sum > window(class) {
            return Err(CloseReason::MalformedMessage);
        }
        self.0[class] = sum;
        Ok(())
    }
}

/// What the peer may still send, and what is due to be returned to it.
#[derive(Debug)]
pub(super) struct ReceiveCredit {
    /// Arrived and not returned yet; `due` is part of it.
    used: PerClass<usize>,
    /// Consumed and not returned yet.
    due: PerClass<usize>,
}

impl ReceiveCredit {
    pub(super) fn new() -> Self {
        Self { used: PerClass::from_fn(|_| 0), due: PerClass::from_fn(|_| 0) }
    }

    /// A message is announced.
    pub(super) fn arrive(&mut self, class: Class, cost: usize) -> Result<(), CloseReason> {
        let used = self.used[class].saturating_add(cost);
        if used > window(class) {
            return Err(CloseReason::CreditExceeded);
        }
        self.used[class] = used;
        Ok(())
    }

    /// The stack is done with `bytes`; no more than arrived count.
    pub(super) fn consume(&mut self, class: Class, bytes: usize) {
        self.due[class] = self.due[class].saturating_add(bytes).min(self.used[class]);
    }

    /// Whether [`next_grant`](Self::next_grant) has something.
    pub(super) fn is_due(&self) -> bool {
        self.next_due().is_some()
    }

    fn next_due(&self) -> Option<Class> {
        Class::ALL.into_iter().find(|class| self.due[*class] > 0 && self.due[*class] >= batch(*class))
    }

    /// What is due, highest class first, once it is worth a message.
    pub(super) fn next_grant(&mut self) -> Option<Grant> {
        let class = self.next_due()?;
        let bytes = core::mem::take(&mut self.due[class]);
        self.used[class] -= bytes;
        let bytes = u32::try_from(bytes).expect("a window is below 4 GiB");
        Some(Grant { class: class as u8, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use peerage_wire::limits::{MAX_CONTENT, class_default};

    #[test]
    fn the_longest_message_of_each_class_always_gets_its_credit() {
        for class in [Class::Consensus, Class::Signal, Class::Gossip, Class::Bulk] {
            assert!(cost(class_default(class)) <= largest(class), "{class:?}");
        }
        assert!(cost(MAX_CONTENT) <= largest(Class::Bulk));
    }

    #[test]
    fn what_was_consumed_comes_back_in_batches_and_no_more_than_arrived() {
        let mut credit = ReceiveCredit::new();
        credit.arrive(Class::Signal, 200 << 10).expect("within the window");
        credit.consume(Class::Signal, 100 << 10);
        assert_eq!(credit.next_grant(), None, "less than a quarter is not worth a message");
        credit.consume(Class::Signal, 1 << 30);
        assert_eq!(credit.next_grant(), Some(Grant { class: Class::Signal as u8, bytes: 200 << 10 }));
        assert_eq!(credit.next_grant(), None);
        credit.arrive(Class::Signal, window(Class::Signal)).expect("all of it is free again");
        assert_eq!(credit.arrive(Class::Signal, 1), Err(CloseReason::CreditExceeded));
        credit.arrive(Class::Bulk, 1).expect("another class has its own");
    }

    #[test]
    fn a_peer_cannot_grant_what_was_never_spent() {
        let mut credit = SendCredit::new();
        let grant = |class, bytes| Grant { class, bytes };
        credit.spend(Class::Bulk, 1000);
        assert_eq!(credit.earn(grant(4, 1001)), Err(CloseReason::MalformedMessage));
        assert_eq!(credit.earn(grant(4, 0)), Err(CloseReason::MalformedMessage));
        assert_eq!(credit.earn(grant(0, 1)), Err(CloseReason::MalformedMessage), "control has no credit");
        assert_eq!(credit.earn(grant(5, 1)), Err(CloseReason::MalformedMessage), "no such class");
        assert_eq!(credit.earn(grant(4, 1000)), Ok(()));
        assert!(
            credit.covers(Class::Bulk, window(Class::Bulk)) && !credit.covers(Class::Bulk, window(Class::Bulk) + 1)
        );
    }
}
