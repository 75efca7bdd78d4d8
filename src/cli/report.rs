//! What the client commands print: results on stdout, everything else on stderr.

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use ftx_client::{Algorithm, Class, Counts, Digest, Failure, JsonName, Name, Notice, Part, Spent};
use ftx_disk::failure::plain;
use ftx_protocol::Escaped;
use ftx_protocol::clock::milliseconds;
use indicatif::HumanBytes;
use serde_json::json;

use super::exit::Exit;
use super::progress::Progress;

/// From here on somebody has had the time to wonder.
pub const WORTH_TELLING: Duration = Duration::from_secs(1);

/// How much is printed, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Checksum lines, progress where it can be seen.
    Text,
    /// The same, and where the time went.
    Verbose,
    /// Checksum lines on stdout, and no progress.
    Quiet,
    /// One JSON object a line.
    Json,
}

impl Form {
    /// Whether there is progress, where it can be seen.
    pub fn shows_progress(self) -> bool {
        matches!(self, Self::Text | Self::Verbose)
    }
}

/// What a transfer cost.
pub struct Cost<'a> {
    pub counts: &'a Counts,
    pub spent: &'a Spent,
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
    /// The name under which it was stored, if it is another one.
    stored_as: Option<Name>,
    progress: Progress,
    /// Bytes of the whole, if known.
    size: Option<u64>,
    began: Instant,
}

impl Report {
    pub fn new(form: Form, results: Results, action: &'static str, name: &[u8]) -> Self {
        let progress = Progress::new(form, None);
        progress.bar.set_message(Escaped(name).to_string());
        let began = Instant::now();
        let (name, stored_as) = (name.to_vec(), None);
        Self { form, results, action, name, stored_as, progress, size: None, began }
    }

    /// The server has stored it under another name than was asked for.
    pub fn stored_as(&mut self, name: &Name) {
        self.say(&stored_as_line(&self.name, name));
        self.stored_as = Some(name.clone());
    }

    /// Shows what happens.
    pub fn notice(&mut self, notice: Notice) {
        match notice {
            Notice::Began { at, size } => {
                self.began(at, size);
                self.event(json!({"event": "began", "at": at, "size": size}));
            }
            Notice::Moved { at } => {
                self.fit();
                self.progress.bar.set_position(at);
            }
            Notice::Retrying { cause, pause } => {
                self.say(&retrying_line(&cause, pause));
                let mut event = json!({"event": "retrying"});
                merge(&mut event, retrying_json(&cause, pause));
                self.event(event);
            }
            Notice::Warning(text) => {
                self.say(&text);
                self.event(json!({"event": "warning", "message": text}));
            }
        }
    }

    fn began(&mut self, at: u64, size: Option<u64>) {
        self.size = size;
        self.progress.make_anew();
        if let Some(size) = size {
            self.progress.bar.set_length(size);
        }
        self.fit();
        self.progress.bar.set_position(at);
        self.progress.bar.reset_eta();
    }

    fn fit(&mut self) {
        let size = self.size;
        self.progress.fit(|columns| template(columns, size));
    }

