//! Compressed bodies between whole stacks.

use peerage_core::Message;
use peerage_transport::proto::connection::COMPRESSION;

use crate::{
    harness::{Net, PATIENCE, Plan, eventually},
    probe::{BULK, Do, ECHO, ITEM, VOTE},
};

const LEN: usize = 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_to_many_goes_compressed_to_those_who_take_it_so_and_arrives_the_same_everywhere() {
    let offering = |mut plan: Plan| {
        plan.features = COMPRESSION;
        plan
    };
    let repeated = |word: &[u8], len: usize| word.iter().copied().cycle().take(len).collect::<Vec<_>>();
    for net in Net::all() {
        let mut hub = offering(Plan::new(1)).start(&net).await;
        let mut takers = Vec::new();
        for number in 2..5 {
            takers.push(offering(Plan::knowing(number, [hub.known()])).start(&net).await);
        }
        let mut plain = Plan::knowing(5, [hub.known()]).start(&net).await;
        for node in takers.iter_mut().chain([&mut plain]) {
            hub.see_up(node.id).await;
            node.see_up(hub.id).await;
        }
        let sent = || hub.handle.bandwidth().sent;
        for (command, word) in [(ITEM, &b"an item repeats itself; "[..]), (BULK, b"so does a block of old; ")] {
            let message = Message::with_body(command, &b"head"[..], repeated(word, LEN));
            let before = sent();
            hub.order(Do::Send(takers.iter().map(|node| node.id).collect(), message.clone())).await;
            for node in &mut takers {
                assert!(node.see_message(hub.id, command).await == message, "not the same megabyte");
            }
            let cost = sent() - before;
            assert!(cost < LEN as u64 / 5, "{cost} bytes for three megabytes");
            hub.order(Do::Send(vec![plain.id], message.clone())).await;
            assert!(plain.see_message(hub.id, command).await == message);
            // What is written is counted just after.
            eventually("who did not offer it gets it as it is", || sent() - before > LEN as u64).await;
        }
        let vote = Message::with_body(VOTE, &b"head"[..], repeated(b"yes ", 60_000));
        let before = sent();
        hub.order(Do::Send(vec![takers[0].id], vote.clone())).await;
        assert!(takers[0].see_message(hub.id, VOTE).await == vote);
        eventually("nobody said that votes are public", || sent() - before > 60_000).await;
        // Nor does it change what a question gets.
        hub.order(Do::Request(takers[0].id, 1, Message::new(ECHO, "one"), PATIENCE)).await;
        assert_eq!(hub.see_response(1).await, Ok(Message::new(ECHO, "one")));
        let budget = hub.budget.clone();
        eventually("all that was kept for it is given back", || budget.report().resident == 0).await;
        for node in takers.into_iter().chain([plain, hub]) {
            node.handle.shutdown().await;
        }
    }
}
