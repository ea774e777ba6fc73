//! Misbehaviour: points that only time reduces, and the bans that follow.
//!
//! Each identity has an account, and so has each group of addresses, at an eighth of the weight: keys are free, addresses
//! are not. Good deeds buy nothing here; usefulness is counted elsewhere (mixing the two is what made gossipsub's score
//! exploitable, CVE-2022-47547).

use core::{fmt, str::FromStr, time::Duration};
use peerage_core::{Fault, NodeId, Timestamp, UnixMillis};
use std::collections::BTreeMap;
use thiserror::Error;

use crate::proto::admission::{Group, ParseGroupError};

/// Who has an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// An identity.
    Peer(NodeId),
    /// A group of addresses: /24 or /48.
    Group(Group),
}

/// Text that should have been a subject is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "a node's identity (64 hexadecimal digits), or a group of addresses as 192.0.2.0/24 or 2001:db8:1::/48 is expected; other \
     ranges can be denied"
)]
pub struct ParseSubjectError;

impl FromStr for Subject {
    type Err = ParseSubjectError;

    fn from_str(text: &str) -> Result<Self, ParseSubjectError> {
        let peer = text.parse().map(Self::Peer);
        peer.or_else(|_| text.parse().map(Self::Group)).map_err(|_: ParseGroupError| ParseSubjectError)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // With width and fill, for tables.
            Self::Peer(peer) => f.pad(&peer.to_string()),
            Self::Group(group) => f.pad(&group.to_string()),
        }
    }
}

/// A ban, for whoever keeps it over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ban {
    /// Who.
    pub subject: Subject,
    /// Until when.
    pub until: UnixMillis,
    /// How often so far; each ban is twice as long as the one before.
    pub times: u32,
    /// Whether the operator ordered it, and not the faults that were booked.
    pub by_hand: bool,
}

/// A ban was ordered and not carried out, since the operator has as many others in force as there may be: its own fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{MAX_ORDERED} bans by hand may hold at a time: `peerage unban` one of them, or name ranges in `deny`")]
pub struct TooManyBans;

/// Points at which a subject is sent away and banned (parameters, 3.1).
const LIMIT: u32 = 100;
/// Half of the points are gone after this time (parameters, 3.1).
const HALF_LIFE: Duration = Duration::from_secs(600);
/// The first ban (parameters, 3.1).
const FIRST_BAN: Duration = Duration::from_secs(3600);
/// The longest ban (parameters, 3.1).
const LONGEST_BAN: Duration = Duration::from_secs(24 * 3600);
/// A ban that was over for so long is forgotten, and the next one is a first one (parameters, 3.1).
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// Accounts kept at once, about 100 B each; beyond that the one with the fewest points is forgotten (our guess).
const MAX_ACCOUNTS: usize = 4096;
/// Bans that faults led to, about 100 B each; beyond that the one that ends first is forgotten (our guess: as many as accounts).
const MAX_BANS: usize = 4096;
/// Bans that the operator ordered and that hold; one more is refused. However many others are banned, none of these is forgotten
/// (our guess: as many as lines of a list).
const MAX_ORDERED: usize = 4096;
/// Points are counted in thousandths, so that a group's eighth is not lost in rounding.
const SCALE: u32 = 1000;
/// What a fault of one identity weighs for its group (parameters, 3.1).
const GROUP_SHARE: u32 = 8;

/// What a fault costs an identity, in points (parameters, 3.2).
const fn points(fault: Fault) -> u32 {
    match fault {
        Fault::InvalidBlock => 100,
        Fault::UndecodablePayload | Fault::InvalidRecord | Fault::InvalidTransaction | Fault::InvalidItem => 20,
        Fault::UnexpectedCommand | Fault::BadLookupAnswer | Fault::BadSyncAnswer | Fault::Excess => 10,
        Fault::UnansweredRequest => 2,
        Fault::KeptMemory => 0,
    }
}

/// What a fault of one identity costs its group, in thousandths of a point: an eighth, and for memory that was kept one point. A bad
/// way is no identity's offence, and the next one costs nothing; but a group needs a hundred of them within moments, or five a
/// minute for ever, until it is banned (our guess: one peer comes once a minute after a few, for its dials back off; twenty-eight
/// keys that come again at once make a hundred in under a minute).
fn group_cost(fault: Fault) -> u32 {
    match fault {
        Fault::KeptMemory => SCALE,
        _ => points(fault) * SCALE / GROUP_SHARE,
    }
}

