//! Every way in which a request can end without being done, and the line that it leaves in the log: exactly
//! this one, and no other.

use std::net::SocketAddr;

use ftx_protocol::Code;
use serde_json::{Map, Value, json};

use super::house::{House, Inside, introduced, put as announced, word};
use crate::harness::{MIB, until};
use crate::injection::Injection;
use crate::talk::{HELLO_DIGEST, Talk};

const TRANSFER: &str = "00112233445566778899aabbccddeeff";

/// What somebody says, and the line that is left of it.
struct Row {
    says: Vec<u8>,
    line: Value,
}

/// The line of a request that was refused: what is the same in all of them is put to it later.
fn line(op: &str, code: &str, why: &str, more: Value) -> Value {
    let mut line =
        json!({"op": op, "result": code, "why": why, "message": format!("{op} refused")});
    line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    line
}

/// As the table of codes has it.
fn advice(code: &str) -> &'static str {
    Code::ALL.iter().find(|known| known.as_str() == code).unwrap().advice()
}

fn row(says: impl Into<Vec<u8>>, line: Value) -> Row {
    Row { says: says.into(), line }
}

fn said(messages: &[Value]) -> String {
    messages.iter().map(|message| format!("{message}\n")).collect()
}

/// One of each kind of request: its word in the log, its fields, and the names in its line.
fn each(id: u64) -> Vec<(&'static str, Value, Value)> {
    let fields = |more: Value| {
        let mut fields = json!({"id": id, "name": "a/b c"});
        fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        fields
    };
    let name = json!({"name": "a/b\\x20c"});
    let put = fields(json!({"digest": "sha256", "size": 5, "transfer": TRANSFER}));
    vec![
        ("put", json!({"put": put}), name.clone()),
        ("get", json!({"get": fields(json!({"digest": "sha256"}))}), name.clone()),
        ("resume", json!({"resume": {"id": id, "transfer": TRANSFER}}), json!({})),
        ("stat", json!({"stat": fields(json!({}))}), name.clone()),
        ("sum", json!({"stat": fields(json!({"digest": "sha256"}))}), name.clone()),
        ("list", json!({"list": fields(json!({}))}), name.clone()),
        ("list", json!({"list": {"id": id}}), json!({"name": "/"})),
        ("mkdir", json!({"mkdir": fields(json!({}))}), name.clone()),
        (
            "move",
            json!({"move": fields(json!({"to": "x y"}))}),
            json!({"name": "a/b\\x20c", "to": "x\\x20y"}),
        ),
        ("remove", json!({"remove": fields(json!({}))}), name),
        ("ping", json!({"ping": {"id": id}}), json!({})),
    ]
}

/// The request with this field as well.
fn with(mut request: Value, field: &str, value: Value) -> Value {
    let fields = request.as_object_mut().unwrap().values_mut().next().unwrap();
    fields.as_object_mut().unwrap().insert(field.to_owned(), value);
    request
}

fn has_name(request: &Value) -> bool {
    request.as_object().unwrap().values().all(|fields| fields["name"].is_string())
}

/// What every kind of request is refused for, before anybody looks at what it names.
fn of_each_kind() -> Vec<Row> {
    let mut rows = Vec::new();
    for (op, request, names) in each(5) {
        rows.push(row(
            said(&[with(request.clone(), "need", json!(["holes", "who=root \" who=root"]))]),
            line(op, "unknown_need", advice("unknown_need"), names.clone()),
        ));
        rows.push(row(
            said(&[json!({"ping": {"id": 5}}), request.clone()]),
            line(op, "bad_id", advice("bad_id"), names.clone()),
        ));
        if has_name(&request) {
            let mut named = names;
            named["name"] = json!("..\\x20who=root/\\n/../x");
            rows.push(row(
                said(&[with(request, "name", json!(".. who=root/\n/../x"))]),
                line(op, "bad_name", "no part of a name is \".\" or \"..\"", named),
            ));
        }
    }
    let digest =
        |kind: &str| json!({kind: {"id": 1, "name": "a", "digest": "md5", "transfer": TRANSFER}});
    for (op, kind) in [("put", "put"), ("get", "get"), ("sum", "stat")] {
        rows.push(row(
            said(&[digest(kind)]),
            line(op, "unsupported_digest", advice("unsupported_digest"), json!({"name": "a"})),
        ));
    }
    rows.push(row(
        said(&[json!({"login who=root": {"id": 1, "name": "a"}})]),
        line("unknown", "unknown_request", advice("unknown_request"), json!({"name": "a"})),
    ));
    rows
}

