//! The tables of the documents are those of the code.

use peerage_core::{CloseReason, Command, Fault};

use crate::document::table;

/// Checks the rows `message, number, class, .., limit` of a document.
fn messages(document: &str, known: &[(&str, Command)], limits: &[(Command, u32)]) {
    let rows = table(document, &["message", "number", "class"]);
    let read: Vec<_> = rows
        .iter()
        .map(|row| {
            let limit: u32 = row.last().expect("a limit").replace(',', "").parse().expect("a limit in bytes");
            (row[0].clone(), row[1].clone(), row[2].clone(), limit)
        })
        .collect();
    let expected: Vec<_> = known
        .iter()
        .map(|(name, command)| {
            let limit = limits.iter().find(|(of, _)| of == command).map(|(_, limit)| *limit).expect("a limit");
            (name.to_string(), format!("0x{:04x}", command.number()), command.class().label().to_owned(), limit)
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
