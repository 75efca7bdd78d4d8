//! What a server answers to requests that it cannot serve as they are: the codes that are not in
//! the way of a person who uses the client, asked for by hand.

use serde_json::{Value, json};

use crate::harness::{MIB, Server, World, until};
use crate::talk::{HELLO_DIGEST, Talk};

const TRANSFER: &str = "00112233445566778899aabbccddeeff";

/// The answer to one line, after the greeting; its code if it is an error.
fn answer(server: &Server, line: &str) -> String {
    let mut peer = Talk::with(server.address);
    peer.send(
        format!(
            "{line}
"
        )
        .as_bytes(),
    );
    peer.code()
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
        assert_eq!(answer(&server, &line), code, "{line:.90}");
    }
    // Deeply nested values are no way to use up the stack.
    let deep =
        format!("{{\"ping\":{{\"id\":1,\"x\":{}1{}}}}}", "[".repeat(15_000), "]".repeat(15_000));
    assert_eq!(answer(&server, &deep), "bad_message");
    assert!(Talk::with(server.address).is_answered(1));
}

#[test]
fn conditions_versions_and_offsets_that_do_not_fit_are_refused() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Talk::with(server.address);
    peer.put_hello(1, "a", "full");
    let version = peer.line()["done"]["version"].clone();
    let refused = |line: Value| answer(&server, &line.to_string());
    let get = |more: Value| {
        let mut get = json!({"id": 1, "name": "a", "digest": "sha256"});
        get.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"get": get})
    };
    assert_eq!(refused(get(json!({"at": 6}))), "bad_offset");
    assert_eq!(refused(get(json!({"version": "other"}))), "version_mismatch");
    // At the very end there is nothing to send, and the digest is still that of the whole.
    peer.say(
        json!({"get": {"id": 2, "name": "a", "digest": "sha256", "at": 5, "version": version}}),
    );
    assert_eq!(peer.line()["file"]["at"], 5);
    assert_eq!(peer.line()["end"]["digest"], HELLO_DIGEST);
    let put = |condition: Value| json!({"put": {"id": 1, "name": "a", "digest": "sha256", "size": 5, "transfer": TRANSFER, "if": condition}});
    assert_eq!(refused(put(json!("absent"))), "exists");
    assert_eq!(refused(put(json!({"version": "other"}))), "version_mismatch");
    assert_eq!(world.stored("a"), b"hello");
    until("staging is empty", || world.staged() == 0);
}

#[test]
fn a_transfer_id_is_good_for_one_file_of_one_name_size_and_digest() {
    let world = World::new();
    let server = world.serve();
    let put = |id: u64, name: &str, digest: &str, size: usize, at: usize| json!({"put": {"id": id, "name": name, "digest": digest, "size": size, "at": at, "transfer": TRANSFER}});
    let mut first = Talk::with(server.address);
    first.say(put(1, "a", "sha256", 9 * MIB, 0));
    for part in 0..8 {
        first.say(json!({"data": {"id": 1, "at": part * MIB, "size": MIB}}));
        first.send(&vec![1; MIB]);
    }
    assert_eq!(first.line()["kept"]["at"], 8 * MIB);
    drop(first);
    let mut peer = Talk::with(server.address);
    peer.say(json!({"resume": {"id": 1, "transfer": TRANSFER}}));
    assert_eq!(peer.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    for (id, line, code) in [
        (2, put(2, "b", "sha256", 9 * MIB, 8 * MIB), "transfer_mismatch"),
        (3, put(3, "a", "blake3", 9 * MIB, 8 * MIB), "transfer_mismatch"),
        (4, put(4, "a", "sha256", 10 * MIB, 8 * MIB), "transfer_mismatch"),
        (5, put(5, "a", "sha256", 9 * MIB, 0), "bad_offset"),
        (6, put(6, "a", "sha256", 9 * MIB, 4 * MIB), "bad_offset"),
    ] {
        peer.say(line.clone());
        assert_eq!(peer.code(), code, "{line}");
        peer.say(json!({"abort": {"id": id, "code": "aborted"}}));
    }
    // What was promised is still there after all of these.
    peer.say(json!({"resume": {"id": 7, "transfer": TRANSFER}}));
    assert_eq!(peer.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
}

#[test]
fn a_get_that_is_given_up_ends_and_the_connection_goes_on() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("big"), vec![3; 64 * MIB]).unwrap();
    let mut peer = Talk::with(server.address);
    peer.say(json!({"get": {"id": 1, "name": "big", "digest": "sha256"}}));
    peer.say(json!({"abort": {"id": 1, "code": "aborted"}}));
    peer.say(json!({"ping": {"id": 2}}));
    let (mut moved, mut aborted, mut alive) = (0, false, false);
    while !(aborted && alive) {
        let (line, bytes) = peer.past_parts();
        moved += bytes;
        assert!(!line.is_null(), "the connection ended");
        aborted |= line["error"]["code"] == "aborted";
        alive |= line["pong"]["id"] == 2;
    }
    assert!(moved < 64 * MIB as u64, "all of it was sent");
    // An abort that comes too late is nothing.
    peer.say(json!({"abort": {"id": 1, "code": "aborted"}}));
    assert!(peer.is_answered(3));
}

