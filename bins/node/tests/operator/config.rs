//! Settings, ports, directories and keys.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;

use crate::{
    program::{Home, Program, ascii},
    support::alone,
};

fn ground() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn node(ground: &TempDir) -> Home {
    Home::new(&ground.path().join("node"))
}

/// A node that made a block, and its head; nothing in the stories below may lose it.
fn with_a_block(ground: &TempDir) -> (Home, String) {
    let home = node(ground);
    let (running, _) = home.up(&[]);
    home.commit("key");
    let head = home.status().head().to_owned();
    running.terminate().succeeded();
    (home, head)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_key_that_was_meant() {
    let (_alone, ground) = (alone(), ground());
    let (home, head) = with_a_block(&ground);
    let written = "listen = \"127.0.0.1:0\"\n\ntarget_peer = 8\n";
    fs::write(home.dir.config(), written).expect("written");
    let line = format!("{}:3: ", home.dir.config().display());
    home.run_with(&[]).ends().failed(78, &[&line, "unknown key `target_peer`", "did you mean `target_peers`?"]);
    assert_eq!(fs::read_to_string(home.dir.config()).expect("there"), written, "nobody mends it behind one's back");

    fs::write(home.dir.config(), written.replace("target_peer ", "target_peers ")).expect("written");
    home.still_has(&head);
}

#[test]
fn a_misspelt_variable_of_the_environment_is_refused_like_a_key_of_the_file() {
    let (_alone, ground) = (alone(), ground());
    let home = node(&ground);
    let misspelt = |command: &'_ mut std::process::Command| {
        command.stderr(Stdio::piped()).env("PEERAGE_LISTN", "127.0.0.1:0");
    };
    let run = Program::start_with(&["run", "--dir", home.path()], |command| {
        misspelt(command);
        command
    });
    run.ends().failed(78, &["unknown environment variable PEERAGE_LISTN", "did you mean PEERAGE_LISTEN?"]);
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_chooses_another() {
    let (_alone, ground) = (alone(), ground());
    let (home, head) = with_a_block(&ground);
    let other = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = other.local_addr().expect("bound").to_string();
    let ended = home.run_with(&["--listen", &taken]).ends();
    ended.failed(74, &[&format!("cannot listen on {taken}"), "choose another address with --listen", "or stop what"]);
    drop(other);
    home.still_has(&head);
}

#[test]
fn a_data_directory_in_use_is_refused_and_its_user_is_not_disturbed() {
    let (_alone, ground) = (alone(), ground());
    let home = node(&ground);
    let (first, _) = home.up(&[]);
    let status = format!("`peerage status --dir {}`", home.path());
    home.run().ends().failed(1, &["in use by another process", &status, "--dir"]);
    let said = home.verify();
    assert!(said.stdout.contains("in use by another process") && said.stdout.contains("FAILED"), "{said:?}");
    // The second neither took the socket away nor the store.
    home.commit("key");
    let head = home.status().head().to_owned();
    first.terminate().succeeded();
    home.still_has(&head);
}

#[test]
fn keys_that_others_may_read_are_refused_with_the_command_that_closes_them() {
    let (_alone, ground) = (alone(), ground());
    let (home, head) = with_a_block(&ground);
    for key in [home.dir.identity_key(), home.dir.producer_key()] {
        let before = fs::read(&key).expect("a key");
        chmod(&key, 0o644);
        let words = ["has mode 0644", "may be known to others", &format!("`chmod 600 {}`", key.display())];
        home.run().ends().failed(77, &words);
        assert_eq!(fs::read(&key).expect("a key"), before);
        chmod(&key, 0o600);
    }
    chmod(home.dir.path(), 0o755);
    home.run().ends().failed(77, &["has mode 0755", &format!("`chmod 700 {}`", home.path())]);
    chmod(home.dir.path(), 0o700);
    home.still_has(&head);
}

#[test]
fn a_key_that_is_no_key_or_another_s_is_refused_before_anything_is_signed_with_it() {
    let (_alone, ground) = (alone(), ground());
    let (home, head) = with_a_block(&ground);
    let kept: PathBuf = ground.path().join("kept.key");
    fs::rename(home.dir.producer_key(), &kept).expect("moved");
    Program::start(&["key", "new", ascii(&home.dir.producer_key()), "--kind", "producer"]).ends().succeeded();
    let words = ["is not the producer of this network", "move producer.key out of the data directory"];
    home.run().ends().failed(78, &words);
    fs::write(home.dir.producer_key(), "peerage producer key v1\nhello\n").expect("written");
    home.run().ends().failed(78, &["is not a key file", "restore it from a backup"]);
    fs::copy(home.dir.identity_key(), home.dir.producer_key()).expect("copied");
    home.run().ends().failed(78, &["kind Identity, and Producer is needed", "give the path of the right file"]);
    fs::rename(&kept, home.dir.producer_key()).expect("moved back");
    home.still_has(&head);
}

#[test]
fn what_a_later_program_remembered_is_neither_guessed_at_nor_overwritten() {
    let (_alone, ground) = (alone(), ground());
    let (home, head) = with_a_block(&ground);
    for name in ["peers.json", "bans.json"] {
        let path = home.dir.path().join(name);
        let later = r#"{"version":2,"shelves":[]}"#;
        fs::write(&path, later).expect("written");
        home.run().ends().failed(74, &[name, "has version 2", "run the later program", "or move the file away"]);
        assert_eq!(fs::read_to_string(&path).expect("there"), later);

        fs::remove_file(&path).expect("ours");
        fs::create_dir(&path).expect("nobody can read a directory as a file");
        home.run().ends().failed(74, &[name, "cannot read", "move the file away"]);
        fs::remove_dir(&path).expect("ours");
    }
    home.still_has(&head);
}
