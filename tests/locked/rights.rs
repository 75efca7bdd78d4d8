//! What somebody may do, and until when.

use std::time::Duration;

use serde_json::json;

use crate::both::{MIB, noise, until};
use crate::world::{Terms, World};

const ALL: &str = "read,list,write,replace,delete";

/// Behind a refused put its body comes all the same.
#[test]
fn what_follows_a_refused_put_is_harmless() {
    let world = World::locked();
    let mut peer = world.login(&world.token("read,list"));
    let bytes = noise(3 * MIB, 1);
    peer.put(1, "a", &bytes);
    assert_eq!(peer.code(), "denied");
    peer.say(json!({"list": {"id": 2, "depth": "one"}}));
    assert!(peer.line()["ok"].is_object(), "nothing is there, and the connection lives");
    assert_eq!(world.staged(), 0);
}

#[test]
fn every_verb_needs_its_right() {
    let world = World::locked();
    std::fs::write(world.served().join("f"), "old").unwrap();
    let requests = [
        ("read", json!({"get": {"id": 1, "name": "f", "digest": "sha256"}})),
        ("read", json!({"stat": {"id": 1, "name": "f", "digest": "sha256"}})),
        ("list", json!({"list": {"id": 1}})),
        ("write", json!({"mkdir": {"id": 1, "name": "d"}})),
        ("delete", json!({"remove": {"id": 1, "name": "f"}})),
        ("write", json!({"resume": {"id": 1, "transfer": "0".repeat(32)}})),
    ];
    for (right, request) in &requests {
        let others: Vec<&str> = ALL.split(',').filter(|word| word != right).collect();
        let mut peer = world.login(&world.token(&others.join(",")));
        peer.say(request.clone());
        assert_eq!(peer.code(), "denied", "{request}");
    }
    assert_eq!(world.stored("f").unwrap(), b"old");
    let mut peer = world.login(&world.token("write"));
    peer.put(1, "f", b"new");
    assert_eq!(peer.code(), "exists");
    let mut peer = world.login(&world.token("write,replace"));
    peer.put(1, "f", b"new");
    assert!(peer.line()["done"].is_object());
}

#[test]
fn right_lost_ends_at_next_request() {
    let world = World::locked();
    let token = world.token(ALL);
    let (mut peer, mut other) = (world.login(&token), world.login(&token));
    peer.put(1, "a", b"hello");
    assert!(peer.line()["done"].is_object());
    world.take_back(1);
    peer.put(2, "a", b"other");
    assert_eq!(peer.code(), "denied");
    other.say(json!({"get": {"id": 3, "name": "a", "digest": "sha256"}}));
    assert_eq!(other.code(), "denied");
    assert_eq!(world.stored("a").unwrap(), b"hello");
}

#[test]
fn right_lost_ends_a_body_at_its_next_part() {
    let world = World::locked();
    let mut peer = world.login(&world.token(ALL));
    let bytes = noise(9 * MIB, 1);
    peer.begin(1, "a", bytes.len(), &"1".repeat(32));
    peer.part(1, 0, &bytes[..MIB]);
    until("it is on its way", || world.staged() == 1);
    world.take_back(1);
    peer.part(1, MIB, &bytes[MIB..2 * MIB]);
    assert_eq!(peer.code(), "denied");
    until("nothing is left", || world.staged() == 0);
    peer.finish(1, &bytes);
    assert_eq!(world.stored("a"), None);
}

/// The body is whole, and only the end is missing: that is what is refused then.
#[test]
fn right_lost_is_seen_when_the_name_is_to_be_taken() {
    let world = World::locked();
    let mut peer = world.login(&world.token(ALL));
    peer.begin(1, "a", 5, &"1".repeat(32));
    peer.part(1, 0, b"hello");
    until("it is on its way", || world.staged() == 1);
    world.take_back(1);
    peer.finish(1, b"hello");
    assert_eq!(peer.code(), "denied");
    until("nothing is left", || world.staged() == 0);
    assert_eq!(world.stored("a"), None);
}

