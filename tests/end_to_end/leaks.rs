//! After a storm of everything that goes wrong, the server has what it had before.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{Line, MIB, PATIENCE, Server, World, noise, text, until};
use crate::locked::house::{House, word};

/// Kills of the client, in each direction.
const CLIENT_KILLS: u64 = 25;

/// A seed that is printed, and that `FTX_SEED` replays.
fn seed() -> u64 {
    let given = std::env::var("FTX_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    println!("FTX_SEED={seed}");
    seed
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn threads(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", server.child.id())).unwrap().count()
}

/// A session of a put and a get, with some of its bytes changed, doubled or left out.
fn mangled(random: &mut Random, round: u64) -> Vec<u8> {
    let digest = crate::talk::HELLO_DIGEST;
    let mut bytes = format!(
        "{{\"hello\":{{\"ftx\":1}}}}\n\
         {{\"put\":{{\"id\":1,\"name\":\"m/{round}\",\"digest\":\"sha256\",\"size\":5,\"transfer\":\"{round:032x}\"}}}}\n\
         {{\"data\":{{\"id\":1,\"at\":0,\"size\":5}}}}\nhello\
         {{\"end\":{{\"id\":1,\"size\":5,\"digest\":\"{digest}\"}}}}\n\
         {{\"get\":{{\"id\":2,\"name\":\"a\",\"digest\":\"blake3\"}}}}\n\
         {{\"resume\":{{\"id\":3,\"transfer\":\"{round:032x}\"}}}}\n{{\"abort\":{{\"id\":2,\"code\":\"aborted\"}}}}\n"
    )
    .into_bytes();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, b"{}[]\",:\n0"[random.below(9) as usize]),
        }
    }
    bytes
}

#[test]
fn after_a_storm_nothing_is_held_that_was_not_held_before() {
    let world = World::new();
    let options = ["--header-timeout", "500ms", "--idle-timeout", "1s"];
    let server = world.serve_with(&options);
    let bytes = world.noise("a", 300_000);
    world.noise("big", 10 * MIB);
    world.run(server.address, &["put", "a"], 0);
    world.run(server.address, &["get", "a", "-o", "-"], 0);
    let (descriptors, count) = (server.descriptors(), threads(&server));
    let mut random = Random(seed());
    for round in 0..600 {
        let mut socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        // Whether it is still there to take it, or says anything, is not the question here.
        let _ = socket.write_all(&mangled(&mut random, round));
        // Some wait for an answer, which need not be a line; a few stay to the end; others go.
        if random.below(3) == 0 {
            let _ = socket.read(&mut [0; 1_024]);
        } else if random.below(40) == 0 {
            let _ = socket.read_to_end(&mut Vec::new());
        }
    }
    for _ in 0..6 {
        let up = 1 + random.below(10 * MIB as u64);
        let line = Line::cut_after(server.address, up, 0);
        world.ftx(line.address, ["put", "big", "--retry-for", "0", "-q"]).output().unwrap();
        // The server keeps what was interrupted; to the same address it is gone on with.
        world.run(line.address, &["put", "big", "-q"], 0);
        let line = Line::cut_after(server.address, 0, 1 + random.below(300_000));
        world.ftx(line.address, ["get", "a", "-o", "-", "--retry-for", "0"]).output().unwrap();
    }
    until("the descriptors are back", || server.descriptors() <= descriptors);
    until("the threads are back", || threads(&server) <= count);
    until("staging is empty", || world.staged() == 0);
    assert!(world.run(server.address, &["get", "a", "-o", "-"], 0).stdout == bytes);
    for entry in std::fs::read_dir(world.served().join("m")).into_iter().flatten().flatten() {
        assert_eq!(std::fs::read(entry.path()).unwrap(), b"hello", "{entry:?} is not whole");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// No connection inside TLS has a helper of its own, and nothing of one stays.
#[test]
fn connections_inside_tls_have_no_threads_and_leave_nothing() {
    let house = House::locked();
    let token = house.add("alice", "read,list,write");
    let served = |id: u64| {
        let mut talk = house.talk(&token);
        talk.put_hello(id, &format!("file-{id}"), "none");
        assert_eq!(word(&talk.line()), "done");
        talk
    };
    let first = served(1);
    let (descriptors, count) = (house.server.descriptors(), threads(&house.server));
    let talks: Vec<_> = (2..52).map(served).collect();
    until("there are no more threads", || threads(&house.server) <= count);
    drop(talks);
    until("the descriptors are back", || house.server.descriptors() <= descriptors);
    drop(first);
}

/// Runs a command that is killed again and again, until it has succeeded after enough kills.
fn kill_until_done(
    world: &World,
    server: SocketAddr,
    args: &[&str],
    random: &mut Random,
    slowest: &AtomicU64,
) {
    for _ in 0..CLIENT_KILLS {
        let mut client = world.ftx(server, args).spawn().unwrap();
        // Time is not what is waited for here: a kill may come at any moment, and this is which.
        let bound = slowest.load(Ordering::SeqCst).max(2);
        std::thread::sleep(Duration::from_millis(random.below(bound)));
        client.kill().unwrap();
        client.wait().unwrap();
    }
    world.run(server, args, 0);
}

#[test]
fn clients_that_are_killed_again_and_again_end_with_a_whole_file_and_leave_nothing() {
    let world = World::new();
    let server = world.serve();
    let before = server.descriptors();
    let mut random = Random(seed());
    let bytes = world.noise("big", 40 * MIB);
    // Kills come within the time that an undisturbed put takes.
    let began = std::time::Instant::now();
    world.run(server.address, &["put", "big", "--as", "first"], 0);
    let time = AtomicU64::new(began.elapsed().as_millis() as u64);
    kill_until_done(&world, server.address, &["put", "big"], &mut random, &time);
    assert!(world.stored("big") == bytes);
    kill_until_done(&world, server.address, &["get", "big", "-o", "back"], &mut random, &time);
    assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
    until("the descriptors are back", || server.descriptors() <= before);
    until("staging is empty", || world.staged() == 0);
    let state = std::fs::read_dir(world.home.path().join("state/ftx")).unwrap().count();
    assert_eq!(state, 0, "state is left behind");
}

#[test]
fn a_get_that_is_killed_as_it_begins_leaves_no_part_behind() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("big"), noise(40 * MIB, 8)).unwrap();
    let args = ["get", "big", "-o", "back"];
    let entries = || std::fs::read_dir(world.here()).unwrap().count();
    for _ in 0..100 {
        let before = entries();
        let mut get = world.ftx(server.address, args).spawn().unwrap();
        // A run that goes on with an earlier part makes none, and may end.
        while entries() == before && get.try_wait().unwrap().is_none() {}
        get.kill().unwrap();
        get.wait().unwrap();
        let _ = std::fs::remove_file(world.here().join("back"));
    }
    world.run(server.address, &args, 0);
    assert_eq!(entries(), 1, "parts are left behind");
}