/// Names that are none, however long and whatever is in them.
fn of_names() -> Vec<Row> {
    let get = |name: Value| said(&[json!({"get": {"id": 1, "name": name, "digest": "sha256"}})]);
    let bad = |rule: &str, name: String| line("get", "bad_name", rule, json!({"name": name}));
    let empty = "a name has no empty parts: it is relative, with one slash between parts";
    vec![
        row(get(json!("")), bad(empty, String::new())),
        row(get(json!("/".repeat(4_000))), bad(empty, "/".repeat(255) + "…")),
        row(
            get(json!(" ".repeat(30_000))),
            bad("a name has at most 4,095 bytes", "\\x20".repeat(255) + "…"),
        ),
        row(
            get(json!("\u{0} who=root")),
            bad("a name has no NUL byte", "\\x00\\x20who=root".to_owned()),
        ),
        row(
            get(json!({"b64": "/y8u"})),
            bad("no part of a name is \".\" or \"..\"", "\\xff/.".to_owned()),
        ),
        row(
            said(&[json!({"move": {"id": 1, "name": "a", "to": "../b"}})]),
            line(
                "move",
                "bad_name",
                "no part of a name is \".\" or \"..\"",
                json!({"name": "a", "to": "../b"}),
            ),
        ),
    ]
}

fn with_bytes(mut line: Value, bytes: u64) -> Value {
    line["bytes"] = json!(bytes);
    line
}

/// Puts whose body is wrong, or is never to be sent.
fn of_puts() -> Vec<Row> {
    let put = |more: Value| {
        let fields =
            json!({"put": {"id": 1, "name": "a", "digest": "sha256", "transfer": TRANSFER}});
        let more = more.as_object().unwrap().clone();
        more.into_iter().fold(fields, |fields, (key, value)| with(fields, &key, value))
    };
    let data = |at: u64, size: u64| json!({"data": {"id": 1, "at": at, "size": size}});
    let end = |size: u64, digest: &str| json!({"end": {"id": 1, "size": size, "digest": digest}});
    let five = put(json!({"size": 5}));
    let refused = |code: &str, why: &str| line("put", code, why, json!({"name": "a"}));
    let after = |bytes: u64, code: &str, why: &str| with_bytes(refused(code, why), bytes);
    let hello = |last: Value| {
        format!("{}hello{}", said(&[five.clone(), data(0, 5)]), said(&[last])).into_bytes()
    };
    let blake3 = format!("blake3:{}", "0".repeat(64));
    let other = format!("sha256:{}", "0".repeat(64));
    let abort = |code: &str| json!({"abort": {"id": 1, "code": code}});
    let mut broken_off = after(5, "aborted", "");
    broken_off["message"] = json!("put broken off");
    broken_off.as_object_mut().unwrap().remove("why");
    vec![
        row(said(&[put(json!({"size": 5, "at": 6}))]), refused("bad_offset", advice("bad_offset"))),
        row(said(&[put(json!({"size": 10 * MIB + 1}))]), refused("too_large", advice("too_large"))),
        row(
            said(&[five.clone(), with(with(five.clone(), "id", json!(2)), "name", json!("b"))]),
            line("put", "bad_message", advice("bad_message"), json!({"name": "b"})),
        ),
        row(
            said(&[five.clone(), data(1, 1)]),
            after(0, "bad_part", "a part at 1, where 0 is next"),
        ),
        row(
            said(&[five.clone(), data(0, 6)]),
            after(0, "bad_part", "a part to 6, past the announced size"),
        ),
        row(
            said(&[five.clone(), data(0, 1_048_577)]),
            after(0, "bad_part", "a part has at most 1048576 bytes"),
        ),
        row(
            said(&[put(json!({"at": 0})), data(0, 0), end(1, HELLO_DIGEST)]),
            after(0, "size_mismatch", "0 bytes arrived; end says 1"),
        ),
        row(
            said(&[five.clone(), end(5, HELLO_DIGEST)]),
            after(0, "size_mismatch", "0 bytes arrived, and 5 were announced"),
        ),
        row(
            hello(end(5, &blake3)),
            after(5, "digest_mismatch", "end has a digest of another kind than sha256"),
        ),
        row(hello(end(5, &other)), after(5, "digest_mismatch", "")),
        row(
            hello(abort("changed")),
            after(5, "changed", "the client's file changed while it was read"),
        ),
        row(hello(abort("aborted")), broken_off),
    ]
}

