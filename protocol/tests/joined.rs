//! The server's machine, and both machines joined in memory: however the bytes are cut, the same
//! happens; and whatever a peer sends, it is refused as the document says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, that is how a failure is told"
)]

mod storage;

use std::time::Duration;

use ftx_protocol::client::{Client, Event as Heard, Violation};
use ftx_protocol::limits;
use ftx_protocol::message::{Cache, Get, Limits, List, Put, Resume, Stat};
use ftx_protocol::server::{Output, Reason, Server, Settings};
use ftx_protocol::{
    Algorithm, Code, Condition, Depth, Durability, Name, RequestId, Time, TransferId,
};

use storage::{Storage, digest};

const HEADER: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(60);

fn settings() -> Settings {
    Settings {
        agent: String::new(),
        features: vec!["sha256".into()],
        limits: Limits::default(),
        requests_total_max: ftx_protocol::limits::REQUESTS_TOTAL,
        header_timeout: HEADER,
        idle_timeout: IDLE,
    }
}

/// A server's machine with its storage, driven as a connection would.
struct Driven {
    machine: Server,
    storage: Storage,
    said: Vec<u8>,
    now: Time,
}

impl Driven {
    fn new() -> Self {
        let machine = Server::new(settings(), Time(0));
        Self { machine, storage: Storage::default(), said: Vec::new(), now: Time(0) }
    }

    fn greeted() -> Self {
        let mut driven = Self::new();
        driven.hear(b"{\"hello\":{\"ftx\":1}}\n");
        driven.said.clear();
        driven
    }

    fn hear(&mut self, input: &[u8]) {
        self.machine.receive(input, self.now);
        self.storage.carry_out(&mut self.machine, input, self.now);
        self.speak();
    }

    /// All of it, of which the machine has a stretch at a time; returns how many lines it found.
    fn hear_in_stretches(&mut self, input: &[u8], step: usize) -> usize {
        let mut lines = 0;
        for from in (0..input.len()).step_by(step) {
            let to = input.len().min(from + step);
            lines += self.machine.receive_behind(from, &input[..to], self.now);
        }
        self.storage.carry_out(&mut self.machine, input, self.now);
        self.speak();
        lines
    }

    fn speak(&mut self) {
        loop {
            let count = match self.machine.output(self.now) {
                Output::Bytes(bytes) => {
                    self.said.extend_from_slice(bytes);
                    bytes.len() as u64
                }
                Output::File { id, at, size } => {
                    let bytes = self.storage.read(id, at, size);
                    self.said.extend_from_slice(&bytes);
                    size
                }
                Output::Zeros(count) => {
                    self.said.extend(std::iter::repeat_n(0, count as usize));
                    count
                }
                Output::Nothing | Output::Shutdown => return,
            };
            self.machine.wrote(count, self.now);
            self.storage.carry_out(&mut self.machine, b"", self.now);
        }
    }

    /// The codes of the errors that were said, with their ids.
    fn errors(&self) -> Vec<(Option<u64>, String)> {
        String::from_utf8_lossy(&self.said)
            .lines()
            .filter_map(|line| {
                serde_json::from_str::<serde_json::Value>(line.trim_start_matches('\0')).ok()
            })
            .filter_map(|line| {
                let error = line.get("error")?;
                Some((error["id"].as_u64(), error["code"].as_str()?.to_owned()))
            })
            .collect()
    }

    fn last_error(&self) -> Option<(Option<u64>, String)> {
        self.errors().pop()
    }
}

fn put_line(id: u64, name: &str, size: u64) -> String {
    format!(
        "{{\"put\":{{\"id\":{id},\"name\":\"{name}\",\"digest\":\"sha256\",\"size\":{size},\
         \"transfer\":\"000000000000000000000000000000{id:02x}\"}}}}\n"
    )
}

fn data(id: u64, at: u64, bytes: &str) -> String {
    format!("{{\"data\":{{\"id\":{id},\"at\":{at},\"size\":{}}}}}\n{bytes}", bytes.len())
}

fn end(id: u64, content: &str) -> String {
    format!(
        "{{\"end\":{{\"id\":{id},\"size\":{},\"digest\":\"{}\"}}}}\n",
        content.len(),
        digest(content.as_bytes())
    )
}

fn whole_put(id: u64, name: &str, content: &str) -> String {
    put_line(id, name, content.len() as u64) + &data(id, 0, content) + &end(id, content)
}

fn get_line(id: u64, name: &str) -> String {
    format!("{{\"get\":{{\"id\":{id},\"name\":\"{name}\",\"digest\":\"sha256\"}}}}\n")
}

/// A session with everything in it.
fn session() -> String {
    [
        "{\"hello\":{\"ftx\":1,\"agent\":\"t\"}}\n".to_owned(),
        whole_put(1, "a", "hello"),
        get_line(2, "a"),
        "{\"stat\":{\"id\":3,\"name\":\"a\"}}\n{\"ping\":{\"id\":4}}\n{\"fly\":{\"id\":5}}\n"
            .to_owned(),
        put_line(6, "../no", 3),
        data(6, 0, "abc"),
        end(6, "abc"),
        put_line(7, "b", 3),
        data(7, 0, "ab"),
        "{\"abort\":{\"id\":7,\"code\":\"aborted\"}}\n".to_owned(),
        whole_put(8, "a", "again"),
        get_line(9, "nothing"),
        "{\"resume\":{\"id\":10,\"transfer\":\"00000000000000000000000000000001\"}}\n".to_owned(),
        whole_put(11, "empty", ""),
    ]
    .concat()
}

