//! Sybils beside a node that catches up, on a clock by hand: what each of them can reach, and what it takes from the honest one.

use super::*;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const SYBILS: usize = 28;
const HONEST: usize = 99;
/// The most that may wait for one peer, and the length of a message if nothing else is said.
const MOST: usize = 4 * MIB;
const MESSAGE: usize = 64 * KIB;
/// What the node has for what it sends beside the floors, and what is in one.
const LIMIT_SENT: usize = 48 * MIB;
const SENT_FLOOR: usize = 256 * KIB;
/// What a node that catches up takes between two looks: 16 Mbit/s.
const FAIR: usize = 2 * MIB / 50;
/// When the Sybils come, in milliseconds: the honest one has been there for a while.
const ARRIVAL: u64 = 15_000;
/// Milliseconds between two looks, and between two questions of a peer.
const TICK: u64 = 20;
const ROUND_TRIP: u64 = 100;

/// A peer that asks for as much as may wait for it, again and again.
struct Peer {
    number: usize,
    group: Option<Group>,
    account: Account,
    asks: usize,
    /// The length of a message.
    message: usize,
    owed: usize,
    begun: usize,
    /// What the systems' buffers still take for it although it reads nothing, and what it reads between two looks.
    buffers: usize,
    reads: usize,
    stopped: bool,
}

impl Peer {
    /// Asks for one more, if as much does not wait for it yet.
    fn wants(&self, millis: u64) -> bool {
        let is_there = self.number == HONEST || millis >= ARRIVAL;
        is_there && !self.stopped && self.owed + self.message <= self.asks
    }

    fn takes(&mut self, now: Timestamp) {
        let taken = self.owed.min(self.reads + self.buffers);
        self.buffers -= self.buffers.min(taken);
        self.account.took(now, taken);
        self.owed -= taken;
        self.begun = if self.begun > taken { self.begun - taken } else { self.owed % self.message };
        self.account.wait(now, self.owed > 0);
    }

    fn debtor(&self, now: Timestamp) -> Debtor {
        let (begun, taken, sent_floor) = (self.begun, self.account.taken(now), SENT_FLOOR);
        Debtor { begun, taken, sent_floor, ..debtor(self.number, self.owed, 0, 0) }
    }
}

/// How a story ended.
#[derive(Debug, Default)]
struct Told {
    /// When each was disconnected, in milliseconds.
    closed: BTreeMap<usize, u64>,
    /// How many bytes each lost.
    shed: BTreeMap<usize, usize>,
    stopped: BTreeSet<usize>,
}

/// A node that catches up, for whom as much waits as may, and Sybils for each of whom a little less does, in such groups.
fn with_sybils(reads: usize, group: impl Fn(usize) -> Option<Group>) -> Vec<Peer> {
    with_keys(SYBILS, MESSAGE, reads, group)
}

/// The same with so many Sybils, and messages of such a length.
fn with_keys(keys: usize, message: usize, reads: usize, group: impl Fn(usize) -> Option<Group>) -> Vec<Peer> {
    let peer = |number| {
        let (asks, reads) = if number == HONEST { (MOST, FAIR) } else { (MOST - MESSAGE, reads) };
        let (account, buffers) = (Budget::account(usize::MAX), if reads < FAIR { 2 * MIB } else { 0 });
        let (group, owed, begun, stopped) = (group(number), 0, 0, false);
        Peer { number, group, account, asks, message, owed, begun, buffers, reads, stopped }
    };
    (1..=keys).chain([HONEST]).map(peer).collect()
}

/// All Sybils have one group, and the honest one another.
fn of_one_host(number: usize) -> Option<Group> {
    group(1 + usize::from(number == HONEST))
}

fn find(peers: &mut [Peer], link: LinkId) -> &mut Peer {
    peers.iter_mut().find(|peer| peer.number == link.0 as usize).expect("it is there")
}

/// What is taken of what all share.
fn used(peers: &[Peer]) -> usize {
    peers.iter().map(|peer| peer.owed.saturating_sub(SENT_FLOOR)).sum()
}

/// All ask in turn for one message after the other, until they have what they want or the budget refuses; how often it did.
fn ask(peers: &mut [Peer], millis: u64) -> u64 {
    let mut refused = 0;
    while refused == 0 && peers.iter().any(|peer| peer.wants(millis)) {
        for place in 0..peers.len() {
            if !peers[place].wants(millis) {
                continue;
            }
            if used(peers) + peers[place].message > LIMIT_SENT && peers[place].owed >= SENT_FLOOR {
                refused += 1;
            } else {
                peers[place].owed += peers[place].message;
            }
        }
    }
    refused
}