/// What a client gives up that waits for its turn: for the put before it that has its name.
fn of_those_that_wait() -> Vec<Row> {
    let before = announced(1, "a", 5, 1);
    let get = json!({"get": {"id": 2, "name": "a", "digest": "sha256"}});
    let list = json!({"list": {"id": 2, "name": "a"}});
    let abort = json!({"abort": {"id": 2, "code": "aborted"}});
    [("get", get), ("list", list)]
        .map(|(op, request)| {
            let message = format!("{op} broken off");
            let line = json!({"op": op, "name": "a", "result": "aborted", "message": message});
            row(said(&[before.clone(), request, abort.clone()]), line)
        })
        .into()
}

/// What the store says no to.
fn of_the_store() -> Vec<Row> {
    // With its body: a small file is looked at when it is whole.
    let put = |name: &str, more: Value| {
        let fields = json!({"put": {"id": 1, "name": name, "digest": "sha256", "size": 5, "transfer": TRANSFER}});
        let more = more.as_object().unwrap().clone();
        let put = more.into_iter().fold(fields, |fields, (key, value)| with(fields, &key, value));
        let data = json!({"data": {"id": 1, "at": 0, "size": 5}});
        let end = json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}});
        said(&[put, data]) + "hello" + &said(&[end])
    };
    let ask = |kind: &str, name: &str| said(&[json!({kind: {"id": 1, "name": name}})]);
    let get = |name: &str| said(&[json!({"get": {"id": 1, "name": name, "digest": "sha256"}})]);
    let sum = |name: &str| said(&[json!({"stat": {"id": 1, "name": name, "digest": "sha256"}})]);
    let line = |op: &str, code: &str, name: &str| line(op, code, "", json!({"name": name}));
    let whole = |code: &str, name: &str| with_bytes(line("put", code, name), 5);
    let moving = |name: &str, to: &str| said(&[json!({"move": {"id": 1, "name": name, "to": to}})]);
    let moved = |code: &str, name: &str, to: &str| {
        let mut line = line("move", code, name);
        line["to"] = json!(to);
        line
    };
    let version = json!({"if": {"version": "other"}});
    vec![
        row(put("file", json!({"if": "absent"})), line("put", "exists", "file")),
        row(put("file", version.clone()), line("put", "version_mismatch", "file")),
        row(put("dir", json!({})), whole("is_directory", "dir")),
        row(put("file/x", json!({})), whole("not_a_directory", "file/x")),
        row(put(".ftx/x", json!({})), line("put", "reserved_name", ".ftx/x")),
        row(put("out/x", json!({})), whole("outside_root", "out/x")),
        row(
            said(&[with(announced(1, "file", 9, 9), "at", json!(9))]),
            line("put", "bad_offset", "file"),
        ),
        row(get("none"), line("get", "not_found", "none")),
        row(get("dir"), line("get", "is_directory", "dir")),
        row(get("pipe"), line("get", "not_a_file", "pipe")),
        row(get(".ftx"), line("get", "reserved_name", ".ftx")),
        row(sum("none"), line("sum", "not_found", "none")),
        row(ask("stat", "none"), line("stat", "not_found", "none")),
        row(ask("stat", "out"), line("stat", "outside_root", "out")),
        row(ask("list", "none"), line("list", "not_found", "none")),
        row(ask("list", "file"), line("list", "not_a_directory", "file")),
        row(ask("mkdir", "none/x"), line("mkdir", "not_found", "none/x")),
        row(ask("mkdir", "file/x"), line("mkdir", "not_a_directory", "file/x")),
        row(ask("remove", "none"), line("remove", "not_found", "none")),
        row(ask("remove", "dir"), line("remove", "not_empty", "dir")),
        row(moving("none", "x"), moved("not_found", "none", "x")),
        row(moving("dir", "dir/y"), moved("bad_name", "dir", "dir/y")),
        row(moving("file", "dir"), moved("is_directory", "file", "dir")),
    ]
}

