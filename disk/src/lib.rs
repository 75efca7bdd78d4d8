//! Names to descriptors, staging, the commit recipe, the journal and hashing.
//!
//! The server stores with this crate, the client's `get` writes with it: there is one confined
//! writer. It is synchronous and has no thread; it knows no socket, no message and no phase. From
//! the protocol it takes the vocabulary only: names, digests, ids, times, error codes.
#![forbid(unsafe_code)]

pub mod aligned;
mod digests;
pub mod failure;
pub mod hash;
pub mod identity;
pub mod landing;
pub mod lock;
mod log;
mod open_limit;
mod reserved;
#[cfg(test)]
mod sim;
pub mod store;
mod syncs;
pub mod sys;
pub mod timed;
pub mod walk;
