#![no_main]
peerage_fuzz::target!(peerage_discovery::fuzz::record, 64);
