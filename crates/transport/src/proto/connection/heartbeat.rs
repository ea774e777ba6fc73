//! Life: pings after silence, the round-trip time, the end of a dead connection.

use core::time::Duration;

use bytes::Bytes;
use peerage_core::{CloseReason, Timestamp};

use super::commands::{Beat, MAX_HEARTBEAT_DATA};

/// Messages of class `Control`, grants of credit aside, that a peer may send at once (our guess: a ping and a pong each
/// 30 s are due, and commands of later versions).
const BURST: u32 = 32;

/// And one more in each of these (our guess).
const REFILL: Duration = Duration::from_secs(1);

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
    /// The smoothed round-trip time.
    srtt: Option<Duration>,
    /// What every heartbeat carries.
    data: Bytes,
}

impl Heartbeat {
    /// The first ping is due at once, so that there is a round-trip time from the start.
    pub(super) fn new(now: Timestamp, nonce: u64, interval: Duration, dead_after: Duration, data: Bytes) -> Self {
        let (ping, asked, heard) = (Some(nonce), now, now);
        Self { interval, dead_after, heard, asked, ping, sent: None, pong: None, srtt: None, data }
    }

    /// Something arrived, whatever it is.
    pub(super) const fn hear(&mut self, now: Timestamp) {
        self.heard = now;
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
        Some(self.beat(nonce))
    }

    /// The pong to send.
    pub(super) fn take_pong(&mut self) -> Option<Beat> {
        let nonce = self.pong.take()?;
        Some(self.beat(nonce))
    }

    fn beat(&self, nonce: u64) -> Beat {
        Beat { nonce, data: self.data.to_vec() }
    }

    /// A ping arrived; what it carried.
    pub(super) fn handle_ping(&mut self, beat: Beat) -> Result<Bytes, CloseReason> {
        let data = Self::check(beat.data)?;
        self.pong = Some(beat.nonce);
        Ok(data)
    }

    /// A pong arrived; what it carried, and the new estimate if it answers the last ping.
    pub(super) fn handle_pong(&mut self, now: Timestamp, beat: Beat) -> Result<(Bytes, Option<Duration>), CloseReason> {
        let data = Self::check(beat.data)?;
        let Some((_, at)) = self.sent.take_if(|(nonce, _)| *nonce == beat.nonce) else { return Ok((data, None)) };
        let sample = now.since(at);
        // RFC 6298, 2.2 and 2.3: the first sample as it is, then alpha = 1/8.
        let srtt = self.srtt.map_or(sample, |srtt| srtt - srtt / 8 + sample / 8);
        self.srtt = Some(srtt);
        Ok((data, self.srtt))
    }

    fn check(data: Vec<u8>) -> Result<Bytes, CloseReason> {
        if data.len() > MAX_HEARTBEAT_DATA { Err(CloseReason::MalformedMessage) } else { Ok(data.into()) }
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
    fn the_estimate_follows_rfc_6298_and_only_answers_to_the_last_ping_count() {
        let mut heart = heartbeat();
        let at = |millis| Timestamp::from_millis(millis);
        assert_eq!(heart.take_ping(at(0)), Some(Beat { nonce: 1, data: b"head".to_vec() }));
        let pong = |nonce| Beat { nonce, data: Vec::new() };
        assert_eq!(heart.handle_pong(at(50), pong(2)), Ok((Bytes::new(), None)), "nobody asked that");
        assert_eq!(heart.handle_pong(at(80), pong(1)), Ok((Bytes::new(), Some(Duration::from_millis(80)))));
        assert_eq!(heart.handle_pong(at(81), pong(1)), Ok((Bytes::new(), None)), "answered already");
        heart.handle_timeout(at(30_000), || 7).expect("alive");
        heart.take_ping(at(30_000)).expect("30 s of silence");
        assert_eq!(heart.handle_pong(at(30_160), pong(7)), Ok((Bytes::new(), Some(Duration::from_millis(90)))));
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
