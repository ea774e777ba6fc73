#![no_main]
peerage_fuzz::target!(peerage_wire::fuzz::sealed, 64);
