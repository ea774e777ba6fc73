#![no_main]
peerage_fuzz::target!(peerage_transport::fuzz::open_connection, 1024);
