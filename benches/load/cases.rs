//! The cases: each starts a server, loads it, and says what that took.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use socket2::{Domain, Socket, Type};

use crate::server::Server;
use crate::talk::{Body, MIB, Talk, percentile, spelled};
use crate::{Options, Row};

/// Threads that only wait and copy need no more.
const STACK_BYTES: usize = 128 << 10;
const MIB_BYTES: f64 = MIB as f64;

pub fn row(load: impl Into<String>, figure: impl Into<String>, must: &'static str) -> Row {
    Row { load: load.into(), figure: figure.into(), must }
}

const IDLE_BYTES: &str = "at most 512 bytes each";

/// Connections that were welcomed, and nothing more.
pub fn idle(options: &Options) -> Vec<Row> {
    let server = Server::start(&options.memory, options.threads);
    let what = format!("{} idle connections", many(options));
    let connect = || Talk::with(server.address).into_socket();
    let (each, cpu) = quiet(&server, many(options), connect);
    vec![row(&what, format!("{each:.0} bytes each"), IDLE_BYTES), cpu]
}

fn many(options: &Options) -> usize {
    options.pick(10_000, 500)
}

/// Connections that have put a file and got it back before, and how much of what they make the
/// server hold is of the puts: it remembers those it acknowledged, to do so again.
pub fn used(options: &Options) -> Vec<Row> {
    let (body, count) = (Body::of(64 << 10), many(options));
    let transfer = |talk: &mut Talk| {
        talk.put("used", &body);
        talk.get("used", |_| true);
    };
    let server = Server::start(&options.memory, options.threads);
    let (each, cpu) = quiet(&server, count, || {
        let mut talk = Talk::with(server.address);
        transfer(&mut talk);
        talk.into_socket()
    });
    let remembered = remembered(options, count, transfer);
    let what = "each after a put and a get of 64 KiB";
    let own = each - remembered;
    let all = format!("{each:.0} bytes each, of which {own:.0} are the connection's");
    let puts = format!("the same puts and gets through one connection, which has closed, {count}");
    vec![
        row(format!("{count} idle connections, {what}"), all, IDLE_BYTES),
        cpu,
        row(puts, format!("{remembered:.0} bytes each: what is remembered of a put"), "-"),
    ]
}

/// What the server has grown by for each of so many transfers when their connection is gone.
fn remembered(options: &Options, count: usize, transfer: impl Fn(&mut Talk)) -> f64 {
    let server = Server::start(&options.memory, options.threads);
    let through_one = |count| {
        let mut talk = Talk::with(server.address);
        (0..count).for_each(|_| transfer(&mut talk));
    };
    through_one(WARM);
    let before = server.resident();
    through_one(count);
    thread::sleep(Duration::from_secs(1));
    server.resident().saturating_sub(before) as f64 / count as f64
}

/// What one connection makes resident for all of them is there after so many: threads, pools, code.
pub const WARM: usize = 50;

/// What the server has grown by for each of so many connections, and a row of their CPU.
pub fn quiet(server: &Server, count: usize, connect: impl Fn() -> TcpStream) -> (f64, Row) {
    const WATCH_SECONDS: u64 = 5;
    let warm: Vec<TcpStream> = (0..WARM).map(|_| connect()).collect();
    let before = server.resident();
    let sockets: Vec<TcpStream> = (0..count).map(|_| connect()).collect();
    thread::sleep(Duration::from_secs(1));
    let grown = server.resident().saturating_sub(before);
    let cpu = server.cpu_seconds();
    thread::sleep(Duration::from_secs(WATCH_SECONDS));
    let cpu = server.cpu_seconds() - cpu;
    drop((warm, sockets));
    let cpu = row(format!("the same, CPU in {WATCH_SECONDS} s"), format!("{cpu:.2} s"), "none");
    (grown as f64 / count as f64, cpu)
}

