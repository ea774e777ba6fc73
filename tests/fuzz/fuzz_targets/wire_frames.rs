#![no_main]
peerage_fuzz::target!(peerage_wire::fuzz::frames, 16);
