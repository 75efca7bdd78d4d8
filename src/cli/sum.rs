//! `ftx sum` and `ftx verify`: digests that the server computes.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ftx_client::{
    Algorithm, Answer, Ask, Cache, Class, Code, Digest, Failure, Kind, Name, Remote, Stat,
};
use ftx_protocol::Escaped;
use ftx_protocol::limits::NAME_BYTES;
use serde_json::json;

use super::ask::print_each;
use super::choice::DigestKind;
use super::exit::Exit;
use super::remote::{Clients, Tally, Where, run};
use super::report::{counted, finished_line, name_in_line, say};
use super::tree::{inside, name_of_path};

/// Of so many lines that are no checksum lines it is said which and why. A file that is no list may have
/// any number of them; the others are counted.
const UNREADABLE_TOLD_MAX: u64 = 10;

/// No checksum line is longer: a name with each byte written as `%xx`, its server, and the digest. So the words
/// about one are not, either.
const LINE_BYTES_MAX: usize = 4 * NAME_BYTES;

/// Print the checksum lines of files on a server, without fetching them.
///
/// The server reads the bytes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  ftx sum backup/db.sql backup/users.sql >> SUMS")]
pub struct Sum {
    /// Files on the server
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<OsString>,

    /// How the digest is computed
    #[arg(long, value_enum, default_value = "sha256")]
    digest: DigestKind,

    /// Take what the server remembers of an earlier reading
    #[arg(long)]
    cached: bool,

    #[command(flatten)]
    at: Where,
}

/// Hold checksum lines against what a server has now.
///
/// Reads what put printed, or sha256sum, with names on the server or paths as put names them (./a is a).
/// The server reads every byte.
/// Exit code 5 says that something is changed or missing.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ftx put -r photos > SUMS && ftx verify SUMS\n  find photos -type f -exec sha256sum {} + | ftx verify -"
)]
pub struct Verify {
    /// A file of checksum lines; - is standard input
    #[arg(value_name = "SUMS")]
    sums: PathBuf,

    /// Print only what is not as it should be
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    at: Where,
}

impl Sum {
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let cache = if self.cached { Cache::Use } else { Cache::Bypass };
            let algorithm = self.digest.algorithm();
            let groups = self.at.by_server(clients, &self.names)?;
            let question = |name| question(name, algorithm, cache);
            Ok(print_each(groups, question, |name, info| match info.digest {
                Some(digest) => Ok(self.line(name, &digest, info.size)),
                None => Err(Failure::new(
                    Class::Refused(Code::IsDirectory),
                    format!("sum {name}: it is a directory"),
                )),
            }))
        })
    }

    fn line(&self, name: &Name, digest: &Digest, size: u64) -> Vec<u8> {
        if self.at.json {
            let digest = digest.to_string();
            return json!({"name": name, "size": size, "digest": digest}).to_string().into_bytes();
        }
        finished_line(digest, name.as_bytes())
    }
}

fn question(name: Name, algorithm: Algorithm, cache: Cache) -> Stat {
    Stat { digest: Some(algorithm), cache, ..Stat::of(name) }
}

/// What became of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Changed,
    Missing,
    Failed,
}

impl Verdict {
    /// By what the server says of a name that had this digest. What it could not say is told.
    fn of(digest: Digest, answer: Result<Answer, Failure>) -> Self {
        match answer {
            Ok(Answer::Info(info)) if info.kind == Kind::File && info.digest == Some(digest) => {
                Self::Ok
            }
            Ok(_) => Self::Changed,
            Err(failure) => match failure.class {
                Class::Refused(Code::NotFound | Code::NotADirectory) => Self::Missing,
                _ => {
                    say(&failure.to_string());
                    Self::Failed
                }
            },
        }
    }
}

/// How many lines each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    ok: u64,
    changed: u64,
    missing: u64,
    failed: u64,
    unreadable: u64,
}