/// A minute of their life.
fn tell(mut peers: Vec<Peer>) -> Told {
    let (mut shedder, mut told, mut refused) = (Shedder::default(), Told::default(), 0);
    for millis in (0..60_000).step_by(TICK as usize) {
        let now = at(millis);
        if millis.is_multiple_of(ROUND_TRIP) {
            refused += ask(&mut peers, millis);
        }
        peers.iter_mut().for_each(|peer| peer.takes(now));
        let debtors = peers.iter().map(|peer| peer.debtor(now)).filter(|debtor| owes(debtor) > 0).collect();
        let outbound = Strain { used: used(&peers), limit: LIMIT_SENT, refused };
        let groups: BTreeMap<_, _> = peers.iter().map(|peer| (id(peer.number), peer.group)).collect();
        let known = |peer: &NodeId| Known { last: false, group: groups.get(peer).copied().flatten() };
        let pressure = Pressure { outbound, debtors, ..Pressure::default() };
        for measure in shedder.look(now, &pressure, known) {
            match measure {
                Measure::Shed { link, bytes } => {
                    let peer = find(&mut peers, link);
                    let dropped = bytes.next_multiple_of(peer.message).min(peer.owed - peer.begun);
                    peer.owed -= dropped;
                    *told.shed.entry(peer.number).or_default() += dropped;
                }
                Measure::Stop(link) => {
                    find(&mut peers, link).stopped = true;
                    told.stopped.insert(link.0 as usize);
                }
                Measure::Resume(link) => find(&mut peers, link).stopped = false,
                Measure::Close { peer, reason } => {
                    assert_eq!(reason, CloseReason::SlowPeer);
                    let place = peers.iter().position(|one| id(one.number) == peer).expect("it is there");
                    told.closed.insert(peers.remove(place).number, millis);
                }
            }
        }
    }
    told
}

/// The honest one has its connection and its messages, but for so many bytes, and is read from; of the deaf ones so many went that there
/// is room for the rest, within twelve seconds.
fn the_deaf_ones_go(told: &Told, who: core::ops::RangeInclusive<usize>, most_lost: usize) {
    assert!(told.shed.get(&HONEST).copied().unwrap_or(0) <= most_lost && !told.stopped.contains(&HONEST), "{told:?}");
    assert!(told.closed.keys().all(|number| who.contains(number)), "{told:?}");
    assert!(told.closed.len() >= SYBILS - LIMIT_SENT / MOST, "{told:?}");
    assert!(told.closed.values().all(|millis| *millis <= ARRIVAL + 12_000), "{told:?}");
}

#[test]
fn twenty_eight_keys_of_one_host_that_read_nothing_go_and_a_node_that_catches_up_loses_nothing() {
    the_deaf_ones_go(&tell(with_sybils(0, of_one_host)), 1..=SYBILS, 0);
}

#[test]
fn twenty_eight_keys_of_as_many_hosts_go_as_well() {
    // At the first look each has less than the honest one, and the systems' buffers took much for it.
    the_deaf_ones_go(&tell(with_sybils(0, group)), 1..=SYBILS, MOST);
}

#[test]
fn who_reads_a_byte_at_a_time_gains_nothing() {
    the_deaf_ones_go(&tell(with_sybils(1, group)), 1..=SYBILS, MOST);
}

#[test]
fn deaf_keys_gain_nothing_by_one_of_their_host_that_reads() {
    let mut peers = with_sybils(0, of_one_host);
    (peers[0].reads, peers[0].buffers) = (10 * FAIR, 0);
    the_deaf_ones_go(&tell(peers), 2..=SYBILS, 0);
}

#[test]
fn keys_of_one_host_that_read_like_an_honest_peer_lose_messages_before_it_and_no_connection() {
    let told = tell(with_sybils(FAIR, of_one_host));
    assert_eq!((told.closed.len(), told.shed.get(&HONEST)), (0, None), "{told:?}");
    assert!(told.shed.len() > SYBILS / 2, "{told:?}");
}

#[test]
fn what_was_begun_for_deaf_keys_is_nobody_else_s_to_pay_however_long_the_messages_are() {
    // Keys, the length of their messages, and what the systems' buffers take for each.
    for (keys, message, buffers) in [
        (28, MESSAGE, MESSAGE),
        (28, MIB, MESSAGE),
        (28, 1984 * KIB, MESSAGE),
        (48, MIB, MESSAGE),
        (28, MIB, 2 * MIB + 1),
        (28, 1984 * KIB, 2 * MIB + 1),
        (48, MIB, 2 * MIB + 1),
    ] {
        let mut peers = with_keys(keys, message, 0, group);
        peers.iter_mut().filter(|peer| peer.number != HONEST).for_each(|peer| peer.buffers = buffers);
        let told = tell(peers);
        let story = format!("{keys} keys, {message} bytes a message, {buffers} in buffers: {told:?}");
        // Only while buffers speak for them may it lose what waits for it, once.
        let most = if buffers < MIB { 0 } else { MOST };
        assert!(told.shed.get(&HONEST).is_none_or(|lost| *lost <= most), "{story}");
        assert!(!told.stopped.contains(&HONEST) && !told.closed.contains_key(&HONEST), "{story}");
        assert!(told.closed.len() >= keys - LIMIT_SENT / MOST, "{story}");
        assert!(told.closed.values().all(|millis| *millis <= ARRIVAL + 17_000), "{story}");
    }
}
