//! The scheduler in virtual time.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::*;

const WINDOW: Duration = Duration::from_secs(10);

/// Which classes a connection can send of at any moment, and how long its records are.
#[derive(Clone, Debug)]
struct Source {
    classes: BTreeSet<Class>,
    shortest: u64,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    at: Timestamp,
    link: LinkId,
    class: Class,
    bytes: u64,
}

/// Connections that always have something, and a clock.
struct World {
    scheduler: EgressScheduler,
    now: Timestamp,
    sources: Vec<Source>,
    rng: ChaCha20Rng,
    /// How late timers may be.
    lateness: Duration,
    log: Vec<Record>,
}

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

fn source(classes: &[Class], shortest: u64) -> Source {
    Source { classes: classes.iter().copied().collect(), shortest }
}

fn number(link: LinkId) -> usize {
    usize::try_from(link.0).expect("small")
}

impl World {
    fn new(limit: u64, sources: Vec<Source>, seed: u64) -> Self {
        let mut world = Self {
            scheduler: EgressScheduler::new(rate(limit), Timestamp::ZERO),
            now: Timestamp::ZERO,
            sources,
            rng: ChaCha20Rng::seed_from_u64(seed),
            lateness: Duration::ZERO,
            log: Vec::new(),
        };
        for link in 0..world.sources.len() as u64 {
            world.scheduler.join(LinkId(link));
            world.want(LinkId(link));
        }
        world
    }

    fn want(&mut self, link: LinkId) {
        let classes = &self.sources[number(link)].classes;
        self.scheduler.want(self.now, link, PerClass::from_fn(|class| classes.contains(&class)));
    }

    fn upto(&mut self, most: u64) -> u64 {
        self.rng.next_u64() % (most + 1)
    }

    /// A record of a length that the source likes.
    fn write(&mut self, Grant { link, class, bytes }: Grant) {
        let most = bytes as u64;
        let shortest = self.sources[number(link)].shortest.min(most);
        let bytes = shortest + self.upto(most - shortest);
        self.scheduler.written(self.now, link, usize::try_from(bytes).expect("short"));
        self.log.push(Record { at: self.now, link, class, bytes });
        self.want(link);
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            while let Some(grant) = self.scheduler.poll_grant(self.now) {
                self.write(grant);
            }
            let next = self.scheduler.next_timeout().expect("somebody waits");
            assert!(next > self.now, "time must pass: {next}");
            let late = self.upto(self.lateness.as_nanos() as u64);
            self.now = next + Duration::from_nanos(late);
        }
    }

    fn bytes(&self, which: impl Fn(&Record) -> bool) -> u64 {
        self.log.iter().filter(|record| which(record)).map(|record| record.bytes).sum()
    }

    /// The least and the most that was written in any stretch of ten seconds.
    fn extremes(&self) -> (u64, u64) {
        let (mut from, mut sum, mut least, mut most) = (0, 0, u64::MAX, 0);
        for record in &self.log {
            // All within the last ten seconds, this one included.
            while self.log[from].at + WINDOW < record.at {
                sum -= self.log[from].bytes;
                from += 1;
                // What lies strictly between two moments ten seconds apart.
                least = least.min(sum);
            }
            sum += record.bytes;
            most = most.max(sum);
        }
        (least, most)
    }

    fn assert_limit(&self, limit: u64, context: &str) {
        let (least, most) = self.extremes();
        assert!(most <= limit * 10 * 105 / 100, "{context}: {most} in 10 s of {limit}/s");
        assert!(least >= limit * 10 * 95 / 100, "{context}: {least} in 10 s of {limit}/s");
    }
}

#[test]
fn a_limit_holds_within_five_per_cent_over_any_ten_seconds() {
    let sources =
        || vec![source(&[Class::Gossip], 1), source(&[Class::Gossip, Class::Bulk], 500), source(&[Class::Signal], 1)];
    for limit in [10_000, 65_536, 1_000_000, 25_000_000] {
        let mut world = World::new(limit, sources(), 7);
        world.run(Duration::from_secs(25));
        world.assert_limit(limit, "on time");
        let mut world = World::new(limit, sources(), 7);
        world.lateness = Duration::from_millis(30);
        world.run(Duration::from_secs(25));
        world.assert_limit(limit, "with timers that are late");
    }
}

