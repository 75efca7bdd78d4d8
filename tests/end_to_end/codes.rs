//! What a server answers to requests that it cannot serve as they are: the codes that are not in
//! the way of a person who uses the client, asked for by hand.

use serde_json::{Value, json};

use crate::harness::{MIB, Peer, Server, World, until};

const DIGEST: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const TRANSFER: &str = "00112233445566778899aabbccddeeff";

fn say(peer: &mut Peer, message: &Value) {
    peer.send(format!("{message}\n").as_bytes());
}

/// The first error to one line, after the greeting.
fn refusal(server: &Server, line: &str) -> Option<String> {
    let mut peer = Peer::greeted(server.address);
    peer.send(format!("{line}\n").as_bytes());
    peer.error()
}

/// Stores `hello` under a name, and returns its version.
fn store(peer: &mut Peer, id: u64, name: &str) -> String {
    let transfer = format!("{id:032x}");
    say(peer, &json!({"put": {"id": id, "name": name, "digest": "sha256", "size": 5, "transfer": transfer}}));
    say(peer, &json!({"data": {"id": id, "at": 0, "size": 5}}));
    peer.send(b"hello");
    say(peer, &json!({"end": {"id": id, "size": 5, "digest": DIGEST}}));
    let done = peer.line();
    done["done"]["version"].as_str().unwrap_or_else(|| panic!("{done}")).to_owned()
}

#[test]
fn numbers_names_and_values_that_no_writer_may_write_are_refused() {
    let world = World::new();
    let server = world.serve();
    let get = |fields: &str| {
        format!("{{\"get\":{{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",{fields}}}}}")
    };
    for (line, code) in [
        ("{\"ping\":{\"id\":1.0}}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":1e2}}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":-1}}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":9007199254740992}}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":\"1\"}}".to_owned(), "bad_message"),
        ("{\"ping\":{}}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":1},\"pong\":{\"id\":1}}".to_owned(), "bad_message"),
        ("{\"ping\":[1]}".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":1}} x".to_owned(), "bad_message"),
        ("{\"ping\":{\"id\":1,\"x\":{\"y\":{\"z\":1,\"z\":2}}}}".to_owned(), "bad_message"),
        (get("\"at\":null"), "bad_message"),
        (get("\"at\":-1"), "bad_message"),
        (get("\"cache\":7"), "bad_message"),
        (get("\"version\":\"\""), "bad_message"),
        ("{\"resume\":{\"id\":1,\"transfer\":\"00\"}}".to_owned(), "bad_message"),
        ("{\"stat\":{\"id\":1,\"name\":{\"b64\":\"YQ==\"}}}".to_owned(), "bad_message"),
        ("{\"stat\":{\"id\":1,\"name\":{\"b64\":\"!\"}}}".to_owned(), "bad_message"),
        ("{\"stat\":{\"id\":1,\"name\":{\"b64\":\"/w==\"}}}".to_owned(), "not_found"),
        ("{\"stat\":{\"id\":1,\"name\":\"\"}}".to_owned(), "bad_name"),
        ("{\"stat\":{\"id\":1,\"name\":\"a/\"}}".to_owned(), "bad_name"),
        ("{\"get\":{\"id\":1,\"name\":\"a\",\"digest\":\"md5\"}}".to_owned(), "unsupported_digest"),
        (get("\"need\":[\"holes\"]"), "unknown_need"),
        (format!("{{\"stat\":{{\"id\":1,\"name\":\"{}a\"}}}}", "a/".repeat(2_048)), "bad_name"),
    ] {
        assert_eq!(refusal(&server, &line).as_deref(), Some(code), "{line:.90}");
    }
    // Deeply nested values are no way to use up the stack.
    let deep = format!("{{\"ping\":{{\"id\":1,\"x\":{}1{}}}}}", "[".repeat(15_000), "]".repeat(15_000));
    assert_eq!(refusal(&server, &deep).as_deref(), Some("bad_message"));
    assert!(Peer::greeted(server.address).is_alive(1));
}

#[test]
fn conditions_versions_and_offsets_that_do_not_fit_are_refused() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Peer::greeted(server.address);
    let version = store(&mut peer, 1, "a");
    let refused = |line: Value| refusal(&server, &line.to_string()).unwrap();
    let get = |more: Value| {
        let mut get = json!({"id": 1, "name": "a", "digest": "sha256"});
        get.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"get": get})
    };
    assert_eq!(refused(get(json!({"at": 6}))), "bad_offset");
    assert_eq!(refused(get(json!({"version": "other"}))), "version_mismatch");
    // At the very end there is nothing to send, and the digest is still that of the whole.
    say(&mut peer, &json!({"get": {"id": 2, "name": "a", "digest": "sha256", "at": 5, "version": version}}));
    assert_eq!(peer.line()["file"]["at"], 5);
    assert_eq!(peer.line()["end"]["digest"], DIGEST);
    let put = |condition: Value| {
        json!({"put": {"id": 1, "name": "a", "digest": "sha256", "size": 5, "transfer": TRANSFER, "if": condition}})
    };
    assert_eq!(refused(put(json!("absent"))), "exists");
    assert_eq!(refused(put(json!({"version": "other"}))), "version_mismatch");
    assert_eq!(world.stored("a"), b"hello");
    until("staging is empty", || world.staged() == 0);
}

