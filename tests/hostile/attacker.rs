//! A peer under a key of its own that says whatever the story wants, and tells what it hears.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use peerage::runtime::magic;
use peerage_chain::proto::{BLOCKS, HEAD, TRANSACTIONS};
use peerage_core::*;
use peerage_discovery::{FIND, NODES, RECORD};
use peerage_gossip::{ITEM, SUBSCRIBE};
use peerage_transport::{
    driver::{self, DriverConfig, Handle, NoiseChannel, TcpFabric},
    proto::{
        connection::ConnectionConfig,
        managed::{Managed, ManagedCommand, ManagedEvent},
        peer_manager::{AddressPolicy, KnownPeer, PeerManager, PeerManagerConfig},
    },
};
use peerage_wire::{Limits, payload};
use tokio::sync::mpsc;

use crate::{
    stage::{PATIENCE, in_time},
    victim::{Victim, keypair},
};

/// What an attacker hears.
#[derive(Debug)]
enum Heard {
    Up,
    Down(Closed),
    DialFailed(Closed),
    Message(Message),
    Response(RequestId, Result<Message, RequestError>),
}

/// What the story makes it do.
enum Do {
    Send(Message),
    Request(RequestId, Message),
}

/// Gives the answer to a request; `None` for silence.
type Answer = Box<dyn FnMut(&Message) -> Option<Message> + Send>;

/// No protocol at all: a mouth and two ears.
struct Puppet {
    victim: NodeId,
    answer: Answer,
    actions: VecDeque<Action<Self>>,
}

impl Protocol for Puppet {
    type Command = Do;
    type Event = Heard;
    type Storage = NoJob;
    type Compute = NoJob;

    fn handle_network(&mut self, _: Now, event: NetworkEvent) {
        let heard = match event {
            NetworkEvent::PeerUp { .. } => Heard::Up,
            NetworkEvent::PeerDown { closed, .. } => Heard::Down(closed),
            NetworkEvent::DialFailed { closed, .. } => Heard::DialFailed(closed),
            NetworkEvent::Message { message, .. } => Heard::Message(message),
            NetworkEvent::Request { id, message, .. } => {
                if let Some(message) = (self.answer)(&message) {
                    self.actions.push_back(Action::Respond { to: self.victim, id, message });
                }
                Heard::Message(message)
            }
            NetworkEvent::Response { id, result, .. } => Heard::Response(id, result.map(|(message, _)| message)),
            _ => return,
        };
        self.actions.push_back(Action::Emit(heard));
    }

    fn handle_command(&mut self, _: Now, what: Do) {
        self.actions.push_back(match what {
            Do::Send(message) => Action::Send { to: vec![self.victim], message },
            Do::Request(id, message) => Action::Request { to: self.victim, id, message, timeout: PATIENCE },
        });
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn handle_done(&mut self, _: Now, _: JobId, done: Done<Self>) {
        match done {
            Done::Stored(never) | Done::Computed(never) => match never {},
        }
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        self.actions.pop_front()
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        None
    }
}

/// The answer of somebody who knows nothing.
pub(crate) fn answer(request: &Message) -> Option<Message> {
    match request.command {
        FIND => Some(Message::new(NODES, payload::to_bytes(&[0_u8; 0].as_slice()))),
        BLOCKS => Some(Message::new(BLOCKS, payload::to_bytes(&[0_u32; 0].as_slice()))),
        _ => None,
    }
}

/// A connected attacker.
pub(crate) struct Attacker {
    handle: Handle<Managed<Puppet>>,
    heard: mpsc::UnboundedReceiver<Heard>,
    asked: u64,
}

impl Attacker {
    /// Connects; knows no node and no block when asked.
    pub(crate) async fn connect(victim: &Victim, number: u8) -> Self {
        Self::connect_answering(victim, number, answer).await
    }

    /// Connects, and answers requests in this way.
    pub(crate) async fn connect_answering(
        victim: &Victim,
        number: u8,
        answer: impl FnMut(&Message) -> Option<Message> + Send + 'static,
    ) -> Self {
        let mut attacker = Self::dial(victim, number, Box::new(answer)).await;
        match attacker.next("the connection").await {
            Heard::Up => attacker,
            other => panic!("{other:?}"),
        }
    }

