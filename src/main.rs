//! ftx
fn main() {}
