//! A protocol together with the peer manager that serves it.

use peerage_core::{Action, Done, JobId, NetworkEvent, Now, Protocol, Timestamp};

use super::{
    peer_manager::{PeerCommand, PeerEvent, PeerManager},
    recorder::Recorder,
};

/// The smallest complete stack: a peer manager below, any protocol above.
///
/// The manager alone hears of links and alone opens and closes them; the protocol's wants and reports become its
/// commands. What the manager wants remembered comes out as [`ManagedEvent::Peers`].
pub struct Managed<P: Protocol> {
    peers: PeerManager,
    upper: P,
    recorder: Recorder,
    last: Now,
}

/// What a [`Managed`] stack tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedEvent<E> {
    /// From the peer manager.
    Peers(PeerEvent),
    /// From the protocol.
    Upper(E),
}

/// What a [`Managed`] stack is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedCommand<C> {
    /// For the peer manager.
    Peers(PeerCommand),
    /// For the protocol.
    Upper(C),
}

impl<P: Protocol> Managed<P> {
    /// Puts `upper` above `peers`.
    pub fn new(peers: PeerManager, upper: P) -> Self {
        Self { peers, upper, recorder: Recorder::default(), last: Now::default() }
    }

    /// The peer manager, to look at.
    pub const fn peers(&self) -> &PeerManager {
        &self.peers
    }

    /// What happened between this node and its peers.
    pub const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The protocol, to look at.
    pub const fn upper(&self) -> &P {
        &self.upper
    }
}

impl<P: Protocol> Protocol for Managed<P> {
    type Command = ManagedCommand<P::Command>;
    type Event = ManagedEvent<P::Event>;
    type Storage = P::Storage;
    type Compute = P::Compute;

    fn handle_network(&mut self, now: Now, event: NetworkEvent) {
        self.last = now;
        self.recorder.hears(now, &event);
        match &event {
            NetworkEvent::LinkUp { .. } | NetworkEvent::LinkDown { .. } | NetworkEvent::Pressure(_) => {
                return self.peers.handle_network(now, event);
            }
            NetworkEvent::TurnedAway { .. } => return,
            // Only who it claims to be from can read the answer, so whoever is kept out as a peer is kept out here.
            NetworkEvent::Early { claims, remote, .. } if self.peers.keeps_out(now, claims, *remote).is_some() => {
                return;
            }
            _ => {}
        }
        match &event {
            NetworkEvent::Message { peer, .. }
            | NetworkEvent::Request { peer, .. }
            | NetworkEvent::Response { peer, result: Ok(_), .. } => self.peers.alive(now, peer),
            other => {
                if let Some(news) = other.share() {
                    self.peers.handle_network(now, news);
                }
            }
        }
        self.upper.handle_network(now, event);
    }

    fn handle_command(&mut self, now: Now, command: Self::Command) {
        self.last = now;
        match command {
            ManagedCommand::Peers(command) => self.peers.handle_command(now, command),
            ManagedCommand::Upper(command) => self.upper.handle_command(now, command),
        }
    }

    fn handle_timeout(&mut self, now: Now) {
        self.last = now;
        if self.peers.next_timeout().is_some_and(|at| at <= now.mono) {
            self.peers.handle_timeout(now);
        }
        if self.upper.next_timeout().is_some_and(|at| at <= now.mono) {
            self.upper.handle_timeout(now);
        }
    }

    fn handle_done(&mut self, now: Now, id: JobId, done: Done<Self>) {
        self.last = now;
        let done = match done {
            Done::Stored(output) => Done::Stored(output),
            Done::Computed(output) => Done::Computed(output),
        };
        self.upper.handle_done(now, id, done);
    }

    fn poll_action(&mut self) -> Option<Action<Self>> {
        if let Some(action) = self.peers.poll_action() {
            self.recorder.sees(self.last, &action);
            return Some(match action.lift(|job| match job {}, |job| match job {}) {
                Ok(action) => action,
                Err(event) => {
                    if let PeerEvent::Unmet { peer, why } = event {
                        self.upper.handle_network(self.last, NetworkEvent::Unmet { peer, why });
                    }
                    Action::Emit(ManagedEvent::Peers(event))
                }
            });
        }
        Some(match self.upper.poll_action()?.lift(|job| job, |job| job) {
            Err(event) => Action::Emit(ManagedEvent::Upper(event)),
            Ok(Action::Want(want)) => self.tell_manager(PeerCommand::Want(want)),
            Ok(Action::Report { peer, fault }) => self.tell_manager(PeerCommand::Report { peer, fault }),
            Ok(Action::Link(_)) => {
                debug_assert!(false, "only the peer manager opens and closes links");
                Action::Routed
            }
            Ok(action) => action,
        })
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        [self.peers.next_timeout(), self.upper.next_timeout()].into_iter().flatten().min()
    }
}

impl<P: Protocol> Managed<P> {
    fn tell_manager(&mut self, command: PeerCommand) -> Action<Self> {
        self.peers.handle_command(self.last, command);
        Action::Routed
    }
}

#[cfg(test)]
mod tests {
    use peerage_core::{NoJob, NodeId, Seed, Unmet, Want};
    use std::collections::VecDeque;

    use super::*;
    use crate::proto::peer_manager::{PeerManagerConfig, Rule};

    /// Wants somebody, and notes what it hears of it.
    struct Asker {
        wants: VecDeque<Want>,
        unmet: Vec<(NodeId, Unmet)>,
    }

    impl Protocol for Asker {
        type Command = ();
        type Event = ();
        type Storage = NoJob;
        type Compute = NoJob;

        fn handle_network(&mut self, _: Now, event: NetworkEvent) {
            if let NetworkEvent::Unmet { peer, why } = event {
                self.unmet.push((peer, why));
            }
        }

        fn handle_command(&mut self, _: Now, (): ()) {}

        fn handle_timeout(&mut self, _: Now) {}

        fn handle_done(&mut self, _: Now, _: JobId, _: Done<Self>) {}

        fn poll_action(&mut self) -> Option<Action<Self>> {
            self.wants.pop_front().map(Action::Want)
        }

        fn next_timeout(&self) -> Option<Timestamp> {
            None
        }
    }

    #[test]
    fn whoever_wants_somebody_that_will_not_be_dialled_hears_why() {
        let (us, unwanted) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let config = PeerManagerConfig { deny: vec![Rule::Peer(unwanted)], ..PeerManagerConfig::new(us) };
        let addrs = vec![([8, 8, 8, 8], 4000).into()];
        let asker = Asker { wants: [Want::Now { peer: unwanted, addrs }].into(), unmet: Vec::new() };
        let mut stack = Managed::new(PeerManager::new(config, &Seed::from_u64(1)), asker);
        while stack.poll_action().is_some() {}
        assert_eq!(stack.upper().unmet, [(unwanted, Unmet::Denied)]);
    }
}
