use peerage_core::{Action, Budget, Message, Protocol};
use peerage_gossip::{Command, Config, Gossip, ITEM, ItemId, SUBSCRIBE, Topic};
use sha2::{Digest, Sha256};

use super::message;
use crate::{
    document::{Vector, hold},
    fixtures::{notified, now, up},
};

fn vector() -> Vector {
    let (topic, bytes) = (Topic::from_static("chain/blocks"), &b"hello"[..]);
    let mut gossip = Gossip::new(Config::default(), &Budget::default());
    gossip.handle_command(now(), Command::Subscribe(Topic::from_static("chain/transactions")));
    gossip.handle_command(now(), Command::Subscribe(topic));
    gossip.handle_network(now(), up(2));
    let said = |gossip: &mut Gossip, command| {
        let Some(Action::Send { message, .. }) = gossip.poll_action() else { panic!("nothing is said") };
        assert_eq!(message.command, command);
        message
    };
    let subscription = said(&mut gossip, SUBSCRIBE);
    let heard = Message::new(SUBSCRIBE, subscription.head.clone());
    gossip.handle_network(now(), notified(2, heard));
    gossip.handle_command(now(), Command::Publish { topic, bytes: bytes.into() });
    let item = said(&mut gossip, ITEM);

    let input = [&b"\x00\x0cpeerage-item\x00\x0c"[..], topic.as_str().as_bytes(), bytes].concat();
    assert_eq!(ItemId::of(&topic, bytes).as_bytes()[..], Sha256::digest(&input)[..]);
    let vector = message(Vector::new("messages"), "SUBSCRIBE chain/blocks, chain/transactions", &subscription);
    let vector = message(vector, "ITEM \"hello\" in chain/blocks", &item);
    vector.hex("hashed for its id", &input).hex("its id", ItemId::of(&topic, bytes).as_bytes())
}

#[test]
fn the_vectors_of_gossip_are_what_the_code_writes() {
    hold("gossip", &[vector()]);
}
