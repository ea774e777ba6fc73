//! Certificates that change while connections stand.

use core::time::Duration;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use peerage_core::{CloseReason, Closed, UnixMillis};
use peerage_transport::driver::{
    Clock,
    tls::{TlsChannel, TlsFiles},
};

use super::stage::{Link, channel, ends, meet, now};
use crate::{
    authority::{Authority, Leaf},
    harness::Plan,
};

/// Puts the content of one file in the place of another's, at once, as an operator should.
fn replace(file: &Path, by: &Path) {
    let beside = file.with_extension("new");
    fs::copy(by, &beside).expect("a copy");
    fs::rename(&beside, file).expect("the same directory");
}

async fn both_end(a: &mut Link, b: &mut Link) -> [Closed; 2] {
    let (a, b) = tokio::join!(a.ended(), b.ended());
    [a, b]
}

/// A connection from a member that watches its files to one whose certificate may end, and how to end it.
async fn ended_by(
    watch: impl FnOnce(&Authority, &TlsFiles, u64) -> TlsFiles,
    act: impl FnOnce(&TlsChannel, &Authority, u64, &TlsFiles) -> usize,
) -> [Closed; 2] {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let of_b = authority.issue(&Leaf { years: (2000, 2500), ..Leaf::of(b.id()) });
    let files = watch(&authority, &authority.member(a.id()), of_b.serial);
    let watching = channel(&a, files.clone());
    let other = channel(&b, authority.files(&of_b));
    let [(mut at_a, _), (mut at_b, _)] = meet(&watching, &other).await;
    assert_eq!(watching.judge(now()), 0, "all is well");
    assert_eq!(act(&watching, &authority, of_b.serial, &files), 1, "one connection ends");
    both_end(&mut at_a, &mut at_b).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_ends_the_connection_that_stands_and_says_so() {
    let watch = |authority: &Authority, files: &TlsFiles, _| TlsFiles {
        crl: Some(authority.revoke(&[], 2900)),
        ..files.clone()
    };
    let ends = ended_by(watch, |channel, authority, serial, files| {
        replace(files.crl.as_ref().expect("a list"), &authority.revoke(&[serial], 2900));
        channel.reload(now()).expect("good files")
    });
    let reason = CloseReason::CertificateRevoked;
    assert_eq!(ends.await, [Closed::by_us(reason), Closed::by_them(reason)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_told_so_and_nothing_else_even_by_a_connection_that_does_not_read() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let of_b = authority.issue(&Leaf::of(b.id()));
    let files = TlsFiles { crl: Some(authority.revoke(&[], 2900)), ..authority.member(a.id()) };
    let watching = channel(&a, files.clone());
    let other = channel(&b, authority.files(&of_b));
    let [(mut at_a, _), (mut at_b, _)] = meet(&watching, &other).await;
    assert_eq!(at_a.without_reading().await, None, "all is well");
    replace(files.crl.as_ref().expect("a list"), &authority.revoke(&[of_b.serial], 2900));
    assert_eq!(watching.reload(now()).expect("good files"), 1);
    let reason = CloseReason::CertificateRevoked;
    assert_eq!(at_a.without_reading().await, Some(Closed::by_us(reason)));
    let (_, told) = tokio::join!(at_a.goodbye(), at_b.ended());
    assert_eq!(told, Closed::by_them(reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_is_dropped_takes_its_members_with_it() {
    let newer = Authority::new("of ours, renewed");
    let watch = |authority: &Authority, files: &TlsFiles, _| {
        let ca = authority.dir().join("changing.pem");
        fs::copy(authority.root(), &ca).expect("a copy");
        TlsFiles { ca, ..files.clone() }
    };
    let ends = ended_by(watch, |channel, _, _, files| {
        let own = newer.member(Plan::new(1).id());
        replace(&files.certificate, &own.certificate);
        replace(&files.key, &own.key);
        replace(&files.ca, &newer.root());
        channel.reload(now()).expect("good files")
    });
    let reason = CloseReason::UnknownAuthority;
    assert_eq!(ends.await, [Closed::by_us(reason), Closed::by_them(reason)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_expires_ends_its_connection() {
    let ends = ended_by(
        |_, files, _| files.clone(),
        |channel, _, _, _| {
            let mut later = now();
            later.wall = UnixMillis(later.wall.0 + 500 * 365 * 86_400_000);
            channel.judge(later)
        },
    );
    let reason = CloseReason::CertificateExpired;
    assert_eq!(ends.await, [Closed::by_us(reason), Closed::by_them(reason)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_of_no_use_change_nothing() {
    let authority = Authority::new("of ours");
    let [a, b, c] = [Plan::new(1), Plan::new(2), Plan::new(3)];
    let files = authority.member(a.id());
    let watching = channel(&a, files.clone());
    let other = channel(&b, authority.member(b.id()));
    let _stands = meet(&watching, &other).await;
    replace(&files.certificate, &authority.member(c.id()).certificate);
    assert!(watching.reload(now()).is_err(), "not our key");
    fs::write(&files.ca, "no certificate").expect("a file");
    assert!(watching.reload(now()).is_err(), "no authority");
    assert_eq!(watching.judge(now()), 0, "what stood stands");
    let _meets_as_before = meet(&other, &watching).await;
}

#[tokio::test]
async fn a_revocation_that_could_not_be_read_at_first_is_read_at_a_later_look() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let of_b = authority.issue(&Leaf::of(b.id()));
    let files = TlsFiles { crl: Some(authority.revoke(&[], 2900)), ..authority.member(a.id()) };
    let watching = Arc::new(channel(&a, files.clone()));
    watching.keep_watch(Clock::start());
    let other = channel(&b, authority.files(&of_b));
    let mode = |mode| fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).expect("ours");
    tokio::time::pause();
    // A mode is in no stamp of a file, neither when it gets wrong nor when it is mended.
    mode(0o640);
    replace(files.crl.as_ref().expect("a list"), &authority.revoke(&[of_b.serial], 2900));
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(watching.reload(now()).is_err(), "the key is open to others");
    mode(0o600);
    tokio::time::sleep(Duration::from_secs(25)).await;
    tokio::time::resume();
    let reason = CloseReason::CertificateRevoked;
    assert_eq!(ends(&other, &*watching).await, [Closed::by_them(reason), Closed::by_us(reason)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_from_then_on_and_ends_nothing() {
    let authority = Authority::new("of ours");
    let [a, b] = [Plan::new(1), Plan::new(2)];
    let old = authority.issue(&Leaf::of(a.id()));
    let files = authority.files(&old);
    let serial = old.serial;
    let renewing = channel(&a, files.clone());
    let strict = TlsFiles { crl: Some(authority.revoke(&[serial], 2900)), ..authority.member(b.id()) };
    let strict = channel(&b, strict);
    let reason = CloseReason::CertificateRevoked;
    assert_eq!(ends(&renewing, &strict).await, [Closed::by_them(reason), Closed::by_us(reason)]);
    let new = authority.issue(&Leaf::of(a.id()));
    replace(&files.certificate, &new.certificate);
    replace(&files.key, &new.key);
    assert_eq!(renewing.reload(now()).expect("good files"), 0);
    let _meets = meet(&renewing, &strict).await;
}
