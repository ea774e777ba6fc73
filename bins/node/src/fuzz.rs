//! Bodies of the fuzz targets `node_*`: what must hold for whatever an operator writes, a client says, or a disk returns.
//! `tests/fuzz/README.md` says how they are run; the tests below replay what was found.

use core::{
    future::Future,
    net::SocketAddr,
    pin::pin,
    task::{Context, Poll, Waker},
};
use std::path::Path;

use peerage_chain::proto::genesis::GenesisFile;
use peerage_core::NodeId;
use peerage_transport::proto::admission::Group;
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::BufReader;

use crate::{
    cli::parse_duration,
    config::{Layer, NodeConfig, SCHEMA, Seed},
    control::{Answer, Event, LineReader, Question},
    genesis, hex,
    runtime::peer_file,
    toml_file::TomlFile,
};

#[path = "../../../tests/fuzz/shared/input.rs"]
pub mod input;

use input::Input;

/// A target: its name and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of this crate.
pub const TARGETS: &[Target] = &[
    ("node_config", config),
    ("node_genesis", genesis_text),
    ("node_control", control),
    ("node_lines", lines),
    ("node_peer_files", peer_files),
    ("node_text", text),
];

/// `config.toml` and the environment: a configuration that exists makes sense, and what a layer says survives being
/// written down.
pub fn config(data: &[u8]) {
    const NAMES: [&str; 6] = ["LISTEN", "ADVERTISE", "SEEDS", "MAX_PEERS", "LOG_FILTER", "LOG_FORMAT"];
    let mut input = Input::new(data);
    let mut environment = Vec::new();
    for _ in 0..input.byte() % 4 {
        let name = match input.byte() {
            choice @ ..240 => format!("PEERAGE_{}", NAMES[usize::from(choice) % NAMES.len()]),
            _ => format!("PEERAGE_{}", String::from_utf8_lossy(input.chunk())),
        };
        environment.push((name, String::from_utf8_lossy(input.chunk()).into_owned()));
    }
    let (dir, path) = (Path::new("d"), Path::new("d/config.toml"));
    let Ok(text) = core::str::from_utf8(input.rest()) else { return };
    let Ok(file) = TomlFile::<Layer>::parse(path, text.to_owned(), SCHEMA) else { return };
    let lines = text.split('\n').count();
    assert!(["listen", "log.filter", "nowhere"].iter().all(|key| (1..=lines).contains(&file.line(key))));
    if let Ok(written) = toml::to_string(&file.value) {
        let again = TomlFile::<Layer>::parse(path, written, SCHEMA).expect("what we write");
        assert_eq!(again.value, file.value);
    }
    match NodeConfig::resolve(dir, Some(file), environment, Layer::default()) {
        Ok(config) => {
            assert!(config.target_peers() >= 1 && config.target_peers() <= config.max_peers());
            assert!(config.advertise().is_none_or(|addr| addr.port() != 0 && !addr.ip().is_unspecified()));
            assert!(config.seeds().iter().all(|seed| seed.port() != 0 && !seed.host().is_empty()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// `genesis.toml`: what is accepted survives being written down, as the same network.
pub fn genesis_text(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    let parse = |text: String| TomlFile::<GenesisFile>::parse(Path::new("genesis.toml"), text, genesis::SCHEMA);
    let Ok(file) = parse(text.to_owned()) else { return };
    match genesis::check(&file) {
        Ok(genesis) => {
            let written = toml::to_string(&file.value).expect("numbers of TOML, as they were read");
            let again = parse(written).expect("what we write");
            assert_eq!(genesis::check(&again).expect("as valid as before").network_id(), genesis.network_id());
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Lines of the control socket, of either side: what is understood survives being written down, as one line.
pub fn control(data: &[u8]) {
    fn survives<T: Serialize + DeserializeOwned + PartialEq + core::fmt::Debug>(line: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(line) {
            let written = serde_json::to_vec(&value).expect("no map, so no key that is no text");
            assert!(!written.contains(&b'\n'));
            assert_eq!(serde_json::from_slice::<T>(&written).expect("what we write"), value);
        }
    }
    survives::<Question>(data);
    survives::<Answer>(data);
    survives::<Event>(data);
}

/// What a future gives that never has to wait.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("bytes in memory are there"),
    }
}

/// A stream of lines in pieces: as many as there are, none longer than permitted.
pub fn lines(data: &[u8]) {
    let mut input = Input::new(data);
    let (step, max) = (usize::from(input.byte()) + 1, usize::from(input.byte()));
    let stream = input.rest();
    let mut reader = LineReader::new(BufReader::with_capacity(step, stream), max);
    let mut expected = stream.split_inclusive(|byte| *byte == b'\n');
    loop {
        let line = expected.next();
        match (ready(reader.next()), line.map(|line| line.strip_suffix(b"\n").ok_or(line))) {
            (Ok(None), None) => return,
            (Ok(Some(found)), Some(Ok(line))) => assert!(found == line && line.len() <= max),
            (Err(_), Some(Ok(line))) => return assert!(line.len() > max),
            (Err(_), Some(Err(_))) => return,
            (found, line) => panic!("{found:?} of {line:?}"),
        }
    }
}

/// `peers.json` and `bans.json`: what is read survives being written down.
pub fn peer_files(data: &[u8]) {
    if let Ok(peers) = peer_file::read_peers(data) {
        let written = peer_file::write_peers(&peers).expect("no map, so no key that is no text");
        assert_eq!(peer_file::read_peers(&written).expect("what we write"), peers);
    }
    if let Ok(bans) = peer_file::read_bans(data) {
        let written = peer_file::write_bans(&bans).expect("no map, so no key that is no text");
        assert_eq!(peer_file::read_bans(&written).expect("what we write"), bans);
    }
}

/// What people type: seeds, identities, groups of addresses, bytes, durations. What is understood reads back as it prints.
pub fn text(data: &[u8]) {
    let Ok(text) = core::str::from_utf8(data) else { return };
    if let Ok(seed) = text.parse::<Seed>() {
        assert_eq!(seed.to_string().parse(), Ok(seed.clone()));
        let numeric = seed.host().contains(':');
        assert!(!numeric || format!("[{}]:{}", seed.host(), seed.port()).parse::<SocketAddr>().is_ok(), "{seed:?}");
    }
    if let Ok(id) = text.parse::<NodeId>() {
        assert_eq!(id.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(group) = text.parse::<Group>() {
        assert_eq!(group.to_string().parse(), Ok(group));
    }
    if let Ok(bytes) = hex::decode(text) {
        assert_eq!(hex::encode(&bytes), text.to_ascii_lowercase());
    }
    if let Ok(duration) = parse_duration(text) {
        assert_eq!(parse_duration(&format!("{}ms", duration.as_millis())), Ok(duration));
    }
}

#[cfg(test)]
#[path = "../../../tests/fuzz/shared/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TEMPLATE;

    fn seeds() -> Vec<replay::Seed> {
        let id = "a1".repeat(32);
        let uncommented: String = TEMPLATE
            .lines()
            .filter_map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")))
            .flat_map(|line| [line, "\n"])
            .collect();
        let config =
            format!("listen = \"127.0.0.1:1\"\nseeds = [\"{id}@[::1]:80\"]\nmax_peers = 9\n[log]\nformat = \"json\"\n");
        let with_environment = Input::with_chunks(&[1, 4], &[b"info,peerage_gossip=debug"]);
        let genesis =
            format!("chain_id = 7\nnetwork = \"n\"\nproducers = [\"{id}\"]\ntime = 9\n[limits]\nnonce_gap = 5\n");
        let lines = [
            r#"{"id":1,"method":"get","params":{"key":"61"}}"#.to_owned(),
            r#"{"id":2,"method":"watch"}"#.to_owned(),
            r#"{"id":1,"result":{"value":{"value":"62","version":1,"height":9,"proof":null}}}"#.to_owned(),
            r#"{"id":null,"error":{"code":"too_long","message":"x"}}"#.to_owned(),
            format!(r#"{{"event":"committed","height":10,"ids":["{id}"],"unix_nanos":17}}"#),
            r#"{"id":3,"result":{"tx_status":{"state":"committed","height":1,"index":2,"outcome":"applied"}}}"#
                .to_owned(),
        ];
        let peers = format!(r#"[{{"id":"{id}","addrs":["127.0.0.1:4000","[::1]:1"]}}]"#);
        let bans = format!(
            r#"[{{"peer":"{id}","until_unix_ms":5,"times":1}},{{"group":"8.8.8.0/24","until_unix_ms":5,"times":2}}]"#
        );
        let mut seeds: Vec<replay::Seed> = vec![
            ("node_config", "template", [&[0], uncommented.as_bytes()].concat()),
            ("node_config", "some", [&[0], config.as_bytes()].concat()),
            ("node_config", "environment", [&with_environment, config.as_bytes()].concat()),
            ("node_genesis", "solo", genesis.into_bytes()),
            ("node_lines", "lines", b"\x02\x05ab\n\nabcde\nabc".to_vec()),
            ("node_peer_files", "peers", peers.into_bytes()),
            ("node_peer_files", "bans", bans.into_bytes()),
            ("node_text", "seed", format!("{id}@host.example:80").into_bytes()),
            ("node_text", "seed-v6", format!("{id}@[2001:db8::1]:80").into_bytes()),
            ("node_text", "group", b"2001:db8:1::/48".to_vec()),
            ("node_text", "duration", b"20m".to_vec()),
        ];
        let names = ["get", "watch", "value", "error", "event", "status"];
        seeds.extend(names.into_iter().zip(lines).map(|(name, line)| ("node_control", name, line.into_bytes())));
        seeds
    }

    #[test]
    fn each_target_holds_on_its_seeds_and_on_what_fuzzing_found() {
        replay::replay("node_", TARGETS, &seeds());
    }
}