impl Verify {
    pub fn run(self, clients: &Clients) -> Exit {
        run(|| {
            let client = self.at.client(clients, None);
            let mut session = client.session()?;
            let mut counts = Counts::default();
            let mut unreadable: u64 = 0;
            let mut lines = lines(&self.sums)?.zip(1u64..);
            let mut tally = Tally::default();
            let mut broken = None;
            let mut asks = std::iter::from_fn(|| {
                loop {
                    let (line, number) = lines.next()?;
                    let line = match line {
                        Ok(line) => line,
                        Err(error) => {
                            broken = Some(Failure::local("cannot read", &self.sums, &error));
                            return None;
                        }
                    };
                    let line = line.strip_suffix(b"\r").unwrap_or(&line);
                    if line.is_empty() || line.starts_with(b"#") {
                        continue;
                    }
                    match parse(line) {
                        Ok((name, digest)) => {
                            let question = question(name.clone(), digest.algorithm, Cache::Bypass);
                            return Some(((name, digest), Ask::Stat(question)));
                        }
                        Err(why) => {
                            if unreadable < UNREADABLE_TOLD_MAX {
                                let list = self.list();
                                say(&format!("line {number} of {list} is no checksum line: {why}"));
                            }
                            unreadable = unreadable.saturating_add(1);
                        }
                    }
                }
            });
            session.ask_all(&mut asks, &mut |(name, digest), answer| {
                let verdict = Verdict::of(digest, answer);
                counts.count(verdict);
                if !(self.quiet && verdict == Verdict::Ok) {
                    tally.print(&self.line(&name, verdict));
                }
            })?;
            counts.unreadable = unreadable;
            if let Some(failure) = broken {
                return Err(failure);
            }
            Ok(self.end(&counts, &tally))
        })
    }

    fn end(&self, counts: &Counts, tally: &Tally) -> Exit {
        if *counts == Counts::default() {
            say(&format!("{} has no checksum lines: there was nothing to verify", self.list()));
            return Exit::Usage;
        }
        if !(self.quiet && counts.exit() == Exit::Done) {
            say(&counts.summary());
        }
        match (counts.exit(), tally.exit()) {
            (Exit::Done, of_the_output) => of_the_output,
            (exit, _) => exit,
        }
    }

    /// The list, for messages.
    fn list(&self) -> String {
        match self.sums.as_os_str().as_bytes() {
            b"-" => "standard input".to_owned(),
            path => Escaped(path).to_string(),
        }
    }

    fn line(&self, name: &Name, verdict: Verdict) -> Vec<u8> {
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Changed => "changed",
            Verdict::Missing => "missing",
            Verdict::Failed => "failed",
        };
        if self.at.json {
            return json!({"name": name, "verdict": word}).to_string().into_bytes();
        }
        [&name_in_line(name.as_bytes()), b": ".as_slice(), word.as_bytes()].concat()
    }
}

impl Counts {
    fn count(&mut self, verdict: Verdict) {
        let count = match verdict {
            Verdict::Ok => &mut self.ok,
            Verdict::Changed => &mut self.changed,
            Verdict::Missing => &mut self.missing,
            Verdict::Failed => &mut self.failed,
        };
        *count = count.saturating_add(1);
    }

    fn summary(&self) -> String {
        let Self { ok, changed, missing, failed, unreadable } = self;
        let mut line = format!("{ok} ok, {changed} changed, {missing} missing");
        if *failed > 0 {
            line.push_str(&format!(", {failed} failed"));
        }
        if *unreadable > 0 {
            let lines =
                counted(*unreadable, "line is no checksum line", "lines are no checksum lines");
            line.push_str(&format!("; {lines}"));
        }
        line
    }

    fn exit(&self) -> Exit {
        match (self.changed.saturating_add(self.missing), self.failed, self.unreadable) {
            (1.., _, _) => Exit::Integrity,
            (0, 1.., _) => Exit::Refused,
            (0, 0, 1..) => Exit::Usage,
            (0, 0, 0) => Exit::Done,
        }
    }
}

fn lines(path: &Path) -> Result<Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>>, Failure> {
    if path.as_os_str().as_bytes() == b"-" {
        return Ok(Box::new(BufReader::new(std::io::stdin()).split(b'\n')));
    }
    let file = File::open(path).map_err(|error| Failure::local("cannot read", path, &error))?;
    Ok(Box::new(BufReader::new(file).split(b'\n')))
}

/// Why a line is no checksum line.
#[derive(Debug, PartialEq, Eq)]
enum NoSum {
    Form,
    Length,
    Escape,
    /// What it is the digest of cannot be on a server.
    Name(Failure),
}