#[test]
fn two_processes_that_get_one_file_to_one_place_do_not_disturb_each_other() {
    let world = World::new();
    let server = world.serve();
    let bytes = noise(40 * MIB, 8);
    std::fs::write(world.served().join("big"), &bytes).unwrap();
    let args = ["get", "big", "-o", "back"];
    let gets: Vec<_> = (0..3).map(|_| world.ftx(server.address, args).spawn().unwrap()).collect();
    for get in gets {
        let output = get.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert!(std::fs::read(world.here().join("back")).unwrap() == bytes);
    assert_eq!(std::fs::read_dir(world.here()).unwrap().count(), 1, "parts are left behind");
}

#[test]
fn a_file_that_is_replaced_between_two_gets_is_got_whole_from_the_start() {
    let world = World::new();
    let server = world.serve();
    std::fs::write(world.served().join("big"), noise(64 * MIB, 1)).unwrap();
    let args = ["get", "big", "-o", "back"];
    let mut get = world.ftx(server.address, args).spawn().unwrap();
    until("some is here", || world.part_bytes() > 16 * MIB as u64);
    get.kill().unwrap();
    get.wait().unwrap();
    let new = noise(64 * MIB, 2);
    std::fs::write(world.here().join("new"), &new).unwrap();
    world.run(server.address, &["put", "new", "--as", "big"], 0);
    world.run(server.address, &args, 0);
    assert!(std::fs::read(world.here().join("back")).unwrap() == new);
    assert_eq!(world.part_bytes(), 0);
}

/// A line that holds back what goes through it: up, from an amount on, until it is opened; down,
/// everything, until the client has gone.
struct SlowLine {
    address: SocketAddr,
    /// Bytes that may go up.
    up: Arc<AtomicU64>,
    down: Arc<AtomicBool>,
}

impl SlowLine {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (up, down) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let line = Self { address, up: Arc::clone(&up), down: Arc::clone(&down) };
        std::thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect(server).unwrap();
            let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            std::thread::spawn(move || {
                while !down.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                pass(far_back, near_back, &AtomicU64::new(u64::MAX));
            });
            pass(near, far, &up);
        });
        line
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, allowed: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    let mut passed = 0;
    loop {
        let left = allowed.load(Ordering::SeqCst).saturating_sub(passed);
        if left == 0 {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match from.read(&mut buffer[..room]) {
            Ok(count @ 1..) if to.write_all(&buffer[..count]).is_ok() => passed += count as u64,
            _ => break,
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn a_put_that_is_given_up_is_given_up_at_the_server_too() {
    let world = World::new();
    let server = world.serve();
    world.noise("big", 23 * MIB);
    let line = SlowLine::to(server.address);
    let put = world.ftx(line.address, ["put", "big"]).spawn().unwrap();
    // More is not taken by any buffer on the way: the client is in the middle of the file.
    until("it has begun", || {
        std::fs::read_dir(world.home.path().join("state/ftx"))
            .is_ok_and(|mut entries| entries.next().is_some())
    });
    let source = std::fs::File::options().append(true).open(world.here().join("big")).unwrap();
    (&source).write_all(b"more").unwrap();
    // Enough for the server to keep 16 MiB, and for the client to say that it gives up.
    line.up.store(22 * MIB as u64, Ordering::SeqCst);
    until("most of it is there", || world.staged_bytes() > 16 * MIB as u64);
    let client = std::thread::spawn(move || put.wait_with_output().unwrap());
    // A client that waits for the reply is let go on; one that does not has gone by now.
    std::thread::sleep(Duration::from_millis(500));
    line.down.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(200));
    line.up.store(u64::MAX, Ordering::SeqCst);
    let output = client.join().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
    until("staging is empty", || world.staged() == 0);
}
