//! Each state of a connection, each input, and what must come of it. The table is an exhaustive match: a state or an input
//! without a row does not compile.

use core::{net::SocketAddr, time::Duration};
use std::sync::Arc;

use bytes::Bytes;
use peerage_core::{
    Account, Budget, Charge, Class, CloseReason, Closed, Command, Connection, ConnectionCommand, ConnectionEvent,
    DialKey, DropReason, Layer, Message, Now, Outbound, Pool, RequestError,
};
use peerage_wire::{Envelope, RecordKind, encode_frame, payload};

use super::{
    super::{
        SecureConnection, State,
        commands::{Beat, PING},
        handshake::{Pattern, Step},
    },
    hand::{Hand, clear, config, preamble, secrets},
};
use Place::*;

/// An enum and the list of all its values.
macro_rules! listed {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum $name { $($(#[$note])* $variant,)* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

listed! {
    /// Where a connection can be.
    Place {
        Preamble,
        First,
        FirstOfIk,
        Second,
        SecondOfIk,
        Third,
        Confirming,
        /// The same, and message 1 asked something.
        Asked,
        /// Open, and nothing came yet: the first bytes may be a refusal in clear.
        Unconfirmed,
        Open,
        Paused,
        /// It is over, and the runner is still to be told.
        Ending,
        Closed,
    }
}

listed! {
    /// What can happen to it.
    Input {
        PreambleOfXx,
        PreambleOfIk,
        /// The message that is due; where none is, any.
        Handshake,
        /// The same with a question, which message 1 of IK may ask.
        Question,
        /// A message, or a record, that does not authenticate.
        Forged,
        Refuse,
        Data,
        Close,
        Retry,
        /// What no peer of this network says.
        Garbage,
        StreamEnd,
        /// The moment that `next_timeout` names.
        Timeout,
        /// Two minutes, all at once.
        LongTimeout,
        AskNotify,
        AskRequest,
        AskRespond,
        AskConsumed,
        AskHeartbeat,
        AskAccount,
        AskShed,
        /// To read nothing for now.
        AskListen,
        AskClose,
    }
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Stays,
    To(Place),
    /// It stays, and the request that was the input fails at once.
    Fails(RequestError),
    Ends(Closed, Says),
}
use Outcome::{Ends, Fails, Stays, To};

/// What the other side is told of the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Nothing,
    /// In clear.
    Refuse,
    /// Under keys.
    Close,
}

const ITEM: Command = Command::new(Layer::Application, 1, Class::Gossip);

const fn us(reason: CloseReason, says: Says) -> Outcome {
    Ends(Closed::by_us(reason), says)
}

const fn them(reason: CloseReason) -> Outcome {
    Ends(Closed::by_them(reason), Says::Nothing)
}

fn expected(place: Place, input: Input) -> Outcome {
    use CloseReason::{
        BadHandshake, BadRecord, HandshakeTimeout, HeartbeatTimeout, OverBudget, RecordTooLong, Requested, Shutdown,
        StreamEnded, UnexpectedRecord, WrongMagic,
    };
    use Input::*;
    match (input, place) {
        // What is over is over. What comes while memory is short waits.
        (
            PreambleOfXx | PreambleOfIk | Handshake | Question | Forged | Refuse | Data | Close | Retry | Garbage,
            Paused | Ending | Place::Closed,
        ) => Stays,

        (PreambleOfXx, Preamble) => To(First),
        (PreambleOfIk, Preamble) => To(FirstOfIk),
        (Handshake, First) => To(Third),
        (Handshake, FirstOfIk) => To(Confirming),
        (Question, FirstOfIk) => To(Asked),
        (AskRespond, Asked) => To(Confirming),
        // Only message 1 of IK has words.
        (Question, First | Second) => us(BadHandshake, Says::Refuse),
        (Question, SecondOfIk | Third) => us(BadHandshake, Says::Close),
        (Handshake, Second | SecondOfIk | Third) => To(Open),
        (Retry, SecondOfIk) => To(Second),
        (Data, Confirming | Asked) => To(Open),
        (Data, Unconfirmed | Open) => Stays,
        // It may have been made for a key that we had once.
        (Forged, FirstOfIk) => To(First),

        (Handshake | Question | Forged | Data | Close | Retry, Preamble) => us(UnexpectedRecord, Says::Nothing),
        (PreambleOfXx | PreambleOfIk | Data | Close, First | FirstOfIk | Second | SecondOfIk | Third)
        | (Retry, First | FirstOfIk | Second | Third) => us(UnexpectedRecord, Says::Refuse),
        (PreambleOfXx | PreambleOfIk | Handshake | Question | Retry, Confirming | Asked | Unconfirmed | Open)
        | (Refuse, Open) => us(UnexpectedRecord, Says::Close),
        (Refuse, Preamble | First | FirstOfIk | Second | SecondOfIk | Third | Confirming | Asked | Unconfirmed) => {
            them(Shutdown)
        }
        (Close, Confirming | Asked | Unconfirmed | Open) => them(Shutdown),
        (Forged, First | Second | SecondOfIk | Third) => us(BadHandshake, Says::Refuse),
        (Forged, Confirming | Asked | Unconfirmed | Open) => us(BadRecord, Says::Close),
        (Garbage, Preamble | First | FirstOfIk | Second | SecondOfIk | Third) => us(WrongMagic, Says::Nothing),
        (Garbage, Confirming | Asked | Unconfirmed | Open) => us(RecordTooLong, Says::Close),

        (StreamEnd, Ending | Place::Closed) => Stays,
        (
            StreamEnd,
            Preamble | First | FirstOfIk | Second | SecondOfIk | Third | Confirming | Asked | Unconfirmed | Open
            | Paused,
        ) => Ends(Closed::by_network(StreamEnded), Says::Nothing),
        (Timeout | LongTimeout, Preamble) => us(HandshakeTimeout, Says::Nothing),
        (Timeout | LongTimeout, First | FirstOfIk | Second | SecondOfIk | Third) => us(HandshakeTimeout, Says::Refuse),
        (Timeout | LongTimeout, Confirming | Asked) => us(HandshakeTimeout, Says::Close),
        // A ping; another try; nothing.
        (Timeout, Unconfirmed | Open | Paused | Ending | Place::Closed) | (LongTimeout, Ending | Place::Closed) => {
            Stays
        }
        (LongTimeout, Unconfirmed | Open) => us(HeartbeatTimeout, Says::Close),
        (LongTimeout, Paused) => us(OverBudget, Says::Close),

        (AskRequest, Preamble | First | FirstOfIk | Second | SecondOfIk | Third | Confirming | Asked) => {
            Fails(RequestError::Dropped(DropReason::NotConnected))
        }
        (AskRequest, Unconfirmed | Open | Paused | Place::Closed) => Stays,
        (AskRequest, Ending) => Fails(RequestError::Closed(Closed::by_network(StreamEnded))),
        (
            AskNotify | AskRespond | AskConsumed | AskHeartbeat | AskAccount | AskShed,
            Preamble
            | First
            | FirstOfIk
            | Second
            | SecondOfIk
            | Third
            | Confirming
            | Asked
            | Unconfirmed
            | Open
            | Paused
            | Ending
            | Place::Closed,
        ) => Stays,
        // Reading is asked for of peers alone; what does not read for that cannot be told from what waits for memory.
        (AskListen, Unconfirmed | Open) => To(Paused),
        (
            AskListen,
            Preamble
            | First
            | FirstOfIk
            | Second
            | SecondOfIk
            | Third
            | Confirming
            | Asked
            | Paused
            | Ending
            | Place::Closed,
        ) => Stays,
        (AskClose, Preamble) => us(Requested, Says::Nothing),
        (AskClose, First | FirstOfIk | Second | SecondOfIk | Third) => us(Requested, Says::Refuse),
        (AskClose, Confirming | Asked | Unconfirmed | Open | Paused) => us(Requested, Says::Close),
        (AskClose, Ending | Place::Closed) => Stays,
    }
}

/// The place that can be told from outside the handshake and the session.
fn place(connection: &SecureConnection) -> Place {
    match &connection.state {
        State::Handshaking(handshake, _) => match handshake.step.as_ref().expect("it waits for something") {
            Step::Preamble => Preamble,
            Step::First { .. } => First,
            Step::FirstOfIk { .. } => FirstOfIk,
            Step::Second { .. } => Second,
            Step::SecondOfIk { .. } => SecondOfIk,
            Step::Third { .. } => Third,
            Step::Certified(_) => {
                unreachable!("no stream here is secured below; `tests/connection_stories/certified.rs`")
            }
        },
        State::Confirming(confirming) if confirming.asked.is_some() => Asked,
        State::Confirming(_) => Confirming,
        State::Open(open) if open.wants_bytes() => Open,
        State::Open(_) => Paused,
        State::Closed if connection.closed.is_some() => Ending,
        State::Closed => Place::Closed,
    }
}

/// The inputs that records of this kind are.
fn inputs_of(kind: RecordKind) -> &'static [Input] {
    match kind {
        RecordKind::Preamble => &[Input::PreambleOfXx, Input::PreambleOfIk],
        RecordKind::Handshake => &[Input::Handshake, Input::Question, Input::Forged],
        RecordKind::Refuse => &[Input::Refuse],
        RecordKind::Data => &[Input::Data],
        RecordKind::Close => &[Input::Close],
        RecordKind::Retry => &[Input::Retry],
    }
}

/// The input that this command is.
const fn input_of(command: &ConnectionCommand) -> Input {
    match command {
        ConnectionCommand::Notify(_) => Input::AskNotify,
        ConnectionCommand::Request { .. } => Input::AskRequest,
        ConnectionCommand::Respond { .. } => Input::AskRespond,
        ConnectionCommand::Consumed { .. } => Input::AskConsumed,
        ConnectionCommand::Heartbeat(_) => Input::AskHeartbeat,
        ConnectionCommand::Account(_) => Input::AskAccount,
        ConnectionCommand::Shed { .. } => Input::AskShed,
        ConnectionCommand::Listen(_) => Input::AskListen,
        ConnectionCommand::Close(_) => Input::AskClose,
    }
}

/// A connection in some place, and the other side of it.
struct Bench {
    connection: SecureConnection,
    hand: Hand,
    account: Account,
    budget: Budget,
    /// What is taken of it while the connection is paused.
    _taken: Option<Charge>,
}

const START: Now = Now { mono: peerage_core::Timestamp::from_millis(1000), wall: peerage_core::UnixMillis(0) };

impl Bench {
    fn at(place: Place) -> Self {
        let budget = Budget::new(1 << 20);
        let mut ours = config(1, &[(ITEM, 1 << 20)], budget.clone());
        ours.early = vec![ITEM];
        let ours = Arc::new(ours);
        let remote = SocketAddr::from(([127, 0, 0, 1], 7000));
        let dial = |key| SecureConnection::dial(Arc::clone(&ours), remote, None, key, START, secrets(3));
        let theirs = config(2, &[], Budget::default()).static_key;
        let known = *ours.static_key.public();
        let listen = SecureConnection::new(Arc::clone(&ours), false, remote, None, START, secrets(3));
        let (connection, hand) = match place {
            Preamble | First | Third | Open | Paused | Ending | Place::Closed => {
                (listen, Hand::dialling(Pattern::Xx, &known))
            }
            FirstOfIk | Confirming | Asked => (listen, Hand::dialling(Pattern::Ik, &known)),
            Second | Unconfirmed => {
                let mut connection = dial(None);
                let hand = Hand::dialled(Pattern::Xx, theirs, &said(&mut connection));
                (connection, hand)
            }
            SecondOfIk => {
                let mut connection = dial(Some(DialKey(*theirs.public())));
                let hand = Hand::dialled(Pattern::Ik, theirs, &said(&mut connection));
                (connection, hand)
            }
        };
        let mut bench = Self { connection, hand, account: Budget::account(usize::MAX), budget, _taken: None };
        bench.lead(place);
        assert_eq!(self::place(&bench.connection), if place == Unconfirmed { Open } else { place });
        bench
    }

    /// From the beginning to `place`.
    fn lead(&mut self, place: Place) {
        match place {
            Preamble | Second | SecondOfIk => return,
            First => self.deliver(&preamble(Pattern::Xx)),
            FirstOfIk => self.deliver(&preamble(Pattern::Ik)),
            Third => {
                self.lead(First);
                let first = self.hand.say_first();
                self.deliver(&first);
                self.hand.hear(&said(&mut self.connection));
            }
            Confirming | Asked => {
                self.lead(FirstOfIk);
                let words = if place == Asked { self::question() } else { Vec::new() };
                let first = self.hand.prove_and_say(0, &words);
                self.deliver(&first);
                self.hand.hear(&said(&mut self.connection));
                self.hand.split();
                while self.connection.poll_event().is_some() {}
                return;
            }
            Unconfirmed => {
                let second = self.hand.prove(1);
                self.deliver(&second);
                self.hand.hear(&said(&mut self.connection));
                self.hand.split();
            }
            Open => {
                self.lead(Third);
                let third = self.hand.prove(1);
                self.hand.split();
                self.deliver(&third);
                let ping = self.hand.record(RecordKind::Data, &ping());
                self.deliver(&ping);
            }
            Paused => {
                self.lead(Open);
                let free = 1 << 20;
                self._taken = Some(self.budget.charge(Pool::Table, free).expect("all is free"));
                let mut item = Vec::new();
                encode_frame(&Message::new(ITEM, vec![0; 100]), Envelope::Notification, &mut item);
                let item = self.hand.record(RecordKind::Data, &item);
                self.deliver(&item);
            }
            Ending | Place::Closed => {
                self.lead(Open);
                while self.connection.poll_event().is_some() {}
                self.connection.handle_stream_end(START, CloseReason::StreamEnded);
                if place == Ending {
                    return;
                }
            }
        }
        while self.connection.poll_event().is_some() {}
        said(&mut self.connection);
    }

    fn deliver(&mut self, bytes: &[u8]) {
        self.connection.handle_bytes(START, bytes);
    }

    fn outbound(&self) -> Outbound {
        let message = Message::new(ITEM, vec![7; 100]);
        let resident = Arc::new(Budget::default().charge(Pool::Outbound, message.len()).expect("room").into());
        let owed = self.account.owe(message.len()).expect("no limit");
        Outbound { message, resident, owed }
    }

    fn apply(&mut self, place: Place, input: Input) {
        let at = |later: Duration| Now { mono: START.mono + later, wall: START.wall };
        let stale = || Hand::dialling(Pattern::Xx, &[9; 32]).say_first();
        match input {
            Input::PreambleOfXx | Input::PreambleOfIk => {
                let pattern = if input == Input::PreambleOfXx { Pattern::Xx } else { Pattern::Ik };
                let bytes = preamble(pattern);
                let bytes = self.hand.record(RecordKind::Preamble, &bytes[12..]);
                self.deliver(&bytes);
            }
            Input::Handshake => {
                let bytes = match place {
                    First => self.hand.say_first(),
                    FirstOfIk => self.hand.prove(0),
                    Second | SecondOfIk | Third => self.hand.prove(1),
                    Preamble | Confirming | Asked | Unconfirmed | Open | Paused | Ending | Place::Closed => {
                        self.hand.record(RecordKind::Handshake, &stale()[12..])
                    }
                };
                self.deliver(&bytes);
            }
            Input::Question => {
                let bytes = match place {
                    First => self.hand.say_first_and(&self::question()),
                    FirstOfIk => self.hand.prove_and_say(0, &self::question()),
                    Second | SecondOfIk | Third => self.hand.prove_and_say(1, &self::question()),
                    Preamble | Confirming | Asked | Unconfirmed | Open | Paused | Ending | Place::Closed => {
                        self.hand.record(RecordKind::Handshake, &stale()[12..])
                    }
                };
                self.deliver(&bytes);
            }
            Input::Forged => {
                let mut bytes = self.hand.record(RecordKind::Handshake, &[0x55; 400]);
                *bytes.last_mut().expect("not empty") ^= 1;
                self.deliver(&bytes);
            }
            // Until the first record under keys a refusal comes in clear.
            Input::Refuse if matches!(place, Confirming | Asked | Unconfirmed) => {
                self.deliver(&clear(RecordKind::Refuse, &[CloseReason::Shutdown.code()]));
            }
            Input::Refuse | Input::Close => {
                let kind = if input == Input::Close { RecordKind::Close } else { RecordKind::Refuse };
                let bytes = self.hand.record(kind, &[CloseReason::Shutdown.code()]);
                self.deliver(&bytes);
            }
            Input::Data => {
                let bytes = self.hand.record(RecordKind::Data, &ping());
                self.deliver(&bytes);
            }
            Input::Retry => {
                let bytes = self.hand.record(RecordKind::Retry, &[]);
                self.deliver(&bytes);
            }
            Input::Garbage => self.deliver(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"),
            Input::StreamEnd => self.connection.handle_stream_end(START, CloseReason::StreamEnded),
            Input::Timeout => {
                let mono = self.connection.next_timeout().unwrap_or(START.mono);
                self.connection.handle_timeout(Now { mono, wall: START.wall });
            }
            Input::LongTimeout => self.connection.handle_timeout(at(Duration::from_secs(120))),
            Input::AskNotify
            | Input::AskRequest
            | Input::AskRespond
            | Input::AskConsumed
            | Input::AskHeartbeat
            | Input::AskAccount
            | Input::AskShed
            | Input::AskListen
            | Input::AskClose => {
                let outbound = self.outbound();
                let commands = [
                    ConnectionCommand::Request { id: 7, outbound, timeout: Duration::from_secs(500) },
                    ConnectionCommand::Notify(self.outbound()),
                    ConnectionCommand::Respond { id: 7, outbound: self.outbound() },
                    ConnectionCommand::Consumed { class: Class::Gossip, bytes: 10 },
                    ConnectionCommand::Heartbeat(Bytes::from_static(b"head")),
                    ConnectionCommand::Account(Budget::account(1)),
                    ConnectionCommand::Shed { bytes: 1 },
                    ConnectionCommand::Listen(false),
                    ConnectionCommand::Close(CloseReason::Requested),
                ];
                let command = commands.into_iter().find(|command| input_of(command) == input);
                self.connection.handle_command(START, command.expect("there is one of each"));
            }
        }
    }
}

fn said(connection: &mut SecureConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection.poll_transmit(START, &mut bytes, usize::MAX);
    bytes
}

/// A question with the id of the answer that [`Input::AskRespond`] gives.
fn question() -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(&Message::new(ITEM, vec![1; 32]), Envelope::Request(7), &mut frame);
    frame
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    let beat = payload::to_bytes(&Beat { nonce: 1, data: Vec::new() });
    encode_frame(&Message::new(PING, beat), Envelope::Notification, &mut frame);
    frame
}

#[test]
fn every_input_has_one_outcome_in_every_state() {
    for kind in RecordKind::ALL {
        assert!(!inputs_of(kind).is_empty(), "{kind:?}");
    }
    for &from in Place::ALL {
        for &input in Input::ALL {
            let mut bench = Bench::at(from);
            bench.apply(from, input);
            check(&mut bench, from, input);
        }
    }
}

fn check(bench: &mut Bench, from: Place, input: Input) {
    let (outcome, what) = (expected(from, input), format!("{input:?} while {from:?}"));
    let before = if from == Unconfirmed { Open } else { from };
    let last_words = match place(&bench.connection) {
        Ending if from != Ending => Some(said(&mut bench.connection)),
        _ => None,
    };
    let mut events = Vec::new();
    let to = place(&bench.connection);
    while let Some(event) = bench.connection.poll_event() {
        events.push(event);
    }
    let ended: Vec<_> = events
        .iter()
        .filter_map(|event| if let ConnectionEvent::Closed(closed) = event { Some(*closed) } else { None })
        .collect();
    let failed: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ConnectionEvent::Response { id: 7, result: Err(error) } => Some(*error),
            _ => None,
        })
        .collect();
    let established = events.iter().filter(|event| matches!(event, ConnectionEvent::Established(_))).count();
    let was_over = if from == Ending { vec![Closed::by_network(CloseReason::StreamEnded)] } else { Vec::new() };

    assert_eq!(failed, if let Fails(error) = outcome { vec![error] } else { Vec::new() }, "{what}");
    match outcome {
        Stays | Fails(_) => {
            assert_eq!((to, &ended), (before, &was_over), "{what}");
        }
        To(place) => assert_eq!((to, &ended), (place, &Vec::new()), "{what}"),
        Ends(closed, says) => {
            assert_eq!((to, &*ended), (Ending, &[closed][..]), "{what}");
            let last_words = last_words.expect("it ended just now");
            let refusal = clear(RecordKind::Refuse, &[closed.reason.code()]);
            match says {
                Says::Nothing => assert!(last_words.is_empty(), "{what}: {last_words:?}"),
                Says::Refuse => assert_eq!(last_words, refusal, "{what}"),
                Says::Close => assert_eq!(last_words.len(), 2 + 1 + 1 + 16, "{what}"),
            }
        }
    }
    assert_eq!(established, usize::from(to == Open && before != Open), "{what}: {events:?}");
    let waits = matches!((input, to), (Input::AskNotify | Input::AskRequest | Input::AskRespond, Open | Paused))
        || (input, from) == (Input::AskRespond, Asked);
    assert_eq!(bench.account.owed(), if waits { 100 } else { 0 }, "{what}");
    let silent = bench.connection.next_timeout().is_none();
    assert_eq!(silent, matches!(to, Ending | Place::Closed), "{what}");
}
