//! The report of a job of many files: results on stdout, progress and a summary on stderr.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use ftx_client::tree::{Mood, TreeDone, TreeNotice};
use ftx_client::{Digest, Failure, GOES_ON, JsonName, Name};
use ftx_protocol::Escaped;
use indicatif::HumanBytes;
use serde_json::json;

use super::exit::Exit;
use super::progress::Progress;
use super::report::{
    self, Form, WORTH_TELLING, counted, failure_json, finished_line, limited_by, merge, rate,
    retrying_json, retrying_line, say, seconds, shares, spent_json, stored_as_json, stored_as_line,
    told,
};

/// What a job does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    Put,
    Get,
}

/// What a job does, and whether it does: in the words of its report.
#[derive(Debug, Clone, Copy)]
pub struct Words {
    pub action: Action,
    pub mood: Mood,
}

impl Words {
    fn action(self) -> &'static str {
        match self.action {
            Action::Put => "put",
            Action::Get => "get",
        }
    }

    /// What was done to a file.
    fn done(self) -> &'static str {
        match (self.action, self.mood) {
            (Action::Put, Mood::Do) => "put",
            (Action::Put, Mood::Tell) => "would put",
            (Action::Get, Mood::Do) => "got",
            (Action::Get, Mood::Tell) => "would get",
        }
    }
}

/// Results that are held back at most, until the job waits.
const HELD_BACK_BYTES: usize = 32 * 1024;

/// When results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Showing {
    /// Each by itself.
    AtOnce,
    /// Those that come together, together: when the job says that it waits.
    Together,
}

/// What of a job is known yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// More may come: nobody knows how much is left.
    Some,
    All,
}

/// The report.
pub struct JobReport {
    form: Form,
    words: Words,
    /// What the names of notices are in, here.
    directory: Vec<u8>,
    progress: Progress,
    found: Found,
    found_files: u64,
    found_bytes: u64,
    handled_files: u64,
    failed_files: u64,
    moved_bytes: u64,
    began: Instant,
    showing: Showing,
    /// Results that wait to be shown.
    held_back: Vec<u8>,
    /// The first error of stdout.
    broken: Option<std::io::Error>,
}

impl JobReport {
    pub fn new(form: Form, words: Words) -> Self {
        Self {
            form,
            words,
            directory: Vec::new(),
            progress: Progress::new(form, Some(0)),
            found: Found::Some,
            found_files: 0,
            found_bytes: 0,
            handled_files: 0,
            failed_files: 0,
            moved_bytes: 0,
            began: Instant::now(),
            showing: Showing::AtOnce,
            held_back: Vec::new(),
            broken: None,
        }
    }

    /// For a job that says when it waits. A person at a terminal sees each result at once.
    pub fn together(mut self) -> Self {
        if !std::io::stdout().is_terminal() {
            self.showing = Showing::Together;
        }
        self
    }

    /// From now on names are shown in this directory.
    pub fn enter(&mut self, directory: &[u8]) {
        self.directory = directory.to_vec();
        self.has_found(Found::Some);
    }

    fn has_found(&mut self, found: Found) {
        if self.found != found {
            self.found = found;
            self.progress.make_anew();
        }
    }