#[test]
fn a_session_is_the_same_however_its_bytes_are_cut() {
    let session = session();
    let bytes = session.as_bytes();
    let run = |hear: &dyn Fn(&mut Driven)| {
        let mut driven = Driven::new();
        hear(&mut driven);
        driven.machine.receive_end(driven.now);
        driven.storage.carry_out(&mut driven.machine, b"", driven.now);
        driven.speak();
        assert_eq!(driven.machine.closed(), Some(Reason::Finished));
        // Final replies come in any order.
        let said = String::from_utf8(driven.said).unwrap().replace("hello{", "hello\n{");
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort();
        (lines, driven.storage.files)
    };
    let whole = run(&|driven| driven.hear(bytes));
    assert_eq!(whole.1.len(), 2, "{whole:?}");
    assert_eq!(whole.0.iter().filter(|line| line.contains("\"done\"")).count(), 3, "{whole:?}");
    for cut in 0..=bytes.len() {
        let hear = |driven: &mut Driven| {
            driven.hear(&bytes[..cut]);
            driven.hear(&bytes[cut..]);
        };
        assert_eq!(run(&hear), whole, "cut at {cut}");
    }
    for step in [1, 2, 3, 7] {
        let hear = |driven: &mut Driven| bytes.chunks(step).for_each(|piece| driven.hear(piece));
        assert_eq!(run(&hear), whole, "in steps of {step}");
    }
    let lines = session.matches('\n').count();
    for step in [1, 2, 3, 7, 100, bytes.len()] {
        let hear = |driven: &mut Driven| {
            let heard = driven.hear_in_stretches(bytes, step);
            assert!(heard == lines || (heard > lines && step < bytes.len()), "{heard}");
        };
        assert_eq!(run(&hear), whole, "in stretches of {step}");
    }
}

#[test]
fn a_peer_may_close_at_any_byte_and_nothing_half_is_named() {
    let session = session();
    for end in 0..session.len() {
        let mut driven = Driven::new();
        driven.hear(&session.as_bytes()[..end]);
        driven.machine.receive_end(driven.now);
        driven.storage.carry_out(&mut driven.machine, b"", driven.now);
        driven.speak();
        driven.machine.on_time(driven.now.after(limits::LINGER));
        assert!(driven.machine.closed().is_some(), "closed at {end}");
        assert_eq!(driven.machine.requests(), 0);
        assert!(driven.storage.open_puts() == 0, "something is left open at {end}");
        for (name, content) in &driven.storage.files {
            assert!(["hello", "again", ""].contains(&content.as_str()), "{name}: {content}");
        }
    }
}

#[test]
fn requests_on_one_name_take_effect_in_the_order_in_which_they_were_sent() {
    let mut driven = Driven::greeted();
    driven.storage.holds_commits = true;
    let lines = [
        whole_put(1, "d/a", "one"),
        get_line(2, "d/a"),
        "{\"stat\":{\"id\":3,\"name\":\"d\"}}\n".to_owned(),
        whole_put(4, "d/a", "two2"),
        whole_put(5, "other", "x"),
        get_line(6, "d/a"),
    ];
    driven.hear(lines.concat().as_bytes());
    assert_eq!(driven.storage.held_commits(), [1, 5], "what does not overlap goes on");
    assert_eq!(driven.storage.opened, Vec::<u64>::new());
    driven.storage.holds_commits = false;
    driven.storage.release_commits(&mut driven.machine, driven.now);
    driven.speak();
    let said = String::from_utf8(driven.said.clone()).unwrap();
    assert!(said.contains("\"size\":3,\"at\":0"), "the first get sees the first put: {said}");
    assert!(said.contains("\"size\":4,\"at\":0"), "the second get sees the second put: {said}");
    assert!(said.find("one{").unwrap() < said.find("two2{").unwrap());
}

#[test]
fn thousands_of_requests_that_wait_for_one_name_are_charged_and_all_answered() {
    let mut driven = Driven::greeted();
    driven.hear(put_line(1, "d", 5).as_bytes());
    let deep = ["d"; limits::NAME_PARTS].join(&format!("/{}", "d".repeat(7)));
    for id in 2..=2_001 {
        driven.hear(format!("{{\"stat\":{{\"id\":{id},\"name\":\"{deep}\"}}}}\n").as_bytes());
    }
    assert!(driven.said.is_empty(), "they wait for the put");
    assert!(driven.machine.held_bytes() > 2_000 * deep.len(), "their names are not free");
    driven.hear((data(1, 0, "hello") + &end(1, "hello")).as_bytes());
    assert_eq!(driven.errors().len(), 2_000, "not_found, each");
    assert_eq!((driven.machine.requests(), driven.machine.held_bytes()), (0, 0));
}

#[test]
fn few_files_are_open_at_once_however_many_gets_are_asked_for() {
    let mut driven = Driven::greeted();
    driven.storage.files.insert("a".into(), "content".into());
    let gets: String = (1..=500).map(|id| get_line(id, "a")).collect();
    driven.machine.receive(gets.as_bytes(), driven.now);
    driven.storage.carry_out(&mut driven.machine, gets.as_bytes(), driven.now);
    assert_eq!(driven.storage.opened.len(), limits::GETS_OPEN);
    driven.speak();
    assert_eq!(driven.storage.opened.len(), 500);
    assert_eq!(String::from_utf8_lossy(&driven.said).matches("\"end\"").count(), 500);
}

