//! Sockets that are handed over to the server, as systemd does.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use crate::harness::{PATIENCE, Server, World, not_tested, run_to_its_end, text, until};
use crate::talk::{HELLO_DIGEST, Talk};

/// A server that gets this socket as its descriptor 3, and words about it in its environment.
fn handed(world: &World, socket: impl Into<OwnedFd>, announced: &str, options: &[&str]) -> Command {
    let mut command = Command::new("sh");
    let script = format!("{announced} exec \"$@\" 3<&0 0</dev/null");
    command.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_ftx"), "serve", "--min-free", "0"]);
    command.env("XDG_STATE_HOME", world.home.path().join("state-of-the-server"));
    command.arg(world.served()).args(options).stdin(Stdio::from(socket.into()));
    command
}

const ANNOUNCED: &str = "LISTEN_FDS=1 LISTEN_PID=$$";

fn refused(mut command: Command) -> String {
    // Its stdin is the socket.
    let output = run_to_its_end(&mut command);
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

/// A program that is killed when dropped, whatever the test came to.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn puts_hello(server: SocketAddr, id: u64, name: &str) {
    let mut talk = Talk::with(server);
    talk.put_hello(id, name, "full");
    assert_eq!(talk.line()["done"]["digest"], HELLO_DIGEST);
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_outlives_the_server() {
    let world = World::new();
    let kept = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = kept.local_addr().unwrap();
    let mut first =
        Server::spawn_with_stdin(&mut handed(&world, kept.try_clone().unwrap(), ANNOUNCED, &[]));
    assert_eq!(first.address, address);
    puts_hello(address, 1, "first");
    first.signal("-TERM");
    assert!(first.child.wait().unwrap().success());
    // Whoever comes between the two waits for the second.
    let waiting = TcpStream::connect(address).unwrap();
    let _second = Server::spawn_with_stdin(&mut handed(&world, kept, ANNOUNCED, &[]));
    let mut talk = Talk::over(waiting);
    talk.say(serde_json::json!({"hello": {"ftx": 1}}));
    assert!(talk.line()["welcome"].is_object());
    puts_hello(address, 2, "second");
    assert_eq!(world.stored("first"), world.stored("second"));
}

#[test]
fn a_socket_that_others_can_reach_is_locked_as_such_an_address_is() {
    let world = World::new();
    let exposed = TcpListener::bind("0.0.0.0:0").unwrap();
    let near = SocketAddr::from(([127, 0, 0, 1], exposed.local_addr().unwrap().port()));
    let mut command = handed(&world, exposed.try_clone().unwrap(), ANNOUNCED, &[]);
    let server = Server::spawn_with_stdin(&mut command);
    let mut peer = Talk::connect(near);
    peer.send(b"{\"hello\":{\"ftx\":1}}\n");
    assert_eq!(peer.error().as_deref(), Some("tls_required"));
    let said = || server.said();
    until("it says how to connect", || said().ends_with('\n'));
    assert!(said().starts_with("to connect: ftx login ftx://"), "{}", said());
    assert!(said().contains("#sha256:") && !said().contains("0.0.0.0"), "{}", said());
    drop(server);
    // As it was before there were locks; by two words.
    let words = ["--allow-anyone", "--allow-plaintext"];
    let server = Server::spawn_with_stdin(&mut handed(&world, exposed, ANNOUNCED, &words));
    puts_hello(near, 1, "a");
    drop(server);
}

/// A socket for both families, such as systemd makes, calls it `::ffff:127.0.0.1`.
#[test]
fn a_client_over_ipv4_is_logged_under_its_own_address() {
    let world = World::new();
    let both = TcpListener::bind("[::ffff:127.0.0.1]:0").unwrap();
    let near = SocketAddr::from(([127, 0, 0, 1], both.local_addr().unwrap().port()));
    let server = Server::spawn_with_stdin(&mut handed(&world, both, ANNOUNCED, &[]));
    puts_hello(near, 1, "a");
    until("the put is in the log", || server.log().contains(" name=a "));
    assert!(server.log().contains(" peer=127.0.0.1:"), "{}", server.log());
}

#[test]
fn what_is_announced_wrongly_is_told_and_what_is_for_another_is_left() {
    let world = World::new();
    let socket = || TcpListener::bind("127.0.0.1:0").unwrap();
    for (announced, options, told) in [
        (ANNOUNCED, &["--listen", "127.0.0.1:0"][..], "nothing to --listen on"),
        ("LISTEN_FDS=40 LISTEN_PID=$$", &[], "handed over"),
        ("LISTEN_FDS=-1 LISTEN_PID=$$", &[], "LISTEN_FDS is \"-1\""),
        ("LISTEN_FDS=1 LISTEN_PID=me", &[], "LISTEN_PID is \"me\""),
    ] {
        let said = refused(handed(&world, socket(), announced, options));
        assert!(said.contains(told), "{announced}: {said}");
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    let said = refused(handed(&world, file, ANNOUNCED, &[]));
    assert!(said.contains("cannot listen on a socket that was handed over"), "{said}");
    for announced in ["LISTEN_FDS=1 LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDS=0 LISTEN_PID=$$"] {
        let left = socket();
        let address = left.local_addr().unwrap();
        let server = Server::spawn_with_stdin(&mut handed(
            &world,
            left,
            announced,
            &["--listen", "127.0.0.1:0"],
        ));
        assert_ne!(server.address, address, "{announced}");
    }
}

#[test]
fn systemd_socket_activate_starts_it() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::new();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &address.to_string(), env!("CARGO_BIN_EXE_ftx"), "serve"]);
    command.arg(world.served()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("XDG_STATE_HOME", world.home.path().join("state-of-the-server"));
    let Ok(_started) = command.spawn().map(Started) else {
        return not_tested("this needs the program systemd-socket-activate (the package systemd)");
    };
    let end = std::time::Instant::now() + PATIENCE;
    // It starts the server when somebody comes.
    let socket = loop {
        match TcpStream::connect(address) {
            Ok(socket) => break socket,
            Err(error) => assert!(std::time::Instant::now() < end, "{error}"),
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let mut talk = Talk::over(socket);
    talk.say(serde_json::json!({"hello": {"ftx": 1}}));
    let welcome = talk.line();
    assert!(welcome["welcome"].is_object(), "{welcome}");
}

#[test]
fn the_units_are_valid_and_lock_the_service_in() {
    let place = tempfile::tempdir().unwrap();
    let contrib = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib");
    let units = ["ftx.service", "ftx.socket"].map(|name| {
        let unit = std::fs::read_to_string(contrib.join(name)).unwrap();
        let path = place.path().join(name);
        // It is not installed here.
        let unit = unit.replace("/usr/local/bin/ftx", env!("CARGO_BIN_EXE_ftx"));
        std::fs::write(&path, unit).unwrap();
        path
    });
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").args(&units).output() else {
        return not_tested(
            "this needs the program systemd-analyze (the package systemd): contrib/",
        );
    };
    let said = text(&verified.stderr);
    assert!(verified.status.success() && !said.contains("ftx."), "{said}");
    let mut locked = Command::new("systemd-analyze");
    locked.args(["security", "--offline=yes", "--threshold=15"]).arg(&units[0]);
    let locked = locked.output().unwrap();
    let said = text(&locked.stderr);
    if said.contains("--offline") {
        return not_tested("this systemd-analyze is too old: how far the service is locked in");
    }
    assert!(locked.status.success(), "{said}{}", text(&locked.stdout));
}

#[test]
fn a_port_that_is_taken_is_told_with_what_to_do() {
    let world = World::new();
    let server = world.serve();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
    command.arg("serve").arg(world.here()).args(["--listen", &server.address.to_string()]);
    command.env("XDG_STATE_HOME", world.home.path().join("state-of-the-server"));
    let output = run_to_its_end(command.stdin(Stdio::null()));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use. If another server is there, --listen takes"), "{said}");
    assert!(!said.contains("os error"), "{said}");
}
