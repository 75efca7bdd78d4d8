//! The log of a server, written by a thread of its own, many lines at a time. A stderr that nobody
//! reads stops nobody, and a line costs whoever says it a lock and a copy.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ftx_disk::lock::lock;
use serde_json::json;

/// Bytes that wait to be written; further lines are lost, and that is better than memory that grows.
const WAITING_BYTES: usize = 2 * 1024 * 1024;

/// How long the first line waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// How long the end waits for what is still to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where lines are said.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

/// Writes what waits when it is dropped.
pub struct Guard(Arc<Shared>);

struct Shared {
    /// The line that says how many were lost, as the others are written.
    say_lost: fn(u64) -> String,
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
    lost: u64,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    #[default]
    Open,
    /// What waits is written, and that is all.
    Ending,
    Over,
}

/// That lines were lost, in a log of text.
pub fn lost_as_text(lost: u64) -> String {
    format!("{lost} lines of the log lost\n")
}

/// The same in a log of JSON.
pub fn lost_as_json(lost: u64) -> String {
    let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let message = format!("{lost} lines of the log lost");
    format!("{}\n", json!({"timestamp": timestamp, "level": "WARN", "message": message}))
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        lock(&self.lines)
    }

    /// Writes until it is over.
    fn write(&self, mut to: impl Write) {
        loop {
            let nothing = |lines: &mut Lines| lines.bytes.is_empty() && lines.stage == Stage::Open;
            let waited = self.changed.wait_while(self.lines(), nothing);
            let lines = waited.unwrap_or_else(PoisonError::into_inner);
            let is_open = |lines: &mut Lines| lines.stage == Stage::Open;
            let gathered = self.changed.wait_timeout_while(lines, GATHER, is_open);
            let (mut lines, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            let mut bytes = std::mem::take(&mut lines.bytes);
            match std::mem::take(&mut lines.lost) {
                0 => {}
                lost => bytes.extend_from_slice((self.say_lost)(lost).as_bytes()),
            }
            let stage = lines.stage;
            drop(lines);
            // There is nobody to tell.
            let _ = to.write_all(&bytes);
            if stage != Stage::Open {
                self.lines().stage = Stage::Over;
                return self.changed.notify_all();
            }
        }
    }
}

impl Log {
    /// Starts the thread, which writes to `to`.
    pub fn start(
        to: impl Write + Send + 'static,
        say_lost: fn(u64) -> String,
    ) -> io::Result<(Self, Guard)> {
        let shared =
            Arc::new(Shared { say_lost, lines: Mutex::default(), changed: Condvar::new() });
        let writing = Arc::clone(&shared);
        std::thread::Builder::new().name("log".into()).spawn(move || writing.write(to))?;
        Ok((Self(Arc::clone(&shared)), Guard(shared)))
    }
}

impl Write for Log {
    /// Takes a line, or loses it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lines();
        if lines.bytes.len().saturating_add(line.len()) > WAITING_BYTES {
            lines.lost = lines.lost.saturating_add(1);
            return Ok(line.len());
        }
        let was_empty = lines.bytes.is_empty();
        lines.bytes.extend_from_slice(line);
        drop(lines);
        if was_empty {
            self.0.changed.notify_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut lines = self.0.lines();
        lines.stage = Stage::Ending;
        self.0.changed.notify_all();
        let is_writing = |lines: &mut Lines| lines.stage != Stage::Over;
        // A stderr that nobody reads does not keep the program.
        drop(self.0.changed.wait_timeout_while(lines, LAST_WORDS, is_writing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Told(Sender<Vec<u8>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn in_a_log_of_json_what_was_lost_is_json_too() {
        let (told, writes) = channel();
        let (mut log, guard) = Log::start(Told(told), lost_as_json).unwrap();
        log.write_all(&vec![0; WAITING_BYTES + 1]).unwrap();
        drop(guard);
        let written: Vec<u8> = writes.try_iter().flatten().collect();
        let line: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(line["message"], "1 lines of the log lost");
    }

    #[test]
    fn every_line_is_written_in_its_order_and_what_does_not_fit_is_counted() {
        let (told, writes) = channel();
        let (mut log, guard) = Log::start(Told(told), lost_as_text).unwrap();
        for number in 0..1_000 {
            writeln!(log, "{number}").unwrap();
        }
        log.write_all(&vec![0; WAITING_BYTES + 1]).unwrap();
        drop(guard);
        let written: Vec<u8> = writes.try_iter().flatten().collect();
        let lines: String = (0..1_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(String::from_utf8(written).unwrap(), lines + "1 lines of the log lost\n");
    }
}
