//! What runs out: connections, patience, room on either side, and what a user's own machine lacks.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{MIB, Server, World, done_event, noise, not_tested, text, until};
use crate::talk::Talk;

#[test]
fn who_comes_when_all_connections_are_taken_waits_for_one() {
    let world = World::new();
    let server = world.serve_with(&["--max-connections", "3"]);
    world.noise("a", 100);
    let crowd: Vec<Talk> = (0..3).map(|_| Talk::with(server.address)).collect();
    let mut put = world.ftx(server.address, ["put", "a"]).spawn().unwrap();
    let mut waiting = TcpStream::connect(server.address).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut byte = [0];
    std::io::Write::write_all(&mut waiting, b"{\"hello\":{\"ftx\":1}}\n").unwrap();
    assert!(std::io::Read::read(&mut waiting, &mut byte).is_err(), "it was served");
    assert!(put.try_wait().unwrap().is_none(), "it did not wait");
    drop(crowd);
    assert!(put.wait().unwrap().success());
}

#[test]
fn room_that_is_to_stay_free_stays_free() {
    let world = World::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.arg("serve").arg(world.served()).args(["--listen", "127.0.0.1:0"]);
    // More than any disk has.
    command.args(["--min-free", "1000000G"]);
    let server = Server::spawn(command);
    world.noise("big", 9 * MIB);
    let refused = world.run(server.address, &["put", "big"], 4);
    assert!(text(&refused.stderr).contains("no_space"), "{}", text(&refused.stderr));
    until("staging is empty", || world.staged() == 0);
}

#[test]
fn who_trickles_bytes_is_dropped_by_the_deadline_of_the_whole() {
    let world = World::new();
    let server = world.serve_with(&["--header-timeout", "300ms", "--idle-timeout", "400ms"]);
    let part = "{\"put\":{\"id\":1,\"name\":\"a\",\"digest\":\"sha256\",\"size\":5000,\"transfer\":\"00112233445566778899aabbccddeeff\"}}\n{\"data\":{\"id\":1,\"at\":0,\"size\":500}}\n";
    std::thread::scope(|scope| {
        for begin in [
            "{\"hello\":{\"ftx\":1,\"x\":\"",
            "{\"hello\":{\"ftx\":1}}\n{\"ping\":{\"id\":1,\"x\":\"",
            &format!("{{\"hello\":{{\"ftx\":1}}}}\n{part}"),
        ] {
            let socket = TcpStream::connect(server.address).unwrap();
            let mut sending = socket.try_clone().unwrap();
            let mut talk = Talk::over(socket);
            talk.send(begin.as_bytes());
            // One byte at a time, faster than the idle timeout.
            let trickle = scope.spawn(move || {
                let mut sent = 0;
                while std::io::Write::write_all(&mut sending, b"x").is_ok() && sent < 600 {
                    sent += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
                sent
            });
            let mut last = Value::Null;
            loop {
                let line = talk.line();
                if line.is_null() {
                    break;
                }
                last = line;
            }
            assert_eq!(last["error"]["code"], "timeout", "{begin} {last}");
            drop(talk);
            assert!(trickle.join().unwrap() < 100, "{begin} was let go on");
        }
    });
    until("staging is empty", || world.staged() == 0);
}

/// A tmpfs of one MiB, unmounted when dropped; `None`, loudly, where that is not allowed.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(path);
        if mount.output().unwrap().status.success() {
            return Some(Self(path));
        }
        not_tested("this needs root: a get to a disk that is full");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_local_disk_that_is_full_fails_the_get_and_leaves_the_old_file_and_the_room() {
    let world = World::new();
    let server = world.serve();
    let small = world.here().join("small");
    std::fs::create_dir(&small).unwrap();
    let Some(_disk) = SmallDisk::mount(&small) else { return };
    std::fs::write(small.join("big"), "old").unwrap();
    for size in [3 * MIB, 20 * MIB] {
        std::fs::write(world.served().join("big"), noise(size, 1)).unwrap();
        world.run(server.address, &["get", "big", "-o", "small"], 6);
        assert_eq!(std::fs::read(small.join("big")).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(&small).unwrap().count(), 1, "a part of {size} is left");
    }
    let bytes = noise(900_000, 2);
    std::fs::write(world.served().join("fits"), &bytes).unwrap();
    world.run(server.address, &["get", "fits", "-o", "small"], 0);
    assert!(std::fs::read(small.join("fits")).unwrap() == bytes);
}

#[test]
fn a_limit_on_file_sizes_fails_the_get_and_leaves_the_old_file() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("big"), noise(4 * MIB, 1)).unwrap();
    std::fs::write(world.here().join("big"), "old").unwrap();
    let get = Command::new("sh")
        .args(["-c", "ulimit -f 2048; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ftx"), "get", "big"])
        .current_dir(world.here())
        .env("FTX_SERVER", server.address.to_string())
        .env("XDG_STATE_HOME", world.home.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(get.status.code(), Some(6), "{:?} {}", get.status, text(&get.stderr));
    assert_eq!(std::fs::read(world.here().join("big")).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 1, "a part is left");
}

