//! Rules of `chain.md` that need a peer which says by hand what no correct one does.

use core::time::Duration;
use std::{fs, path::Path, sync::Arc};

use peerage::{genesis::load_genesis, stack::Overlay};
use peerage_chain::{
    proto::{
        BLOCKS, BLOCKS_TOPIC, BlocksRequest, Chain, Command, Config, HEAD, Summary, TRANSACTIONS, TRANSACTIONS_TOPIC,
        block::{BlockError, CheckedBlock, Header},
        genesis::Genesis,
        id::BlockId,
        transaction::{Transaction, TransactionBody},
    },
    store::{Applied, Store},
};
use peerage_core::{
    Action, Budget, Class, Done, Fault, Job, Layer, Message, NetworkEvent, Now, Protocol, Seed, UnixMillis,
};
use peerage_discovery::{Config as DiscoveryConfig, Discovery};
use peerage_gossip::{
    Command as GossipCommand, Config as GossipConfig, Event as GossipEvent, Gossip, ItemId, SUBSCRIBE, Topic, Verdict,
};
use peerage_wire::payload;

use crate::{
    document::block,
    fixtures::{
        PRODUCER, Said, WALL, account, asked, genesis, genesis_file, id, keypair, notified, now, put, settle, tx, up,
    },
};

/// A chain of two blocks, made elsewhere.
fn two_blocks() -> (Store, [Applied; 2]) {
    let store = Store::in_memory(genesis()).expect("memory");
    let blocks = [0, 1].map(|nonce| {
        let txs = vec![tx(1, nonce, vec![put("key", "value", nonce)])];
        *store.build(txs, UnixMillis(WALL.0 + nonce), &keypair(PRODUCER)).expect("memory").block.expect("a block")
    });
    (store, blocks)
}

/// A follower and its store, empty at first.
struct Follower {
    chain: Chain,
    store: Store,
}

impl Follower {
    fn over(store: Store) -> Self {
        let mut follower =
            Self { chain: Chain::new(genesis(), Config::default(), &Budget::default()).expect("no producer"), store };
        follower.settle();
        follower
    }

    fn new() -> Self {
        Self::over(Store::in_memory(genesis()).expect("memory"))
    }

    fn settle(&mut self) -> Said {
        settle(&mut self.chain, &mut self.store)
    }

    fn network(&mut self, event: NetworkEvent) -> Said {
        self.chain.handle_network(now(), event);
        self.settle()
    }

    /// Asks a peer that claims to be far ahead, and gets this answer.
    fn is_answered(&mut self, items: &[&[u8]]) -> Said {
        self.network(up(4));
        let said = self.network(notified(4, head_at(9)));
        let [(peer, request)] = said.requests[..] else { panic!("one question") };
        let charge = Budget::default().nothing();
        let result = Ok((batch(items), charge));
        self.network(NetworkEvent::Response { peer, id: request, command: BLOCKS, result })
    }

    /// An item comes by gossip; the verdict on it.
    fn judge(&mut self, topic: Topic, bytes: Vec<u8>) -> Verdict {
        let (id, charge) = (ItemId::of(&topic, &bytes), Budget::default().nothing());
        let event = GossipEvent::Item { topic, id, bytes: bytes.into(), from: crate::fixtures::id(4), charge };
        self.chain.handle_command(now(), Command::Gossip(event));
        let verdict = self.settle().gossip.into_iter().find_map(|command| match command {
            GossipCommand::Verdict { item, verdict } if item == id => Some(verdict),
            _ => None,
        });
        verdict.expect("a verdict")
    }
}

fn head_at(height: u64) -> Message {
    Message::new(HEAD, payload::to_bytes(&Summary { height, id: BlockId([0xee; 32]) }))
}

fn batch(items: &[&[u8]]) -> Message {
    let lengths: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    Message::with_body(BLOCKS, payload::to_bytes(&lengths), items.concat())
}

/// The second block with another header, properly certified.
fn forged(applied: &Applied, change: impl FnOnce(&mut Header)) -> CheckedBlock {
    let mut header = applied.block.header().clone();
    change(&mut header);
    CheckedBlock::make(&genesis(), header, applied.block.transactions().to_vec(), &keypair(PRODUCER)).expect("small")
}

