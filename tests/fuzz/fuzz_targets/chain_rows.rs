#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::rows, 16);
