//! Whoever has a share of what all have together: a token is one client, on however many connections, and so is
//! the address of those who have none.

use ftx_protocol::Owner;

use super::Origin;
use crate::server::network::Network;

/// Whoever has a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Token(Owner),
    Address(Network),
}

impl Client {
    pub(super) fn of(origin: &Origin) -> Self {
        match origin.who.owner() {
            Some(owner) => Self::Token(owner),
            None => Self::Address(origin.network()),
        }
    }
}