#[test]
fn who_was_waiting_for_the_server_has_all_of_its_time_when_the_answer_has_come() {
    let mut driven = Driven::greeted();
    driven.storage.holds_commits = true;
    driven.hear(whole_put(1, "a", "hello").as_bytes());
    driven.machine.starving(driven.now);
    driven.now = driven.now.after(IDLE * 3);
    driven.storage.release_commits(&mut driven.machine, driven.now);
    driven.speak();
    driven.machine.on_time(driven.now);
    assert!(driven.errors().is_empty());
    assert_eq!(driven.machine.deadline(), Some(driven.now.after(IDLE)));
}

#[test]
fn no_clock_runs_while_a_client_may_not_send_more_before_more_is_kept() {
    let mut driven = Driven::greeted();
    driven.hear(put_line(1, "a", 2 * limits::UNKEPT_BYTES).as_bytes());
    let part = "x".repeat(limits::PART_BYTES as usize);
    for number in 0..limits::UNKEPT_BYTES / limits::PART_BYTES {
        driven.hear(data(1, number * limits::PART_BYTES, &part).as_bytes());
    }
    driven.machine.starving(driven.now);
    driven.now = driven.now.after(IDLE * 3);
    driven.machine.on_time(driven.now);
    driven.speak();
    assert!(driven.errors().is_empty());
    let kept = ftx_protocol::message::Kept { id: RequestId(1), at: limits::GRID_BYTES };
    driven.machine.handle(ftx_protocol::server::Event::Kept(kept), driven.now);
    driven.speak();
    driven.now = driven.now.after(IDLE);
    driven.machine.on_time(driven.now);
    driven.speak();
    assert_eq!(driven.last_error(), Some((None, "timeout".into())), "now it is the client's turn");
}

#[test]
fn broken_rules_end_the_connection_with_their_code() {
    let many: String = (1..=4_097).map(|id| get_line(id, "a")).collect();
    for (lines, code) in [
        ("nonsense\n".to_owned(), Code::BadMessage),
        ("{\"hello\":{\"ftx\":1}}\n".to_owned(), Code::BadHello),
        ("x".repeat(limits::LINE_BYTES), Code::LineTooLong),
        ("{\"ping\":{\"id\":3}}\n{\"ping\":{\"id\":3}}\n".to_owned(), Code::BadId),
        ("{\"ping\":{\"id\":3}}\n{\"ping\":{\"id\":2}}\n".to_owned(), Code::BadId),
        (put_line(1, "a", 5) + &put_line(2, "b", 5), Code::BadMessage),
        (many, Code::TooManyRequests),
    ] {
        let mut driven = Driven::greeted();
        driven.storage.holds_opens = true;
        driven.hear(lines.as_bytes());
        assert_eq!(driven.last_error(), Some((None, code.to_string())), "{lines:.80}");
        // It stays failed, whatever comes, and is over soon.
        driven.hear(whole_put(9, "z", "z").as_bytes());
        assert!(driven.storage.files.is_empty());
        assert_eq!(driven.machine.output(driven.now), Output::Shutdown);
        driven.machine.on_time(driven.now.after(limits::LINGER));
        assert_eq!(driven.machine.closed(), Some(Reason::Failed(code)));
    }
}

#[test]
fn what_lies_about_its_size_is_refused_and_the_connection_goes_on() {
    let long = format!("{{\"data\":{{\"id\":1,\"at\":0,\"size\":{}}}}}\n", limits::PART_BYTES + 1)
        + &"x".repeat(limits::PART_BYTES as usize + 1);
    for (lines, code) in [
        (put_line(1, "a", 5) + &data(1, 0, "hello!"), Code::BadPart),
        (put_line(1, "a", 5) + &data(1, 2, "hel"), Code::BadPart),
        (put_line(1, "a", 5) + &data(1, 0, "hel") + &data(1, 2, "lo"), Code::BadPart),
        (put_line(1, "a", 9_000_000) + &long, Code::BadPart),
        (put_line(1, "a", 5) + &data(1, 0, "hel") + &end(1, "hel"), Code::SizeMismatch),
        (put_line(1, "a", 5) + &data(1, 0, "hello") + &end(1, "he"), Code::SizeMismatch),
        (put_line(1, "a", 5) + &data(1, 0, "hello") + &end(1, "jello"), Code::DigestMismatch),
    ] {
        let mut driven = Driven::greeted();
        driven.hear(lines.as_bytes());
        driven.hear(end(1, "hello").as_bytes());
        driven.hear(b"{\"ping\":{\"id\":2}}\n");
        assert_eq!(driven.errors(), [(Some(1), code.to_string())], "{lines:.200}");
        assert!(String::from_utf8_lossy(&driven.said).ends_with("{\"pong\":{\"id\":2}}\n"));
        assert!(driven.storage.files.is_empty());
        assert_eq!(driven.storage.open_puts(), 0);
    }
}

#[test]
fn bytes_that_nobody_wants_are_thrown_away_up_to_a_bound() {
    let mut driven = Driven::greeted();
    let part = vec![0; limits::PART_BYTES as usize];
    let mut sent = 0;
    while driven.errors().is_empty() {
        let header = format!("{{\"data\":{{\"id\":1,\"at\":{sent},\"size\":{}}}}}\n", part.len());
        driven.hear(header.as_bytes());
        driven.hear(&part);
        sent += part.len() as u64;
        assert!(sent <= limits::DISCARD_BYTES + limits::PART_BYTES);
    }
    assert_eq!(driven.last_error(), Some((None, Code::TooMuchDiscarded.to_string())));
    assert!(sent > limits::DISCARD_BYTES);
}

