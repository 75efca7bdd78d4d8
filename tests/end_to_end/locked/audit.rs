//! The log: a line for each operation, and no secret in any.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use super::house::{House, Inside, introduced, put, word};
use crate::harness::{MIB, World, text, until};
use crate::talk::{HELLO_DIGEST, Talk};

/// The lines of the audit so far.
fn lines(house: &House) -> Vec<Value> {
    let log = house.server.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["target"] == "audit").collect()
}

/// The line of this operation with this result.
fn line_of(house: &House, op: &str, result: &str) -> Value {
    let mut found = Value::Null;
    until(&format!("the log has {op} {result}"), || {
        let lines = lines(house);
        let line = lines.iter().find(|line| line["op"] == op && line["result"] == result);
        found = line.cloned().unwrap_or_default();
        !found.is_null()
    });
    found
}

#[test]
fn a_line_says_who_did_what_and_what_became_of_it() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "read,list,write,delete");
    let id = house.id_of("alice");
    let mut talk = house.talk(&token);
    talk.put_hello(1, "a", "full");
    assert_eq!(word(&talk.line()), "done");
    talk.put_hello(2, "a", "full");
    assert_eq!(word(&talk.line()), "exists");
    let stored = line_of(&house, "put", "ok");
    assert_eq!(stored["who"], "alice");
    assert_eq!(stored["token"], id);
    assert_eq!(stored["name"], "a");
    assert_eq!((&stored["bytes"], &stored["digest"]), (&json!(5), &json!(HELLO_DIGEST)));
    for line in [&stored, &line_of(&house, "put", "exists"), &line_of(&house, "login", "ok")] {
        assert_eq!((&line["who"], &line["token"]), (&json!("alice"), &json!(id)), "{line}");
        assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
    }
    assert!(stored["ms"].is_u64());
}

/// Its digest may be of what the name has no more.
#[test]
fn a_put_that_is_told_again_is_not_stored_in_the_log() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let mut alice = house.talk(&house.add("alice", "write"));
    let mut bob = house.talk(&house.add("bob", "write,replace"));
    let brings = |talk: &mut Inside, id: u64| {
        talk.put_hello(id, "a", "full");
        assert_eq!(word(&talk.line()), "done");
    };
    let asks_again = |talk: &mut Inside, id: u64, replayed: &str| {
        let mut again = put(id, "a", 5, 1);
        again["put"]["at"] = json!(5);
        talk.say(again);
        talk.say(json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}}));
        assert_eq!(talk.line()["done"]["replayed"], replayed);
    };
    brings(&mut alice, 1);
    asks_again(&mut alice, 2, "same");
    brings(&mut bob, 3);
    asks_again(&mut alice, 4, "changed");
    let mut puts = Vec::new();
    until("all four have their lines", || {
        puts = lines(&house);
        puts.retain(|line| line["op"] == "put");
        puts.len() == 4
    });
    let told =
        |line: &Value| ["who", "message", "replayed", "bytes"].map(|field| line[field].clone());
    let expected = [
        [json!("alice"), json!("stored"), Value::Null, json!(5)],
        [json!("alice"), json!("told again"), json!("same"), Value::Null],
        [json!("bob"), json!("stored"), Value::Null, json!(5)],
        [json!("alice"), json!("told again"), json!("changed"), Value::Null],
    ];
    assert_eq!(puts.iter().map(told).collect::<Vec<_>>(), expected);
}

#[test]
fn a_put_that_is_taken_over_has_its_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "write");
    let mut talk = house.talk(&token);
    talk.say(put(1, "large", 20 * MIB, 1));
    talk.part(1, 0, b"content");
    assert!(talk.is_answered(2));
    let mut other = house.talk(&token);
    other.say(json!({"resume": {"id": 1, "transfer": format!("{:032x}", 1)}}));
    assert_eq!(word(&other.line()), "held");
    let line = line_of(&house, "put", "taken_over");
    assert_eq!((&line["name"], &line["who"]), (&json!("large"), &json!("alice")), "{line}");
    assert!(line["ms"].is_u64(), "{line}");
}

