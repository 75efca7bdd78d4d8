//! The client, and a server that lies, is broken, or goes silent: nothing of it becomes a file, and
//! the exit code says what it was.

use std::net::{Shutdown, SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{MIB, PATIENCE, World, text, to_its_end};
use crate::talk::{HELLO_DIGEST, Talk};

const OTHER_DIGEST: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn welcome(talk: &mut Talk) {
    talk.say(json!({"welcome": {"ftx": 1, "features": ["sha256"], "limits": {
        "line": 32_768, "part": 1_048_576, "requests": 4_096, "grid": 8_388_608, "file": 1u64 << 40,
    }}}));
}

/// Answers each connection after its hello and its request as `lie` does.
pub fn liar(lie: impl Fn(&mut Talk, &Value) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let mut talk = Talk::over(socket);
            talk.line();
            welcome(&mut talk);
            let request = talk.line();
            lie(&mut talk, &request);
            // Until the client has gone, so that nothing that was said is lost.
            while !talk.line().is_null() {}
        }
    });
    address
}

fn file(talk: &mut Talk, id: &Value, size: u64) {
    talk.say(json!({"file": {"id": id, "size": size, "at": 0, "version": "v", "mtime": [0, 0], "mode": 420}}));
}

/// Gets `a` from a liar to where an old file is, which has to stay, and nothing beside it.
fn get(world: &World, server: SocketAddr, code: i32) -> Output {
    std::fs::write(world.here().join("a"), "old").unwrap();
    let output = world.run(server, &["get", "a", "--retry-for", "0"], code);
    assert_eq!(std::fs::read(world.here().join("a")).unwrap(), b"old");
    let beside = std::fs::read_dir(world.here()).unwrap().count();
    assert_eq!(beside, 1, "something is left beside the file: {}", text(&output.stderr));
    assert!(output.stdout.is_empty(), "nothing was got: {}", text(&output.stdout));
    output
}

#[test]
fn bytes_with_another_digest_than_the_server_says_are_no_file() {
    let world = World::new();
    let server = liar(|talk, request| {
        let id = request["get"]["id"].as_u64().unwrap();
        file(talk, &json!(id), 5);
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "size": 5, "digest": OTHER_DIGEST}}));
    });
    get(&world, server, 5);
    let output = world.run(server, &["get", "a", "-o", "-", "--json"], 5);
    assert!(text(&output.stderr).contains("\"class\":\"integrity\""), "{}", text(&output.stderr));
}

#[test]
fn a_second_reading_that_is_right_is_taken() {
    let world = World::new();
    let server = liar(|talk, request| {
        let id = request["get"]["id"].as_u64().unwrap();
        file(talk, &json!(id), 5);
        talk.part(id, 0, b"hello");
        let right = request["get"]["cache"] == "bypass";
        let digest = if right { HELLO_DIGEST } else { OTHER_DIGEST };
        talk.say(json!({"end": {"id": id, "size": 5, "digest": digest}}));
    });
    world.run(server, &["get", "a"], 0);
    assert_eq!(std::fs::read(world.here().join("a")).unwrap(), b"hello");
}

#[test]
fn bodies_that_are_shorter_longer_or_elsewhere_than_announced_are_no_file() {
    let world = World::new();
    for (parts, size) in [
        (vec![(0, &b"hell"[..])], 5),
        (vec![(0, b"hello"), (5, b"!")], 5),
        (vec![(1, b"hello")], 5),
        (vec![(0, b"hello"), (0, b"hello")], 10),
        (vec![], 5),
    ] {
        let shown = format!("{parts:?} of {size}");
        let server = liar(move |talk, request| {
            let id = request["get"]["id"].as_u64().unwrap();
            file(talk, &json!(id), size);
            for (at, bytes) in &parts {
                talk.part(id, *at, bytes);
            }
            talk.say(json!({"end": {"id": id, "size": size, "digest": HELLO_DIGEST}}));
        });
        std::fs::write(world.here().join("a"), "old").unwrap();
        let output = world.ftx(server, ["get", "a", "--retry-for", "0"]).output().unwrap();
        let code = output.status.code().unwrap();
        assert!([3, 5].contains(&code), "{shown}: {code} {}", text(&output.stderr));
        assert_eq!(std::fs::read(world.here().join("a")).unwrap(), b"old", "{shown}");
        assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 1, "{shown}");
    }
}

