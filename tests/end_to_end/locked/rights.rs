//! Who may do what, asked of a running server for each kind of request: with each right alone, and
//! with those that belong together.

use std::fs;

use ftx_protocol::Condition;
use ftx_protocol::line::read_client;
use ftx_protocol::message::ClientMessage;
use serde_json::{Value, json};

use super::house::{House, Inside, put, word};
use crate::harness::{MIB, text};
use crate::talk::HELLO_DIGEST;

/// What is asked in a directory in which there are `file`, `other` and `full/x`.
struct Asked {
    message: Value,
    /// What it is answered if it is allowed: the name of a message or a code.
    allowed: &'static str,
    /// What it is answered if it is allowed but for what is there already.
    without_replace: Option<&'static str>,
}

/// The rights of which one set lets somebody do it. No `_` here: a new message has to be thought about.
fn needed(message: &ClientMessage) -> &'static [&'static [&'static str]] {
    match message {
        ClientMessage::Put(put) => match put.condition {
            Condition::Version(_) => &[&["write", "replace"]],
            Condition::Always | Condition::Absent => &[&["write"]],
        },
        ClientMessage::Move(moving) => match moving.condition {
            Condition::Version(_) => &[&["write", "delete", "replace"]],
            Condition::Always | Condition::Absent => &[&["write", "delete"]],
        },
        ClientMessage::Resume(_) | ClientMessage::Mkdir(_) => &[&["write"]],
        ClientMessage::Get(_) => &[&["read"]],
        ClientMessage::Stat(stat) if stat.digest.is_some() => &[&["read"]],
        ClientMessage::Stat(_) => &[&["read"], &["list"]],
        ClientMessage::List(_) => &[&["list"]],
        ClientMessage::Remove(_) => &[&["delete"]],
        ClientMessage::Ping(_) => &[&[]],
        // No request of their own: `the_other_verb_is_checked_too`.
        ClientMessage::Hello(_)
        | ClientMessage::Data(_)
        | ClientMessage::End(_)
        | ClientMessage::Abort(_)
        | ClientMessage::More(_) => panic!("not asked here"),
    }
}

/// Every kind of request, in an order in which none takes from a later one what it needs. From
/// `first` on their numbers are free.
fn asked(directory: &str, first: u64) -> Vec<Asked> {
    let at = |name: &str| format!("{directory}/{name}");
    let id = |number: u64| first + number;
    let with = |mut message: Value, field: &str, value: Value| {
        *field_of(&mut message, field) = value;
        message
    };
    let plain = |message, allowed| Asked { message, allowed, without_replace: None };
    let taking = |message, allowed| Asked { message, allowed, without_replace: Some("exists") };
    let put = |number: u64, name: &str| put(id(number), &at(name), 5, id(number));
    let moving =
        |number, from, to| json!({"move": {"id": id(number), "name": at(from), "to": at(to)}});
    let other = || json!({"version": "other"});
    vec![
        plain(json!({"ping": {"id": id(1)}}), "pong"),
        plain(json!({"stat": {"id": id(2), "name": at("file")}}), "info"),
        plain(json!({"stat": {"id": id(3), "name": at("file"), "digest": "sha256"}}), "info"),
        plain(json!({"get": {"id": id(4), "name": at("file"), "digest": "sha256"}}), "end"),
        plain(json!({"list": {"id": id(5), "name": directory}}), "ok"),
        plain(json!({"list": {"id": id(6)}}), "ok"),
        plain(json!({"resume": {"id": id(7), "transfer": format!("{first:032x}")}}), "held"),
        plain(put(8, "new"), "done"),
        plain(with(put(9, "newer"), "if", json!("absent")), "done"),
        taking(put(10, "file"), "done"),
        plain(with(put(11, "file"), "if", other()), "version_mismatch"),
        plain(json!({"mkdir": {"id": id(12), "name": at("made")}}), "ok"),
        plain(moving(13, "other", "elsewhere"), "ok"),
        taking(moving(14, "spare", "taken"), "ok"),
        plain(with(moving(15, "full/x", "taken"), "if", other()), "version_mismatch"),
        plain(json!({"remove": {"id": id(16), "name": at("full"), "depth": "all"}}), "ok"),
    ]
}

