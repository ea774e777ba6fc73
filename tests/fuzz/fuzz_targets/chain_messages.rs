#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::messages, 65536);