    /// The file is done.
    pub fn done(
        &self,
        digest: &Digest,
        size: u64,
        cost: &Cost<'_>,
        more: serde_json::Value,
    ) -> std::io::Result<()> {
        self.progress.bar.finish_and_clear();
        let Cost { counts, spent } = cost;
        self.summary(size, cost);
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
            merge(&mut event, spent_json(spent));
            merge(&mut event, more);
            merge(&mut event, stored_as_json(self.stored_as.as_ref()));
            return self.event_line(event);
        }
        match self.results {
            Results::Stdout => {
                let name = self.stored_as.as_ref().map_or(self.name.as_slice(), Name::as_bytes);
                self.result(&finished_line(digest, name))
            }
            // Where the content itself is the result, the line is a courtesy.
            Results::Stderr if self.form == Form::Quiet => Ok(()),
            Results::Stderr => {
                let names = Names::at(&std::io::stderr());
                self.result(&checksum_line(digest, &self.name, names))
            }
        }
    }

    /// How fast it was, and why no faster: for whoever sees progress and had the time to wonder.
    fn summary(&self, size: u64, cost: &Cost<'_>) {
        let spent = cost.spent;
        let told = match self.form {
            Form::Verbose => true,
            Form::Text => !self.progress.bar.is_hidden() && spent.wall >= WORTH_TELLING,
            Form::Quiet | Form::Json => false,
        };
        if !told {
            return;
        }
        let name = Escaped(&self.name);
        say(&format!("{name}: {}", speed(size, cost)));
        if self.form == Form::Verbose {
            say(&format!("{name}: {}", shares(spent)));
        }
    }

    /// The file failed.
    pub fn failed(&self, failure: &Failure) {
        self.progress.bar.finish_and_clear();
        self.say(&failure.to_string());
        let mut event = json!({"event": "failed"});
        merge(&mut event, failure_json(failure));
        self.event(event);
    }

    fn say(&self, line: &str) {
        self.progress.bar.suspend(|| say(line));
    }

    fn event(&self, event: serde_json::Value) {
        if self.form == Form::Json {
            // A closed pipe shows at the result, which is what counts.
            let _ = self.event_line(event);
        }
    }

    fn event_line(&self, event: serde_json::Value) -> std::io::Result<()> {
        let mut whole = json!({"action": self.action, "name": JsonName(&self.name)});
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

/// What a person reads when a file has got another name.
pub fn stored_as_line(asked: &[u8], name: &Name) -> String {
    format!("{}: the name was taken; it is stored as {name}", Escaped(asked))
}

/// The same for a program.
pub fn stored_as_json(name: Option<&Name>) -> serde_json::Value {
    name.map_or_else(|| json!({}), |name| json!({"stored_as": name}))
}

/// What a person reads when something is tried again.
pub fn retrying_line(cause: &str, pause: Duration) -> String {
    format!("{cause}; trying again in {:.1} s", pause.as_secs_f64())
}

/// The same for a program.
pub fn retrying_json(cause: &str, pause: Duration) -> serde_json::Value {
    json!({"cause": cause, "pause_ms": milliseconds(pause)})
}

/// `1 file`, `2 files`.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// How fast a file was moved. What an earlier run had moved took none of the time.
fn speed(size: u64, Cost { counts, spent }: &Cost<'_>) -> String {
    let rate = rate(counts.moved_bytes, spent.wall).unwrap_or_default();
    let (size, rate, seconds) = (HumanBytes(size), HumanBytes(rate), spent.wall.as_secs_f64());
    format!("{size} in {seconds:.1} s, {rate}/s{}", limited_by(spent))
}

/// Bytes a second, where the time is long enough to say so.
pub fn rate(bytes: u64, time: Duration) -> Option<u64> {
    let milliseconds = u64::try_from(time.as_millis()).ok()?;
    bytes.checked_mul(1_000)?.checked_div(milliseconds)
}

/// The end of a summary: what a transfer waited for most.
pub fn limited_by(spent: &Spent) -> String {
    match spent.limit() {
        Some((part, percent)) => format!(", limited by: {} {percent} %", part.as_str()),
        None => String::new(),
    }
}

/// Where the time went. Parts that ran beside each other may be more than 100 together.
pub fn shares(spent: &Spent) -> String {
    let shares = spent.parts().into_iter().map(|(part, time)| (part, spent.percent(time)));
    let shares = shares
        .filter(|(_, percent)| *percent > 0)
        .map(|(part, percent)| format!("{} {percent} %", part.as_str()));
    shares.collect::<Vec<_>>().join(", ")
}

/// Where the time went, in seconds, and what limited it.
pub fn spent_json(spent: &Spent) -> serde_json::Value {
    let key = |part: Part| part.as_str().replace(' ', "_");
    let parts = spent.parts().into_iter().map(|(part, time)| (key(part), json!(seconds(time))));
    let limit = spent.limit().map(|(part, _)| key(part));
    json!({"spent": parts.collect::<serde_json::Map<_, _>>(), "limited_by": limit})
}

/// Says something to the person at the terminal.
pub fn say(line: &str) {
    // A stderr that is closed cannot be told so.
    let _ = writeln!(std::io::stderr(), "ftx: {line}");
}

/// A result that could not be printed is no result; a reader that has enough is no failure.
pub fn told(result: std::io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            say(&format!("cannot write the result: {}", plain(&error)));
            Exit::Local
        }
    }
}

