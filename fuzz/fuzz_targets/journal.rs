//! See `ftx_fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ftx_fuzz::journal(bytes));
