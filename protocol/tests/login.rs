//! Section 14 as far as the machines keep it: who is turned away has done nothing, and a right that
//! is lost ends a request in each of its phases.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, that is how a failure is told")]

use std::time::Duration;

use ftx_protocol::client::{Client, Event as Heard};
use ftx_protocol::message::{Done, Entries, File, Kept, Limits, Put};
use ftx_protocol::server::{Command, Event, NoMore, Output, Reason, Server, Settings, Work};
use ftx_protocol::{
    Algorithm, Code, Condition, Digest, Durability, FileTime, Mode, Name, Refusal, RequestId, Time,
    Token, TransferId, Verb, Version, limits,
};

const NOW: Time = Time(7);
const HELLO: &str =
    "{\"hello\":{\"ftx\":1,\"token\":\"ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"}}\n";
const PUT: &str = "{\"put\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"size\":5,\"transfer\":\"00112233445566778899aabbccddeeff\"}}\n";
const DATA: &str = "{\"data\":{\"id\":1,\"at\":0,\"size\":5}}\nhello";
const END: &str = "{\"end\":{\"id\":1,\"size\":5,\"digest\":\"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\"}}\n";
const GET: &str = "{\"get\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\"}}\n";

fn token() -> Token {
    Token::new(std::array::from_fn(|place| place as u8))
}

fn machine(requests_total_max: u64) -> Server {
    let settings = Settings {
        agent: String::new(),
        features: vec!["sha256".into()],
        limits: Limits::default(),
        requests_total_max,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    };
    Server::new(settings, NOW)
}

fn commands(machine: &mut Server) -> Vec<Command> {
    std::iter::from_fn(|| machine.poll_command()).collect()
}

fn id_of(command: &Command) -> Option<RequestId> {
    if let Command::Work(work) = command { work.id() } else { None }
}

/// Writes everything; returns its lines. The bytes of files are dots.
fn said(machine: &mut Server) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let count = match machine.output(NOW) {
            Output::Bytes(bytes) => {
                said.extend_from_slice(bytes);
                bytes.len() as u64
            }
            Output::File { size, .. } => {
                said.extend(vec![b'.'; size as usize]);
                size
            }
            Output::Zeros(size) => {
                said.extend(vec![b'0'; size as usize]);
                size
            }
            Output::Nothing | Output::Shutdown => break,
        };
        machine.wrote(count, NOW);
    }
    String::from_utf8(said).unwrap().lines().map(str::to_owned).collect()
}

fn error(id: Option<u64>, code: Code) -> String {
    let id = id.map_or(String::new(), |id| format!("\"id\":{id},"));
    format!("{{\"error\":{{{id}\"code\":\"{code}\",\"message\":\"no\"}}}}")
}

fn no(code: Code) -> Refusal {
    Refusal::new(code, "no")
}

/// As a driver that does not admit the client: what it is asked, and what the client reads.
fn turned_away(machine: &mut Server) -> (Vec<Command>, Vec<String>) {
    assert_eq!(machine.poll_command(), Some(Command::Login(Some(token()))));
    machine.refuse_login(no(Code::LoginFailed), NOW);
    (commands(machine), said(machine))
}

#[test]
fn nothing_behind_the_hello_of_who_is_turned_away_has_any_effect() {
    let everything = [
        PUT,
        DATA,
        END,
        "{\"get\":{\"id\":2,\"name\":\"a\",\"digest\":\"sha256\"}}\n{\"ping\":{\"id\":3}}\n",
        "{\"fly\":{\"id\":4}}\n{\"stat\":{\"id\":5,\"name\":\"..\"}}\n{\"list\":{\"id\":6}}\n",
        "{\"remove\":{\"id\":7,\"name\":\"b\",\"depth\":\"all\"}}\n",
        "{\"resume\":{\"id\":8,\"transfer\":\"00112233445566778899aabbccddeeff\"}}\n",
    ]
    .concat();
    // Also what ends the connection by itself has not been heard.
    let junk = "no message\n".to_owned() + &"x".repeat(limits::LINGER_BYTES as usize);
    for last in ["", "{\"put\":", "no message\n", "{\"hello\":{\"ftx\":1}}\n", &junk] {
        let input = format!("{HELLO}{everything}{last}");
        let mut machine = machine(limits::REQUESTS_TOTAL);
        machine.receive(input.as_bytes(), NOW);
        let (asked, heard) = turned_away(&mut machine);
        assert_eq!(asked, [Command::Work(Work::HangUp)]);
        if last == junk {
            assert!(heard.is_empty(), "the connection was over");
            continue;
        }
        assert_eq!(heard, [error(None, Code::LoginFailed)]);
        assert_eq!((machine.requests(), machine.held_bytes()), (0, 0));
        machine.receive(everything.as_bytes(), NOW);
        assert_eq!((commands(&mut machine), said(&mut machine)), (vec![], vec![]));
        assert_eq!(machine.output(NOW), Output::Shutdown);
        machine.receive_end(NOW);
        assert_eq!(machine.closed(), Some(Reason::Failed(Code::LoginFailed)));
    }
}

