//! What an operator says about peers while the node runs, and what is left of it after a restart.

use serde_json::Value;

use crate::{
    program::{Ended, Home, Program},
    support::{alone, eventually},
};

/// Says something about peers to the node of a directory.
fn say(home: &Home, words: &[&str]) -> Ended {
    Program::start(&[words, &["--dir", home.path()]].concat()).ends()
}

/// Asks the same, and gets JSON.
fn ask(home: &Home, words: &[&str]) -> Value {
    let said = say(home, &[words, &["--json"]].concat()).succeeded();
    serde_json::from_str(&said).expect("JSON")
}

/// The connected peer with this id, if it is there.
fn peer(home: &Home, id: &str) -> Option<Value> {
    let peers = ask(home, &["peers"]);
    peers.as_array().expect("a list").iter().find(|peer| peer["id"] == id).cloned()
}

/// What happened between the node and this peer, by the names that do not change, with the reasons.
fn why(home: &Home, id: &str) -> Vec<String> {
    let story = &ask(home, &["why", id])["happenings"];
    let line = |what: &Value| match what["reason"].as_str() {
        Some(reason) => format!("{} {reason}", what["what"].as_str().expect("a name")),
        None => what["what"].as_str().expect("a name").to_owned(),
    };
    story.as_array().expect("a list").iter().map(line).collect()
}

#[test]
fn who_comes_and_who_does_not_is_the_operator_s_word_while_the_node_runs_and_bans_outlive_it() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let home = Home::new(&ground.path().join("one"));
    let friend = Home::joining(&ground.path().join("two"), &home);
    let (node, status) = home.up(&[]);
    let (other, of_other) = friend.up(&["--seed", &status.seed()]);
    let seed = of_other.seed();
    let id = seed.split_once('@').expect("nodeid@host:port").0;
    let is_there = || peer(&home, id).is_some();

    // Who is there, and why it may be.
    eventually("the other one comes", is_there);
    let seen = peer(&home, id).expect("it is there");
    assert_eq!((&seen["standing"], &seen["outbound"]), (&"inbound".into(), &false.into()), "{seen}");
    assert!(["owed_bytes", "points", "connected_ms"].iter().all(|field| seen[field].is_u64()), "{seen}");
    say(&home, &["trust", id]).succeeded();
    assert_eq!(peer(&home, id).expect("it is there")["standing"], "trusted");
    let named = say(&home, &["ban", id]);
    named.failed(1, &["never banned", "distrust"]);
    let told = say(&home, &["distrust", id]).succeeded();
    assert!(told.contains("until the node stops") && told.contains("in `trusted`"), "{told}");
    say(&home, &["distrust", id]).failed(1, &["is not trusted", "absent"]);

    // Sent away for a while, which a restart does not end.
    say(&home, &["ban", id, "--for", "2h"]).succeeded();
    assert!(!is_there(), "what is done is done when it is said");
    let story = why(&home, id);
    assert!(story.ends_with(&["banned".into(), "ended banned".into()]), "{story:?}");
    assert_eq!(ask(&home, &["bans"])[0]["subject"], id);
    node.terminate().succeeded();
    let (node, status) = home.up(&["--seed", &seed]);
    let bans = ask(&home, &["bans"]);
    assert_eq!((&bans[0]["subject"], bans.as_array().map(Vec::len)), (&id.into(), Some(1)), "{bans}");
    say(&home, &["unban", id]).succeeded();
    assert_eq!(ask(&home, &["bans"]), Value::Array(vec![]));
    say(&home, &["unban", id]).failed(1, &["is not banned", "absent"]);
    say(&home, &["ban", "192.0.2.0/20"]).failed_by_usage(&["/24", "denied"]);

    // Asked for by name, it is dialled.
    let told = say(&home, &["reserve", &seed]).succeeded();
    assert!(told.contains("config.toml") && told.contains(&seed), "{told}");
    eventually("the other one is dialled", is_there);
    assert_eq!(peer(&home, id).expect("it is there")["standing"], "reserved");
    assert_eq!(ask(&home, &["why", id])["not_dialled"]["reason"], "connected");
    let told = say(&home, &["release", id]).succeeded();
    assert!(told.contains("until the node stops") && told.contains("in `reserved`"), "{told}");
    say(&home, &["disconnect", id]).succeeded();
    assert!(why(&home, id).contains(&"ended requested".into()));

    // A list that names its address keeps it out, whoever it is; without it, it may come again.
    say(&home, &["deny", "add", "127.0.0.0/8"]).succeeded();
    assert_eq!(ask(&home, &["deny", "list"])[0], "127.0.0.0/8");
    assert!(!is_there());
    assert_eq!(ask(&home, &["why", id])["not_dialled"]["reason"], "denied");
    let told = say(&home, &["why", id]).succeeded();
    assert!(told.lines().last().is_some_and(|line| line.starts_with("now: not dialled, because `denied`: ")), "{told}");
    let own = status.seed();
    let own = say(&home, &["why", own.split_once('@').expect("nodeid@host:port").0]).succeeded();
    assert!(own.contains("has not met") && own.contains("`oneself`"), "{own}");
    say(&home, &["deny", "remove", "10.0.0.0/8"]).failed(1, &["is not on the list `deny`"]);
    say(&home, &["deny", "remove", "127.0.0.0/8"]).succeeded();
    assert_eq!(ask(&home, &["deny", "list"]), Value::Array(vec![]));

    // How many.
    let limits = ask(&home, &["limits", "set", "--max-peers", "5", "--target-peers", "2"]);
    assert_eq!((&limits["max_peers"], &limits["target_peers"]), (&5.into(), &2.into()), "{limits}");
    assert_eq!(ask(&home, &["limits", "show"])["max_peers"], 5);
    let told = say(&home, &["limits", "set", "--target-peers", "2", "--idle-timeout", "9s"]).succeeded();
    assert!(told.contains("has: target_peers = 2, idle_timeout = \"9000ms\"\n"), "{told}");
    say(&home, &["limits", "set", "--target-peers", "6"]).failed(1, &["target_peers", "1 to 5"]);
    assert_eq!(ask(&home, &["limits", "show"])["target_peers"], 2, "what makes no sense changes nothing");

    other.terminate().succeeded();
    node.terminate().succeeded();
    let (node, _) = home.up(&[]);
    assert_eq!(ask(&home, &["limits", "show"])["max_peers"], 64, "a restart goes back to config.toml");
    assert_ne!(status.seed(), seed);
    node.terminate().succeeded();
}

/// The name ends in `.invalid`, which no resolver knows (RFC 6761, 6.4).
#[test]
fn a_reserved_peer_whose_name_means_nothing_is_reserved_all_the_same() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let home = Home::new(&ground.path().join("one"));
    let friend = Home::joining(&ground.path().join("two"), &home);
    let (other, of_other) = friend.up(&[]);
    let seed = of_other.seed();
    let id = seed.split_once('@').expect("nodeid@host:port").0;
    let (mut node, status) = home.up(&["--reserved", &format!("{id}@nowhere.invalid:4477")]);
    node.says("cannot resolve a reserved peer");
    say(&friend, &["reserve", &status.seed()]).succeeded();
    eventually("the other one comes", || peer(&home, id).is_some());
    assert_eq!(peer(&home, id).expect("it is there")["standing"], "reserved");
    other.terminate().succeeded();
    node.terminate().succeeded();
}