#[test]
fn a_server_that_acknowledges_something_else_is_not_believed() {
    let world = World::new();
    for (size, digest) in [(5, OTHER_DIGEST), (6, HELLO_DIGEST)] {
        let server = liar(move |talk, request| {
            let id = &request["put"]["id"];
            talk.past_parts();
            talk.say(
                json!({"done": {"id": id, "size": size, "digest": digest, "durability": "full"}}),
            );
        });
        std::fs::write(world.here().join("a"), "hello").unwrap();
        let output = world.ftx(server, ["put", "a", "--retry-for", "0"]).output().unwrap();
        let code = output.status.code().unwrap();
        assert!([3, 5].contains(&code), "{digest} {size}: {code} {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    }
}

#[test]
fn what_is_acknowledged_to_a_put_that_is_interrupted_meanwhile_is_told() {
    let world = World::new();
    std::fs::write(world.here().join("a"), "hello").unwrap();
    let (tell, told) = channel();
    let server = liar(move |talk, request| {
        let id = &request["put"]["id"];
        talk.past_parts();
        tell.send(()).unwrap();
        // Until the client has no more to say.
        assert!(talk.line().is_null());
        let digest = HELLO_DIGEST;
        talk.say(json!({"done": {"id": id, "size": 5, "digest": digest, "durability": "full"}}));
        talk.stream().shutdown(Shutdown::Both).unwrap();
    });
    let put = world.ftx(server, ["put", "-r", "a"]).spawn().unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    let id = put.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = to_its_end(put);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let hex = HELLO_DIGEST.strip_prefix("sha256:").unwrap();
    assert_eq!(text(&output.stdout), format!("{hex}  a\n"));
}

#[test]
fn what_is_removed_for_a_put_that_is_interrupted_meanwhile_is_told() {
    let world = World::new();
    std::fs::create_dir(world.here().join("tree")).unwrap();
    let (tell, told) = channel();
    let server = liar(move |talk, request| {
        let mut request = request.clone();
        while !request.is_null() {
            let (kind, id) = request
                .as_object()
                .and_then(|request| request.iter().next())
                .map(|(kind, fields)| (kind.as_str(), fields["id"].clone()))
                .unwrap();
            match kind {
                "list" => talk.say(json!({"entries": {"id": id, "entries": [
                    {"name": "tree/extra", "kind": "file", "size": 5, "mtime": [0, 0], "mode": 420}
                ]}})),
                "remove" => {
                    tell.send(()).unwrap();
                    // Until the client has no more to say.
                    while !talk.line().is_null() {}
                }
                _ => {}
            }
            if kind != "more" {
                talk.say(json!({"ok": {"id": id, "durability": "full"}}));
            }
            request = talk.line();
        }
        talk.stream().shutdown(Shutdown::Both).unwrap();
    });
    let put = world.ftx(server, ["put", "-r", "--delete", "tree"]).spawn().unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    let id = put.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = to_its_end(put);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("tree/extra"), "{}", text(&output.stdout));
}

/// What has happened to it since an earlier run put it is asked, and whoever has no time has not answered.
#[test]
fn an_acknowledgement_of_the_past_does_not_hold_because_a_server_is_busy() {
    let world = World::new();
    world.noise("big", 8 * MIB);
    let puts = AtomicUsize::new(0);
    let server = liar(move |talk, request| {
        let id = request[if request["put"].is_null() { "resume" } else { "put" }]["id"].clone();
        if !request["stat"].is_null() {
            let id = &request["stat"]["id"];
            return talk
                .say(json!({"error": {"id": id, "code": "busy", "message": "Come again."}}));
        }
        if !request["resume"].is_null() {
            talk.say(json!({"held": {"id": id, "state": "nothing", "ranges": []}}));
            talk.line();
        }
        let (end, _) = talk.past_parts();
        if puts.fetch_add(1, Ordering::SeqCst) == 0 {
            // The acknowledgement is lost.
            talk.stream().shutdown(Shutdown::Both).unwrap();
        }
        let (size, digest) = (&end["end"]["size"], &end["end"]["digest"]);
        talk.say(json!({"done": {
            "id": end["end"]["id"], "size": size, "digest": digest, "durability": "full", "replayed": "changed",
        }}));
    });
    world.run(server, &["put", "big", "--retry-for", "0"], 3);
    let output = world.run(server, &["put", "big", "--retry-for", "0"], 4);
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains("(busy)"), "{}", text(&output.stderr));
}

