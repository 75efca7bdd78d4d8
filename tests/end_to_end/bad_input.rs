//! What a server is sent by those who break the rules, and what a disk does to it. Each gets its
//! code, or is dropped by its deadline; everybody else goes on.

use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use crate::harness::{MIB, PATIENCE, Server, World, noise, not_tested, text, to_its_end, until};
use crate::talk::Talk;

const HELLO: &str = "{\"hello\":{\"ftx\":1}}\n";
const EMPTY_DIGEST: &str =
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The first error that a server says to these bytes.
fn error(server: &Server, bytes: &[u8]) -> Option<String> {
    let mut peer = Talk::connect(server.address);
    peer.send(bytes);
    peer.error()
}

fn put_line(fields: &str) -> String {
    format!(
        "{{\"put\":{{\"id\":1,\"digest\":\"sha256\",\"transfer\":\"00112233445566778899aabbccddeeff\",{fields}}}}}\n"
    )
}

/// A good client is served as if nothing had happened.
fn assert_serves(world: &World, server: &Server) {
    let bytes = world.noise("good", 10_000);
    world.run(server.address, &["put", "good"], 0);
    assert!(world.run(server.address, &["get", "good", "-o", "-"], 0).stdout == bytes);
}

#[test]
fn lines_that_are_no_messages_get_their_code() {
    let world = World::new();
    let server = world.serve();
    let before = server.descriptors();
    let long = format!("{{\"hello\":{{\"ftx\":1,\"agent\":\"{}\"}}}}\n", "x".repeat(33_000));
    for (line, code) in [
        (long.as_str(), "line_too_long"),
        ("{\"ping\":{\"id\":1}}\n", "bad_hello"),
        ("{\"hello\":{\"ftx\":2}}\n", "unsupported_version"),
        ("{\"hello\":{\"ftx\":2,\"token\":7}}\n", "unsupported_version"),
        ("{\"hello\":{}}\n", "bad_message"),
        ("{nonsense\n", "bad_message"),
        ("\n", "bad_message"),
        ("\u{1}binary\n", "bad_message"),
    ] {
        assert_eq!(error(&server, line.as_bytes()).as_deref(), Some(code), "{:.60}", line);
    }
    let stat = |fields: &str| format!("{{\"stat\":{{\"id\":1,{fields}}}}}\n");
    for (line, code) in [
        (stat("\"name\":7"), "bad_message"),
        (stat("\"name\":\"a\",\"name\":\"b\""), "bad_message"),
        (stat("\"name\":\"a\",\"x\":18446744073709551616"), "bad_message"),
        (stat("\"name\":\"a\",\"need\":[\"magic\"]"), "unknown_need"),
        (stat("\"name\":\"/etc/passwd\""), "bad_name"),
        (stat("\"name\":\"a/../../etc/passwd\""), "bad_name"),
        (stat("\"name\":\"a//b\""), "bad_name"),
        (stat("\"name\":\"a\\u0000b\""), "bad_name"),
        (stat(&format!("\"name\":\"{}\"", "x".repeat(256))), "bad_name"),
        (stat("\"name\":\"nothing\""), "not_found"),
        ("{\"levitate\":{\"id\":1}}\n".to_owned(), "unknown_request"),
        ("{\"ping\":{\"id\":1}}\n{\"ping\":{\"id\":1}}\n".to_owned(), "bad_id"),
        (HELLO.to_owned(), "bad_hello"),
    ] {
        let lines = format!("{HELLO}{line}");
        assert_eq!(error(&server, lines.as_bytes()).as_deref(), Some(code), "{line:.80}");
    }
    until("all are gone", || server.descriptors() <= before);
    assert_serves(&world, &server);
}