#[test]
fn the_genesis_of_the_document_is_that_of_its_vectors() {
    let text = block("chain", "toml");
    let load = |name: &str, text: &str| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, text).expect("a directory for tests");
        load_genesis(&path).map_err(|error| error.to_string())
    };
    assert_eq!(load("whole.toml", &text), Ok((*genesis()).clone()));
    let defaults = ["ordering", "block_interval_ms", "[limits]", "max_", "mempool_bytes", "nonce_gap"];
    let bare: Vec<_> = text.lines().filter(|line| !defaults.iter().any(|key| line.starts_with(key))).collect();
    assert_eq!(bare.iter().filter(|line| !line.is_empty()).count(), 4, "what has no default");
    assert_eq!(load("bare.toml", &bare.join("\n")), Ok((*genesis()).clone()), "defaults count as if they were there");
    let unknown = load("unknown.toml", &format!("colour = 1\n{text}"));
    assert!(unknown.as_ref().is_err_and(|error| error.contains("colour")), "{unknown:?}");
}

#[test]
fn a_block_that_is_empty_or_too_large_or_lists_others_does_not_count() {
    let (_, [first, second]) = two_blocks();
    let check =
        |genesis: &Genesis, block: &CheckedBlock| CheckedBlock::check(genesis, block.bytes().clone(), &[]).map(drop);
    let make = |txs: Vec<_>| {
        CheckedBlock::make(&genesis(), first.block.header().clone(), txs, &keypair(PRODUCER)).expect("small")
    };
    assert_eq!(check(&genesis(), &first.block), Ok(()));
    assert_eq!(check(&genesis(), &make(vec![])), Err(BlockError::Empty));
    assert_eq!(check(&genesis(), &make(second.block.transactions().to_vec())), Err(BlockError::TxRoot));
    let mut file = genesis_file();
    (file.limits.max_block_bytes, file.limits.max_tx_bytes) = (1024, 512);
    let strict = Genesis::new(&file).expect("valid");
    let large = make((0..9).map(|nonce| tx(2, nonce, vec![put("k", "v", 0)])).collect());
    assert_eq!(check(&strict, &large), Err(BlockError::TooLarge(large.bytes().len())));
}

#[test]
fn a_batch_has_4096_items_at_most() {
    // Of what can be read the first that is no transaction counts, and the rest is not worth reading.
    for (count, fault) in [(4096, Fault::InvalidTransaction), (4097, Fault::UndecodablePayload)] {
        let mut follower = Follower::new();
        follower.network(up(4));
        let message = Message { command: TRANSACTIONS, ..batch(&vec![&b"x"[..]; count]) };
        let said = follower.network(notified(4, message));
        assert_eq!(said.faults.into_iter().map(|(_, fault)| fault).collect::<Vec<_>>(), [fault], "{count}");
    }
}

#[test]
fn a_message_out_of_place_is_a_fault() {
    let mut follower = Follower::new();
    follower.network(up(4));
    let wish = |body: Option<&'static [u8]>| Message {
        body: body.map(Into::into),
        ..Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from: 1, max_bytes: 1 }))
    };
    let unknown = peerage_core::Command::new(Layer::Chain, 31, Class::Signal);
    for (event, fault) in [
        (notified(4, wish(None)), Fault::UnexpectedCommand),
        (notified(4, Message::new(unknown, "")), Fault::UnexpectedCommand),
        (asked(4, 1, head_at(1)), Fault::UnexpectedCommand),
        (notified(4, Message { body: Some((&b""[..]).into()), ..head_at(1) }), Fault::UndecodablePayload),
        (asked(4, 2, wish(Some(b""))), Fault::UndecodablePayload),
        (asked(4, 3, Message::new(BLOCKS, vec![0x80, 0, 1])), Fault::UndecodablePayload),
    ] {
        let what = format!("{event:?}");
        assert_eq!(follower.network(event).faults, [(id(4), fault)], "{what}");
    }
}

