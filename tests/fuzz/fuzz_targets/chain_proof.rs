#![no_main]
peerage_fuzz::target!(peerage_chain::fuzz::proof, 1024);
