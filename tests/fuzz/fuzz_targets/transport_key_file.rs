#![no_main]
peerage_fuzz::target!(peerage_transport::fuzz::key_text, 16);
