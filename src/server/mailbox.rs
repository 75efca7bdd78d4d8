//! What other threads have to say to one selector, until it looks.

use std::sync::{Arc, Mutex};

use mio::Waker;

use super::lock::lock;

/// The lines of a cache are of this size or half of it: what one selector is told does not
/// slow down what another one is told.
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    waker: Arc<Waker>,
}

impl<T> Mailbox<T> {
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waiting: Mutex::new(Vec::new()), waker }
    }

    /// Adds what came about together. The first since the selector looked wakes it.
    pub(super) fn push(&self, items: impl IntoIterator<Item = T>) {
        let mut waiting = lock(&self.waiting);
        let was_empty = waiting.is_empty();
        waiting.extend(items);
        let wakes = was_empty && !waiting.is_empty();
        drop(waiting);
        if wakes {
            wake(&self.waker);
        }
    }

    /// Takes all that has gathered.
    pub(super) fn take(&self) -> Vec<T> {
        std::mem::take(&mut *lock(&self.waiting))
    }
}

/// Makes a selector look, whether or not there is anything.
pub(super) fn wake(waker: &Waker) {
    if let Err(error) = waker.wake() {
        tracing::error!(%error, "cannot wake a selector");
    }
}
