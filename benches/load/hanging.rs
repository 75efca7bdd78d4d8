//! A disk that hangs: every read, write and sync of some clients' files takes two seconds more, by
//! way of strace, while others ask for little things.
//!
//! strace stops the server at every call, so what it is compared with is the same server, traced in
//! the same way, of which nothing hangs.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::cases::spawn;
use crate::server::Server;
use crate::talk::{Body, MIB, Talk, percentile};
use crate::{Options, Row};

const CALLS: &str = "read,pread64,readv,preadv,preadv2,write,pwrite64,writev,pwritev,pwritev2,sendfile,\
                     splice,copy_file_range,fsync,fdatasync,sync_file_range";
const HANG: &str = "delay_enter=2000000";
const INTERVAL: Duration = Duration::from_millis(10);

pub fn hanging(options: &Options) -> Vec<Row> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        let figure = "strace is not on this machine".to_owned();
        return vec![Row { load: "a disk that hangs".to_owned(), figure, must: "-" }];
    }
    let seconds = options.pick(20, 2);
    let mut rows = Vec::new();
    for hanging in [0, 1, 4] {
        let (mut gets, mut puts, mibs) = run(options, hanging, seconds);
        let figure = |latencies: &mut [Duration]| {
            format!(
                "p50 {:.2} ms, p99 {:.2} ms",
                percentile(latencies, 50),
                percentile(latencies, 99)
            )
        };
        rows.push(Row {
            load: format!(
                "100 small gets and 100 small puts a second for {seconds} s, durability full, the disk hangs for {hanging} clients"
            ),
            figure: format!("gets {}; puts {}; {mibs} MiB of theirs got through", figure(&mut gets), figure(&mut puts)),
            must: if hanging == 0 { "-" } else { "p99 within 2x of none" },
        });
    }
    rows
}

/// The latencies of the small ones, and how many MiB the hanging clients moved.
fn run(options: &Options, hanging: usize, seconds: usize) -> (Vec<Duration>, Vec<Duration>, u64) {
    let server = Server::start(&options.disk, options.threads);
    let body = Body::of(4096);
    let large = Body::of(16 * MIB);
    let mut talk = Talk::with(server.address);
    talk.put("small", &body);
    (0..hanging).for_each(|client| talk.put(&format!("hang-{client}"), &large));
    let pieces = Arc::new(AtomicU64::new(0));
    let gate = Arc::new(AtomicBool::new(false));
    for client in 0..hanging {
        hang(server.address, client, &gate, &pieces);
    }
    // Their bodies are open now: what is in staging is theirs.
    let mut paths = staged(&server, hanging);
    paths.extend((0..hanging).map(|client| server.served().join(format!("hang-{client}"))));
    paths.push(PathBuf::from("/nobody/has/this"));
    let strace = Strace::into(&server, &paths);
    gate.store(true, Ordering::SeqCst);
    let address = server.address;
    let getter = spawn(move || paced(address, seconds, |talk, _| talk.get("small", |_| true)));
    let puts = paced(address, seconds, |talk, number| talk.put(&format!("small-{number}"), &body));
    let gets = getter.join().unwrap();
    drop(strace);
    (gets, puts, pieces.load(Ordering::Relaxed))
}

/// A client with two connections: one puts a large file, one gets a large file again and again. They end with
/// the server, in whatever state they are.
fn hang(address: SocketAddr, client: usize, gate: &Arc<AtomicBool>, pieces: &Arc<AtomicU64>) {
    const SIZE: usize = 1 << 30;
    // More than it gets, so that nobody has to ask again.
    const GETS: u64 = 100;
    let mut talk = Talk::with(address);
    let id = talk.begin_put(&format!("hanging-put-{client}"), SIZE);
    talk.part(id, 0, &vec![1; MIB]);
    let (waits, counts) = (gate.clone(), pieces.clone());
    let wait = |gate: &AtomicBool| {
        while !gate.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    };
    let mut socket = talk.into_socket();
    spawn(move || {
        wait(&waits);
        for number in 1..SIZE / MIB {
            let line =
                format!("{{\"data\":{{\"id\":{id},\"at\":{},\"size\":{MIB}}}}}\n", number * MIB);
            let sent = std::io::Write::write_all(&mut socket, line.as_bytes());
            if sent.and_then(|()| std::io::Write::write_all(&mut socket, &vec![1; MIB])).is_err() {
                return;
            }
            counts.fetch_add(1, Ordering::Relaxed);
        }
    });
    let (waits, counts) = (gate.clone(), pieces.clone());
    spawn(move || {
        wait(&waits);
        let mut talk = Talk::with(address);
        (2..GETS + 2).for_each(|id| talk.ask_for(id, &format!("hang-{client}")));
        let (mut socket, mut buffer) = (talk.into_socket(), vec![0; MIB]);
        while std::io::Read::read_exact(&mut socket, &mut buffer).is_ok() {
            counts.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// The files in staging that the server has open, when there are so many.
fn staged(server: &Server, count: usize) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
        let files = open.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let staged: Vec<PathBuf> = files.filter(|path| is_staged(path)).collect();
        if staged.len() >= count {
            return staged;
        }
        assert!(Instant::now() < deadline, "no open file in staging");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_staged(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with(".ftx/staging"))
}

/// One request at each tick; its latency counts from the tick, so that a late one makes those behind it late.
fn paced(address: SocketAddr, seconds: usize, request: impl Fn(&mut Talk, usize)) -> Vec<Duration> {
    let mut talk = Talk::with(address);
    let (began, mut latencies) = (Instant::now(), Vec::new());
    for number in 0..seconds * 100 {
        let tick = began + INTERVAL * u32::try_from(number).unwrap();
        thread::sleep(tick.saturating_duration_since(Instant::now()));
        request(&mut talk, number);
        latencies.push(tick.elapsed());
    }
    latencies
}

/// Until it is dropped, the calls on these paths hang.
struct Strace(Child);

impl Strace {
    fn into(server: &Server, paths: &[PathBuf]) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &server.child.id().to_string()]);
        command.args(["-e", &format!("trace={CALLS}"), "-e", &format!("inject={CALLS}:{HANG}")]);
        paths.iter().for_each(|path| {
            command.arg("-P").arg(path);
        });
        let mut strace = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(strace.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(" attached") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "strace: {said}");
        }
        thread::spawn(move || while let Ok(1..) = stderr.read_line(&mut String::new()) {});
        Self(strace)
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}
