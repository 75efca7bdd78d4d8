//! See `ftx_fuzz::tokens_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ftx_fuzz::tokens_file(bytes));
