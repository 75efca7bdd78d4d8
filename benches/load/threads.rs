//! Little requests from several clients at once, and what a second selector changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::cases::{accept, bulk_puts, row, spawn};
use crate::server::Server;
use crate::talk::{Body, Talk};
use crate::{Options, Row};

/// One selector, and two: what they do, one after the other.
pub fn threads(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for threads in [1, 2] {
        let options = Options { threads, ..options.clone() };
        let server = Server::start(&options.memory, threads);
        let cases = [accept(&options), small(&options), vec![bulk_puts(&options, &server)]];
        rows.extend(cases.into_iter().flatten().map(|Row { load, figure, must }| Row {
            load: format!("--threads {threads}: {load}"),
            figure,
            must,
        }));
    }
    rows
}

/// Requests a second of clients that each wait for their answer before they ask again.
pub fn small(options: &Options) -> Vec<Row> {
    let mut rows = Vec::new();
    for count in [8, 16] {
        let server = Server::start(&options.memory, options.threads);
        let body = Arc::new(Body::of(4096));
        Talk::with(server.address).put("small", &body);
        for kind in ["pings", "stats", "puts of 4 KiB"] {
            let body = body.clone();
            rows.push(requests(options, &server, count, kind, move |talk, number| match kind {
                "pings" => talk.ping(),
                "stats" => talk.stat("small"),
                _ => talk.put(&format!("small-{number}"), &body),
            }));
        }
    }
    rows
}

fn requests<F>(options: &Options, server: &Server, count: usize, kind: &str, once: F) -> Row
where
    F: Fn(&mut Talk, usize) + Send + Sync + 'static,
{
    let seconds = options.pick(3, 1) as f64;
    let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let once = Arc::new(once);
    let clients: Vec<_> = (0..count)
        .map(|number| {
            let (over, done, once) = (over.clone(), done.clone(), once.clone());
            let address = server.address;
            spawn(move || {
                let mut talk = Talk::with(address);
                while !over.load(Ordering::Relaxed) {
                    once(&mut talk, number);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(200));
    let spent = || (server.cpu_seconds(), server.selector_seconds());
    let (before, (cpu, selecting)) = (done.load(Ordering::Relaxed), spent());
    thread::sleep(Duration::from_secs_f64(seconds));
    let (after, (cpu_after, selecting_after)) = (done.load(Ordering::Relaxed), spent());
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
    let answered = (after - before) as f64;
    let (cpu, selecting) = (cpu_after - cpu, selecting_after - selecting);
    row(
        format!("{kind}, by {count} clients that each wait for the answer"),
        format!(
            "{:.0} a second; {:.0} µs of the server's CPU each, {:.0} % of it the selectors'",
            answered / seconds,
            cpu / answered * 1e6,
            selecting / cpu * 100.0
        ),
        "-",
    )
}
