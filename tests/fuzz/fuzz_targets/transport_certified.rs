#![no_main]
peerage_fuzz::target!(peerage_transport::fuzz::certified, 64);
