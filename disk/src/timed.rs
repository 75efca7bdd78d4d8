//! How long something takes.

use std::time::{Duration, Instant};

/// Does something, and adds the time that it takes.
pub fn timed<T>(spent: &mut Duration, act: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = act();
    *spent = spent.saturating_add(began.elapsed());
    result
}