#[test]
fn a_new_head_is_told_to_all_and_carried_by_heartbeats() {
    let (_, [first, _]) = two_blocks();
    let mut follower = Follower::new();
    follower.network(up(4));
    let said = follower.network(up(5));
    assert!(matches!(&said.told[..], [(to, message)] if *to == id(5) && message.command == HEAD), "to who connects");
    let (bytes, charge) = (first.block.bytes().clone(), Budget::default().nothing());
    let item = ItemId::of(&BLOCKS_TOPIC, &bytes);
    let event = GossipEvent::Item { topic: BLOCKS_TOPIC, id: item, bytes, from: id(4), charge };
    follower.chain.handle_command(now(), Command::Gossip(event));
    let mut said = follower.settle();
    let expected = payload::to_bytes(&Summary { height: 1, id: first.head.id });
    assert_eq!(said.heartbeat.as_deref(), Some(&expected[..]));
    // At once, or after a pause if something was told just now.
    follower.chain.handle_timeout(Now { mono: now().mono + Duration::from_millis(500), ..now() });
    said.told.extend(follower.settle().told);
    let mut told: Vec<_> = said.told.into_iter().filter(|(_, message)| message.command == HEAD).collect();
    told.sort_by_key(|(to, _)| *to);
    let mut everybody = [id(4), id(5)].map(|to| (to, Message::new(HEAD, expected.clone())));
    everybody.sort_by_key(|(to, _)| *to);
    assert_eq!(told, everybody);

    // What a heartbeat carries counts as a HEAD: it is asked for blocks.
    let mut follower = Follower::new();
    follower.network(up(4));
    let far = head_at(9).head;
    assert_eq!(follower.network(NetworkEvent::Heartbeat { peer: id(4), data: far }).requests.len(), 1);
    let nonsense = NetworkEvent::Heartbeat { peer: id(4), data: (&b"\xff"[..]).into() };
    assert_eq!(follower.network(nonsense).faults, [(id(4), Fault::UndecodablePayload)]);
}

#[test]
fn an_answer_with_other_blocks_is_a_fault() {
    let (_, [first, second]) = two_blocks();
    let (one, two) = (&first.block.bytes()[..], &second.block.bytes()[..]);
    let mut damaged = two.to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    for (story, items, height, fault) in [
        ("both", [one, two], 2, None),
        ("backwards", [two, one], 0, Some(Fault::BadSyncAnswer)),
        ("one twice", [one, one], 1, Some(Fault::BadSyncAnswer)),
        ("one without a certificate", [one, &damaged], 1, Some(Fault::InvalidBlock)),
        ("no block", [one, b"x"], 1, Some(Fault::InvalidBlock)),
    ] {
        let mut follower = Follower::new();
        let said = follower.is_answered(&items);
        let expected: Vec<_> = fault.map(|fault| (id(4), fault)).into_iter().collect();
        assert_eq!((said.faults, follower.chain.head().map(|head| head.height)), (expected, Some(height)), "{story}");
    }
}

#[test]
fn a_third_request_at_once_is_excess() {
    let (store, _) = two_blocks();
    let mut follower = Follower::over(store);
    follower.network(up(4));
    let wish = || Message::new(BLOCKS, payload::to_bytes(&BlocksRequest { from: 1, max_bytes: 1 }));
    (1..=3).for_each(|request| follower.chain.handle_network(now(), asked(4, request, wish())));
    let said = follower.settle();
    assert_eq!(said.faults, [(id(4), Fault::Excess)]);
    let mut bodies: Vec<_> = said.messages.iter().map(|message| message.body.is_some()).collect();
    bodies.sort();
    assert_eq!(bodies, [false, true, true], "the third is answered too, with nothing");
    assert_eq!(follower.network(asked(4, 4, wish())).faults, [], "once they are answered there is room again");
}

#[test]
fn gossip_is_judged_as_the_document_says() {
    let (store, [first, second]) = two_blocks();
    let mut follower = Follower::over(store);
    let mut judge = |topic, bytes: &[u8]| follower.judge(topic, bytes.to_vec());
    let next = forged(&second, |header| (header.height, header.parent) = (3, second.head.id));
    let mut damaged = next.bytes().to_vec();
    *damaged.last_mut().expect("not empty") ^= 1;
    assert_eq!(judge(BLOCKS_TOPIC, first.block.bytes()), Verdict::Ignore, "not above the head");
    assert_eq!(judge(BLOCKS_TOPIC, &damaged), Verdict::Reject);
    assert_eq!(judge(BLOCKS_TOPIC, next.bytes()), Verdict::Accept, "before it is executed, which will fail");

    let topic = TRANSACTIONS_TOPIC;
    let good = tx(1, 2, vec![put("other", "", 0)]);
    assert_eq!([judge(topic, &good.bytes), judge(topic, &good.bytes)], [Verdict::Accept; 2], "new, and known");
    let mut unsigned = good.bytes.to_vec();
    *unsigned.last_mut().expect("not empty") ^= 1;
    for bad in [&unsigned[..], b"x", &vec![0; 300_000], &tx_of_another_chain()] {
        assert_eq!(judge(topic, bad), Verdict::Reject, "{} bytes", bad.len());
    }
    for (story, tx) in [
        ("in the chain", Arc::clone(&first.block.transactions()[0])),
        ("nonce spent", tx(1, 0, vec![put("x", "", 0)])),
        ("nonce taken", tx(1, 2, vec![put("x", "", 0)])),
        ("too far ahead", tx(1, 99, vec![put("x", "", 0)])),
        ("a stale version", tx(1, 3, vec![put("key", "", 1)])),
    ] {
        assert_eq!(judge(topic, &tx.bytes), Verdict::Ignore, "{story}");
    }
}

