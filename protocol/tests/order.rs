//! As many requests as a connection may have, all of which wait for another: whoever's turn comes is told to
//! storage in the call in which it comes, and nobody before. What such a call costs is counted in
//! `src/server/order.rs` and measured by `benches/steps.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use ftx_protocol::limits::{REQUESTS, REQUESTS_TOTAL};
use ftx_protocol::message::Limits;
use ftx_protocol::server::{Command, Event, Server, Settings};
use ftx_protocol::{Code, RequestId, Time};

const NOW: Time = Time(0);

/// A machine that has heard this, piece by piece as from a socket.
fn hear(lines: &str) -> Server {
    let settings = Settings {
        agent: String::new(),
        features: vec!["sha256".into()],
        limits: Limits::default(),
        requests_total_max: REQUESTS_TOTAL,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    };
    let mut machine = Server::new(Arc::new(settings), NOW);
    machine.receive(b"{\"hello\":{\"ftx\":1}}\n", NOW);
    for piece in lines.as_bytes().chunks(64 * 1024) {
        machine.receive(piece, NOW);
    }
    machine
}

/// The requests that storage is asked for.
fn asked(machine: &mut Server) -> Vec<usize> {
    let commands = std::iter::from_fn(|| machine.poll_command());
    let id = |command| if let Command::Work(work) = command { work.id() } else { None };
    commands.filter_map(id).map(|id| id.0 as usize).collect()
}

/// Refuses a request; says which are asked for by that.
fn refuse(machine: &mut Server, id: usize) -> Vec<usize> {
    let refusal = Code::NotFound.into();
    machine.handle(Event::Refused { id: RequestId(id as u64), refusal }, NOW);
    asked(machine)
}

fn stat(id: usize, name: &str) -> String {
    format!("{{\"stat\":{{\"id\":{id},\"name\":\"{name}\"}}}}\n")
}

fn put(id: usize, name: &str) -> String {
    format!(
        "{{\"put\":{{\"id\":{id},\"name\":\"{name}\",\"digest\":\"sha256\",\"size\":5,\"transfer\":\"{id:032x}\"}}}}\n"
    )
}

#[test]
fn all_that_wait_below_one_put_go_when_it_is_over() {
    let deep = ["x"; 20].join("/");
    let waiting = (2..=REQUESTS).map(|id| stat(id, &format!("a/{deep}/{id}")));
    let mut machine = hear(&(put(1, "a") + &waiting.collect::<String>()));
    assert_eq!(machine.requests(), REQUESTS);
    assert_eq!(asked(&mut machine), [1]);
    assert_eq!(refuse(&mut machine, 1), (2..=REQUESTS).collect::<Vec<_>>());
    for id in 2..=REQUESTS {
        assert!(refuse(&mut machine, id).is_empty());
    }
    assert_eq!(machine.requests(), 0);
}

#[test]
fn those_that_name_one_directory_come_after_all_below_it_and_one_after_the_other() {
    let half = REQUESTS / 2;
    let below = (1..=half).map(|id| stat(id, &format!("a/{id}")));
    let above = (half + 1..=REQUESTS).map(|id| stat(id, "a"));
    let mut machine = hear(&below.chain(above).collect::<String>());
    assert_eq!(asked(&mut machine), (1..=half).collect::<Vec<_>>());
    for id in (2..=half).rev() {
        assert!(refuse(&mut machine, id).is_empty(), "1 is still below");
    }
    assert_eq!(refuse(&mut machine, 1), [half + 1]);
    for id in half + 1..REQUESTS {
        assert_eq!(refuse(&mut machine, id), [id + 1]);
    }
    assert!(refuse(&mut machine, REQUESTS).is_empty());
    assert_eq!(machine.requests(), 0);
}