#[test]
fn who_is_turned_away_may_have_said_all_it_has_to_say() {
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(format!("{HELLO}{PUT}{DATA}").as_bytes(), NOW);
    machine.receive_end(NOW);
    let (asked, heard) = turned_away(&mut machine);
    assert_eq!(
        (asked, heard),
        (vec![Command::Work(Work::HangUp)], vec![error(None, Code::LoginFailed)])
    );
    machine.receive_end(NOW);
    assert_eq!(machine.closed(), Some(Reason::Failed(Code::LoginFailed)));
}

#[test]
fn login_is_the_first_command_and_what_is_behind_it_is_carried_out() {
    for (hello, token) in [(HELLO, Some(token())), ("{\"hello\":{\"ftx\":1}}\n", None)] {
        let mut machine = machine(limits::REQUESTS_TOTAL);
        machine.receive(format!("{hello}{PUT}{DATA}{END}").as_bytes(), NOW);
        let ids: Vec<Option<RequestId>> = vec![None, Some(RequestId(1)), Some(RequestId(1))];
        let asked = commands(&mut machine);
        assert_eq!(asked[0], Command::Login(token));
        assert!(matches!(
            asked[1..],
            [
                Command::Work(Work::Begin(..)),
                Command::Work(Work::Write { .. }),
                Command::Work(Work::Finish(_))
            ]
        ));
        assert_eq!(asked[..3].iter().map(id_of).collect::<Vec<_>>(), ids);
        assert!(said(&mut machine)[0].starts_with("{\"welcome\""));
        // Too late to be turned away as if nothing had happened: an error like any other.
        machine.refuse_login(no(Code::LoginFailed), NOW);
        assert_eq!(commands(&mut machine), [Command::Work(Work::HangUp)]);
        assert_eq!(said(&mut machine), [error(None, Code::LoginFailed)]);
    }
}

#[test]
fn a_client_hears_why_it_is_not_admitted_and_that_it_is_over() {
    let mut out = Vec::new();
    let mut client = Client::new("", Some(token()), &mut out, NOW);
    client.ping(&mut out, NOW);
    assert!(out.starts_with(HELLO.trim_end().as_bytes()));
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(&out, NOW);
    let (_, heard) = turned_away(&mut machine);
    client.receive((heard.join("\n") + "\n").as_bytes(), NOW).unwrap();
    assert_eq!(client.poll_event(), Some(Heard::Failed(no(Code::LoginFailed))));
    assert_eq!(client.receive_end(), Ok(()));
    assert_eq!(client.deadline(), None);
}

#[test]
fn what_may_be_a_token_is_not_repeated() {
    for token in [
        "\"ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh\"",
        "\"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"",
        "[\"ftx1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8\"]",
    ] {
        let mut machine = machine(limits::REQUESTS_TOTAL);
        let hello = format!("{{\"hello\":{{\"token\":{token},\"ftx\":1}}}}\n");
        let half = hello.len() / 2;
        machine.receive(&hello.as_bytes()[..half], NOW);
        let shown = format!("{machine:?}");
        machine.receive(&hello.as_bytes()[half..], NOW);
        let heard = said(&mut machine);
        assert!(heard[0].contains("\"bad_message\""), "{heard:?}");
        for told in [shown, heard.concat(), format!("{machine:?}")] {
            assert!(!told.contains("AAEC") && !told.contains("65, 65, 69"), "{told}");
        }
        assert_eq!(machine.closed(), None);
    }
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(HELLO.as_bytes(), NOW);
    assert!(!format!("{machine:?}").contains("AAEC"));
    assert!(!format!("{:?}", commands(&mut machine)).contains("AAEC"));
}