fn field_of<'a>(message: &'a mut Value, field: &str) -> &'a mut Value {
    &mut message.as_object_mut().unwrap().values_mut().next().unwrap()[field]
}

/// Asks, and returns what that was answered with in the end.
fn answer(talk: &mut Inside, message: &Value) -> String {
    talk.say(message.clone());
    let put = &message["put"]["id"];
    if let Some(id) = put.as_u64() {
        // Whoever is refused may have sent it all already.
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}}));
    }
    loop {
        let (line, _) = talk.past_parts();
        match word(&line).as_str() {
            "file" => {}
            "entries" => {
                let id = &line["entries"]["id"];
                talk.say(json!({"more": {"id": id}}));
            }
            word => return word.to_owned(),
        }
    }
}

/// A directory in which everything is that is asked for.
fn furnish(house: &House, directory: &str) {
    let directory = house.world.served().join(directory);
    fs::create_dir_all(directory.join("full")).unwrap();
    for name in ["file", "other", "spare", "taken", "full/x"] {
        fs::write(directory.join(name), "as it was").unwrap();
    }
}

#[test]
fn every_operation_needs_its_right() {
    let house = House::locked();
    let sets = [
        "read",
        "list",
        "write",
        "delete",
        "write,replace",
        "write,delete",
        "write,replace,delete",
        "read,list",
        // All but one.
        "list,write,replace,delete",
        "read,write,replace,delete",
        "read,list,delete",
        "read,list,write,replace",
        "read,list,write,replace,delete",
    ];
    for (number, set) in sets.into_iter().enumerate() {
        let rights: Vec<&str> = set.split(',').collect();
        let (name, directory) = (format!("t{number}"), format!("place{number}"));
        furnish(&house, &directory);
        let before = house.names();
        let mut talk = house.talk(&house.add(&name, set));
        let mut was_allowed = false;
        for Asked { message, allowed, without_replace } in
            asked(&directory, number as u64 * 100 + 100)
        {
            let parsed = read_client(message.to_string().as_bytes()).unwrap();
            let may =
                needed(&parsed).iter().any(|set| set.iter().all(|right| rights.contains(right)));
            let expected = match (may, without_replace) {
                (false, _) => "denied",
                (true, Some(code)) if !rights.contains(&"replace") => code,
                (true, _) => allowed,
            };
            assert_eq!(answer(&mut talk, &message), expected, "{set}: {message}");
            was_allowed |= may && expected == allowed;
        }
        assert!(was_allowed);
        if !rights.contains(&"write") && !rights.contains(&"delete") {
            assert_eq!(house.names(), before, "{set} has changed something");
        }
        if !rights.contains(&"replace") {
            let content = fs::read(house.world.served().join(&directory).join("file")).unwrap();
            assert_eq!(content, b"as it was", "{set} has replaced something");
        }
    }
}

/// Nobody has said that it was not to be replaced.
#[test]
fn who_may_not_replace_is_told_that_it_is_for_that_and_not_as_it_was_asked() {
    let house = House::with(&["--public", "write"]);
    furnish(&house, ".");
    fs::write(house.world.here().join("file"), "new").unwrap();
    let token = house.add("alice", "write,delete");
    let said = |token: Option<&str>, args: &[&str]| text(&house.run(token, args, 4).stderr);
    let of_the_token = "already, and the token may not replace files: it may write,delete\n";
    for args in [&["put", "file"][..], &["put", "-r", "file"], &["mv", "-f", "other", "file"]] {
        let said = said(Some(&token), args);
        assert!(said.contains("(exists)") && said.contains(of_the_token), "{args:?}: {said}");
    }
    let of_everybody = "without a token nobody may replace files here";
    assert!(said(None, &["put", "file"]).contains(of_everybody));
    for args in [&["put", "file", "--no-clobber"][..], &["mv", "other", "file"]] {
        let said = said(Some(&token), args);
        assert!(said.contains("already, and was not to be replaced"), "{args:?}: {said}");
    }
    let content = fs::read(house.world.served().join("file")).unwrap();
    assert_eq!(content, b"as it was");
}

