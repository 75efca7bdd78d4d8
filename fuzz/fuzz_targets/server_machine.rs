//! See `ftx_fuzz::server_machine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ftx_fuzz::server_machine(bytes));
