//! kill -9, again and again, of the server under writers and of the writers themselves: what was
//! acknowledged is there.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::{MIB, Server, World, noise, text};

const KILLS: u32 = 200;

/// Files that are there to be lost in the end: else it goes on, for so many kills at the most.
const ACKNOWLEDGED: usize = 20;
const KILLS_MAX: u32 = 10 * KILLS;
const WRITERS: u64 = 8;

/// What a writer was told: the name, and the seed and size of what it put there.
type Told = Arc<Mutex<BTreeMap<String, (u64, usize)>>>;

#[test]
fn no_acknowledged_file_is_lost_or_torn_by_two_hundred_kills() {
    let seed =
        std::env::var("FTX_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(1, |now| u64::from(now.subsec_nanos()))
        });
    println!("FTX_SEED={seed}");
    let world = World::new();
    let mut server = world.serve();
    let address = server.address;
    let told = Told::default();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (world, told, over) = (&world, Arc::clone(&told), &over);
            scope.spawn(move || write(world, address, writer, seed, &told, over));
        }
        let mut random = seed | 1;
        let mut acknowledged = 0;
        for kill in 0..KILLS_MAX {
            if kill >= KILLS && acknowledged > ACKNOWLEDGED {
                break;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Time is not what is waited for here: a kill may come at any moment, and this is which.
            std::thread::sleep(Duration::from_millis(random >> 58));
            server.kill();
            acknowledged = check(&world, &told);
            server = Server::start(&world.served(), &address.to_string(), &[]);
        }
        over.store(true, Ordering::SeqCst);
    });
    let acknowledged = check(&world, &told);
    assert!(acknowledged > ACKNOWLEDGED, "only {acknowledged} files were acknowledged");
    drop(server);
    let server = world.serve();
    // What killed writers left can be gone on with, and nothing else is there.
    let resumable = format!("resumable={} ", world.staged());
    crate::harness::until("it is said", || server.log().contains("resumable="));
    assert!(server.log().contains(&resumable), "{resumable}: {}", server.log());
}

fn write(
    world: &World,
    server: std::net::SocketAddr,
    writer: u64,
    seed: u64,
    told: &Told,
    over: &AtomicBool,
) {
    for round in 0.. {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let content = seed ^ (writer << 32) ^ round;
        let size =
            if writer < 2 { 12 * MIB + round as usize } else { 1_000 * (writer as usize + 1) };
        let (file, name) = (format!("w{writer}"), format!("w{writer}/{}", round % 20));
        std::fs::write(world.here().join(&file), noise(size, content)).unwrap();
        // While a put runs, its name may hold the old file or the new one.
        told.lock().unwrap().remove(&name);
        let args = ["put", &file, "--as", &name, "--retry-for", "60s", "-q"];
        let mut put: Command = world.ftx(server, args);
        if content.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 62 == 0 {
            // One in four writers is killed itself, at whatever moment.
            let mut put = put.spawn().unwrap();
            std::thread::sleep(Duration::from_millis(content.wrapping_mul(0x9e37_79b9) >> 27 & 31));
            put.kill().unwrap();
            put.wait().unwrap();
            continue;
        }
        let output = put.output().unwrap();
        // The first connect fails at once when there is no server just then.
        if output.status.success() {
            told.lock().unwrap().insert(name, (content, size));
        } else {
            assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        }
    }
}

/// Compares everything that was acknowledged with what is there; returns how much that was.
fn check(world: &World, told: &Told) -> usize {
    let told = told.lock().unwrap();
    for (name, (content, size)) in told.iter() {
        let stored = world.stored(name);
        assert!(stored == noise(*size, *content), "{name}: {} bytes", stored.len());
    }
    told.len()
}
