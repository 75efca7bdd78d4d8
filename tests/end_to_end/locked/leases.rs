//! A right that is lost while it is used: at the next request, in mid body, and at the last moment
//! before a name is taken.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::house::{FTX, House, Inside, put, word};
use crate::harness::{MIB, World, noise, text, until};
use crate::injection::Injection;
use crate::talk::HELLO_DIGEST;

const ALL: &str = "read,list,write,replace,delete";

/// Longer than it takes to take a token back.
const HELD: Duration = Duration::from_millis(1_500);

/// The connection ends with this code.
fn is_over(talk: &mut Inside, code: &str) {
    let line = talk.line();
    assert_eq!(word(&line), code);
    assert!(line["error"]["id"].is_null(), "{line}");
    assert!(talk.is_ended());
}

#[test]
fn right_lost_ends_at_next_request() {
    let house = House::locked();
    std::fs::write(house.world.served().join("file"), "content").unwrap();
    let token = house.add("alice", ALL);
    let stat = |id: u64| json!({"stat": {"id": id, "name": "file"}});
    let messages = [
        stat(2),
        json!({"get": {"id": 3, "name": "file", "digest": "sha256"}}),
        json!({"list": {"id": 4}}),
        json!({"mkdir": {"id": 5, "name": "made"}}),
        json!({"move": {"id": 6, "name": "file", "to": "gone"}}),
        json!({"remove": {"id": 7, "name": "file"}}),
        json!({"resume": {"id": 8, "transfer": format!("{:032x}", 8)}}),
    ];
    let mut puts = house.talk(&token);
    let mut talks: Vec<Inside> = messages.iter().map(|_| house.talk(&token)).collect();
    for talk in [&mut puts].into_iter().chain(&mut talks) {
        talk.say(stat(1));
        assert_eq!(word(&talk.line()), "info");
    }
    house.remove("alice");
    // The command has returned, so it holds: not a moment later.
    for (talk, message) in talks.iter_mut().zip(messages) {
        talk.say(message.clone());
        assert_eq!(word(&talk.line()), "denied", "{message}");
    }
    puts.put_hello(9, "new", "none");
    assert_eq!(word(&puts.line()), "denied");
    assert_eq!(house.names(), ["file"]);
    assert_eq!(house.hello(Some(&token)).1, "login_failed");
}

/// One right is taken away and the others stay, on a connection that goes on.
#[test]
fn a_token_that_may_do_less_does_less_and_no_more_is_lost() {
    let house = House::locked();
    std::fs::write(house.world.served().join("file"), "content").unwrap();
    let mut talk = house.talk(&house.add("alice", ALL));
    assert!(talk.is_answered(1));
    house.change_tokens(|text| text.replace("\"write\",", ""));
    let mut id = 1;
    until("the file is read", || {
        id += 1;
        talk.say(json!({"mkdir": {"id": id, "name": "made"}}));
        word(&talk.line()) == "denied"
    });
    talk.say(json!({"get": {"id": id + 1, "name": "file", "digest": "sha256"}}));
    assert_eq!(word(&talk.line()), "file");
    let (end, came) = talk.past_parts();
    assert_eq!((word(&end).as_str(), came), ("end", 7));
    talk.say(json!({"remove": {"id": id + 2, "name": "file"}}));
    assert_eq!(word(&talk.line()), "ok");
    // Of so many lines as there were until then some may have been dropped; it is said again.
    until("the log has it", || {
        id += 1;
        talk.say(json!({"mkdir": {"id": id + 2, "name": "made"}}));
        assert_eq!(word(&talk.line()), "denied");
        house.server.log().contains("the token may not make directories")
    });
}

#[test]
fn right_lost_in_mid_body_of_a_put() {
    let house = House::locked();
    let mut talk = house.talk(&house.add("alice", "write"));
    let part = vec![7; MIB];
    talk.say(put(1, "big", 64 * MIB, 1));
    for number in 0..9 {
        talk.part(1, number * MIB, &part);
    }
    let kept = talk.line();
    assert_eq!(kept["kept"]["at"], 8 * MIB, "{kept}");
    house.remove("alice");
    talk.part(1, 9 * MIB, &part);
    assert_eq!(word(&talk.line()), "denied");
    // Nothing of it is left, for nobody can go on with it.
    until("staging is empty", || house.world.staged() == 0);
    assert!(house.names().is_empty());
    is_over(&mut talk, "denied");
}

