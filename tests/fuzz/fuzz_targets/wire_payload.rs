#![no_main]
peerage_fuzz::target!(peerage_wire::fuzz::payloads, 512);
