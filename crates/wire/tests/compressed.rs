//! Compressed bodies: what arrives is what was sent, and what lies is refused at a bounded cost.
#![cfg(feature = "lz4")]

use core::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{Account, Budget, Class, CloseReason, Command, Layer, Message, Pool};
use peerage_wire::{
    DecodeError, Envelope, Fragmenter, Frame, FrameReader, Incoming, Limits, Reassembler, compress,
    limits::{MAX_CONTENT, MAX_PLAINTEXT, MESSAGE_OVERHEAD},
};
use proptest::{collection::vec, prelude::*, sample::Index};

const BLOCK: Command = Command::new(Layer::Application, 0, Class::Bulk);
const VOTE: Command = Command::new(Layer::Application, 1, Class::Bulk);
const LATER: Command = Command::new(Layer::Application, 2, Class::Bulk);
const LIMIT: usize = 200_000;

fn limits() -> Arc<Limits> {
    Arc::new(Limits::new(&[&[(BLOCK, LIMIT as u32), (VOTE, LIMIT as u32)]]).with_public(&[&[BLOCK]]))
}

fn reassembler(budget: &Budget) -> Reassembler {
    let mut reassembler = Reassembler::new(limits(), budget.clone());
    reassembler.unpack_bodies();
    reassembler
}

/// The frames of a message, one a record, its body compressed.
fn records(message: &Message, room: usize) -> Vec<Vec<u8>> {
    let mut fragments = Fragmenter::new(message.clone(), Envelope::Notification);
    let packed = compress::pack(message.body.as_ref().expect("one that has a body")).expect("a body worth it");
    fragments.send_packed(packed.into());
    let mut records = Vec::new();
    while !fragments.is_done() {
        let mut record = Vec::new();
        assert!(fragments.fill(room, &mut record) <= room);
        records.push(record);
    }
    records
}

fn take(reassembler: &mut Reassembler, records: &[Vec<u8>]) -> Result<Option<Incoming>, DecodeError> {
    let mut complete = None;
    for frame in records.iter().flat_map(|record| FrameReader::new(record)) {
        complete = reassembler.accept(frame?)?;
    }
    Ok(complete)
}

fn packed(command: Command, body_len: usize, packed: &[u8]) -> Frame<'_> {
    Frame::Packed { command, envelope: Envelope::Notification, head: b"head", body_len, packed }
}

/// Bytes that compress somewhat: words of a few letters.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![vec(any::<u8>(), 1..12), vec(0..3_u8, 1..40), Just(vec![7; 300])];
    vec(word, 1..400).prop_map(|words| words.concat())
}

/// A block made by the letter of the format, and what its parts add up to: literals, each time followed by a match among them,
/// and literals at the end.
fn block() -> impl Strategy<Value = (Vec<u8>, usize)> {
    let part = (vec(any::<u8>(), 1..15), any::<Index>(), 0..15_usize);
    (vec(part, 0..20), vec(any::<u8>(), 5..15)).prop_map(|(parts, end)| {
        let (mut block, mut len) = (Vec::new(), 0);
        for (literals, back, more) in parts {
            block.push((literals.len() << 4 | more) as u8);
            block.extend(&literals);
            block.extend([back.index(literals.len()) as u8 + 1, 0]);
            len += literals.len() + 4 + more;
        }
        block.push((end.len() << 4) as u8);
        block.extend(&end);
        (block, len + end.len())
    })
}

