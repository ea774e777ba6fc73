//! More than a peer may send.

use std::sync::Arc;

use peerage_core::*;
use peerage_transport::{
    driver::Clock,
    proto::{
        connection::{
            SecureConnection,
            commands::{Answer, Beat, PING, PONG},
            credit::{cost, window},
        },
        inflow::InflowConfig,
    },
};
use peerage_wire::{Envelope, Limits, payload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    hand::{ATTACKER, Hand, Raw, victim_and_friend},
    stage::{Stage, by_us, in_time},
    victim::{BULK, ITEM, LIMITS, NOTE, Plan, Saw, UNHEARD_OF, VOTE, configuration, keypair},
};

/// A victim that gives no credit back within the time of a story, beyond `burst` bytes of a class.
fn miser(burst: u64) -> Plan {
    let mut plan = Plan::new();
    plan.driver.inflow = InflowConfig { rate: PerClass([1; 5]), burst: PerClass([burst; 5]) };
    plan
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_the_window_of_any_class_ends_the_connection() {
    const EACH: usize = 16_000;
    for command in [VOTE, NOTE, ITEM, BULK] {
        let stage = Stage::set().await;
        let (mut victim, mut friend) = victim_and_friend(miser(4096)).await;
        let mut hand = victim.meets(ATTACKER).await;
        let fits = window(command.class()) / cost(EACH);
        for _ in 0..=fits + 1 {
            hand.notify(&Message::new(command, vec![7; EACH])).await;
        }
        assert_eq!(hand.told_why().await, Some(CloseReason::CreditExceeded), "{command:?}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::CreditExceeded));
        stage.ended(CloseReason::CreditExceeded, 1).await;
        friend.is_served().await;
        victim.ends_clean([friend]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_empty_messages_is_not_free() {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(miser(4096)).await;
    let mut hand = victim.meets(ATTACKER).await;
    let empty = Message::new(NOTE, vec![]);
    let mut plaintext = Vec::new();
    (0..1000).for_each(|_| peerage_wire::encode_frame(&empty, Envelope::Notification, &mut plaintext));
    for _ in 0..=window(Class::Signal) / cost(0) / 1000 + 1 {
        hand.send(peerage_wire::RecordKind::Data, &plaintext).await;
    }
    assert_eq!(hand.told_why().await, Some(CloseReason::CreditExceeded));
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::CreditExceeded));
    stage.ended(CloseReason::CreditExceeded, 1).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_have_a_burst_of_thirty_two() {
    let beat = payload::to_bytes(&Beat { nonce: 1, data: vec![] });
    let pong = payload::to_bytes(&Answer { nonce: 1, wall: UnixMillis(0), data: vec![] });
    let later = Command::new(Layer::Transport, 30, Class::Control);
    for (command, head, skipped) in [(PING, &beat, 0), (PONG, &pong, 0), (later, &beat, 32)] {
        let stage = Stage::set().await;
        let (mut victim, mut friend) = victim_and_friend(Plan::new()).await;
        let mut hand = victim.meets(ATTACKER).await;
        // Some to spare, should the machine be so slow that a second passes meanwhile.
        for _ in 0..200 {
            hand.notify(&Message::new(command, head.clone())).await;
        }
        assert_eq!(hand.told_why().await, Some(CloseReason::CreditExceeded), "{command:?}");
        assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::CreditExceeded));
        let counted = stage.counted();
        assert_eq!(counted.get(&by_us(CloseReason::CreditExceeded, 1).0), Some(&1));
        let dropped = counted.get(&dropped_as_unknown(1).0).copied().unwrap_or(0);
        assert!(dropped >= skipped && counted.len() == 1 + usize::from(skipped > 0), "{counted:?}");
        friend.is_served().await;
        victim.ends_clean([friend]).await;
    }
}

/// An honest connection machine, which never sends more than it has credit for, driven as hard as it goes.
struct Greedy {
    machine: SecureConnection,
    stream: tokio::net::TcpStream,
    clock: Clock,
    budget: Budget,
    account: Account,
    id: NodeId,
}

impl Greedy {
    async fn dial(addr: std::net::SocketAddr) -> Self {
        Self::dial_knowing(addr, LIMITS).await
    }

    /// Knows these commands, which may be others than the victim knows.
    async fn dial_knowing(addr: std::net::SocketAddr, commands: &[(Command, u32)]) -> Self {
        let budget = Budget::new(1 << 30);
        let clock = Clock::start();
        let mut config = configuration(keypair(ATTACKER), budget.clone());
        config.limits = Arc::new(Limits::new(&[commands]));
        let id = config.keypair.node_id();
        let machine = SecureConnection::new(Arc::new(config), true, addr, None, clock.now(), SecretRng::from_os());
        let stream = Raw::connect(addr).await.0;
        let account = Budget::account(1 << 30);
        let mut this = Self { machine, stream, clock, budget, account, id };
        while !this.turn().await.iter().any(|event| matches!(event, ConnectionEvent::Established(_))) {}
        this
    }

    fn queue(&mut self, message: Message) {
        let resident = Arc::new(self.budget.charge(Pool::Outbound, message.len()).expect("room enough").into());
        let owed = self.account.owe(message.len()).expect("room enough");
        let outbound = Outbound { message, resident, owed };
        self.machine.handle_command(self.clock.now(), ConnectionCommand::Notify(outbound));
    }

    async fn flush(&mut self) {
        let mut bytes = Vec::new();
        while self.machine.poll_transmit(self.clock.now(), &mut bytes, 1 << 20) {}
        in_time("room in the socket", self.stream.write_all(&bytes)).await.expect("a stream");
    }

    /// Writes what may be written, reads what is there.
    async fn turn(&mut self) -> Vec<ConnectionEvent> {
        self.flush().await;
        let mut buffer = vec![0; 64 << 10];
        let count = in_time("bytes", self.stream.read(&mut buffer)).await.expect("a stream");
        assert!(count > 0, "the stream ended");
        self.machine.handle_bytes(self.clock.now(), &buffer[..count]);
        std::iter::from_fn(|| self.machine.poll_event()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_within_its_credit_makes_the_stack_work_no_more_than_a_peer_may_make_it() {
    const EACH: usize = 16_000;
    const BURST: usize = 1 << 20;
    for command in [VOTE, NOTE, ITEM, BULK] {
        let stage = Stage::set().await;
        let (mut victim, mut friend) = victim_and_friend(miser(BURST as u64)).await;
        let mut greedy = Greedy::dial(victim.addr).await;
        for _ in 0..2 * (window(command.class()) + BURST) / EACH {
            greedy.queue(Message::new(command, vec![7; EACH]));
        }
        let most = (window(command.class()) + BURST) / cost(EACH);
        // The last quarter of a window is not worth a grant.
        let least = (window(command.class()) / 4 * 3 + BURST) / cost(EACH) - 1;
        let mut got = 0;
        while got < least {
            greedy.flush().await;
            tokio::select! {
                saw = victim.see("a message", |saw| matches!(saw, Saw::Message(..))) => {
                    assert_eq!(saw, Saw::Message(greedy.id, command));
                    got += 1;
                }
                _ = greedy.turn() => {}
            }
        }
        friend.is_served().await;
        got += victim.rest().iter().filter(|saw| matches!(saw, Saw::Message(..))).count();
        assert!(got <= most, "{command:?}: {got} of {most}");
        assert!(victim.handle.links().iter().any(|link| link.peer == Some(greedy.id)), "it broke no rule");
        assert_eq!(stage.counted(), std::collections::BTreeMap::new());
        drop(greedy);
        victim.ends_clean([friend]).await;
    }
}

/// More of a message than the window of its class, all of it before any of the credit comes back; so many are counted as
/// dropped of those that came before the one too much.
async fn flood_of_what_is_skipped(message: Message, envelope: Envelope, counted: bool) {
    let stage = Stage::set().await;
    let (mut victim, mut friend) = victim_and_friend(miser(4096)).await;
    let mut hand = victim.meets(ATTACKER).await;
    let fits = window(message.command.class()) / cost(message.len());
    for _ in 0..=fits + 1 {
        hand.send_message(&message, envelope).await;
    }
    assert_eq!(hand.told_why().await, Some(CloseReason::CreditExceeded));
    assert_eq!(victim.see_down(hand.id).await, Closed::by_us(CloseReason::CreditExceeded));
    let dropped = if counted { fits as u64 } else { 0 };
    let expected = [by_us(CloseReason::CreditExceeded, 1), dropped_as_unknown(dropped)];
    stage.counts(expected).await;
    friend.is_served().await;
    victim.ends_clean([friend]).await;
}

fn dropped_as_unknown(times: u64) -> (String, u64) {
    crate::stage::dropped(DropReason::UnknownCommand, times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_unknown_commands_beyond_the_window_ends_the_connection() {
    flood_of_what_is_skipped(Message::new(UNHEARD_OF, vec![7; 16_000]), Envelope::Notification, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_answers_that_nobody_asked_for_beyond_the_window_ends_the_connection() {
    flood_of_what_is_skipped(Message::new(NOTE, vec![7; 16_000]), Envelope::Response(1), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_commands_within_the_window_are_skipped_and_their_sender_is_served() {
    let stage = Stage::set().await;
    let (victim, mut friend) = victim_and_friend(miser(4096)).await;
    let mut hand = Hand::shake(victim.addr, ATTACKER).await;
    for _ in 0..20 {
        hand.notify(&Message::new(UNHEARD_OF, vec![7; 16_000])).await;
    }
    hand.is_served().await;
    stage.counts([dropped_as_unknown(20)]).await;
    friend.is_served().await;
    victim.ends_clean([hand, friend]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_a_later_version_gets_its_credit_back_at_the_rate_of_others() {
    const EACH: usize = 16_000;
    const BURST: usize = 1 << 20;
    let stage = Stage::set().await;
    let (victim, mut friend) = victim_and_friend(miser(BURST as u64)).await;
    let mut greedy = Greedy::dial_knowing(victim.addr, &[(UNHEARD_OF, 32 << 10)]).await;
    let window = window(UNHEARD_OF.class());
    for _ in 0..2 * (window + BURST) / EACH {
        greedy.queue(Message::new(UNHEARD_OF, vec![7; EACH]));
    }
    // The last quarter of a window is not worth a grant.
    let (least, most) = ((window / 4 * 3 + BURST) / cost(EACH) - 1, (window + BURST) / cost(EACH));
    let skipped = || stage.counted().get(&dropped_as_unknown(1).0).copied().unwrap_or(0);
    let sending = async {
        while skipped() < least as u64 {
            greedy.flush().await;
            tokio::select! {
                _ = greedy.turn() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(2)) => {}
            }
        }
    };
    in_time("credit that comes back", sending).await;
    greedy.flush().await;
    friend.is_served().await;
    assert!(skipped() <= most as u64, "{} of {most}", skipped());
    assert!(victim.handle.links().iter().any(|link| link.peer == Some(greedy.id)), "it broke no rule");
    drop(greedy);
    victim.ends_clean([friend]).await;
}