/// Both count heights alike: a block above the head may hold it, or none ever will.
#[test]
fn a_transaction_expires_with_the_last_block_that_may_hold_it() {
    let (store, [_, second]) = two_blocks();
    assert_eq!(second.head.height, 2);
    let until = |valid_until| {
        let body =
            TransactionBody { chain_id: 7, account: account(2), nonce: 0, valid_until, ops: vec![put("x", "", 0)] };
        Transaction::sign(body, &keypair(2)).expect("valid").encode().expect("small")
    };
    let mut follower = Follower::over(store);
    assert_eq!(follower.judge(TRANSACTIONS_TOPIC, until(2).bytes.to_vec()), Verdict::Ignore, "block 3 may not hold it");
    assert_eq!(follower.judge(TRANSACTIONS_TOPIC, until(3).bytes.to_vec()), Verdict::Accept, "block 3 may");
    for (valid_until, blocks) in [(2, 0), (3, 1)] {
        let (store, _) = two_blocks();
        let built = store.build(vec![Arc::new(until(valid_until))], WALL, &keypair(PRODUCER)).expect("memory");
        assert_eq!(built.block.iter().count(), blocks, "and so says the producer of block 3: {valid_until}");
    }
}

fn tx_of_another_chain() -> Vec<u8> {
    let mut tx = tx(1, 2, vec![put("other", "", 0)]).tx.clone();
    tx.body.chain_id = 8;
    tx.encode().expect("small").bytes.to_vec()
}

#[test]
fn gossip_has_a_second_before_blocks_are_asked_for() {
    let (_, [first, _]) = two_blocks();
    let mut follower = Follower::new();
    follower.network(up(4));
    let close = Message::new(HEAD, payload::to_bytes(&Summary { height: 1, id: first.head.id }));
    assert!(follower.network(notified(4, close)).requests.is_empty());
    let later = Now { mono: now().mono + Duration::from_secs(1), ..now() };
    assert_eq!(follower.chain.next_timeout(), Some(later.mono));
    follower.chain.handle_timeout(later);
    assert_eq!(follower.settle().requests.len(), 1);
}

/// The whole overlay, since gossip says one and chain the other; both go out in one class, so in this order.
#[test]
fn a_node_subscribes_before_it_tells_its_head() {
    let budget = Budget::default();
    let discovery =
        DiscoveryConfig::new(Arc::new(keypair(1)), genesis().network_id(), Seed::from_u64(1), budget.clone());
    let chain = Chain::new(genesis(), Config::default(), &budget).expect("no producer");
    let gossip = Gossip::new(GossipConfig::default(), &budget);
    let mut node = Overlay::new(Discovery::new(discovery, now()), gossip, chain);
    let (mut store, _) = two_blocks();
    let mut told = |node: &mut Overlay| {
        let mut told = Vec::new();
        while let Some(action) = node.poll_action() {
            match action {
                Action::Store(id, job) => node.handle_done(now(), id, Done::Stored(job.run(&mut store))),
                Action::Send { message, .. } if [SUBSCRIBE, HEAD].contains(&message.command) => {
                    told.push(message.command);
                }
                _ => {}
            }
        }
        told
    };
    assert_eq!(told(&mut node), [], "nobody is there to be told");
    node.handle_network(now(), up(4));
    assert_eq!(told(&mut node), [SUBSCRIBE, HEAD], "to who comes later");

    // To who is there before the store is open, and before gossip knows what the chain wants.
    let chain = Chain::new(genesis(), Config::default(), &budget).expect("no producer");
    let discovery =
        DiscoveryConfig::new(Arc::new(keypair(1)), genesis().network_id(), Seed::from_u64(1), budget.clone());
    let mut node = Overlay::new(Discovery::new(discovery, now()), Gossip::new(GossipConfig::default(), &budget), chain);
    node.handle_network(now(), up(4));
    let told = told(&mut node);
    let first = told.iter().position(|command| *command == HEAD).expect("a head");
    assert!(told[..first].contains(&SUBSCRIBE) && !told[first..].contains(&SUBSCRIBE), "{told:?}");
}