/// One right is taken away in mid body, and the others stay: only that put ends.
#[test]
fn a_right_that_a_put_needs_is_lost_in_mid_body() {
    for lost in ["write", "replace"] {
        let house = House::locked();
        std::fs::write(house.world.served().join("file"), "content").unwrap();
        let mut talk = house.talk(&house.add("alice", ALL));
        talk.say(put(1, "file", 64 * MIB, 1));
        let part = vec![7; MIB];
        for number in 0..9 {
            talk.part(1, number * MIB, &part);
        }
        assert_eq!(talk.line()["kept"]["at"], 8 * MIB);
        house.change_tokens(|text| text.replace(&format!("\"{lost}\","), ""));
        let (mut at, mut id) = (9 * MIB, 1);
        let mut line = json!(null);
        until("the file is read", || {
            talk.part(1, at, &part[..1_024]);
            at += 1_024;
            id += 1;
            talk.say(json!({"ping": {"id": id}}));
            line = talk.line();
            word(&line) != "pong"
        });
        assert_eq!((word(&line).as_str(), &line["error"]["id"]), ("denied", &json!(1)), "{lost}");
        assert_eq!(word(&talk.line()), "pong");
        until("staging is empty", || house.world.staged() == 0);
        talk.say(json!({"get": {"id": id + 1, "name": "file", "digest": "sha256"}}));
        assert_eq!(word(&talk.line()), "file");
        let (end, came) = talk.past_parts();
        assert_eq!((word(&end).as_str(), came), ("end", 7), "{lost}");
    }
}

#[test]
fn right_lost_in_mid_body_of_a_get() {
    let house = House::locked();
    let bytes = vec![7; 128 * MIB];
    std::fs::write(house.world.served().join("big"), &bytes).unwrap();
    let mut talk = house.talk(&house.add("alice", "read"));
    talk.say(json!({"get": {"id": 1, "name": "big", "digest": "sha256"}}));
    assert_eq!(talk.line()["file"]["size"], bytes.len());
    let first = talk.line();
    let mut came = talk.raw(first["data"]["size"].as_u64().unwrap()).len();
    house.remove("alice");
    let end = loop {
        let line = talk.line();
        let Some(size) = line["data"]["size"].as_u64() else { break line };
        // Whoever comes back with another token goes on behind it.
        let part = talk.raw(size);
        assert!(part.iter().all(|byte| *byte == 7), "what was announced is what is in the file");
        came += part.len();
    };
    assert_eq!(word(&end), "denied");
    // What the sockets held, and one part.
    assert!(came < 64 * MIB, "{came} bytes came");
    is_over(&mut talk, "denied");
}

/// Whoever is given another token goes on with what has come, of a single file and of one in a tree.
#[test]
fn what_came_before_the_right_was_lost_is_kept() {
    const SOME_BYTES: u64 = 16 * MIB as u64;
    type Case = (&'static [&'static str], &'static str, fn(&World) -> u64, &'static str);
    let file: Case = (
        &["get", "tree/big"],
        "big",
        World::part_bytes,
        ".part; the same command goes on where this one ended",
    );
    let tree: Case = (
        &["get", "-r", "tree"],
        "tree/big",
        |world| world.part_bytes_in("tree"),
        "; the same command goes on with the rest",
    );
    for (get, got, came, hint) in [file, tree] {
        let house = House::locked();
        let bytes = noise(64 * MIB, 1);
        std::fs::create_dir(house.world.served().join("tree")).unwrap();
        std::fs::write(house.world.served().join("tree/big"), &bytes).unwrap();
        let token = house.add("alice", "read,list");
        let slowly = [get, &["--limit-rate", "20M"]].concat();
        let client = house.ftx(Some(&token), &slowly).spawn().unwrap();
        until("some is here", || came(&house.world) > SOME_BYTES);
        house.remove("alice");
        let output = client.wait_with_output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{said}");
        assert!(said.contains("(denied)") && said.trim_end().ends_with(hint), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        house.run(Some(&house.add("alice", "read,list")), get, 0);
        house.until_logged(" at=");
        assert!(std::fs::read(house.world.here().join(got)).unwrap() == bytes);
    }
}