/// How a checksum line writes names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// As `sha256sum` writes them, so that `-c` finds the file: every byte but those that would
    /// break the line.
    Exact,
    /// For a terminal, which takes some bytes as commands.
    Escaped,
}

impl Names {
    fn at(output: &impl IsTerminal) -> Self {
        if output.is_terminal() { Self::Escaped } else { Self::Exact }
    }

    /// The name, and before it the mark that says that there are escapes.
    fn marked(self, name: &[u8]) -> (&'static [u8], Vec<u8>) {
        let shown = match self {
            Self::Exact => without_line_breaks(name),
            Self::Escaped => Escaped(name).to_string().into_bytes(),
        };
        (if shown == name { b"" } else { b"\\" }, shown)
    }
}

/// A name at the beginning of a line of stdout, as `sha256sum -c` writes it.
pub fn name_in_line(name: &[u8]) -> Vec<u8> {
    let (mark, shown) = Names::at(&std::io::stdout()).marked(name);
    [mark, &shown].concat()
}

/// The checksum line of a file, for stdout.
pub fn finished_line(digest: &Digest, name: &[u8]) -> Vec<u8> {
    // Asked once: a job says many.
    static NAMES: OnceLock<Names> = OnceLock::new();
    checksum_line(digest, name, *NAMES.get_or_init(|| Names::at(&std::io::stdout())))
}

/// The line that `sha256sum -c` reads; for other algorithms the tagged form of the same tools.
fn checksum_line(digest: &Digest, name: &[u8], names: Names) -> Vec<u8> {
    let (mark, shown) = names.marked(name);
    match digest.algorithm {
        Algorithm::Sha256 => [mark, digest.hex().as_bytes(), b"  ", &shown].concat(),
        Algorithm::Blake3 => [mark, b"BLAKE3 (", &shown, b") = ", digest.hex().as_bytes()].concat(),
    }
}

fn without_line_breaks(name: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'\\' => shown.extend_from_slice(b"\\\\"),
            b'\n' => shown.extend_from_slice(b"\\n"),
            b'\r' => shown.extend_from_slice(b"\\r"),
            byte => shown.push(byte),
        }
    }
    shown
}

/// The line of progress that fits into so many columns, with room for the name. The longest bytes
/// are `1023.99 MiB`, the longest time is four characters. One that does not fit would wrap, and
/// leave a line behind each time it is drawn.
pub fn template(columns: u16, size: Option<u64>) -> &'static str {
    match (size, columns) {
        (Some(_), 100..) => "{wide_msg} {bytes}/{total_bytes} {bar:20} {bytes_per_sec} {eta}",
        (Some(_), 60..) => "{wide_msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Some(_), 36..) => "{wide_msg} {percent:>3}% {bytes_per_sec} {eta}",
        (Some(_), 8..) => "{wide_msg} {percent:>3}%",
        (None, 40..) => "{wide_msg} {bytes} {bytes_per_sec}",
        (None, 20..) => "{wide_msg} {bytes}",
        _ => "{wide_msg}",
    }
}

