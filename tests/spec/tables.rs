//! The tables of the documents are those of the code.

use peerage_chain::proto::genesis::Genesis;
use peerage_core::{Class, CloseReason, Command, Fault};
use peerage_transport::proto::connection::credit;
use peerage_wire::{RecordKind, limits};

use crate::{
    document::table,
    fixtures::{genesis, genesis_file},
};

/// A number as the documents write it; what follows in parentheses explains it.
fn number(cell: &str) -> usize {
    let digits = cell.split(" (").next().expect("a split has a part").replace(',', "");
    digits.parse().unwrap_or_else(|_| panic!("no number: {cell}"))
}

/// Checks the rows `message, number, class, .., limit` of a document.
fn messages(document: &str, known: &[(&str, Command)], limits: &[(Command, u32)]) {
    let rows = table(document, &["message", "number", "class"]);
    let read: Vec<_> = rows
        .iter()
        .map(|row| {
            let limit = number(row.last().expect("a limit"));
            (row[0].clone(), row[1].clone(), row[2].clone(), limit)
        })
        .collect();
    let expected: Vec<_> = known
        .iter()
        .map(|(name, command)| {
            let limit = limits.iter().find(|(of, _)| of == command).map(|(_, limit)| *limit).expect("a limit");
            (
                name.to_string(),
                format!("0x{:04x}", command.number()),
                command.class().label().to_owned(),
                limit as usize,
            )
        })
        .collect();
    assert_eq!(read, expected, "{document}.md");
    assert_eq!(known.len(), limits.len(), "{document}.md leaves a message out");
}

#[test]
fn the_messages_of_each_layer_are_those_of_the_code() {
    use peerage_transport::proto::connection::commands;
    messages(
        "transport",
        &[("PING", commands::PING), ("PONG", commands::PONG), ("CREDIT", commands::CREDIT)],
        commands::LIMITS,
    );
    use peerage_discovery as discovery;
    messages(
        "discovery",
        &[("RECORD", discovery::RECORD), ("FIND", discovery::FIND), ("NODES", discovery::NODES)],
        discovery::LIMITS,
    );
    use peerage_gossip as gossip;
    messages("gossip", &[("ITEM", gossip::ITEM), ("SUBSCRIBE", gossip::SUBSCRIBE)], gossip::LIMITS);
    use peerage_chain::proto as chain;
    messages(
        "chain",
        &[("HEAD", chain::HEAD), ("TRANSACTIONS", chain::TRANSACTIONS), ("BLOCKS", chain::BLOCKS)],
        chain::LIMITS,
    );
}

#[test]
fn the_public_messages_are_those_of_the_code() {
    use peerage_chain::proto as chain;
    use peerage_gossip as gossip;
    let read: Vec<_> = table("wire", &["message", "number", "why"]).iter().map(|row| row[1].clone()).collect();
    let known = [gossip::PUBLIC, chain::PUBLIC].concat();
    assert_eq!(read, known.iter().map(|command| format!("0x{:04x}", command.number())).collect::<Vec<_>>());
    let limited: Vec<_> = [gossip::LIMITS, chain::LIMITS].concat().into_iter().map(|(command, _)| command).collect();
    assert!(known.iter().all(|command| limited.contains(command)), "what is public is known");
    let bits = table("transport", &["feature bit", "name"]);
    assert_eq!((bits[0][0].as_str(), bits[0][1].as_str()), ("0", "compression"));
    assert_eq!(peerage_transport::proto::connection::COMPRESSION, 1);
}

#[test]
fn the_reasons_are_those_of_the_code() {
    let rows = table("wire", &["code", "reason"]);
    let read: Vec<_> = rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let known = CloseReason::ALL.iter().map(|reason| (reason.code().to_string(), reason.label().to_owned()));
    assert_eq!(read, known.collect::<Vec<_>>());
}

#[test]
fn the_faults_are_those_of_the_code() {
    let rows = table("transport", &["fault", "name"]);
    let read: Vec<_> = rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let known = Fault::ALL.iter().map(|fault| (fault.code().to_string(), fault.label().to_owned()));
    assert_eq!(read, known.collect::<Vec<_>>());
}

#[test]
fn the_kinds_of_records_are_those_of_the_code() {
    let rows = table("wire", &["kind", "name", "payload", "at most"]);
    let read: Vec<_> = rows.iter().map(|row| (number(&row[0]), row[1].to_lowercase(), number(&row[3]))).collect();
    let known = RecordKind::ALL.map(|kind| (kind as usize, format!("{kind:?}").to_lowercase(), kind.max_len()));
    assert_eq!(read, known);
}

#[test]
fn the_classes_are_those_of_the_code() {
    let rows = table("wire", &["class", "number", "for"]);
    let read: Vec<_> = rows.iter().map(|row| (row[0].clone(), number(&row[1]), number(&row[3]))).collect();
    let known = Class::ALL.map(|class| (class.label().to_owned(), class as usize, limits::class_default(class)));
    assert_eq!(read, known);
    let rows = table("transport", &["class", "window"]);
    let read: Vec<_> = rows.iter().map(|row| (row[0].clone(), number(&row[1]), number(&row[2]))).collect();
    let with_credit = Class::ALL.into_iter().filter(|class| credit::window(*class) > 0);
    let known = with_credit.map(|class| (class.label().to_owned(), credit::window(class), credit::largest(class)));
    assert_eq!(read, known.collect::<Vec<_>>());
}

#[test]
fn the_limits_of_the_wire_are_those_of_the_code() {
    let mut rows = table("wire", &["what", "bytes"]);
    assert_eq!(rows.pop().expect("a last row")[0], "head and body by command", "which stands in the other tables");
    let read: Vec<_> = rows.iter().map(|row| number(&row[1])).collect();
    assert_eq!(read, [limits::MAX_PLAINTEXT, limits::MAX_SEALED_BODY, limits::MAX_HANDSHAKE, limits::MAX_CONTENT]);
}

#[test]
fn the_magics_are_those_of_the_code() {
    let written = |network: &str| {
        let mut file = genesis_file();
        file.network = network.into();
        let genesis = Genesis::new(&file).expect("valid");
        (format!("{:08x}", peerage::runtime::magic(&genesis).0), genesis.network_id())
    };
    let mut rows = table("wire", &["network named in the genesis", "magic"]);
    let other = rows.pop().expect("a last row");
    let read: Vec<_> = rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let known = ["main", "test", "dev"].map(|name| (name.to_owned(), written(name).0));
    assert_eq!(read, known);
    assert_eq!(other[1], "f7, then the first three bytes of its network id");
    assert_eq!(written("example"), ("f74ee7a5".into(), genesis().network_id()));
    for name in ["main2", "Main", "example"] {
        let (magic, id) = written(name);
        let id: String = id.as_bytes()[..3].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(magic, format!("f7{id}"), "{name}");
    }
}
