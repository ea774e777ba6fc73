#![no_main]
peerage_fuzz::target!(peerage::fuzz::text, 16);
