//! What the client commands print: results on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use ftx_client::{Algorithm, Class, Counts, Digest, Failure, Notice};
use ftx_protocol::Escaped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

/// How much is printed, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Checksum lines, progress where it can be seen.
    Text,
    /// Checksum lines, and no progress.
    Quiet,
    /// One JSON object a line.
    Json,
}

/// Where results go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    Stdout,
    /// Where stdout has the content itself.
    Stderr,
}

/// The report of one file.
pub struct Report {
    form: Form,
    results: Results,
    /// `put` or `get`.
    action: &'static str,
    name: Vec<u8>,
    bar: ProgressBar,
    began: Instant,
}

impl Report {
    pub fn new(form: Form, results: Results, action: &'static str, name: &[u8]) -> Self {
        let seen = form == Form::Text && std::io::stderr().is_terminal();
        let bar = if seen {
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        bar.set_message(Escaped(name).to_string());
        Self { form, results, action, name: name.to_vec(), bar, began: Instant::now() }
    }

    /// Shows what happens.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Began { at, size } => {
                self.began(at, size);
                self.event(json!({"event": "began", "at": at, "size": size}));
            }
            Notice::Moved { at } => self.bar.set_position(at),
            Notice::Retrying { cause, pause } => {
                let milliseconds = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                let line = format!("{cause}; trying again in {:.1} s", pause.as_secs_f64());
                self.say(&line);
                let event = json!({"event": "retrying", "cause": cause, "pause_ms": milliseconds});
                self.event(event);
            }
            Notice::Warning(text) => {
                self.say(&text);
                self.event(json!({"event": "warning", "message": text}));
            }
        }
    }

    fn began(&self, at: u64, size: Option<u64>) {
        let template = match size {
            Some(size) => {
                self.bar.set_length(size);
                "{wide_msg} {bytes}/{total_bytes} {bar:20} {bytes_per_sec} {eta}"
            }
            None => "{wide_msg} {bytes} {bytes_per_sec}",
        };
        // The template is ours; were it wrong, the bar would only look different.
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_position(at);
        self.bar.reset_eta();
    }

    /// The file is done.
    pub fn done(
        &self,
        digest: &Digest,
        size: u64,
        counts: &Counts,
        more: serde_json::Value,
    ) -> std::io::Result<()> {
        self.bar.finish_and_clear();
        if self.form == Form::Json {
            let mut event = json!({
                "event": "done",
                "size": size,
                "digest": digest.to_string(),
                "seconds": seconds(self.began.elapsed()),
                "moved_bytes": counts.moved_bytes,
                "moved_again_bytes": counts.moved_again_bytes,
                "read_bytes": counts.read_bytes,
                "read_again_bytes": counts.read_again_bytes,
                "connections": counts.connections,
            });
            merge(&mut event, more);
            return self.event_line(event);
        }
        self.result(&checksum_line(digest, &self.name))
    }

    /// The file failed.
    pub fn failed(&self, failure: &Failure) {
        self.bar.finish_and_clear();
        self.say(&failure.to_string());
        let code = match failure.class {
            Class::Refused(code) => Some(code.as_str()),
            _ => None,
        };
        self.event(json!({
            "event": "failed",
            "class": class(failure.class),
            "code": code,
            "message": failure.to_string(),
        }));
    }

    fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    fn event(&self, event: serde_json::Value) {
        if self.form == Form::Json {
            // A closed pipe shows at the result, which is what counts.
            let _ = self.event_line(event);
        }
    }

    fn event_line(&self, event: serde_json::Value) -> std::io::Result<()> {
        let mut whole = json!({"action": self.action, "name": String::from_utf8_lossy(&self.name)});
        merge(&mut whole, event);
        self.result(whole.to_string().as_bytes())
    }

    fn result(&self, line: &[u8]) -> std::io::Result<()> {
        let line = [line, b"\n"].concat();
        match self.results {
            Results::Stdout => {
                let mut stdout = std::io::stdout().lock();
                stdout.write_all(&line)?;
                stdout.flush()
            }
            Results::Stderr => std::io::stderr().write_all(&line),
        }
    }
}

/// Says something to the person at the terminal.
pub fn say(line: &str) {
    // A stderr that is closed cannot be told so.
    let _ = writeln!(std::io::stderr(), "ftx: {line}");
}

/// The line that `sha256sum -c` reads; for other algorithms the tagged form of the same tools.
/// A name with a line break or backslash is escaped as they do it.
pub fn checksum_line(digest: &Digest, name: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => shown.extend_from_slice(b"\\\\"),
            b'\n' => shown.extend_from_slice(b"\\n"),
            b'\r' => shown.extend_from_slice(b"\\r"),
            byte => shown.push(byte),
        }
    }
    let mark: &[u8] = if shown == name { b"" } else { b"\\" };
    match digest.algorithm {
        Algorithm::Sha256 => [mark, digest.hex().as_bytes(), b"  ", &shown].concat(),
        Algorithm::Blake3 => [mark, b"BLAKE3 (", &shown, b") = ", digest.hex().as_bytes()].concat(),
    }
}

fn merge(into: &mut serde_json::Value, more: serde_json::Value) {
    if let (serde_json::Value::Object(into), serde_json::Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Usage => "usage",
        Class::Network => "network",
        Class::Refused(_) => "refused",
        Class::Integrity => "integrity",
        Class::Local => "local",
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_lines_are_those_of_sha256sum_and_b3sum() {
        let sha: Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let blake = Digest { algorithm: Algorithm::Blake3, ..sha };
        let hex = "ab".repeat(32);
        assert_eq!(checksum_line(&sha, b"a b"), format!("{hex}  a b").into_bytes());
        assert_eq!(checksum_line(&sha, b"a\nb\\"), format!("\\{hex}  a\\nb\\\\").into_bytes());
        assert_eq!(checksum_line(&blake, b"x"), format!("BLAKE3 (x) = {hex}").into_bytes());
    }
}