#[test]
fn a_right_that_is_lost_ends_a_request_in_each_of_its_phases() {
    let lists = "{\"list\":{\"id\":1,\"depth\":\"all\"}}\n";
    let entries = Event::Entries(Entries { id: RequestId(1), entries: vec![], unread: vec![] });
    let opened = || {
        let (version, mtime, mode) =
            (Version::of_hash(&[0; 32]), FileTime::nearest(1, 0), Mode::new(0o644));
        Event::Opened(File { id: RequestId(1), size: 5, at: 0, version, mtime, mode })
    };
    for (input, event) in [
        (PUT.to_owned(), None),
        (format!("{PUT}{}", &DATA[..DATA.len() - 2]), None),
        (format!("{PUT}{DATA}{END}"), None),
        (GET.to_owned(), None),
        (GET.to_owned(), Some(opened())),
        (lists.to_owned(), None),
        (lists.to_owned(), Some(entries)),
        ("{\"stat\":{\"id\":1,\"name\":\"a\"}}\n".to_owned(), None),
        ("{\"mkdir\":{\"id\":1,\"name\":\"a\"}}\n".to_owned(), None),
        (
            "{\"resume\":{\"id\":1,\"transfer\":\"00112233445566778899aabbccddeeff\"}}\n"
                .to_owned(),
            None,
        ),
    ] {
        for code in [Code::Denied, Code::Expired, Code::Quota] {
            let mut machine = machine(limits::REQUESTS_TOTAL);
            machine.receive(HELLO.as_bytes(), NOW);
            commands(&mut machine);
            said(&mut machine);
            machine.receive(input.as_bytes(), NOW);
            let asked = commands(&mut machine);
            assert!(asked.iter().all(|command| id_of(command) == Some(RequestId(1))), "{asked:?}");
            let begun = event.is_some();
            if let Some(event) = event.clone() {
                machine.handle(event, NOW);
            }
            machine.handle(Event::Refused { id: RequestId(1), refusal: no(code) }, NOW);
            let heard = said(&mut machine);
            assert_eq!(heard.last(), Some(&error(Some(1), code)), "{input}");
            assert_eq!(heard.len(), 1 + usize::from(begun), "{heard:?}");
            assert_eq!(machine.requests(), 0);
            // The rest of a body is thrown away, and the connection goes on.
            let rest = if input.ends_with("hel") { "lo" } else { "" };
            machine.receive(format!("{rest}{{\"ping\":{{\"id\":9}}}}\n").as_bytes(), NOW);
            assert_eq!(said(&mut machine), ["{\"pong\":{\"id\":9}}"]);
        }
    }
}

#[test]
fn a_right_that_is_lost_inside_a_part_leaves_zeros_in_it() {
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(format!("{HELLO}{GET}").as_bytes(), NOW);
    commands(&mut machine);
    said(&mut machine);
    let (version, mtime, mode) =
        (Version::of_hash(&[0; 32]), FileTime::nearest(1, 0), Mode::new(0o644));
    machine.handle(
        Event::Opened(File { id: RequestId(1), size: 5, at: 0, version, mtime, mode }),
        NOW,
    );
    while let Output::Bytes(bytes) = machine.output(NOW) {
        let count = bytes.len() as u64;
        machine.wrote(count, NOW);
    }
    machine.wrote(2, NOW);
    machine.handle(Event::Refused { id: RequestId(1), refusal: no(Code::Expired) }, NOW);
    assert_eq!(machine.output(NOW), Output::Zeros(3));
    assert_eq!(said(&mut machine), [format!("000{}", error(Some(1), Code::Expired))]);
    assert_eq!(commands(&mut machine), [Command::Work(Work::Close(RequestId(1)))]);
}

/// Rule 14.10: who asks for nothing is told at once, and what runs is answered first.
#[test]
fn a_connection_whose_token_is_over_ends_and_answers_what_runs() {
    for (why, code) in [(NoMore::TokenGone, "denied"), (NoMore::TokenExpired, "expired")] {
        let greeted = || {
            let mut machine = machine(limits::REQUESTS_TOTAL);
            machine.receive(HELLO.as_bytes(), NOW);
            commands(&mut machine);
            said(&mut machine);
            machine
        };
        let last = format!("{{\"error\":{{\"code\":\"{code}\",");
        let mut idle = greeted();
        idle.end_admission(why, NOW);
        let heard = said(&mut idle);
        assert!(heard.len() == 1 && heard[0].starts_with(&last), "{heard:?}");
        idle.receive_end(NOW);
        assert_eq!(idle.closed(), Some(Reason::Failed(why.refusal().code)));

        let mut puts = greeted();
        puts.receive(PUT.as_bytes(), NOW);
        commands(&mut puts);
        puts.end_admission(why, NOW);
        puts.end_admission(why, NOW);
        assert_eq!(said(&mut puts), [""; 0]);
        puts.receive(b"{\"ping\":{\"id\":2}}\n", NOW);
        let heard = said(&mut puts);
        assert!(heard[0].starts_with(&format!("{{\"error\":{{\"id\":2,\"code\":\"{code}\"")));
        puts.handle(Event::Refused { id: RequestId(1), refusal: why.refusal() }, NOW);
        let heard = said(&mut puts);
        assert!(heard[0].contains("\"id\":1") && heard[1].starts_with(&last), "{heard:?}");

        // A list that waits for its client asks storage, which knows.
        let mut lists = greeted();
        lists.receive(b"{\"list\":{\"id\":1}}\n", NOW);
        commands(&mut lists);
        let entries = || Entries { id: RequestId(1), entries: Vec::new(), unread: Vec::new() };
        for _ in 0..limits::ENTRIES_AHEAD {
            lists.handle(Event::Entries(entries()), NOW);
            said(&mut lists);
            commands(&mut lists);
        }
        lists.end_admission(why, NOW);
        assert_eq!(commands(&mut lists), [Command::Work(Work::More(RequestId(1)))]);
    }
}

