//! A server, a client and a line between them, for the tests.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use crate::both::{MIB, PATIENCE, noise, until};

/// A place of its own for one test: a served directory, a directory of the client, its state.
pub struct World {
    pub home: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        for directory in ["served", "here", "state"] {
            std::fs::create_dir(home.path().join(directory)).unwrap();
        }
        Self { home }
    }

    pub fn served(&self) -> PathBuf {
        self.home.path().join("served")
    }

    pub fn here(&self) -> PathBuf {
        self.home.path().join("here")
    }

    pub fn serve(&self) -> Server {
        self.serve_with(&[])
    }

    pub fn serve_with(&self, options: &[&str]) -> Server {
        Server::start(&self.served(), "127.0.0.1:0", options)
    }

    /// The client, with a server and a state directory of its own.
    pub fn ftx<S: AsRef<OsStr>>(
        &self,
        server: SocketAddr,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
        command
            .args(args)
            .current_dir(self.here())
            .env("FTX_SERVER", server.to_string())
            .env("XDG_STATE_HOME", self.home.path().join("state"))
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the client to its end, and expects this exit code.
    pub fn run(&self, server: SocketAddr, args: &[&str], code: i32) -> Output {
        let output = self.ftx(server, args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", text(&output.stderr));
        output
    }

    /// A file of noise in the client's directory.
    pub fn noise(&self, name: &str, size: usize) -> Vec<u8> {
        let bytes = noise(size, size as u64 + 1);
        std::fs::write(self.here().join(name), &bytes).unwrap();
        bytes
    }

    pub fn stored(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.served().join(name)).unwrap()
    }

    /// Files in staging.
    pub fn staged(&self) -> usize {
        std::fs::read_dir(self.served().join(".ftx/staging")).unwrap().count()
    }

    /// Bytes of the largest file that is on its way to the server.
    pub fn staged_bytes(&self) -> u64 {
        largest(&self.served().join(".ftx/staging"))
    }

    /// Bytes of the largest hidden part file on its way to the client.
    pub fn part_bytes(&self) -> u64 {
        largest(&self.here())
    }

    /// Bytes of the largest file of a tree that is on its way to the client.
    pub fn part_bytes_in(&self, tree: &str) -> u64 {
        largest(&self.here().join(tree).join(".ftx/staging"))
    }
}

fn largest(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries
        .filter(|entry| {
            directory.ends_with("staging")
                || entry.file_name().to_string_lossy().starts_with(".ftx-")
        })
        .filter_map(|entry| entry.metadata().ok());
    sizes.map(|metadata| metadata.len()).max().unwrap_or(0)
}

/// Says what a test cannot do here, past the capture of what passing tests print.
pub fn not_tested(what: &str) {
    let _ = writeln!(std::io::stderr(), "NOT TESTED, because {what}");
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs the client with something on its stdin.
pub fn fed(command: &mut Command, input: &str) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // One that has enough before reads no more.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a program that is to end by itself says. One that does not end is killed, and is a failure.
pub fn to_its_end(mut child: Child) -> Output {
    let end = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("it does not end: {}", text(&child.wait_with_output().unwrap().stderr));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

/// The same of a command, with the stdin that it has.
pub fn run_to_its_end(command: &mut Command) -> Output {
    to_its_end(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// The last `done` event that a client printed with `--json`.
pub fn done_event(output: &Output) -> serde_json::Value {
    text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|event| event["event"] == "done")
        .unwrap_or_else(|| panic!("no done event in {}", text(&output.stdout)))
}

/// A server process. Killed when dropped.
pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
    said: Arc<Mutex<String>>,
}

impl Server {
    pub fn start(directory: &Path, listen: &str, options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftx"));
        command
            .arg("serve")
            .arg(directory)
            .args(["--listen", listen, "--min-free", "0"])
            .args(options)
            // Not the one of whoever runs the tests.
            .env("XDG_STATE_HOME", directory.with_file_name("state-of-the-server"));
        Self::spawn(command)
    }

    pub fn spawn(mut command: Command) -> Self {
        Self::spawn_with_stdin(command.stdin(Stdio::null()))
    }

    /// With the stdin that the command has.
    pub fn spawn_with_stdin(command: &mut Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        collect(BufReader::new(child.stderr.take().unwrap()), &log);
        let (tell, told) = mpsc::channel();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            // Whoever waited may have given up.
            let _ = tell.send((line, stdout));
        });
        let first = told.recv_timeout(PATIENCE);
        let line = first.as_ref().map(|(line, _)| line.trim());
        let address = line.ok().and_then(|line| line.strip_prefix("listening on ")?.parse().ok());
        let (Some(address), Ok((_, stdout))) = (address, first) else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the server does not say where it listens: {}", log.lock().unwrap());
        };
        let said = Arc::default();
        collect(stdout, &said);
        Self { address, child, log, said }
    }

    /// Kills it, and starts another one on the same directory and address.
    pub fn kill_and_restart(&mut self, directory: &Path, options: &[&str]) {
        self.kill();
        *self = Self::start(directory, &self.address.to_string(), options);
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// What it said on stdout behind the first line.
    pub fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Sends a signal, named as kill(1) has it.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// Open descriptors of the process.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How long processors have worked for it, in hundredths of a second: whatever else runs on the machine.
    pub fn worked(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind its name, which may have spaces, utime and stime are the 12th and 13th.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }
}

/// Takes line after line into a text, in a thread of its own.
fn collect(mut from: impl BufRead + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut line = String::new();
        while let Ok(1..) = from.read_line(&mut line) {
            into.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A line to a server that can be cut, or that swallows what the server says.
pub struct Line {
    pub address: SocketAddr,
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Budget {
    /// Bytes that may still pass, in each direction; 0 is without limit.
    up: AtomicU64,
    down: AtomicU64,
}

impl Line {
    /// A line whose first connection breaks after so many bytes up, or down; 0 is never.
    pub fn cut_after(server: SocketAddr, up: u64, down: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let budget = Arc::new(Budget { up: AtomicU64::new(up), down: AtomicU64::new(down) });
        let shared = Arc::clone(&budget);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                relay_within(near, server, &shared);
            }
        });
        Self { address, budget }
    }

    /// Whether the line has been cut as often as it was to be.
    pub fn was_cut(&self) -> bool {
        self.budget.up.load(Ordering::SeqCst) == 0 && self.budget.down.load(Ordering::SeqCst) == 0
    }
}

/// Passes on what comes either way, each in a thread.
pub fn relay_both(near: TcpStream, server: SocketAddr) -> Vec<JoinHandle<()>> {
    relay_within(near, server, &Arc::default())
}

fn relay_within(near: TcpStream, server: SocketAddr, budget: &Arc<Budget>) -> Vec<JoinHandle<()>> {
    let Ok(far) = TcpStream::connect(server) else { return Vec::new() };
    let (near_back, far_back) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let (up, down) = (Arc::clone(budget), Arc::clone(budget));
    vec![
        std::thread::spawn(move || relay(near, far, &up.up)),
        std::thread::spawn(move || relay(far_back, near_back, &down.down)),
    ]
}

fn relay(mut from: TcpStream, mut to: TcpStream, budget: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let before = budget.load(Ordering::SeqCst);
        if before > 0 && before <= count as u64 {
            // What is over the budget never arrives.
            let _ = to.write_all(&buffer[..before as usize - 1]);
            budget.store(0, Ordering::SeqCst);
            break;
        }
        if before > 0 {
            budget.store(before - count as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(std::net::Shutdown::Both);
    let _ = to.shutdown(std::net::Shutdown::Both);
}
