//! What a person types and reads: sessions, held against the files in `transcripts/`.
//!
//! When words were changed on purpose, `UPDATE_TRANSCRIPTS=1 cargo test transcripts` writes the
//! files anew; `git diff` shows what became of them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::harness::{Line, MIB, Server, World, text};
use crate::trees::set_mode;

/// A session: a place, a server, and what was typed and read so far.
struct Session {
    world: World,
    server: Server,
    told: String,
}

impl Session {
    /// With a few files on the server, and others here.
    fn new() -> Self {
        let world = World::new();
        let server = world.serve();
        for (name, size) in [("docs/a.txt", 5), ("docs/img/logo.png", 20_480), ("notes.md", 1_234)]
        {
            write(&world.served().join(name), size);
        }
        symlink("notes.md", world.served().join("docs/latest")).unwrap();
        for (name, size) in [("site/index.html", 3_000), ("site/css/main.css", 700), ("one", 10)] {
            write(&world.here().join(name), size);
        }
        symlink("index.html", world.here().join("site/home")).unwrap();
        let link = world.served().join("docs/latest");
        let touched = Command::new("touch").args(["-h", "-d", "@1700000000"]).arg(link).status();
        assert!(touched.unwrap().success());
        for directory in ["docs/img", "docs"].map(|name| world.served().join(name)) {
            settle(&directory);
        }
        Self { world, server, told: String::new() }
    }

    /// Types a command; words are parted by spaces.
    fn types(&mut self, line: &str) {
        let words = line.split(' ').skip(1);
        let output = self.world.ftx(self.server.address, words).output().unwrap();
        self.told.push_str(&format!("$ {line}\n"));
        let (mut results, mut words) = (self.masked(&output.stdout), self.masked(&output.stderr));
        if !line.ends_with("--help") {
            // Directories are listed as the disk has them; a summary comes last.
            results.sort();
            if output.status.code() != Some(2)
                && let Some((_, before)) = words.split_last_mut()
            {
                before.sort();
            }
        }
        for line in results {
            self.told.push_str(&format!("{line}\n"));
        }
        for line in words {
            self.told.push_str(&format!("! {line}\n"));
        }
        if output.status.code() != Some(0) {
            self.told.push_str(&format!("(exit code {})\n", output.status.code().unwrap()));
        }
        self.told.push('\n');
    }

    /// Without what is different every time: places, ports, seconds and rates.
    fn masked(&self, bytes: &[u8]) -> Vec<String> {
        let home = self.world.home.path().to_str().unwrap().to_owned();
        let address = self.server.address.to_string();
        let said = text(bytes).replace(&home, "HOME").replace(&address, "SERVER");
        said.lines().map(|line| without_versions(&without_speed(line))).collect()
    }

    /// Holds it against its file.
    #[track_caller]
    fn ends_as(self, name: &str) {
        assert_as_in(name, &self.told);
    }
}

/// `in 0.3 s, 3.4 MiB/s` at the end of a summary is another one every time, and so is an age.
fn without_speed(line: &str) -> String {
    match line.rsplit_once(" in ") {
        Some((before, speed)) if speed.ends_with("/s") || speed.ends_with(" s") => {
            format!("{before} in TIME")
        }
        _ => match line.rsplit_once(", ") {
            Some((before, age)) if age.ends_with(" ago") => format!("{before}, AGE ago"),
            _ => line.to_owned(),
        },
    }
}

