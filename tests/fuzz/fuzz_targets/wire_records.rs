#![no_main]
peerage_fuzz::target!(peerage_wire::fuzz::records, 64);
