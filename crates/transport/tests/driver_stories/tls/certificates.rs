//! Certificates that do not count: both sides hear why, whichever of them dialled.

use peerage_core::{CloseReason, Closed, NodeId, UnixMillis};
use peerage_transport::driver::tls::{TlsChannel, TlsError, TlsFiles};
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
use rustls::AlertDescription;
use tokio::io::AsyncReadExt;

use super::stage::{channel, end, ends, now, streams};
use crate::{
    authority::{Authority, Leaf},
    harness::{Plan, anywhere, in_time},
    stranger::{alert, connect, impostor, stranger},
};

/// Both ways: what `ours` ends with, and what the other side is told.
async fn refused(theirs: &TlsChannel, ours: &TlsChannel, reason: CloseReason) {
    assert_eq!(ends(theirs, ours).await, [Closed::by_them(reason), Closed::by_us(reason)], "they dial");
    assert_eq!(ends(ours, theirs).await, [Closed::by_us(reason), Closed::by_them(reason)], "we dial");
}

/// Files that trust two authorities.
fn trusting_both(files: TlsFiles, one: &Authority, other: &Authority) -> TlsFiles {
    let both = one.dir().join("both.pem");
    let text = [one, other].map(|authority| std::fs::read_to_string(authority.root()).expect("a file")).concat();
    std::fs::write(&both, text).expect("a file");
    TlsFiles { ca: both, ..files }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_of_another_consortium_is_refused_even_if_that_has_the_same_name() {
    for name in ["of somebody else", "of ours"] {
        let (ours, theirs) = (Authority::new("of ours"), Authority::new(name));
        let [a, b] = [Plan::new(1), Plan::new(2)];
        let honest = channel(&a, ours.member(a.id()));
        let foreign = channel(&b, trusting_both(theirs.member(b.id()), &theirs, &ours));
        refused(&foreign, &honest, CloseReason::UnknownAuthority).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_refused() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let revoked = authority.issue(&Leaf::of(b.id()));
    let theirs = channel(&b, authority.files(&revoked));
    // The second list should have been replaced long ago: what it revokes stays revoked.
    for until in [2900, 2021] {
        let crl = Some(authority.revoke(&[revoked.serial], until));
        let honest = channel(&a, TlsFiles { crl, ..authority.member(a.id()) });
        refused(&theirs, &honest, CloseReason::CertificateRevoked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_revocations_that_its_authority_did_not_sign_lets_nobody_in() {
    let (authority, forger) = (Authority::new("of ours"), Authority::new("of ours"));
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let crl = Some(forger.revoke(&[], 2900));
    let honest = TlsChannel::new(a.security(anywhere()), TlsFiles { crl, ..authority.member(a.id()) }, now());
    assert!(honest.is_err(), "not even its own certificate counts, so it does not start");
    let channel = channel(&b, authority.member(b.id()));
    drop(channel);
}

#[test]
fn two_lists_of_one_authority_are_refused_for_only_one_of_them_would_be_looked_at() {
    let (authority, other) = (Authority::new("of ours"), Authority::new("of others"));
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let revoked = authority.issue(&Leaf::of(b.id()));
    let (older, newer) = (authority.revoke(&[], 2900), authority.revoke(&[revoked.serial], 2900));
    let start = |lists: [&std::path::Path; 2]| {
        let file = authority.dir().join("lists.pem");
        let text = lists.map(|list| std::fs::read_to_string(list).expect("a file")).concat();
        std::fs::write(&file, text).expect("a file");
        TlsChannel::new(a.security(anywhere()), TlsFiles { crl: Some(file), ..authority.member(a.id()) }, now())
    };
    assert!(matches!(start([&older, &newer]), Err(TlsError::TwoLists(_))));
    assert!(start([&newer, &other.revoke(&[], 2900)]).is_ok(), "one list of each authority");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_out_of_its_time_is_refused() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let honest = channel(&a, authority.member(a.id()));
    for years in [(2001, 2011), (2800, 2900)] {
        let leaf = Leaf { years, ..Leaf::of(b.id()) };
        // Whoever has it lives in another time, else it would not even start.
        let mut then = now();
        then.wall = UnixMillis((years.0 as u64 - 1969) * 365 * 86_400_000);
        let files = authority.files(&authority.issue(&leaf));
        let theirs = TlsChannel::new(b.security(anywhere()), files, then).expect("valid in its time");
        let reason = CloseReason::CertificateExpired;
        let [dialled, accepted] = streams().await;
        let both = tokio::join!(end(&theirs, dialled, true, then), end(&honest, accepted, false, now()));
        assert_eq!(both, (Closed::by_them(reason), Closed::by_us(reason)), "they dial, {years:?}");
        let [dialled, accepted] = streams().await;
        let both = tokio::join!(end(&honest, dialled, true, now()), end(&theirs, accepted, false, then));
        assert_eq!(both, (Closed::by_us(reason), Closed::by_them(reason)), "we dial, {years:?}");
    }
}

/// Certificates by our authority with which no node starts, so that others must show them.
fn flawed(id: NodeId) -> Vec<(&'static str, Leaf)> {
    let good = Leaf::of(id);
    let name = good.names[0].clone();
    let named = |names: &[String]| Leaf { names: names.to_vec(), ..Leaf::of(id) };
    vec![
        ("for servers alone", Leaf { uses: vec![ServerAuth], ..good.clone() }),
        ("for clients alone", Leaf { uses: vec![ClientAuth], ..good.clone() }),
        ("for nothing that it says", Leaf { uses: vec![], ..good }),
        ("without a name", named(&[])),
        ("with the name of a site", named(&["https://node.example".into()])),
        ("with two names", named(&[name.clone(), format!("peerage:{}", NodeId::from_bytes([3; 32]))])),
        ("with a name in another form", named(&[name.to_uppercase().replace("PEERAGE", "peerage")])),
        ("with a name that is too short", named(&[name[..name.len() - 1].into()])),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_must_name_one_node_and_be_for_both_roles() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let honest = channel(&a, authority.member(a.id()));
    for (what, leaf) in flawed(b.id()) {
        let issued = authority.issue(&leaf);
        assert!(
            TlsChannel::new(b.security(anywhere()), authority.files(&issued), now()).is_err(),
            "nobody starts with a certificate {what}"
        );

        let [(stream, _), accepted] = streams().await;
        let dials = async {
            let mut stream = connect(stranger(Some(issued.der()), &["peerage/1"]), stream).await.expect("not yet");
            alert(&in_time("an alert", stream.read(&mut [0; 1])).await.expect_err(what))
        };
        let (told, closed) = tokio::join!(dials, end(&honest, accepted, false, now()));
        assert_eq!(
            (told, closed),
            (AlertDescription::BadCertificate, Closed::by_us(CloseReason::BadCertificate)),
            "{what}"
        );

        let [dialled, (stream, _)] = streams().await;
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(impostor(issued.der())));
        let accepts = async { alert(&in_time("a handshake", acceptor.accept(stream)).await.err().expect(what)) };
        let (closed, told) = tokio::join!(end(&honest, dialled, true, now()), accepts);
        assert_eq!(
            (told, closed),
            (AlertDescription::BadCertificate, Closed::by_us(CloseReason::BadCertificate)),
            "{what}"
        );
    }
}

#[test]
fn a_node_shows_four_certificates_at_most() {
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let start = |between: usize| {
        let files = authority.member(a.id());
        let text = std::fs::read_to_string(&files.certificate).expect("a file");
        let root = std::fs::read_to_string(authority.root()).expect("a file");
        std::fs::write(&files.certificate, text + &root.repeat(between)).expect("a file");
        TlsChannel::new(a.security(anywhere()), files, now())
    };
    assert!(start(3).is_ok(), "not needed, and looked past");
    let refused = start(4).err();
    assert!(
        matches!(refused, Some(TlsError::Refused { reason: CloseReason::BadCertificate, .. })),
        "others would say the same: {refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_shows_no_certificate_learns_only_when_it_reads_that_it_is_not_in() {
    let authority = Authority::new("of ours");
    let a = Plan::new(1);
    let honest = channel(&a, authority.member(a.id()));
    let [(stream, _), accepted] = streams().await;
    let dials = async {
        let mut stream = connect(stranger(None, &["peerage/1"]), stream).await.expect("for TLS 1.3 it is in");
        alert(&in_time("an alert", stream.read(&mut [0; 1])).await.expect_err("it is not"))
    };
    let (told, closed) = tokio::join!(dials, end(&honest, accepted, false, now()));
    assert_eq!((told, closed), (AlertDescription::CertificateRequired, Closed::by_us(CloseReason::NoCertificate)));
}

#[test]
fn a_node_does_not_start_with_certificates_that_would_not_let_it_in() {
    let (authority, other) = (Authority::new("of ours"), Authority::new("of others"));
    let a = Plan::new(1);
    let start = |files: TlsFiles| {
        let error = TlsChannel::new(a.security(anywhere()), files, now()).err().expect("it does not start");
        error.to_string()
    };
    let good = || authority.member(a.id());
    let issued = authority.issue(&Leaf::of(a.id()));
    let of_another = authority.member(Plan::new(2).id());
    let revoked = Some(authority.revoke(&[issued.serial], 2900));
    let shared = good();
    std::fs::set_permissions(&shared.key, std::os::unix::fs::PermissionsExt::from_mode(0o640)).expect("ours");
    let empty = authority.dir().join("empty.pem");
    std::fs::write(&empty, "").expect("a file");
    let cases = [
        (of_another, "is that of node"),
        (TlsFiles { ca: other.root(), ..good() }, "unknown_authority"),
        (TlsFiles { crl: revoked, ..authority.files(&issued) }, "certificate_revoked"),
        (authority.files(&authority.issue(&Leaf { years: (2001, 2011), ..Leaf::of(a.id()) })), "certificate_expired"),
        (TlsFiles { key: good().key, ..good() }, "is not that of the certificate"),
        (shared, "chmod 600"),
        (TlsFiles { ca: empty.clone(), ..good() }, "holds no certificate"),
        (TlsFiles { crl: Some(empty), ..good() }, "holds no list of revocations"),
        (TlsFiles { certificate: authority.dir().join("nothing"), ..good() }, "cannot read"),
    ];
    for (files, says) in cases {
        let text = start(files);
        assert!(text.contains(says), "{text:?} does not say {says:?}");
    }
}
