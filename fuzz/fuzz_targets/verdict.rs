#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balancedns_sim::fuzz::verdict(data));
