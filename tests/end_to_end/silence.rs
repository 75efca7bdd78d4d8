//! One side says nothing for long: the other one knows what that means.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, World, done_event, noise, text, to_its_end, until};

/// A client's patience with a server that owes it something (rule 10.2).
const SILENCE: Duration = Duration::from_secs(30);

/// What a client may take longer than that, on a busy machine, until it is back.
const SLACK: Duration = Duration::from_secs(15);

fn pass(mut from: TcpStream, mut to: TcpStream) {
    // Whichever way it ends, it is over.
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// A server that takes what the first connection sends, says nothing, and does not close; for the
/// later ones it is the real one.
fn silent_at_first(server: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut silent, _) = listener.accept().unwrap();
        std::thread::spawn(move || while let Ok(1..) = silent.read(&mut [0; 65_536]) {});
        for near in listener.incoming().flatten() {
            let far = TcpStream::connect(server).unwrap();
            let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || pass(near, far));
            std::thread::spawn(move || pass(far_back, near_back));
        }
    });
    address
}

#[test]
fn a_server_that_falls_silent_is_given_up_and_tried_again() {
    let world = World::new();
    let server = world.serve();
    let bytes = world.noise("a", 5_000_000);
    std::fs::write(world.served().join("b"), &bytes).unwrap();
    let began = Instant::now();
    // Both at once, so that it is waited for once.
    let clients = [&["put", "a", "--json"], &["get", "b", "--json"]]
        .map(|args| world.ftx(silent_at_first(server.address), args).spawn().unwrap());
    for client in clients {
        let output = client.wait_with_output().unwrap();
        let took = began.elapsed();
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(took >= SILENCE, "given up too early: {took:?}");
        assert!(took <= SILENCE + SLACK, "given up late: {took:?}");
        assert_eq!(done_event(&output)["connections"], 2);
        assert!(
            text(&output.stdout).contains("\"event\":\"retrying\""),
            "{}",
            text(&output.stdout)
        );
    }
    assert!(world.stored("a") == bytes);
    assert!(std::fs::read(world.here().join("b")).unwrap() == bytes);
}

/// A line that counts the parts without bytes that go up through it.
fn counting(server: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let mut far = TcpStream::connect(server).unwrap();
            let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || pass(far_back, near_back));
            let mut near = BufReader::new(near);
            let mut line = String::new();
            while let Ok(1..) = near.read_line(&mut line) {
                let message: serde_json::Value = serde_json::from_str(&line).unwrap();
                far.write_all(line.as_bytes()).unwrap();
                line.clear();
                match message["data"]["size"].as_u64() {
                    Some(0) => drop(counted.fetch_add(1, Ordering::SeqCst)),
                    Some(size) => drop(std::io::copy(&mut (&mut near).take(size), &mut far)),
                    None => {}
                }
            }
            let _ = far.shutdown(Shutdown::Write);
        }
    });
    (address, count)
}

#[test]
fn a_pipe_that_is_quiet_for_longer_than_the_idle_timeout_is_not_taken_for_dead() {
    let world = World::new();
    // More than the 20 s in which a client has to say something, less than what is waited for here.
    let server = world.serve_with(&["--idle-timeout", "21s"]);
    let (address, empty_parts) = counting(server.address);
    let args = ["put", "-", "--as", "a", "--json", "--retry-for", "0"];
    let mut put = world.ftx(address, args).stdin(Stdio::piped()).spawn().unwrap();
    let bytes = noise(1_000_000, 5);
    let mut stdin = put.stdin.take().unwrap();
    stdin.write_all(&bytes[..600_000]).unwrap();
    until("the client has said twice that it is there", || {
        empty_parts.load(Ordering::SeqCst) >= 2 || put.try_wait().unwrap().is_some()
    });
    stdin.write_all(&bytes[600_000..]).unwrap();
    drop(stdin);
    let output = put.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(done_event(&output)["connections"], 1);
    assert!(empty_parts.load(Ordering::SeqCst) >= 2);
    assert!(world.stored("a") == bytes);
}

#[test]
fn who_waits_for_a_quiet_pipe_hears_what_happens_meanwhile() {
    /// A sign of life is due less often.
    const SOON: Duration = Duration::from_secs(8);
    let world = World::new();
    for (name, code) in [("interrupted", 130), ("cut", 3)] {
        let mut server = world.serve();
        let args = ["put", "-", "--as", name, "--retry-for", "0"];
        let mut put = world.ftx(server.address, args).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = put.stdin.take().unwrap();
        stdin.write_all(&noise(1_000_000, 5)).unwrap();
        until("it waits for more", || world.staged_bytes() == 1_000_000);
        let began = Instant::now();
        match name {
            "cut" => server.kill(),
            _ => {
                let id = put.id().to_string();
                assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
            }
        }
        let output = to_its_end(put);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
        assert!(began.elapsed() < SOON, "{name}: {:?}", began.elapsed());
        drop(stdin);
        drop(server);
        std::fs::remove_dir_all(world.served().join(".ftx")).unwrap();
    }
}

