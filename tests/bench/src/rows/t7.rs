//! T7: what an idle connection keeps in memory, on each side.
//!
//! The process that is measured is a child which holds one node and nothing else. The other ends live here: a node is
//! connected to another but once, so our child is given many peers that are no more than a socket and a connection machine.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use super::{CHILD, Plan};
use crate::{
    measure::{on_worker, raise_open_files, resident, runtime},
    node::{Node, Saw},
    peers::libp2p,
    report::{Figure, Goal, Printer},
};
use far::Crowd;
use futures::StreamExt;
use peerage_core::{NodeId, Want};
use peerage_transport::proto::{managed::ManagedCommand, peer_manager::PeerCommand};

mod far;

/// Connections before the first reading, so that what is made once is not counted.
const WARM: usize = 20;
/// The children ping after so much silence, so that idle connections have been used a few times when they are measured.
const HEARTBEAT: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(5);
/// Dials under way; our peer manager takes 16.
const BATCH: usize = 10;
/// Bytes that an idle connection may keep on a side.
const TARGET: f64 = 8192.0;
/// More for 10,000 connections than for 1,000 by this factor counts as not flat.
const FLAT: f64 = 1.1;

/// What a child is.
const NODE: &str = "node";
const LISTENER: &str = "libp2p-listener";
const DIALLER: &str = "libp2p-dialler";

/// A process that is measured.
struct Measured {
    child: Child,
    /// When it is closed, the child ends.
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
}

impl Measured {
    fn start(role: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        command.args([CHILD, role]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this program can be started again");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, output }
    }

    fn says(&mut self) -> String {
        self.output.next().expect("the child lives").expect("text")
    }

    fn hears(&mut self, line: &str) {
        let input = self.input.as_mut().expect("piped");
        writeln!(input, "{line}").expect("the child lives");
    }

    /// Waits until it has so many more peers: a node dials few at a time, and forgets whom it cannot dial.
    fn has_more(&mut self, count: usize) {
        (0..count).for_each(|_| assert_eq!(self.says(), "up"));
    }

    fn resident(&self) -> f64 {
        resident(self.child.id())
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.input = None;
        self.child.wait().expect("it was not waited for before");
    }
}

/// Bytes a connection of a node of ours, which others dialled.
fn accepted(count: usize) -> f64 {
    let mut node = Measured::start(NODE);
    let addr: SocketAddr = node.says().parse().expect("an address");
    let runtime = runtime();
    let mut crowd = on_worker(&runtime, Crowd::listen());
    let mut base = 0.0;
    for first in (0..WARM + count).step_by(BATCH) {
        if first == WARM {
            std::thread::sleep(SETTLE);
            base = node.resident();
        }
        crowd = on_worker(&runtime, crowd.dial(addr, first..first + BATCH));
        node.has_more(BATCH);
    }
    std::thread::sleep(SETTLE);
    (node.resident() - base) / count as f64
}

/// The same of a node that dialled the others.
fn dialled(count: usize) -> f64 {
    let mut node = Measured::start(NODE);
    node.says();
    let runtime = runtime();
    let mut crowd = on_worker(&runtime, Crowd::listen());
    let mut base = 0.0;
    for first in (0..WARM + count).step_by(BATCH) {
        if first == WARM {
            std::thread::sleep(SETTLE);
            base = node.resident();
        }
        for number in first..first + BATCH {
            node.hears(&format!("{} {}", Crowd::id(number), crowd.addr(number)));
        }
        crowd = on_worker(&runtime, crowd.accepted(BATCH));
        node.has_more(BATCH);
    }
    std::thread::sleep(SETTLE);
    (node.resident() - base) / count as f64
}

/// Bytes a connection of libp2p: of the side that was dialled, and of the one that dialled.
fn swarms(count: usize) -> [f64; 2] {
    let (mut listener, mut dialler) = (Measured::start(LISTENER), Measured::start(DIALLER));
    let addr = listener.says();
    let mut base = [0.0; 2];
    for number in 0..WARM + count {
        if number == WARM {
            std::thread::sleep(SETTLE);
            base = [listener.resident(), dialler.resident()];
        }
        dialler.hears(&addr);
        dialler.has_more(1);
    }
    std::thread::sleep(SETTLE);
    let after = [listener.resident(), dialler.resident()];
    [0, 1].map(|side| (after[side] - base[side]) / count as f64)
}

pub(crate) fn run(plan: &Plan, printer: Printer) {
    let most = raise_open_files();
    let (mut flat, mut flat_from) = (Vec::new(), 0);
    for count in &plan.connections {
        if (count + WARM + 100) as u64 > most {
            printer.note("T7", &format!("{count} connections need more open files than the {most} permitted here"));
            continue;
        }
        let (mut ours, mut peer): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
        for _ in 0..plan.runs {
            ours[0].push(accepted(*count));
            ours[1].push(dialled(*count));
            peer.iter_mut().zip(swarms(*count)).for_each(|(of, one)| of.push(one));
        }
        for (side, name) in ["accepted", "dialled"].into_iter().enumerate() {
            let what = format!("resident bytes of an idle connection that was {name}, {count} of them");
            let figure = |peer: Vec<f64>, peer_name: &str, goal| Figure {
                row: "T7",
                what: what.clone(),
                unit: "B",
                ours: ours[side].clone(),
                peer,
                peer_name: peer_name.into(),
                goal,
            };
            printer.figure(&figure(vec![TARGET], "target: 8 KiB", Goal::AtMost(1.0)));
            printer.figure(&figure(peer[side].clone(), libp2p::NAME, Goal::None));
        }
        if flat.is_empty() {
            (flat, flat_from) = (ours.into(), *count);
            continue;
        }
        for (side, name) in ["accepted", "dialled"].into_iter().enumerate() {
            printer.figure(&Figure {
                row: "T7",
                what: format!("{name}: {count} connections beside {flat_from}"),
                unit: "B",
                ours: ours[side].clone(),
                peer: flat[side].clone(),
                peer_name: format!("ours at {flat_from}"),
                goal: Goal::AtMost(FLAT),
            });
        }
    }
}

/// The process that is measured.
pub(crate) fn child(mut args: impl Iterator<Item = String>) {
    raise_open_files();
    let runtime = runtime();
    match args.next().as_deref() {
        Some(NODE) => on_worker(&runtime, node()),
        Some(LISTENER) => on_worker(&runtime, async {
            let (_running, addr) = libp2p::listen().await;
            println!("{addr}");
            let mut orders = orders();
            while orders.recv().await.is_some() {}
        }),
        Some(DIALLER) => on_worker(&runtime, dialler()),
        other => panic!("no such role: {other:?}"),
    }
}

/// Lines from the parent; after the last this process ends.
fn orders() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if sender.send(line.expect("text")).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    receiver
}