#[test]
fn a_file_that_is_sent_ends_when_the_time_is_over() {
    let world = World::locked();
    std::fs::write(world.served().join("b"), noise(64 * MIB, 1)).unwrap();
    let terms = Terms { expires: Some(Duration::from_millis(2_500)), ..Terms::default() };
    let mut peer = world.login(&world.token_with("read", terms));
    peer.say(json!({"get": {"id": 1, "name": "b", "digest": "sha256"}}));
    std::thread::sleep(Duration::from_millis(3_000));
    peer.end();
    let said = peer.raw().unwrap();
    assert!(said.len() < 60 * MIB, "{}", said.len());
    let tail = String::from_utf8_lossy(&said[said.len() - 300..]).into_owned();
    assert!(tail.contains(r#""code":"expired""#), "{tail}");
}

#[test]
fn takeover_needs_the_token() {
    let world = World::locked();
    let (one, other) = (world.token(ALL), world.token(ALL));
    let (bytes, transfer) = (noise(20 * MIB, 1), "5".repeat(32));
    let mut peer = world.login(&one);
    peer.begin(1, "a", bytes.len(), &transfer);
    for part in 0..12 {
        peer.part(1, part * MIB, &bytes[part * MIB..(part + 1) * MIB]);
    }
    until("it is on its way", || world.staged() == 1);
    let mut stranger = world.login(&other);
    stranger.say(json!({"resume": {"id": 1, "transfer": transfer}}));
    assert_eq!(stranger.line()["held"]["state"], "nothing");
    stranger.begin(2, "a", bytes.len(), &transfer);
    assert_eq!(stranger.code(), "transfer_mismatch");
    // The one whose it is goes on as if nothing had been.
    for part in 12..20 {
        peer.part(1, part * MIB, &bytes[part * MIB..(part + 1) * MIB]);
    }
    peer.finish(1, &bytes);
    assert!(peer.line()["done"].is_object());
    // And its acknowledgement is said again to nobody else.
    stranger.say(json!({"resume": {"id": 3, "transfer": transfer}}));
    assert_eq!(stranger.line()["held"]["state"], "nothing");
    peer.say(json!({"resume": {"id": 2, "transfer": transfer}}));
    assert_eq!(peer.line()["held"]["state"], "complete");
    let mut again = world.login(&one);
    again.say(json!({"resume": {"id": 1, "transfer": transfer}}));
    assert_eq!(again.line()["held"]["state"], "complete");
}

#[test]
fn a_share_is_used_up_and_no_more() {
    let world = World::locked();
    let terms = Terms { max_bytes: Some(10_000), ..Terms::default() };
    let mut peer = world.login(&world.token_with("write,replace,delete", terms));
    peer.put(1, "a", &noise(6_000, 1));
    assert!(peer.line()["done"].is_object());
    peer.put(2, "b", &noise(6_000, 1));
    assert_eq!(peer.code(), "quota");
    peer.put(3, "b", &noise(4_000, 1));
    assert!(peer.line()["done"].is_object());
    peer.put(4, "c", b"x");
    assert_eq!(peer.code(), "quota");
    // Of a size that was not said.
    peer.say(
        json!({"put": {"id": 5, "name": "c", "digest": "sha256", "transfer": "9".repeat(32)}}),
    );
    peer.part(5, 0, b"hello");
    peer.finish(5, b"hello");
    assert_eq!(peer.code(), "quota");
    assert_eq!(world.stored("c"), None);
    until("nothing is left", || world.staged() == 0);
}

#[test]
fn what_did_not_take_effect_does_not_count() {
    let world = World::locked();
    let terms = Terms { max_bytes: Some(10_000), ..Terms::default() };
    let mut peer = world.login(&world.token_with("write", terms));
    let bytes = noise(9_000, 1);
    for id in 1..5 {
        peer.begin(id, "a", bytes.len(), &format!("{id:032x}"));
        peer.part(id, 0, &bytes);
        match id {
            1 => peer.say(json!({"abort": {"id": id, "code": "aborted"}})),
            2 => peer.finish(id, &noise(9_000, 1)[..8_999]),
            3 => peer.say(json!({"end": {
                "id": id, "size": bytes.len(), "digest": crate::peer::digest_of(b""),
            }})),
            _ => peer.finish(id, &bytes),
        }
        let line = peer.line();
        assert_eq!(line["done"].is_object(), id == 4, "{line}");
    }
}

#[test]
fn unfinished_uploads_are_counted_by_token() {
    let world = World::locked();
    let terms = Terms { max_partials: Some(1), ..Terms::default() };
    let token = world.token_with("write", terms);
    let size = 20 * MIB;
    let mut one = world.login(&token);
    one.begin(1, "a", size, &"1".repeat(32));
    one.part(1, 0, b"x");
    until("it is on its way", || world.staged() == 1);
    let mut other = world.login(&token);
    other.begin(1, "b", size, &"2".repeat(32));
    assert_eq!(other.code(), "quota");
    let mut somebody = world.login(&world.token("write"));
    somebody.put(1, "c", b"hello");
    assert!(somebody.line()["done"].is_object());
}

#[test]
fn a_drop_box_takes_everything_and_shows_nothing() {
    let world = World::locked();
    let mut peer = world.login(&world.token("drop"));
    for (id, stored) in [(1, "a.txt"), (2, "a-1.txt"), (3, "a-2.txt")] {
        peer.put(id, "a.txt", stored.as_bytes());
        let done = peer.line();
        assert!(done["done"].is_object(), "{done}");
        assert_eq!(done["done"]["name"].as_str().unwrap_or("a.txt"), stored);
        assert_eq!(world.stored(stored).unwrap(), stored.as_bytes());
    }
    for request in [
        json!({"get": {"id": 10, "name": "a.txt", "digest": "sha256"}}),
        json!({"list": {"id": 11}}),
        json!({"stat": {"id": 12, "name": "nothing"}}),
        json!({"remove": {"id": 13, "name": "a.txt"}}),
    ] {
        peer.say(request);
        assert_eq!(peer.code(), "denied");
    }
}

#[test]
fn a_scope_holds_for_names_and_for_links() {
    let world = World::locked();
    let served = world.served();
    std::fs::create_dir_all(served.join("mine")).unwrap();
    std::fs::create_dir(served.join("other")).unwrap();
    std::fs::write(served.join("other/secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../other", served.join("mine/out")).unwrap();
    let terms = Terms { under: Some("mine"), ..Terms::default() };
    let mut peer = world.login(&world.token_with(ALL, terms));
    peer.put(1, "mine/a", b"hello");
    assert!(peer.line()["done"].is_object());
    for (id, name) in [(2, "other/secret"), (3, "mine/out/secret")] {
        peer.say(json!({"get": {"id": id, "name": name, "digest": "sha256"}}));
        assert!(peer.line()["error"].is_object(), "{name}");
    }
    peer.put(4, "mine/out/b", b"hello");
    assert!(peer.line()["error"].is_object());
    peer.put(5, "other/b", b"hello");
    assert_eq!(peer.code(), "denied");
    assert_eq!(std::fs::read_dir(served.join("other")).unwrap().count(), 1);
}