/// The version of a file has its inode and its time in it.
fn without_versions(line: &str) -> String {
    let words = line.split(' ').map(|word| {
        let is_version = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_version { "VERSION" } else { word }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_as_in(name: &str, told: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/transcripts");
    let path: PathBuf = directory.join(name);
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::create_dir_all(&directory).unwrap();
        return fs::write(&path, told).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (number, (is, was)) in told.lines().zip(expected.lines()).enumerate() {
        assert_eq!(is, was, "line {} of {name}", number + 1);
    }
    assert_eq!(told.lines().count(), expected.lines().count(), "the length of {name}");
}

fn write(path: &Path, size: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'x'; size]).unwrap();
    settle(path);
}

/// A mode and a time that are the same everywhere.
fn settle(path: &Path) {
    set_mode(path, if path.is_dir() { 0o755 } else { 0o644 });
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn looking_around() {
    let mut session = Session::new();
    for line in [
        "ftx ls docs",
        "ftx ls -l docs",
        "ftx ls -r docs",
        "ftx ls -lb docs/img",
        "ftx ls --json docs/img",
        "ftx du docs",
        "ftx stat docs/a.txt",
        "ftx stat docs",
        "ftx cat docs/a.txt",
        "ftx sum docs/a.txt notes.md",
        "ftx ls nothing",
        "ftx ls docs nothing",
        "ftx ls notes.md",
        "ftx stat nothing",
        "ftx cat docs",
        "ftx sum docs",
        "ftx ls ../x",
        "ftx ls .ftx",
        "ftx du nothing",
    ] {
        session.types(line);
    }
    session.ends_as("looking_around.txt");
}

#[test]
fn tidying_up() {
    let mut session = Session::new();
    for line in [
        "ftx mkdir new",
        "ftx mkdir new",
        "ftx mkdir new/deep/deeper",
        "ftx mkdir -p new/deep/deeper",
        "ftx mv docs/a.txt new/",
        "ftx mv notes.md new/a.txt",
        "ftx mv -f notes.md new/a.txt",
        "ftx mv new new/deep/inside",
        "ftx mv nothing new",
        "ftx rm docs",
        "ftx rm nothing",
        "ftx rm new/a.txt nothing",
        "ftx rm -r docs",
        "ftx rm -r .ftx",
        "ftx ls -r",
    ] {
        session.types(line);
    }
    session.ends_as("tidying_up.txt");
}

#[test]
fn moving_trees() {
    let mut session = Session::new();
    for line in [
        "ftx put site",
        "ftx put -r site",
        "ftx put -r -u site",
        "ftx put -r -n site --as copy",
        "ftx put -r .",
        "ftx put -r nothing",
        "ftx get site",
        "ftx get -r -u site",
        "ftx get -r site -o back",
        "ftx get -r -n site -o elsewhere",
        "ftx get -r docs -o docs",
        "ftx get -r nothing",
        "ftx get -r docs -o one",
        "ftx get -r docs --no-clobber",
        "ftx put -r site --to in/",
        "ftx get -r in/ -o got/",
        "ftx put -r site back --to in --exclude *.css",
        "ftx put -r site back/../site --to in",
        "ftx put one --as site/css",
        "ftx put -r site --exclude [z-a]",
        "ftx partials",
    ] {
        session.types(line);
    }
    fs::remove_file(session.world.here().join("site/css/main.css")).unwrap();
    session.types("ftx put -r -n -u --delete site");
    session.types("ftx put -r -u --delete site");
    fs::create_dir(session.world.served().join("site/css/x")).unwrap();
    write(&session.world.here().join("site/css/x"), 10);
    session.types("ftx put -r -u --delete site");
    session.ends_as("moving_trees.txt");
}

#[test]
fn single_files() {
    let mut session = Session::new();
    for line in [
        "ftx put one",
        "ftx put one --no-clobber",
        "ftx put one nothing",
        "ftx put one --as docs/new/one",
        "ftx put one --as /etc/one",
        "ftx put one --as ../one",
        "ftx put one --as .ftx/one",
        "ftx get notes.md",
        "ftx get notes.md --no-clobber",
        "ftx get nothing",
        "ftx get docs",
        "ftx get notes.md -o no/such/directory",
        "ftx putt one",
        "ftx",
        "ftx get",
    ] {
        session.types(line);
    }
    session.ends_as("single_files.txt");
}

#[test]
fn holding_sums_against_what_is_there() {
    let mut session = Session::new();
    let put = session.world.run(session.server.address, &["put", "-r", "site"], 0);
    fs::write(session.world.here().join("SUMS"), put.stdout).unwrap();
    session.types("ftx verify SUMS");
    fs::write(session.world.served().join("site/index.html"), "other").unwrap();
    fs::remove_file(session.world.served().join("site/css/main.css")).unwrap();
    session.types("ftx verify SUMS");
    session.types("ftx verify one");
    session.types("ftx verify nothing");
    fs::write(session.world.here().join("none"), "").unwrap();
    session.types("ftx verify none");
    session.ends_as("verifying.txt");
}

#[test]
fn a_server_that_is_not_there() {
    let mut session = Session::new();
    session.server.kill();
    for line in ["ftx ls", "ftx put one", "ftx put -r site", "ftx get -r docs", "ftx rm x"] {
        session.types(line);
    }
    session.ends_as("no_server.txt");
}

#[test]
fn what_was_left_behind() {
    let mut session = Session::new();
    let address = session.server.address;
    session.server.address = Line::cut_after(address, 0, 700).address;
    session.types("ftx get -r docs -o back --retry-for 0");
    session.types("ftx partials");
    session.types("ftx get -r docs -o back");
    session.types("ftx partials");
    write(&session.world.here().join("films/film"), 20 * MIB);
    session.server.address = Line::cut_after(address, 12 * MIB as u64, 0).address;
    session.types("ftx put -r films --retry-for 0");
    session.types("ftx partials");
    session.types("ftx put -r films -q");
    session.types("ftx partials");
    session.ends_as("left_behind.txt");
}

#[test]
fn the_help_of_every_command() {
    let mut session = Session::new();
    session.types("ftx --help");
    let commands: Vec<String> = session
        .told
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands.iter().filter(|command| *command != "help") {
        session.types(&format!("ftx {command} --help"));
    }
    session.ends_as("help.txt");
}
