//! Several selectors: what holds for the server holds for all of them together.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{MIB, Server, World, noise, until};
use crate::talk::{HELLO_DIGEST, Talk};

const TRANSFER: &str = "00112233445566778899aabbccddeeff";

/// A server with two selectors whose log says which connection is whose.
fn two(world: &World, options: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command
        .arg("serve")
        .arg(world.served())
        .args(["--listen", "127.0.0.1:0", "--min-free", "0", "--threads", "2"])
        .args(options)
        .env("NO_COLOR", "1")
        .env("RUST_LOG", "debug");
    Server::spawn(command)
}

/// The selector that a connection from this address was given to.
fn selector(server: &Server, talk: &Talk) -> usize {
    let line = format!("peer={} selector=", talk.address());
    until("the log has it", || server.log().contains(&line));
    let log = server.log();
    let number = log.split(&line).nth(1).and_then(|rest| rest.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

/// Two connections, on different selectors.
fn one_on_each(server: &Server) -> [Talk; 2] {
    let talks = [Talk::with(server.address), Talk::with(server.address)];
    assert_eq!(talks.each_ref().map(|talk| selector(server, talk)), [0, 1]);
    talks
}

fn begin(talk: &mut Talk, size: usize) {
    talk.say(json!({"put": {
        "id": 1, "name": "a", "digest": "sha256", "size": size, "transfer": TRANSFER,
    }}));
}

#[test]
fn many_clients_at_once_are_all_served_and_are_spread_over_the_selectors() {
    const CLIENTS: usize = 200;
    let world = World::new();
    let server = two(&world, &[]);
    let mut talks: Vec<Talk> = (0..CLIENTS).map(|_| Talk::with(server.address)).collect();
    for (number, talk) in talks.iter_mut().enumerate() {
        talk.put_hello(number as u64 + 1, &format!("small/{number}"), "none");
    }
    for (number, talk) in talks.iter_mut().enumerate() {
        let line = talk.line();
        assert_eq!(line["done"]["digest"], HELLO_DIGEST, "client {number}: {line}");
    }
    assert_eq!(std::fs::read_dir(world.served().join("small")).unwrap().count(), CLIENTS);
    let mut counts: HashMap<usize, usize> = HashMap::new();
    talks.iter().for_each(|talk| *counts.entry(selector(&server, talk)).or_default() += 1);
    assert_eq!(counts, HashMap::from([(0, CLIENTS / 2), (1, CLIENTS / 2)]));
    // Where some have gone, the next ones go.
    let (gone, mut left): (Vec<Talk>, Vec<Talk>) =
        talks.into_iter().partition(|talk| selector(&server, talk) == 1);
    let gone: Vec<_> = gone.into_iter().map(|talk| talk.address()).collect();
    until("they are gone", || {
        let log = server.log();
        gone.iter().all(|address| log.contains(&format!("disconnected peer={address}")))
    });
    let next: Vec<Talk> = (0..10).map(|_| Talk::with(server.address)).collect();
    assert!(next.iter().all(|talk| selector(&server, talk) == 1));
    assert!(left.iter_mut().all(|talk| talk.is_answered(9_999)));
}

#[test]
fn a_transfer_is_taken_over_by_a_connection_of_another_selector() {
    let world = World::new();
    let server = two(&world, &[]);
    let [mut old, mut new] = one_on_each(&server);
    begin(&mut old, 20_000_000);
    for part in 0..9 {
        old.part(1, part * MIB, &vec![7; MIB]);
    }
    let kept = old.line();
    assert_eq!(kept["kept"]["at"], 8 * MIB, "{kept}");
    // And back again.
    for id in [1, 2] {
        new.say(json!({"resume": {"id": id, "transfer": TRANSFER}}));
        let held = new.line();
        assert_eq!(held["held"]["ranges"], json!([[0, 8 * MIB]]), "{held}");
        if id == 1 {
            assert_eq!(old.code(), "taken_over");
        }
        new.say(json!({"put": {
            "id": id + 10, "name": "a", "digest": "sha256", "size": 20_000_000,
            "at": 8 * MIB, "transfer": TRANSFER,
        }}));
        new.part(id + 10, 8 * MIB, &[7; 1000]);
        assert!(new.is_answered(id + 100));
        std::mem::swap(&mut old, &mut new);
    }
}

#[test]
fn a_server_that_stops_ends_what_runs_on_every_selector() {
    let world = World::new();
    let mut server = two(&world, &["--drain-timeout", "1m"]);
    let mut idle = one_on_each(&server);
    let mut busy = one_on_each(&server);
    for (number, talk) in busy.iter_mut().enumerate() {
        talk.say(json!({"put": {
            "id": 1, "name": format!("{number}"), "digest": "sha256", "size": 5,
            "transfer": format!("{:032x}", number + 1),
        }}));
        assert!(talk.is_answered(2));
    }
    server.signal("-TERM");
    // Those that have nothing under way are told that it is over.
    for talk in &mut idle {
        assert_eq!(talk.code(), "shutting_down");
    }
    assert!(TcpStream::connect(server.address).is_err());
    assert!(server.child.try_wait().unwrap().is_none(), "it did not wait for what runs");
    // One after the other: as long as one selector has something to finish, the server is there.
    for talk in &mut busy {
        talk.part(1, 0, b"hello");
        talk.say(json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}}));
        let line = talk.line();
        assert_eq!(line["done"]["digest"], HELLO_DIGEST, "{line}");
    }
    drop((idle, busy));
    let began = Instant::now();
    until("it is over", || server.child.try_wait().unwrap().is_some());
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
    assert!(began.elapsed() < Duration::from_secs(30), "it waited for the drain time");
}