/// The lines of the audit about this peer, but for that of its login.
fn lines_of(house: &House, peer: SocketAddr) -> Vec<Map<String, Value>> {
    let peer = peer.to_string();
    let log = house.server.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_peer = lines.filter(|line| line["target"] == "audit" && line["peer"] == peer);
    let refused = of_peer.filter(|line| !(line["op"] == "login" && line["result"] == "ok"));
    refused.map(|line| line.as_object().unwrap().clone()).collect()
}

/// Waits for the line with this operation and result, and returns it as it has to be in the table: without what
/// is another one each time, which has to be there.
fn line_of(house: &House, peer: SocketAddr, expected: &Value) -> Value {
    let is_it = |line: &Map<String, Value>| {
        line["op"] == expected["op"] && line["result"] == expected["result"]
    };
    let mut found = None;
    until(&format!("the log has {expected}"), || {
        found = lines_of(house, peer).into_iter().find(is_it);
        found.is_some()
    });
    let mut line = found.unwrap();
    assert!(line.remove("ms").is_some_and(|ms| ms.is_u64()), "{line:?}");
    assert_eq!(line.remove("level"), Some(json!("INFO")), "{line:?}");
    for field in ["timestamp", "target", "peer"] {
        line.remove(field);
    }
    // The store's own words are not what this is about: that it has some is.
    if expected["why"] == "" {
        assert_ne!(line.insert("why".to_owned(), json!("")).unwrap(), "", "{line:?}");
    }
    line.into()
}

fn address(talk: &mut Inside) -> SocketAddr {
    talk.stream().socket.local_addr().unwrap()
}

#[test]
fn each_way_of_being_refused_leaves_its_line() {
    let house = House::with(&["--require-token", "--log-format", "json", "--max-size", "10M"]);
    let served = house.world.served();
    std::fs::write(served.join("file"), "content").unwrap();
    std::fs::create_dir(served.join("dir")).unwrap();
    std::fs::write(served.join("dir/x"), "").unwrap();
    std::os::unix::fs::symlink("/", served.join("out")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(served.join("pipe")).status();
    assert!(pipe.unwrap().success());
    let token = house.add("alice", "read,list,write,replace,delete");
    let id = house.id_of("alice");
    let rows = [of_each_kind(), of_names(), of_puts(), of_those_that_wait(), of_the_store()];
    let mut peers = Vec::new();
    for Row { says, line } in rows.into_iter().flatten() {
        let mut talk = house.talk(&token);
        let peer = address(&mut talk);
        talk.send(&says);
        let code = line["result"].as_str().unwrap();
        loop {
            match word(&talk.line()) {
                word if word == code => break,
                word => assert_eq!(word, "pong", "{line}"),
            }
        }
        let mut expected = line.clone();
        let whose = json!({"who": "alice", "token": id});
        expected.as_object_mut().unwrap().extend(whose.as_object().unwrap().clone());
        assert_eq!(line_of(&house, peer, &line), expected);
        peers.push((peer, line));
    }
    for (peer, line) in peers {
        let lines = lines_of(&house, peer);
        let is_same = |other: &&Map<String, Value>| {
            ["op", "name"].iter().all(|field| other.get(*field) == line.get(*field))
        };
        assert_eq!(lines.iter().filter(is_same).count(), 1, "{line}: {lines:?}");
    }
}

/// What says no more than who wants to be let in, and is not.
#[test]
fn each_login_that_is_refused_leaves_its_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let hello = |more: Value| {
        let mut hello = json!({"ftx": 1});
        hello.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("{}\n", json!({"hello": hello}))
    };
    let line = |code: &str, why: &str| {
        let mut line = line("login", code, why, json!({"who": "nobody"}));
        line["message"] = json!("login refused");
        line
    };
    let wrong = format!("ftx1_{}A", "B".repeat(42));
    for (says, line) in [
        (hello(json!({})), line("login_required", advice("login_required"))),
        (hello(json!({"token": wrong})), line("login_failed", advice("login_failed"))),
        (hello(json!({"token": "ftx1_x who=root"})), line("bad_message", advice("bad_message"))),
        (
            hello(json!({"ftx": 2})),
            line("unsupported_version", "this server speaks ftx/1, not ftx/2"),
        ),
        ("{\"ping\":{\"id\":1}}\n".to_owned(), line("bad_hello", advice("bad_hello"))),
        ("{\"who=root\n".to_owned(), line("bad_message", advice("bad_message"))),
        ("{".repeat(4_096), line("line_too_long", advice("line_too_long"))),
    ] {
        let mut talk = house.connected();
        let peer = address(&mut talk);
        // Nothing behind it has any effect, and so it has no line either.
        let behind = json!({"stat": {"id": 1, "name": ".."}});
        talk.send(format!("{says}{behind}\n").as_bytes());
        assert_eq!(word(&talk.line()), line["result"], "{line}");
        assert_eq!(line_of(&house, peer, &line), line);
        assert_eq!(lines_of(&house, peer).len(), 1, "{line}");
    }
    let mut plain = Talk::connect(house.server.address);
    let peer = plain.address();
    assert_eq!(introduced(&mut plain, None), "tls_required");
    let line = line("tls_required", advice("tls_required"));
    assert_eq!(line_of(&house, peer, &line), line);
}