#[test]
fn a_token_for_one_directory_does_nothing_outside_it() {
    let house = House::locked();
    for place in ["mine", "mine-too", "mine/below"] {
        furnish(&house, place);
    }
    let before = house.names();
    let all = "read,list,write,replace,delete";
    let mut talk = house.talk(&house.add_with("scoped", all, &["--under", "mine"]));
    for (number, outside) in ["mine-too", "min", "other"].into_iter().enumerate() {
        for Asked { message, .. } in asked(outside, 100 * number as u64) {
            // These have no name.
            if message["ping"].is_null() && message["resume"].is_null() {
                assert_eq!(answer(&mut talk, &message), "denied", "{message}");
            }
        }
    }
    // One end of a move is enough; and the directory itself stays where it is.
    for message in [
        json!({"move": {"id": 401, "name": "mine/other", "to": "mine-too/new"}}),
        json!({"move": {"id": 402, "name": "mine-too/other", "to": "mine/new"}}),
        json!({"move": {"id": 403, "name": "mine", "to": "mine/new"}}),
        json!({"move": {"id": 404, "name": "mine/below", "to": "mine"}}),
        json!({"remove": {"id": 405, "name": "mine", "depth": "all"}}),
        put(406, "mine", 5, 406),
    ] {
        assert_eq!(answer(&mut talk, &message), "denied", "{message}");
    }
    assert_eq!(house.names(), before);
    for Asked { mut message, allowed, .. } in asked("mine/below", 500) {
        let is_of_the_root = *field_of(&mut message, "id") == 506;
        let expected = if is_of_the_root { "denied" } else { allowed };
        assert_eq!(answer(&mut talk, &message), expected, "{message}");
    }
}

/// Whatever is checked at the first word of something is checked at its others.
#[test]
fn the_other_verb_is_checked_too() {
    let house = House::locked();
    furnish(&house, "place");
    let before = house.names();
    let mut reads = house.talk(&house.add("reads", "read,list"));
    // A put that was refused, in all its parts; then what it was is not known any more.
    reads.say(put(1, "place/new", 5, 1));
    reads.part(1, 0, b"hel");
    reads.say(json!({"abort": {"id": 1, "code": "aborted"}}));
    // Whichever comes first; and there is one answer.
    let answered = word(&reads.line());
    assert!(["denied", "aborted"].contains(&answered.as_str()), "{answered}");
    // Whoever does not wait for the answer sends all of it.
    reads.say(put(2, "place/new", 3 * MIB, 2));
    (0..3).for_each(|part| reads.part(2, part * MIB, &vec![7; MIB]));
    reads.say(json!({"end": {"id": 2, "size": 3 * MIB, "digest": HELLO_DIGEST}}));
    assert_eq!(word(&reads.line()), "denied");
    reads.say(json!({"resume": {"id": 3, "transfer": format!("{:032x}", 2)}}));
    assert_eq!(word(&reads.line()), "denied");
    assert!(reads.is_answered(4), "the connection goes on");

    // To list may be all that somebody may: no digest, and no byte.
    let mut lists = house.talk(&house.add("lists", "list"));
    lists.say(json!({"stat": {"id": 1, "name": "place/file", "digest": "blake3"}}));
    assert_eq!(word(&lists.line()), "denied");
    lists.say(json!({"get": {"id": 2, "name": "place/file", "digest": "sha256", "at": 9, "version": "x"}}));
    assert_eq!(word(&lists.line()), "denied");
    lists.say(json!({"abort": {"id": 2, "code": "aborted"}}));
    assert!(lists.is_answered(3));
    assert_eq!(house.names(), before);

    // To write is not to take away, by whatever word.
    let mut writes = house.talk(&house.add("writes", "write"));
    for message in [
        json!({"move": {"id": 1, "name": "place/file", "to": "place/gone"}}),
        json!({"move": {"id": 2, "name": "place/file", "to": "place/file"}}),
        json!({"remove": {"id": 3, "name": "place/file"}}),
    ] {
        assert_eq!(answer(&mut writes, &message), "denied", "{message}");
    }
    let mut deletes = house.talk(&house.add("deletes", "delete"));
    for message in [
        json!({"move": {"id": 1, "name": "place/file", "to": "place/gone"}}),
        json!({"mkdir": {"id": 2, "name": "place/made"}}),
    ] {
        assert_eq!(answer(&mut deletes, &message), "denied", "{message}");
    }
    assert_eq!(house.names(), before);
    assert_eq!(house.world.staged(), 0);
}
