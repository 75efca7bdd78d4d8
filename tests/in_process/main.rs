//! The server in this process, with tokens and options set without a command line; spoken to by hand, inside TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod bodies;
#[path = "../both/mod.rs"]
mod both;
mod over;
mod rights;
mod transport;
mod world;
