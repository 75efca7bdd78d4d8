//! ftx/1: what goes over the wire, and in which order.
//!
//! This crate is pure. It has no socket, file, clock, thread or log: bytes and events go in,
//! commands and bytes come out, and the time is passed in. `protocol.md` is the specification;
//! tests hold this crate against it.
#![forbid(unsafe_code)]

pub mod asked;
pub mod client;
pub mod clock;
pub mod digest;
pub mod edges;
pub mod error;
pub mod escape;
pub mod file;
pub mod ids;
pub mod limits;
pub mod line;
pub mod message;
pub mod name;
pub mod server;
mod strict;
pub mod token;
mod word;

pub use asked::{Asked, Called, Verb};
pub use clock::Time;
pub use digest::{Algorithm, Digest};
pub use error::{Code, Fault, Refusal, Retry};
pub use escape::Escaped;
pub use file::{Condition, Depth, Durability, FileTime, Kind, Mode, Parents, Replay};
pub use ids::{Owner, RequestId, TransferId, Version};
pub use name::{Name, NameError};
pub use token::{Token, TokenError};
