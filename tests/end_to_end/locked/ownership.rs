//! A transfer belongs to the token under which it was begun.

use serde_json::{Value, json};

use super::house::{House, Inside, introduced, put, word};
use crate::harness::{Line, MIB, done_event, text, until};
use crate::talk::{HELLO_DIGEST, Talk};

const TRANSFER: u64 = 0x0bad_cafe;

/// More than is made durable on the way, and less than the whole.
fn begin_large(talk: &mut Inside, id: u64) {
    talk.say(put(id, "large", 9 * MIB, TRANSFER));
    for number in 0..8 {
        talk.part(id, number * MIB, &vec![1; MIB]);
    }
    let line = talk.line();
    assert_eq!(line["kept"]["at"], 8 * MIB, "{line}");
}

fn finish_large(talk: &mut Inside, id: u64) {
    use sha2::{Digest, Sha256};
    let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(vec![1; 9 * MIB]));
    talk.part(id, 8 * MIB, &vec![1; MIB]);
    talk.say(json!({"end": {"id": id, "size": 9 * MIB, "digest": format!("sha256:{digest}")}}));
    let line = talk.line();
    assert_eq!(line["done"]["size"], 9 * MIB, "{line}");
}

fn resume(id: u64, transfer: u64) -> Value {
    json!({"resume": {"id": id, "transfer": format!("{transfer:032x}")}})
}

/// To this one there is no such transfer, and it cannot begin one under that id.
fn knows_nothing<S: std::io::Read + std::io::Write>(talk: &mut Talk<S>, first: u64, size: usize) {
    talk.say(resume(first, TRANSFER));
    let held = talk.line();
    assert_eq!((&held["held"]["state"], &held["held"]["ranges"]), (&json!("nothing"), &json!([])));
    talk.say(put(first + 1, "large", size, TRANSFER));
    assert_eq!(word(&talk.line()), "transfer_mismatch");
    let mut going_on = put(first + 2, "large", size, TRANSFER);
    going_on["put"]["at"] = json!(8 * MIB);
    talk.say(going_on);
    let word = word(&talk.line());
    assert!(["transfer_mismatch", "bad_offset"].contains(&word.as_str()), "{word}");
}

