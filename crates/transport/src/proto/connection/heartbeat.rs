//! Life: pings after silence, the round-trip time, the end of a dead connection.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{CloseReason, LinkStats, Now, Timestamp, UnixMillis};

use super::commands::{Answer, Beat, MAX_HEARTBEAT_DATA};

/// Messages of class `Control`, grants of credit aside, that a peer may send at once (our guess: a ping and a pong each
/// 30 s are due, and commands of later versions).
const BURST: u32 = 32;

/// And one more in each of these (our guess).
const REFILL: Duration = Duration::from_secs(1);

/// Round trips among which the shortest tells the time (RFC 5905, 10: the clock filter has eight stages).
const STAGES: usize = 8;

/// The furthest that a clock is said to be off. Whoever says more could as well say anything (our guess).
const FURTHEST: Duration = Duration::from_secs(24 * 3600);

/// The rate at which a peer may send messages of class `Control`, which has no credit. Grants are not counted: a peer can
/// return only what we spent.
#[derive(Debug)]
pub(super) struct ControlRate {
    tokens: u32,
    since: Timestamp,
}

impl ControlRate {
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { tokens: BURST, since: now }
    }

    pub(super) fn take(&mut self, now: Timestamp) -> Result<(), CloseReason> {
        let refills = now.since(self.since).as_nanos() / REFILL.as_nanos();
        let refills = u32::try_from(refills).unwrap_or(u32::MAX);
        self.since = if refills > BURST { now } else { self.since + REFILL * refills };
        self.tokens = self.tokens.saturating_add(refills).min(BURST);
        self.tokens = self.tokens.checked_sub(1).ok_or(CloseReason::CreditExceeded)?;
        Ok(())
    }
}

/// Watches over the life of the other side.
///
/// Only its silence counts: as long as it sends anything there is nothing to ask, and if we are the silent ones, it
/// asks us.
#[derive(Debug)]
pub(super) struct Heartbeat {
    interval: Duration,
    dead_after: Duration,
    /// When the last record arrived.
    heard: Timestamp,
    /// When the last ping became due.
    asked: Timestamp,
    /// The nonce of a ping that is still to be sent.
    ping: Option<u64>,
    /// The ping that waits for its pong, and when it was sent.
    sent: Option<(u64, Timestamp)>,
    /// The ping that is still to be answered; a newer one replaces it.
    pong: Option<u64>,
    measured: Measured,
    /// What every heartbeat carries.
    data: Bytes,
}

impl Heartbeat {
    /// The first ping is due at once, so that there is a round-trip time from the start.
    pub(super) fn new(now: Timestamp, nonce: u64, interval: Duration, dead_after: Duration, data: Bytes) -> Self {
        let (ping, asked, heard) = (Some(nonce), now, now);
        Self { interval, dead_after, heard, asked, ping, sent: None, pong: None, measured: Measured::default(), data }
    }

    /// Something arrived, whatever it is.
    pub(super) const fn hear(&mut self, now: Timestamp) {
        self.heard = now;
    }

    /// Whoever is not read is not silent by its own doing: its time begins anew if it would be over.
    pub(super) fn spare(&mut self, now: Timestamp) {
        if now >= self.heard + self.dead_after {
            self.heard = now;
        }
    }

    pub(super) fn set_data(&mut self, data: Bytes) {
        self.data = data;
    }

    pub(super) fn next_timeout(&self) -> Timestamp {
        self.next_ping().min(self.heard + self.dead_after)
    }

    fn next_ping(&self) -> Timestamp {
        self.heard.max(self.asked) + self.interval
    }

    /// Lets time pass: `Err` if the other side is dead. `nonce` is drawn for the ping that may become due.
    pub(super) fn handle_timeout(&mut self, now: Timestamp, nonce: impl FnOnce() -> u64) -> Result<(), CloseReason> {
        if now >= self.heard + self.dead_after {
            return Err(CloseReason::HeartbeatTimeout);
        }
        if now >= self.next_ping() {
            self.asked = now;
            self.ping = Some(nonce());
        }
        Ok(())
    }

    /// Whether a ping or a pong is to be sent.
    pub(super) const fn is_due(&self) -> bool {
        self.ping.is_some() || self.pong.is_some()
    }

    /// The ping to send at this very moment.
    pub(super) fn take_ping(&mut self, now: Timestamp) -> Option<Beat> {
        let nonce = self.ping.take()?;
        self.sent = Some((nonce, now));
        Some(Beat { nonce, data: self.data.to_vec() })
    }