#[test]
fn a_limit_of_a_gigabyte_a_second_holds_too() {
    let mut world = World::new(1_000_000_000, vec![source(&[Class::Bulk], 16_000)], 7);
    world.run(Duration::from_millis(10_100));
    world.assert_limit(1_000_000_000, "fast");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_limit_holds_whoever_sends_whatever(
        // Evenly over the orders of magnitude, from 10 KB/s to 10 MB/s.
        exponent in 4.0..7.0_f64,
        profiles in prop::collection::vec((1_u8..32, 1_u64..20_000), 1..12),
        lateness in 0_u64..40,
        seed: u64,
    ) {
        let limit = 10_f64.powf(exponent) as u64;
        let classes = |mask: u8| Class::ALL.into_iter().filter(|class| mask & (1 << *class as u8) != 0).collect();
        let sources = profiles.iter().map(|(mask, shortest)| Source { classes: classes(*mask), shortest: *shortest });
        let mut world = World::new(limit, sources.collect(), seed);
        world.lateness = Duration::from_millis(lateness);
        world.run(Duration::from_secs(13));
        world.assert_limit(limit, &format!("{profiles:?}"));
    }

    #[test]
    fn links_of_a_class_have_the_same_to_within_a_record_of_each(
        shortest in prop::collection::vec(1_u64..16_000, 2..9),
        seed: u64,
    ) {
        let links = shortest.len() as u64;
        let mut world = World::new(1_000_000, shortest.iter().map(|len| source(&[Class::Gossip], *len)).collect(), seed);
        world.run(Duration::from_secs(5));
        let mut had = vec![0; shortest.len()];
        for record in world.log {
            had[number(record.link)] += record.bytes;
            let spread = had.iter().max().expect("some") - had.iter().min().expect("some");
            prop_assert!(spread <= 2 * record_bytes(rate(1_000_000).expect("some")), "{had:?} of {links}");
        }
    }

    #[test]
    fn a_vote_waits_for_no_record_that_is_not_begun(
        limit in 10_000_u64..50_000_000,
        pauses in prop::collection::vec(0_u64..700, 1..40),
        seed: u64,
    ) {
        let crowd = [source(&[Class::Gossip], 1), source(&[Class::Bulk], 9000), source(&[Class::Signal], 300)];
        let mut world = World::new(limit, crowd.to_vec(), seed);
        world.sources.push(source(&[], 200));
        let voter = LinkId(3);
        world.scheduler.join(voter);
        for pause in pauses {
            // Votes that stay below the ceiling.
            world.run(Duration::from_millis(100 + pause));
            // One more record is being made at that moment.
            let making = world.scheduler.poll_grant(world.now);
            world.scheduler.want(world.now, voter, PerClass::from_fn(|class| class == Class::Consensus));
            let grant = world.scheduler.poll_grant(world.now);
            prop_assert!(grant.is_some_and(|grant| grant.link == voter), "{grant:?} beside {making:?}");
            world.scheduler.written(world.now, voter, 200);
            making.into_iter().for_each(|grant| world.write(grant));
        }
    }
}

#[test]
fn bulk_has_its_twentieth_of_a_busy_link_and_no_more() {
    for busy in [Class::Signal, Class::Gossip] {
        let mut world =
            World::new(1_000_000, vec![source(&[busy], 1), source(&[busy], 4000), source(&[Class::Bulk], 1)], 3);
        world.run(Duration::from_secs(30));
        let (bulk, all) = (world.bytes(|record| record.class == Class::Bulk), world.bytes(|_| true));
        let per_mille = bulk * 1000 / all;
        assert!((48..=51).contains(&per_mille), "{per_mille} of a thousand beside {busy:?}");
    }
}

#[test]
fn bulk_goes_one_record_at_a_time_before_others_and_never_before_a_vote() {
    let mut world = World::new(1_000_000, vec![source(&[Class::Gossip], 9000), source(&[Class::Bulk], 16_000)], 3);
    world.run(Duration::from_secs(10));
    let longest =
        world.log.chunk_by(|a, b| a.class == b.class).filter(|run| run[0].class == Class::Bulk).map(<[_]>::len);
    assert_eq!(longest.max(), Some(1));
    // However many connections have Bulk, one alone is ahead.
    let mut scheduler = EgressScheduler::new(rate(1_000_000), Timestamp::ZERO);
    for link in 0..4 {
        scheduler.join(LinkId(link));
        let class = if link == 0 { Class::Gossip } else { Class::Bulk };
        scheduler.want(Timestamp::ZERO, LinkId(link), PerClass::from_fn(|wanted| wanted == class));
    }
    let granted = |scheduler: &mut EgressScheduler| scheduler.poll_grant(Timestamp::ZERO).map(|grant| grant.class);
    assert_eq!(granted(&mut scheduler), Some(Class::Bulk), "the twentieth");
    assert_eq!(granted(&mut scheduler), Some(Class::Gossip));
    scheduler.join(LinkId(9));
    scheduler.want(Timestamp::ZERO, LinkId(9), PerClass::from_fn(|class| class == Class::Consensus));
    assert_eq!(granted(&mut scheduler), Some(Class::Consensus));
    assert_eq!(granted(&mut scheduler), Some(Class::Bulk), "what is left");
}

#[test]
fn whoever_floods_the_urgent_classes_has_their_ceilings_and_what_others_leave() {
    use Class::{Consensus, Control, Gossip};
    // The one who floods votes has gossip of its own, too.
    let mut world =
        World::new(1_000_000, vec![source(&[Control], 50), source(&[Consensus, Gossip], 200), source(&[Gossip], 1)], 5);
    world.run(Duration::from_secs(30));
    let share = |class| world.bytes(|record| record.class == class) * 100 / world.bytes(|_| true);
    // A second's burst over thirty.
    assert!((9..=11).contains(&share(Control)), "{}", share(Control));
    assert!((49..=53).contains(&share(Consensus)), "{}", share(Consensus));
    assert!((36..=41).contains(&share(Gossip)), "{}", share(Gossip));
    world.assert_limit(1_000_000, "flooded");
    let mut world = World::new(1_000_000, vec![source(&[Consensus], 200)], 5);
    world.run(Duration::from_secs(25));
    world.assert_limit(1_000_000, "nobody else wants it");
}