#[test]
fn what_does_not_end_in_the_drain_time_is_cut_on_every_selector() {
    let world = World::new();
    let mut server = two(&world, &["--drain-timeout", "2s"]);
    let mut talks = one_on_each(&server);
    for (number, talk) in talks.iter_mut().enumerate() {
        talk.say(json!({"put": {
            "id": 1, "name": format!("{number}"), "digest": "sha256", "size": 5,
            "transfer": format!("{:032x}", number + 1),
        }}));
        assert!(talk.is_answered(2));
    }
    let began = Instant::now();
    server.signal("-TERM");
    for talk in &mut talks {
        assert_eq!(talk.code(), "shutting_down");
    }
    assert!(began.elapsed() < Duration::from_secs(4), "the one was stopped after the other");
    drop(talks);
    until("it is over", || server.child.try_wait().unwrap().is_some());
    assert!(server.child.wait().unwrap().success(), "{}", server.log());
}

#[test]
fn connections_of_all_selectors_together_are_limited() {
    let world = World::new();
    let server = two(&world, &["--max-connections", "3", "--idle-timeout", "1h"]);
    // Twice: a seat that becomes free on either selector lets the next one in.
    for leaving in [1, 0] {
        let mut crowd: Vec<Talk> = (0..3).map(|_| Talk::with(server.address)).collect();
        let leaving =
            crowd.iter().position(|talk| selector(&server, talk) == leaving).expect("one on each");
        let mut waiting = TcpStream::connect(server.address).unwrap();
        waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        waiting.write_all(b"{\"hello\":{\"ftx\":1}}\n").unwrap();
        let mut byte = [0];
        assert!(waiting.read(&mut byte).is_err(), "it was served");
        drop(crowd.remove(leaving));
        // Before anything else wakes the selector that lets in.
        waiting.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(waiting.read(&mut byte).unwrap(), 1);
        assert!(crowd.iter_mut().all(|talk| talk.is_answered(1)));
        drop((crowd, waiting));
        until("all are gone", || {
            let log = server.log();
            let count = |word| log.matches(word).count();
            count(" connected ") == count(" disconnected ") + count(" the client went away ")
        });
    }
}

#[test]
fn a_rate_holds_for_all_whatever_number_of_selectors_is_asked_for() {
    let world = World::new();
    let server = two(&world, &["--limit-rate", "4M"]);
    std::fs::write(world.served().join("b"), noise(MIB, 1)).unwrap();
    let began = Instant::now();
    let gets: Vec<_> = (0..6)
        .map(|number| {
            let to = format!("back{number}");
            world.ftx(server.address, ["get", "b", "-o", &to]).spawn().unwrap()
        })
        .collect();
    for get in gets {
        let output = get.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    // 6 MiB; two selectors that did not know of each other would need half of this.
    assert!(began.elapsed().as_millis() >= 1_300, "{:?}", began.elapsed());
}