/// A get of which 4 bytes of 10 were sent when the file could not be read any more.
fn inside_zeros() -> Driven {
    let mut driven = Driven::greeted();
    driven.storage.files.insert("a".into(), "0123456789".into());
    driven.machine.receive(get_line(1, "a").as_bytes(), driven.now);
    driven.storage.carry_out(&mut driven.machine, b"", driven.now);
    while let Output::Bytes(bytes) = driven.machine.output(driven.now) {
        let count = bytes.len() as u64;
        driven.machine.wrote(count, driven.now);
    }
    assert_eq!(
        driven.machine.output(driven.now),
        Output::File { id: RequestId(1), at: 0, size: 10 }
    );
    driven.machine.wrote(4, driven.now);
    let refusal = Code::Changed.into();
    let event = ftx_protocol::server::Event::Refused { id: RequestId(1), refusal };
    driven.machine.handle(event, driven.now);
    assert_eq!(driven.machine.output(driven.now), Output::Zeros(6));
    driven
}

#[test]
fn a_read_that_fails_inside_a_part_is_filled_with_zeros_and_then_said() {
    let mut driven = inside_zeros();
    driven.speak();
    assert_eq!(driven.errors(), [(Some(1), "changed".into())]);
    assert!(!String::from_utf8_lossy(&driven.said).contains("\"end\""));
}

/// Rule 5.6: what follows zeros without an id would make bytes of the file of them.
#[test]
fn a_connection_that_fails_inside_zeros_ends_inside_them() {
    let mut driven = inside_zeros();
    driven.machine.wrote(2, driven.now);
    driven.machine.fail(Code::ShuttingDown.into(), driven.now);
    assert_eq!(driven.machine.output(driven.now), Output::Shutdown);
    assert_eq!(driven.machine.closed(), Some(Reason::Failed(Code::ShuttingDown)));
}

/// Rule 4.10: it is torn, and what came before is answered all the same.
#[test]
fn replies_that_wait_are_said_to_whoever_ends_inside_a_line() {
    let mut driven = Driven::greeted();
    driven.machine.receive(b"{\"ping\":{\"id\":1}}\n{\"ping\"", driven.now);
    driven.machine.receive_end(driven.now);
    driven.speak();
    assert!(String::from_utf8_lossy(&driven.said).ends_with("{\"pong\":{\"id\":1}}\n"));
}

/// What was said of each request, in its order, with the bytes of its parts.
fn lines_of_each_get(said: &[u8]) -> std::collections::BTreeMap<u64, Vec<u8>> {
    let mut of_each = std::collections::BTreeMap::<u64, Vec<u8>>::new();
    let mut rest = said;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line: serde_json::Value = serde_json::from_slice(&rest[..end]).unwrap();
        let (word, message) = line.as_object().unwrap().iter().next().unwrap();
        let body = if word == "data" { message["size"].as_u64().unwrap() as usize } else { 0 };
        let (whole, later) = rest.split_at(end + 1 + body);
        of_each.entry(message["id"].as_u64().unwrap()).or_default().extend_from_slice(whole);
        rest = later;
    }
    assert!(rest.is_empty());
    of_each
}

#[test]
fn a_file_that_comes_whole_is_said_as_one_that_comes_part_by_part() {
    let said = |whole_bytes| {
        let mut driven = Driven::greeted();
        driven.storage.whole_bytes = whole_bytes;
        for (name, size) in [("a", 10), ("b", 0), ("c", 3_000), ("d", 7)] {
            driven.storage.files.insert(name.into(), name.repeat(size));
        }
        let names = ["a", "b", "c", "d", "nothing", "c", "a", "b", "d"];
        let gets: String = (1..).zip(names).map(|(id, name)| get_line(id, name)).collect();
        driven.hear(gets.as_bytes());
        driven.speak();
        assert_eq!(driven.machine.requests(), 0);
        assert_eq!(driven.machine.held_bytes(), 0);
        lines_of_each_get(&driven.said)
    };
    let expected = said(None);
    assert_eq!(said(Some(usize::MAX)), expected);
    // Some whole, some not: the whole ones wait for their turn.
    assert_eq!(said(Some(100)), expected);
    assert_eq!(said(Some(0)), expected);
}

#[test]
fn a_file_that_did_not_come_whole_is_refused() {
    let mut driven = Driven::greeted();
    driven.storage.holds_opens = true;
    driven.hear(get_line(1, "a").as_bytes());
    let file = ftx_protocol::message::File {
        id: RequestId(1),
        size: 5,
        at: 0,
        version: ftx_protocol::Version::of_hash(&[0; 32]),
        mtime: ftx_protocol::FileTime::nearest(1, 0),
        mode: ftx_protocol::Mode::new(0o644),
    };
    let (bytes, digest) = (b"four".to_vec(), storage::digest(b"four"));
    let event = ftx_protocol::server::Event::Whole { file, bytes, digest, spent: None };
    driven.machine.handle(event, driven.now);
    driven.speak();
    assert_eq!(driven.errors(), [(Some(1), "storage_failed".into())]);
}