/// Of these lengths those to which the bytes unpack.
fn lengths(bytes: &[u8], among: Range<usize>) -> Vec<usize> {
    among.filter(|len| compress::unpack(bytes, *len).is_ok()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_packed_comes_back_however_it_is_cut(body in body(), head in vec(any::<u8>(), 0..100), room in 40..20_000_usize) {
        let Some(packed) = compress::pack(&body) else { return Ok(()) };
        prop_assert!(compress::saves(body.len() as u64, packed.len() as u64));
        let unpacked = compress::unpack(&packed, body.len());
        prop_assert_eq!(unpacked.as_ref(), Ok(&body));
        let (message, budget) = (Message::with_body(BLOCK, head, body), Budget::default());
        let mut reassembler = reassembler(&budget);
        let sent = records(&message, room);
        let wire: usize = sent.iter().map(Vec::len).sum();
        prop_assert!(room < 5_000 || wire < message.len(), "{wire} bytes for {}", message.len());
        let received = take(&mut reassembler, &sent).expect("valid").expect("complete");
        prop_assert_eq!(&received.message, &message);
        let cost = message.len() + MESSAGE_OVERHEAD;
        prop_assert_eq!((received.charge.bytes(), budget.report().resident, reassembler.held()), (cost, cost, 0));
    }

    #[test]
    fn a_block_unpacks_to_its_length_whole_and_to_no_other_however_it_is_changed(
        body in body(), at in any::<Index>(), bit in 0..8_u8, cut in any::<Index>(), announced in 0..40_000_usize,
    ) {
        let Some(good) = compress::pack(&body) else { return Ok(()) };
        let len = body.len();
        for announced in [len - 1, len, len + 1, announced] {
            let expected = if announced == len { Ok(body.clone()) } else { Err(DecodeError::Packed { body: announced }) };
            prop_assert_eq!(compress::unpack(&good, announced), expected);
        }
        let cut = &good[..cut.index(good.len())];
        prop_assert_eq!(compress::unpack(cut, len), Err(DecodeError::Packed { body: len }), "its end is missing");
        let mut changed = good.clone();
        changed[at.index(good.len())] ^= 1 << bit;
        prop_assert!(lengths(&changed, len.saturating_sub(300)..len + 300).len() <= 1);
    }

    #[test]
    fn arbitrary_bytes_are_a_block_of_one_length_or_of_none(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(lengths(&bytes, 0..4000).len() <= 1);
    }

    #[test]
    fn what_the_format_calls_a_block_unpacks_to_the_length_of_its_parts((block, len) in block()) {
        prop_assert_eq!(lengths(&block, 0..4000), [len]);
    }
}

#[test]
fn a_body_is_compressed_only_where_both_agreed_and_everybody_may_know_it() {
    let block = compress::pack(&[7; 5000]).expect("all the same");
    let budget = Budget::default();
    let mut plain = Reassembler::new(limits(), budget.clone());
    for frame in [packed(BLOCK, 5000, &block), packed(LATER, 5000, &block)] {
        assert_eq!(plain.accept(frame).map(drop), Err(DecodeError::Compressed), "nobody agreed");
    }
    let mut agreed = reassembler(&budget);
    assert_eq!(agreed.accept(packed(VOTE, 5000, &block)).map(drop), Err(DecodeError::NotPublic { command: VOTE }));
    let first = Frame::FirstPacked {
        command: VOTE,
        envelope: Envelope::Notification,
        head_len: 4,
        body_len: 5000,
        packed_len: block.len(),
        piece: b"h",
    };
    assert_eq!(agreed.accept(first).map(drop), Err(DecodeError::NotPublic { command: VOTE }), "its first piece tells");
    assert!(agreed.accept(packed(BLOCK, 5000, &block)).expect("public").is_some());
    assert!(agreed.accept(packed(LATER, 5000, &block)).expect("unknown, to be skipped").is_some());
    for error in [DecodeError::Compressed, DecodeError::NotPublic { command: VOTE }, DecodeError::Packed { body: 1 }] {
        assert_eq!(error.close_reason(), CloseReason::MalformedMessage);
    }
}

#[test]
fn a_bomb_is_refused_by_its_announced_length_before_anything_is_held() {
    let bomb = compress::pack(&vec![0; 2 << 20]).expect("all the same");
    assert!(bomb.len() < 10_000, "{} bytes make two million", bomb.len());
    let budget = Budget::default();
    let refused = reassembler(&budget).accept(packed(BLOCK, 2 << 20, &bomb)).map(drop);
    let len = (2 << 20) + 4;
    assert_eq!(refused, Err(DecodeError::MessageTooLong { command: BLOCK, len, limit: LIMIT }));
    assert_eq!(budget.report().peak, 0, "nothing was taken");
    // Who understates the length gets no further than that.
    assert_eq!(
        reassembler(&budget).accept(packed(BLOCK, 100_000, &bomb)).map(drop),
        Err(DecodeError::Packed { body: 100_000 })
    );
    assert!(budget.report().peak <= 100_004 + MESSAGE_OVERHEAD && budget.report().resident == 0);
}

#[test]
fn a_lie_about_the_length_costs_the_connection_and_no_more_than_was_announced() {
    let block = compress::pack(&[7; 50_000]).expect("all the same");
    for announced in [49_999, 50_001, LIMIT - 4] {
        let budget = Budget::default();
        let refused = reassembler(&budget).accept(packed(BLOCK, announced, &block)).map(drop);
        assert_eq!(refused, Err(DecodeError::Packed { body: announced }));
        assert_eq!((budget.report().peak, budget.report().resident), (announced + 4 + MESSAGE_OVERHEAD, 0));
    }
}

#[test]
fn a_full_budget_leaves_the_last_piece_where_it_is_until_there_is_room() {
    let message = Message::with_body(BLOCK, &b"head"[..], [&[7; 90_000][..], &(0..90_u8).collect::<Vec<_>>()].concat());
    let pieces = records(&message, 100);
    assert!(pieces.len() > 2, "{}", pieces.len());
    let budget = Budget::with_shares(32 << 20);
    let inbox = budget.limit(Pool::Inbox);
    let other = budget.charge(Pool::Inbox, inbox).expect("an empty ledger");
    let mut reassembler = reassembler(&budget);
    let (last, before) = pieces.split_last().expect("some pieces");
    assert!(take(&mut reassembler, before).expect("room in the other pool").is_none());
    let held = (reassembler.held(), budget.report().resident);
    for _ in 0..3 {
        let refused = take(&mut reassembler, std::slice::from_ref(last)).map(drop);
        assert!(matches!(refused, Err(DecodeError::OverBudget(_))), "{refused:?}");
        assert_eq!((reassembler.held(), budget.report().resident), held, "refused, but something changed");
    }
    assert!(held.0 < 2_000, "what waits is what came, not what it will be: {}", held.0);
    drop(other);
    let received = take(&mut reassembler, std::slice::from_ref(last)).expect("room").expect("complete");
    assert_eq!((received.message, reassembler.held()), (message, 0));
}

#[test]
fn the_longest_message_may_be_compressed_too() {
    let limits = Limits::new(&[&[(BLOCK, u32::MAX)]]).with_public(&[&[BLOCK]]);
    let mut reassembler = Reassembler::new(Arc::new(limits), Budget::default());
    reassembler.unpack_bodies();
    // As long as a body of this length can be and still be worth it: noise, then zeros.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let mut body: Vec<u8> = (0..MAX_CONTENT - 4).map(|_| noise()).collect();
    body[..MAX_CONTENT / 9].fill(0);
    let message = Message::with_body(BLOCK, &b"head"[..], Bytes::from(body));
    let received = take(&mut reassembler, &records(&message, MAX_PLAINTEXT)).expect("valid").expect("complete");
    assert_eq!(received.message, message);
}

#[test]
fn what_came_compressed_in_pieces_counts_as_completed_as_other_messages_do_and_a_lie_does_not() {
    let body = [&[7; 90_000][..], &(0..90_u8).collect::<Vec<_>>()].concat();
    let message = Message::with_body(BLOCK, &b"head"[..], body);
    let budget = Budget::default();
    let sender = |account: &Account| {
        budget.enter(account);
        let mut reassembler = reassembler(&budget);
        reassembler.charge_to(account.clone());
        reassembler
    };
    let (honest, liar) = (Budget::account(1 << 20), Budget::account(1 << 20));
    let pieces = records(&message, 100);
    let arrives: usize = pieces.iter().map(Vec::len).sum();

    let mut reassembler = sender(&honest);
    let (last, before) = pieces.split_last().expect("some pieces");
    assert!(take(&mut reassembler, before).expect("room").is_none());
    assert_eq!(honest.completed(), 0, "some of it is missing");
    let received = take(&mut reassembler, std::slice::from_ref(last)).expect("valid").expect("complete");
    let most = (2 * arrives + MESSAGE_OVERHEAD) as u64;
    assert!((MESSAGE_OVERHEAD as u64 + 1..=most).contains(&honest.completed()), "{} of {arrives}", honest.completed());
    let held = (honest.held(Pool::Reassembly), honest.held(Pool::Inbox));
    assert_eq!(held, (0, message.len() + MESSAGE_OVERHEAD), "what it is now is paid for, and that alone");
    assert_eq!((received.message, budget.report().resident), (message, held.1));

    let block = compress::pack(&[7; 50_000]).expect("all the same");
    let (command, envelope, body_len, packed_len) = (BLOCK, Envelope::Notification, 50_001, block.len());
    let (piece, rest) = block.split_at(1);
    let mut reassembler = sender(&liar);
    let begun = reassembler.accept(Frame::FirstPacked { command, envelope, head_len: 0, body_len, packed_len, piece });
    assert!(begun.expect("as long as it may be").is_none());
    let refused = reassembler.accept(Frame::Next { command, last: true, piece: rest }).map(drop);
    assert_eq!(refused, Err(DecodeError::Packed { body: body_len }));
    assert_eq!(liar.completed(), 0);
}
