//! The real binary, real sockets, real disks. One test program, so that it is linked once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, that is how a failure is told"
)]

mod activation;
mod bad_input;
#[path = "../both/mod.rs"]
mod both;
mod broken_off;
mod codes;
mod commands;
mod confine;
mod cut_trees;
mod fairness;
mod faulty_disk;
mod front;
mod harness;
mod hostile_trees;
mod identity;
mod injection;
mod kill;
mod leaks;
mod lessons;
mod liars;
mod limits;
mod locked;
mod login;
mod names;
mod places;
mod removals;
mod resume;
mod shell;
mod silence;
mod slow;
mod threads;
mod token;
mod transcripts;
mod transfer;
mod trees;

use both::talk;
