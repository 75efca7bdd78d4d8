//! protocol.md against the code: its tables, its examples, its numbers.
//!
//! The document is the law. Where it and the code differ, one of the two is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, that is how a failure is told"
)]

use std::collections::BTreeMap;
use std::fmt::Debug;

use ftx_protocol::edges::{CONNECTION, REQUEST};
use ftx_protocol::message::{ClientMessage, Limits, ServerMessage};
use ftx_protocol::token::TOKEN_PREFIX;
use ftx_protocol::{Code, Digest, Name, NameError, Token, limits, line};
use sha2::{Digest as _, Sha256};

const DOCUMENT: &str = include_str!("../../protocol.md");

/// The rows of the table whose first line begins like this, without head and rule, as cells.
fn table(head: &str) -> Vec<Vec<String>> {
    let after = DOCUMENT.split_once(head).unwrap_or_else(|| panic!("no table {head}")).1;
    after
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

fn code_word(cell: &str) -> &str {
    cell.trim_matches('`')
}

/// The name of a variant as the document writes it.
fn word(variant: impl Debug) -> String {
    format!("{variant:?}").to_lowercase()
}

#[test]
fn the_table_of_errors_is_the_one_in_the_code() {
    let written: Vec<Vec<String>> = table("| code | whose | retry |");
    let expected: Vec<Vec<String>> = Code::ALL
        .iter()
        .map(|code| {
            vec![
                format!("`{code}`"),
                code.fault().as_str().to_owned(),
                code.retry().as_str().to_owned(),
                code.advice().to_owned(),
            ]
        })
        .collect();
    assert_eq!(written, expected);
}

#[test]
fn the_tables_of_edges_are_the_ones_in_the_code() {
    let mut tables = DOCUMENT.split("| in | on | to |").skip(1).map(|rest| {
        rest.lines()
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                line.trim_matches('|')
                    .split('|')
                    .map(|cell| code_word(cell.trim()).to_owned())
                    .collect()
            })
            .collect::<Vec<Vec<String>>>()
    });
    let request: Vec<Vec<String>> =
        REQUEST.iter().map(|edge| vec![word(edge.0), word(edge.1), word(edge.2)]).collect();
    let connection: Vec<Vec<String>> =
        CONNECTION.iter().map(|edge| vec![word(edge.0), word(edge.1), word(edge.2)]).collect();
    assert_eq!(tables.next(), Some(request));
    assert_eq!(tables.next(), Some(connection));
    assert_eq!(tables.next(), None);
}

#[test]
fn the_drawing_of_the_edges_names_every_step_and_turn() {
    let source = include_str!("../src/edges.rs");
    let drawing: String = source.lines().take_while(|line| line.starts_with("//!")).collect();
    for step in REQUEST.iter().map(|edge| word(edge.1)) {
        // Steps that stay where they are say nothing in a drawing.
        if step != "data" && step != "kept" {
            assert!(drawing.contains(&format!("--{step}-->")), "{step}");
        }
    }
    for turn in CONNECTION.iter().map(|edge| word(edge.1)) {
        assert!(drawing.contains(&format!("--{turn}-->")), "{turn}");
    }
}

