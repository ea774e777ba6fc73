//! What `peerage peers` says of a peer beside who it is.

use crate::{
    program::{Home, Program},
    support::{alone, eventually},
};

#[test]
fn a_peer_is_shown_with_the_way_to_it_its_clock_and_its_head() {
    let _alone = alone();
    let ground = tempfile::tempdir().expect("a temporary directory");
    let producer = Home::new(&ground.path().join("producer"));
    let follower = Home::joining(&ground.path().join("follower"), &producer);
    let (producing, status) = producer.up(&[]);
    let (following, _) = follower.up(&["--seed", &status.seed()]);
    producer.commit("key");
    let head = producer.status();
    let shown =
        |json: &[&str]| Program::start(&[&["peers", "--dir", follower.path()], json].concat()).ends().succeeded();
    eventually("the follower knows what its peer has", || {
        let peers: serde_json::Value = serde_json::from_str(&shown(&["--json"])).expect("JSON");
        let peer = &peers[0];
        let timing = &peer["timing"];
        let known = peer["head"]["id"] == head.head() && peer["head"]["height"] == 1 && timing.is_object();
        if known {
            let [least, jitter] = ["rtt_min_micros", "jitter_micros"].map(|of| timing[of].as_u64().expect("a number"));
            let smoothed = peer["rtt_micros"].as_u64().expect("measured");
            assert!(least <= smoothed, "{peer}");
            // Both are on this machine, and a round trip takes no hour, however slow it is.
            assert!((1..3_600_000_000).contains(&jitter), "{peer}");
            assert!(timing["clock_offset_ms"].as_i64().expect("a number").abs() < 3_600_000, "{peer}");
        }
        known
    });
    let pools = producer.status().pools();
    assert!(pools.contains(&"mempool".to_owned()) && pools.len() == 7, "{pools:?}");
    let line = shown(&[]);
    assert!(line.contains("height 1") && line.contains(" clock ") && line.contains(" ms"), "{line}");
    for node in [producing, following] {
        node.terminate().succeeded();
    }
}
