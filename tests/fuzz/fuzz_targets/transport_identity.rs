#![no_main]
peerage_fuzz::target!(peerage_transport::fuzz::identity, 64);
