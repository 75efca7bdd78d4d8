//! See `ftx_fuzz::client_machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ftx_fuzz::client_machine(bytes));