/// Many uploads that are all open at once.
pub fn crowd(options: &Options) -> Vec<Row> {
    let count = options.pick(1_000, 50);
    let server = Server::start(&options.memory, options.threads);
    let body = Arc::new(Body::of(MIB));
    Talk::with(server.address).put("warm", &body);
    server.forget_peak();
    let began = Instant::now();
    let open = Arc::new(Barrier::new(count));
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let (body, open, address) = (body.clone(), open.clone(), server.address);
            spawn(move || {
                let mut talk = Talk::with(address);
                let id = talk.begin_put(&format!("crowd/{number}"), MIB);
                let (first, second) = body.bytes.split_at(MIB / 2);
                talk.part(id, 0, first);
                // None ends before all have begun.
                open.wait();
                talk.part(id, MIB / 2, second);
                talk.end_put(id, MIB, &body.digest);
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let wall = began.elapsed().as_secs_f64();
    let stored = std::fs::read_dir(server.served().join("crowd")).unwrap().count();
    assert_eq!(stored, count);
    let peak = server.peak() as f64 / MIB_BYTES;
    vec![row(
        format!("{count} uploads of 1 MiB at once"),
        format!("{peak:.0} MiB resident at most; {wall:.2} s"),
        "at most 64 MiB",
    )]
}

/// One upload that is larger than any cache, to a disk.
pub fn large(options: &Options) -> Vec<Row> {
    let mibs = if options.small { 64 } else { options.large };
    let server = Server::start(&options.disk, options.threads);
    let body = Body::of(MIB);
    let mut talk = Talk::with(server.address);
    let (id, mut hash) = (talk.begin_put("large", mibs * MIB), Sha256::new());
    server.forget_peak();
    let (began, mut half) = (Instant::now(), 0.0);
    for number in 0..mibs {
        hash.update(&body.bytes);
        talk.part(id, number * MIB, &body.bytes);
        if number == mibs / 2 {
            half = server.peak() as f64 / MIB_BYTES;
        }
    }
    talk.end_put(id, mibs * MIB, &spelled(hash.finalize().as_slice()));
    let wall = began.elapsed().as_secs_f64();
    let peak = server.peak() as f64 / MIB_BYTES;
    vec![row(
        format!("one upload of {mibs} MiB to a disk"),
        format!(
            "{half:.0} MiB resident at most in the first half, {peak:.0} MiB in all; {wall:.1} s"
        ),
        "at most 64 MiB, flat",
    )]
}

/// Bulk transfers together: how far the slowest is behind the mean.
pub fn bulk(options: &Options) -> Vec<Row> {
    let count = options.pick(64, 8);
    let server = Server::start(&options.memory, options.threads);
    Talk::with(server.address).put("bulk", &Body::of(options.pick(256, 8) * MIB));
    let gets = shares(options, &server, count, |talk, _, moved, over| {
        talk.get("bulk", |count| {
            moved.fetch_add(count as u64, Ordering::Relaxed);
            !over.load(Ordering::Relaxed)
        });
    });
    vec![bulk_row(&format!("{count} bulk gets together"), &gets), bulk_puts(options, &server)]
}

pub fn bulk_puts(options: &Options, server: &Server) -> Row {
    let count = options.pick(64, 8);
    let body = Body::of(options.pick(16, 1) * MIB);
    let puts = shares(options, server, count, move |talk, number, moved, _| {
        talk.put(&format!("bulk-{number}"), &body);
        moved.fetch_add(body.bytes.len() as u64, Ordering::Relaxed);
    });
    bulk_row(&format!("{count} bulk puts together, again and again of 16 MiB"), &puts)
}

fn bulk_row(load: &str, shares: &[f64]) -> Row {
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    let slowest = shares.iter().copied().fold(f64::INFINITY, f64::min);
    let (share, all) = (slowest / mean, mean * shares.len() as f64);
    let figure = format!("slowest {share:.2} of the mean ({all:.0} MiB/s in all)");
    row(load, figure, "at least half of the mean")
}

/// MiB a second of each of so many clients that do the same again and again for a while.
fn shares<F>(options: &Options, server: &Server, count: usize, once: F) -> Vec<f64>
where
    F: Fn(&mut Talk, usize, &AtomicU64, &AtomicBool) + Send + Sync + 'static,
{
    let seconds = options.pick(15, 1);
    let (over, once) = (Arc::new(AtomicBool::new(false)), Arc::new(once));
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let (over, once, address) = (over.clone(), once.clone(), server.address);
            let moved = Arc::new(AtomicU64::new(0));
            let mine = moved.clone();
            let client = spawn(move || {
                let mut talk = Talk::with(address);
                while !over.load(Ordering::Relaxed) {
                    once(&mut talk, number, &mine, &over);
                }
            });
            (moved, client)
        })
        .collect();
    // The first second is of connecting, and of windows that grow.
    thread::sleep(Duration::from_secs(1));
    let before: Vec<u64> = clients.iter().map(|(moved, _)| moved.load(Ordering::Relaxed)).collect();
    thread::sleep(Duration::from_secs(seconds as u64));
    let after: Vec<u64> = clients.iter().map(|(moved, _)| moved.load(Ordering::Relaxed)).collect();
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|(_, client)| client.join().unwrap());
    before
        .iter()
        .zip(after)
        .map(|(before, after)| (after - before) as f64 / MIB_BYTES / seconds as f64)
        .collect()
}

