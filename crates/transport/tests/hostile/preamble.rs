//! The first bytes of a stream.

use peerage_core::{CloseReason, NetworkId, Seed};
use peerage_wire::{Magic, Preamble, RecordKind, limits::RECORD_HEADER, put_record};
use rand_core::Rng;

use crate::{
    hand::{PREAMBLE_VALUE, Raw, preamble, record, refusal, victim_and_friend},
    stage::{Stage, by_them},
    victim::{Plan, Saw, Victim},
};

/// Sends each of these on a stream of its own: the victim ends it for the reason, and says so or nothing.
async fn each(cases: Vec<(&str, Vec<u8>, CloseReason, bool)>) {
    let mut stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
    assert_eq!(victim.rest(), [Saw::Up(friend.id)]);
    for (story, bytes, reason, answered) in cases {
        stage.again();
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&bytes).await;
        let expected = if answered { refusal(reason) } else { Vec::new() };
        assert_eq!(raw.told().await, expected, "{story}");
        stage.ended(reason, 1).await;
        // Whoever speaks properly is served all the same, and is the only one that ever was a peer.
        friend.is_served().await;
        assert_eq!(victim.rest(), [], "{story}");
    }
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_magic_gets_no_answer() {
    let with = |magic: Magic| {
        let mut bytes = Vec::new();
        put_record(&mut bytes, magic, RecordKind::Preamble, |out| out.extend(PREAMBLE_VALUE.encode()));
        bytes
    };
    each(vec![
        ("the main network", with(Magic::MAIN), CloseReason::WrongMagic, false),
        ("the test network", with(Magic::TEST), CloseReason::WrongMagic, false),
        ("an operator's own", with(Magic(0xf700_0001)), CloseReason::WrongMagic, false),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_network_is_told_so() {
    let network = NetworkId::from_bytes([2; 32]);
    let bytes = preamble(&Preamble { network, ..PREAMBLE_VALUE });
    each(vec![("another genesis", bytes, CloseReason::WrongNetwork, true)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_or_suite_that_is_not_shared_is_told_so() {
    let versions = |version_min, version_max| preamble(&Preamble { version_min, version_max, ..PREAMBLE_VALUE });
    each(vec![
        ("versions too high", versions(2, 9), CloseReason::WrongVersion, true),
        ("versions too low", versions(0, 0), CloseReason::WrongVersion, true),
        ("suite", preamble(&Preamble { suite: 9, ..PREAMBLE_VALUE }), CloseReason::WrongSuite, true),
        ("pattern", preamble(&Preamble { pattern: 3, ..PREAMBLE_VALUE }), CloseReason::WrongSuite, true),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_never_answered_but_a_peer_of_the_network_is() {
    use CloseReason::{BadHandshake, RecordTooLong, UnexpectedRecord, WrongMagic, WrongVersion};
    let good = preamble(&PREAMBLE_VALUE);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let then = |bytes: Vec<u8>| [good.clone(), bytes].concat();
    let mut long = record(RecordKind::Handshake, &[]);
    long[8..RECORD_HEADER].copy_from_slice(&[0xff; 4]);
    let range = preamble(&Preamble { version_min: 2, version_max: 1, ..PREAMBLE_VALUE });
    each(vec![
        ("a web browser", b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_vec(), WrongMagic, false),
        ("something of TLS", vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x02, 0x00, 0x01], WrongMagic, false),
        ("the beginning of TLS in another place", vec![0x16, 0x17, 0x03, 0x01], WrongMagic, false),
        ("one wrong byte", vec![0xf6], WrongMagic, false),
        ("another record version", changed(4, 2), WrongVersion, false),
        ("flags", changed(5, 1), UnexpectedRecord, false),
        ("an unknown kind", changed(7, 9), UnexpectedRecord, false),
        ("no preamble", record(RecordKind::Handshake, &[0; 32]), UnexpectedRecord, false),
        ("data", record(RecordKind::Data, &[0; 32]), UnexpectedRecord, false),
        ("a short preamble", record(RecordKind::Preamble, &[1; 36]), BadHandshake, false),
        ("no range of versions", range, BadHandshake, false),
        ("four gigabytes before the preamble", long.clone(), RecordTooLong, false),
        ("four gigabytes after it", then(long), RecordTooLong, true),
        ("two preambles", then(good.clone()), UnexpectedRecord, true),
        ("data in clear", then(record(RecordKind::Data, &[1; 40])), UnexpectedRecord, true),
        ("a short message 1", then(record(RecordKind::Handshake, &[4; 31])), BadHandshake, true),
        ("a message 1 with a payload", then(record(RecordKind::Handshake, &[4; 60])), BadHandshake, true),
        ("a key that yields no secret", then(record(RecordKind::Handshake, &[0; 32])), BadHandshake, true),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_begins_with_tls_is_told_that_this_is_something_else() {
    let hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    each(vec![
        ("a ClientHello", hello.clone(), CloseReason::OtherSecurity, true),
        ("no more of it than shows what it is", hello[..6].to_vec(), CloseReason::OtherSecurity, true),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_of_any_length_gets_no_answer() {
    const TRIES: u64 = 100;
    let stage = Stage::set().await;
    let victim = Victim::start().await;
    for seed in 0..TRIES {
        let mut dice = Seed::from_u64(seed).stream("noise");
        let mut bytes = vec![0; 1 + dice.next_u32() as usize % 2000];
        dice.fill_bytes(&mut bytes);
        bytes[0] &= 0x7f; // no magic begins like this
        let mut raw = Raw::connect(victim.addr).await;
        raw.send(&bytes).await;
        assert_eq!(raw.told().await, [0; 0], "seed {seed}");
    }
    stage.ended(CloseReason::WrongMagic, TRIES).await;
    victim.ends_clean([]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_before_keys_is_taken_for_what_it_is_and_never_answered() {
    let stage = Stage::set().await;
    let victim = Victim::start().await;
    let mut raw = Raw::connect(victim.addr).await;
    raw.send(&refusal(CloseReason::Banned)).await;
    assert_eq!(raw.told().await, [0; 0]);
    let mut raw = Raw::connect(victim.addr).await;
    raw.send(&[preamble(&PREAMBLE_VALUE), record(RecordKind::Refuse, &[250])].concat()).await;
    assert_eq!(raw.told().await, [0; 0]);
    stage.counts([by_them(CloseReason::Banned, 1), by_them(CloseReason::Unknown, 1)]).await;
    victim.ends_clean([]).await;
}
