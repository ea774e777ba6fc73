#![no_main]
peerage_fuzz::target!(peerage::fuzz::genesis_text, 1024);
