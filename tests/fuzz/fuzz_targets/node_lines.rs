#![no_main]
peerage_fuzz::target!(peerage::fuzz::lines, 16);