/// A server that takes no more requests refuses each by its name.
#[test]
fn what_comes_too_late_or_is_too_much_leaves_its_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "read,list,write,delete");
    let whose = json!({"who": "alice", "token": house.id_of("alice")});
    let expect = |peer: SocketAddr, op: &str, code: &str, names: &Value| {
        let mut line = line(op, code, advice(code), names.clone());
        line.as_object_mut().unwrap().extend(whose.as_object().unwrap().clone());
        assert_eq!(line_of(&house, peer, &line), line);
    };
    let mut many = house.talk(&token);
    many.say(announced(1, "a", 5, 1));
    let stats = (2..=4_097).map(|id| json!({"stat": {"id": id, "name": "a"}}));
    many.send(said(&stats.collect::<Vec<_>>()).as_bytes());
    assert_eq!(word(&many.line()), "too_many_requests");
    let peer = address(&mut many);
    expect(peer, "stat", "too_many_requests", &json!({"name": "a"}));
    // Those that waited were never begun, and nobody was told anything of them.
    let stats = lines_of(&house, peer).into_iter().filter(|line| line["op"] == "stat");
    assert_eq!(stats.count(), 1);
    // A put at its body keeps its connection while others break off as many as one may.
    let mut gives_up = house.talk(&token);
    let peer = address(&mut gives_up);
    let mut says = Vec::new();
    for id in 1..=1_001 {
        says.extend([announced(id, "a", 5, id), json!({"abort": {"id": id, "code": "aborted"}})]);
    }
    says.push(announced(1_002, "late", 5, 1_002));
    gives_up.send(said(&says).as_bytes());
    for _ in 1..=1_001 {
        assert_eq!(word(&gives_up.line()), "aborted");
    }
    assert_eq!(word(&gives_up.line()), "busy");
    expect(peer, "put", "busy", &json!({"name": "late"}));
    let mut stays = house.talk(&token);
    let peer = address(&mut stays);
    stays.say(announced(1, "a", 5, 2_000));
    assert!(stays.is_answered(2));
    house.server.signal("-TERM");
    house.until_logged("no new requests are taken");
    for (number, (op, request, names)) in (3..).zip(each(0)) {
        stays.say(with(request, "id", json!(number)));
        assert_eq!(word(&stays.line()), "shutting_down", "{op}");
        if op != "list" || names["name"] != "/" {
            expect(peer, op, "shutting_down", &names);
        }
    }
    let root = lines_of(&house, peer).into_iter().filter(|line| line["op"] == "list");
    assert!(root.map(|line| line["name"].clone()).any(|name| name == "/"));
}