async fn node() {
    let mut node = Node::start(1, Vec::new(), HEARTBEAT).await;
    println!("{}", node.addr);
    let mut orders = orders();
    loop {
        tokio::select! {
            Some(order) = orders.recv() => {
                let (peer, addr) = order.split_once(' ').expect("two words");
                let (peer, addr): (NodeId, SocketAddr) = (peer.parse().expect("an id"), addr.parse().expect("an address"));
                let want = PeerCommand::Want(Want::Now { peer, addrs: vec![addr] });
                node.handle.command(ManagedCommand::Peers(want)).await.expect("the stack runs");
            }
            Some(Saw::Up(_)) = node.saw.recv() => println!("up"),
        }
    }
}

async fn dialler() {
    use ::libp2p::swarm::{SwarmEvent, dial_opts::DialOpts};
    let (mut swarm, mut orders) = (libp2p::swarm(), orders());
    loop {
        tokio::select! {
            Some(addr) = orders.recv() => {
                let options = DialOpts::unknown_peer_id().address(addr.parse().expect("an address"));
                swarm.dial(options.allocate_new_port().build()).expect("an address to dial");
            }
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { .. } => println!("up"),
                SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
                _ => {}
            }
        }
    }
}

/// The address of the far end with this number, on a port that all of them share.
fn far_addr(number: usize, port: u16) -> SocketAddr {
    let [high, low] = (number as u16).to_be_bytes();
    (Ipv4Addr::new(127, 1, high, low), port).into()
}
