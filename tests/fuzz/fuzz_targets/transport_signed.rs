#![no_main]
peerage_fuzz::target!(peerage_transport::fuzz::signed, 64);
