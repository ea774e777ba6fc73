//! A consortium: its authority, its members, and one that is thrown out.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use crate::{
    program::{Ended, Home, Program, ascii},
    support::{alone, eventually},
};

fn peerage(args: &[&str]) -> Ended {
    Program::start(args).ends()
}

fn id(home: &Home) -> String {
    let key = home.dir.identity_key();
    peerage(&["key", "show", ascii(&key)]).succeeded().trim().to_owned()
}

/// An authority, and a node that has a certificate of it.
fn member(ca: &Path, home: &Home) {
    peerage(&["ca", "issue", "--dir", ascii(ca), "--node", &id(home), "--out", home.path()]).succeeded();
    let settings = "security = \"mtls\"\n[tls]\nca = \"ca.pem\"\ncertificate = \"certificate.pem\"\nkey = \"tls.key\"\n\
                    crl = \"crl.pem\"\n";
    fs::write(home.dir.config(), settings).expect("written");
}

fn ground() -> (TempDir, std::path::PathBuf) {
    let ground = tempfile::tempdir().expect("a temporary directory");
    let ca = ground.path().join("ca");
    peerage(&["ca", "init", "--dir", ascii(&ca), "--name", "of ours"]).succeeded();
    (ground, ca)
}

fn peers(home: &Home) -> usize {
    let json = peerage(&["peers", "--dir", home.path(), "--json"]).succeeded();
    serde_json::from_str::<Vec<serde_json::Value>>(&json).expect("a list").len()
}

#[test]
fn members_meet_until_one_is_revoked_and_both_are_told_why() {
    let (_alone, (ground, ca)) = (alone(), ground());
    let a = Home::new(&ground.path().join("a"));
    let b = Home::joining(&ground.path().join("b"), &a);
    member(&ca, &a);
    member(&ca, &b);
    let (_running_a, status) = a.up(&[]);
    let (_running_b, _) = b.up(&["--reserved", &status.seed()]);
    eventually("they meet", || peers(&a) == 1 && peers(&b) == 1);

    let shown = peerage(&["ca", "show", "--dir", ascii(&ca)]).succeeded();
    assert_eq!(shown.lines().filter(|line| line.contains("valid for")).count(), 2, "{shown}");
    let calm = peerage(&["tls", "reload", "--dir", a.path()]).succeeded();
    assert!(calm.contains("0 connections end"), "{calm}");

    peerage(&["ca", "revoke", "--dir", ascii(&ca), "--node", &id(&b)]).succeeded();
    let beside = a.dir.path().join("crl.new");
    fs::copy(ca.join("crl.pem"), &beside).expect("copied");
    fs::rename(&beside, a.dir.path().join("crl.pem")).expect("in its place");
    // The node looks by itself, too, so either may have ended it.
    peerage(&["tls", "reload", "--dir", a.path()]).succeeded();
    eventually("the connection ends", || peers(&a) == 0 && peers(&b) == 0);
    let why = |home: &Home, other: &Home| peerage(&["why", "--dir", home.path(), &id(other)]).succeeded();
    eventually("both can say why", || why(&a, &b).contains("revoked") && why(&b, &a).contains("revoked"));
    let shown = peerage(&["ca", "show", "--dir", ascii(&ca), "--json"]).succeeded();
    let issued: Vec<serde_json::Value> = serde_json::from_str(&shown).expect("a list");
    assert_eq!(issued.iter().map(|issued| issued["revoked"].is_u64()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn certificates_that_are_missing_foreign_or_open_to_others_keep_a_node_from_starting_and_say_what_to_do() {
    let (_alone, (ground, ca)) = (alone(), ground());
    let a = Home::new(&ground.path().join("a"));
    let b = Home::joining(&ground.path().join("b"), &a);
    a.run_with(&["--security", "mtls"]).ends().failed(78, &["tls.ca", "peerage ca"]);
    member(&ca, &a);
    let key = a.dir.path().join("tls.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("ours");
    a.run_with(&[]).ends().failed(77, &["chmod 600"]);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("ours");
    for file in ["ca.pem", "certificate.pem", "tls.key", "crl.pem", "config.toml"] {
        fs::copy(a.dir.path().join(file), b.dir.path().join(file)).expect("copied");
    }
    b.run_with(&[]).ends().failed(78, &[&format!("is that of node {}", id(&a)), &id(&b)]);
    fs::remove_file(a.dir.path().join("ca.pem")).expect("there");
    a.run_with(&[]).ends().failed(74, &["cannot read", "ca.pem"]);
}

#[test]
fn an_authority_overwrites_nothing_and_revokes_nobody_whom_it_does_not_know() {
    let (_alone, (ground, ca)) = (alone(), ground());
    peerage(&["ca", "init", "--dir", ascii(&ca)]).failed(2, &["exists already", "ca.key"]);
    let a = Home::new(&ground.path().join("a"));
    member(&ca, &a);
    peerage(&["ca", "issue", "--dir", ascii(&ca), "--node", &id(&a), "--out", a.path()])
        .failed(2, &["exists already", "tls.key"]);
    peerage(&["ca", "revoke", "--dir", ascii(&ca), "--node", &"ab".repeat(32)]).failed(2, &["peerage ca show"]);
    fs::write(ca.join("issued.json"), "{").expect("written");
    peerage(&["ca", "show", "--dir", ascii(&ca)]).failed(78, &["restore it from a backup"]);
}

#[test]
fn a_node_of_noise_has_no_certificates_to_read_again() {
    let (_alone, (ground, _ca)) = (alone(), ground());
    let a = Home::new(&ground.path().join("a"));
    let (_running, _) = a.up(&[]);
    peerage(&["tls", "reload", "--dir", a.path()]).failed(1, &["speaks Noise"]);
}
