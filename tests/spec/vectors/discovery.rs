use core::net::SocketAddr;
use std::sync::Arc;

use peerage_core::{Action, Budget, Message, NetworkId, Protocol, Seed};
use peerage_discovery::{Config, DhtKey, Discovery, FIND, NODES, NodeRecord, RECORD, RecordBody};
use peerage_wire::payload;

use super::{hash, message, signed};
use crate::{
    document::{Vector, hold},
    fixtures::{WALL, asked, id, keypair, notified, now, up},
};

const NETWORK: NetworkId = NetworkId::from_bytes([9; 32]);

fn keys() -> Vector {
    let (one, two) = (DhtKey::of(&id(1)), DhtKey::of(&id(2)));
    assert_eq!(one.as_bytes(), &hash("peerage-id", &[id(1).as_bytes()]));
    let distance: [u8; 32] = core::array::from_fn(|i| one.as_bytes()[i] ^ two.as_bytes()[i]);
    Vector::new("dht-key")
        .hex("node 1", id(1).as_bytes())
        .hex("key 1", one.as_bytes())
        .hex("node 2", id(2).as_bytes())
        .hex("key 2", two.as_bytes())
        .hex("distance", distance)
        .text("bucket", one.distance(&two).bucket().expect("they differ"))
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn record() -> Vector {
    let addrs = vec![addr("192.0.2.1:30303"), addr("[2001:db8::1]:30303")];
    let body = RecordBody { seq: 300, addrs, features: 5, issued_at: WALL };
    let encoded = NodeRecord::sign(&keypair(1), NETWORK, body.clone()).encoded().clone();
    let body = payload::to_bytes(&body);
    let input = signed("peerage-node-record", &[NETWORK.as_bytes(), &[0, 1], &body]);
    assert_eq!(encoded, [id(1).as_bytes(), &keypair(1).sign(&input)[..], &[0, 1], &body].concat());
    Vector::new("record")
        .hex("secret seed", [1; 32])
        .hex("network", NETWORK.as_bytes())
        .text("seq, features, issued at", format_args!("300, 5, {}", WALL.0))
        .text("addresses", "192.0.2.1:30303, [2001:db8::1]:30303")
        .hex("body", &body)
        .hex("signed", &input)
        .hex("record", &encoded)
}

/// What a node says to one that connects, and what it answers when it knows one node.
fn messages() -> Vector {
    let mut config = Config::new(Arc::new(keypair(1)), NETWORK, Seed::from_u64(1), Budget::default());
    config.addrs = vec![addr("192.0.2.1:30303")];
    let mut node = Discovery::new(config, now());
    let there = addr("203.0.113.2:4000");
    node.handle_network(now(), up(2));
    let mut said = Vec::new();
    let mut drain = |node: &mut Discovery| {
        while let Some(action) = node.poll_action() {
            match action {
                Action::Send { message, .. } | Action::Request { message, .. } | Action::Respond { message, .. } => {
                    said.push(message);
                }
                _ => {}
            }
        }
    };
    drain(&mut node);
    let body = RecordBody { seq: 7, addrs: vec![there], features: 0, issued_at: WALL };
    let theirs = NodeRecord::sign(&keypair(2), NETWORK, body);
    node.handle_network(now(), notified(2, Message::new(RECORD, theirs.encoded().clone())));
    let ask = Message::new(FIND, DhtKey::of(&id(1)).as_bytes().to_vec());
    node.handle_network(now(), up(3));
    node.handle_network(now(), asked(3, 1, ask));
    drain(&mut node);
    let of = |command| said.iter().find(|message| message.command == command).expect("it was said");
    let vector = message(Vector::new("messages"), "RECORD", of(RECORD));
    let vector = message(vector, "FIND of the sender's own key", of(FIND));
    let vector = vector.hex("record of node 2", theirs.encoded());
    message(vector, "NODES with that record", of(NODES))
}

#[test]
fn the_vectors_of_discovery_are_what_the_code_writes() {
    hold("discovery", &[keys(), record(), messages()]);
}