#[test]
fn takeover_needs_the_token() {
    let house = House::locked();
    let alice = house.add("alice", "write");
    let bob = house.add("bob", "read,list,write,replace,delete");
    let mut begins = house.talk(&alice);
    begin_large(&mut begins, 1);
    let mut other = house.talk(&bob);
    // While it is worked on, and when nobody does.
    knows_nothing(&mut other, 1, 9 * MIB);
    assert!(begins.is_answered(2), "it goes on undisturbed");
    drop(begins);
    until("it is suspended", || {
        let mut talk = house.talk(&alice);
        talk.say(resume(1, TRANSFER));
        talk.line()["held"]["ranges"] == json!([[0, 8 * MIB]])
    });
    knows_nothing(&mut other, 11, 9 * MIB);
    // Whoever has the token takes it over, and from whoever works on it.
    let mut takes = house.talk(&alice);
    takes.say(resume(1, TRANSFER));
    assert_eq!(takes.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    let mut going_on = put(2, "large", 9 * MIB, TRANSFER);
    going_on["put"]["at"] = json!(8 * MIB);
    takes.say(going_on.clone());
    assert!(takes.is_answered(3));
    let mut takes_again = house.talk(&alice);
    takes_again.say(resume(1, TRANSFER));
    assert_eq!(takes_again.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    assert_eq!(word(&takes.line()), "taken_over");
    takes_again.say(going_on);
    finish_large(&mut takes_again, 2);
    assert_eq!(house.world.stored("large").len(), 9 * MIB);
}

#[test]
fn replay_needs_the_token() {
    let house = House::locked();
    let alice = house.add("alice", "write");
    let mut puts = house.talk(&alice);
    puts.put_hello(TRANSFER, "a", "full");
    assert_eq!(word(&puts.line()), "done");
    drop(puts);
    let all = "read,list,write,replace,delete";
    let mut bob = house.talk(&house.add("bob", all));
    bob.say(resume(1, TRANSFER));
    assert_eq!(bob.line()["held"]["state"], "nothing");
    bob.put_hello(TRANSFER, "a", "full");
    let line = bob.line();
    assert_eq!(word(&line), "transfer_mismatch", "{line}");
    assert!(!line.to_string().contains("2cf24d"), "it tells the digest: {line}");
    let mut again = house.talk(&alice);
    again.say(resume(1, TRANSFER));
    let held = again.line();
    assert_eq!(
        (&held["held"]["state"], &held["held"]["digest"]),
        (&json!("complete"), &json!(HELLO_DIGEST))
    );
    let mut replayed = put(2, "a", 5, TRANSFER);
    replayed["put"]["at"] = json!(5);
    again.say(replayed);
    again.say(json!({"end": {"id": 2, "size": 5, "digest": HELLO_DIGEST}}));
    let line = again.line();
    assert_eq!(line["done"]["replayed"], "same", "{line}");
}

#[test]
fn plain_cannot_take_over_a_tokens_transfer() {
    // Whoever is on this machine may do everything, and yet not this.
    let house = House::with(&[]);
    let alice = house.add("alice", "write");
    let mut begins = house.talk(&alice);
    begin_large(&mut begins, 1);
    let mut plain = Talk::with(house.server.address);
    knows_nothing(&mut plain, 1, 9 * MIB);
    let (mut inside, word_) = house.hello(None);
    assert_eq!(word_, "welcome");
    knows_nothing(&mut inside, 1, 9 * MIB);
    finish_large(&mut begins, 1);
    plain.say(resume(9, TRANSFER));
    assert_eq!(plain.line()["held"]["state"], "nothing");
    // Nor the other way round.
    plain.put_hello(10, "b", "full");
    assert_eq!(word(&plain.line()), "done");
    let mut again = house.talk(&alice);
    again.say(resume(1, 10));
    assert_eq!(again.line()["held"]["state"], "nothing");
    again.put_hello(10, "b", "full");
    assert_eq!(word(&again.line()), "transfer_mismatch");
}

#[test]
fn removed_token_with_reused_name_is_another() {
    let house = House::locked();
    let first = house.add("alice", "write");
    begin_large(&mut house.talk(&first), 1);
    let mut talk = house.talk(&first);
    talk.say(resume(1, TRANSFER));
    assert_eq!(talk.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    house.remove("alice");
    let second = house.add("alice", "write");
    assert_ne!(first, second);
    // Who is connected is who it was.
    talk.say(json!({"mkdir": {"id": 2, "name": "made"}}));
    assert_eq!(word(&talk.line()), "denied");
    drop(talk);
    assert_eq!(house.hello(Some(&first)).1, "login_failed");
    let mut other = house.talk(&second);
    knows_nothing(&mut other, 1, 9 * MIB);
    assert!(house.names().is_empty());
}

/// The owner is in the journal: who takes a transfer over after a crash is asked all the same.
#[test]
fn a_transfer_has_its_owner_after_a_kill() {
    let mut house = House::locked();
    let alice = house.add("alice", "write");
    let bob = house.add("bob", "write");
    let mut talk = house.talk(&alice);
    begin_large(&mut talk, 1);
    house.kill_and_restart();
    knows_nothing(&mut house.talk(&bob), 1, 9 * MIB);
    let mut again = house.talk(&alice);
    again.say(resume(1, TRANSFER));
    assert_eq!(again.line()["held"]["ranges"], json!([[0, 8 * MIB]]));
    let mut going_on = put(2, "large", 9 * MIB, TRANSFER);
    going_on["put"]["at"] = json!(8 * MIB);
    again.say(going_on);
    finish_large(&mut again, 2);
    house.kill_and_restart();
    let mut other = house.talk(&bob);
    other.say(resume(1, TRANSFER));
    assert_eq!(other.line()["held"]["state"], "nothing");
    other.say(put(2, "large", 9 * MIB, TRANSFER));
    assert_eq!(word(&other.line()), "transfer_mismatch");
}

#[test]
fn a_client_goes_on_after_a_kill_of_the_server_and_after_a_cut_line() {
    let mut house = House::locked();
    let alice = house.add("alice", "read,write");
    let bytes = house.world.noise("big", 100 * MIB);
    let cut = Line::cut_after(house.server.address, 60 * MIB as u64, 0);
    let output = house.ftx_by(cut.address, Some(&alice), &["put", "big", "--json"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(cut.was_cut());
    let done = done_event(&output);
    assert_eq!(done["connections"], 2, "{done}");
    assert!(done["moved_again_bytes"].as_u64().unwrap() < 40 * MIB as u64, "{done}");
    assert!(house.world.stored("big") == bytes);

    let args =
        ["put", "big", "--as", "other", "--json", "--limit-rate", "64M", "--retry-for", "60s"];
    let client = house.ftx(Some(&alice), &args).spawn().unwrap();
    until("some of it is there", || house.world.staged_bytes() > 20 * MIB as u64);
    house.kill_and_restart();
    let output = client.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let done = done_event(&output);
    assert_eq!(done["connections"], 2, "{done}");
    assert!(done["moved_again_bytes"].as_u64().unwrap() < 40 * MIB as u64, "{done}");
    assert!(house.world.stored("other") == bytes);
    assert_eq!(introduced(&mut house.connected(), Some(&alice)), "welcome");
}