/// Whoever asks for what is held of a transfer takes it over, and is told of it.
#[test]
fn a_transfer_that_is_asked_for_leaves_its_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "write");
    let mut brings = house.talk(&token);
    brings.say(announced(1, "large", 20 * MIB, 7));
    for part in 0..9 {
        brings.part(1, part * MIB, &vec![0; MIB]);
    }
    assert_eq!(word(&brings.line()), "kept");
    let mut asks = house.talk(&token);
    let peer = address(&mut asks);
    asks.say(json!({"resume": {"id": 1, "transfer": format!("{:032x}", 7)}}));
    let held = asks.line()["held"].clone();
    let mut line = json!({
        "op": "resume", "name": "large", "bytes": 8 * MIB, "digest": held["digest"],
        "result": "ok", "message": "resumed", "who": "alice", "token": house.id_of("alice"),
    });
    assert_eq!(line_of(&house, peer, &line), line);
    let mut nothing = house.talk(&token);
    nothing.say(json!({"resume": {"id": 1, "transfer": TRANSFER}}));
    assert_eq!(nothing.line()["held"]["state"], "nothing");
    for field in ["name", "digest"] {
        line.as_object_mut().unwrap().remove(field);
    }
    line["bytes"] = json!(0);
    assert_eq!(line_of(&house, address(&mut nothing), &line), line);
}

/// Somebody comes for a transfer at which a worker is: it is not taken away before that is done. A put that is about
/// to take its name is not taken away at all.
#[test]
fn a_transfer_that_is_asked_for_while_it_is_worked_on_leaves_one_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "write,list");
    let resume = |id: u64| json!({"resume": {"id": 1, "transfer": format!("{id:032x}")}});
    let puts_of = |peer: SocketAddr| -> Vec<Value> {
        let lines = lines_of(&house, peer).into_iter().filter(|line| line["op"] == "put");
        lines.map(|line| line["result"].clone()).collect()
    };
    let (mut whole, mut part) = (house.talk(&token), house.talk(&token));
    let (mut first, mut second) = (house.talk(&token), house.talk(&token));
    {
        let slow = "delay_enter=1500000";
        let Some(_syncs) = Injection::into(&house.server, "fsync,fdatasync", None, slow) else {
            return;
        };
        whole.put_hello(1, "whole", "full");
        // What comes behind it is answered: it is with the disk.
        whole.say(json!({"stat": {"id": 2, "name": "none"}}));
        assert_eq!(word(&whole.line()), "not_found");
        first.say(resume(1));
        assert!(first.is_answered(2));
        // Until it waits there: then the next one takes its place.
        let mut asked = 1;
        until("the first one was displaced", || {
            asked += 1;
            second.say(with(resume(1), "id", json!(asked)));
            !lines_of(&house, address(&mut first)).is_empty()
        });
        assert_eq!(word(&first.line()), "taken_over");
        assert_eq!(word(&whole.line()), "done");
    }
    let displaced = json!({
        "op": "resume", "result": "taken_over", "why": advice("taken_over"),
        "message": "resume refused", "who": "alice", "token": house.id_of("alice"),
    });
    assert_eq!(line_of(&house, address(&mut first), &displaced), displaced);
    let peer = address(&mut whole);
    until("the whole one has its line", || !puts_of(peer).is_empty());
    assert_eq!(puts_of(peer), ["ok"]);
    let slow = "delay_enter=1500000:when=1";
    let Some(_writes) = Injection::into(&house.server, "pwrite64", None, slow) else { return };
    let peer = address(&mut part);
    let data = json!({"data": {"id": 3, "at": 0, "size": 7}});
    let put = said(&[announced(3, "large", 20 * MIB, 3), data]);
    part.send(format!("{put}content").as_bytes());
    until("it has begun", || house.world.staged() == 1);
    let mut third = house.talk(&token);
    third.say(resume(3));
    assert_eq!(word(&third.line()), "held");
    assert_eq!(word(&part.line()), "taken_over");
    until("it has its line", || !puts_of(peer).is_empty());
    assert_eq!(puts_of(peer), ["taken_over"]);
}
