#![no_main]
peerage_fuzz::target!(peerage::fuzz::config, 4096);