#[test]
fn the_name_that_a_file_got_instead_reaches_the_client() {
    let mut out = Vec::new();
    let mut client = Client::new("", None, &mut out, NOW);
    let put = Put {
        id: RequestId(0),
        name: Name::parse(b"box/a.txt").unwrap(),
        digest: Algorithm::Sha256,
        size: Some(0),
        at: 0,
        transfer: TransferId([1; 16]),
        mtime: None,
        mode: None,
        condition: Condition::Always,
        durability: Durability::Full,
        need: Vec::new(),
    };
    let id = client.put(put, &mut out, NOW);
    let digest = Digest { algorithm: Algorithm::Sha256, bytes: [3; 32] };
    client.end(id, 0, digest, &mut out);
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(&out, NOW);
    commands(&mut machine);
    let done = Done {
        id,
        size: 0,
        digest,
        durability: Durability::Full,
        version: None,
        mtime: None,
        mode: None,
        replayed: None,
        name: Some(Name::parse(b"box/a-1.txt").unwrap()),
        spent: None,
    };
    machine.handle(Event::Stored(done.clone()), NOW);
    let heard = said(&mut machine);
    assert!(heard[1].contains("\"name\":\"box/a-1.txt\""), "{heard:?}");
    client.receive((heard.join("\n") + "\n").as_bytes(), NOW).unwrap();
    client.poll_event();
    assert_eq!(client.poll_event(), Some(Heard::Done(done)));
}

#[test]
fn a_connection_that_has_asked_enough_answers_what_runs_and_takes_no_more() {
    let mut machine = machine(2);
    machine.receive(HELLO.as_bytes(), NOW);
    let ask = |id| format!("{{\"stat\":{{\"id\":{id},\"name\":\"{id}\"}}}}\n");
    machine.receive([ask(1), ask(2), ask(3), ask(4)].concat().as_bytes(), NOW);
    let asked = commands(&mut machine);
    let (refused, asked): (Vec<_>, Vec<_>) =
        asked.iter().partition(|command| matches!(command, Command::Refused(_)));
    assert_eq!(asked.len(), 3, "the login and two requests");
    let told = |command: &&Command| match command {
        Command::Refused(refused) => {
            let name = refused.asked.name.as_ref().unwrap();
            (refused.asked.verb, name.to_string(), refused.refusal.code, refused.since)
        }
        other => panic!("{other:?}"),
    };
    let busy = |name: &str| (Verb::Stat, name.to_owned(), Code::Busy, NOW);
    assert_eq!(refused.iter().map(told).collect::<Vec<_>>(), [busy("3"), busy("4")]);
    let heard = said(&mut machine);
    let busy = |line: &String| line.contains("\"busy\"") && line.contains("\"id\"");
    assert_eq!(heard.iter().filter(|line| busy(line)).count(), 2, "{heard:?}");
    for id in [1, 2] {
        machine.handle(Event::Refused { id: RequestId(id), refusal: no(Code::NotFound) }, NOW);
    }
    let heard = said(&mut machine);
    assert_eq!(heard.len(), 3, "{heard:?}");
    assert!(heard[2].starts_with("{\"error\":{\"code\":\"busy\""));
    machine.receive_end(NOW);
    assert_eq!(machine.closed(), Some(Reason::Failed(Code::Busy)));
}