impl fmt::Display for NoSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => f.write_str(
                "it is neither 64 hexadecimal digits, two spaces and a name, nor SHA256 (name) = digits",
            ),
            Self::Length => write!(f, "it is longer than {LINE_BYTES_MAX} bytes"),
            Self::Escape => {
                f.write_str("it begins with a backslash, and has one before something else than n, r or \\")
            }
            Self::Name(failure) => failure.fmt(f),
        }
    }
}

/// Reads a line of `sha256sum`, `b3sum`, or either with `--tag`. A path is the name that put would
/// give it, and a name that the client printed with a server is taken without it.
fn parse(line: &[u8]) -> Result<(Name, Digest), NoSum> {
    if line.len() > LINE_BYTES_MAX {
        return Err(NoSum::Length);
    }
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (name, digest) = parts(line).ok_or(NoSum::Form)?;
    let name = match escaped {
        true => unescaped(name).ok_or(NoSum::Escape)?,
        false => name.to_vec(),
    };
    let name = match name.starts_with(b"ftx://") {
        true => Remote::parse(&name).map(|remote| remote.name),
        false => {
            name_of_path(Path::new(OsStr::from_bytes(&name))).and_then(|name| inside(None, &name))
        }
    };
    Ok((name.map_err(NoSum::Name)?, digest))
}

/// The name in a line as it stands there, and the digest.
fn parts(line: &[u8]) -> Option<(&[u8], Digest)> {
    let tagged = [(&b"SHA256 ("[..], "sha256"), (b"BLAKE3 (", "blake3")]
        .into_iter()
        .find_map(|(tag, kind)| Some((line.strip_prefix(tag)?, kind)));
    let (name, hex, kind) = match tagged {
        Some((rest, kind)) => {
            let middle = rest.windows(4).rposition(|window| window == b") = ")?;
            (rest.get(..middle)?, rest.get(middle.saturating_add(4)..)?, kind)
        }
        None => {
            let (hex, rest) = line.split_at_checked(64)?;
            let name = rest.strip_prefix(b"  ").or_else(|| rest.strip_prefix(b" *"))?;
            (name, hex, "sha256")
        }
    };
    let hex = std::str::from_utf8(hex).ok()?.to_ascii_lowercase();
    let digest = format!("{kind}:{hex}").parse().ok()?;
    Some((name, digest))
}

fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'n' => b'\n',
                b'r' => b'\r',
                b'\\' => b'\\',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_written() {
        let hex = "ab".repeat(32);
        let sha: Digest = format!("sha256:{hex}").parse().unwrap();
        let blake = Digest { algorithm: Algorithm::Blake3, ..sha };
        for name in [&b"a b"[..], b"a\nb\\", b"x) = y", b"\xff"] {
            for digest in [sha, blake] {
                let line = finished_line(&digest, name);
                let (read, same) = parse(&line).unwrap();
                assert_eq!((read.as_bytes(), same), (name, digest));
            }
        }
        let name = |line: String| parse(line.as_bytes()).map(|(name, _)| name.to_string());
        for (line, as_put) in [
            (format!("{hex} *binary"), "binary"),
            (format!("{hex}  ./a/b"), "a/b"),
            (format!("\\{hex}  ./a\\\\b"), "a\\\\b"),
            (format!("SHA256 (./a) = {hex}"), "a"),
            (format!("{hex}  /var/./log//a"), "var/log/a"),
            (format!("{hex}  ftx://box:1/a"), "a"),
        ] {
            assert_eq!(name(line.clone()).as_deref(), Ok(as_put), "{line}");
        }
        let form = ["", "ab  x", &format!("{hex}x"), &format!("SHA256 (x) = {hex}0"), "\\x"];
        assert!(form.iter().all(|line| parse(line.as_bytes()) == Err(NoSum::Form)));
        assert_eq!(name(format!("\\{hex}  a\\b")), Err(NoSum::Escape));
        assert_eq!(name(format!("{hex}  {}", "a/".repeat(LINE_BYTES_MAX))), Err(NoSum::Length));
        for no_name in ["../a", ".", "ftx://box:1/a/../b", "a\0"] {
            let why = name(format!("{hex}  {no_name}"));
            assert!(matches!(why, Err(NoSum::Name(_))), "{no_name}: {why:?}");
        }
    }
}