#[test]
fn an_aborted_get_ends_at_the_border_of_its_part() {
    let mut driven = Driven::greeted();
    let content = "x".repeat(3 * limits::PART_BYTES as usize);
    driven.storage.files.insert("a".into(), content);
    driven.machine.receive(get_line(1, "a").as_bytes(), driven.now);
    driven.storage.carry_out(&mut driven.machine, b"", driven.now);
    while let Output::Bytes(bytes) = driven.machine.output(driven.now) {
        let count = bytes.len() as u64;
        driven.machine.wrote(count, driven.now);
    }
    driven.machine.wrote(10, driven.now);
    driven.hear(b"{\"abort\":{\"id\":1,\"code\":\"aborted\"}}\n{\"ping\":{\"id\":2}}\n");
    assert_eq!(driven.errors(), [(Some(1), "aborted".into())]);
    assert!(driven.said.len() < 2 * limits::PART_BYTES as usize, "one part, and no more");
    assert!(
        driven.said.ends_with(b"{\"pong\":{\"id\":2}}\n")
            || driven.said.windows(8).any(|w| w == b"{\"pong\":")
    );
    assert_eq!(driven.machine.requests(), 0);
}

#[test]
fn each_clock_ends_who_stalls_and_nobody_who_waits_for_the_server() {
    let after = |duration: Duration| Time(0).after(duration);
    // No hello.
    let mut driven = Driven::new();
    driven.hear(b"{\"hel");
    driven.machine.starving(driven.now);
    assert_eq!(driven.machine.deadline(), Some(after(HEADER)));
    driven.now = after(HEADER);
    driven.machine.on_time(driven.now);
    driven.speak();
    assert_eq!(driven.last_error(), Some((None, "timeout".into())));
    for (sent, patience) in [
        // A line that was begun, a body that was begun, a part that was begun, nothing at all.
        ("{\"ping".to_owned(), HEADER),
        (put_line(1, "a", 5), IDLE),
        (put_line(1, "a", 5) + "{\"data\":{\"id\":1,\"at\":0,\"size\":5}}\nhe", IDLE),
        (String::new(), IDLE),
    ] {
        let mut driven = Driven::greeted();
        driven.hear(sent.as_bytes());
        driven.machine.starving(driven.now);
        let mut signs = 0;
        while driven.errors().is_empty() {
            driven.now = driven.machine.deadline().unwrap();
            driven.machine.on_time(driven.now);
            driven.speak();
            signs += 1;
        }
        assert_eq!(driven.now, after(patience), "{sent}");
        assert_eq!(driven.last_error(), Some((None, "timeout".into())));
        assert!(signs <= 13, "alive every 5 s at most");
    }
    // A part that trickles, a byte each second, is ended although it is never quiet for long.
    let mut driven = Driven::greeted();
    driven.hear(
        (put_line(1, "a", 100_000) + "{\"data\":{\"id\":1,\"at\":0,\"size\":100000}}\n").as_bytes(),
    );
    while driven.errors().is_empty() {
        driven.now = driven.now.after(Duration::from_secs(1));
        driven.hear(b"x");
        driven.machine.starving(driven.now);
        driven.machine.on_time(driven.now);
        driven.speak();
    }
    assert!(driven.now <= after(IDLE + Duration::from_secs(100)), "{:?}", driven.now);
    // While the server owes, it says that it lives, and times nobody.
    let mut driven = Driven::greeted();
    driven.storage.holds_commits = true;
    driven.hear(whole_put(1, "a", "hello").as_bytes());
    driven.machine.starving(driven.now);
    for _ in 0..100 {
        driven.now = driven.machine.deadline().unwrap();
        driven.machine.on_time(driven.now);
        driven.speak();
    }
    assert_eq!(driven.now, after(limits::ALIVE_EVERY * 100));
    assert!(driven.errors().is_empty());
    assert_eq!(String::from_utf8_lossy(&driven.said).matches("\"alive\"").count(), 100);
    // Who does not read is ended.
    driven.machine.blocked(driven.now);
    driven.now = driven.now.after(IDLE);
    driven.machine.on_time(driven.now);
    assert!(driven.machine.deadline().is_some(), "it lingers, and no longer");
    driven.now = driven.now.after(limits::LINGER);
    driven.machine.on_time(driven.now);
    assert_eq!(driven.machine.closed(), Some(Reason::Failed(Code::Timeout)));
}

#[test]
fn a_server_that_stops_finishes_what_runs_and_takes_nothing_new() {
    let mut driven = Driven::greeted();
    driven.hear((put_line(1, "a", 5) + &data(1, 0, "hel")).as_bytes());
    driven.machine.shut_down(driven.now);
    driven.speak();
    driven.hear((data(1, 3, "lo") + &get_line(2, "a") + &end(1, "hello")).as_bytes());
    // `end` came behind the refused get; the put is done all the same.
    assert_eq!(driven.storage.files.get("a").map(String::as_str), Some("hello"));
    assert_eq!(
        driven.errors(),
        [(Some(2), "shutting_down".to_owned()), (None, "shutting_down".to_owned())]
    );
    assert_eq!(driven.machine.output(driven.now), Output::Shutdown);
    for mut driven in [Driven::new(), Driven::greeted()] {
        driven.machine.shut_down(driven.now);
        driven.speak();
        assert_eq!(driven.last_error(), Some((None, "shutting_down".into())));
    }
}