#[test]
fn the_table_of_limits_is_the_one_in_the_code() {
    let least = Limits::default();
    let numbers: Vec<Option<u64>> = table("| limit | value |")
        .iter()
        .map(|row| row.last().unwrap().split(' ').next().unwrap().parse().ok())
        .collect();
    let expected = [
        Some(least.line),
        Some(least.part),
        Some(least.requests),
        Some(least.grid),
        None,
        Some(limits::HELLO_BYTES as u64),
        Some(limits::RESUMABLE_BYTES),
        Some(limits::UNKEPT_BYTES),
        Some(limits::DISCARD_BYTES),
        Some(limits::NAME_BYTES as u64),
        Some(limits::NAME_PART_BYTES as u64),
        Some(limits::NAME_PARTS as u64),
        Some(limits::VERSION_BYTES as u64),
        Some(limits::TEXT_BYTES as u64),
        Some(limits::ENTRIES_AHEAD.into()),
        Some(limits::INTEGER_MAX),
        Some(limits::ALIVE_EVERY.as_secs()),
        Some(limits::SILENCE.as_secs()),
        Some(limits::PART_BYTES_PER_SECOND_MIN),
        Some(limits::READ_BYTES_PER_SECOND_MIN),
        Some(limits::CANCELLED.into()),
        Some(limits::LINGER.as_secs()),
        Some(limits::LINGER_BYTES),
    ];
    assert_eq!(numbers, expected);
    assert_eq!(least.line, limits::LINE_BYTES as u64);
    assert_eq!(least.grid, limits::GRID_BYTES);
}

#[test]
fn the_numbers_in_the_rules_are_those_of_the_limits() {
    let mib = |bytes: u64| bytes / (1024 * 1024);
    for (rule, number) in [
        ("7.3", mib(limits::UNKEPT_BYTES)),
        ("7.2", mib(limits::RESUMABLE_BYTES)),
        ("7.10", mib(limits::RESUMABLE_BYTES)),
        ("5.7", mib(limits::DISCARD_BYTES)),
    ] {
        assert!(rule_text(rule).contains(&format!("{number} MiB")), "{rule}");
    }
    assert!(rule_text("2.5").contains(&format!("{} bytes", limits::HELLO_BYTES)));
    assert!(rule_text("4.12").contains(&format!("{} s", limits::CANCELLED_WITHIN.as_secs())));
    let characters = Token::new([0; 32]).text().len() - TOKEN_PREFIX.len();
    assert!(rule_text("14.5").contains(&format!("`{TOKEN_PREFIX}` and {characters} characters")));
    assert!(rule_text("10.1").contains(&format!("{} s", limits::ALIVE_EVERY.as_secs())));
    assert!(rule_text("10.2").contains(&format!("{} s", limits::SILENCE.as_secs())));
    assert!(rule_text("3.2").contains(&format!("{} parts", limits::NAME_PARTS)));
    assert!(NameError::TooManyParts.to_string().contains(&limits::NAME_PARTS.to_string()));
    assert_eq!(Name::parse(&[b'a'; 256]), Err(NameError::PartTooLong));
}

fn rule_text(number: &str) -> &'static str {
    let after = DOCUMENT.split_once(&format!("- **{number}** ")).unwrap().1;
    after.split_once("\n- **").map_or(after, |(rule, _)| rule)
}

#[test]
fn rules_are_numbered_upwards_within_their_section() {
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    let mut section = 0;
    for line in DOCUMENT.lines() {
        if let Some(head) = line.strip_prefix("## ") {
            section = head.split('.').next().unwrap().parse().unwrap_or(0);
        }
        let Some(rest) = line.strip_prefix("- **") else { continue };
        let number = rest.split_once("**").unwrap().0;
        let Some((of, rule)) = number.split_once('.') else { continue };
        let (of, rule): (u32, u32) = (of.parse().unwrap(), rule.parse().unwrap());
        assert_eq!(of, section, "{number}");
        assert_eq!(rule, last.insert(of, rule).unwrap_or(0) + 1, "{number}");
    }
    assert!(last.len() >= 8, "{last:?}");
}