#[derive(Clone, Copy, Debug)]
struct Account {
    thousandths: u32,
    at: Timestamp,
}

impl Account {
    /// What is left of the points: halved each half-life, linear in between.
    fn now(self, now: Timestamp) -> u32 {
        let passed = now.since(self.at).as_millis();
        let half_life = HALF_LIFE.as_millis();
        let halvings = u32::try_from(passed / half_life).unwrap_or(u32::MAX);
        let halved = u64::from(self.thousandths.checked_shr(halvings).unwrap_or(0));
        let rest = u64::try_from(passed % half_life).unwrap_or(0);
        let half_life = u64::try_from(half_life).unwrap_or(u64::MAX);
        u32::try_from(halved - halved * rest / (2 * half_life)).unwrap_or(u32::MAX)
    }
}

/// What a ban is beside whom it concerns.
#[derive(Clone, Copy, Debug)]
struct Sentence {
    until: UnixMillis,
    times: u32,
    by_hand: bool,
}

impl Sentence {
    /// Whether this is the operator's word, and holds.
    fn is_order(self, wall: UnixMillis) -> bool {
        self.by_hand && self.until > wall
    }
}

/// All accounts and bans.
#[derive(Debug, Default)]
pub(super) struct Conduct {
    accounts: BTreeMap<Subject, Account>,
    bans: BTreeMap<Subject, Sentence>,
}

impl Conduct {
    pub(super) fn new(bans: &[Ban]) -> Self {
        let of = |by_hand: bool, most| bans.iter().filter(move |ban| ban.by_hand == by_hand).take(most);
        let sentence = |ban: &Ban| (ban.subject, Sentence { until: ban.until, times: ban.times, by_hand: ban.by_hand });
        let bans = of(false, MAX_BANS).chain(of(true, MAX_ORDERED)).map(sentence).collect();
        Self { accounts: BTreeMap::new(), bans }
    }

    /// Books a fault of an identity, and an eighth of it to its group; says which subjects that got banned. What a banned
    /// identity did besides is settled by its ban: verdicts come late and in numbers, and one offence must neither count as
    /// many nor ban the neighbours.
    pub(super) fn book(
        &mut self,
        now: Timestamp,
        wall: UnixMillis,
        peer: NodeId,
        group: Option<Group>,
        fault: Fault,
    ) -> Vec<Subject> {
        if self.banned(wall, &Subject::Peer(peer)).is_some() {
            return Vec::new();
        }
        let cost = points(fault) * SCALE;
        let group = group.filter(|group| self.banned(wall, &Subject::Group(*group)).is_none());
        let group = group.map(|group| (Subject::Group(group), group_cost(fault)));
        let mut banned = Vec::new();
        let costs = core::iter::once((Subject::Peer(peer), cost)).chain(group);
        for (subject, cost) in costs.filter(|(_, cost)| *cost > 0) {
            self.make_room(now, subject);
            let account = self.accounts.entry(subject).or_insert(Account { thousandths: 0, at: now });
            *account = Account { thousandths: account.now(now).saturating_add(cost), at: now };
            if account.thousandths >= LIMIT * SCALE {
                self.accounts.remove(&subject);
                self.ban(wall, subject);
                banned.push(subject);
            }
        }
        banned
    }

    fn ban(&mut self, wall: UnixMillis, subject: Subject) {
        let length = |times: u32| FIRST_BAN.saturating_mul(1 << times.min(8)).min(LONGEST_BAN);
        self.sentence(wall, subject, false, length);
    }

    /// Bans for so long, whatever was before: the operator's word.
    pub(super) fn ban_for(&mut self, wall: UnixMillis, subject: Subject, length: Duration) -> Result<(), TooManyBans> {
        self.may_order(wall, &subject)?;
        self.sentence(wall, subject, true, |_| length);
        Ok(())
    }

    /// Whether the operator may ban one more.
    pub(super) fn may_order(&self, wall: UnixMillis, subject: &Subject) -> Result<(), TooManyBans> {
        let others = self.bans.iter().filter(|(of, ban)| *of != subject && ban.is_order(wall)).count();
        if others < MAX_ORDERED { Ok(()) } else { Err(TooManyBans) }
    }

