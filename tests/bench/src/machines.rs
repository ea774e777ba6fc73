//! Two connection machines by hand: no socket, no runtime, time as an argument.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use peerage_core::{
    Budget, Connection, ConnectionCommand, ConnectionEvent, DialKey, Message, Now, Outbound, Pool, SecretRng, Timestamp,
};
use peerage_transport::proto::{
    connection::{ConnectionConfig, SecureConnection},
    keypair::Keypair,
};

use crate::node::{ECHO, connection_config, seed, unhindered};

/// As much as a socket takes at once.
const FLIGHT: usize = 64 << 10;

/// What a node's connections share.
pub(crate) fn config(number: u64) -> Arc<ConnectionConfig> {
    Arc::new(connection_config(Arc::new(Keypair::from_seed(&seed(number))), &unhindered()))
}

fn machine(
    config: &Arc<ConnectionConfig>,
    outbound: bool,
    expected: Option<&ConnectionConfig>,
    now: Now,
) -> SecureConnection {
    let remote = SocketAddr::from(([127, 0, 0, 1], 4000));
    let expected = expected.map(|other| other.keypair.node_id());
    SecureConnection::new(Arc::clone(config), outbound, remote, expected, now, SecretRng::from_os())
}

/// A whole handshake of both sides.
pub(crate) fn handshake(a: &Arc<ConnectionConfig>, b: &Arc<ConnectionConfig>) {
    let now = Now::default();
    let mut sides = [machine(a, true, Some(b), now), machine(b, false, None, now)];
    let (mut established, mut bytes) = (0, Vec::new());
    while established < 2 {
        for from in [0, 1] {
            bytes.clear();
            sides[from].poll_transmit(now, &mut bytes, FLIGHT);
            let to = &mut sides[1 - from];
            if !bytes.is_empty() {
                to.handle_bytes(now, &bytes);
            }
            for side in &mut sides {
                while let Some(event) = side.poll_event() {
                    match event {
                        ConnectionEvent::Established(_) => established += 1,
                        ConnectionEvent::Closed(closed) => panic!("closed: {closed}"),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// Whom the dialling side dials.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Whom {
    /// Somebody whose process it never met.
    Stranger,
    /// A process that it has met, and that it asks with its first words.
    Known,
}

/// Virtual time from the beginning of a dial to the first response, over a stream with this latency each way. TCP's own
/// handshake takes a round trip, at the end of which the dialling side may write.
pub(crate) fn first_response(whom: Whom, latency: Duration) -> Duration {
    let (a, b) = (config(1), config(2));
    let budget = Budget::default();
    let account = Budget::account(1 << 20);
    let outbound = |message: Message| Outbound {
        resident: Arc::new(budget.charge(Pool::Outbound, message.len()).expect("room for one message").into()),
        owed: account.owe(message.len()).expect("room for one message"),
        message,
    };
    let start = Now { mono: Timestamp::ZERO + 2 * latency, ..Now::default() };
    let question = Message::new(ECHO, vec![1; 64]);
    let dial_key = (whom == Whom::Known).then_some(DialKey(*b.static_key.public()));
    let (remote, expected) = (SocketAddr::from(([127, 0, 0, 1], 4000)), Some(b.keypair.node_id()));
    let (ours, asked, secrets) = (Arc::clone(&a), Some(question.clone()), SecretRng::from_os());
    let dialler = SecureConnection::ask(ours, remote, expected, dial_key, asked, start, secrets);
    let mut sides = [dialler, machine(&b, false, None, start)];
    // Arrivals in the order of their time: each takes equally long.
    let mut flying: VecDeque<(Timestamp, usize, Vec<u8>)> = VecDeque::new();
    let mut now = start;
    loop {
        for (number, side) in sides.iter_mut().enumerate() {
            while let Some(event) = side.poll_event() {
                let command = match event {
                    ConnectionEvent::Established(_) if number == 0 => {
                        let outbound = outbound(question.clone());
                        ConnectionCommand::Request { id: 1, outbound, timeout: Duration::from_secs(9) }
                    }
                    ConnectionEvent::Request { id, message, .. } | ConnectionEvent::Early { id, message, .. } => {
                        ConnectionCommand::Respond { id, outbound: outbound(message) }
                    }
                    ConnectionEvent::Response { result, .. } => {
                        assert!(result.is_ok(), "{result:?}");
                        return now.mono.since(Timestamp::ZERO);
                    }
                    ConnectionEvent::Closed(closed) => panic!("closed: {closed}"),
                    _ => continue,
                };
                side.handle_command(now, command);
            }
            let mut bytes = Vec::new();
            if side.poll_transmit(now, &mut bytes, FLIGHT) {
                flying.push_back((now.mono + latency, 1 - number, bytes));
            }
        }
        let (at, to, bytes) = flying.pop_front().expect("somebody always has something to say until the response");
        now.mono = at;
        sides[to].handle_bytes(now, &bytes);
    }
}