    /// Connects in vain.
    pub(crate) async fn is_refused(victim: &Victim, number: u8) -> Closed {
        let mut attacker = Self::dial(victim, number, Box::new(answer)).await;
        loop {
            match attacker.next("a refusal").await {
                Heard::DialFailed(closed) | Heard::Down(closed) => return closed,
                Heard::Up => {} // admitted by itself, and then sent away
                other => panic!("{other:?}"),
            }
        }
    }

    async fn dial(victim: &Victim, number: u8, answer: Answer) -> Self {
        let keypair = keypair(number);
        let id = keypair.node_id();
        // Its own limits keep it from nothing.
        let commands = [RECORD, FIND, NODES, ITEM, SUBSCRIBE, HEAD, TRANSACTIONS, BLOCKS];
        let limits = Limits::new(&[&commands.map(|command| (command, u32::MAX))]);
        let driver = DriverConfig::default();
        let connection = ConnectionConfig::new(
            Arc::new(keypair),
            victim.genesis.network_id(),
            magic(&victim.genesis),
            Arc::new(limits),
            driver.budget.clone(),
            &mut SecretRng::from_os(),
        );
        let peers = PeerManagerConfig {
            addresses: AddressPolicy::Loopback,
            reserved: vec![KnownPeer { peer: victim.id, addrs: vec![victim.addr] }],
            ..PeerManagerConfig::new(id)
        };
        let peers = PeerManager::new(peers, &Seed::from_u64(u64::from(number)));
        let puppet = Puppet { victim: victim.id, answer, actions: VecDeque::new() };
        let fabric = TcpFabric::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let channel = Arc::new(NoiseChannel::new(Arc::new(connection)));
        let (sender, heard) = mpsc::unbounded_channel();
        let stack = Stack::new(Managed::new(peers, puppet));
        let handle = driver::spawn(driver, Arc::new(fabric), channel, stack, (), move |event| {
            if let ManagedEvent::Upper(heard) = event {
                // The story may have heard enough.
                let _unheard = sender.send(heard);
            }
        });
        Self { handle: handle.expect("threads can be started"), heard, asked: 0 }
    }

    async fn next(&mut self, what: &str) -> Heard {
        in_time(what, self.heard.recv()).await.expect("the attacker lives")
    }

    async fn order(&self, what: Do) {
        self.handle.command(ManagedCommand::Upper(what)).await.expect("the attacker lives");
    }

    /// Says something.
    pub(crate) async fn says(&self, message: Message) {
        self.order(Do::Send(message)).await;
    }

    /// Asks something, and does not care for the answer.
    pub(crate) async fn demands(&mut self, message: Message) -> RequestId {
        self.asked += 1;
        let id = RequestId(self.asked);
        self.order(Do::Request(id, message)).await;
        id
    }

    /// Asks something; what it hears meanwhile is forgotten.
    pub(crate) async fn asks(&mut self, message: Message) -> Result<Message, RequestError> {
        let asked = self.demands(message).await;
        loop {
            match self.next("an answer").await {
                Heard::Response(id, result) if id == asked => return result,
                _ => {}
            }
        }
    }

    /// Waits for a message of this kind, or a request.
    pub(crate) async fn hears(&mut self, command: Command) -> Message {
        loop {
            match self.next("a message").await {
                Heard::Message(message) if message.command == command => return message,
                Heard::Down(closed) => panic!("sent away: {closed:?}"),
                _ => {}
            }
        }
    }

    /// Waits until it is sent away, and says what it was told.
    pub(crate) async fn is_told(&mut self) -> Closed {
        loop {
            if let Heard::Down(closed) = self.next("being sent away").await {
                return closed;
            }
        }
    }

    /// It is connected, and its questions are answered as those of anybody: who is close to this?
    pub(crate) async fn is_served(&mut self) {
        let message = Message::new(FIND, vec![7; 32]);
        let answer = self.asks(message).await.expect("an answer");
        assert_eq!(answer.command, NODES);
    }

    /// Its end, in peace.
    pub(crate) async fn leaves(self) {
        self.handle.shutdown().await;
    }
}

/// Time for what must not happen to happen; too short a pause hides a failure and never makes one.
pub(crate) async fn a_while() {
    tokio::time::sleep(Duration::from_millis(300)).await;
}
