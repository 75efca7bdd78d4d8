//! What must hold whatever the bytes are: the bodies of the fuzz targets. Each takes any bytes and panics
//! where a promise is broken. The corpus is run through them by `tests/corpus.rs`, without a fuzzer.
#![forbid(unsafe_code)]

mod address;
mod client_machine;
mod journal;
mod line;
mod name;
mod saved_state;
mod script;
mod server_machine;
mod tokens_file;

pub use address::address;
pub use client_machine::client_machine;
pub use journal::journal;
pub use line::line;
pub use name::name;
pub use saved_state::saved_state;
pub use server_machine::server_machine;
pub use tokens_file::tokens_file;

/// A target, by its name: the directory of its corpus is called the same.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("address", address),
    ("client_machine", client_machine),
    ("journal", journal),
    ("line", line),
    ("name", name),
    ("saved_state", saved_state),
    ("server_machine", server_machine),
    ("tokens_file", tokens_file),
];