    /// Notes a ban, and forgets those that are long over. Of those that nobody ordered, or that are over, the first to end makes
    /// room.
    fn sentence(&mut self, wall: UnixMillis, subject: Subject, by_hand: bool, length: impl Fn(u32) -> Duration) {
        self.bans.retain(|_, ban| ban.until + FORGET > wall);
        let before = self.bans.remove(&subject).map_or(0, |ban| ban.times);
        let mut others: Vec<_> =
            self.bans.iter().filter(|(_, ban)| !ban.is_order(wall)).map(|(of, ban)| (ban.until, *of)).collect();
        let surplus = others.len().saturating_sub(MAX_BANS - 1);
        if surplus > 0 {
            others.select_nth_unstable(surplus - 1);
        }
        for (_, soonest) in &others[..surplus] {
            self.bans.remove(soonest);
        }
        let (until, times) = (wall + length(before), before.saturating_add(1));
        self.bans.insert(subject, Sentence { until, times, by_hand });
    }

    /// Lifts a ban.
    ///
    /// Whether there was one.
    pub(super) fn pardon(&mut self, subject: &Subject) -> bool {
        self.bans.remove(subject).is_some()
    }

    fn make_room(&mut self, now: Timestamp, newcomer: Subject) {
        if self.accounts.len() < MAX_ACCOUNTS || self.accounts.contains_key(&newcomer) {
            return;
        }
        let least = self.accounts.iter().min_by_key(|(_, account)| account.now(now)).map(|(subject, _)| *subject);
        least.and_then(|least| self.accounts.remove(&least));
    }

    /// Until when a subject is banned, if it is.
    pub(super) fn banned(&self, wall: UnixMillis, subject: &Subject) -> Option<UnixMillis> {
        self.bans.get(subject).map(|ban| ban.until).filter(|until| *until > wall)
    }

    /// The points of an identity, rounded down.
    pub(super) fn points(&self, now: Timestamp, peer: NodeId) -> u32 {
        self.accounts.get(&Subject::Peer(peer)).map_or(0, |account| account.now(now) / SCALE)
    }