#[test]
fn every_operation_that_ended_or_was_refused_has_one_line() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "read,list,write,delete");
    house.world.noise("new", 1_000);
    let run = |args: &[&str], code: i32| house.run(Some(&token), args, code);
    run(&["put", "new"], 0);
    run(&["get", "new", "-o", "back"], 0);
    run(&["sum", "new"], 0);
    run(&["stat", "new"], 0);
    run(&["mkdir", "dir"], 0);
    run(&["mv", "new", "dir/new"], 0);
    run(&["ls", "-r"], 0);
    run(&["put", "new", "--as", "dir/new"], 4);
    run(&["get", "none"], 4);
    run(&["rm", "dir/new"], 0);
    for (op, result, name) in [
        ("put", "ok", "new"),
        ("get", "ok", "new"),
        ("sum", "ok", "new"),
        ("stat", "ok", "new"),
        ("mkdir", "ok", "dir"),
        ("move", "ok", "new"),
        ("list", "ok", "/"),
        ("put", "exists", "dir/new"),
        ("get", "not_found", "none"),
        ("remove", "ok", "dir/new"),
    ] {
        let line = line_of(&house, op, result);
        assert_eq!((&line["who"], &line["name"]), (&json!("alice"), &json!(name)), "{line}");
        assert!(line["ms"].is_u64(), "{line}");
        let same = lines(&house);
        let same = same.iter().filter(|other| other["op"] == op && other["result"] == result);
        assert_eq!(same.count(), 1, "{op} {result}");
    }
    assert_eq!(line_of(&house, "move", "ok")["to"], "dir/new");
    let sent = line_of(&house, "get", "ok");
    assert_eq!(sent["bytes"], 1_000, "{sent}");
    assert!(sent["digest"].as_str().unwrap().starts_with("sha256:"), "{sent}");
    // What somebody may not do, and who may nothing.
    let reads = house.add("reads", "read");
    let mut talk = house.talk(&reads);
    talk.say(json!({"move": {"id": 1, "name": "x/y", "to": "z"}}));
    assert_eq!(word(&talk.line()), "denied");
    let denied = line_of(&house, "move", "denied");
    assert_eq!(denied["message"], "move refused");
    assert!(denied["ms"].is_u64(), "{denied}");
    assert!(denied["why"].as_str().is_some_and(|why| why.contains("may")), "{denied}");
    assert_eq!(
        (&denied["who"], &denied["name"], &denied["to"]),
        (&json!("reads"), &json!("x/y"), &json!("z"))
    );
    let wrong = format!("ftx1_{}A", "B".repeat(42));
    for (token, code) in [(Some(wrong.as_str()), "login_failed"), (None, "login_required")] {
        assert_eq!(house.hello(token).1, code);
        let refused = line_of(&house, "login", code);
        assert_eq!(refused["who"], "nobody");
        assert!(refused["ms"].is_u64() && refused["why"].is_string(), "{refused}");
    }
}

/// A line of what was refused has what a line of what was done has, as far as there is such a thing.
#[test]
fn what_is_refused_says_how_far_it_came_and_how_long_that_took() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "read,list,write,delete");
    let mut talk = house.talk(&token);
    let mut asks = |message: Value, code: &str| {
        talk.say(message);
        assert_eq!(word(&talk.line()), code);
    };
    asks(json!({"move": {"id": 1, "name": "x", "to": "y"}}), "not_found");
    asks(json!({"stat": {"id": 2, "name": "x", "digest": "sha256"}}), "not_found");
    let mut puts = house.talk(&token);
    puts.say(put(3, "large", 20 * MIB, 3));
    puts.part(3, 0, b"content");
    assert!(puts.is_answered(4));
    let mut mismatches = house.talk(&token);
    mismatches.say(put(5, "small", 7, 5));
    mismatches.part(5, 0, b"content");
    mismatches.say(json!({"end": {"id": 5, "size": 7, "digest": HELLO_DIGEST}}));
    assert_eq!(word(&mismatches.line()), "digest_mismatch");
    house.remove("alice");
    puts.part(3, 7, b" and more");
    assert_eq!(word(&puts.line()), "denied");
    for (op, result, field, value) in [
        ("move", "not_found", "to", json!("y")),
        ("sum", "not_found", "name", json!("x")),
        ("put", "denied", "bytes", json!(7)),
        ("put", "digest_mismatch", "bytes", json!(7)),
    ] {
        let line = line_of(&house, op, result);
        assert_eq!(line[field], value, "{line}");
        assert_eq!(line["who"], "alice", "{line}");
        assert!(line["ms"].is_u64() && line["why"].is_string(), "{line}");
    }
}