#[test]
fn results_that_cannot_be_printed_are_a_failure_and_a_reader_that_has_enough_is_none() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 100);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let put = world.ftx(server.address, ["put", "a"]).stdout(full).output().unwrap();
    assert_eq!(put.status.code(), Some(6), "{}", text(&put.stderr));
    assert!(world.served().join("a").exists(), "the file is there nevertheless");
    // Content that cannot be written is a failure too.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let get = world.ftx(server.address, ["get", "a", "-o", "-"]).stdout(full).output().unwrap();
    assert_eq!(get.status.code(), Some(6), "{}", text(&get.stderr));
    world.run(server.address, &["get", "a", "-o", "/dev/full"], 6);
    let mut put = world.ftx(server.address, ["put", "a", "--json"]).spawn().unwrap();
    drop(put.stdout.take());
    assert!(put.wait().unwrap().success());
}

#[test]
fn a_state_directory_that_cannot_be_made_is_a_warning() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("big", 9 * MIB);
    std::fs::remove_dir(world.home.path().join("state")).unwrap();
    std::fs::write(world.home.path().join("state"), "a file").unwrap();
    let put = world.run(server.address, &["put", "big"], 0);
    assert!(text(&put.stderr).contains("cannot keep state"), "{}", text(&put.stderr));
    assert!(world.stored("big") == bytes);
    world.run(server.address, &["get", "big", "-o", "back"], 0);
    assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
}

#[test]
fn events_are_one_object_a_line_and_say_what_happened() {
    let world = World::new();
    let server = world.serve();
    let address = server.address;
    world.noise("a", 1_234);
    world.noise("b", 10);
    for action in ["put", "get"] {
        let output = world.run(address, &[action, "a", "--json"], 0);
        assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
        let done = done_event(&output);
        assert_eq!((&done["action"], &done["name"]), (&json!(action), &json!("a")));
        assert_eq!((&done["size"], &done["moved_bytes"]), (&json!(1_234), &json!(1_234)));
        assert_eq!((&done["moved_again_bytes"], &done["read_again_bytes"]), (&json!(0), &json!(0)));
        assert!(done["digest"].as_str().unwrap().starts_with("sha256:"));
        let first: Value =
            serde_json::from_str(text(&output.stdout).lines().next().unwrap()).unwrap();
        assert_eq!(first["event"], "began");
    }
    for (args, class, code) in [
        (&["get", "nothing", "--json"][..], "refused", json!("not_found")),
        (&["put", "missing", "--json"], "local", Value::Null),
        (&["put", "a", "--json", "--as", "../a"], "usage", Value::Null),
    ] {
        let output = world.ftx(address, args).output().unwrap();
        let line = text(&output.stdout);
        let event: Value = serde_json::from_str(line.lines().last().unwrap()).unwrap();
        assert_eq!(event["event"], "failed", "{line}");
        assert_eq!((&event["class"], &event["code"]), (&json!(class), &code), "{line}");
    }
    // Several files: each has its event, and those that are right are there.
    let output = world.ftx(address, ["put", "a", "missing", "b", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(6));
    assert_eq!(text(&output.stdout).matches("\"event\":\"done\"").count(), 2);
    let stat = world.run(address, &["stat", "a", "--json"], 0);
    let stat: Value = serde_json::from_slice(&stat.stdout).unwrap();
    assert_eq!((&stat["info"]["size"], &stat["info"]["kind"]), (&json!(1_234), &json!("file")));
}

#[test]
fn while_a_file_is_replaced_its_name_holds_the_old_one() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", 5_000);
    world.run(server.address, &["put", "a"], 0);
    let old = world.stored("a");
    let new = noise(12 * MIB, 3);
    let mut put =
        world.ftx(server.address, ["put", "-", "--as", "a"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = put.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &new[..10 * MIB]).unwrap();
    until("it is on its way", || world.staged_bytes() > 8 * MIB as u64);
    assert!(world.stored("a") == old);
    assert!(world.run(server.address, &["get", "a", "-o", "-"], 0).stdout == old);
    std::io::Write::write_all(&mut stdin, &new[10 * MIB..]).unwrap();
    drop(stdin);
    assert!(put.wait().unwrap().success());
    assert!(world.stored("a") == new);
}

#[test]
fn a_second_signal_ends_a_server_that_drains_at_once() {
    let world = World::new();
    let mut server = world.serve_with(&["--drain-timeout", "10m"]);
    let mut talk = Talk::with(server.address);
    talk.say(json!({"put": {"id": 1, "name": "a", "digest": "sha256", "size": 50, "transfer": "00112233445566778899aabbccddeeff"}}));
    talk.say(json!({"ping": {"id": 2}}));
    assert_eq!(talk.line()["pong"]["id"], 2);
    let id = server.child.id().to_string();
    let signal = || assert!(Command::new("kill").arg(&id).status().unwrap().success());
    signal();
    until("nobody new is served", || TcpStream::connect(server.address).is_err());
    // What is asked for now is refused, and what runs goes on.
    talk.say(json!({"ping": {"id": 3}}));
    let line = talk.line();
    assert!(line["error"]["code"] == "shutting_down" || line["pong"]["id"] == 3, "{line}");
    assert!(server.child.try_wait().unwrap().is_none());
    signal();
    assert!(!server.child.wait().unwrap().success());
}

#[test]
fn a_client_moves_no_more_than_its_rate_whatever_it_moves() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("a", MIB);
    std::fs::create_dir(world.here().join("tree")).unwrap();
    for part in 0..4 {
        std::fs::write(world.here().join(format!("tree/{part}")), &bytes[..MIB / 4]).unwrap();
    }
    let small: Vec<String> = (0..16).map(|number| format!("small/{number}")).collect();
    std::fs::create_dir(world.served().join("small")).unwrap();
    for name in &small {
        std::fs::write(world.served().join(name), &bytes[..MIB / 16]).unwrap();
    }
    let small: Vec<&str> = small.iter().map(String::as_str).collect();
    let rate = "--limit-rate=2M";
    for args in [
        &["put", "a", rate] as &[&str],
        &["get", "a", "-o", "back", rate],
        &["put", "-r", "tree", rate],
        &["get", "-r", "tree", "-o", "copy", rate],
        &[&["get", rate, "-o", "copy"], &small[..]].concat(),
    ] {
        let began = std::time::Instant::now();
        world.run(server.address, args, 0);
        // Half a second, less the piece for which nobody has to wait.
        assert!(began.elapsed().as_millis() >= 400, "{args:?}: {:?}", began.elapsed());
    }
    assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
    world.run(server.address, &["put", "a", "--limit-rate=0"], 2);
}