#[test]
fn a_put_and_a_get_of_one_name_sent_together_take_effect_in_that_order() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Talk::with(server.address);
    for round in 0..20 {
        let id = round * 10 + 1;
        let name = format!("deep/er/{round}");
        peer.say(json!({"put": {"id": id, "name": name, "digest": "sha256", "size": 5, "transfer": format!("{id:032x}")}}));
        peer.say(json!({"data": {"id": id, "at": 0, "size": 5}}));
        peer.send(b"hello");
        peer.say(json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}}));
        peer.say(json!({"stat": {"id": id + 1, "name": name}}));
        peer.say(json!({"stat": {"id": id + 2, "name": "deep/er"}}));
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
fn a_put_is_judged_by_what_the_requests_before_it_leave_and_not_by_what_is_there_when_it_comes() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Talk::with(server.address);
    let mut id = 0;
    let mut take_effect = |requests: &[Value]| {
        let (first, mut sent) = (id + 1, Vec::new());
        for request in requests {
            id += 1;
            let mut request = request.clone();
            let (kind, fields) = request.as_object_mut().unwrap().iter_mut().next().unwrap();
            fields["id"] = json!(id);
            let is_put = kind == "put";
            if is_put {
                // Of unknown size: one that comes whole is looked at when it is whole.
                fields["digest"] = json!("sha256");
                fields["transfer"] = json!(format!("{id:032x}"));
            }
            sent.extend(format!("{request}\n").into_bytes());
            if is_put {
                let data = json!({"data": {"id": id, "at": 0, "size": 5}});
                let end = json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}});
                sent.extend(format!("{data}\nhello{end}\n").into_bytes());
            }
        }
        // In one write: all are there before the first has taken effect.
        peer.send(&sent);
        for _ in first..=id {
            let line = peer.line();
            assert!(line["error"].is_null(), "{requests:?}: {line}");
        }
    };
    for _ in 0..10 {
        take_effect(&[json!({"put": {"name": "a"}})]);
        take_effect(&[
            json!({"remove": {"name": "a"}}),
            json!({"put": {"name": "a", "if": "absent"}}),
        ]);
        take_effect(&[
            json!({"move": {"name": "a", "to": "b"}}),
            json!({"put": {"name": "a/below"}}),
        ]);
        take_effect(&[
            json!({"remove": {"name": "a", "depth": "all"}}),
            json!({"put": {"name": "a"}}),
        ]);
    }
}

#[test]
fn who_sends_what_was_refused_without_end_is_told_so_and_hung_up_on() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Talk::with(server.address);
    peer.say(json!({"put": {"id": 1, "name": "../a", "digest": "sha256", "size": 99_000_000, "transfer": TRANSFER}}));
    assert_eq!(peer.code(), "bad_name");
    for part in 0..66 {
        peer.say(json!({"data": {"id": 1, "at": part * MIB, "size": MIB}}));
        peer.send(&vec![0; MIB]);
    }
    assert_eq!(peer.code(), "too_much_discarded");
}

#[test]
fn fields_that_are_no_object_are_refused() {
    let world = World::new();
    let server = world.serve();
    for line in [
        "{\"ping\":[1]}",
        "{\"stat\":[1,\"a\"]}",
        "{\"resume\":[1,\"00112233445566778899aabbccddeeff\"]}",
    ] {
        assert_eq!(answer(&server, line), "bad_message", "{line}");
    }
}

#[test]
fn as_many_requests_as_the_limit_wait_and_one_more_ends_the_connection() {
    const REQUESTS: u64 = 4_096;
    let world = World::new();
    let server = world.serve();
    // Requests that wait for the put before them: it has not got its name yet.
    let waiting = |count: u64| {
        let mut talk = Talk::with(server.address);
        talk.say(json!({"put": {
            "id": 1, "name": "a", "digest": "sha256", "size": 5, "transfer": format!("{count:032x}"),
        }}));
        let stat = |id: u64| format!("{}\n", json!({"stat": {"id": id, "name": "a"}}));
        let stats: String = (2..=count).map(stat).collect();
        talk.send(stats.as_bytes());
        talk
    };
    let mut over = waiting(REQUESTS + 1);
    let line = over.line();
    assert_eq!(line["error"]["code"], "too_many_requests", "{line}");
    assert!(line["error"]["id"].is_null(), "{line}");
    assert!(over.line().is_null(), "the connection is closed");
    let mut at = waiting(REQUESTS);
    at.part(1, 0, b"hello");
    at.say(json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}}));
    assert_eq!(at.line()["done"]["id"], 1);
    for id in 2..=REQUESTS {
        let line = at.line();
        assert_eq!((&line["info"]["id"], &line["info"]["size"]), (&json!(id), &json!(5)), "{line}");
    }
    assert!(at.is_answered(REQUESTS + 1));
}
