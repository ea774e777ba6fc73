//! The limiter in virtual time, before peers that send as fast as their credit lets them.

use std::collections::VecDeque;

use peerage_wire::limits::MAX_CONTENT;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::*;
use crate::proto::connection::credit::{cost, window};

const SECOND: Duration = Duration::from_secs(1);

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

/// The least and the most of ten seconds, sliding.
fn extremes(log: &[(Timestamp, u64)]) -> (u64, u64) {
    let (mut from, mut sum, mut least, mut most) = (0, 0, u64::MAX, 0);
    for (at, bytes) in log {
        while log[from].0 + 10 * SECOND < *at {
            sum -= log[from].1;
            from += 1;
            least = least.min(sum);
        }
        sum += bytes;
        most = most.max(sum);
    }
    (least, most)
}

fn assert_limit(log: &[(Timestamp, u64)], limit: u64) {
    let (least, most) = extremes(log);
    assert!(most <= limit * 10 * 105 / 100, "{most} in 10 s of {limit}/s");
    assert!(least >= limit * 10 * 95 / 100, "{least} in 10 s of {limit}/s");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_limit_holds_whatever_the_sockets_have(
        exponent in 4.0..7.5_f64,
        links in 1_u64..12,
        longest in 1_u64..100_000,
        lateness in 0_u64..40,
        seed: u64,
    ) {
        let limit = 10_f64.powf(exponent) as u64;
        let (mut limiter, mut rng) = (IngressLimiter::new(rate(limit), Timestamp::ZERO), ChaCha20Rng::seed_from_u64(seed));
        let (mut now, mut log, mut had) = (Timestamp::ZERO, Vec::new(), vec![0; 12]);
        (0..links).for_each(|link| limiter.join(LinkId(link)));
        while now < Timestamp::from_millis(13_000) {
            (0..links).for_each(|link| limiter.want(now, LinkId(link)));
            while let Some(ReadTurn { link, bytes }) = limiter.poll_read(now) {
                // Some find nothing when their turn comes.
                let there = if rng.next_u64().is_multiple_of(8) { 0 } else { 1 + rng.next_u64() % longest };
                let read = there.min(bytes as u64);
                limiter.read(now, link, usize::try_from(read).expect("short"));
                limiter.want(now, link);
                log.push((now, read));
                had[usize::try_from(link.0).expect("few")] += read;
            }
            let late = Duration::from_millis(rng.next_u64() % (lateness + 1));
            now = limiter.next_timeout().expect("somebody waits") + late;
        }
        assert_limit(&log, limit);
        let had = &had[..usize::try_from(links).expect("few")];
        let spread = had.iter().max().expect("some") - had.iter().min().expect("some");
        prop_assert!(spread <= 2 * turn_bytes(rate(limit).expect("some")), "{had:?}");
    }
}

/// A peer that always has messages of one class, and votes now and then; its credit and what it has under way.
struct Peer {
    class: Class,
    /// Bytes of a message.
    len: usize,
    credit: usize,
    /// Credit on its way back: arrives then.
    returning: VecDeque<(Timestamp, usize)>,
    /// Returned by the limiter, not yet worth a message.
    due: usize,
    /// On its way to us or unread in the kernel: readable from then on, of which class.
    pipe: VecDeque<(Timestamp, Class, usize)>,
}

/// The network around a limiter, in steps of a millisecond.
struct World {
    limiter: IngressLimiter,
    now: Timestamp,
    one_way: Duration,
    peers: Vec<Peer>,
    log: Vec<(Timestamp, u64)>,
    /// How long each vote was under way, beside the way itself.
    waited: Vec<(Timestamp, Duration)>,
}

const VOTE: usize = 200;

