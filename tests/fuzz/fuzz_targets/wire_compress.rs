#![no_main]
peerage_fuzz::target!(peerage_wire::fuzz::compressed, 512);
