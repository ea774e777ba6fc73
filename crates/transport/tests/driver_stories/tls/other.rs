//! One side speaks Noise and the other TLS, or neither.

use peerage_core::{CloseReason, Closed};
use peerage_transport::driver::NoiseChannel;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{channel, end, ends, now, streams};
use crate::{
    authority::Authority,
    harness::{Plan, anywhere, in_time},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_and_tls_tell_each_other_that_they_differ() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let tls = channel(&a, authority.member(a.id()));
    let noise = NoiseChannel::new(b.security(anywhere()));
    let reason = CloseReason::OtherSecurity;
    let expected = [Closed::by_them(reason), Closed::by_us(reason)];
    assert_eq!(ends(&tls, &noise).await, expected, "TLS dials");
    assert_eq!(ends(&noise, &tls).await, expected, "Noise dials");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_of_tls_answers_no_garbage() {
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let tls = channel(&a, authority.member(a.id()));
    let cases: [(&[u8], CloseReason); 4] = [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", CloseReason::WrongMagic),
        // Ours up to the last letter, which names another kind of network.
        (b"\xf7pgM\x01\x00\x00\x01\x00\x00\x00\x25", CloseReason::WrongMagic),
        (b"\xf7pgD\x01\x00\x00\x04\x00\x00\x00\x01\x00", CloseReason::UnexpectedRecord),
        (b"\xf7pgD\x02", CloseReason::StreamEnded),
    ];
    for (bytes, reason) in cases {
        let [(mut stream, _), accepted] = streams().await;
        let dials = async move {
            stream.write_all(bytes).await.expect("a stream");
            stream.shutdown().await.expect("a stream");
            let mut said = Vec::new();
            in_time("the end", stream.read_to_end(&mut said)).await.expect("a clean end");
            said
        };
        let (said, closed) = tokio::join!(dials, end(&tls, accepted, false, now()));
        assert_eq!((said.as_slice(), closed.reason), (&[] as &[u8], reason), "{bytes:?}");
    }
}

/// A ClientHello of TLS 1.2 (RFC 5246, 7.4.1.2) with what it needs.
fn client_hello_of_tls_1_2() -> Vec<u8> {
    let mut body = vec![0x03, 0x03];
    body.extend([7; 32]); // random
    body.extend([0]); // no session
    body.extend([0, 2, 0xc0, 0x2b]); // ECDHE-ECDSA, AES-128-GCM
    body.extend([1, 0]); // no compression
    let extensions = [[0, 10, 0, 4, 0, 2, 0, 29], [0, 13, 0, 4, 0, 2, 8, 7]].concat(); // X25519, Ed25519
    body.extend([0, extensions.len() as u8]);
    body.extend(extensions);
    let mut handshake = vec![1, 0, 0, body.len() as u8];
    handshake.extend(body);
    let mut record = vec![0x16, 0x03, 0x01, 0, handshake.len() as u8];
    record.extend(handshake);
    record
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_tls_is_refused() {
    const PROTOCOL_VERSION: u8 = 70; // RFC 8446, 6
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let tls = channel(&a, authority.member(a.id()));
    let [(mut stream, _), accepted] = streams().await;
    let dials = async move {
        stream.write_all(&client_hello_of_tls_1_2()).await.expect("a stream");
        let mut said = Vec::new();
        in_time("an alert", stream.read_to_end(&mut said)).await.expect("a clean end");
        said
    };
    let (said, closed) = tokio::join!(dials, end(&tls, accepted, false, now()));
    assert_eq!((said.first(), said.last()), (Some(&0x15), Some(&PROTOCOL_VERSION)), "a fatal alert");
    assert_eq!(closed, Closed::by_us(CloseReason::WrongSuite));
}