#[test]
fn other_protocols_are_told_by_their_first_byte() {
    for (first, answer, reason) in [
        (&b"\x16\x03\x01"[..], &b"\x15\x03\x01\x00\x02\x02\x46"[..], Reason::Foreign),
        (b"GET / HTTP/1.1\r\n", b"HTTP/1.1 505 ", Reason::Foreign),
        (b"\xff", b"{\"error\":{\"code\":\"bad_message\"", Reason::Failed(Code::BadMessage)),
    ] {
        let mut driven = Driven::new();
        driven.hear(first);
        assert!(driven.said.starts_with(answer), "{:?}", driven.said);
        driven.machine.on_time(driven.now.after(limits::LINGER));
        assert_eq!(driven.machine.closed(), Some(reason));
    }
}

#[test]
fn no_bytes_whatever_make_a_machine_panic() {
    let session = session();
    let mut random: u64 = 7;
    let mut next = move |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % below
    };
    for _ in 0..3_000 {
        let mut bytes = session.clone().into_bytes();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = next(256) as u8,
                1 => drop(bytes.drain(at..(at + next(30)).min(bytes.len()))),
                2 => bytes.insert(at, next(256) as u8),
                _ => {
                    let copy = bytes[at..(at + next(60)).min(bytes.len())].to_vec();
                    let to = next(bytes.len() + 1);
                    bytes.splice(to..to, copy);
                }
            }
        }
        let mut driven = Driven::new();
        let cut = next(bytes.len() + 1);
        driven.hear(&bytes[..cut]);
        driven.hear(&bytes[cut..]);
        driven.machine.receive_end(driven.now);
        driven.storage.carry_out(&mut driven.machine, b"", driven.now);
        driven.speak();
        driven.machine.on_time(driven.now.after(limits::LINGER));
        assert!(driven.machine.closed().is_some());
        // The same bytes as if a server had said them.
        let mut out = Vec::new();
        let mut client = Client::new("", None, &mut out, Time(0));
        client.ping(&mut out, Time(0));
        let _ = client.receive(&bytes, Time(0));
    }
}

fn name(text: &str) -> Name {
    Name::parse(text.as_bytes()).unwrap()
}

fn put_request(at: u64) -> Put {
    Put {
        id: RequestId(0),
        name: name("a"),
        digest: Algorithm::Sha256,
        size: Some(5),
        at,
        transfer: TransferId([1; 16]),
        mtime: None,
        mode: None,
        condition: Condition::Always,
        durability: Durability::Full,
        need: Vec::new(),
    }
}

const WELCOME: &str = "{\"welcome\":{\"ftx\":1,\"features\":[\"sha256\"],\"limits\":{}}}\n";

#[test]
fn a_client_believes_no_lie() {
    let hello = digest(b"hello");
    let jello = digest(b"jello");
    let file = "{\"file\":{\"id\":2,\"size\":5,\"at\":0,\"version\":\"v\",\"mtime\":[1,0],\"mode\":420}}\n";
    let done = |size: u64, digest: &dyn std::fmt::Display| {
        format!(
            "{{\"done\":{{\"id\":1,\"size\":{size},\"digest\":\"{digest}\",\"durability\":\"full\"}}}}\n"
        )
    };
    for (lie, expected) in [
        ("{\"pong\":{\"id\":3}}\n".to_owned(), None),
        (done(5, &hello), None),
        (done(5, &jello), Some("acknowledged")),
        (done(6, &hello), Some("acknowledged")),
        (done(5, &hello).replace("full", "none"), Some("durability none")),
        (done(5, &hello).replace("full", "memory"), None),
        (done(5, &hello).replace("}}", ",\"name\":\"a-1\"}}"), None),
        (done(5, &hello).replace("}}", ",\"name\":\"evil\"}}"), Some("with a number")),
        ("{\"pong\":{\"id\":9}}\n".to_owned(), Some("may not")),
        ("{\"done\":{}}\n".to_owned(), Some("does not speak")),
        (WELCOME.to_owned(), Some("may not")),
        ("{\"held\":{\"id\":4,\"state\":\"partial\",\"ranges\":[]}}\n".to_owned(), Some("ranges")),
        (file.replace("\"at\":0", "\"at\":1"), Some("elsewhere")),
        (file.to_owned() + "{\"data\":{\"id\":2,\"at\":1,\"size\":2}}\n", Some("does not follow")),
        (file.to_owned() + "{\"data\":{\"id\":2,\"at\":0,\"size\":6}}\n", Some("does not follow")),
        (
            file.to_owned()
                + &format!("{{\"end\":{{\"id\":2,\"size\":5,\"digest\":\"{hello}\"}}}}\n"),
            Some("missing"),
        ),
        ("{\"later\":{\"id\":1}}\n".to_owned(), None),
        ("{\"kept\":{\"id\":1,\"at\":8388608}}\n".to_owned(), None),
    ] {
        let mut out = Vec::new();
        let mut client = Client::new("", None, &mut out, Time(0));
        let put = client.put(put_request(0), &mut out, Time(0));
        client.data(put, 5, &mut out);
        client.end(put, 5, hello, &mut out);
        let get = Get {
            id: RequestId(0),
            name: name("a"),
            digest: Algorithm::Sha256,
            at: 0,
            version: None,
            cache: Cache::Use,
            need: Vec::new(),
        };
        client.get(get, &mut out, Time(0));
        client.ping(&mut out, Time(0));
        let resume = Resume { id: RequestId(0), transfer: TransferId([1; 16]), need: Vec::new() };
        client.resume(resume, &mut out, Time(0));
        let heard = client.receive((WELCOME.to_owned() + &lie).as_bytes(), Time(0));
        match (heard, expected) {
            (Ok(()), None) => {}
            (Err(violation), Some(part)) => {
                assert!(violation.to_string().contains(part), "{lie}: {violation}");
            }
            (heard, expected) => panic!("{lie}: {heard:?}, not {expected:?}"),
        }
    }
    // A promise of bytes that were not sent.
    let mut out = Vec::new();
    let mut client = Client::new("", None, &mut out, Time(0));
    let put = client.put(put_request(0), &mut out, Time(0));
    client.data(put, 5, &mut out);
    let lie = WELCOME.to_owned() + "{\"kept\":{\"id\":1,\"at\":6}}\n";
    assert!(matches!(
        client.receive(lie.as_bytes(), Time(0)),
        Err(Violation::Contradiction { .. })
    ));
}

