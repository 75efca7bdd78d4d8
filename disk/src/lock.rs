//! How a lock is taken.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A lock that a panicking thread held is taken all the same: each holder leaves what it guards
/// whole at every step.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
