//! The share of a token: bytes in all, and unfinished uploads.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use super::house::{House, put, word};
use crate::harness::{MIB, text, until};
use crate::injection::Injection;

#[test]
fn a_token_brings_so_many_bytes_and_no_more() {
    let mut house = House::locked();
    let token = house.add_with("alice", "write,replace", &["--max-bytes", "20M"]);
    let other = house.add("bob", "write");
    for (name, size) in [("a", 12 * MIB), ("b", 6 * MIB), ("c", 2 * MIB), ("too-much", 1)] {
        house.world.noise(name, size);
    }
    let alice = Some(token.as_str());
    house.run(alice, &["put", "a"], 0);
    let output = house.run(alice, &["put", "a", "--as", "again"], 4);
    assert!(text(&output.stderr).contains("(quota)"), "{}", text(&output.stderr));
    house.run(alice, &["put", "b"], 0);
    // Not by a size that is not said before, either.
    let mut piped = house.ftx(alice, &["put", "-", "--as", "piped"]);
    let mut piped = piped.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = piped.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        let part = vec![1; MIB];
        // Refused in the middle, the client reads no more.
        for _ in 0..40 {
            if stdin.write_all(&part).is_err() {
                break;
            }
        }
    });
    let output = piped.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("(quota)"), "{}", text(&output.stderr));
    assert!(!house.names().contains(&"piped".to_owned()));
    until("staging is empty", || house.world.staged() == 0);
    // Nobody else's share is touched; what is left can be used, to the last byte; and a restart forgets nothing.
    house.run(Some(&other), &["put", "a", "--as", "of-bob"], 0);
    house.run(alice, &["put", "c"], 0);
    let used = || {
        let line = text(&house.token(&["ls", "--json"]).stdout);
        let line = line.lines().find(|line| line.contains("alice")).unwrap().to_owned();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["used_bytes"].clone()
    };
    until("it is written down", || used() == 20 * MIB);
    house.kill_and_restart();
    let output = house.run(alice, &["put", "too-much"], 4);
    assert!(text(&output.stderr).contains("(quota)"), "{}", text(&output.stderr));
    assert_eq!(house.names(), ["a", "b", "c", "of-bob"]);
}

/// Many at once do not get past it together.
#[test]
fn puts_at_once_share_what_there_is() {
    let house = House::locked();
    let token = house.add_with("alice", "write", &["--max-bytes", "10M"]);
    // Brings all but the end. What is asked behind it is answered behind its refusal, if there is one.
    let brings = |number: u64, size: usize| {
        let mut talk = house.talk(&token);
        talk.say(put(1, &format!("f{number}"), size, number));
        for part in 0..size / MIB {
            talk.part(1, part * MIB, &vec![0; MIB]);
        }
        talk.say(json!({"mkdir": {"id": 2, "name": format!("d{number}")}}));
        let word = word(&talk.line());
        (talk, word)
    };
    let (fit, refused): (Vec<_>, Vec<_>) = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (1..=8).map(|number| scope.spawn(move || brings(number, 3 * MIB))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).partition(|(_, word)| word == "ok")
    });
    // None has ended, and so none has given anything back.
    assert_eq!(fit.len(), 3);
    assert!(refused.iter().all(|(_, word)| word == "quota"));
    for (mut talk, _) in fit {
        talk.say(json!({"abort": {"id": 1, "code": "aborted"}}));
        assert_eq!(word(&talk.line()), "aborted");
    }
    let mut numbers = 9..;
    until("all of it is free again", || brings(numbers.next().unwrap(), 10 * MIB).1 != "quota");
}

#[test]
fn a_token_has_so_many_unfinished_uploads_and_no_more() {
    let house = House::locked();
    let token = house.add_with("alice", "write", &["--max-partials", "2"]);
    let bob = house.add("bob", "write");
    let begin_as = |token: &str, number: u64| {
        let mut talk = house.talk(token);
        talk.say(put(1, &format!("f{number}"), 20 * MIB, number));
        for part in 0..9 {
            talk.part(1, part * MIB, &vec![1; MIB]);
        }
        let word = word(&talk.line());
        (talk, word)
    };
    let begin = |number| begin_as(&token, number);
    let one = begin(1);
    assert_eq!(one.1, "kept");
    // One of which nothing is durable yet is another one.
    let mut two = house.talk(&token);
    two.say(put(1, "f2", 20 * MIB, 2));
    two.part(1, 0, b"x");
    until("it is on its way", || house.world.staged() == 2);
    assert_eq!(begin(3).1, "quota");
    assert_eq!(begin_as(&bob, 9).1, "kept", "it is nobody else's share");
    // Broken off, they count all the same.
    drop(one);
    assert_eq!(begin(4).1, "quota");
    // Small ones, which leave nothing, go on.
    let mut small = house.talk(&token);
    small.put_hello(77, "small", "none");
    assert_eq!(word(&small.line()), "done");
    two.say(json!({"abort": {"id": 1, "code": "aborted"}}));
    assert_eq!(word(&two.line()), "aborted");
    until("one is given up", || begin(5).1 == "kept");
}

/// A file that is there counts, whatever is said of its transfer later.
#[test]
fn what_is_said_once_more_and_spoilt_gives_nothing_back() {
    let house = House::locked();
    let token = house.add_with("alice", "write", &["--max-bytes", "12"]);
    let mut talk = house.talk(&token);
    for id in [1, 3] {
        talk.put_hello(id, &format!("file-{id}"), "full");
        assert_eq!(word(&talk.line()), "done");
        // The same transfer, which is complete, and an end that is not its own.
        let again = json!({"put": {
            "id": id + 1, "name": format!("file-{id}"), "digest": "sha256", "size": 5, "at": 5,
            "transfer": format!("{id:032x}"), "durability": "full",
        }});
        talk.say(again);
        let digest = format!("sha256:{}", "0".repeat(64));
        talk.say(json!({"end": {"id": id + 1, "size": 5, "digest": digest}}));
        assert_eq!(word(&talk.line()), "digest_mismatch");
    }
    talk.put_hello(5, "file-5", "full");
    assert_eq!(word(&talk.line()), "quota");
    assert_eq!(house.names(), ["file-1", "file-3"]);
}

/// A directory that cannot be synced is no way around it.
#[test]
fn what_a_power_cut_may_take_counts_as_long_as_it_is_there() {
    let house = House::locked();
    let token = house.add_with("alice", "write", &["--max-bytes", "12"]);
    let mut talk = house.talk(&token);
    let root = house.world.served().canonicalize().unwrap();
    let fault =
        Injection::into(&house.server, "fsync,fdatasync", Some(root.as_os_str()), "error=EIO");
    if fault.is_none() {
        return;
    }
    for (id, said) in [(1, "durability_unknown"), (3, "durability_unknown"), (5, "quota")] {
        talk.put_hello(id, &format!("file-{id}"), "full");
        assert_eq!(word(&talk.line()), said, "{id}");
    }
    assert_eq!(house.names(), ["file-1", "file-3"]);
}

/// What is not durable yet is on the disk all the same.
#[test]
fn a_size_that_is_not_said_does_not_bring_more() {
    let house = House::locked();
    let token = house.add_with("alice", "write", &["--max-bytes", "1M"]);
    let mut talk = house.talk(&token);
    talk.say(json!({"put": {
        "id": 1, "name": "a", "digest": "sha256", "transfer": format!("{:032x}", 1),
    }}));
    for part in 0..3 {
        talk.part(1, part * (MIB / 2), &vec![0; MIB / 2]);
    }
    assert_eq!(word(&talk.line()), "quota");
    until("staging is empty", || house.world.staged() == 0);
}
