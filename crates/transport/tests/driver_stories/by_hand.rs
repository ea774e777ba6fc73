//! A peer played by the test: the real connection machine on a real stream, and nobody above it who takes anything
//! unless the test says so.

use std::net::SocketAddr;

use peerage_core::*;
use peerage_transport::{
    driver::{BoxedStream, Clock, Fabric},
    proto::connection::SecureConnection,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Plan, in_time};

pub(crate) struct ByHand {
    pub(crate) id: NodeId,
    stream: BoxedStream,
    connection: SecureConnection,
    clock: Clock,
    /// Whether what arrives is taken, so that its sender gets its credit back.
    pub(crate) consumes: fn(Class) -> bool,
}

impl ByHand {
    /// Dials `addr` and goes on until keys stand.
    pub(crate) async fn dial(plan: &Plan, fabric: &dyn Fabric, addr: SocketAddr) -> Self {
        let stream = fabric.dial(addr).await.expect("somebody listens");
        let clock = Clock::start();
        let security = plan.security(fabric.local_addr());
        let connection = SecureConnection::new(security, true, addr, None, clock.now(), SecretRng::from_os());
        let mut this = Self { id: plan.id(), stream, connection, clock, consumes: |_| true };
        let up = |event: &ConnectionEvent| matches!(event, ConnectionEvent::Established(_));
        this.read_until(up).await;
        this
    }

    async fn write(&mut self) {
        let mut bytes = Vec::new();
        while self.connection.poll_transmit(self.clock.now(), &mut bytes, 1 << 20) {}
        self.stream.write_all(&bytes).await.expect("the other side is there");
    }

    /// Reads until `is` happened, and returns all that happened up to there.
    pub(crate) async fn read_until(&mut self, is: impl Fn(&ConnectionEvent) -> bool) -> Vec<ConnectionEvent> {
        let mut events = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            while let Some(event) = self.connection.poll_event() {
                if let ConnectionEvent::Message { message, charge } = &event {
                    let (class, bytes) = (message.command.class(), charge.bytes());
                    if (self.consumes)(class) {
                        let consumed = ConnectionCommand::Consumed { class, bytes };
                        self.connection.handle_command(self.clock.now(), consumed);
                    }
                }
                let found = is(&event);
                events.push(event);
                if found {
                    self.write().await;
                    return events;
                }
            }
            self.write().await;
            let count = in_time("bytes for a peer by hand", self.stream.read(&mut buffer)).await.expect("a stream");
            let now = self.clock.now();
            match count {
                0 => self.connection.handle_stream_end(now, CloseReason::StreamEnded),
                _ => self.connection.handle_bytes(now, &buffer[..count]),
            }
        }
    }
}
