//! System calls of a running server that fail or take long, by way of strace.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::harness::{Server, not_tested};

/// Until it is dropped, the server's calls are tampered with.
pub struct Injection {
    strace: Child,
}

impl Injection {
    /// Does `what` (in strace's words) to the calls that concern this path, as the server spells
    /// it; without a path, to all of them. `None`, and said loudly, where that is not possible.
    pub fn into(server: &Server, calls: &str, path: Option<&OsStr>, what: &str) -> Option<Self> {
        let mut command = Command::new("strace");
        command.args(["-f", "-o", "/dev/null", "-p", &server.child.id().to_string()]);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{what}")]);
        if let Some(path) = path {
            command.arg("-P").arg(path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let Ok(mut strace) = command.spawn() else {
            not_tested(
                "this needs the program strace (the Debian package strace): a disk that fails or is slow",
            );
            return None;
        };
        let mut stderr = BufReader::new(strace.stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains(" attached") {
            if stderr.read_line(&mut said).unwrap() == 0 {
                let _ = strace.wait();
                assert!(said.contains("not permitted"), "strace cannot do it: {said}");
                not_tested(&format!("strace may not attach: a disk that fails or is slow: {said}"));
                return None;
            }
        }
        // Read to its end, so that strace never waits for room to complain.
        std::thread::spawn(move || while let Ok(1..) = stderr.read_line(&mut String::new()) {});
        Some(Self { strace })
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // Asked to end, strace lets go of the server's threads in an orderly way.
        let _ = Command::new("kill").args(["-INT", &self.strace.id().to_string()]).status();
        let _ = self.strace.wait();
    }
}
