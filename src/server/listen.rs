//! Addresses to listening sockets. Knows nothing of what is said on them.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Connections that the kernel may hold for us before they are accepted. mio's own 128 is less
/// than one burst of clients; the kernel cuts this to its own limit.
const BACKLOG: i32 = 4_096;

/// Whether addresses that other machines can reach are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Loopback addresses only, because nobody is asked who they are.
    LoopbackOnly,
    /// Any address: whoever reaches it can read and write everything.
    Anyone,
}

/// An address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address can be reached by others, and that was not allowed.
    #[error(
        "{0} can be reached from other machines, and ftx does not ask anybody who they are yet: \
         whoever reaches it could read and replace every file. Listen on 127.0.0.1 and use an ssh \
         tunnel, or say --allow-anyone if that is what you want"
    )]
    Exposed(SocketAddr),
    /// The system refuses.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// A socket that listens.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
}

pub(super) fn bind(
    addresses: &[SocketAddr],
    exposure: Exposure,
) -> Result<Vec<Listening>, ListenError> {
    for &address in addresses {
        if exposure == Exposure::LoopbackOnly && !address.ip().to_canonical().is_loopback() {
            return Err(ListenError::Exposed(address));
        }
    }
    addresses
        .iter()
        .map(|&address| open(address).map_err(|error| ListenError::Bind { address, error }))
        .collect()
}

fn open(address: SocketAddr) -> io::Result<Listening> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A server that is started again must not wait for the connections of the one before.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each address is one that was asked for: [::] does not take 0.0.0.0 along.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into());
    let address = listener.local_addr()?;
    Ok(Listening { listener, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_can_reach_needs_a_word() {
        for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = bind(&[address.parse().unwrap()], Exposure::LoopbackOnly).err().unwrap();
            assert!(matches!(error, ListenError::Exposed(_)), "{address}");
            assert!(error.to_string().contains("--allow-anyone"));
        }
        let bound = bind(&["127.0.0.1:0".parse().unwrap()], Exposure::LoopbackOnly).unwrap();
        assert_ne!(bound[0].address.port(), 0);
        assert!(bind(&["0.0.0.0:0".parse().unwrap()], Exposure::Anyone).is_ok());
    }
}