/// Small requests while one client gets, or puts, as fast as it can.
pub fn beside(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for kind in ["nothing", "a bulk get", "a bulk put"] {
        let server = Server::start(&options.memory, options.threads);
        let body = Body::of(options.pick(256, 8) * MIB);
        Talk::with(server.address).put("bulk", &body);
        let over = Arc::new(AtomicBool::new(false));
        let (stop, address) = (over.clone(), server.address);
        let busy = spawn(move || {
            let mut talk = Talk::with(address);
            while !stop.load(Ordering::Relaxed) {
                match kind {
                    "a bulk get" => talk.get("bulk", |_| !stop.load(Ordering::Relaxed)),
                    "a bulk put" => talk.put("bulk-put", &body),
                    _ => thread::sleep(Duration::from_millis(20)),
                }
            }
        });
        let mut latencies = small_requests(server.address, options.pick(10, 1));
        over.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        let (median, most) = (percentile(&mut latencies, 50), percentile(&mut latencies, 99));
        rows.push(row(
            format!("small requests (stat, put and get of 4 KiB) beside {kind}"),
            format!("p50 {median:.2} ms, p99 {most:.2} ms"),
            if kind == "nothing" { "-" } else { "p99 at most 20 ms" },
        ));
    }
    rows
}

fn small_requests(address: SocketAddr, seconds: usize) -> Vec<Duration> {
    let (mut talk, body, mut latencies) = (Talk::with(address), Body::of(4096), Vec::new());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(seconds as u64) {
        for request in 0..3 {
            let began = Instant::now();
            match request {
                0 => talk.put("small", &body),
                1 => talk.get("small", |_| true),
                _ => talk.stat("small"),
            }
            latencies.push(began.elapsed());
        }
        thread::sleep(Duration::from_millis(5));
    }
    latencies
}

/// How many connections a second are welcomed.
pub fn accept(options: &Options) -> Vec<Row> {
    // Each has 28,000 ports, and each port rests for a minute after use.
    const SOURCES: u8 = 8;
    const THREADS: u8 = 2;
    let server = Server::start(&options.memory, options.threads);
    let seconds = options.pick(5, 1);
    let began = Instant::now();
    let clients: Vec<_> = (0..THREADS)
        .map(|thread| {
            let address = server.address;
            spawn(move || {
                let (mut count, mut source) = (0, thread);
                while began.elapsed() < Duration::from_secs(seconds as u64) {
                    source = (source + THREADS) % SOURCES;
                    connect_from(Ipv4Addr::new(127, 0, 0, 2 + source), address);
                    count += 1;
                }
                count
            })
        })
        .collect();
    let count: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let rate = count as f64 / began.elapsed().as_secs_f64();
    let cpu = server.cpu_seconds() / count as f64 * 1e6;
    vec![row(
        format!("connect, hello, welcome, close, by {THREADS} threads from {SOURCES} addresses"),
        format!("{rate:.0} a second; {cpu:.0} µs of the server's CPU each"),
        "10,000 a second",
    )]
}

fn connect_from(source: Ipv4Addr, address: SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    drop(Talk::over(socket.into()));
}

pub fn spawn<T: Send + 'static>(
    body: impl FnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::Builder::new().stack_size(STACK_BYTES).spawn(body).unwrap()
}
