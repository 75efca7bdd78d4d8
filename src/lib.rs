//! The ftx server, as a library. The command line is the binary of the same package.
//!
//! ARCHITECTURE.md has the map. The server never imports the client.
#![forbid(unsafe_code)]

pub mod server;
