//! Who comes in.

use std::time::Duration;

use ftx_protocol::token::Token;

use crate::peer::Peer;
use crate::world::{Terms, World};

#[test]
fn who_is_not_admitted_has_done_nothing() {
    let world = World::locked();
    let good = world.token("read,write,list,delete,replace");
    let past =
        world.token_with("write", Terms { expires: Some(Duration::ZERO), ..Terms::default() });
    for (token, code) in [
        (None, "login_required"),
        (Some(Token::new([99; 32])), "login_failed"),
        (Some(past), "expired"),
    ] {
        let mut peer = Peer::tls(&world);
        peer.hello(token.as_ref());
        peer.put(1, "a", b"hello");
        assert_eq!(peer.code(), code);
        assert!(peer.line().is_null());
        assert_eq!(world.stored("a"), None);
        assert_eq!(world.staged(), 0);
    }
    let mut peer = world.login(&good);
    peer.put(1, "a", b"hello");
    assert!(peer.line()["done"].is_object());
}

/// It has been seen on the way.
#[test]
fn a_token_in_plain_is_refused_also_where_plain_is_taken() {
    let world = World::open();
    let token = world.token("read");
    let mut peer = Peer::plain(world.address);
    peer.hello(Some(&token));
    assert_eq!(peer.code(), "tls_required");
    assert!(peer.line().is_null());
}
