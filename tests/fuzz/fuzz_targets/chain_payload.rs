#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::payloads, 64);
