//! A server in a directory of its own, and what it takes, as the kernel counts it.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use ftx_channel::Pin;
use tempfile::TempDir;

pub struct Server {
    pub child: Child,
    pub address: SocketAddr,
    root: TempDir,
}

impl Server {
    pub fn start(parent: &Path, threads: usize) -> Self {
        Self::serve(directory_in(parent), threads, &[]).0
    }

    /// One that speaks TLS too, to those who want it, with a key that it makes in this directory.
    pub fn with_identity(parent: &Path, threads: usize, identity: &Path) -> Self {
        let more = [OsStr::new("--identity"), identity.as_os_str()];
        Self::serve(directory_in(parent), threads, &more).0
    }

    /// Beyond its first line, what it says on stdout.
    fn serve(root: TempDir, threads: usize, more: &[&OsStr]) -> (Self, BufReader<ChildStdout>) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ftx"))
            .arg("serve")
            .arg(root.path())
            .args(["--listen", "127.0.0.1:0", "--idle-timeout", "1h", "--max-connections", "12000"])
            .args(["--threads", &threads.to_string()])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
        (Self { child, address, root }, said)
    }

    pub fn served(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap()
    }

    /// Seconds of CPU so far, in clock ticks of a hundredth.
    pub fn cpu_seconds(&self) -> f64 {
        seconds(&std::fs::read_to_string(self.proc("stat")).unwrap())
    }

    /// Those of the threads that wait for sockets: the first of all, and those named for it.
    pub fn selector_seconds(&self) -> f64 {
        let first = self.child.id().to_string();
        let threads = std::fs::read_dir(self.proc("task")).unwrap().flatten();
        let stats = threads.filter_map(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).ok()?;
            let is_one = thread.file_name() == *first || stat.contains("(selector-");
            is_one.then_some(stat)
        });
        stats.map(|stat| seconds(&stat)).sum()
    }

    /// Bytes that are resident.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    /// The most bytes that were resident since `forget_peak`.
    pub fn peak(&self) -> u64 {
        self.status("VmHWM")
    }

    pub fn forget_peak(&self) {
        std::fs::write(self.proc("clear_refs"), "5").unwrap();
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

/// A server that is spoken to inside TLS, with a token.
pub struct Locked {
    pub server: Server,
    pub pin: Pin,
    pub token: String,
    _state: TempDir,
}

impl Locked {
    pub fn start(parent: &Path, threads: usize) -> Self {
        let above = directory_in(parent);
        // Made by the server, which wants it for its owner only.
        let state = above.path().join("state");
        let option = ["--require-token".as_ref(), "--state".as_ref(), state.as_os_str()];
        let (server, mut said) = Server::serve(directory_in(parent), threads, &option);
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let pin = line.trim().rsplit('#').next().unwrap().parse().unwrap();
        let token = Command::new(env!("CARGO_BIN_EXE_ftx"))
            .args(["token", "add", "load", "--can", "read,write,list", "--state"])
            .arg(&state)
            .output()
            .unwrap();
        assert!(token.status.success(), "{}", String::from_utf8_lossy(&token.stderr));
        let token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
        Self { server, pin, token, _state: above }
    }
}

fn directory_in(parent: &Path) -> TempDir {
    tempfile::Builder::new().prefix("ftx-load-").tempdir_in(parent).unwrap()
}

/// User and system time in a line of `/proc/…/stat`.
fn seconds(stat: &str) -> f64 {
    const TICKS_A_SECOND: f64 = 100.0;
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / TICKS_A_SECOND
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