#[test]
fn a_limit_can_be_changed_and_lifted_while_everybody_waits() {
    let mut world = World::new(1_000_000, vec![source(&[Class::Gossip], 1), source(&[Class::Bulk], 1)], 11);
    for limit in [1_000_000, 20_000, 5_000_000, 300_000] {
        world.scheduler.set_limit(world.now, rate(limit));
        world.log.clear();
        world.run(Duration::from_secs(12));
        world.assert_limit(limit, "after the change");
        assert_eq!(world.scheduler.report().limit, rate(limit));
    }
    while let Some(grant) = world.scheduler.poll_grant(world.now) {
        world.write(grant);
    }
    world.scheduler.set_limit(world.now, None);
    assert_eq!(world.scheduler.next_timeout(), None);
    let first = world.scheduler.poll_grant(world.now).expect("nothing to wait for");
    let second = world.scheduler.poll_grant(world.now).expect("nothing to wait for");
    assert_eq!([first.class, second.class], [Class::Gossip, Class::Bulk]);
    assert_eq!(first.bytes, MAX_PLAINTEXT + SEALED_OVERHEAD);
    // A record begun without a limit counts once there is one.
    world.scheduler.set_limit(world.now, rate(10_000));
    world.scheduler.written(world.now, first.link, 16_000);
    world.want(first.link);
    assert_eq!(world.scheduler.poll_grant(world.now), None);
    assert!(world.scheduler.next_timeout().expect("it waits") >= world.now + Duration::from_millis(1400));
}

#[test]
fn a_crowd_of_strangers_whose_handshakes_count_does_not_silence_the_node() {
    let mut scheduler = EgressScheduler::new(rate(65_536), Timestamp::ZERO);
    let link = LinkId(1);
    scheduler.join(link);
    for handshake in 0..10_000 {
        scheduler.spent(Timestamp::from_millis(handshake / 10), 400);
    }
    scheduler.want(Timestamp::from_millis(1000), link, PerClass::from_fn(|class| class == Class::Control));
    let due = scheduler.next_timeout().unwrap_or(Timestamp::from_millis(1000));
    assert!(due <= Timestamp::from_millis(1300), "a heartbeat is due at {due:?}");
    assert_eq!(scheduler.poll_grant(Timestamp::from_millis(1300)).map(|grant| grant.class), Some(Class::Control));
}

#[test]
fn a_link_that_leaves_with_its_grant_takes_nothing_along() {
    let mut world = World::new(100_000, vec![source(&[Class::Gossip], 1), source(&[Class::Gossip], 1)], 13);
    for passer in 100..1000 {
        world.run(Duration::from_millis(10));
        let link = LinkId(passer);
        world.scheduler.join(link);
        world.scheduler.want(world.now, link, PerClass::from_fn(|_| true));
        let mut granted = false;
        while let Some(grant) = world.scheduler.poll_grant(world.now) {
            if grant.link == link { granted = true } else { world.write(grant) }
        }
        assert!(granted, "an urgent record goes at once");
        world.scheduler.leave(world.now, link);
        world.scheduler.leave(world.now, link);
    }
    world.run(Duration::from_secs(12));
    world.assert_limit(100_000, "nine hundred came and went");
    assert_eq!((world.scheduler.links.len(), world.scheduler.ahead), (2, None));
    assert_eq!(world.scheduler.report().waiting, PerClass([0, 0, 0, 2, 0]));
}

#[test]
fn a_grant_that_became_nothing_costs_nothing_and_strangers_are_ignored() {
    let mut scheduler = EgressScheduler::new(rate(10_000), Timestamp::ZERO);
    let (link, stranger) = (LinkId(1), LinkId(2));
    scheduler.join(link);
    for _ in 0..1000 {
        scheduler.want(Timestamp::ZERO, link, PerClass::from_fn(|class| class == Class::Bulk));
        let grant = scheduler.poll_grant(Timestamp::ZERO).expect("there is enough");
        scheduler.want(Timestamp::ZERO, link, PerClass::from_fn(|_| true));
        assert_eq!(scheduler.poll_grant(Timestamp::ZERO), None, "one grant at a time");
        scheduler.written(Timestamp::ZERO, grant.link, 0);
        scheduler.want(Timestamp::ZERO, stranger, PerClass::from_fn(|_| true));
    }
    assert_eq!(scheduler.report().written, PerClass::default());
    // What was not asked for counts all the same.
    scheduler.written(Timestamp::ZERO, stranger, 11_024);
    scheduler.want(Timestamp::ZERO, link, PerClass::from_fn(|class| class == Class::Bulk));
    assert_eq!(scheduler.poll_grant(Timestamp::ZERO), None);
    assert_eq!(scheduler.next_timeout(), Some(Timestamp::from_millis(1000)));
}