#[test]
fn what_was_given_up_is_not_forgotten_because_a_server_is_busy() {
    let world = World::new();
    world.noise("big", 8 * MIB);
    let (resumes, (tell, told)) = (AtomicUsize::new(0), channel());
    let server = liar(move |talk, request| {
        let (resume, id) = (&request["resume"], &request["resume"]["id"]);
        if resume.is_null() {
            talk.past_parts();
            return talk.stream().shutdown(Shutdown::Both).unwrap();
        }
        tell.send(resume["transfer"].clone()).unwrap();
        if resumes.fetch_add(1, Ordering::SeqCst) == 0 {
            return talk
                .say(json!({"error": {"id": id, "code": "busy", "message": "Come again."}}));
        }
        talk.say(json!({"held": {"id": id, "state": "nothing", "ranges": []}}));
        talk.line();
        let (end, _) = talk.past_parts();
        let (size, digest) = (&end["end"]["size"], &end["end"]["digest"]);
        talk.say(json!({"done": {
            "id": end["end"]["id"], "size": size, "digest": digest, "durability": "full",
        }}));
    });
    world.run(server, &["put", "big", "--retry-for", "0"], 3);
    world.noise("big", 9 * MIB);
    world.run(server, &["put", "big"], 0);
    let asked: Vec<Value> = told.try_iter().collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[0], asked[1], "the old one is asked about until there is an answer");
}

#[test]
fn a_source_that_cannot_be_read_is_not_said_to_have_changed() {
    let world = World::new();
    let (heard, closed_with) = channel();
    let server = liar(move |talk, request| {
        let (closed, _) = talk.past_parts();
        heard.send(closed["abort"]["code"].clone()).unwrap();
        let code = &closed["abort"]["code"];
        talk.say(json!({"error": {"id": request["put"]["id"], "code": code, "message": "As it was asked for."}}));
    });
    let mut put = world.ftx(server, ["put", "-", "--as", "a", "--retry-for", "0"]);
    // It opens, and cannot be read.
    put.stdin(std::fs::File::open(world.here()).unwrap());
    let output = put.output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    assert_eq!(closed_with.recv().unwrap(), "aborted");
}

#[test]
fn a_server_that_acknowledges_less_than_was_asked_for_is_not_believed() {
    let world = World::new();
    let server = liar(|talk, request| {
        talk.past_parts();
        let id = &request["put"]["id"];
        talk.say(
            json!({"done": {"id": id, "size": 5, "digest": HELLO_DIGEST, "durability": "none"}}),
        );
    });
    std::fs::write(world.here().join("a"), "hello").unwrap();
    let output = world.ftx(server, ["put", "a", "--retry-for", "0"]).output().unwrap();
    assert!(!output.status.success(), "{}", text(&output.stdout));
}

#[test]
fn what_is_no_ftx_server_is_an_error_of_the_network_and_no_file() {
    let world = World::new();
    for garbage in [
        &b""[..],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"{\"welcome\":{\"ftx\":9}}\n",
        b"\x00\xff\x00\xff\n",
        b"{\"file\":{\"id\":1}}\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let mut talk = Talk::over(socket);
                talk.line();
                talk.send(garbage);
            }
        });
        get(&world, address, 3);
    }
}

#[test]
fn a_line_without_end_is_not_kept_in_memory() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sent = std::thread::spawn(move || {
        use std::io::Write;
        let (mut socket, _) = listener.accept().unwrap();
        let mut sent: u64 = 0;
        // Until it hangs up, or has taken far more than a line may have.
        while sent < 1 << 30 && socket.write_all(&[b'x'; 65_536]).is_ok() {
            sent += 65_536;
        }
        sent
    });
    get(&world, address, 3);
    assert!(sent.join().unwrap() < 1 << 28);
}

