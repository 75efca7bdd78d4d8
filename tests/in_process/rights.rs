//! What somebody may do, and until when.

use serde_json::json;

use crate::bodies::{digest_of, end};
use crate::both::talk::put;
use crate::both::{noise, until};
use crate::world::{Terms, World};

const ALL: &str = "read,list,write,replace,delete";

/// The body is whole, and only the end is missing: that is what is refused then.
#[test]
fn right_lost_is_seen_when_the_name_is_to_be_taken() {
    let world = World::locked();
    let mut peer = world.login(&world.token(ALL));
    peer.say(put(1, "a", 5, 1));
    peer.part(1, 0, b"hello");
    until("it is on its way", || world.staged() == 1);
    world.take_back(1);
    peer.say(end(1, b"hello"));
    assert_eq!(peer.code(), "denied");
    until("nothing is left", || world.staged() == 0);
    assert_eq!(world.stored("a"), None);
}

#[test]
fn what_did_not_take_effect_does_not_count() {
    let world = World::locked();
    let terms = Terms { max_bytes: Some(10_000), ..Terms::default() };
    let mut peer = world.login(&world.token_with("write", terms));
    let bytes = noise(9_000, 1);
    for id in 1..5 {
        peer.say(put(id, "a", bytes.len(), id));
        peer.part(id, 0, &bytes);
        match id {
            1 => peer.say(json!({"abort": {"id": id, "code": "aborted"}})),
            2 => peer.say(end(id, &bytes[..8_999])),
            3 => peer.say(json!({"end": {
                "id": id, "size": bytes.len(), "digest": digest_of(b""),
            }})),
            _ => peer.say(end(id, &bytes)),
        }
        let line = peer.line();
        assert_eq!(line["done"].is_object(), id == 4, "{line}");
    }
}