#[test]
fn bodies_that_lie_are_refused_and_leave_nothing() {
    let world = World::new();
    let server = world.serve();
    let data =
        |at: u64, size: u64| format!("{{\"data\":{{\"id\":1,\"at\":{at},\"size\":{size}}}}}\n");
    let end = |size: u64, digest: &str| {
        format!("{{\"end\":{{\"id\":1,\"size\":{size},\"digest\":\"{digest}\"}}}}\n")
    };
    let a = put_line("\"name\":\"a\",\"size\":5");
    let cases = [
        (format!("{a}{}hello{}", data(0, 5), end(5, EMPTY_DIGEST)), "digest_mismatch"),
        (format!("{a}{}hel{}", data(0, 3), end(5, EMPTY_DIGEST)), "size_mismatch"),
        (format!("{a}{}hello!{}", data(0, 6), end(6, EMPTY_DIGEST)), "bad_part"),
        (format!("{a}{}hello", data(1, 5)), "bad_part"),
        (format!("{a}{}", data(0, 2_000_000)), "bad_part"),
        (put_line("\"name\":\"a\",\"size\":18446744073709551615"), "bad_message"),
        (put_line("\"name\":\"a\",\"size\":9007199254740991"), "no_space"),
        (put_line("\"name\":\"a\",\"size\":5,\"at\":9"), "bad_offset"),
        (put_line("\"name\":\"a\",\"size\":9,\"at\":5"), "bad_offset"),
        (put_line("\"name\":\"a\",\"durability\":\"eternal\""), "bad_message"),
        (put_line("\"name\":\"a\",\"if\":{\"version\":\"x\"}"), "version_mismatch"),
        (format!("{a}{}", a.replace("\"id\":1", "\"id\":2")), "bad_message"),
        (format!("{a}{{\"abort\":{{\"id\":1,\"code\":\"changed\"}}}}\n"), "changed"),
    ];
    for (number, (lines, code)) in cases.into_iter().enumerate() {
        // Each its own transfer: the one before may not be over yet.
        let lines = format!("{HELLO}{lines}").replace("00112233", &format!("{number:08x}"));
        assert_eq!(error(&server, lines.as_bytes()).as_deref(), Some(code), "{lines:.300}");
    }
    assert!(!world.served().join("a").exists());
    until("nothing is left in staging", || world.staged() == 0);
    assert_serves(&world, &server);
}

#[test]
fn a_refused_put_costs_neither_the_reason_nor_the_connection() {
    let world = World::new();
    let server = world.serve();
    let mut peer = Talk::with(server.address);
    peer.send(put_line("\"name\":\"../a\",\"size\":3000000").as_bytes());
    for at in [0, MIB, 2 * MIB] {
        peer.part(1, at, &vec![0; MIB]);
    }
    peer.send(b"{\"end\":{\"id\":1,\"size\":3000000,\"digest\":\"");
    peer.send(format!("{EMPTY_DIGEST}\"}}}}\n{{\"ping\":{{\"id\":2}}}}\n").as_bytes());
    assert_eq!(peer.error().as_deref(), Some("bad_name"));
    assert_eq!(peer.line()["pong"]["id"], 2);
}

#[test]
fn other_protocols_get_an_answer_that_they_understand() {
    let world = World::new();
    let server = world.serve();
    let mut browser = Talk::connect(server.address);
    browser.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = text(&browser.rest());
    assert!(answer.starts_with("HTTP/1.1 505 ") && answer.contains("ftx"), "{answer}");
    let mut tls = Talk::connect(server.address);
    tls.send(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]);
    assert_eq!(tls.rest(), [0x15, 3, 1, 0, 2, 2, 0x46]);
}

