#![no_main]
peerage_fuzz::target!(peerage::fuzz::control, 64);