#[test]
fn a_put_that_is_broken_off_is_in_the_log() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "write");
    let mut hangs_up = house.talk(&token);
    hangs_up.say(put(1, "a", 1_000, 1));
    hangs_up.part(1, 0, b"content");
    drop(hangs_up);
    let line = line_of(&house, "put", "aborted");
    let (who, name, bytes) = (json!("alice"), json!("a"), json!(7));
    assert_eq!((&line["who"], &line["name"], &line["bytes"]), (&who, &name, &bytes), "{line}");
    assert!(line["ms"].is_u64(), "{line}");
}

/// Whoever reads some of a list, and hangs up, has read that.
#[test]
fn a_list_that_is_broken_off_is_in_the_log() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "list");
    for number in 0..3_000 {
        fs::write(house.world.served().join(format!("a-name-of-some-length-{number}")), "")
            .unwrap();
    }
    let mut hangs_up = house.talk(&token);
    hangs_up.say(json!({"list": {"id": 1, "depth": "one"}}));
    assert_eq!(word(&hangs_up.line()), "entries");
    drop(hangs_up);
    let line = line_of(&house, "list", "aborted");
    assert_eq!((&line["who"], &line["name"]), (&json!("alice"), &json!("/")), "{line}");
    assert!((1..3_000).contains(&line["entries"].as_u64().unwrap()), "{line}");
}

/// Whoever reads a file but for its last byte, and hangs up, has read it.
#[test]
fn a_get_that_goes_on_says_from_where_and_how_much_it_sent() {
    // The one is read whole, the other sent piece by piece.
    for size in [6, 3 * MIB] {
        let house = House::with(&["--require-token", "--log-format", "json"]);
        let token = house.add("alice", "read,list");
        fs::write(house.world.served().join("a"), vec![1; size]).unwrap();
        let mut talk = house.talk(&token);
        talk.say(json!({"stat": {"id": 1, "name": "a"}}));
        let version = talk.line()["info"]["version"].clone();
        talk.say(
            json!({"get": {"id": 2, "name": "a", "digest": "sha256", "at": 5, "version": version}}),
        );
        assert_eq!(talk.line()["file"]["at"], 5);
        assert_eq!(word(&talk.past_parts().0), "end");
        let line = line_of(&house, "get", "ok");
        assert_eq!((&line["at"], &line["bytes"]), (&json!(5), &json!(size - 5)), "{line}");
    }
}

#[test]
fn a_get_that_is_broken_off_is_in_the_log() {
    let house = House::with(&["--require-token", "--log-format", "json"]);
    let token = house.add("alice", "read");
    let file = fs::File::create(house.world.served().join("big")).unwrap();
    file.set_len(64 * MIB as u64).unwrap();
    let get = |name| json!({"get": {"id": 1, "name": name, "digest": "sha256"}});
    let mut hangs_up = house.talk(&token);
    hangs_up.say(get("big"));
    assert_eq!(word(&hangs_up.line()), "file");
    let line = hangs_up.line();
    hangs_up.raw(line["data"]["size"].as_u64().unwrap());
    drop(hangs_up);
    let line = line_of(&house, "get", "aborted");
    assert_eq!((&line["who"], &line["name"]), (&json!("alice"), &json!("big")));
    let bytes = line["bytes"].as_u64().unwrap();
    assert!((MIB as u64..64 * MIB as u64).contains(&bytes), "{line}");
    // And one that is read to its end has that line, and no other.
    file.set_len(3 * MIB as u64).unwrap();
    house.run(Some(&token), &["get", "big", "-o", "back"], 0);
    assert_eq!(line_of(&house, "get", "ok")["bytes"], 3 * MIB);
    let gets = lines(&house).into_iter().filter(|line| line["op"] == "get");
    assert_eq!(gets.count(), 2);
}

