//! One address does not lock out another.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ftx::server::access::Loopback;
use ftx::server::{DoorOptions, OwnMachine};
use ftx_protocol::token::Token;
use socket2::{Domain, Socket, Type};

use crate::peer::Peer;
use crate::world::World;

fn counted(connections_per_address: u32) -> World {
    World::with(|options| {
        options.policy.loopback = Loopback::Locked;
        options.doors = DoorOptions {
            connections_per_address,
            failed_logins: 2,
            own_machine: OwnMachine::Counted,
        };
    })
}

fn from(world: &World, address: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let source: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&world.address.into()).unwrap();
    socket.into()
}

fn is_shut(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    matches!(socket.read(&mut [0; 1]), Ok(0))
}

#[test]
fn logins_that_fail_shut_the_door_of_their_address_and_of_no_other() {
    let world = counted(100);
    let token = world.token("read");
    for guess in 100..103 {
        let mut peer = Peer::tls_over(&world, from(&world, "127.0.0.2"));
        peer.hello(Some(&Token::new([guess; 32])));
        assert_eq!(peer.code(), "login_failed");
    }
    assert!(is_shut(from(&world, "127.0.0.2")));
    let mut peer = Peer::tls_over(&world, from(&world, "127.0.0.3"));
    peer.hello(Some(&token));
    assert!(peer.line()["welcome"].is_object());
    // It has to wait for a second, and not for ever.
    std::thread::sleep(Duration::from_millis(1_200));
    let mut peer = Peer::tls_over(&world, from(&world, "127.0.0.2"));
    peer.hello(Some(&token));
    assert!(peer.line()["welcome"].is_object());
}

#[test]
fn an_address_has_so_many_connections_and_the_next_address_as_many() {
    let world = counted(3);
    let token = world.token("read");
    let login = |address| {
        let mut peer = Peer::tls_over(&world, from(&world, address));
        peer.hello(Some(&token));
        assert!(peer.line()["welcome"].is_object());
        peer
    };
    let mut peers: Vec<Peer> = (0..3).map(|_| login("127.0.0.2")).collect();
    assert!(is_shut(from(&world, "127.0.0.2")));
    let _other = login("127.0.0.3");
    drop(peers.pop());
    std::thread::sleep(Duration::from_millis(200));
    login("127.0.0.2");
}
