//! The files of the peer manager on a disk.

use super::*;

fn loaded(files: &PeerFiles) -> SavedBook {
    files.load_book().expect("readable")
}

fn line(number: u8) -> BookLine {
    let addrs = vec![([127, 0, 0, 1], 4000).into()];
    BookLine::good_once(KnownPeer { peer: NodeId::from_bytes([number; 32]), addrs })
}

#[test]
fn peers_and_bans_come_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = PeerFiles::new(dir.path());
    assert_eq!((loaded(&files), files.load_bans().expect("readable")), (SavedBook::default(), vec![]));

    let line = BookLine {
        tried: false,
        last_good: Some(UnixMillis(9)),
        stayed: true,
        heard: UnixMillis(8),
        failures: 2,
        source: Some([8, 8, 8, 8].into()),
        stands_by: Some(([8, 8, 8, 9], 4000).into()),
        anchor: true,
        ..line(7)
    };
    files.save_book([3; 32], std::slice::from_ref(&line)).expect("a writable directory");
    assert_eq!(loaded(&files), SavedBook { key: Some([3; 32]), lines: vec![line] });

    let until = UnixMillis(5);
    let group = Subject::Group(Group::of([8, 8, 8, 8].into()));
    let bans = [
        Ban { subject: Subject::Peer(NodeId::from_bytes([7; 32])), until, times: 1, by_hand: false },
        Ban { subject: group, until, times: 2, by_hand: true },
    ];
    files.save_bans(&bans).expect("a writable directory");
    assert_eq!(files.load_bans().expect("readable"), bans);
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

#[test]
fn a_damaged_file_counts_as_none_and_is_put_aside_before_another_takes_its_place() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = PeerFiles::new(dir.path());
    for (name, aside) in [("peers.json", "peers.json.bad"), ("bans.json", "bans.json.bad")] {
        for damaged in ["[{", "7", r#"{"version":0,"key":"","peers":[]}"#] {
            fs::write(dir.path().join(name), damaged).expect("a writable directory");
            assert_eq!(loaded(&files), SavedBook::default());
            assert_eq!(files.load_bans().expect("none"), []);
            assert!(!dir.path().join(name).exists());
            assert_eq!(fs::read_to_string(dir.path().join(aside)).expect("it is aside"), damaged);
        }
    }
}

#[test]
fn what_a_later_program_wrote_or_the_system_does_not_give_ends_the_start_and_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = PeerFiles::new(dir.path());
    let later = r#"{"version":2,"key":"00","shelves":[]}"#;
    for name in ["peers.json", "bans.json"] {
        let path = dir.path().join(name);
        let refused = || if name == "peers.json" { files.load_book().err() } else { files.load_bans().err() };
        fs::write(&path, later).expect("a writable directory");
        assert!(matches!(refused(), Some(PeerFileError::Later { version: 2, .. })));
        assert_eq!(fs::read_to_string(&path).expect("it stays"), later);
        fs::remove_file(&path).expect("ours");
        fs::create_dir(&path).expect("a writable directory"); // what cannot be read even by root
        assert!(matches!(refused(), Some(PeerFileError::Io { action: "read", .. })));
    }
}

#[test]
fn the_secret_of_the_book_is_its_owner_s_alone_whatever_lay_beside_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let beside = dir.path().join("peers.json.new");
    fs::write(&beside, "left by a crash").expect("a writable directory");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o644)).expect("ours");
    PeerFiles::new(dir.path()).save_book([3; 32], &[]).expect("a writable directory");
    assert_eq!(mode(&dir.path().join("peers.json")), 0o600);
    assert!(!beside.exists());
}

#[test]
fn a_file_from_before_there_were_versions_is_read_as_peers_that_were_good() {
    let text = format!(r#"[{{"id":"{}","addrs":["127.0.0.1:4000"]}}]"#, "07".repeat(32));
    assert_eq!(read_book(text.as_bytes()).expect("valid"), SavedBook { key: None, lines: vec![line(7)] });
}

#[test]
fn a_line_that_makes_no_sense_is_left_out_and_a_later_version_is_not_guessed_at() {
    let good = format!(r#"{{"id":"{}","addrs":["127.0.0.1:4000"]}}"#, "07".repeat(32));
    let crowded = format!(r#"{{"id":"{}","addrs":[{}]}}"#, "08".repeat(32), [r#""127.0.0.1:4000""#; 5].join(","));
    let bad = ["null", "{}", r#"{"id":"x","addrs":[]}"#, r#"{"id":7}"#, &crowded].join(",");
    let file = |version: u64| {
        let text = format!(r#"{{"version":{version},"key":"{}","peers":[{bad},{good}]}}"#, "03".repeat(32));
        read_book(text.as_bytes())
    };
    assert_eq!(file(1).expect("valid"), SavedBook { key: Some([3; 32]), lines: vec![line(7)] });
    assert!(matches!(file(2), Err(Unreadable::Later(2))));
    read_book(br#"{"version":1,"key":"00","peers":[]}"#).expect_err("a short key");
}

#[test]
fn bans_are_saved_though_the_book_cannot_be() {
    use crate::runtime::Remembered;
    let dir = tempfile::tempdir().expect("a directory");
    let files = PeerFiles::new(dir.path());
    fs::create_dir(dir.path().join("peers.json.new")).expect("a writable directory");
    let ban =
        Ban { subject: Subject::Peer(NodeId::from_bytes([7; 32])), until: UnixMillis(5), times: 1, by_hand: false };
    let remembered = Remembered { book: Some(vec![line(7)]), bans: Some(vec![ban]) };
    remembered.save(&files, [3; 32]).expect_err("something lies where the book is to be written");
    assert_eq!(files.load_bans().expect("readable"), [ban]);
}