#[test]
fn a_name_from_a_server_is_never_written_to() {
    let world = World::new();
    let server = liar(|talk, request| {
        let id = request["get"]["id"].as_u64().unwrap();
        talk.say(json!({"file": {"id": id, "name": "../evil", "size": 5, "at": 0, "version": "v", "mtime": [-1, 999_999_999], "mode": 0o7777}}));
        talk.part(id, 0, b"hello");
        talk.say(json!({"end": {"id": id, "name": "../evil", "size": 5, "digest": HELLO_DIGEST}}));
    });
    world.run(server, &["get", "a"], 0);
    assert!(!world.home.path().join("evil").exists());
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(world.here().join("a")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o777, "setuid, setgid and sticky do not travel");
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-1, 999_999_999));
}

/// Rule 4.12: what ran was answered, and the rest was never begun.
#[test]
fn what_a_connection_may_not_ask_any_more_is_asked_on_another_one() {
    let world = World::new();
    let connections = AtomicUsize::new(0);
    let server = liar(move |talk, request| {
        let info = |talk: &mut Talk, request: &Value| {
            let id = &request["stat"]["id"];
            talk.say(
                json!({"info": {"id": id, "kind": "file", "size": 5, "mtime": [0, 0], "mode": 420,
                "version": "v", "digest": HELLO_DIGEST}}),
            );
        };
        info(talk, request);
        match connections.fetch_add(1, Ordering::SeqCst) {
            0 => {
                let next = talk.line();
                talk.say(
                    json!({"error": {"id": next["stat"]["id"], "code": "busy", "message": ""}}),
                );
                // Of the third one nothing is heard.
                talk.say(json!({"error": {"code": "busy", "message": ""}}));
            }
            _ => {
                let next = talk.line();
                info(talk, &next);
            }
        }
    });
    let output = world.run(server, &["sum", "a", "b", "c"], 0);
    assert_eq!(text(&output.stdout).lines().count(), 3);
}

/// A server that stops answers what runs, and says then that it does: both may come at once.
#[test]
fn what_is_answered_with_a_servers_last_words_is_answered() {
    let world = World::new();
    let changes: [&[&str]; 3] = [&["rm", "a"], &["mv", "a", "b"], &["mkdir", "a"]];
    let questions: [&[&str]; 3] = [&["stat", "a"], &["ls"], &["get", "a", "--retry-for", "0"]];
    for args in changes.into_iter().chain(questions) {
        let connections = AtomicUsize::new(0);
        let server = liar(move |talk, request| {
            let mut request = request.clone();
            // What `mv` asks first: whether the new name is a directory.
            if args[0] == "mv" && !request["stat"].is_null() {
                let id = &request["stat"]["id"];
                talk.say(json!({"error": {"id": id, "code": "not_found", "message": ""}}));
                request = talk.line();
            }
            let (kind, fields) = request.as_object().unwrap().iter().next().unwrap();
            let id = fields["id"].as_u64().unwrap();
            let answer = match kind.as_str() {
                "stat" => json!({"info": {"id": id, "kind": "file", "size": 5, "mtime": [0, 0],
                    "mode": 420, "version": "v"}}),
                "get" => {
                    file(talk, &json!(id), 5);
                    talk.part(id, 0, b"hello");
                    json!({"end": {"id": id, "size": 5, "digest": HELLO_DIGEST}})
                }
                "list" => json!({"ok": {"id": id}}),
                _ => json!({"ok": {"id": id, "durability": "full"}}),
            };
            let last = json!({"error": {"code": "shutting_down", "message": "It stops."}});
            talk.send(format!("{answer}\n{last}\n").as_bytes());
            assert_eq!(connections.fetch_add(1, Ordering::SeqCst), 0, "asked again: {args:?}");
        });
        world.run(server, args, 0);
    }
}

#[test]
fn what_was_not_asked_before_a_servers_last_words_is_asked_of_the_next_one() {
    let world = World::new();
    let connections = AtomicUsize::new(0);
    let server = liar(move |talk, request| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        let more = if number == 0 { talk.line() } else { Value::Null };
        let ids = [request, &more].map(|request| request["remove"]["id"].as_u64());
        let answers = ids.into_iter().flatten();
        let answers = answers.map(|id| json!({"ok": {"id": id, "durability": "full"}}));
        let last = json!({"error": {"code": "shutting_down", "message": "It stops."}});
        let said = answers.chain([last]).map(|line| line.to_string() + "\n");
        talk.send(said.collect::<String>().as_bytes());
    });
    // The lines of two of these are more than a client asks at once.
    let long = ["\u{1}".repeat(250).as_str(); 15].join("/");
    let names = ["a", "b", "c"].map(|first| format!("{first}/{long}"));
    let output = world.run(server, &["rm", &names[0], &names[1], &names[2]], 0);
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

