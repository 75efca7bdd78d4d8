//! Unfinished uploads of those who have no token, by the address that began them.
//!
//! The store knows them all, and that nobody has them; this knows which address has how many, as long as the
//! server runs. So one address cannot take the places of all others.

use std::collections::HashMap;
use std::sync::Mutex;

use ftx_protocol::{Code, Refusal, TransferId};

use crate::server::lock::lock;
use crate::server::network::Network;

/// Unfinished uploads that are kept of all who have no token, where others than this machine's users may be
/// among them: staging must not grow without end. The oldest go when their time is over.
pub const PARTIALS_OF_ANYONE: usize = 1_024;

/// And of one address: as many as of a token.
pub const PARTIALS_OF_ADDRESS: usize = 64;

/// Uploads that are remembered here, before those that are over are looked for.
const REMEMBERED_MAX: usize = 2 * PARTIALS_OF_ANYONE;

#[derive(Default)]
pub(super) struct Partials {
    /// Some of them may be over.
    begun: Mutex<HashMap<TransferId, Network>>,
}

impl Partials {
    /// Takes in an upload that an address is about to begin. `is_unfinished` says of one that it has begun, and is not
    /// over.
    ///
    /// # Errors
    /// `quota`, when the address has as many as may be kept.
    pub(super) fn begin(
        &self,
        transfer: TransferId,
        address: Network,
        is_unfinished: impl Fn(&TransferId) -> bool,
    ) -> Result<(), Refusal> {
        let mut begun = lock(&self.begun);
        let count = |begun: &HashMap<_, _>| begun.values().filter(|of| **of == address).count();
        if begun.len() >= REMEMBERED_MAX || count(&begun) >= PARTIALS_OF_ADDRESS {
            begun.retain(|transfer, _| is_unfinished(transfer));
        }
        if count(&begun) >= PARTIALS_OF_ADDRESS {
            let message = format!(
                "there are {PARTIALS_OF_ADDRESS} unfinished uploads from your address, the most \
                 that are kept without a token"
            );
            return Err(Refusal::new(Code::Quota, message));
        }
        begun.insert(transfer, address);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Network {
        Network::of([192, 0, 2, last].into())
    }

    fn id(number: usize) -> TransferId {
        TransferId((number as u128).to_be_bytes())
    }

    #[test]
    fn one_address_has_so_many_and_takes_no_places_of_others() {
        let partials = Partials::default();
        let begin = |number, last| {
            partials.begin(id(number), address(last), |_| true).map_err(|no| no.code)
        };
        (0..PARTIALS_OF_ADDRESS).for_each(|number| begin(number, 1).unwrap());
        assert_eq!(begin(100, 1), Err(Code::Quota));
        assert_eq!(begin(100, 2), Ok(()));
    }

    #[test]
    fn what_is_over_does_not_count_and_is_not_remembered_for_ever() {
        let partials = Partials::default();
        for number in 0..10 * REMEMBERED_MAX {
            let is_unfinished = |transfer: &TransferId| *transfer == id(number.saturating_sub(1));
            partials.begin(id(number), address(number as u8), is_unfinished).unwrap();
            assert!(lock(&partials.begun).len() <= REMEMBERED_MAX);
        }
    }
}