/// The sync of a put is held; meanwhile its token is taken back. The name is not taken.
#[test]
fn right_lost_is_seen_at_commit() {
    let house = House::locked();
    let mut alice = house.talk(&house.add("alice", "write"));
    let mut bob = house.talk(&house.add("bob", "write"));
    let delay = format!("delay_enter={}", HELD.as_micros());
    let Some(_injection) = Injection::into(&house.server, "fsync,fdatasync", None, &delay) else {
        return;
    };
    alice.put_hello(1, "of-alice", "full");
    bob.put_hello(2, "of-bob", "full");
    // The bodies have come, and are with the disk.
    assert!(alice.is_answered(2) && bob.is_answered(3));
    let began = Instant::now();
    house.remove("alice");
    assert!(began.elapsed() < HELD, "too slow to tell");
    assert_eq!(word(&alice.line()), "denied");
    assert_eq!(word(&bob.line()), "done");
    assert_eq!(house.names(), ["of-bob"]);
    until("staging is empty", || house.world.staged() == 0);
    house.until_logged("put refused");
    // It was whole, and had been synced, when it was refused.
    let log = house.server.log();
    let refused = log.lines().find(|line| line.contains("put refused")).unwrap();
    let ms = refused.split("ms=").nth(1).unwrap().split(' ').next().unwrap();
    assert!(ms.parse::<u128>().unwrap() >= HELD.as_millis(), "{refused}");
}

/// Takes all rights but the one to read away from those who have others; this connection is one of theirs. It holds
/// when this returns.
fn leave_reading(house: &House, asks: &mut Inside) {
    house.change_tokens(|text| text.replace(",\"list\",\"write\",\"delete\"", ""));
    let mut id = 0;
    until("the file is read", || {
        id += 1;
        asks.say(json!({"list": {"id": id}}));
        loop {
            match word(&asks.line()).as_str() {
                "entries" => {}
                word => break word == "denied",
            }
        }
    });
}

/// A round is held; changes of names stand in line behind it, and what they were granted by is taken away. None is made.
/// That she may still read keeps her connection, so that it is the round that refuses.
#[test]
fn right_lost_is_seen_when_names_are_to_be_changed() {
    let house = House::locked();
    for name in ["moved", "removed"] {
        std::fs::write(house.world.served().join(name), "content").unwrap();
    }
    let token = house.add("alice", "read,list,write,delete");
    let (mut alice, mut asks) = (house.talk(&token), house.talk(&token));
    let mut bob = house.talk(&house.add("bob", "write"));
    let delay = format!("delay_enter={}", HELD.as_micros());
    let Some(_injection) = Injection::into(&house.server, "fsync,fdatasync", None, &delay) else {
        return;
    };
    bob.say(json!({"mkdir": {"id": 1, "name": "of-bob", "durability": "full"}}));
    until("his round is under way", || house.names().contains(&"of-bob".to_owned()));
    let began = Instant::now();
    alice.say(json!({"mkdir": {"id": 1, "name": "made", "durability": "full"}}));
    alice.say(json!({"move": {"id": 2, "name": "moved", "to": "to", "durability": "full"}}));
    alice.say(json!({"remove": {"id": 3, "name": "removed", "durability": "full"}}));
    assert!(alice.is_answered(4));
    leave_reading(&house, &mut asks);
    assert!(began.elapsed() < HELD, "too slow to tell");
    let refused: Vec<_> = (0..3).map(|_| alice.line()).collect();
    for (line, id) in refused.iter().zip(1..) {
        assert_eq!((word(line).as_str(), &line["error"]["id"]), ("denied", &json!(id)));
    }
    assert_eq!(word(&bob.line()), "ok");
    assert_eq!(house.names(), ["moved", "of-bob", "removed"]);
}

