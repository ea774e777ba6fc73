#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::genesis_file, 64);