    /// The pong to send at this very moment.
    pub(super) fn take_pong(&mut self, wall: UnixMillis) -> Option<Answer> {
        let nonce = self.pong.take()?;
        Some(Answer { nonce, wall, data: self.data.to_vec() })
    }

    /// A ping arrived; what it carried.
    pub(super) fn handle_ping(&mut self, beat: Beat) -> Result<Bytes, CloseReason> {
        let data = Self::check(beat.data)?;
        self.pong = Some(beat.nonce);
        Ok(data)
    }

    /// A pong arrived; what it carried, and the new estimates if it answers the last ping.
    pub(super) fn handle_pong(&mut self, now: Now, answer: Answer) -> Result<(Bytes, Option<LinkStats>), CloseReason> {
        let data = Self::check(answer.data)?;
        let sent = self.sent.take_if(|(nonce, _)| *nonce == answer.nonce);
        Ok((data, sent.map(|(_, at)| self.measured.add(now, now.mono.since(at), answer.wall))))
    }

    fn check(data: Vec<u8>) -> Result<Bytes, CloseReason> {
        if data.len() > MAX_HEARTBEAT_DATA { Err(CloseReason::MalformedMessage) } else { Ok(data.into()) }
    }
}

/// What the round trips so far have shown.
#[derive(Debug, Default)]
struct Measured {
    stats: Option<LinkStats>,
    /// The last round trips and what each says of the other side's clock, the oldest at `next`.
    stages: [Option<(Duration, i64)>; STAGES],
    next: usize,
}

