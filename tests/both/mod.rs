//! What both test programs wait with, and what they talk with.

mod secured;
#[allow(dead_code, reason = "each program says only a part of it")]
pub mod talk;

use std::time::{Duration, Instant};

pub const MIB: usize = 1024 * 1024;

/// Nothing that a test waits for takes this long, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for something to become true.
pub fn until(what: &str, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes that nothing makes smaller, the same for the same seed.
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
