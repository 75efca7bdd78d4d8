//! Ids of transfers: random, and never used for anything else.

use ftx_protocol::TransferId;

use crate::failure::{Class, Failure};

pub(crate) fn new_id() -> Result<TransferId, Failure> {
    Ids::default().take(1)
}

/// Ids for many transfers, asked for together.
#[derive(Default)]
pub(crate) struct Ids(Vec<[u8; 16]>);

impl Ids {
    const TOGETHER: usize = 64;

    pub(crate) fn next(&mut self) -> Result<TransferId, Failure> {
        self.take(Self::TOGETHER)
    }

    fn take(&mut self, together: usize) -> Result<TransferId, Failure> {
        if self.0.is_empty() {
            let mut ids = vec![[0; 16]; together];
            getrandom::fill(ids.as_flattened_mut()).map_err(|error| {
                Failure::new(Class::Local, format!("the system gives no random numbers: {error}"))
            })?;
            self.0 = ids;
        }
        Ok(TransferId(self.0.pop().unwrap_or_default()))
    }
}
