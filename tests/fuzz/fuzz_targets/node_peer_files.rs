#![no_main]
peerage_fuzz::target!(peerage::fuzz::peer_files, 64);
