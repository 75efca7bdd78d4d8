//! The server on a port that is locked, in this process, spoken to by hand: inside TLS, with tokens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../both/mod.rs"]
mod both;
mod over;
mod peer;
mod rights;
mod transport;
mod world;
