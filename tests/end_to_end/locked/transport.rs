//! What is spoken on the port of a locked server, and how a connection ends there.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::house::{House, Inside, Secured, introduced, put, word};
use crate::front::{Tap, is_only_a_greeting};
use crate::harness::{MIB, PATIENCE, noise, text};
use crate::talk::{HELLO_DIGEST, Talk};

fn plain(server: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Everything that a server says to these bytes; a reset is an end.
fn answer(server: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = plain(server);
    let _ = socket.write_all(bytes);
    let _ = socket.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn plain_brace_gets_tls_required() {
    let house = House::locked();
    std::fs::write(house.world.served().join("file"), "content").unwrap();
    let requests =
        "{\"hello\":{\"ftx\":1}}\n{\"get\":{\"id\":1,\"name\":\"file\",\"digest\":\"sha256\"}}\n";
    let said = answer(house.server.address, requests.as_bytes());
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("\"tls_required\"") && !said.contains("welcome"), "{said}");
    // Also when the token comes with it: it is neither looked up nor told.
    let token = house.add("alice", "read");
    let hello = format!("{}\n", json!({"hello": {"ftx": 1, "token": token}}));
    let said = answer(house.server.address, hello.as_bytes());
    assert!(said.contains("\"tls_required\"") && !said.contains(&token), "{said}");
    // The client says what that means.
    let mut command = house.world.ftx(house.server.address, ["ls"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("(tls_required)"), "{}", text(&output.stderr));
    // And what comes behind it has no effect, from whoever has more to say, too.
    let mut talk = Talk::over(plain(house.server.address));
    talk.say(json!({"hello": {"ftx": 1}}));
    talk.put_hello(1, "new", "none");
    assert_eq!(talk.code(), "tls_required");
    assert!(talk.is_ended());
    assert_eq!(house.names(), ["file"]);
}

/// What a client sends on its way to a server, written down: nothing but a greeting before it is sure
/// which one that is, and nothing that can be read after that.
#[test]
fn names_and_tokens_do_not_leave_first() {
    let house = House::locked();
    let token = house.add("alice", "read,list,write");
    let tap = Tap::start("127.0.0.1:0", house.server.address);
    std::fs::write(house.world.here().join("very-secret"), "not for everybody".repeat(100))
        .unwrap();
    let wrong = format!("ftx://{}#sha256:{}", tap.address, "0".repeat(64));
    for server in [tap.address.to_string(), wrong] {
        for args in [["put", "very-secret"].as_slice(), &["get", "very-secret"], &["ls"]] {
            let mut command = house.ftx_by(tap.address, Some(&token), args);
            let output = command.env("FTX_SERVER", &server).output().unwrap();
            assert_eq!(output.status.code(), Some(3), "{args:?}: {}", text(&output.stderr));
            let heard = tap.take();
            assert!(!heard.is_empty() && heard.iter().all(|bytes| is_only_a_greeting(bytes)));
        }
    }
    assert!(house.names().is_empty());
    for args in [["put", "very-secret"].as_slice(), &["get", "very-secret", "-o", "back"], &["ls"]]
    {
        let output = house.ftx_by(tap.address, Some(&token), args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
    }
    let heard = tap.take();
    assert!(heard.len() == 3 && heard.iter().all(|bytes| bytes.first() == Some(&0x16)));
    let heard = heard.concat();
    for secret in ["very-secret", "not for everybody", "hello", &token[5..20]] {
        let secret = secret.as_bytes();
        assert!(!heard.windows(secret.len()).any(|window| window == secret), "{}", text(secret));
    }
}

/// There is no first byte behind which a server that wants TLS goes on in plain.
#[test]
fn no_first_byte_opens_a_plain_conversation() {
    let house = House::locked();
    std::fs::write(house.world.served().join("file"), "content").unwrap();
    let rest = b"{\"hello\":{\"ftx\":1}}\n{\"stat\":{\"id\":1,\"name\":\"file\"}}\n{\"list\":{\"id\":2}}\n";
    for first in 0..=u8::MAX {
        if first != 0x16 {
            let said = answer(house.server.address, &[&[first], &rest[..]].concat());
            assert!(!said.contains("welcome") && !said.contains("info"), "{first:#x}: {said}");
            assert!(!said.contains("entries"), "{first:#x}: {said}");
        }
    }
    let line = "PROXY TCP4 127.0.0.2 127.0.0.3 1 2\r\n";
    let said = answer(house.server.address, &[line.as_bytes(), &rest[..]].concat());
    assert!(!said.contains("welcome"), "{said}");
}

#[test]
fn a_token_in_plain_is_refused_where_plain_is_spoken_too() {
    let house = House::with(&[]);
    let token = house.add("alice", "read");
    let mut talk = Talk::over(plain(house.server.address));
    assert_eq!(introduced(&mut talk, Some(&token)), "tls_required");
    assert!(talk.is_ended());
    assert_eq!(introduced(&mut Talk::over(plain(house.server.address)), None), "welcome");
}

#[test]
fn without_a_token_or_with_a_wrong_one_nothing_behind_hello_has_an_effect() {
    let house = House::locked();
    std::fs::write(house.world.served().join("file"), "content").unwrap();
    let removed = house.add("alice", "read,list,write,replace,delete");
    house.remove("alice");
    let other = format!("{}A", &removed[..removed.len() - 1]);
    for (token, code) in [
        (None, "login_required"),
        (Some(removed.as_str()), "login_failed"),
        (Some(&other), "login_failed"),
        (Some("ftx1_"), "bad_message"),
        (Some(""), "bad_message"),
    ] {
        let mut talk = house.connected();
        let hello = match token {
            Some(token) => json!({"hello": {"ftx": 1, "token": token}}),
            None => json!({"hello": {"ftx": 1}}),
        };
        let put = put(1, "new", 5, 1);
        let get = json!({"get": {"id": 2, "name": "file", "digest": "sha256"}});
        let remove = json!({"remove": {"id": 3, "name": "file"}});
        let end = json!({"end": {"id": 1, "size": 5, "digest": HELLO_DIGEST}});
        let data = json!({"data": {"id": 1, "at": 0, "size": 5}});
        talk.send(format!("{hello}\n{put}\n{data}\nhello{end}\n{get}\n{remove}\n").as_bytes());
        let line = talk.line();
        assert_eq!(word(&line), code, "{token:?}: {line}");
        assert!(line["error"]["id"].is_null(), "{line}");
        assert!(talk.is_ended());
        assert_eq!((house.names(), house.world.staged()), (vec!["file".to_owned()], 0));
    }
    // A second hello does not make somebody else of a connection.
    let alice = house.add("alice", "list");
    let bob = house.add("bob", "read,list,write,replace,delete");
    let mut talk = house.talk(&alice);
    assert_ne!(introduced(&mut talk, Some(&bob)), "welcome");
    talk.say(json!({"remove": {"id": 1, "name": "file"}}));
    while word(&talk.line()) != "the end" {}
    assert_eq!(house.names(), ["file"]);
}

/// What was acknowledged last arrives, and that nothing more is said, though the client reads it
/// only long after it said that it has no more to say.
#[test]
fn last_ack_survives_close_over_tls() {
    let house = House::locked();
    let size = 6 * MIB;
    std::fs::write(house.world.served().join("big"), noise(size, 7)).unwrap();
    let token = house.add("alice", "read,write");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // So that most of it stays with the server.
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&house.server.address.into()).unwrap();
    let mut talk: Inside = Talk::inside(Secured::over(socket.into(), house.pin).unwrap());
    assert_eq!(introduced(&mut talk, Some(&token)), "welcome");
    talk.say(json!({"get": {"id": 1, "name": "big", "digest": "sha256"}}));
    for id in 2..=40 {
        talk.put_hello(id, &format!("small/{id}"), "none");
    }
    talk.stream().end();
    std::thread::sleep(Duration::from_millis(300));
    let (mut came, mut ended, mut done) = (0, 0, 0);
    loop {
        // Slower than the server.
        std::thread::sleep(Duration::from_millis(10));
        let line = talk.line();
        match word(&line).as_str() {
            "file" => {}
            "data" => came += talk.raw(line["data"]["size"].as_u64().unwrap()).len(),
            "end" => ended += 1,
            "done" => done += 1,
            "the end" => break,
            word => panic!("{word}: {line}"),
        }
    }
    assert_eq!((came, ended, done), (size, 1, 39));
    // It was the server's word, and no cut.
    assert!(talk.is_ended());
}
