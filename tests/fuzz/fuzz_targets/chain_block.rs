#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::block, 256);