pub fn merge(into: &mut serde_json::Value, more: serde_json::Value) {
    if let (serde_json::Value::Object(into), serde_json::Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

/// What a program reads of a failure.
pub fn failure_json(failure: &Failure) -> serde_json::Value {
    let code = match failure.class {
        Class::Refused(code) => Some(code.as_str()),
        _ => None,
    };
    json!({"class": class(failure.class), "code": code, "message": failure.to_string()})
}

fn class(class: Class) -> &'static str {
    match class {
        Class::Usage => "usage",
        Class::Network => "network",
        Class::Untrusted => "untrusted",
        Class::Refused(_) => "refused",
        Class::Integrity => "integrity",
        Class::Local => "local",
        Class::Interrupted => "interrupted",
    }
}

pub fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
    }

    #[test]
    fn checksum_lines_are_those_of_sha256sum_and_b3sum() {
        let sha = digest();
        let blake = Digest { algorithm: Algorithm::Blake3, ..sha };
        let hex = "ab".repeat(32);
        let line = |digest: &Digest, name: &[u8]| checksum_line(digest, name, Names::Exact);
        assert_eq!(line(&sha, b"a b"), format!("{hex}  a b").into_bytes());
        assert_eq!(line(&sha, b"a\nb\\"), format!("\\{hex}  a\\nb\\\\").into_bytes());
        assert_eq!(line(&sha, b"\x1b\xff"), [hex.as_bytes(), b"  \x1b\xff"].concat());
        assert_eq!(line(&blake, b"x"), format!("BLAKE3 (x) = {hex}").into_bytes());
        assert_eq!(line(&blake, b"a\nb"), format!("\\BLAKE3 (a\\nb) = {hex}").into_bytes());
    }

    #[test]
    fn sha256sum_finds_the_files_of_checksum_lines_whatever_their_names() {
        use std::os::unix::ffi::OsStrExt;
        let here = tempfile::tempdir().unwrap();
        let hex = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        let mut sums = Vec::new();
        for name in
            [&b"a\nb"[..], b"a\\b", b"\\n", b"a\rb", b" \x1b[31m", b"-\xff", "\u{e9}".as_bytes()]
        {
            std::fs::write(here.path().join(std::ffi::OsStr::from_bytes(name)), "x").unwrap();
            sums.extend(checksum_line(&digest, name, Names::Exact));
            sums.push(b'\n');
        }
        std::fs::write(here.path().join("SUMS"), sums).unwrap();
        let check = std::process::Command::new("sha256sum")
            .args(["-c", "SUMS"])
            .current_dir(here.path())
            .output();
        match check {
            Ok(check) => assert!(check.status.success(), "{check:?}"),
            // Past the capture of what passing tests print.
            Err(error) => {
                let _ = writeln!(
                    std::io::stderr(),
                    "NOT TESTED, because there is no sha256sum here: {error}"
                );
            }
        }
    }

    #[test]
    fn a_checksum_line_for_a_terminal_commands_it_nothing() {
        let line = checksum_line(&digest(), b"\x1b[31m\x07\n\xff", Names::Escaped);
        let hex = "ab".repeat(32);
        assert_eq!(line, format!("\\{hex}  \\x1b[31m\\x07\\n\\xff").into_bytes());
        let plain = checksum_line(&digest(), b"a b", Names::Escaped);
        assert_eq!(plain, format!("{hex}  a b").into_bytes());
    }

    #[test]
    fn what_an_earlier_run_has_moved_makes_this_one_no_faster() {
        let counts = Counts { moved_bytes: 2 * 1024 * 1024, ..Counts::default() };
        let spent = Spent { wall: Duration::from_secs(2), ..Spent::default() };
        let said = speed(100 * 1024 * 1024, &Cost { counts: &counts, spent: &spent });
        assert!(said.starts_with("100.00 MiB in 2.0 s, 1.00 MiB/s"), "{said}");
    }

    #[test]
    fn the_line_of_progress_fits_the_terminal() {
        for columns in (10..=220).chain([u16::MAX]) {
            for size in [Some(1_072_693_000), None] {
                let bytes = "1023.99 MiB";
                let line = template(columns, size)
                    .replace("{wide_msg}", "")
                    .replace("{bytes}", bytes)
                    .replace("{total_bytes}", bytes)
                    .replace("{bar:20}", &"#".repeat(20))
                    .replace("{percent:>3}", "100")
                    .replace("{bytes_per_sec}", "1023.99 MiB/s")
                    .replace("{eta}", "100w");
                assert!(!line.contains('{'), "{line}");
                assert!(line.len() + 4 <= columns.into(), "{columns} columns: {line:?}");
            }
        }
    }
}