/// The journal of a round is held, and behind it the round of hers; what that was granted by is taken away while its own
/// journal is. The round has its put and its change, and makes neither.
#[test]
fn right_lost_is_seen_when_the_journal_has_the_round() {
    let mut house = House::locked();
    std::fs::write(house.world.served().join("removed"), "content").unwrap();
    let token = house.add("alice", "read,list,write,delete");
    let (mut alice, mut asks) = (house.talk(&token), house.talk(&token));
    let mut bob = house.talk(&house.add("bob", "write"));
    let journal = house.world.served().join(".ftx/journal");
    let is_written = |name: &str| {
        let text = std::fs::read_to_string(&journal).unwrap();
        text.contains(&format!("\"{name}\""))
    };
    {
        let delay = format!("delay_enter={}", HELD.as_micros());
        let (calls, path) = ("fsync,fdatasync", Some(journal.as_os_str()));
        let Some(_injection) = Injection::into(&house.server, calls, path, &delay) else { return };
        bob.put_hello(1, "of-bob", "full");
        until("his round is under way", || is_written("of-bob"));
        alice.put_hello(2, "of-alice", "full");
        alice.say(json!({"remove": {"id": 3, "name": "removed", "durability": "full"}}));
        assert!(alice.is_answered(4));
        until("her round is under way", || is_written("of-alice"));
        let began = Instant::now();
        leave_reading(&house, &mut asks);
        assert!(began.elapsed() < HELD, "too slow to tell");
        for _ in 0..2 {
            assert_eq!(word(&alice.line()), "denied");
        }
        assert_eq!(word(&bob.line()), "done");
    }
    assert_eq!(house.names(), ["of-bob", "removed"]);
    until("staging is empty", || house.world.staged() == 0);
    house.kill_and_restart();
    assert_eq!(house.names(), ["of-bob", "removed"], "no start makes up for it");
}

/// As [`right_lost_is_seen_at_commit`], while the tokens file is no good: nobody knows whether she has lost it, so she is
/// told to come again, and nothing is wrong with the connection.
#[test]
fn a_put_at_its_commit_when_nobody_knows_the_tokens_is_to_be_sent_again() {
    let house = House::locked();
    let mut alice = house.talk(&house.add("alice", "write"));
    let tokens = std::fs::read_to_string(house.state().join("tokens")).unwrap();
    let delay = format!("delay_enter={}", HELD.as_micros());
    {
        let Some(_injection) = Injection::into(&house.server, "fsync,fdatasync", None, &delay)
        else {
            return;
        };
        alice.put_hello(1, "of-alice", "full");
        assert!(alice.is_answered(2));
        house.change_tokens(|_| "garbage\n".to_owned());
        let line = alice.line();
        assert_eq!((word(&line).as_str(), &line["error"]["id"]), ("busy", &json!(1)));
    }
    assert!(house.names().is_empty());
    alice.put_hello(3, "of-alice", "full");
    assert_eq!(word(&alice.line()), "busy");
    house.change_tokens(|_| tokens);
    house.until_logged("the tokens file is good again");
    alice.put_hello(4, "of-alice", "full");
    assert_eq!(word(&alice.line()), "done");
    assert_eq!(house.names(), ["of-alice"]);
}

/// Whoever uses the client does not come to know of it.
#[test]
fn a_client_waits_until_the_tokens_are_known_again() {
    let house = House::locked();
    let token = house.add("alice", "write");
    let tokens = std::fs::read_to_string(house.state().join("tokens")).unwrap();
    house.world.noise("file", 24 * MIB);
    let client = house.ftx(Some(&token), &["put", "file", "--limit-rate", "12M"]).spawn().unwrap();
    until("some of it is there", || house.world.staged_bytes() > 9 * MIB as u64);
    house.change_tokens(|_| "garbage\n".to_owned());
    house.until_logged("busy");
    house.change_tokens(|_| tokens);
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(house.names(), ["file"]);
}

