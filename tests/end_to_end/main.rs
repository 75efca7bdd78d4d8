//! The real binary, real sockets, real disks. One test program, so that it is linked once.

mod bad_input;
mod harness;
mod kill;
mod resume;
mod transfer;
