//! Tokens that are over, because they were removed or because of the time: what becomes of their connections and
//! of what they left.

use std::time::{Duration, Instant};

use ftx_protocol::token::Token;
use serde_json::json;

use crate::both::talk::{Inside, introduced, put};
use crate::both::{MIB, noise, until};
use crate::world::{Terms, World};

/// How long what a token has left is kept.
const AFTER: Duration = Duration::from_millis(800);

const ALL: &str = "read,list,write,replace,delete";

/// Says what ends a connection, after a final reply to what ran on it.
fn is_ended(peer: &mut Inside, ran: Option<u64>, code: &str) {
    if let Some(id) = ran {
        let line = peer.line();
        assert_eq!((&line["error"]["id"], &line["error"]["code"]), (&json!(id), &json!(code)));
    }
    let line = peer.line();
    assert_eq!(line["error"]["code"], code, "{line}");
    assert!(line["error"]["id"].is_null(), "{line}");
    assert!(peer.is_ended());
}

/// Patience with whoever says nothing is no reason for it here.
fn patient() -> World {
    World::with(|options| {
        options.policy.loopback = ftx::server::access::Loopback::Locked;
        options.idle_timeout = Duration::from_secs(3_600);
        options.abandoned_after = AFTER;
    })
}

#[test]
fn connections_of_a_removed_token_end_though_they_ask_for_nothing() {
    let world = patient();
    let (one, other) = (world.token(ALL), world.token(ALL));
    let mut idle: Vec<Inside> = (0..20).map(|_| world.login(&one)).collect();
    let mut stays = world.login(&other);
    let mut pings = world.login(&one);
    pings.say(json!({"ping": {"id": 1}}));
    assert!(pings.line()["pong"].is_object());
    world.take_back(1);
    idle.iter_mut().for_each(|peer| is_ended(peer, None, "denied"));
    is_ended(&mut pings, None, "denied");
    stays.say(json!({"ping": {"id": 1}}));
    assert!(stays.line()["pong"].is_object(), "nobody else is disturbed");
}

#[test]
fn connections_end_when_the_time_of_their_token_is_over() {
    let world = patient();
    let life = Duration::from_millis(1_500);
    let token = world.token_with(ALL, Terms { expires: Some(life), ..Terms::default() });
    let (mut idle, mut puts) = (world.login(&token), world.login(&token));
    puts.say(put(1, "a", 20 * MIB, 1));
    puts.part(1, 0, b"content");
    is_ended(&mut idle, None, "expired");
    is_ended(&mut puts, Some(1), "expired");
    until("nothing is left", || world.staged() == 0);
}

#[test]
fn an_end_that_a_token_gets_while_it_is_used_holds() {
    let world = patient();
    let mut idle = world.login(&world.token(ALL));
    world.end_in(1, Duration::from_millis(500));
    is_ended(&mut idle, None, "expired");
}

/// Neither a body that stays open for as long as empty parts come, nor a list that nobody reads on, keeps a
/// connection.
#[test]
fn what_waits_for_its_client_ends_with_the_token() {
    let world = patient();
    for number in 0..12_000 {
        std::fs::write(world.served().join(format!("a-name-of-some-length-{number}")), "").unwrap();
    }
    let token = world.token(ALL);
    let (mut puts, mut lists) = (world.login(&token), world.login(&token));
    puts.say(put(1, "a", 20 * MIB, 1));
    puts.part(1, 0, b"content");
    puts.part(1, 7, b"");
    until("it is on its way", || world.staged() == 1);
    lists.say(json!({"list": {"id": 1}}));
    for _ in 0..16 {
        let line = lists.line();
        assert!(line["entries"].is_object(), "{line}");
    }
    world.take_back(1);
    is_ended(&mut puts, Some(1), "denied");
    is_ended(&mut lists, Some(1), "denied");
    until("nothing is left", || world.staged() == 0);
}

/// Begins a large put, of which some is durable.
fn begun(world: &World, token: &Token, transfer: u64) -> Inside {
    let mut peer = world.login(token);
    let part = noise(MIB, 1);
    peer.say(put(1, "big", 20 * MIB, transfer));
    (0..9).for_each(|number| peer.part(1, number * MIB, &part));
    let line = peer.line();
    assert!(line["kept"].is_object(), "{line}");
    peer
}

fn is_held(world: &World, token: &Token, transfer: u64) -> bool {
    let mut peer = world.login(token);
    peer.say(json!({"resume": {"id": 1, "transfer": format!("{transfer:032x}")}}));
    peer.line()["held"]["state"] == "partial"
}

#[test]
fn what_a_token_left_goes_a_while_after_it_and_not_because_of_a_bad_file() {
    let world = patient();
    let (one, other) = (world.token(ALL), world.token(ALL));
    drop(begun(&world, &one, 1));
    drop(begun(&world, &other, 2));
    let mut live = begun(&world, &one, 3);
    // Nobody knows which tokens there are. Nobody may do anything, and nothing goes.
    let good = world.replace_tokens(b"garbage");
    assert_eq!(live.code(), "busy");
    std::thread::sleep(3 * AFTER);
    assert_eq!(world.staged(), 3);
    world.replace_tokens(&good);
    until("tokens are good again", || {
        introduced(&mut world.connected(), Some(&one.text())) == "welcome"
    });
    live.say(json!({"stat": {"id": 2, "name": "nothing"}}));
    assert_eq!(live.code(), "not_found", "who was there may go on");
    assert!(is_held(&world, &one, 1) && is_held(&world, &other, 2));
    assert!(is_held(&world, &one, 3), "what ran then can be gone on with");
    let began = Instant::now();
    world.take_back(1);
    until("it is gone", || world.staged() == 1);
    assert!(began.elapsed() >= AFTER, "that was too soon");
    assert!(is_held(&world, &other, 2), "another's is as it was");
}
