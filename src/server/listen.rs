//! Addresses, or sockets that somebody else made, to listening sockets. Knows nothing of what is said
//! on them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use ftx_disk::failure::plain;
use mio::net::TcpListener;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::access::{Policy, PolicyOptions};

/// Connections that the kernel may hold for us before they are accepted. mio's own 128 is less
/// than one burst of clients; the kernel cuts this to its own limit.
const BACKLOG: i32 = 4_096;

/// What a server listens on.
#[derive(Debug)]
pub enum Listen {
    /// Addresses; port 0 takes a free one.
    At(Vec<SocketAddr>),
    /// Sockets that were bound by whoever started the server.
    On(Vec<OwnedFd>),
}

/// An address cannot be listened on.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address is spoken to inside TLS only, and the server has nothing to show there.
    #[error(
        "{0} can be reached from other machines, and the server has no identity to be known by there. \
         Listen on 127.0.0.1, or say --allow-anyone if nobody is to be asked who they are"
    )]
    Exposed(SocketAddr),
    /// It was handed over, and is of another kind.
    #[error("a socket that was handed over is none for TCP")]
    NotTcp,
    /// It was handed over, and the system refuses.
    #[error("cannot listen on a socket that was handed over: {0}")]
    HandedOver(io::Error),
    /// The system refuses.
    #[error("cannot listen on {address}: {}", words(error))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// What the system says, and what to do about it.
fn words(error: &io::Error) -> String {
    let words = plain(error);
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{words}. If another server is there, --listen takes another port")
        }
        _ => words,
    }
}

/// A socket that listens.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) policy: Policy,
}

pub(super) fn open(listen: Listen, policy: &PolicyOptions) -> Result<Vec<Listening>, ListenError> {
    match listen {
        Listen::At(addresses) => {
            let bound = addresses.into_iter().map(|address| {
                bind(address, Policy::of(policy, address))
                    .map_err(|error| ListenError::Bind { address, error })
            });
            bound.collect()
        }
        Listen::On(sockets) => {
            sockets.into_iter().map(|socket| take_over(socket.into(), policy)).collect()
        }
    }
}

fn take_over(socket: Socket, policy: &PolicyOptions) -> Result<Listening, ListenError> {
    let address = socket.local_addr().map_err(ListenError::HandedOver)?;
    let address = address.as_socket().ok_or(ListenError::NotTcp)?;
    let policy = Policy::of(policy, address);
    listener(socket, policy).map_err(ListenError::HandedOver)
}

fn bind(address: SocketAddr, policy: Policy) -> io::Result<Listening> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A server that is started again must not wait for the connections of the one before.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each address is one that was asked for: [::] does not take 0.0.0.0 along.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    listener(socket, policy)
}

/// Listens; also on a socket that does so already, perhaps with a shorter queue.
fn listener(socket: Socket, policy: Policy) -> io::Result<Listening> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket.into());
    let address = listener.local_addr()?;
    Ok(Listening { listener, address, policy })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::access::{Exposed, Loopback, Rights, Transport};

    fn anyone() -> PolicyOptions {
        let anyone = Some(Rights::ALL);
        PolicyOptions { exposed: Exposed::PlainToo, anyone, ..PolicyOptions::default() }
    }

    fn at(address: &str, policy: PolicyOptions) -> Transport {
        let listening = open(Listen::At(vec![address.parse().unwrap()]), &policy).unwrap();
        assert_ne!(listening[0].address.port(), 0);
        listening[0].policy.transport
    }

    #[test]
    fn an_address_that_others_can_reach_is_spoken_to_inside_tls_only_unless_that_is_said() {
        assert_eq!(at("0.0.0.0:0", PolicyOptions::default()), Transport::Tls);
        assert_eq!(at("0.0.0.0:0", anyone()), Transport::PlainOrTls);
        assert_eq!(at("127.0.0.1:0", PolicyOptions::default()), Transport::PlainOrTls);
        let locked = PolicyOptions { loopback: Loopback::Locked, ..PolicyOptions::default() };
        assert_eq!(at("127.0.0.1:0", locked), Transport::Tls);
    }

    #[test]
    fn a_socket_that_is_handed_over_is_under_the_same_rule() {
        use std::net::{TcpListener, UdpSocket};
        let on = |socket: OwnedFd| open(Listen::On(vec![socket]), &PolicyOptions::default());
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = bound.local_addr().unwrap();
        let listening = on(bound.into()).unwrap();
        assert_eq!(listening[0].address, address);
        assert_eq!(listening[0].policy.transport, Transport::PlainOrTls);
        let exposed = on(TcpListener::bind("0.0.0.0:0").unwrap().into()).unwrap();
        assert_eq!(exposed[0].policy.transport, Transport::Tls);
        let unbound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(on(unbound.into()).unwrap()[0].policy.transport, Transport::Tls);
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(on(one.into()).err(), Some(ListenError::NotTcp)));
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(matches!(on(datagrams.into()).err(), Some(ListenError::HandedOver(_))));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(on(file.into()).err(), Some(ListenError::HandedOver(_))));
    }
}