#[test]
fn names_stay_on_their_line_in_the_log() {
    let house = House::locked();
    let token = house.add("alice", "write,list");
    let mut talk = house.talk(&token);
    let bad = "a\nb\r\u{1b}[2J\u{9b}31m\u{202e}\u{7f} stored\u{3000}who=root who=root";
    talk.put_hello(1, bad, "none");
    assert_eq!(word(&talk.line()), "done");
    talk.say(json!({"get": {"id": 2, "name": bad, "digest": "sha256"}}));
    assert_eq!(word(&talk.line()), "denied");
    talk.say(json!({"move": {"id": 3, "name": "x", "to": bad}}));
    assert_eq!(word(&talk.line()), "denied");
    // And what is no name, no request and no word that the server knows.
    talk.say(json!({"stat": {"id": 4, "name": format!("/{bad}")}}));
    assert_eq!(word(&talk.line()), "bad_name");
    talk.say(json!({bad: {"id": 5, "name": bad}}));
    assert_eq!(word(&talk.line()), "unknown_request");
    talk.say(json!({"remove": {"id": 6, "name": bad, "need": [bad]}}));
    assert_eq!(word(&talk.line()), "unknown_need");
    house.until_logged("remove refused");
    let log = house.server.log();
    // No line that the server did not begin.
    assert!(log.lines().all(|line| line.starts_with("20") && line.contains("Z  INFO ")), "{log}");
    // And no field that it did not write.
    for line in log.lines().filter(|line| line.contains("op=")) {
        assert_eq!(line.matches(" who=").count(), 1, "{line}");
    }
    for letter in ['\u{1b}', '\u{9b}', '\u{202e}', '\u{7f}', '\r'] {
        assert!(!log.contains(letter), "{letter:?}: {log:?}");
    }
    let stored = std::fs::read_dir(house.world.served()).unwrap().flatten();
    assert!(stored.into_iter().any(|entry| entry.file_name().as_bytes() == bad.as_bytes()));
}

/// With everything in the log that there can be: no token, and no transfer id that somebody could go
/// on with.
#[test]
fn secret_is_never_on_argv_or_in_a_log() {
    let house = House::started(World::new(), &["--require-token"], |command| {
        command.env("RUST_LOG", "trace");
    });
    let token = house.add("alice", "read,list,write");
    let other = house.add("bob", "write");
    house.remove("bob");
    let transfer = 0x1234_5678_9abc_def0;
    let mut talk = house.talk(&token);
    talk.say(put(1, "large", 20 * MIB, transfer));
    for part in 0..9 {
        talk.part(1, part * MIB, &vec![1; MIB]);
    }
    assert_eq!(word(&talk.line()), "kept");
    // Taken over, broken, refused, mismatched, expired: all that is told of it.
    let mut takes = house.talk(&token);
    takes.say(json!({"resume": {"id": 1, "transfer": format!("{transfer:032x}")}}));
    assert_eq!(word(&takes.line()), "held");
    takes.say(put(2, "other", 20 * MIB, transfer));
    assert_eq!(word(&takes.line()), "transfer_mismatch");
    takes.say(json!({"resume": {"id": 3, "transfer": "zz"}}));
    drop(takes);
    assert_eq!(house.hello(Some(&other)).1, "login_failed");
    let almost = &token[..token.len() - 1];
    assert_eq!(house.hello(Some(almost)).1, "bad_message");
    let mut plain = Talk::over(std::net::TcpStream::connect(house.server.address).unwrap());
    assert_eq!(introduced(&mut plain, Some(&token)), "tls_required");
    house.world.noise("file", 10 * MIB);
    let mut client = house.ftx(Some(&token), &["put", "file", "--limit-rate", "8M"]);
    let client = client.env("RUST_LOG", "trace").spawn().unwrap();
    for (id, word) in [(client.id(), "put"), (house.server.child.id(), "serve")] {
        let mut line = String::new();
        until("it runs", || {
            line = text(&fs::read(format!("/proc/{id}/cmdline")).unwrap());
            line.contains(word)
        });
        assert!(!line.contains("ftx1_"), "{line}");
    }
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    house.run(Some(&token), &["get", "file", "-o", "back"], 0);
    // What was known only to client and server: the transfers in the journal.
    let journal: Vec<String> = fs::read_dir(house.world.served().join(".ftx"))
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path()).ok())
        .map(|bytes| text(&bytes))
        .collect();
    let journal = journal.concat();
    let ids: Vec<&str> = journal
        .split("\"transfer\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    assert!(ids.iter().any(|id| *id == format!("{transfer:032x}")), "{ids:?}");
    house.until_logged("sent");
    let log = house.server.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "it says too little to tell");
    let said = log + &text(&output.stderr) + &text(&output.stdout);
    for secret in [&token[5..], &other[5..]] {
        assert!(!said.contains(&secret[..12]), "a token");
    }
    for id in ids {
        assert!(!said.contains(id), "a transfer");
    }
}
