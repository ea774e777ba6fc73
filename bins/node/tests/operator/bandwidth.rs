//! Limits of bytes a second.

use crate::{
    program::{Home, Program},
    support::alone,
};

/// What `peerage bandwidth` tells with these flags.
fn told(home: &Home, flags: &[&str]) -> serde_json::Value {
    let said = Program::start(&[&["bandwidth", "--dir", home.path(), "--json"], flags].concat()).ends().succeeded();
    serde_json::from_str(&said).expect("JSON")
}

#[test]
fn limits_are_set_at_the_start_changed_while_the_node_runs_and_seen_in_its_status() {
    let (_alone, ground) = (alone(), tempfile::tempdir().expect("a temporary directory"));
    let home = Home::new(&ground.path().join("node"));
    let (node, status) = home.up(&["--ingress-limit", "9000000"]);
    let limits =
        |traffic: &serde_json::Value| [&traffic["egress_limit"], &traffic["ingress_limit"]].map(|it| it.as_u64());
    assert_eq!(limits(status.traffic()), [None, Some(9_000_000)]);
    assert_eq!(limits(&told(&home, &["--egress-limit", "70000"])), [Some(70_000), Some(9_000_000)]);
    assert_eq!(limits(&told(&home, &["--ingress-limit", "0"])), [Some(70_000), None]);
    let low = ["bandwidth", "--dir", home.path(), "--egress-limit", "65535"];
    Program::start(&low).ends().failed(1, &["65536 bytes a second at least, not 65535", "0 is no limit"]);
    assert_eq!(limits(&told(&home, &[])), [Some(70_000), None], "as it was");
    let words = Program::start(&["bandwidth", "--dir", home.path()]).ends().succeeded();
    assert!(words.contains("limit 70000 bytes a second") && words.contains("no limit"), "{words}");
    let told = Program::start(&["bandwidth", "--dir", home.path(), "--ingress-limit", "0"]).ends().succeeded();
    assert!(told.contains("until the node stops") && told.contains("ingress_limit = 0"), "{told}");
    assert!(!told.contains("egress_limit ="), "what was not said is no advice: {told}");
    assert!(!words.contains("until the node stops"), "nothing was changed: {words}");
    // More peers need more, and who has a limit cannot have more peers than it bears.
    let more = ["limits", "set", "--dir", home.path(), "--max-peers", "100"];
    Program::start(&more).ends().failed(1, &["100 need 102400 bytes a second", "a limit of 70000"]);
    let fewer = ["limits", "set", "--dir", home.path(), "--max-peers", "68"];
    Program::start(&fewer).ends().succeeded();
    let low = ["bandwidth", "--dir", home.path(), "--egress-limit", "69000"];
    Program::start(&low).ends().failed(1, &["69632 bytes a second at least, not 69000", "`max_peers` at 68"]);
    home.commit("key");
    node.terminate().succeeded();
    home.run_with(&["--egress-limit", "1"]).ends().failed(78, &["egress_limit, from the command line", "65536"]);
}