#[test]
fn an_interrupted_put_ends_though_the_server_has_said_as_much_as_is_listened_to() {
    /// What a put takes of a server that it has not come to hear.
    const UNHEARD: usize = 4_096;
    const LARGE_BYTES: usize = 30 * 1024 * 1024;
    let world = World::new();
    world.noise("large", LARGE_BYTES);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let put = world.ftx(listener.local_addr().unwrap(), ["put", "large"]).spawn().unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    socket
        .write_all(b"{\"welcome\":{\"ftx\":1,\"features\":[\"sha256\"],\"limits\":{\"line\":32768,\"part\":1048576,\"requests\":4096,\"grid\":8388608,\"file\":1099511627776}}}\n")
        .unwrap();
    // Nothing is read, and so the client waits for room to send.
    let mut waiting = vec![0; LARGE_BYTES];
    let mut came = 0;
    until("the client cannot send any more", || {
        std::thread::sleep(Duration::from_millis(200));
        came == std::mem::replace(&mut came, socket.peek(&mut waiting).unwrap()) && came > 0
    });
    socket.write_all("{\"kept\":{\"id\":1,\"at\":0}}\n".repeat(UNHEARD).as_bytes()).unwrap();
    // If it has not heard all of it, this shows less.
    std::thread::sleep(Duration::from_millis(500));
    let interrupted = Command::new("kill").args(["-INT", &put.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let output = to_its_end(put);
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
}

/// Lets a client run for a small part of the time only, until it has ended.
fn slowed_down(mut client: Child) -> Output {
    const STANDS: Duration = Duration::from_millis(450);
    const RUNS: Duration = Duration::from_millis(30);
    let id = client.id().to_string();
    let signal = |name: &str| {
        // One that has just ended gets none.
        let _ = Command::new("kill").args([name, &id]).stderr(Stdio::null()).status();
    };
    let end = Instant::now() + PATIENCE;
    while client.try_wait().unwrap().is_none() {
        assert!(Instant::now() < end, "it does not end");
        signal("-STOP");
        std::thread::sleep(STANDS);
        signal("-CONT");
        std::thread::sleep(RUNS);
    }
    client.wait_with_output().unwrap()
}

/// What a job that was never interrupted says, however long it was busy with something else.
fn assert_undisturbed(output: &Output) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("again"), "{said}");
}

#[test]
fn a_job_that_is_busy_with_one_large_file_for_longer_than_the_idle_timeout_is_not_interrupted() {
    let world = World::new();
    let server = world.serve_with(&["--idle-timeout", "1s"]);
    let tree = world.here().join("tree");
    std::fs::create_dir(&tree).unwrap();
    world.noise("tree/large", 9_000_000);
    for name in ["a", "b", "y", "z"] {
        world.noise(&format!("tree/{name}"), 1_000);
    }
    // Slower than the one second in which something has to be said.
    let args = ["put", "-r", "tree", "--limit-rate", "4M", "--retry-for", "0"];
    assert_undisturbed(&world.ftx(server.address, args).output().unwrap());
    assert!(world.stored("tree/large") == std::fs::read(tree.join("large")).unwrap());
}

#[test]
fn a_job_that_reads_for_longer_than_the_idle_timeout_is_not_interrupted() {
    const LARGE_BYTES: u64 = 192 * 1024 * 1024;
    let world = World::new();
    let server = world.serve_with(&["--idle-timeout", "2s"]);
    for directory in [world.here(), world.served()] {
        std::fs::create_dir(directory.join("tree")).unwrap();
        let large = std::fs::File::create(directory.join("tree/large")).unwrap();
        large.set_len(LARGE_BYTES).unwrap();
        for name in ["a", "b", "y", "z"] {
            std::fs::write(
                directory.join("tree").join(name),
                directory.as_os_str().as_encoded_bytes(),
            )
            .unwrap();
        }
    }
    // The server has read it by now, and has to wait for the client alone.
    world.run(server.address, &["sum", "--cached", "tree/large"], 0);
    for action in ["get", "put"] {
        let args = [action, "-r", "--checksum", "tree", "--retry-for", "0"];
        assert_undisturbed(&slowed_down(world.ftx(server.address, args).spawn().unwrap()));
    }
}