#[test]
fn codes_in_the_rules_exist() {
    let known: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let rules = DOCUMENT.split("## 12. Errors").next().unwrap();
    let mut seen = 0;
    for quoted in rules.split('`').skip(1).step_by(2) {
        if quoted.contains('_') && quoted.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            assert!(known.contains(&quoted), "{quoted}");
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

/// One line of an example.
enum Said {
    Client(ClientMessage),
    Server(ServerMessage),
}

/// The examples, each as its lines. Raw bytes behind a `data` are taken off, and compared with what
/// the line announces.
fn transcripts() -> Vec<Vec<Said>> {
    DOCUMENT
        .split("```transcript\n")
        .skip(1)
        .map(|rest| read(rest.split("```").next().unwrap()))
        .collect()
}

fn read(example: &str) -> Vec<Said> {
    let mut said = Vec::new();
    let mut raw_bytes: u64 = 0;
    let mut body = Sha256::new();
    for text in example.lines() {
        let (side, text) = text.split_at(2);
        if raw_bytes > 0 {
            assert_eq!(text.len() as u64, raw_bytes, "the raw bytes {text:?}");
            body.update(text);
            raw_bytes = 0;
            continue;
        }
        if side == "> " {
            let message = line::read_client(text.as_bytes());
            if let Err(line::LineError::Refused(.., refusal)) = &message {
                assert_eq!(refusal.code, Code::BadName, "the one bad request in the examples");
                continue;
            }
            let message = message.unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(written(&message), text, "compact, and in the order of the code");
            if let ClientMessage::Data(data) = &message {
                raw_bytes = data.size;
            }
            if let ClientMessage::Put(put) = &message {
                body = prefix(put.at);
            }
            if let ClientMessage::End(end) = &message {
                assert_eq!(end.digest.bytes, body.clone().finalize().0, "the digest in {text}");
            }
            said.push(Said::Client(message));
        } else {
            assert_eq!(side, "< ");
            let message = line::read_server(text.as_bytes()).unwrap().unwrap();
            assert_eq!(written(&message), text);
            match &message {
                ServerMessage::Data(data) => raw_bytes = data.size,
                ServerMessage::File(file) => body = prefix(file.at),
                ServerMessage::Held(held) => {
                    let at = held.ranges.first().map_or(0, |range| range.1);
                    let digest: Digest = held.digest.unwrap();
                    assert_eq!(digest.bytes, prefix(at).finalize().0);
                }
                ServerMessage::End(end) => {
                    assert_eq!(end.digest.bytes, body.clone().finalize().0, "the digest in {text}");
                }
                _ => {}
            }
            said.push(Said::Server(message));
        }
    }
    assert_eq!(raw_bytes, 0);
    said
}

/// The examples that begin behind 0 begin with zeros.
fn prefix(size: u64) -> Sha256 {
    let mut hash = Sha256::new();
    hash.update(vec![0; size as usize]);
    hash
}

fn written<M: serde::Serialize>(message: &M) -> String {
    let mut bytes = Vec::new();
    line::write(message, &mut bytes);
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

#[test]
fn the_examples_are_true_to_the_last_byte() {
    let transcripts = transcripts();
    assert!(transcripts.len() >= 5);
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for said in transcripts.iter().flatten() {
        let text = match said {
            Said::Client(message) => written(message),
            Said::Server(message) => written(message),
        };
        let kind = text.split('"').nth(1).unwrap().to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    for kind in [
        "hello", "put", "data", "end", "abort", "get", "resume", "stat", "ping", "welcome", "done",
        "file", "held", "info", "pong", "error", "list", "more", "mkdir", "move", "remove",
        "entries", "ok",
    ] {
        assert!(kinds.contains_key(kind), "no example shows {kind}");
    }
}

#[test]
fn a_server_machine_says_what_the_examples_say() {
    use ftx_protocol::Time;
    use ftx_protocol::message::{List, Okay, Welcome};
    use ftx_protocol::server::{Command, Event, Output, Server, Settings, Work};
    use std::time::Duration;
    for example in DOCUMENT.split("```transcript\n").skip(1) {
        let example = example.split("```").next().unwrap();
        let said = read(example);
        let welcome = said.iter().find_map(|said| match said {
            Said::Server(ServerMessage::Welcome(welcome)) => Some(welcome.clone()),
            _ => None,
        });
        let turned_away = said.iter().find_map(|said| match said {
            Said::Server(ServerMessage::Error(error)) if error.id.is_none() => {
                Some(error.refusal())
            }
            _ => None,
        });
        assert!(welcome.is_some() != turned_away.is_some());
        let welcome = welcome.unwrap_or_else(|| Welcome {
            ftx: 1,
            agent: String::new(),
            features: Vec::new(),
            limits: Limits::default(),
        });
        let settings = Settings {
            agent: welcome.agent,
            features: welcome.features,
            limits: welcome.limits,
            requests_total_max: ftx_protocol::limits::REQUESTS_TOTAL,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
        };
        let mut server = Server::new(settings, Time(0));
        let mut input = Vec::new();
        let mut raw = false;
        for text in example.lines().filter_map(|line| line.strip_prefix("> ")) {
            input.extend_from_slice(text.as_bytes());
            let announced = text.contains("{\"data\"") && !text.contains("\"size\":0");
            if !std::mem::replace(&mut raw, announced) {
                input.push(b'\n');
            }
        }
        server.receive(&input, Time(1));
        let answers: Vec<&ServerMessage> = said
            .iter()
            .filter_map(|said| match said {
                Said::Server(message) => Some(message),
                Said::Client(_) => None,
            })
            .collect();
        // A storage that answers what the example says.
        let mut output = Vec::new();
        let mut entries = answers.iter().filter_map(|message| match message {
            ServerMessage::Entries(entries) => Some(Event::Entries(entries.clone())),
            _ => None,
        });
        loop {
            while let Some(command) = server.poll_command() {
                if let (Command::Login(_), Some(refusal)) = (&command, &turned_away) {
                    server.refuse_login(refusal.clone(), Time(2));
                    continue;
                }
                let Command::Work(work) = command else { continue };
                if let Work::List(List { id, .. }) | Work::More(id) = work {
                    let complete = Event::Ok(Okay { id, durability: None });
                    server.handle(entries.next().unwrap_or(complete), Time(2));
                    continue;
                }
                let answer = answers.iter().find_map(|message| match (&work, message) {
                    (work, ServerMessage::Error(error)) if error.code == Code::Denied => {
                        let id = work.id().filter(|id| error.id == Some(*id))?;
                        Some(Event::Refused { id, refusal: error.refusal() })
                    }
                    (Work::Finish(_), ServerMessage::Done(done)) => {
                        Some(Event::Stored(done.clone()))
                    }
                    (Work::Open(_), ServerMessage::File(file)) => Some(Event::Opened(file.clone())),
                    (Work::Resume(_), ServerMessage::Held(held)) => Some(Event::Held(held.clone())),
                    (Work::Stat(_), ServerMessage::Info(info)) => Some(Event::Info(info.clone())),
                    (Work::Change(change), ServerMessage::Ok(okay)) => {
                        (change.id() == okay.id).then(|| Event::Ok(okay.clone()))
                    }
                    (Work::Digest(id), ServerMessage::End(end)) => {
                        Some(Event::Digest { id: *id, digest: end.digest, spent: None })
                    }
                    _ => None,
                });
                if let Some(answer) = answer {
                    server.handle(answer, Time(2));
                }
            }
            let count = match server.output(Time(3)) {
                Output::Bytes(bytes) => {
                    output.extend_from_slice(bytes);
                    bytes.len() as u64
                }
                Output::File { size, .. } => {
                    output.extend_from_slice(b"hello");
                    size
                }
                _ => break,
            };
            server.wrote(count, Time(3));
        }
        let mut expected: Vec<String> =
            example.lines().filter_map(|line| line.strip_prefix("< ")).map(str::to_owned).collect();
        let mut written: Vec<String> = String::from_utf8(output)
            .unwrap()
            .replace("}}hello", "}}\nhello")
            .replace("hello{", "hello\n{")
            .lines()
            .map(str::to_owned)
            .collect();
        // Final replies come in any order.
        expected.sort();
        written.sort();
        assert_eq!(written, expected);
    }
}