impl World {
    fn new(limit: u64, one_way: Duration, kinds: &[(Class, usize)]) -> Self {
        let mut limiter = IngressLimiter::new(rate(limit), Timestamp::ZERO);
        (0..kinds.len() as u64).for_each(|link| limiter.join(LinkId(link)));
        let (returning, pipe) = (VecDeque::new(), VecDeque::new());
        let peer = Peer { class: Class::Bulk, len: 0, credit: 0, returning, due: 0, pipe };
        let peers = kinds.iter().map(|(class, len)| Peer {
            class: *class,
            len: *len,
            credit: window(*class),
            returning: peer.returning.clone(),
            due: peer.due,
            pipe: peer.pipe.clone(),
        });
        let peers = peers.collect();
        Self { limiter, now: Timestamp::ZERO, one_way, peers, log: Vec::new(), waited: Vec::new() }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let millis = self.now.0 / 1_000_000;
            for (number, peer) in self.peers.iter_mut().enumerate() {
                let link = LinkId(number as u64);
                while let Some((_, bytes)) = peer.returning.pop_front_if(|(at, _)| *at <= self.now) {
                    peer.credit += bytes;
                }
                if millis % 97 == number as u64 {
                    peer.pipe.push_back((self.now + self.one_way, Class::Consensus, VOTE));
                }
                while peer.credit >= cost(peer.len) {
                    peer.credit -= cost(peer.len);
                    peer.pipe.push_back((self.now + self.one_way, peer.class, peer.len));
                }
                if peer.pipe.front().is_some_and(|(at, ..)| *at <= self.now) {
                    self.limiter.want(self.now, link);
                }
            }
            while let Some(ReadTurn { link, bytes }) = self.limiter.poll_read(self.now) {
                self.read(link, bytes);
            }
            while let Some(Return { link, class, bytes }) = self.limiter.poll_return(self.now) {
                let peer = &mut self.peers[usize::try_from(link.0).expect("few")];
                assert_eq!(class, peer.class);
                peer.due += bytes;
                // As a connection does it.
                if peer.due >= window(class) / 4 {
                    peer.returning.push_back((self.now + self.one_way, core::mem::take(&mut peer.due)));
                }
            }
            self.now = self.now + Duration::from_millis(1);
        }
    }

    fn read(&mut self, link: LinkId, most: usize) {
        let (peer, mut left) = (&mut self.peers[usize::try_from(link.0).expect("few")], most);
        while let Some((at, class, bytes)) = peer.pipe.front_mut().filter(|(at, ..)| *at <= self.now && left > 0) {
            let piece = left.min(*bytes);
            (*bytes, left) = (*bytes - piece, left - piece);
            if *bytes > 0 {
                continue;
            }
            let (at, class) = (*at, *class);
            peer.pipe.pop_front();
            if class == Class::Consensus {
                assert_eq!(self.limiter.consumed(self.now, link, class, cost(VOTE)), cost(VOTE), "votes never wait");
                self.waited.push((self.now, self.now.since(at)));
            } else {
                assert_eq!(self.limiter.consumed(self.now, link, class, cost(peer.len)), 0);
            }
        }
        let more = peer.pipe.front().is_some_and(|(at, ..)| *at <= self.now);
        self.limiter.read(self.now, link, most - left);
        self.log.push((self.now, (most - left) as u64));
        if more {
            self.limiter.want(self.now, link);
        }
    }

    /// The longest wait of a vote since then.
    fn longest_since(&self, since: Timestamp) -> Duration {
        self.waited.iter().filter(|(at, _)| *at >= since).map(|(_, waited)| *waited).max().expect("votes came")
    }
}

#[test]
fn credit_that_comes_late_holds_the_limit_and_leaves_the_way_free_for_votes() {
    for (one_way, len) in [(5, 100_000), (50, 4000), (50, 100)] {
        let kinds = [(Class::Gossip, len), (Class::Bulk, len), (Class::Gossip, len)];
        let mut world = World::new(10_000_000, Duration::from_millis(one_way), &kinds);
        world.run(40 * SECOND);
        assert_limit(&world.log, 10_000_000);
        // First the windows that all have from the beginning.
        let (first, later) =
            (world.longest_since(Timestamp::ZERO), world.longest_since(Timestamp::from_millis(10_000)));
        assert!(first <= Duration::from_millis(1400), "3 x 4 MiB at 10 MB/s: {first:?}");
        assert!(later <= Duration::from_millis(150), "{later:?} with messages of {len}, {one_way} ms away");
    }
}