/// It would be told that there is nothing of that name, which it has just removed.
#[test]
fn a_change_that_may_have_been_made_is_not_made_again_because_a_server_is_busy() {
    let world = World::new();
    let connections = AtomicUsize::new(0);
    let server = liar(move |talk, request| {
        assert!(!request["remove"].is_null());
        if connections.fetch_add(1, Ordering::SeqCst) > 0 {
            let id = &request["remove"]["id"];
            return talk.say(json!({"error": {"id": id, "code": "not_found", "message": ""}}));
        }
        talk.say(json!({"error": {"code": "busy", "message": ""}}));
    });
    let output = world.run(server, &["rm", "a"], 4);
    let said = text(&output.stderr);
    assert!(said.contains("(busy)") && said.contains("it may have been done"), "{said}");
}

/// A line that is dead for a while brings later what a command has left behind, when it has been told to have failed, and
/// others have asked for something since.
#[test]
fn a_change_that_was_given_up_is_not_asked_for_later() {
    const NAMES: usize = 300;
    let world = World::new();
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Nothing but hello and a little more leaves the client, whose server reads nothing.
    listener.set_recv_buffer_size(2 * 1024).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(1).unwrap();
    let listener = TcpListener::from(listener);
    let server = listener.local_addr().unwrap();
    let (tell_end, end) = channel::<()>();
    let server_side = std::thread::spawn(move || {
        let mut talk = Talk::over(listener.accept().unwrap().0);
        talk.line();
        welcome(&mut talk);
        assert!(!talk.line()["remove"].is_null());
        talk.say(json!({"error": {"code": "internal", "message": "It broke."}}));
        end.recv().unwrap_err();
        let rest = std::iter::from_fn(|| Some(talk.line()).filter(|line| !line.is_null()));
        rest.count()
    });
    let name = |number| format!("{number:0>200}");
    let names: Vec<String> = (0..NAMES).map(name).collect();
    let args: Vec<&str> = ["rm"].into_iter().chain(names.iter().map(String::as_str)).collect();
    let output = world.run(server, &args, 4);
    drop(tell_end);
    let said = text(&output.stderr);
    let (_, more) = said.split_once("it may have been done all the same, and so may ").unwrap();
    let more: usize = more.strip_suffix(" more\n").unwrap().parse().unwrap();
    // The first one was read.
    let came = server_side.join().unwrap();
    assert!(came < more, "{came} of {more} came after the command had failed");
}

/// Rule 14.11: it was not even looked at.
#[test]
fn a_change_is_asked_for_again_of_a_server_that_was_too_busy_to_let_anybody_in() {
    let world = World::new();
    for (turned_away, code) in [(1, 0), (2, 4)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (number, socket) in listener.incoming().flatten().enumerate() {
                let mut talk = Talk::over(socket);
                talk.line();
                if number < turned_away {
                    talk.say(json!({"error": {"code": "busy", "message": "Come again."}}));
                } else {
                    welcome(&mut talk);
                    let request = talk.line();
                    talk.say(json!({"ok": {"id": request["remove"]["id"], "durability": "full"}}));
                }
                while !talk.line().is_null() {}
            }
        });
        let output = world.run(server, &["rm", "a"], code);
        let said = text(&output.stderr);
        assert!(!said.contains("may have been done"), "{said}");
        assert_eq!(said.contains("(busy)"), code != 0, "{said}");
    }
}

#[test]
fn a_server_that_lets_nobody_ask_is_not_asked_without_end() {
    let world = World::new();
    let server = liar(|talk, request| {
        let id = &request["stat"]["id"];
        talk.say(json!({"error": {"id": id, "code": "busy", "message": ""}}));
    });
    let output = world.run(server, &["stat", "a"], 4);
    assert!(text(&output.stderr).contains("(busy)"), "{}", text(&output.stderr));
}
