//! The load that a server has to bear, and what it takes: prints one Markdown table.
//!
//! `cargo bench --bench load -- --help`. It starts the server of this build for each case anew. Not timed
//! to pass or fail: a case that comes to a wrong result panics, a slow one is only a figure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod cases;
mod hanging;
mod server;
mod slow;
mod talk;
mod threads;
mod tls;

use std::path::PathBuf;

use clap::Parser;

/// The load that a server has to bear.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Only these cases: idle, tls, used, crowd, large, bulk, beside, hanging, accept, small, threads, slow
    #[arg(long)]
    only: Vec<String>,

    /// Sizes that only show that it still runs
    #[arg(long)]
    small: bool,

    /// Selectors of the server; the case threads has its own
    #[arg(long, default_value_t = 1)]
    threads: usize,

    /// MiB of the one large upload
    #[arg(long, default_value_t = 8192)]
    large: usize,

    /// A directory in memory
    #[arg(long, default_value = "/dev/shm")]
    memory: PathBuf,

    /// A directory on a disk, for the large upload and the hanging disk
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    disk: PathBuf,

    /// Cargo says so to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// One line of the table.
pub struct Row {
    /// What was done.
    pub load: String,
    /// What was measured.
    pub figure: String,
    /// What has to hold.
    pub must: &'static str,
}

type Case = fn(&Options) -> Vec<Row>;

const CASES: [(&str, Case); 12] = [
    ("idle", cases::idle),
    ("tls", tls::idle),
    ("used", cases::used),
    ("crowd", cases::crowd),
    ("large", cases::large),
    ("bulk", cases::bulk),
    ("beside", cases::beside),
    ("hanging", hanging::hanging),
    ("accept", cases::accept),
    ("small", threads::small),
    ("threads", threads::threads),
    ("slow", slow::slow),
];

fn main() {
    let options = Options::parse();
    ftx_disk::sys::raise_descriptor_limit().expect("the limit of descriptors");
    println!("| load | figure | must hold |\n|---|---|---|");
    for (name, case) in CASES {
        if options.only.is_empty() || options.only.iter().any(|only| only == name) {
            eprintln!("{name} …");
            for Row { load, figure, must } in case(&options) {
                println!("| {load} | {figure} | {must} |");
            }
        }
    }
}

impl Options {
    /// A number of the yardstick, or the one of a small run.
    pub fn pick(&self, full: usize, small: usize) -> usize {
        if self.small { small } else { full }
    }
}
