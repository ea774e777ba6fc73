//! The one run loop: a protocol, its inbox by class, and the *drained* invariant.

use crate::{Action, Class, Command, Done, JobId, LinkId, NetworkEvent, Now, Protocol, Timestamp, inbox::Inbox};

/// What a [`Stack`] gives its runner.
pub enum Output<P: Protocol> {
    /// Something to do.
    Action(Action<P>),
    /// The protocol took a message from the inbox: its sender may send as many bytes again.
    Consumed {
        /// The connection on which the message came.
        link: LinkId,
        /// Its class.
        class: Class,
        /// Its bytes.
        bytes: usize,
    },
}

/// Whether a [`Stack`] has more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing until the next input or timeout.
    Quiet,
    /// The allowed steps are used up: call again, after others had their turn.
    More,
}

enum Input<P: Protocol> {
    Network(NetworkEvent),
    Command(P::Command),
    Done(JobId, Done<P>),
}

struct Arrival<P: Protocol> {
    input: Input<P>,
    consumed: Option<(LinkId, usize)>,
}

/// A protocol (mostly one composed of several) together with its inbox: the most urgent class first, so that a vote does not
/// wait behind gossip after its arrival either, and within a class the connections in turns, so that nobody waits behind what
/// somebody else sends.
///
/// Members compose as one [`Protocol`] whose `poll_action` routes the members' events, one at a time, as
/// [`Action::Routed`]. The tokio driver and the simulator both run this type and nothing else.
///
/// Inputs may come at any time and in any number: they wait here until the actions of the one before are drained.
pub struct Stack<P: Protocol> {
    protocol: P,
    /// Network events by the class of their message, results of jobs and news of peers before them; commands of the node's
    /// own users count as `Signal`.
    inbox: Inbox<Arrival<P>>,
    /// Whether all actions of the last `handle_*` are taken.
    drained: bool,
}

impl<P: Protocol> Stack<P> {
    /// A stack with an empty inbox.
    pub fn new(protocol: P) -> Self {
        Self { protocol, inbox: Inbox::new(), drained: false }
    }

    /// The protocol, to look at.
    pub const fn protocol(&self) -> &P {
        &self.protocol
    }

    /// Puts an event without credit (peers, dials, statistics, heartbeats) into the inbox.
    pub fn push(&mut self, event: NetworkEvent) {
        let class = event.command().map(Command::class);
        let arrival = Arrival { input: Input::Network(event), consumed: None };
        match class {
            Some(class) => self.inbox.push(class, None, arrival),
            None => self.inbox.push_news(arrival),
        }
    }

    /// Puts a message, request or response that arrived on `link` into the inbox; `bytes` are returned to the sender as
    /// credit once the protocol took it.
    pub fn push_from(&mut self, link: LinkId, class: Class, bytes: usize, event: NetworkEvent) {
        self.inbox.push(class, Some(link), Arrival { input: Input::Network(event), consumed: Some((link, bytes)) });
    }

    /// Puts a command of the layer above, or of a user, into the inbox.
    pub fn command(&mut self, command: P::Command) {
        self.inbox.push(Class::Signal, None, Arrival { input: Input::Command(command), consumed: None });
    }

    /// Puts the result of a job into the inbox.
    pub fn done(&mut self, id: JobId, done: Done<P>) {
        self.inbox.push_news(Arrival { input: Input::Done(id, done), consumed: None });
    }

    /// Inputs that wait in the inbox.
    pub fn waiting(&self) -> usize {
        self.inbox.len()
    }