/// All places that this address may have are taken, by clients whose bodies do not come, for as long as the others go on.
#[test]
fn right_lost_ends_a_put_that_waits_for_a_place() {
    /// Of sixteen.
    const PLACES: u64 = 12;
    let house = House::started(World::new(), &["--require-token"], |command| {
        let words: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\"", FTX]).args(words);
        limited.env_remove("RUST_LOG");
        *command = limited;
    });
    let (alice, bob) = (house.add("alice", "write"), house.add("bob", "write"));
    let mut taken: Vec<Inside> = (0..PLACES).map(|_| house.talk(&alice)).collect();
    for (talk, transfer) in taken.iter_mut().zip(1..) {
        talk.say(put(1, &format!("slow-{transfer}"), 5, transfer));
        assert!(talk.is_answered(2));
    }
    let mut waits = house.talk(&bob);
    waits.say(json!({"ping": {"id": 1}}));
    assert_eq!(word(&waits.line()), "pong");
    waits.put_hello(2, "of-bob", "none");
    // It waits: there is no answer while another one hears several.
    assert!((3..20).all(|id| taken[0].is_answered(id)));
    house.remove("bob");
    let line = waits.line();
    assert_eq!((word(&line).as_str(), &line["error"]["id"]), ("denied", &json!(2)));
    is_over(&mut waits, "denied");
    house.until_logged("name=of-bob result=denied");
    assert!(house.names().is_empty());
    assert!(taken.iter_mut().all(|talk| talk.is_answered(30)), "the others still have theirs");
}

#[test]
fn expiry_in_mid_transfer() {
    const LIFE: Duration = Duration::from_secs(2);
    let house = House::locked();
    let size = 512 * MIB as u64;
    let file = std::fs::File::create(house.world.served().join("big")).unwrap();
    file.set_len(size).unwrap();
    let token = house.add_with("alice", ALL, &["--expires", "2s"]);
    let made = Instant::now();
    let mut puts = house.talk(&token);
    puts.say(put(1, "new", 5, 1));
    puts.part(1, 0, b"hel");
    let mut gets = house.talk(&token);
    gets.say(json!({"get": {"id": 1, "name": "big", "digest": "sha256"}}));
    assert_eq!(gets.line()["file"]["size"], size);
    let mut idles = house.connected();
    assert!(puts.is_answered(2), "it was not over yet");
    std::thread::sleep((LIFE + Duration::from_millis(50)).saturating_sub(made.elapsed()));
    puts.part(1, 3, b"lo");
    puts.say(json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}}));
    assert_eq!(word(&puts.line()), "expired");
    let (end, came) = gets.past_parts();
    assert_eq!(word(&end), "expired");
    assert!(came < 128 * MIB as u64, "{came} bytes came");
    is_over(&mut gets, "expired");
    idles.say(json!({"hello": {"ftx": 1, "token": token}}));
    idles.put_hello(1, "late", "none");
    is_over(&mut idles, "expired");
    assert_eq!(house.names(), ["big"]);
    until("staging is empty", || house.world.staged() == 0);
}

/// What a tree had of a large file is not given up for a moment in which nobody knows which tokens there are.
#[test]
fn tokens_in_doubt_cost_a_tree_nothing_that_has_come() {
    let house = House::locked();
    let token = house.add("alice", "read,list");
    let tokens = std::fs::read_to_string(house.state().join("tokens")).unwrap();
    let tree = house.world.served().join("t");
    std::fs::create_dir(&tree).unwrap();
    let bytes: Vec<u8> = (0..80 * MIB).map(|at| (at % 251) as u8).collect();
    std::fs::write(tree.join("big"), &bytes).unwrap();
    let client = house.ftx(Some(&token), &["get", "-r", "t", "--limit-rate", "40M"]).spawn();
    let staging = house.world.here().join("t/.ftx/staging");
    let come = || {
        let files = std::fs::read_dir(&staging).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum::<u64>()
    };
    until("some of it is here", || come() > 24 * MIB as u64);
    house.change_tokens(|_| "garbage\n".to_owned());
    house.until_logged("result=busy");
    house.change_tokens(|_| tokens);
    let output = client.unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(std::fs::read(house.world.here().join("t/big")).unwrap() == bytes);
    house.until_logged("name=t/big at=");
}
