//! A protocol together with the peer manager that serves it.

use peerage_core::{Action, Done, JobId, NetworkEvent, Now, Outlet, Protocol, Timestamp};

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
        if matches!(event, NetworkEvent::LinkUp { .. } | NetworkEvent::LinkDown { .. }) {
            return self.peers.handle_network(now, event);
        }
        if let Some(news) = event.share() {
            self.peers.handle_network(now, news);
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
                Err(event) => Action::Emit(ManagedEvent::Peers(event)),
            });
        }
        Some(match self.upper.poll_action()?.lift(|job| job, |job| job) {
            Err(event) => Action::Emit(ManagedEvent::Upper(event)),
            Ok(Action::Want(want)) => self.tell_manager(PeerCommand::Want(want)),
            Ok(Action::Report { peer, fault }) => self.tell_manager(PeerCommand::Report { peer, fault }),
            Ok(Action::Link(Outlet::Dial { .. } | Outlet::Admit(_) | Outlet::Close { .. })) => {
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