#[test]
fn nobody_reaches_the_staging_directory_or_anything_outside_by_any_spelling() {
    let world = World::new();
    let server = world.serve();
    let served = world.served();
    let outside = world.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), "secret").unwrap();
    std::fs::create_dir(served.join("dir")).unwrap();
    symlink(".ftx", served.join("link")).unwrap();
    symlink("../.ftx/journal", served.join("dir/journal")).unwrap();
    symlink(&outside, served.join("out")).unwrap();
    symlink("../outside/secret", served.join("up")).unwrap();
    std::fs::hard_link(served.join(".ftx/lock"), served.join("hard")).unwrap();
    symlink("dir", served.join("fine")).unwrap();
    for (name, code) in [
        (".ftx", "reserved_name"),
        (".ftx/journal", "reserved_name"),
        ("link", "reserved_name"),
        ("link/journal", "reserved_name"),
        ("dir/journal", "reserved_name"),
        ("hard", "reserved_name"),
        ("out", "outside_root"),
        ("out/secret", "outside_root"),
        ("up", "outside_root"),
    ] {
        let stat = world.run(server.address, &["stat", name], 4);
        assert!(text(&stat.stderr).contains(code), "stat {name}: {}", text(&stat.stderr));
        let get = world.run(server.address, &["get", name, "-o", "x"], 4);
        assert!(text(&get.stderr).contains(code), "get {name}: {}", text(&get.stderr));
    }
    world.noise("a", 100);
    for (name, code) in [
        (".ftx", "reserved_name"),
        (".ftx/x", "reserved_name"),
        ("link/x", "reserved_name"),
        ("link/staging/x", "reserved_name"),
        ("hard", "reserved_name"),
        ("out/x", "outside_root"),
        ("dir", "is_directory"),
        ("good/x", "not_a_directory"),
    ] {
        std::fs::write(served.join("good"), "file").unwrap();
        let put = world.run(server.address, &["put", "a", "--as", name], 4);
        assert!(text(&put.stderr).contains(code), "put {name}: {}", text(&put.stderr));
    }
    // A symlink that stays inside is followed to read and on the way; the last one is replaced.
    world.run(server.address, &["put", "a", "--as", "fine/a"], 0);
    world.run(server.address, &["get", "dir/a", "-o", "b"], 0);
    world.run(server.address, &["put", "a", "--as", "up"], 0);
    assert!(served.join("up").symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn what_is_no_file_is_refused_and_not_touched() {
    let world = World::new();
    let server = world.serve();
    let fifo = world.served().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    world.noise("a", 100);
    for args in [&["get", "fifo", "-o", "x"][..], &["stat", "fifo"], &["put", "a", "--as", "fifo"]]
    {
        let refused = world.run(server.address, args, 4);
        assert!(text(&refused.stderr).contains("not_a_file"), "{args:?} {}", text(&refused.stderr));
    }
    assert!(!std::fs::metadata(&fifo).unwrap().is_file());
    assert_serves(&world, &server);
}

#[test]
fn who_stalls_is_dropped_by_the_deadline_and_who_is_quiet_costs_nothing() {
    let world = World::new();
    let server = world.serve_with(&["--header-timeout", "300ms", "--idle-timeout", "400ms"]);
    let before = server.descriptors();
    let began = Instant::now();
    let a = put_line("\"name\":\"a\",\"size\":5");
    let other = a.replace("00112233", "33221100");
    let stalls = [
        String::new(),
        "{\"hel".to_owned(),
        HELLO.to_owned(),
        format!("{HELLO}{{\"pi"),
        format!("{HELLO}{a}"),
        format!("{HELLO}{other}{{\"data\":{{\"id\":1,\"at\":0,\"size\":5}}}}\nhe"),
    ];
    let mut peers: Vec<Talk> = stalls
        .iter()
        .map(|bytes| {
            let mut peer = Talk::connect(server.address);
            peer.send(bytes.as_bytes());
            peer
        })
        .collect();
    assert_serves(&world, &server);
    for (peer, stall) in peers.iter_mut().zip(&stalls) {
        assert_eq!(peer.error().as_deref(), Some("timeout"), "{stall}");
    }
    drop(peers);
    assert!(began.elapsed() < PATIENCE);
    // One that asks for much and reads nothing.
    world.noise("big", 64 * MIB);
    world.run(server.address, &["put", "big"], 0);
    let mut deaf = Talk::with(server.address);
    deaf.send(b"{\"get\":{\"id\":1,\"name\":\"big\",\"digest\":\"sha256\"}}\n");
    until("it is dropped", || {
        server.log().contains("code=timeout") && server.descriptors() <= before + 1
    });
    drop(deaf);
    until("all are gone", || server.descriptors() <= before);
    until("nothing is left in staging", || world.staged() == 0);
}

#[test]
fn a_peer_that_closes_at_any_byte_leaves_nothing() {
    let world = World::new();
    let server = world.serve();
    let before = server.descriptors();
    let digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
    let session = format!(
        "{HELLO}{}{{\"data\":{{\"id\":1,\"at\":0,\"size\":5}}}}\nhello\
         {{\"end\":{{\"id\":1,\"size\":5,\"digest\":\"{digest}\"}}}}\n\
         {{\"get\":{{\"id\":2,\"name\":\"a\",\"digest\":\"blake3\"}}}}\n",
        put_line("\"name\":\"a\",\"size\":5")
    );
    for end in 0..session.len() {
        let mut peer = Talk::connect(server.address);
        peer.send(&session.as_bytes()[..end]);
        drop(peer);
    }
    until("all are gone", || server.descriptors() <= before);
    until("nothing is left in staging", || world.staged() == 0);
    assert_serves(&world, &server);
    if let Ok(stored) = std::fs::read(world.served().join("a")) {
        assert_eq!(stored, b"hello", "whole or not at all");
    }
}

#[test]
fn thousands_that_say_nothing_keep_nobody_out() {
    let world = World::new();
    let server = world.serve_with(&["--header-timeout", "2s"]);
    let quiet: Vec<TcpStream> =
        (0..2_000).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    assert_serves(&world, &server);
    drop(quiet);
}

#[test]
fn two_hundred_clients_at_once_are_all_served() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 100_000);
    let clients: Vec<_> = (0..200)
        .map(|number| {
            let name = format!("many/{}", number % 150);
            world.ftx(server.address, ["put", "a", "--as", &name, "-q"]).spawn().unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(std::fs::read_dir(world.served().join("many")).unwrap().count(), 150);
    assert_eq!(world.staged(), 0);
}

#[test]
fn a_server_without_descriptors_serves_again_when_it_has_some() {
    let world = World::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 48; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ftx"), "serve"]);
    command.arg(world.served()).args(["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command);
    let crowd: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    until("it has said so", || server.log().contains("fewer connections"));
    drop(crowd);
    assert_serves(&world, &server);
}

#[test]
fn a_limit_on_file_sizes_ends_the_transfer_and_not_the_server() {
    let world = World::new();
    let mut command = Command::new("sh");
    // In blocks of 512 bytes.
    command.args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ftx"), "serve"]);
    command.arg(world.served()).args(["--listen", "127.0.0.1:0"]);
    let server = Server::spawn(command);
    world.noise("big", 4 * MIB);
    let refused = world.run(server.address, &["put", "big"], 4);
    assert!(text(&refused.stderr).contains("too_large"), "{}", text(&refused.stderr));
    assert_serves(&world, &server);
    until("nothing is left in staging", || world.staged() == 0);
}

#[test]
fn a_file_that_is_too_large_is_refused_at_the_start() {
    let world = World::new();
    let server = world.serve_with(&["--max-size", "1M"]);
    world.noise("big", 4 * MIB);
    let refused = world.run(server.address, &["put", "big"], 4);
    assert!(text(&refused.stderr).contains("too_large"));
    let mut put =
        world.ftx(server.address, ["put", "-", "--as", "x"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    // The server hangs up in the middle, which is the point.
    let _ = std::io::Write::write_all(&mut stdin, &noise(4 * MIB, 3));
    drop(stdin);
    assert_eq!(put.wait().unwrap().code(), Some(4));
    assert_serves(&world, &server);
}

/// Something mounted for one test.
struct Mount<'a>(&'a Path);

impl<'a> Mount<'a> {
    /// `None`, loudly, where the test may not mount.
    fn tmpfs(path: &'a Path, size: &str) -> Option<Self> {
        let mounted: Output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .output()
            .unwrap();
        if mounted.status.success() {
            return Some(Self(path));
        }
        not_tested("this needs root: a full disk, a mount below the directory");
        None
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_is_said_and_its_room_is_back_afterwards() {
    let world = World::new();
    let served = world.served();
    let Some(_mount) = Mount::tmpfs(&served, "1m") else { return };
    let server = world.serve();
    world.noise("big", 3 * MIB);
    let refused = world.run(server.address, &["put", "big"], 4);
    assert!(text(&refused.stderr).contains("no_space"), "{}", text(&refused.stderr));
    let mut put =
        world.ftx(server.address, ["put", "-", "--as", "x"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    let _ = std::io::Write::write_all(&mut stdin, &noise(3 * MIB, 3));
    drop(stdin);
    let output = put.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(text(&output.stderr).contains("no_space"), "{}", text(&output.stderr));
    until("nothing is left in staging", || world.staged() == 0);
    let bytes = world.noise("fits", 900_000);
    let put = world.run(server.address, &["put", "fits", "--json"], 0);
    assert!(text(&put.stdout).contains("\"durability\":\"memory\""));
    assert!(world.stored("fits") == bytes);
    drop(server);
}

#[test]
fn a_mount_below_the_directory_is_read_and_not_written() {
    let world = World::new();
    let below = world.served().join("below");
    std::fs::create_dir(&below).unwrap();
    let Some(_mount) = Mount::tmpfs(&below, "1m") else { return };
    let server = world.serve();
    std::fs::write(below.join("a"), "content").unwrap();
    assert_eq!(world.run(server.address, &["get", "below/a", "-o", "-"], 0).stdout, b"content");
    world.noise("b", 100);
    let refused = world.run(server.address, &["put", "b", "--as", "below/b"], 4);
    assert!(text(&refused.stderr).contains("other_filesystem"), "{}", text(&refused.stderr));
    drop(server);
}

#[test]
fn what_nobody_goes_on_with_is_dropped_after_its_time() {
    let world = World::new();
    let server = world.serve_with(&["--partial-ttl", "400ms"]);
    let mut peer = Talk::with(server.address);
    peer.send(put_line("\"name\":\"a\",\"size\":20000000").as_bytes());
    for part in 0..9 {
        peer.part(1, part * MIB, &vec![7; MIB]);
    }
    assert_eq!(peer.line()["kept"]["at"], 8 * MIB);
    drop(peer);
    until("it is dropped", || world.staged() == 0);
    until("it is said", || server.log().contains("nobody went on with"));
    let mut peer = Talk::with(server.address);
    peer.send(b"{\"resume\":{\"id\":1,\"transfer\":\"00112233445566778899aabbccddeeff\"}}\n");
    assert_eq!(peer.line()["held"]["state"], "nothing");
}

#[test]
fn what_the_system_refuses_is_told_once_and_without_its_numbers() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.here().join("file"), "").unwrap();
    std::fs::create_dir(world.here().join("dir")).unwrap();
    let served = world.served();
    let served = served.to_str().unwrap();
    let locked = ["serve", "dir", "--require-token", "--cert", "no.pem", "--key", "no.pem"];
    for (args, code, words) in [
        (&["serve", "file"][..], 1, "file is not a directory"),
        (&["serve", served], 1, "another ftx server is serving this directory"),
        (&["serve", "no/such/place"], 1, "No such file or directory"),
        (&["serve", "dir", "--require-token", "--state", "file"], 1, "File exists"),
        (&locked, 1, "No such file or directory"),
        (&["token", "--of", "nodir", "add", "a", "--can", "read"], 6, "No such file or directory"),
        (&["man", "nodir"], 6, "No such file or directory"),
        (&["put", "file", "--exclude-from", "nofile"], 6, "No such file or directory"),
        (&["completions", "bash"], 6, "No space left on device"),
    ] {
        let mut command = world.ftx(server.address, args);
        if args[0] == "serve" {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        // What is written there finds no room.
        command.stdout(std::fs::File::create("/dev/full").unwrap());
        let output = to_its_end(command.spawn().unwrap());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert_eq!(said.matches(words).count(), 1, "{args:?}: {said}");
        assert!(!said.contains("os error"), "{args:?}: {said}");
    }
}

#[test]
fn a_word_that_is_wrong_is_answered_with_what_is_right() {
    let world = World::new();
    let server = world.serve();
    for (args, words) in [
        (["get", "ftx://"].as_slice(), "\"\" is no server address; write host:port"),
        (&["mkdir", "never", "-s", ""], "\"\" is no server address; write host:port"),
        (&["put", "-0", "a"], "'--null' cannot be used with '[FILE]...'"),
        (&["put", "-0"], "--files-from <FILE>"),
        (&["ls", "--server="], "\"\" is no server address; write host:port"),
        (&["serve", "dir", "--listen", "localhost:0"], "such as 127.0.0.1:7389"),
        (&["serve", "dir", "--max-size", "99999999T"], "it is too large"),
    ] {
        let said = text(&world.run(server.address, args, 2).stderr);
        assert!(said.contains(words), "{args:?}: {said}");
    }
}
