//! A tour: a server on a free port, a file put through a line that is cut, resumed, fetched back
//! and verified, told line by line.
//!
//! `cargo run --release --example tour`

use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ftx::server::access::PolicyOptions;
use ftx::server::{Access, DoorOptions, Listen, OpenMax, Options, Server};
use ftx_client::{Client, Durability, GetOptions, Name, Notice, PutOptions, Retry, Sink, Source};

const MIB: u64 = 1024 * 1024;
const FILE_BYTES: u64 = 64 * MIB;
const CUT_AFTER_BYTES: u64 = 40 * MIB;

fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let served = home.path().join("served");
    let source = home.path().join("holiday.mov");
    let copy = home.path().join("copy.mov");

    println!("1. A server, on a free port, serving an empty directory.");
    let listen = Listen::At(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
    let server = Server::bind(options(served.clone()), listen)?;
    let address = server.addresses().first().copied().ok_or("no address")?;
    let stopper = server.stopper();
    let serving = std::thread::spawn(move || server.run());
    println!("   listening on {address}");

    println!("2. A file of {} MiB of noise.", FILE_BYTES / MIB);
    write_noise(&source)?;

    println!("3. A line to the server that will break after {} MiB.", CUT_AFTER_BYTES / MIB);
    let line = Line::open(address)?;

    println!("4. ftx put holiday.mov");
    let client = Client::new(line.address.to_string().parse()?, Retry::default());
    let name = Name::parse(b"holiday.mov")?;
    let put = client.put(Source::open(&source)?, &name, &PutOptions::default(), &mut tell)?;
    println!("   acknowledged: {} bytes, {}, durability {}", put.size, put.digest, put.durability);
    println!(
        "   it took {} connections; {:.0} MiB were sent again, {:.0} MiB read again",
        put.counts.connections,
        put.counts.moved_again_bytes as f64 / MIB as f64,
        put.counts.read_again_bytes as f64 / MIB as f64,
    );

    println!("5. ftx get holiday.mov -o copy.mov");
    let got = client.get(&name, Sink::File(copy.clone()), &GetOptions::default(), &mut tell)?;
    println!("   verified: {} bytes, {}", got.size, got.digest);

    println!("6. Compared byte by byte with what was put:");
    let same = std::fs::read(&source)? == std::fs::read(&copy)?;
    let stored = std::fs::read(&source)? == std::fs::read(served.join("holiday.mov"))?;
    println!("   the copy is {}, the stored file is {}", verdict(same), verdict(stored));

    println!("7. The server stops.");
    stopper.stop();
    serving.join().map_err(|_| "the server panicked")??;
    if same && stored && put.digest == got.digest { Ok(()) } else { Err("bytes differ".into()) }
}

fn verdict(same: bool) -> &'static str {
    if same { "the same" } else { "DIFFERENT" }
}

fn tell(notice: Notice) {
    match notice {
        Notice::Began { at: 0, .. } => println!("   sending or receiving from the beginning"),
        Notice::Began { at, .. } => println!("   going on at {} MiB", at / MIB),
        Notice::Retrying { cause, pause } => {
            println!("   {cause}");
            println!("   trying again in {} ms", pause.as_millis());
        }
        Notice::Warning(text) => println!("   {text}"),
        Notice::Moved { .. } => {}
    }
}

fn options(directory: std::path::PathBuf) -> Options {
    Options {
        directory,
        policy: PolicyOptions::default(),
        identity: None,
        tokens: None,
        doors: DoorOptions::default(),
        access: Access::ReadWrite,
        durability: Durability::Full,
        size_max_bytes: ftx_protocol::limits::INTEGER_MAX,
        free_min_bytes: 0,
        connections_max: 100,
        open_max: OpenMax { puts: 256, files: 256, directories: 256 },
        requests_max: ftx_protocol::limits::REQUESTS_TOTAL,
        threads: 1,
        limit_rate: None,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
        partial_ttl: Duration::from_secs(3_600),
        abandoned_after: Duration::from_secs(600),
        drain_timeout: Duration::from_secs(5),
    }
}

fn write_noise(path: &std::path::Path) -> std::io::Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut number: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut block = Vec::with_capacity(MIB as usize);
    for _ in 0..FILE_BYTES / MIB {
        block.clear();
        while block.len() < MIB as usize {
            // xorshift64: no two blocks alike is all that is wanted.
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            block.extend_from_slice(&number.to_le_bytes());
        }
        file.write_all(&block)?;
    }
    Ok(())
}

/// A relay to the server. Its first connection breaks after [`CUT_AFTER_BYTES`].
struct Line {
    address: SocketAddr,
}

impl Line {
    fn open(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let left = Arc::new(AtomicU64::new(CUT_AFTER_BYTES));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(server) else { return };
                let (Ok(near_back), Ok(far_back)) = (near.try_clone(), far.try_clone()) else {
                    return;
                };
                let left = Arc::clone(&left);
                std::thread::spawn(move || relay(near, far, &left));
                std::thread::spawn(move || relay(far_back, near_back, &AtomicU64::new(u64::MAX)));
            }
        });
        Ok(Self { address })
    }
}

/// Moves bytes until there are no more, or `left` is used up; after that, for ever.
fn relay(mut from: TcpStream, mut to: TcpStream, left: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let before = left.load(Ordering::Relaxed);
        if before > 0 && before <= count as u64 {
            left.store(0, Ordering::Relaxed);
            break;
        }
        left.store(before.saturating_sub(count as u64), Ordering::Relaxed);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Whoever is gone already needs no telling.
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
