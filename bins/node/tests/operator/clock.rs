//! A clock that is an hour off. What a process can be given is a chain that was made by another clock; nodes whose own clocks
//! differ are in `tests/simulation/clock.rs`.

use peerage::clock::unix_millis;
use peerage_core::UnixMillis;

use crate::{program::Home, store::grow, support::alone};

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_producer_whose_clock_was_set_back_an_hour_goes_on_and_all_are_told() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let producer = Home::new(&ground.path().join("producer"));
    let follower = Home::joining(&ground.path().join("follower"), &producer);
    // What it made while its clock was an hour ahead of what it is now.
    grow(&producer, 3, UnixMillis(unix_millis().0 + HOUR_MS));
    let (mut producing, status) = producer.up(&[]);
    let (mut following, _) = follower.up(&["--seed", &status.seed()]);
    following.says("ahead of this machine's clock");
    producer.commit("key");
    producing.says("ahead of this machine's clock");
    crate::support::eventually("the follower has the block", || follower.status().height() == 4);
    assert_eq!(follower.status().head(), producer.status().head());
    for node in [producing, following] {
        let ended = node.terminate();
        let told: Vec<_> = ended.stderr.lines().filter(|line| line.contains("this machine's clock")).collect();
        // An hour, less what the story took.
        let words = ["WARN", " s ahead of", "about 35", "see that this clock is right", "tell its operator"];
        assert!(words.iter().all(|word| told[0].contains(word) || told[0].contains("about 3600")), "{told:?}");
        assert_eq!(told.len(), 1, "once is enough: {told:?}");
        ended.succeeded();
    }
    // That no block's time lies before its parent's is part of it.
    producer.verify().succeeded();
    follower.verify().succeeded();
}