    /// All bans, those that are over and not yet forgotten included.
    pub(super) fn bans(&self) -> Vec<Ban> {
        self.bans
            .iter()
            .map(|(subject, Sentence { until, times, by_hand })| Ban {
                subject: *subject,
                until: *until,
                times: *times,
                by_hand: *by_hand,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMillis = UnixMillis(1_000_000_000);

    fn peer(number: u64) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        NodeId::from_bytes(bytes)
    }

    fn group() -> Group {
        Group::of([8, 8, 8, 8].into())
    }

    fn book(conduct: &mut Conduct, at: u64, number: u64, fault: Fault) -> Vec<Subject> {
        let passed = Duration::from_secs(at);
        conduct.book(Timestamp::ZERO + passed, WALL + passed, peer(number), Some(group()), fault)
    }

    #[test]
    fn points_halve_every_ten_minutes_and_never_otherwise() {
        let mut conduct = Conduct::default();
        for _ in 0..4 {
            assert_eq!(book(&mut conduct, 0, 1, Fault::InvalidItem), []);
        }
        let after = |secs| conduct.points(Timestamp::ZERO + Duration::from_secs(secs), peer(1));
        assert_eq!([after(0), after(300), after(600), after(1200), after(60_000)], [80, 60, 40, 20, 0]);
    }

    #[test]
    fn a_ban_doubles_each_time_and_is_forgotten_a_day_after_it_ended() {
        let mut conduct = Conduct::default();
        let mut at = 0;
        for hours in [1, 2, 4, 8, 16, 24, 24] {
            assert_eq!(book(&mut conduct, at, 1, Fault::InvalidBlock), [Subject::Peer(peer(1))]);
            let begin = WALL + Duration::from_secs(at);
            let until = conduct.banned(begin, &Subject::Peer(peer(1))).expect("banned");
            assert_eq!(until.since(begin), Duration::from_secs(hours * 3600));
            assert_eq!(conduct.banned(until, &Subject::Peer(peer(1))), None, "over to the millisecond");
            at += hours * 3600;
        }
        at += 25 * 3600;
        book(&mut conduct, at, 1, Fault::InvalidBlock);
        let begin = WALL + Duration::from_secs(at);
        let until = conduct.banned(begin, &Subject::Peer(peer(1))).expect("banned");
        assert_eq!(until.since(begin), Duration::from_secs(3600), "a first one again");
    }

    #[test]
    fn eight_bad_identities_from_one_group_ban_the_group() {
        let mut conduct = Conduct::default();
        for number in 0..7 {
            assert_eq!(book(&mut conduct, 0, number, Fault::InvalidBlock), [Subject::Peer(peer(number))]);
        }
        assert_eq!(book(&mut conduct, 0, 7, Fault::InvalidBlock), [Subject::Peer(peer(7)), Subject::Group(group())]);
        assert!(conduct.banned(WALL, &Subject::Group(group())).is_some());
    }

    #[test]
    fn however_much_one_identity_does_it_is_banned_once_and_for_itself() {
        let mut conduct = Conduct::default();
        for _ in 0..4096 {
            book(&mut conduct, 0, 1, Fault::InvalidTransaction);
        }
        let hours = |subject| conduct.banned(WALL, &subject).map(|until| until.since(WALL).as_secs() / 3600);
        assert_eq!((hours(Subject::Peer(peer(1))), hours(Subject::Group(group()))), (Some(1), None));
    }

    #[test]
    fn memory_that_is_kept_counts_against_the_group_alone_and_a_few_slow_peers_of_one_are_never_banned() {
        let mut conduct = Conduct::default();
        // Four of one group that come again once a minute, for a day.
        for minute in 0..24 * 60 {
            for number in 0..4 {
                assert_eq!(book(&mut conduct, 60 * minute, number, Fault::KeptMemory), []);
            }
        }
        // Twenty-eight keys that come again each ten seconds.
        let (mut conduct, mut at) = (Conduct::default(), 0);
        while conduct.bans().is_empty() {
            (0..28).for_each(|number| drop(book(&mut conduct, at, number, Fault::KeptMemory)));
            at += 10;
        }
        let banned: Vec<_> = conduct.bans().iter().map(|ban| ban.subject).collect();
        assert_eq!((at, banned), (40, vec![Subject::Group(group())]));
    }

    #[test]
    fn bans_come_back_from_disk() {
        let mut conduct = Conduct::default();
        book(&mut conduct, 0, 1, Fault::InvalidBlock);
        let restarted = Conduct::new(&conduct.bans());
        assert!(restarted.banned(WALL, &Subject::Peer(peer(1))).is_some());
    }

    #[test]
    fn accounts_are_bounded_whoever_comes() {
        let mut conduct = Conduct::default();
        for number in 0..2 * MAX_ACCOUNTS as u64 {
            conduct.book(Timestamp::ZERO, WALL, peer(number), None, Fault::UnansweredRequest);
            conduct.book(Timestamp::ZERO, WALL, peer(number), None, Fault::InvalidBlock);
        }
        assert!(conduct.accounts.len() <= MAX_ACCOUNTS && conduct.bans.len() <= MAX_BANS);
    }

    #[test]
    fn what_the_operator_ordered_holds_however_many_others_get_themselves_banned() {
        let mut conduct = Conduct::default();
        let ordered = Subject::Peer(peer(u64::MAX));
        conduct.ban_for(WALL, ordered, Duration::from_secs(60)).expect("there is room");
        for number in 0..MAX_BANS as u64 + 8 {
            conduct.book(Timestamp::ZERO, WALL, peer(number), None, Fault::InvalidBlock);
        }
        assert!(conduct.banned(WALL, &ordered).is_some(), "it ends before all of theirs");
        assert!(conduct.bans.len() <= MAX_BANS + 1);
        let restarted = Conduct::new(&conduct.bans());
        assert!(restarted.banned(WALL, &ordered).is_some(), "nor do they push it out over a restart");
    }

    #[test]
    fn one_order_too_many_is_refused_and_there_is_room_when_one_ends_or_is_lifted() {
        let mut conduct = Conduct::default();
        let subject = |number: usize| Subject::Peer(peer(number as u64));
        let minute = Duration::from_secs(60);
        for number in 0..MAX_ORDERED {
            assert_eq!(conduct.ban_for(WALL, subject(number), minute), Ok(()));
        }
        assert_eq!(conduct.ban_for(WALL, subject(MAX_ORDERED), minute), Err(TooManyBans));
        assert_eq!(conduct.ban_for(WALL, subject(0), 2 * minute), Ok(()), "it is banned already");
        book(&mut conduct, 0, 1 << 32, Fault::InvalidBlock);
        assert!(conduct.banned(WALL, &Subject::Peer(peer(1 << 32))).is_some(), "faults have room of their own");
        assert!(conduct.pardon(&subject(1)));
        assert_eq!(conduct.ban_for(WALL, subject(MAX_ORDERED), minute), Ok(()));
        for number in MAX_ORDERED..MAX_ORDERED + 8 {
            assert_eq!(conduct.ban_for(WALL + 2 * minute, subject(number), minute), Ok(()), "those before are over");
        }
        assert!(conduct.bans.len() <= MAX_BANS + MAX_ORDERED);
    }
}