impl Measured {
    /// A round trip of this length ends now, in whose middle, as far as anybody can know, the other side's clock said `wall`.
    fn add(&mut self, now: Now, sample: Duration, wall: UnixMillis) -> LinkStats {
        let half = i128::try_from(sample.as_millis() / 2).unwrap_or(i128::MAX);
        let ahead = i128::from(wall.0) - (i128::from(now.wall.0) - half);
        let furthest = i128::try_from(FURTHEST.as_millis()).expect("a day");
        let ahead = i64::try_from(ahead.clamp(-furthest, furthest)).expect("a day at most");
        self.stages[self.next] = Some((sample, ahead));
        self.next = (self.next + 1) % STAGES;
        // The error is half a round trip at most, so the shortest one knows best.
        let best = self.stages.iter().flatten().min_by_key(|(rtt, _)| *rtt);
        let clock_offset_ms = best.map_or(ahead, |(_, ahead)| *ahead);
        let stats = match self.stats {
            None => LinkStats::first(sample, clock_offset_ms),
            // RFC 6298, 2.3: alpha = 1/8, beta = 1/4, the deviation from the estimate as it was.
            Some(LinkStats { rtt, minimum, jitter, .. }) => LinkStats {
                rtt: rtt - rtt / 8 + sample / 8,
                minimum: minimum.min(sample),
                jitter: jitter - jitter / 4 + rtt.abs_diff(sample) / 4,
                clock_offset_ms,
            },
        };
        self.stats = Some(stats);
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn heartbeat() -> Heartbeat {
        Heartbeat::new(Timestamp::ZERO, 1, 30 * SECOND, 90 * SECOND, Bytes::from_static(b"head"))
    }

    #[test]
    fn whoever_is_not_read_is_pinged_and_not_taken_for_dead() {
        let mut heartbeat = heartbeat();
        let mut pings = 0;
        for second in 1..=200 {
            let now = at(second * 1000).mono;
            heartbeat.spare(now);
            heartbeat.handle_timeout(now, || 7).expect("spared");
            pings += usize::from(heartbeat.take_ping(now).is_some());
        }
        assert!(pings >= 5, "{pings} pings in 200 s");
        assert_eq!(heartbeat.handle_timeout(at(290_000).mono, || 7), Err(CloseReason::HeartbeatTimeout));
    }

    fn at(millis: u64) -> Now {
        Now { mono: Timestamp::from_millis(millis), wall: UnixMillis(1_000_000_000 + millis) }
    }

    fn pong(nonce: u64, wall: u64) -> Answer {
        Answer { nonce, wall: UnixMillis(wall), data: Vec::new() }
    }

    /// Sends a ping at `sent`, which the other side answers `there` later by a clock that says `wall`, and hears `back` later.
    fn round_trip(heart: &mut Heartbeat, sent: u64, rtt: u64, wall: u64) -> LinkStats {
        heart.hear(Timestamp::from_millis(sent - 30_000));
        heart.handle_timeout(Timestamp::from_millis(sent), || sent).expect("alive");
        let nonce = heart.take_ping(Timestamp::from_millis(sent)).expect("30 s of silence").nonce;
        heart.hear(Timestamp::from_millis(sent + rtt));
        let (_, stats) = heart.handle_pong(at(sent + rtt), pong(nonce, wall)).expect("well-formed");
        stats.expect("it answers the last ping")
    }

    #[test]
    fn the_estimate_follows_rfc_6298_and_only_answers_to_the_last_ping_count() {
        let mut heart = heartbeat();
        let millis = |millis| Duration::from_millis(millis);
        assert_eq!(heart.take_ping(at(0).mono), Some(Beat { nonce: 1, data: b"head".to_vec() }));
        assert_eq!(heart.handle_pong(at(50), pong(2, 0)), Ok((Bytes::new(), None)), "nobody asked that");
        let first = LinkStats { rtt: millis(80), minimum: millis(80), jitter: millis(40), clock_offset_ms: 0 };
        assert_eq!(heart.handle_pong(at(80), pong(1, at(40).wall.0)), Ok((Bytes::new(), Some(first))));
        assert_eq!(heart.handle_pong(at(81), pong(1, 0)), Ok((Bytes::new(), None)), "answered already");
        let second = round_trip(&mut heart, 40_000, 160, at(40_080).wall.0);
        assert_eq!((second.rtt, second.minimum, second.jitter), (millis(90), millis(80), millis(50)));
    }

    #[test]
    fn the_shortest_of_the_last_round_trips_tells_how_far_the_clock_is_ahead() {
        let mut heart = heartbeat();
        // Five seconds ahead; the first answer takes 900 ms, all of it on the way back.
        let wall = |millis| at(millis).wall.0 + 5000;
        assert_eq!(round_trip(&mut heart, 100_000, 900, wall(100_000)).clock_offset_ms, 5000 - 450);
        assert_eq!(round_trip(&mut heart, 200_000, 20, wall(200_010)).clock_offset_ms, 5000);
        for later in 3..3 + STAGES as u64 - 1 {
            let offset = round_trip(&mut heart, later * 100_000, 400, wall(later * 100_000)).clock_offset_ms;
            assert_eq!(offset, 5000, "a longer one knows less");
        }
        // The clock over there was set right meanwhile: an old sample does not count for ever.
        assert_eq!(round_trip(&mut heart, 2_000_000, 40, at(2_000_020).wall.0).clock_offset_ms, 0);
    }

    #[test]
    fn a_liar_is_a_day_off_at_most_whatever_it_says() {
        let day = FURTHEST.as_millis() as i64;
        for (wall, ahead) in [(0, -day), (u64::MAX, day), (at(100_010).wall.0 - 70, -70)] {
            assert_eq!(round_trip(&mut heartbeat(), 100_000, 20, wall).clock_offset_ms, ahead);
        }
        // Nor does a clock of ours that begins at zero matter.
        let mut measured = Measured::default();
        assert_eq!(measured.add(Now::default(), 90 * SECOND, UnixMillis(0)).clock_offset_ms, 45_000);
    }

    #[test]
    fn silence_is_asked_every_thirty_seconds_and_is_death_after_ninety() {
        let mut heart = heartbeat();
        heart.take_ping(Timestamp::ZERO).expect("at once");
        let mut asked = Vec::new();
        let death = loop {
            let at = heart.next_timeout();
            if heart.handle_timeout(at, || 0).is_err() {
                break at;
            }
            asked.extend(heart.take_ping(at).map(|_| at.0 / 1_000_000_000));
        };
        assert_eq!((asked, death), (vec![30, 60], Timestamp::from_millis(90_000)));
    }

    #[test]
    fn control_messages_have_a_burst_and_a_rate() {
        let mut rate = ControlRate::new(Timestamp::ZERO);
        (0..BURST).for_each(|_| rate.take(Timestamp::ZERO).expect("within the burst"));
        assert_eq!(rate.take(Timestamp::from_millis(999)), Err(CloseReason::CreditExceeded));
        rate.take(Timestamp::from_millis(1000)).expect("one a second");
        assert_eq!(rate.take(Timestamp::from_millis(1999)), Err(CloseReason::CreditExceeded));
        (0..BURST).for_each(|_| rate.take(Timestamp::from_millis(900_000)).expect("never more than a burst"));
        assert_eq!(rate.take(Timestamp::from_millis(900_000)), Err(CloseReason::CreditExceeded));
    }
}