    fn whole<'a>(&self, name: &'a [u8]) -> Cow<'a, [u8]> {
        if self.directory.is_empty() || name.is_empty() {
            return name.into();
        }
        let between: &[u8] = if self.directory.ends_with(b"/") { b"" } else { b"/" };
        [&self.directory, between, name].concat().into()
    }

    /// Shows what happens.
    pub fn notice(&mut self, notice: TreeNotice<'_>) {
        match notice {
            TreeNotice::Found { bytes } => {
                self.found_files = self.found_files.saturating_add(1);
                self.found_bytes = self.found_bytes.saturating_add(bytes);
                self.progress.bar.set_length(self.found_bytes);
            }
            TreeNotice::FoundAll => self.has_found(Found::All),
            TreeNotice::Moved { bytes, name } => {
                let found = self.found;
                self.progress.fit(|columns| template(columns, found));
                self.progress.bar.inc(bytes);
                self.moved_bytes = self.moved_bytes.saturating_add(bytes);
                self.show(name);
            }
            TreeNotice::File { name, stored_as, bytes, digest } => {
                self.file(name, stored_as, bytes, digest);
            }
            TreeNotice::Unchanged { name } => {
                self.handled();
                self.event("unchanged", name, json!({}));
            }
            TreeNotice::Skipped { name, why } => {
                self.say(&format!("skipped {}: {why}", Escaped(&self.whole(name))));
                self.event("skipped", name, json!({"message": why}));
            }
            TreeNotice::Removed { name } => {
                let (word, event) = match self.words.mood {
                    Mood::Do => ("removed", "removed"),
                    Mood::Tell => ("would remove", "would_remove"),
                };
                if self.form.shows_progress() {
                    self.result_text(&format!("{word} {}", Escaped(&self.whole(name))));
                }
                self.event(event, name, json!({}));
            }
            TreeNotice::Failed { name, failure } => self.failed(name, failure),
            TreeNotice::Retrying { cause, pause } => {
                self.say(&retrying_line(&cause, pause));
                self.event("retrying", b"", retrying_json(&cause, pause));
            }
            TreeNotice::Waiting => self.show_results(),
            TreeNotice::Warning(text) => {
                self.say(&text);
                self.event("warning", b"", json!({"message": text}));
            }
        }
    }

    /// A file is done, or would be: then it has no digest.
    fn file(&mut self, name: &[u8], stored_as: Option<&Name>, bytes: u64, digest: Option<Digest>) {
        self.handled();
        if let Some(stored_as) = stored_as {
            self.say(&stored_as_line(name, stored_as));
        }
        match digest {
            Some(digest) if self.form != Form::Json => {
                let name = stored_as.map_or(name, Name::as_bytes);
                let line = finished_line(&digest, &self.whole(name));
                self.result(&line);
            }
            Some(digest) => {
                let mut more = json!({"size": bytes, "digest": digest.to_string()});
                merge(&mut more, stored_as_json(stored_as));
                self.event("done", name, more);
            }
            None if self.form != Form::Json => {
                let line = format!("{} {}", self.words.done(), Escaped(&self.whole(name)));
                self.result(line.as_bytes());
            }
            None => self.event("would", name, json!({"size": bytes})),
        }
    }

    fn failed(&mut self, name: &[u8], failure: &Failure) {
        self.handled();
        self.failed_files = self.failed_files.saturating_add(1);
        self.say(&failure.to_string());
        self.event("failed", name, failure_json(failure));
    }

    /// The end of the job, and how the command ends.
    pub fn finish(mut self, result: Result<TreeDone, Failure>) -> Exit {
        self.show_results();
        self.progress.bar.finish_and_clear();
        let done = match result {
            Ok(done) => done,
            Err(failure) => {
                let text = failure.to_string();
                // A single file of the job may have said so already.
                let goes_on = text.strip_suffix(&format!("; {GOES_ON}"));
                // What was refused for good, or is wrong here, the same command does not mend.
                if goes_on.is_some() || failure.class.is_about_the_way() {
                    let text = goes_on.unwrap_or(&text);
                    let done = match self.handled_files.saturating_sub(self.failed_files) {
                        0 => String::new(),
                        count => format!("{} done, and ", files(count)),
                    };
                    self.say(&format!("{text}; {done}the same command goes on with the rest"));
                } else {
                    self.say(&text);
                }
                self.event("failed", b"", failure_json(&failure));
                self.show_results();
                return failure.class.into();
            }
        };
        self.summary(&done);
        self.show_results();
        let printed = told(self.broken.map_or(Ok(()), Err));
        if printed != Exit::Done {
            return printed;
        }
        match (done.failed, done.first_failure) {
            (0, _) | (_, None) => Exit::Done,
            (_, Some(class)) if done.files == 0 && done.unchanged == 0 && done.done_before == 0 => {
                class.into()
            }
            _ => Exit::Partial,
        }
    }

    fn summary(&mut self, done: &TreeDone) {
        let time = self.began.elapsed();
        let mut line =
            format!("{} {}, {}", self.words.done(), files(done.files), HumanBytes(done.bytes));
        let removed = match self.words.mood {
            Mood::Do => "removed",
            Mood::Tell => "to be removed",
        };
        for (count, word) in [
            (done.unchanged, "unchanged"),
            (done.done_before, "done before"),
            (done.skipped, "skipped"),
            (done.removed, removed),
            (done.failed, "FAILED"),
        ] {
            if count > 0 {
                line.push_str(&format!(", {count} {word}"));
            }
        }
        if self.form.shows_progress() {
            if self.words.mood == Mood::Do {
                line.push_str(&self.speed(done, time));
            }
            say(&line);
        }
        if self.form == Form::Verbose {
            say(&shares(&done.spent));
        }
        let mut more = json!({
            "files": done.files,
            "bytes": done.bytes,
            "unchanged": done.unchanged,
            "done_before": done.done_before,
            "skipped": done.skipped,
            "removed": done.removed,
            "failed": done.failed,
            "connections": done.connections,
            "seconds": seconds(time),
        });
        merge(&mut more, spent_json(&done.spent));
        self.event("summary", b"", more);
    }

    /// How fast it was. What an earlier run had moved of a file took none of the time.
    fn speed(&self, done: &TreeDone, time: Duration) -> String {
        let mut speed = format!(" in {:.1} s", time.as_secs_f64());
        if let Some(rate) = rate(self.moved_bytes, time).filter(|rate| *rate > 0) {
            speed.push_str(&format!(", {}/s", HumanBytes(rate)));
        }
        if done.files > 0 && time >= WORTH_TELLING || self.form == Form::Verbose {
            speed.push_str(&limited_by(&done.spent));
        }
        speed
    }

    fn handled(&mut self) {
        self.handled_files = self.handled_files.saturating_add(1);
    }

    /// The name that is being moved, and how far the job is.
    fn show(&self, name: &[u8]) {
        if !self.progress.bar.is_hidden() {
            self.progress.bar.set_message(self.message(name));
        }
    }

    fn message(&self, name: &[u8]) -> String {
        let (handled, name) = (self.handled_files, Escaped(name));
        match self.found {
            Found::Some => format!("{handled} {name}"),
            Found::All => format!("{handled}/{} {name}", self.found_files),
        }
    }

    fn say(&mut self, line: &str) {
        self.show_results();
        self.progress.bar.suspend(|| say(line));
    }

    fn event(&mut self, event: &str, name: &[u8], more: serde_json::Value) {
        if self.form != Form::Json {
            return;
        }
        let mut whole = json!({"action": self.words.action(), "event": event});
        if !name.is_empty() {
            merge(&mut whole, json!({"name": JsonName(&self.whole(name))}));
        }
        merge(&mut whole, more);
        self.result_text(&whole.to_string());
    }

    fn result_text(&mut self, line: &str) {
        self.result(line.as_bytes());
    }

    fn result(&mut self, line: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.held_back.extend_from_slice(line);
        self.held_back.push(b'\n');
        if self.showing == Showing::AtOnce || self.held_back.len() >= HELD_BACK_BYTES {
            self.show_results();
        }
    }

    fn show_results(&mut self) {
        if self.held_back.is_empty() || self.broken.is_some() {
            return;
        }
        let results = std::mem::take(&mut self.held_back);
        let written = self.progress.bar.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&results).and_then(|()| stdout.flush())
        });
        if let Err(error) = written {
            self.broken = Some(error);
        }
    }
}