#[test]
fn a_transfer_id_is_good_for_one_file_of_one_name_size_and_digest() {
    let world = World::new();
    let server = world.serve();
    let put = |id: u64, name: &str, digest: &str, size: usize, at: usize| {
        json!({"put": {"id": id, "name": name, "digest": digest, "size": size, "at": at, "transfer": TRANSFER}})
    };
    let mut first = Peer::greeted(server.address);
    say(&mut first, &put(1, "a", "sha256", 9 * MIB, 0));
    for part in 0..8 {
        say(&mut first, &json!({"data": {"id": 1, "at": part * MIB, "size": MIB}}));
        first.send(&vec![1; MIB]);
    }
    assert_eq!(first.line()["kept"]["at"], 8 * MIB);
    drop(first);
    let mut peer = Peer::greeted(server.address);
    say(&mut peer, &json!({"resume": {"id": 1, "transfer": TRANSFER}}));
    assert_eq!(peer.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    for (id, line, code) in [
        (2, put(2, "b", "sha256", 9 * MIB, 8 * MIB), "transfer_mismatch"),
        (3, put(3, "a", "blake3", 9 * MIB, 8 * MIB), "transfer_mismatch"),
        (4, put(4, "a", "sha256", 10 * MIB, 8 * MIB), "transfer_mismatch"),
        (5, put(5, "a", "sha256", 9 * MIB, 0), "bad_offset"),
        (6, put(6, "a", "sha256", 9 * MIB, 4 * MIB), "bad_offset"),
    ] {
        say(&mut peer, &line);
        say(&mut peer, &json!({"abort": {"id": id, "code": "aborted"}}));
        assert_eq!(peer.error().as_deref(), Some(code), "{line}");
    }
    // What was promised is still there after all of these.
    say(&mut peer, &json!({"resume": {"id": 7, "transfer": TRANSFER}}));
    assert_eq!(peer.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
}

#[test]
fn a_get_that_is_given_up_ends_and_the_connection_goes_on() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("big"), vec![3; 64 * MIB]).unwrap();
    let mut peer = Peer::greeted(server.address);
    say(&mut peer, &json!({"get": {"id": 1, "name": "big", "digest": "sha256"}}));
    say(&mut peer, &json!({"abort": {"id": 1, "code": "aborted"}}));
    say(&mut peer, &json!({"ping": {"id": 2}}));
    let (mut moved, mut aborted, mut alive) = (0, false, false);
    while !(aborted && alive) {
        let line = peer.line();
        if let Some(size) = line["data"]["size"].as_u64() {
            peer.skip(size);
            moved += size;
        }
        assert!(!line.is_null(), "the connection ended");
        aborted |= line["error"]["code"] == "aborted";
        alive |= line["pong"]["id"] == 2;
    }
    assert!(moved < 64 * MIB as u64, "all of it was sent");
    // An abort that comes too late is nothing.
    say(&mut peer, &json!({"abort": {"id": 1, "code": "aborted"}}));
    assert!(peer.is_alive(3));
}

#[test]
fn a_put_and_a_get_of_one_name_sent_together_take_effect_in_that_order() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Peer::greeted(server.address);
    for round in 0..20 {
        let id = round * 10 + 1;
        let name = format!("deep/er/{round}");
        say(&mut peer, &json!({"put": {"id": id, "name": name, "digest": "sha256", "size": 5, "transfer": format!("{id:032x}")}}));
        say(&mut peer, &json!({"data": {"id": id, "at": 0, "size": 5}}));
        peer.send(b"hello");
        say(&mut peer, &json!({"end": {"id": id, "size": 5, "digest": DIGEST}}));
        say(&mut peer, &json!({"stat": {"id": id + 1, "name": name}}));
        say(&mut peer, &json!({"stat": {"id": id + 2, "name": "deep/er"}}));
        let mut answers = Vec::new();
        for _ in 0..3 {
            answers.push(peer.line());
        }
        let info = |id: u64| answers.iter().find(|line| line["info"]["id"] == id);
        assert_eq!(info(id + 1).unwrap()["info"]["size"], 5, "{answers:?}");
        assert_eq!(info(id + 2).unwrap()["info"]["kind"], "directory", "{answers:?}");
    }
}

#[test]
fn who_sends_what_was_refused_without_end_is_told_so_and_hung_up_on() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Peer::greeted(server.address);
    say(&mut peer, &json!({"put": {"id": 1, "name": "../a", "digest": "sha256", "size": 99_000_000, "transfer": TRANSFER}}));
    assert_eq!(peer.error().as_deref(), Some("bad_name"));
    for part in 0..66 {
        say(&mut peer, &json!({"data": {"id": 1, "at": part * MIB, "size": MIB}}));
        peer.send(&vec![0; MIB]);
    }
    assert_eq!(peer.error().as_deref(), Some("too_much_discarded"));
}

#[test]
fn what_nobody_comes_back_for_is_dropped_after_its_time() {
    let world = World::new();
    let server = world.serve_with(&["--partial-ttl", "1s"]);
    let mut peer = Peer::greeted(server.address);
    say(&mut peer, &json!({"put": {"id": 1, "name": "a", "digest": "sha256", "size": 9 * MIB, "transfer": TRANSFER}}));
    for part in 0..8 {
        say(&mut peer, &json!({"data": {"id": 1, "at": part * MIB, "size": MIB}}));
        peer.send(&vec![1; MIB]);
    }
    assert_eq!(peer.line()["kept"]["at"], 8 * MIB);
    drop(peer);
    until("it expired", || world.staged() == 0);
    let mut peer = Peer::greeted(server.address);
    say(&mut peer, &json!({"resume": {"id": 1, "transfer": TRANSFER}}));
    assert_eq!(peer.line()["held"]["state"], "nothing");
}

impl Peer {
    fn is_alive(&mut self, id: u64) -> bool {
        say(self, &json!({"ping": {"id": id}}));
        self.line()["pong"]["id"] == id
    }

    /// Passes over raw bytes.
    fn skip(&mut self, size: u64) {
        self.raw(size);
    }
}
