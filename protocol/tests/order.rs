//! What one answer of storage may cost, whatever the names are whose requests wait for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_protocol::limits::{REQUESTS, REQUESTS_TOTAL};
use ftx_protocol::message::Limits;
use ftx_protocol::server::{Command, Event, Server, Settings};
use ftx_protocol::{Code, RequestId, Time};

const NOW: Time = Time(0);

/// Far above what a slow machine takes without optimisation, and far below what it takes where the
/// cost of each request that waits grows with the others.
const CALL: Duration = Duration::from_millis(1_500);

struct Timed {
    machine: Server,
    longest: Duration,
    all: Duration,
}

impl Timed {
    fn new() -> Self {
        let settings = Settings {
            agent: String::new(),
            features: vec!["sha256".into()],
            limits: Limits::default(),
            requests_total_max: REQUESTS_TOTAL,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        };
        let mut timed = Self {
            machine: Server::new(Arc::new(settings), NOW),
            longest: Duration::ZERO,
            all: Duration::ZERO,
        };
        timed.hear("{\"hello\":{\"ftx\":1}}\n");
        timed
    }

    fn call(&mut self, act: impl FnOnce(&mut Server)) {
        let began = Instant::now();
        act(&mut self.machine);
        let took = began.elapsed();
        self.longest = self.longest.max(took);
        self.all += took;
    }

    /// As it comes from a socket, piece by piece.
    fn hear(&mut self, lines: &str) {
        for piece in lines.as_bytes().chunks(64 * 1024) {
            self.call(|machine| machine.receive(piece, NOW));
        }
    }

    /// Refuses all that storage is asked, until it is asked no more; says how much that was.
    fn refuse_all(&mut self) -> usize {
        let mut asked = 0;
        loop {
            let commands: Vec<Command> =
                std::iter::from_fn(|| self.machine.poll_command()).collect();
            let ids: Vec<RequestId> = commands.iter().filter_map(Command::id).collect();
            if ids.is_empty() {
                return asked;
            }
            for id in ids {
                asked += 1;
                let refusal = Code::NotFound.into();
                self.call(|machine| machine.handle(Event::Refused { id, refusal }, NOW));
            }
        }
    }

    fn check(&self, what: &str) {
        println!("{what}: the longest call {:?}, all {:?}", self.longest, self.all);
        assert!(self.longest < CALL, "{what}: {:?}", self.longest);
    }
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
fn the_end_of_a_request_for_which_long_names_wait_is_one_short_call() {
    let mut timed = Timed::new();
    let deep = ["x".repeat(31).as_str(); 126].join("/");
    let stats = REQUESTS - 1;
    let waiting = (2..2 + stats).map(|id| stat(id, &format!("a/{deep}/{id}")));
    timed.hear(&(put(1, "a") + &waiting.collect::<String>()));
    assert_eq!(timed.refuse_all(), 1 + stats);
    timed.check("deep names below a put");
}

#[test]
fn many_names_below_one_that_is_asked_for_many_times_cost_each_of_them_little() {
    let mut timed = Timed::new();
    let half = REQUESTS / 2;
    let below = (1..=half).map(|id| stat(id, &format!("a/{id}")));
    let above = (half + 1..=REQUESTS).map(|id| stat(id, "a"));
    timed.hear(&below.chain(above).collect::<String>());
    assert_eq!(timed.refuse_all(), REQUESTS);
    timed.check("short names below one");
}