fn files(count: u64) -> String {
    counted(count, "file", "files")
}

/// The line of progress that fits into so many columns, with room for the name.
fn template(columns: u16, found: Found) -> &'static str {
    match (found, columns) {
        (Found::Some, _) => report::template(columns, None),
        (Found::All, 60..) => "{wide_msg} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (Found::All, 36..) => "{wide_msg} {bytes_per_sec} {eta}",
        (Found::All, _) => "{wide_msg}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_has_moved_makes_a_job_no_faster() {
        let words = Words { action: Action::Put, mood: Mood::Do };
        let mut report = JobReport::new(Form::Text, words);
        report.notice(TreeNotice::Moved { bytes: 2 * 1024 * 1024, name: b"a" });
        let done = TreeDone { files: 1, bytes: 100 * 1024 * 1024, ..TreeDone::default() };
        let said = report.speed(&done, Duration::from_secs(2));
        assert!(said.starts_with(" in 2.0 s, 1.00 MiB/s"), "{said}");
    }

    #[test]
    fn how_much_is_left_is_shown_once_everything_was_found() {
        let words = Words { action: Action::Put, mood: Mood::Do };
        let mut report = JobReport::new(Form::Text, words);
        let shown = |report: &JobReport| {
            let line = template(80, report.found).replace("{wide_msg}", &report.message(b"a"));
            (line.starts_with("0/1 a "), line.contains("{eta}"), line.contains("{total_bytes}"))
        };
        report.notice(TreeNotice::Found { bytes: 5 });
        assert_eq!(shown(&report), (false, false, false));
        report.notice(TreeNotice::FoundAll);
        assert_eq!(shown(&report), (true, true, true));
        report.enter(b"another");
        assert_eq!(shown(&report), (false, false, false));
    }
}