#[test]
fn a_client_waits_half_a_minute_for_a_silent_server_and_only_if_it_owes() {
    let mut out = Vec::new();
    let mut client = Client::new("", None, &mut out, Time(0));
    client.receive(WELCOME.as_bytes(), Time(5)).unwrap();
    assert_eq!(client.deadline(), None);
    client.ping(&mut out, Time(1_000_000));
    assert_eq!(client.on_time(Time(1_029_999)), Ok(()));
    assert_eq!(client.on_time(Time(1_030_000)), Err(Violation::Silence));
    client.receive(b"{\"alive\":{}}\n", Time(1_029_000)).unwrap();
    assert_eq!(client.on_time(Time(1_030_000)), Ok(()));
    assert_eq!(client.receive_end(), Err(Violation::Closed));
}

#[test]
fn a_refusal_that_crosses_the_body_reaches_the_client_and_nothing_more_is_sent() {
    let mut out = Vec::new();
    let mut client = Client::new("", None, &mut out, Time(0));
    let put = client.put(put_request(0), &mut out, Time(0));
    assert_eq!(client.window_bytes(put), limits::UNKEPT_BYTES);
    let refusal = WELCOME.to_owned() + "{\"error\":{\"id\":1,\"code\":\"no_space\"}}\n";
    client.receive(refusal.as_bytes(), Time(0)).unwrap();
    assert_eq!(client.data(put, 5, &mut out), None);
    let events: Vec<Heard> = std::iter::from_fn(|| client.poll_event()).collect();
    assert!(
        matches!(&events[..], [Heard::Welcome(_), Heard::Refused { refusal, .. }] if refusal.code == Code::NoSpace)
    );
    client.abort(put, Code::Aborted, &mut out);
    assert_eq!(client.requests(), 0);
}

/// Both machines, and everything that a client can ask.
#[test]
fn both_machines_understand_each_other_in_every_operation() {
    let mut driven = Driven::new();
    let mut out = Vec::new();
    let mut client = Client::new("joined", None, &mut out, Time(0));
    let put = client.put(put_request(0), &mut out, Time(0));
    client.data(put, 5, &mut out);
    out.extend_from_slice(b"hello");
    client.end(put, 5, digest(b"hello"), &mut out);
    client.stat(Stat::of(name("a")), &mut out, Time(0));
    let get = Get {
        id: RequestId(0),
        name: name("a"),
        digest: Algorithm::Sha256,
        at: 2,
        version: None,
        cache: Cache::Bypass,
        need: Vec::new(),
    };
    client.get(get, &mut out, Time(0));
    let resume = Resume { id: RequestId(0), transfer: TransferId([1; 16]), need: Vec::new() };
    client.resume(resume, &mut out, Time(0));
    client.ping(&mut out, Time(0));
    driven.hear(&out);
    let mut body = Vec::new();
    let mut heard = Vec::new();
    for byte in driven.said.chunks(1) {
        client.receive(byte, Time(0)).unwrap();
        while let Some(event) = client.poll_event() {
            match event {
                Heard::Body { bytes, .. } => body.extend_from_slice(&byte[bytes]),
                event => {
                    heard.push(format!("{event:?}").split(['(', ' ']).next().unwrap().to_owned())
                }
            }
        }
    }
    heard.sort();
    assert_eq!(heard, ["Done", "End", "File", "Held", "Info", "Pong", "Welcome"]);
    assert_eq!(body, b"llo");
    assert_eq!(client.requests(), 0);
    assert_eq!(client.receive_end(), Ok(()));
}

fn list_line(id: u64, name: &str) -> String {
    format!("{{\"list\":{{\"id\":{id},\"name\":\"{name}\",\"depth\":\"all\"}}}}\n")
}

fn count(said: &[u8], word: &str) -> usize {
    String::from_utf8_lossy(said).matches(word).count()
}

/// A server whose directory `d` has so many files.
fn with_files(files: u64) -> Driven {
    let mut driven = Driven::greeted();
    for number in 1..=files {
        driven.hear(whole_put(number, &format!("d/{number:03}"), "x").as_bytes());
    }
    driven.said.clear();
    driven
}

#[test]
fn a_list_goes_on_only_as_its_client_asks_for_more_and_is_timed_only_then() {
    let ahead = limits::ENTRIES_AHEAD as usize;
    let mut driven = with_files(20);
    driven.hear(list_line(100, "d").as_bytes());
    assert_eq!(count(&driven.said, "entries\":{"), ahead);
    waits_for_its_client(&mut driven);
    for more in 1..=4 {
        driven.hear(b"{\"more\":{\"id\":100}}\n");
        assert_eq!(count(&driven.said, "entries\":{"), ahead + more);
    }
    assert_eq!(count(&driven.said, "{\"ok\":{\"id\":100}}"), 0);
    driven.hear(b"{\"more\":{\"id\":100}}\n{\"more\":{\"id\":100}}\n");
    assert_eq!(count(&driven.said, "{\"ok\":{\"id\":100}}"), 1);
    assert_eq!(driven.machine.requests(), 0);
}