#[test]
fn a_slow_limit_holds_although_credit_comes_in_large_pieces() {
    let mut world = World::new(200_000, Duration::from_millis(20), &[(Class::Gossip, 3000), (Class::Bulk, 3000)]);
    world.run(100 * SECOND);
    assert_limit(&world.log, 200_000);
}

#[test]
fn credit_comes_back_even_while_others_fill_the_limit_and_what_stays_is_never_missed() {
    let (mut limiter, mut now) = (IngressLimiter::new(rate(1_000_000), Timestamp::ZERO), Timestamp::ZERO);
    let (debtor, flooder) = (LinkId(1), LinkId(2));
    [debtor, flooder].into_iter().for_each(|link| limiter.join(link));
    let consumed = PerClass([0, 0, 0, 3_500_000, 5_000_000]);
    for class in [Class::Gossip, Class::Bulk] {
        assert_eq!(limiter.consumed(now, debtor, class, consumed[class]), 0);
    }
    let mut returned = PerClass::<usize>::default();
    while limiter.report().held >= 2 * worth(Class::Bulk) {
        limiter.want(now, flooder);
        while let Some(turn) = limiter.poll_read(now) {
            limiter.read(now, turn.link, turn.bytes);
            limiter.want(now, flooder);
        }
        while let Some(Return { class, bytes, .. }) = limiter.poll_return(now) {
            returned[class] += bytes;
        }
        let next = limiter.next_timeout().expect("something waits");
        assert!(next > now && now < Timestamp::from_millis(10_000), "{now}");
        now = next;
    }
    for class in [Class::Gossip, Class::Bulk] {
        let held = consumed[class] - returned[class];
        assert!(held < batch(class), "{held} of {class:?}");
        assert!(window(class) - held - batch(class) >= cost(MAX_CONTENT), "the longest message goes all the same");
    }
    limiter.set_limit(now, None);
    while let Some(Return { class, bytes, .. }) = limiter.poll_return(now) {
        returned[class] += bytes;
    }
    assert_eq!(returned, consumed, "to the byte, once there is no limit");
}

#[test]
fn lifting_the_limit_frees_everything_and_leaving_takes_nothing_along() {
    let now = Timestamp::ZERO;
    let mut limiter = IngressLimiter::new(rate(10_000), now);
    for link in 0..9 {
        limiter.join(LinkId(link));
        limiter.want(now, LinkId(link));
        limiter.consumed(now, LinkId(link), Class::Gossip, 1 << 20);
    }
    let turns: Vec<_> = core::iter::from_fn(|| limiter.poll_read(now)).collect();
    assert!(turns.len() < 9, "{turns:?}");
    turns.iter().for_each(|turn| limiter.leave(now, turn.link));
    let again: Vec<_> = core::iter::from_fn(|| limiter.poll_read(now)).collect();
    assert_eq!(again.len(), turns.len(), "their turns are for others");
    again.iter().for_each(|turn| limiter.stop(now, turn.link));
    assert!(limiter.poll_read(now).is_some(), "and so are those of whoever does not read");
    limiter.set_limit(now, None);
    while limiter.poll_read(now).is_some() {}
    let freed: usize = core::iter::from_fn(|| limiter.poll_return(now)).map(|freed| freed.bytes).sum();
    assert_eq!(freed, (9 - turns.len()) << 20);
    assert_eq!(limiter.next_timeout(), None);
    assert_eq!(limiter.consumed(now, LinkId(8), Class::Bulk, 5), 5);
    let report = limiter.report();
    assert_eq!((report.limit, report.waiting, report.held), (None, 0, 0));
}

#[test]
fn a_limit_can_be_changed_while_all_read() {
    let mut world = World::new(1_000_000, Duration::from_millis(5), &[(Class::Gossip, 3000), (Class::Bulk, 900)]);
    for limit in [1_000_000, 8_000_000, 50_000, 2_000_000] {
        world.limiter.set_limit(world.now, rate(limit));
        // The first seconds are over once credit that was held under the old limit has come back.
        world.run(3 * SECOND);
        world.log.clear();
        world.run(30 * SECOND);
        assert_limit(&world.log, limit);
    }
}
