#![no_main]
peerage_fuzz::target!(peerage_discovery::fuzz::messages, 1024);