#[test]
fn what_waits_for_a_list_that_is_not_asked_to_go_on_does_not_stop_the_clock() {
    let mut driven = with_files(20);
    for id in 100..=101 {
        driven.hear(list_line(id, "d").as_bytes());
    }
    driven.hear(b"{\"stat\":{\"id\":102,\"name\":\"d\"}}\n");
    driven.hear(whole_put(103, "d/new", "x").as_bytes());
    driven.hear(b"{\"list\":{\"id\":104}}\n");
    assert_eq!(driven.machine.requests(), 5);
    waits_for_its_client(&mut driven);
    driven.machine.on_time(Time(0).after(IDLE));
    driven.speak();
    assert_eq!(count(&driven.said, "\"code\":\"timeout\""), 1);
}

/// For as long as one is waited for, and not for ever.
fn waits_for_its_client(driven: &mut Driven) {
    driven.machine.starving(driven.now);
    let mut deadline = driven.machine.deadline().unwrap();
    while deadline < Time(0).after(IDLE) {
        driven.now = deadline;
        driven.machine.on_time(deadline);
        driven.speak();
        deadline = driven.machine.deadline().unwrap();
    }
    assert_eq!(deadline, Time(0).after(IDLE), "it waits for the client, and not for ever");
}

#[test]
fn a_client_that_sends_no_more_gets_the_rest_of_its_list() {
    let mut driven = with_files(40);
    driven.hear(list_line(100, "d").as_bytes());
    driven.machine.receive_end(driven.now);
    driven.storage.carry_out(&mut driven.machine, b"", driven.now);
    driven.speak();
    assert_eq!(count(&driven.said, "entries\":{"), 40);
    assert_eq!(driven.machine.closed(), Some(Reason::Finished));
}

#[test]
fn a_list_that_is_aborted_ends_and_the_next_one_begins() {
    let mut driven = with_files(20);
    let lines = list_line(100, "d") + &list_line(101, "d");
    driven.hear((lines + "{\"abort\":{\"id\":100,\"code\":\"aborted\"}}\n").as_bytes());
    assert_eq!(driven.last_error(), Some((Some(100), "aborted".into())));
    assert!(count(&driven.said, "{\"entries\":{\"id\":101,") > 0);
    assert_eq!(count(&driven.said, "{\"ok\":{\"id\":100}}"), 0);
    // Those that no story of the simulation goes along.
    let missing = driven.machine.edges_taken().missing();
    assert!(!missing.iter().any(|edge| edge.starts_with("ask e") || edge == "ask abort"));
}

#[test]
fn changes_of_names_wait_for_what_was_asked_before_on_either_of_their_names() {
    let mut driven = Driven::greeted();
    driven.storage.holds_commits = true;
    driven.hear(whole_put(1, "a/x", "one").as_bytes());
    driven.hear(
        b"{\"move\":{\"id\":2,\"name\":\"b\",\"to\":\"a\"}}\n{\"mkdir\":{\"id\":3,\"name\":\"c\"}}\n\
          {\"remove\":{\"id\":4,\"name\":\"b/y\"}}\n{\"remove\":{\"id\":5,\"name\":\"a/x\"}}\n",
    );
    assert_eq!(driven.storage.changed, [3], "the others wait for the put, or for the move");
    let now = driven.now;
    driven.storage.release_commits(&mut driven.machine, now);
    driven.speak();
    assert_eq!(driven.storage.changed, [3, 2, 4, 5]);
    assert_eq!(driven.machine.requests(), 0);
}

#[test]
fn a_client_believes_no_listing_of_another_place() {
    for (listed, depth, name, fits) in [
        (Some("d"), Depth::All, "d/x/y", true),
        (Some("d"), Depth::One, "d/x", true),
        (None, Depth::One, "x", true),
        (Some("d"), Depth::One, "d/x/y", false),
        (Some("d"), Depth::All, "d", false),
        (Some("d"), Depth::All, "dd/x", false),
        (Some("d"), Depth::All, "x", false),
        (None, Depth::One, "x/y", false),
        (None, Depth::All, "..", false),
        (None, Depth::All, "/etc", false),
        (None, Depth::All, "a/../../b", false),
        (None, Depth::All, "", false),
    ] {
        let mut out = Vec::new();
        let mut client = Client::new("t", None, &mut out, Time(0));
        let listed = listed.map(|listed| Name::parse(listed.as_bytes()).unwrap());
        let list = List { id: RequestId(0), name: listed, depth, need: Vec::new() };
        let id = client.list(list, &mut out, Time(0)).0;
        let welcome = r#"{"welcome":{"ftx":1,"features":["sha256"],"limits":{}}}"#;
        let entry =
            format!(r#"{{"name":"{name}","kind":"file","size":1,"mtime":[1,0],"mode":420}}"#);
        let entries = format!(r#"{{"entries":{{"id":{id},"entries":[{entry}]}}}}"#);
        let heard = client.receive(format!("{welcome}\n{entries}\n").as_bytes(), Time(0));
        assert_eq!(heard.is_ok(), fits, "{name}");
    }
}
