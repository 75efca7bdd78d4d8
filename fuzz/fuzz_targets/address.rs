//! See `ftx_fuzz::address`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ftx_fuzz::address(bytes));