#[test]
fn who_has_not_said_hello_makes_the_server_hold_little() {
    let hello = |bytes: usize| {
        let (begin, end) = ("{\"hello\":{\"ftx\":1,\"x\":\"", "\"}}\n");
        format!("{begin}{}{end}", "x".repeat(bytes - begin.len() - end.len()))
    };
    let mut longest = machine(limits::REQUESTS_TOTAL);
    let text = hello(limits::HELLO_BYTES);
    let (most, last) = text.split_at(limits::HELLO_BYTES - 1);
    longest.receive(most.as_bytes(), NOW);
    assert_eq!(longest.held_bytes(), limits::HELLO_BYTES - 1);
    longest.receive(last.as_bytes(), NOW);
    assert!(said(&mut longest)[0].contains("\"welcome\""));
    // What comes behind it may be as long as any line.
    longest.receive("x".repeat(limits::LINE_BYTES - 1).as_bytes(), NOW);
    assert_eq!(longest.held_bytes(), limits::LINE_BYTES - 1);

    let mut too_long = machine(limits::REQUESTS_TOTAL);
    too_long.receive(&hello(limits::HELLO_BYTES + 1).as_bytes()[..limits::HELLO_BYTES], NOW);
    let heard = said(&mut too_long);
    assert!(heard[0].starts_with("{\"error\":{\"code\":\"line_too_long\""), "{heard:?}");
}

#[test]
fn a_put_that_is_refused_forgives_nothing_of_what_was_thrown_away() {
    let part = vec![0; limits::PART_BYTES as usize];
    let put = |id: u64| {
        let size = format!("\"size\":{}", limits::GRID_BYTES);
        PUT.replace("\"size\":5", &size).replace("\"id\":1", &format!("\"id\":{id}"))
    };
    // Begins a put that storage refuses, and sends a part of it all the same.
    let refused = |machine: &mut Server, id: u64| {
        machine.receive(put(id).as_bytes(), NOW);
        commands(machine);
        machine.handle(Event::Refused { id: RequestId(id), refusal: no(Code::Denied) }, NOW);
        let data = format!("{{\"data\":{{\"id\":{id},\"at\":0,\"size\":{}}}}}\n", part.len());
        machine.receive(data.as_bytes(), NOW);
        machine.receive(&part, NOW);
        said(machine).last().unwrap().contains("too_much_discarded")
    };
    let most = limits::DISCARD_BYTES / limits::PART_BYTES;
    let mut machine = machine(limits::REQUESTS_TOTAL);
    machine.receive(HELLO.as_bytes(), NOW);
    assert!((1..=most).all(|id| !refused(&mut machine, id)));
    // One that is taken does.
    let taken = most + 1;
    machine.receive(put(taken).as_bytes(), NOW);
    machine.handle(Event::Kept(Kept { id: RequestId(taken), at: limits::GRID_BYTES }), NOW);
    machine.receive(
        format!("{{\"abort\":{{\"id\":{taken},\"code\":\"aborted\"}}}}\n").as_bytes(),
        NOW,
    );
    assert!((taken + 1..=taken + most).all(|id| !refused(&mut machine, id)));
    assert!(refused(&mut machine, taken + most + 1));
}

#[test]
fn requests_that_are_broken_off_as_fast_as_lines_come_end_the_connection() {
    let abort = |id| format!("{{\"abort\":{{\"id\":{id},\"code\":\"aborted\"}}}}\n");
    let ask = [
        (
            "\"put\"",
            ",\"name\":\"a\",\"digest\":\"sha256\",\"transfer\":\"00112233445566778899aabbccddeeff\"",
        ),
        ("\"get\"", ",\"name\":\"a\",\"digest\":\"sha256\""),
        ("\"list\"", ""),
    ];
    for (kind, fields) in ask {
        let mut machine = machine(limits::REQUESTS_TOTAL);
        machine.receive(HELLO.as_bytes(), NOW);
        let mut now = NOW;
        let mut id = 0;
        // Half of what is too much in each minute is not too much in any number of minutes.
        for _ in 0..4 {
            for _ in 0..limits::CANCELLED / 2 {
                id += 1;
                machine.receive(
                    format!("{{{kind}:{{\"id\":{id}{fields}}}}}\n{}", abort(id)).as_bytes(),
                    now,
                );
                commands(&mut machine);
                assert!(said(&mut machine).last().unwrap().contains("\"aborted\""));
            }
            now = now.after(limits::CANCELLED_WITHIN);
        }
        let mut asked = 0;
        for _ in 0..2 * limits::CANCELLED {
            id += 1;
            machine.receive(
                format!("{{{kind}:{{\"id\":{id}{fields}}}}}\n{}", abort(id)).as_bytes(),
                now,
            );
            let begun = commands(&mut machine).iter().any(|command| id_of(command).is_some());
            asked += u32::from(begun);
            said(&mut machine);
        }
        assert_eq!(asked, limits::CANCELLED + 1, "{kind}");
        machine.receive_end(now);
        assert_eq!(machine.closed(), Some(Reason::Failed(Code::Busy)), "{kind}");
    }
}
