#![no_main]
peerage_fuzz::target!(peerage_gossip::proto::fuzz::payloads, 16);