#[test]
fn a_transfer_says_what_it_waited_for() {
    let world = World::new();
    let server = world.serve();
    world.noise("a", MIB);
    // Without a sync: a disk that others keep busy would be what it waited for.
    for args in [&["put", "a"] as &[_], &["get", "a", "-o", "b"]] {
        let args = [args, &["--limit-rate=2M", "--durability=none"]].concat();
        let event = done_event(&world.run(server.address, &[&args[..], &["--json"]].concat(), 0));
        assert_eq!(event["limited_by"], "limit_rate", "{event}");
        assert!(event["spent"]["limit_rate"].as_f64().unwrap() > 0.3, "{event}");
        // What a get of this size sends is out of its hands at once: nothing worth telling.
        let server_tells = event["spent"]["server_disk"].is_number();
        assert_eq!(server_tells, event["action"] == "put", "{event}");
        let output = world.run(server.address, &[&args[..], &["-v"]].concat(), 0);
        assert!(text(&output.stderr).contains("limited by: limit rate"), "{output:?}");
    }
    until("the server says it too", || server.log().matches(" hash_us=").count() == 4);
}

#[test]
fn a_server_moves_no_more_than_its_rate_and_each_client_gets_its_share() {
    let world = World::new();
    let server = world.serve_with(&["--limit-rate", "4M"]);
    let bytes = world.noise("a", 2 * MIB);
    let began = std::time::Instant::now();
    world.run(server.address, &["put", "a"], 0);
    assert!(began.elapsed().as_millis() >= 400, "put: {:?}", began.elapsed());
    // What is in the socket's buffers counts when it is put there, not when it is read.
    let began = std::time::Instant::now();
    let mut gets: Vec<_> = (0..4)
        .map(|number| {
            let to = format!("back{number}");
            world.ftx(server.address, ["get", "a", "-o", &to]).spawn().unwrap()
        })
        .collect();
    // Small things are not shut out by the large ones.
    world.run(server.address, &["ping"], 0);
    assert!(gets.iter_mut().any(|get| get.try_wait().unwrap().is_none()));
    for get in gets {
        assert!(get.wait_with_output().unwrap().status.success());
    }
    assert!(began.elapsed().as_millis() >= 1_700, "get: {:?}", began.elapsed());
    assert!(std::fs::read(world.here().join("back3")).unwrap() == bytes);
}