    /// When to call [`run`](Self::run) next, if nothing arrives before: the start of time if there is work left.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        if !self.drained || self.waiting() > 0 { Some(Timestamp::ZERO) } else { self.protocol.next_timeout() }
    }

    /// Drains actions, lets a due timeout happen, and feeds inputs, most urgent class first, until everything is quiet or
    /// `steps` are done. An input is fed only when all actions of the one before are drained.
    pub fn run(&mut self, now: Now, steps: usize, mut sink: impl FnMut(Output<P>)) -> Progress {
        for _ in 0..steps {
            if let Some(action) = self.protocol.poll_action() {
                if !matches!(action, Action::Routed) {
                    sink(Output::Action(action));
                }
                continue;
            }
            self.drained = true;
            if self.protocol.next_timeout().is_some_and(|at| at <= now.mono) {
                self.protocol.handle_timeout(now);
                self.drained = false;
                continue;
            }
            let Some((class, arrival)) = self.inbox.pop() else { return Progress::Quiet };
            self.drained = false;
            match arrival.input {
                Input::Network(event) => self.protocol.handle_network(now, event),
                Input::Command(command) => self.protocol.handle_command(now, command),
                Input::Done(id, done) => self.protocol.handle_done(now, id, done),
            }
            if let Some((link, bytes)) = arrival.consumed {
                sink(Output::Consumed { link, class, bytes });
            }
        }
        Progress::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, Layer, Message, NoJob, NodeId};
    use core::time::Duration;
    use std::collections::VecDeque;

    /// Answers every message with two sends, and panics if it is fed before both were taken: the drained invariant.
    #[derive(Default)]
    struct Echo {
        actions: VecDeque<Action<Self>>,
        timer: Option<Timestamp>,
        fired: u32,
    }

    impl Protocol for Echo {
        type Command = u8;
        type Event = ();
        type Storage = NoJob;
        type Compute = NoJob;

        fn handle_network(&mut self, _: Now, event: NetworkEvent) {
            assert!(self.actions.is_empty(), "fed before it was drained");
            if let NetworkEvent::Message { peer, message, .. } = event {
                self.actions.push_back(Action::Routed);
                self.actions.push_back(Action::Send { to: vec![peer], message });
            }
        }

        fn handle_command(&mut self, now: Now, after: u8) {
            assert!(self.actions.is_empty(), "fed before it was drained");
            self.timer = Some(now.mono + Duration::from_secs(after.into()));
            self.actions.push_back(Action::Emit(()));
        }

        fn handle_timeout(&mut self, _: Now) {
            self.timer = None;
            self.fired += 1;
        }

        fn handle_done(&mut self, _: Now, _: JobId, _: Done<Self>) {}

        fn poll_action(&mut self) -> Option<Action<Self>> {
            self.actions.pop_front()
        }

        fn next_timeout(&self) -> Option<Timestamp> {
            self.timer
        }
    }

    fn arrive(stack: &mut Stack<Echo>, class: Class) {
        let message = Message::new(Command::new(Layer::Application, 0, class), vec![class as u8]);
        let charge = Budget::default().nothing();
        let event = NetworkEvent::Message { peer: NodeId::default(), message, charge };
        stack.push_from(LinkId(1), class, 1, event);
    }

    #[test]
    fn a_vote_overtakes_gossip_that_arrived_before_it_and_credit_returns_on_consumption() {
        let mut stack = Stack::new(Echo::default());
        for class in [Class::Bulk, Class::Gossip, Class::Consensus] {
            arrive(&mut stack, class);
        }
        let (mut sent, mut consumed) = (Vec::new(), Vec::new());
        let progress = stack.run(Now::default(), 100, |output| match output {
            Output::Action(Action::Send { message, .. }) => sent.push(message.command.class()),
            Output::Action(other) => panic!("unexpected {other:?}"),
            Output::Consumed { class, bytes, .. } => consumed.push((class, bytes)),
        });
        assert_eq!(progress, Progress::Quiet);
        assert_eq!(sent, [Class::Consensus, Class::Gossip, Class::Bulk]);
        assert_eq!(consumed, [(Class::Consensus, 1), (Class::Gossip, 1), (Class::Bulk, 1)]);
    }

    #[test]
    fn a_run_yields_after_its_steps_and_goes_on_where_it_stopped() {
        let mut stack = Stack::new(Echo::default());
        (0..10).for_each(|_| arrive(&mut stack, Class::Gossip));
        let (mut sent, mut runs) = (0, 0);
        while stack.next_timeout() == Some(Timestamp::ZERO) {
            stack.run(Now::default(), 4, |output| sent += usize::from(matches!(output, Output::Action(_))));
            runs += 1;
        }
        assert_eq!(sent, 10);
        assert!(runs > 5, "four steps a run cannot do ten messages of three steps in {runs} runs");
    }

    #[test]
    fn inputs_given_in_a_row_wait_for_each_other_and_a_due_timeout_fires_once() {
        let mut stack = Stack::new(Echo::default());
        stack.command(3);
        stack.command(1);
        let mut now = Now::default();
        assert_eq!(stack.run(now, 100, |_| ()), Progress::Quiet);
        assert_eq!(stack.next_timeout(), Some(Timestamp::from_millis(1_000)));
        now.mono = Timestamp::from_millis(1_000);
        stack.run(now, 100, |_| ());
        stack.run(now, 100, |_| ());
        assert_eq!(stack.protocol().fired, 1);
    }
}
