//! Whole trees there and back: every name, time and mode; what changed and nothing else; and after
//! every interruption only the rest.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Line, MIB, Server, World, noise, not_tested, text, until};
use crate::liars::liar;
use crate::talk::Talk;

const KIB: usize = 1024;

/// What has to be the same on both sides: mode, time, and what a file holds.
pub type Seen = BTreeMap<OsString, (u32, i64, i64, Option<Vec<u8>>)>;

/// Everything below a directory, but what does not travel.
pub fn seen(directory: &Path) -> Seen {
    let mut all = Seen::new();
    let mut ahead = vec![directory.to_owned()];
    while let Some(here) = ahead.pop() {
        for entry in fs::read_dir(here).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            let name = path.strip_prefix(directory).unwrap().as_os_str().to_owned();
            let kind = metadata.file_type();
            if name == ".ftx" || !(kind.is_file() || kind.is_dir()) {
                continue;
            }
            let content = kind.is_file().then(|| fs::read(&path).unwrap());
            let mode = metadata.mode() & 0o7777;
            all.insert(name, (mode, metadata.mtime(), metadata.mtime_nsec(), content));
            if kind.is_dir() {
                ahead.push(path);
            }
        }
    }
    all
}

/// Says which names differ, and in what, and not what they hold.
#[track_caller]
pub fn assert_same(one: Seen, other: Seen) {
    let mut differ = Vec::new();
    for name in one.keys().chain(other.keys()) {
        if one.get(name) != other.get(name) {
            let shown = |seen: &Seen| {
                let (mode, seconds, nanoseconds, content) = seen.get(name)?;
                Some((*mode, *seconds, *nanoseconds, content.as_ref().map(Vec::len)))
            };
            differ.push((name, shown(&one), shown(&other)));
        }
    }
    differ.truncate(6);
    assert!(differ.is_empty(), "these differ: {differ:?}");
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `here/tree`, with every name that a file system can hold.
fn hostile_tree(world: &World) -> std::path::PathBuf {
    let tree = world.here().join("tree");
    fs::create_dir_all(tree.join("a/b/empty")).unwrap();
    for name in [
        &b".dot"[..],
        b"x y",
        b"\"quoted\"",
        b"new\nline",
        b"back\\slash",
        "\u{1f600} \u{e9}".as_bytes(),
        b"\xff\xfe not text",
        b"\x1b[31mred",
        &[b'l'; 255],
        b"a/b/deep",
        b"-r",
    ] {
        fs::write(tree.join(OsStr::from_bytes(name)), [name, b" content"].concat()).unwrap();
    }
    fs::write(tree.join("empty"), "").unwrap();
    fs::write(tree.join("medium"), noise(3 * MIB + 7, 3)).unwrap();
    fs::write(tree.join("large"), noise(9 * MIB + 1, 4)).unwrap();
    fs::create_dir(tree.join("private")).unwrap();
    fs::write(tree.join("private/key"), "secret").unwrap();
    set_mode(&tree.join("private/key"), 0o600);
    set_mode(&tree.join("private"), 0o700);
    fs::create_dir(tree.join("read-only")).unwrap();
    fs::write(tree.join("read-only/file"), "r").unwrap();
    set_mode(&tree.join("read-only"), 0o555);
    let old =
        fs::FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789));
    fs::File::open(tree.join("a/b")).unwrap().set_times(old).unwrap();
    fs::File::open(tree.join("a/b/deep")).unwrap().set_times(old).unwrap();
    tree
}

/// Things that do not travel.
fn add_untransferable(tree: &Path) {
    symlink("..", tree.join("a/up")).unwrap();
    symlink("/etc/passwd", tree.join("out")).unwrap();
    let made = Command::new("mkfifo").arg(tree.join("fifo")).status().unwrap();
    assert!(made.success());
    fs::create_dir(tree.join(".ftx")).unwrap();
    fs::write(tree.join(".ftx/journal"), "somebody's").unwrap();
}

#[test]
fn a_directory_with_nothing_to_fetch_arrives_as_an_empty_one() {
    let world = World::new();
    let server = world.serve();
    for name in ["empty", "links"] {
        fs::create_dir(world.served().join(name)).unwrap();
        set_mode(&world.served().join(name), 0o750);
    }
    symlink("..", world.served().join("links/up")).unwrap();
    for name in ["empty", "links"] {
        world.run(server.address, &["get", "-r", name], 0);
        let here = world.here().join(name);
        assert_eq!(fs::metadata(&here).unwrap().permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "{name}");
    }
    world.run(server.address, &["get", "-r", "missing"], 4);
    assert!(!world.here().join("missing").exists());
}

#[test]
fn all_that_a_server_has_comes_into_the_target_itself() {
    let world = World::new();
    let server = world.serve();
    let served = world.served();
    many(&served, 120);
    fs::write(served.join("at the top"), "1").unwrap();
    let top = format!("ftx://{}/", server.address);
    for (word, target) in [("/", "one"), (".", "two"), (&*top, "three/")] {
        let get = ["get", "-r", word, "-o", target];
        world.run(server.address, &get, 0);
        let here = world.here().join(target);
        assert_same(seen(&served), seen(&here));
        assert!(!here.join(".ftx").exists());
        // The same command again finds it there, and makes no directory in it.
        fs::write(here.join("d0/not there"), "").unwrap();
        let again =
            world.run(server.address, &[&get[..], &["-u", "--delete", "--json"]].concat(), 0);
        let (unchanged, removed) = (&summary(&again)["unchanged"], &summary(&again)["removed"]);
        assert_eq!((unchanged, removed), (&json!(121), &json!(1)), "{word}");
        assert_same(seen(&served), seen(&here));
    }
    // A word that is empty by mistake is not the top, and nothing goes that nobody has named.
    for words in
        [&["", "-o", "one"][..], &["/"], &["/", "d0", "-o", "one"], &["d0", &top, "-o", "one"]]
    {
        world.run(server.address, &[&["get", "-r", "--delete"], words].concat(), 2);
    }
    assert_same(seen(&served), seen(&world.here().join("one")));
    // Without -o it is the directory where the command runs.
    world.run(server.address, &["get", "-r", "/", "--exclude", "d1", "--exclude", "d2"], 0);
    assert!(world.here().join("at the top").exists() && world.here().join("d0/f0").exists());
    assert!(!world.here().join("d1").exists());
}

pub fn events(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn summary(output: &Output) -> Value {
    events(output).into_iter().rfind(|event| event["event"] == "summary").unwrap()
}

/// So many small files, in directories of 50.
pub fn many(directory: &Path, files: usize) {
    for number in 0..files {
        let inside = directory.join(format!("d{}", number / 50));
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join(format!("f{number}")), noise(4 * KIB, number as u64)).unwrap();
    }
}

pub fn count_files(directory: &Path) -> usize {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let count = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() && entry.file_name() == ".ftx" => 0,
        Ok(kind) if kind.is_dir() => count_files(&entry.path()),
        _ => 1,
    };
    entries.flatten().map(count).sum()
}

#[test]
fn a_hostile_tree_goes_there_and_back_and_nothing_of_it_changes() {
    let world = World::new();
    let server = world.serve();
    let tree = hostile_tree(&world);
    let expected = seen(&tree);
    add_untransferable(&tree);
    let put = world.run(server.address, &["put", "-r", "tree", "--as", "deep/copy"], 0);
    assert_same(seen(&world.served().join("deep/copy")), {
        let mut expected = expected.clone();
        // Something was added to it after it was looked at.
        expected.get_mut(OsStr::new("a")).unwrap().1 = tree.join("a").metadata().unwrap().mtime();
        expected.get_mut(OsStr::new("a")).unwrap().2 =
            tree.join("a").metadata().unwrap().mtime_nsec();
        expected
    });
    let said = text(&put.stderr);
    for skipped in
        ["deep/copy/a/up: a symlink", "out: a symlink", "fifo: a device", ".ftx: the dir"]
    {
        assert!(said.contains(skipped), "{said}");
    }
    assert!(said.contains("4 skipped"), "{said}");
    world.run(server.address, &["get", "-r", "deep/copy", "-o", "back"], 0);
    assert_same(seen(&world.here().join("back")), seen(&world.served().join("deep/copy")));
    assert!(!world.here().join("back/.ftx").exists(), "nothing is left beside the files");
    assert_eq!(world.staged(), 0);
    // What put printed is what verify reads, and what sha256sum reads of the files here.
    fs::write(world.here().join("SUMS"), &put.stdout).unwrap();
    let verified = world.run(server.address, &["verify", "SUMS"], 0);
    assert!(
        text(&verified.stderr).contains("16 ok, 0 changed, 0 missing"),
        "{}",
        text(&verified.stderr)
    );
}

#[test]
fn only_what_changed_is_sent_and_fetched() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 120);
    let sent = |args: &[&str]| {
        let summary = summary(&world.run(server.address, args, 0));
        (summary["files"].as_u64().unwrap(), summary["unchanged"].as_u64().unwrap())
    };
    let put = ["put", "-r", "tree", "--json"];
    assert_eq!(sent(&put), (120, 0));
    assert_eq!(sent(&put), (120, 0), "a job that is complete begins anew");
    assert_eq!(sent(&["put", "-r", "-u", "tree", "--json"]), (0, 120));
    // The same size and time, other bytes.
    let path = tree.join("d0/f7");
    let modified = path.metadata().unwrap().modified().unwrap();
    fs::write(&path, noise(4 * KIB, 999)).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    assert_eq!(sent(&["put", "-r", "-u", "tree", "--json"]), (0, 120));
    assert_eq!(sent(&["put", "-r", "--checksum", "tree", "--json"]), (1, 119));
    assert_eq!(sent(&["get", "-r", "tree", "-o", "back", "--json"]), (120, 0));
    fs::rename(world.here().join("back"), world.here().join("tree2")).unwrap();
    fs::remove_dir_all(&tree).unwrap();
    fs::rename(world.here().join("tree2"), &tree).unwrap();
    assert_eq!(sent(&["get", "-r", "-u", "tree", "--json"]), (0, 120));
    fs::write(world.served().join("tree/d1/f50"), "shorter").unwrap();
    assert_eq!(sent(&["get", "-r", "-u", "tree", "--json"]), (1, 119));
    assert_eq!(fs::read(tree.join("d1/f50")).unwrap(), b"shorter");
    assert_eq!(sent(&["get", "-r", "--checksum", "tree", "--json"]), (0, 120));
}

#[test]
fn what_has_its_name_in_another_source_is_not_put_and_then_removed() {
    let world = World::new();
    let server = world.serve();
    for directory in ["in/a", "elsewhere"] {
        fs::create_dir_all(world.here().join(directory)).unwrap();
    }
    fs::write(world.here().join("in/a/file"), "hello").unwrap();
    let absolute = world.here().join("in");
    let name = absolute.to_str().unwrap().trim_start_matches('/');
    let top = name.split('/').next().unwrap();
    fs::create_dir(world.here().join(top)).unwrap();
    let put = ["put", "-r", "--files-from", "list"];
    let delete = [&put[..], &["--delete"]].concat();
    fs::write(world.here().join("list"), format!("{top}\n{}\n", absolute.display())).unwrap();
    let said = text(&world.run(server.address, &delete, 2).stderr);
    assert!(said.contains("--delete would remove it"), "{said}");
    world.run(server.address, &put, 0);
    // What is in the other source too has its place there.
    fs::write(world.here().join("list"), "in\nin/a\n./in/a/file\n").unwrap();
    world.run(server.address, &delete, 0);
    assert_eq!(world.stored("in/a/file"), b"hello");
}

#[test]
fn what_is_not_there_fails_also_where_it_would_be_excluded() {
    let world = World::new();
    let server = world.serve();
    fs::write(world.here().join("list"), "a.tmp\n").unwrap();
    world.run(server.address, &["put", "a.tmp", "--exclude", "*.tmp"], 6);
    world.run(server.address, &["put", "--files-from", "list", "--exclude", "*.tmp"], 6);
    fs::write(world.here().join("a.tmp"), "").unwrap();
    world.run(server.address, &["put", "a.tmp", "--exclude", "*.tmp"], 0);
}

#[test]
fn what_the_source_does_not_have_goes_and_never_what_is_excluded_or_was_skipped() {
    let world = World::new();
    let server = world.serve();
    let (tree, copy) = (world.here().join("tree"), world.served().join("tree"));
    many(&tree, 10);
    world.run(server.address, &["put", "-r", "tree"], 0);
    let extra = |at: &Path| {
        fs::create_dir_all(at.join("gone/deeper")).unwrap();
        fs::write(at.join("gone/deeper/file"), "x").unwrap();
        fs::create_dir_all(at.join("kept")).unwrap();
        fs::write(at.join("kept/a.keep"), "x").unwrap();
        fs::write(at.join("kept/b"), "x").unwrap();
        fs::create_dir_all(at.join("link/inside")).unwrap();
    };
    extra(&copy);
    symlink("d0", tree.join("link")).unwrap();
    let delete = ["put", "-r", "-u", "--delete", "--exclude", "*.keep", "tree"];
    let told = world.run(server.address, &[&delete[..], &["-n"]].concat(), 0);
    assert!(text(&told.stdout).contains("would remove tree/gone/deeper/file"), "{told:?}");
    let told = world.run(server.address, &[&delete[..], &["-n", "--json"]].concat(), 0);
    let told: Vec<Value> = events(&told).into_iter().map(|told| told["event"].clone()).collect();
    assert!(told.contains(&json!("would_remove")) && !told.contains(&json!("removed")), "{told:?}");
    assert!(copy.join("gone/deeper/file").exists(), "it was only told");
    world.run(server.address, &delete, 0);
    assert!(!copy.join("gone").exists() && !copy.join("kept/b").exists());
    assert!(copy.join("kept/a.keep").exists(), "it is excluded");
    assert!(copy.join("link/inside").exists(), "the source has something else there");
    assert_eq!(count_files(&copy.join("d0")), 10);
    // Nothing goes when something failed.
    fs::write(copy.join("extra"), "x").unwrap();
    fs::remove_file(copy.join("d0/f3")).unwrap();
    fs::create_dir(copy.join("d0/f3")).unwrap();
    let failed = world.run(server.address, &["put", "-r", "-u", "--delete", "tree"], 7);
    assert!(copy.join("extra").exists(), "{}", text(&failed.stderr));
    assert!(text(&failed.stderr).contains("tree/d0/f3: the server refused (is_directory)"));
    // The other way round.
    fs::remove_dir(copy.join("d0/f3")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    fs::remove_dir_all(copy.join("link")).unwrap();
    symlink("d0", copy.join("link")).unwrap();
    extra(&tree);
    fs::write(tree.join("link/file"), "x").unwrap();
    let get = ["get", "-r", "-u", "--delete", "--exclude", "*.keep", "tree"];
    world.run(server.address, &[&get[..], &["-n"]].concat(), 0);
    assert!(tree.join("gone/deeper/file").exists(), "it was only told");
    world.run(server.address, &get, 0);
    assert!(!tree.join("gone").exists() && !tree.join("kept/b").exists());
    assert!(tree.join("kept/a.keep").exists() && tree.join("extra").exists());
    assert!(!tree.join("d0/f3").exists(), "the server has it no more");
    assert!(tree.join("link/inside").exists(), "the server has something else there");
    fs::create_dir(tree.join("gone")).unwrap();
    world.run(server.address, &["get", "-r", "-u", "--delete", "tree"], 0);
    assert!(tree.join("link/inside").exists() && tree.join("link/file").exists());
    assert!(!tree.join("gone").exists());
}

#[test]
fn a_directory_in_which_something_was_removed_has_the_time_that_the_server_says() {
    let world = World::new();
    let server = world.serve();
    let (there, here) = (world.served().join("tree"), world.here().join("tree"));
    for name in ["sub/deep/a", "sub/b", "other/c"] {
        fs::create_dir_all(there.join(name).parent().unwrap()).unwrap();
        fs::write(there.join(name), name).unwrap();
    }
    for (number, name) in ["sub/deep", "sub", "other", ""].into_iter().enumerate() {
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + number as u64);
        fs::File::open(there.join(name)).unwrap().set_modified(time).unwrap();
    }
    world.run(server.address, &["get", "-r", "tree"], 0);
    for more in [&[][..], &["-u"], &["--durability", "none"], &["--exclude", "*.keep"]] {
        for name in ["sub/deep/extra/a", "sub/extra", "extra"] {
            fs::create_dir_all(here.join(name).parent().unwrap()).unwrap();
            fs::write(here.join(name), "x").unwrap();
        }
        world.run(server.address, &[&["get", "-r", "--delete", "tree"], more].concat(), 0);
        assert_same(seen(&here), seen(&there));
        let times = [&here, &there].map(|tree| fs::metadata(tree).unwrap().modified().unwrap());
        assert_eq!(times[0], times[1]);
    }
}

#[test]
fn what_has_the_name_of_an_excluded_directory_stays() {
    let world = World::new();
    let server = world.serve();
    let (there, here) = (world.served().join("tree"), world.here().join("tree"));
    fs::create_dir_all(there.join("cache/deep")).unwrap();
    fs::create_dir_all(there.join("log")).unwrap();
    fs::create_dir(&here).unwrap();
    symlink("elsewhere", here.join("cache")).unwrap();
    for name in ["log", "extra"] {
        fs::write(here.join(name), "x").unwrap();
    }
    let get = ["get", "-r", "--delete", "--exclude", "cache/", "--exclude", "log/", "tree"];
    world.run(server.address, &get, 0);
    let stays = |name: &str| here.join(name).symlink_metadata().is_ok();
    assert_eq!(["cache", "log", "extra"].map(stays), [true, true, false]);
}

#[test]
fn what_the_server_does_not_have_yet_has_nothing_to_be_removed() {
    let world = World::new();
    let server = world.serve();
    many(&world.here().join("tree"), 3);
    let told = ["put", "-r", "-u", "--delete", "tree", "--as", "backup/tree", "-n", "--json"];
    let summary = summary(&world.run(server.address, &told, 0));
    assert_eq!((&summary["files"], &summary["removed"]), (&json!(3), &json!(0)));
    assert!(!world.served().join("backup").exists());
}

#[test]
fn where_it_cannot_be_noted_what_the_server_has_nothing_is_removed_and_the_exit_code_says_so() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&world.served().join("tree"), 3);
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("extra"), "x").unwrap();
    for more in [&[][..], &["-n"]] {
        let args = [&["get", "-r", "--delete", "tree", "--json"], more].concat();
        let mut get = world.ftx(server.address, args);
        let output = get.env_remove("XDG_STATE_HOME").env_remove("HOME").output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("nothing will be removed here"), "{said}");
        let done = summary(&output);
        assert_eq!((&done["files"], &done["failed"]), (&json!(3), &json!(1)), "{done}");
        assert!(tree.join("extra").exists());
    }
}

#[test]
fn where_there_is_no_room_to_note_what_the_server_has_nothing_is_removed_either() {
    /// More than a new table has room for.
    const FILES: usize = 2_500;
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    fs::create_dir(world.served().join("tree")).unwrap();
    for number in 0..FILES {
        fs::write(world.served().join(format!("tree/{number}")), "").unwrap();
    }
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("extra"), "x").unwrap();
    // So slow that the table is in the way before it has to grow.
    let args = ["get", "-r", "--delete", "-n", "tree", "--json", "--limit-rate", "64K"];
    let get = world.ftx(server.address, args).spawn().unwrap();
    let state = world.home.path().join("state/ftx");
    let noted = || {
        let entries = fs::read_dir(&state).into_iter().flatten().flatten();
        let is_noted = |path: &PathBuf| text(path.as_os_str().as_bytes()).contains("/seen-");
        entries.map(|entry| entry.path()).find(is_noted)
    };
    let mut table = None;
    until("it is noted what the server has", || {
        table = noted();
        table.is_some()
    });
    fs::create_dir(table.unwrap().with_extension("new")).unwrap();
    let output = get.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert_eq!(said.matches("nothing will be removed here").count(), 1, "{said}");
    assert_eq!(summary(&output)["removed"], 0);
}

#[test]
fn what_went_from_the_server_after_a_run_that_was_killed_goes_here_too() {
    let world = World::new();
    let server = world.serve();
    many(&world.served().join("tree"), 3);
    fs::write(world.served().join("tree/large"), noise(4 * MIB, 1)).unwrap();
    let mut get = ["get", "-r", "--delete", "tree", "--limit-rate", "1M"].to_vec();
    let mut first = world.ftx(server.address, &get).spawn().unwrap();
    until("the large one is on its way", || {
        let staged = fs::read_dir(world.here().join("tree/.ftx/staging"));
        let came = fs::read_dir(world.here().join("tree/d0")).map_or(0, Iterator::count);
        came == 3 && staged.is_ok_and(|mut staged| staged.next().is_some())
    });
    first.kill().unwrap();
    first.wait().unwrap();
    fs::remove_file(world.served().join("tree/d0/f1")).unwrap();
    get.truncate(4);
    world.run(server.address, &get, 0);
    assert!(!world.here().join("tree/d0/f1").exists());
    assert!(world.here().join("tree/large").exists());
    assert_eq!(fs::read_dir(world.home.path().join("state/ftx")).unwrap().count(), 0);
}

#[test]
fn of_a_get_that_was_killed_nothing_stays_once_it_is_not_wanted_any_more() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.served().join("tree")).unwrap();
    fs::write(world.served().join("tree/large"), noise(10 * MIB, 1)).unwrap();
    let state = world.home.path().join("state/ftx");
    let get = ["get", "-r", "--delete", "tree", "--limit-rate", "4M"];
    let mut get = world.ftx(server.address, get).spawn().unwrap();
    until("it is on its way", || {
        let count = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        // A log, a note, and two beside it; the store has tried out its own directory before.
        count(&world.here().join("tree/.ftx/staging")) > 0 && count(&state) > 3
    });
    get.kill().unwrap();
    get.wait().unwrap();
    world.run(server.address, &["partials", "--remove"], 0);
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    // Nor of one that could not begin.
    fs::remove_dir_all(world.here().join("tree")).unwrap();
    let line = Line::cut_after(server.address, 0, 700);
    world.run(line.address, &["get", "-r", "tree", "--retry-for", "0"], 3);
    assert!(line.was_cut() && !world.here().join("tree").exists());
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
}

#[test]
fn patterns_choose_what_takes_part() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    for name in ["a.o", "keep.o", "src/b.o", "src/c.rs", "target/debug/x", "doc/target"] {
        fs::create_dir_all(tree.join(name).parent().unwrap()).unwrap();
        fs::write(tree.join(name), name).unwrap();
    }
    fs::write(world.here().join("patterns"), "# what is made\n/target/\n").unwrap();
    let patterns =
        ["--exclude", "*.o", "--include", "keep.o", "--exclude-from", "patterns", "--json"];
    let put = [&["put", "-r", "tree"], &patterns[..]].concat();
    assert_eq!(summary(&world.run(server.address, &put, 0))["files"], 3);
    let mut names: Vec<OsString> = seen(&world.served().join("tree")).into_keys().collect();
    names.sort();
    assert_eq!(names, ["doc", "doc/target", "keep.o", "src", "src/c.rs"]);
    world.run(server.address, &["put", "-r", "tree", "--as", "all"], 0);
    let get = [&["get", "-r", "all", "-o", "back"], &patterns[..]].concat();
    assert_eq!(summary(&world.run(server.address, &get, 0))["files"], 3);
}

#[test]
fn patterns_hold_for_files_that_are_named_or_listed_too() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir_all(world.here().join("old/tmp")).unwrap();
    for name in ["a", "z.tmp", "old/tmp/b", "old/c"] {
        fs::write(world.here().join(name), name).unwrap();
    }
    fs::write(world.here().join("list"), "a\n./z.tmp\nold/tmp/b\nold/c\n").unwrap();
    let files = |place: &str| {
        let mut names: Vec<OsString> = fs::read_dir(world.home.path().join(place))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .filter(|name| name != ".ftx")
            .collect();
        names.sort();
        names
    };
    let exclude = ["--exclude", "*.tmp", "--exclude", "tmp/"];
    let put = [&["put", "--files-from", "list", "--to", "tmp"], &exclude[..]].concat();
    world.run(server.address, &put, 0);
    assert_eq!(files("served/tmp"), ["a", "old"]);
    assert_eq!(files("served/tmp/old"), ["c"]);
    let only = ["--include", "a", "--exclude", "*"];
    world.run(server.address, &[&["put", "a", "z.tmp", "--to", "named"], &only[..]].concat(), 0);
    assert_eq!(files("served/named"), ["a"]);
    fs::write(world.served().join("named/z.tmp"), "x").unwrap();
    let get = ["get", "named/a", "named/z.tmp", "-o", "got/", "--exclude", "*.tmp"];
    world.run(server.address, &get, 0);
    assert_eq!(files("here/got"), ["a"]);
}

#[test]
fn words_that_would_mean_nothing_are_refused_before_anything_is_moved() {
    let world = World::new();
    let server = world.serve();
    fs::write(world.here().join("a"), "x").unwrap();
    for (args, expected) in [
        (&["put", "a", "--include", "b"][..], "--exclude '*'"),
        (&["put", "-r", ".", "--to", "d", "--include", "a"], "--exclude '*'"),
        (&["get", "a", "--include", "b"], "--exclude '*'"),
        (&["put", "-", "--to", "d"], "standard input"),
        (&["put", "-u", "-", "--as", "b"], "standard input"),
        (&["put", "-r", "-", "--as", "b"], "standard input"),
        (&["put", "a", "--as", "d/"], "say --to d/"),
        (&["get", "-r", "a", "-o", "-"], "say -o ./-"),
        (&["get", "-r", "a", "-o", "/dev/stdout"], "say -o ./-"),
        (&["get", "-n", "a", "-o", "-"], "say -o ./-"),
        (&["get", "-u", "a", "-o", "-"], "say -o ./-"),
    ] {
        let said = text(&world.run(server.address, args, 2).stderr);
        assert!(said.contains(expected), "{args:?}: {said}");
    }
    assert_eq!(fs::read_dir(world.served()).unwrap().count(), 1, "but its own directory");
    assert_eq!(fs::read_dir(world.here()).unwrap().count(), 1, "the file");
}

#[test]
fn a_file_that_is_got_with_the_words_for_trees_is_held_to_them() {
    let world = World::new();
    fs::write(world.served().join("a"), "hello").unwrap();
    let server = world.serve();
    let here = world.here().join("a");
    let told = world.run(server.address, &["get", "-n", "a"], 0);
    assert_eq!(text(&told.stdout), "would get a\n");
    assert!(!here.exists());
    fs::write(&here, "other").unwrap();
    world.run(server.address, &["get", "--checksum", "-n", "a"], 0);
    assert_eq!(fs::read(&here).unwrap(), b"other");
    world.run(server.address, &["get", "--checksum", "a"], 0);
    assert_eq!(fs::read(&here).unwrap(), b"hello");
    for words in [["get", "-u", "a"], ["get", "--checksum", "a"]] {
        let got = world.run(server.address, &[&words[..], &["--json"]].concat(), 0);
        let summary = summary(&got);
        assert_eq!((&summary["files"], &summary["unchanged"]), (&0.into(), &1.into()));
        assert_eq!(events(&got)[0]["event"], "unchanged");
    }
    fs::write(world.served().join("a"), "longer than it was").unwrap();
    world.run(server.address, &["get", "-u", "a"], 0);
    assert_eq!(fs::read(&here).unwrap(), b"longer than it was");
}

#[test]
fn what_failed_of_a_tree_shows_in_the_exit_code_though_a_file_beside_it_came() {
    let world = World::new();
    fs::create_dir(world.served().join("tree")).unwrap();
    fs::write(world.served().join("tree/a"), "x").unwrap();
    fs::write(world.served().join("tree/b"), "x").unwrap();
    fs::write(world.served().join("file"), "x").unwrap();
    let server = world.serve();
    fs::create_dir_all(world.here().join("tree/b/c")).unwrap();
    let said = world.run(server.address, &["get", "-r", "tree", "file"], 7);
    assert!(text(&said.stderr).contains("1 FAILED"), "{}", text(&said.stderr));
    assert_eq!(fs::read(world.here().join("file")).unwrap(), b"x");
    // What is not there does not stop what is behind it.
    let said = world.run(server.address, &["get", "-r", "nothing", "tree", "-o", "out/"], 7);
    assert!(text(&said.stderr).contains("stat nothing"), "{}", text(&said.stderr));
    assert_eq!(count_files(&world.here().join("out/tree")), 2);
    // A name that is none does, before anything is made.
    world.run(server.address, &["get", "-r", "tree", "../x", "-o", "new/"], 2);
    assert!(!world.here().join("new").exists());
}

/// Runs the command behind these words for strace; what it says, and what strace shows. `None`, and said loudly, without
/// strace.
fn traced(
    world: &World,
    server: std::net::SocketAddr,
    strace: &[&str],
    args: &[&str],
) -> Option<(Output, String)> {
    let trace = world.home.path().join("trace");
    let ftx = world.ftx(server, args);
    let mut command = Command::new("strace");
    command.args(["-f", "-y"]).args(strace).arg("-o").arg(&trace);
    command.arg(ftx.get_program()).args(ftx.get_args()).current_dir(world.here());
    command.envs(ftx.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output();
    if output.as_ref().map_or(true, |output| text(&output.stderr).contains("not permitted")) {
        not_tested("this needs the program strace, and that it may trace: what a transfer calls");
        return None;
    }
    Some((output.unwrap(), fs::read_to_string(trace).unwrap()))
}

/// What a command that succeeds calls of these. `None` as [`traced`].
fn called(
    world: &World,
    server: std::net::SocketAddr,
    calls: &str,
    args: &[&str],
) -> Option<String> {
    let (output, trace) = traced(world, server, &["-e", &format!("trace={calls}")], args)?;
    assert!(output.status.success(), "{output:?}");
    Some(trace)
}

/// What a get makes, changes and takes away, in the words of strace.
const STEPS: &str = "?mkdir,mkdirat,?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,write,fsync";

/// Stops the `number`th of these calls of a get, and says the same again where it was not complete. Whether the get had so
/// many.
fn is_finished_after_a_stop(
    world: &World,
    server: &Server,
    (calls, how): (&str, &str),
    number: usize,
) -> bool {
    let get = ["get", "-r", "tree", "-o", "back"];
    let back = world.here().join("back");
    for left in [&back, &world.home.path().join("state/ftx")] {
        let _ = fs::remove_dir_all(left);
    }
    let trace = format!("trace={calls}");
    let inject = format!("inject={calls}:{how}:when={number}");
    let strace = ["-e", &trace, "-e", &inject];
    let Some((first, trace)) = traced(world, server.address, &strace, &get) else { return false };
    let last = trace.lines().find(|line| line.contains("INJECTED") || line.ends_with("= ?"));
    let last = format!("{how} at {number}: {last:?}: {}", text(&first.stderr));
    let states = fs::read_dir(world.home.path().join("state/ftx"));
    let is_noted = states
        .into_iter()
        .flatten()
        .flatten()
        .any(|state| state.path().extension().is_some_and(|extension| extension == "about"));
    // All of it is there by the time that its note goes.
    let is_over = !is_noted && back.join("a").exists();
    if !first.status.success() && !is_over {
        let again = world.ftx(server.address, get).output().unwrap();
        assert!(again.status.success(), "{last}: {}", text(&again.stderr));
    }
    assert_same(seen(&back), seen(&world.served().join("tree")));
    assert!(!back.join(".ftx").exists(), "{last}");
    let left = world.run(server.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{last}: {}", text(&left.stdout));
    trace.contains("INJECTED") || trace.contains("killed by SIGKILL")
}

#[test]
fn a_get_that_is_killed_or_fails_at_any_step_is_finished_by_the_same_command() {
    let world = World::new();
    let tree = world.served().join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    for name in ["a", "d/b"] {
        fs::write(tree.join(name), name).unwrap();
    }
    let server = world.serve();
    for stop in [(STEPS, "signal=KILL"), ("fsync", "error=EIO")] {
        let mut number = 1;
        while is_finished_after_a_stop(&world, &server, stop, number) {
            number += 1;
        }
    }
}

const SYNCS: &str = "fsync,fdatasync";

#[test]
fn directories_that_are_made_for_what_is_got_last_as_it_does() {
    let world = World::new();
    fs::create_dir(world.served().join("tree")).unwrap();
    fs::write(world.served().join("tree/a"), "x").unwrap();
    let server = world.serve();
    let here = world.here().canonicalize().unwrap();
    for (args, names) in [
        (["get", "-r", "tree", "-o", "new/deep/"], ["", "/new", "/new/deep"]),
        (["get", "-u", "tree/a", "-o", "one/deep/"], ["", "/one", "/one/deep"]),
    ] {
        let Some(synced) = called(&world, server.address, SYNCS, &args) else { return };
        for name in names {
            let path = format!("<{}{name}>", here.display());
            assert!(synced.contains(&path), "{path}: {synced}");
        }
    }
    let args = ["get", "-r", "tree", "-o", "other/", "--durability", "none"];
    let Some(synced) = called(&world, server.address, SYNCS, &args) else { return };
    assert!(!synced.contains(&format!("<{}>", here.display())), "{synced}");
}

/// A sync that failed is not done again: the system would say that all is well.
#[test]
fn a_directory_that_may_not_last_is_taken_away_and_made_anew() {
    let world = World::new();
    fs::create_dir(world.served().join("tree")).unwrap();
    let server = world.serve();
    let here = world.here().canonicalize().unwrap();
    let strace = ["-P", here.to_str().unwrap(), "-e", "inject=fsync:error=EIO"];
    for (to, made) in [("new/deep/", "new"), ("back", "back")] {
        let args = ["get", "-r", "tree", "-o", to];
        let Some((output, _)) = traced(&world, server.address, &strace, &args) else { return };
        assert_eq!(output.status.code(), Some(6), "{}", text(&output.stderr));
        assert!(!here.join(made).exists(), "{to}");
        let Some(synced) = called(&world, server.address, SYNCS, &args) else { return };
        assert!(synced.contains(&format!("<{}>", here.display())), "{to}: {synced}");
    }
}

#[test]
fn two_trees_that_would_be_one_here_are_refused() {
    let world = World::new();
    for name in ["one/tree", "other/tree"] {
        fs::create_dir_all(world.served().join(name)).unwrap();
    }
    let server = world.serve();
    let args = ["get", "-r", "--delete", "one/tree", "other/tree/"];
    let said = text(&world.run(server.address, &args, 2).stderr);
    assert!(said.contains("two of these would be called tree here"), "{said}");
    assert_eq!(fs::read_dir(world.here()).unwrap().count(), 0);
}

#[test]
fn a_list_of_files_is_put_under_its_own_names() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir_all(world.here().join("a/b")).unwrap();
    for name in ["a/one", "a/b/two\nlines", "three"] {
        fs::write(world.here().join(name), name).unwrap();
    }
    fs::write(world.here().join("list"), "./a/one\0a/b/two\nlines\0three\0").unwrap();
    let put = ["put", "--files-from", "list", "-0", "--to", "in", "--json"];
    assert_eq!(summary(&world.run(server.address, &put, 0))["files"], 3);
    assert_eq!(world.stored("in/a/b/two\nlines"), b"a/b/two\nlines");
    fs::write(world.here().join("list"), "../up\n").unwrap();
    world.run(server.address, &["put", "--files-from", "list"], 2);
    world.run(server.address, &["put", "a"], 6);
    world.run(server.address, &["put", "-r", "."], 2);
    world.run(server.address, &["put", "-r", ".", "--to", "up"], 0);
    assert_eq!(world.stored("up/here/a/one"), b"a/one");
}

/// The client, behind words of a shell that limit its descriptors.
fn limited<'a>(
    world: &World,
    server: std::net::SocketAddr,
    limit: &str,
    args: impl IntoIterator<Item = &'a str>,
) -> Command {
    let ftx = world.ftx(server, args);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit} && exec \"$@\""), "sh"]);
    command.arg(ftx.get_program()).args(ftx.get_args()).current_dir(world.here());
    command.envs(ftx.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn files_of_more_directories_than_may_be_open_are_put() {
    let world = World::new();
    let server = world.serve();
    let names: Vec<String> = (0..600).map(|number| format!("d{number}/file")).collect();
    for name in &names {
        fs::create_dir(world.here().join(name).parent().unwrap()).unwrap();
        fs::write(world.here().join(name), name).unwrap();
    }
    fs::write(world.here().join("list"), names.join("\n")).unwrap();
    for (to, word) in [("asked", "-u"), ("put", "--no-clobber")] {
        let args =
            ["put", word, "--files-from", "list", "--to", to, "--durability", "none", "--json"];
        let output = limited(&world, server.address, "ulimit -n 400", args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(summary(&output)["files"], 600);
        assert_eq!(count_files(&world.served().join(to)), 600);
    }
}

#[test]
fn a_job_may_open_as_much_as_the_system_allows() {
    let world = World::new();
    // It is connected to, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    fs::create_dir(world.here().join("tree")).unwrap();
    for args in [["put", "-r", "tree"], ["get", "-r", "other"]] {
        let address = silent.local_addr().unwrap();
        let mut client = limited(&world, address, "ulimit -Sn 100", args).spawn().unwrap();
        let connection = silent.accept().unwrap();
        let limits = fs::read_to_string(format!("/proc/{}/limits", client.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let both: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
        assert_eq!(both[0], both[1], "{args:?}: {line}");
        client.kill().unwrap();
        client.wait().unwrap();
        drop(connection);
    }
}

#[test]
fn one_that_fails_does_not_stop_the_others_and_shows_in_the_exit_code() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 60);
    fs::create_dir_all(world.served().join("tree/d0/f5/x")).unwrap();
    fs::write(world.served().join("tree/d1"), "a file in the way").unwrap();
    let put = world.run(server.address, &["put", "-r", "tree", "--json"], 7);
    let done = summary(&put);
    // f5, the directory d1, and the ten files in it.
    assert_eq!((done["files"].as_u64(), done["failed"].as_u64()), (Some(49), Some(12)), "{done}");
    let codes: Vec<Value> = events(&put)
        .into_iter()
        .filter(|event| event["event"] == "failed")
        .map(|event| event["code"].clone())
        .collect();
    assert!(codes.contains(&json!("is_directory")) && codes.contains(&json!("not_a_directory")));
    // The same at this side.
    let back = world.here().join("back");
    fs::create_dir_all(back.join("tree/d0/f7/x")).unwrap();
    let got = world.run(server.address, &["get", "-r", "tree", "-o", "back/", "--json"], 7);
    assert_eq!(summary(&got)["failed"], 1, "{}", text(&got.stdout));
    assert!(back.join("tree/d0/f7/x").exists());
    assert_eq!(fs::read(back.join("tree/d0/f8")).unwrap(), noise(4 * KIB, 8));
    world.run(server.address, &["get", "-r", "nothing"], 4);
    world.run(server.address, &["put", "-r", "nothing"], 6);
}

/// Kills a client when some of its files are there; returns what the next run of the same command
/// says.
fn killed_once(world: &World, server: &crate::harness::Server, args: &[&str], to: &Path) -> Value {
    let mut client = world.ftx(server.address, args).spawn().unwrap();
    until("some files are there", || count_files(to) >= 300);
    client.kill().unwrap();
    client.wait().unwrap();
    assert!(count_files(to) < 6_000, "it was killed too late to show anything");
    summary(&world.run(server.address, args, 0))
}

#[test]
fn a_tree_that_was_interrupted_by_a_kill_goes_on_and_sends_only_the_rest() {
    let world = World::new();
    let server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 6_000);
    let there = world.served().join("tree");
    let again = killed_once(&world, &server, &["put", "-r", "tree", "--json"], &there);
    let (sent, before) = (again["files"].as_u64().unwrap(), again["done_before"].as_u64().unwrap());
    assert!(before > 0 && sent + before == 6_000, "{again}");
    assert_same(seen(&there), seen(&tree));
    let back = world.here().join("back");
    let get = ["get", "-r", "tree", "-o", "back", "--json"];
    let again = killed_once(&world, &server, &get, &back);
    let (got, before) = (again["files"].as_u64().unwrap(), again["done_before"].as_u64().unwrap());
    assert!(before > 0 && got + before == 6_000, "{again}");
    assert_same(seen(&back), seen(&tree));
    assert!(!back.join(".ftx").exists());
    let left = world.run(server.address, &["partials"], 0);
    assert!(left.stdout.is_empty(), "{}", text(&left.stdout));
}

/// Who is killed in between knows of it by the one or the other.
#[test]
fn the_log_of_a_tree_has_a_large_file_before_its_own_state_goes() {
    let world = World::new();
    let server = world.serve();
    fs::create_dir(world.here().join("tree")).unwrap();
    world.noise("tree/film", 8 * MIB);
    let calls = "pwrite64,unlink,unlinkat";
    let Some(calls) = called(&world, server.address, calls, &["put", "-r", "tree"]) else { return };
    let lines: Vec<&str> = calls.lines().collect();
    let is_of_tree = |line: &str| line.contains("/put-tree-");
    let noted = lines.iter().rposition(|line| line.contains("pwrite64") && is_of_tree(line));
    let removed = lines
        .iter()
        .position(|line| line.contains("unlink") && line.contains("/put-") && !is_of_tree(line));
    assert!(noted.unwrap() < removed.unwrap(), "{calls}");
}

#[test]
fn what_an_earlier_run_put_and_did_not_note_is_found_if_it_lasts_as_long_as_is_asked_for() {
    let world = World::new();
    let server = world.serve();
    let (tree, small) = (world.here().join("tree"), "tree/small");
    for (place, before, now, code) in [
        ("full", "full", "full", 0),
        ("none", "none", "none", 0),
        ("more", "full", "none", 0),
        ("less", "none", "full", 7),
        ("other", "full", "full", 7),
    ] {
        fs::create_dir(&tree).unwrap();
        for name in ["noted", "blocked"] {
            fs::write(tree.join(name), name).unwrap();
        }
        let copy = world.served().join(place);
        fs::create_dir_all(copy.join("blocked")).unwrap();
        let put = |durability, code| {
            let args = ["put", "-r", "tree", "--as", place, "--no-clobber", "--json"];
            let args = [&args[..], &["--durability", durability]].concat();
            let output = world.run(server.address, &args, code);
            (summary(&output), text(&output.stderr))
        };
        put(before, 7);
        fs::remove_dir(copy.join("blocked")).unwrap();
        fs::write(world.here().join(small), "small").unwrap();
        world.noise("tree/film", 8 * MIB);
        for name in ["small", "film"] {
            fs::copy(tree.join(name), copy.join(name)).unwrap();
        }
        if place == "other" {
            fs::write(copy.join("small"), "other").unwrap();
            fs::write(copy.join("film"), noise(8 * MIB, 5)).unwrap();
        }
        let (done, said) = put(now, code);
        for name in ["small", "film"] {
            let refused = format!("{place}/{name}: the server refused (exists)");
            assert_eq!(said.contains(&refused), code != 0, "{name}: {said}");
        }
        assert!(code != 0 || done["done_before"] == 3, "{place}: {done}");
        fs::remove_dir_all(&tree).unwrap();
    }
}

#[test]
fn a_tree_survives_a_kill_of_the_server_and_cuts_of_the_line() {
    let world = World::new();
    let mut server = world.serve();
    let tree = world.here().join("tree");
    many(&tree, 3_000);
    let there = world.served().join("tree");
    let client = world.ftx(server.address, ["put", "-r", "tree", "--json"]).spawn().unwrap();
    until("some files are there", || count_files(&there) >= 200);
    server.kill_and_restart(&world.served(), &[]);
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(summary(&output)["files"], 3_000);
    assert_same(seen(&there), seen(&tree));
    for cut in [300, 50_000, 3_000_000] {
        let line = Line::cut_after(server.address, cut, 0);
        let name = format!("up-{cut}");
        world.run(line.address, &["put", "-r", "tree", "--as", &name, "--no-clobber"], 0);
        assert!(line.was_cut());
        assert_same(seen(&world.served().join(&name)), seen(&tree));
        let line = Line::cut_after(server.address, 0, cut);
        world.run(line.address, &["get", "-r", "tree", "-o", &name], 0);
        assert!(line.was_cut());
        assert_same(seen(&world.here().join(&name)), seen(&tree));
    }
}

#[test]
fn a_server_that_lists_names_of_other_places_writes_nowhere() {
    for name in ["../x", "/etc/x", "other/x", "tree/../../x", "tree", "tree/.", "tree//x"] {
        let world = World::new();
        fs::write(world.home.path().join("x"), "outside").unwrap();
        let server = liar(move |talk: &mut Talk, request| {
            if let Some(id) = request["stat"]["id"].as_u64() {
                return talk.say(json!({"info": {
                    "id": id, "kind": "directory", "size": 0, "mtime": [0, 0], "mode": 493
                }}));
            }
            let id = request["list"]["id"].clone();
            talk.say(json!({"entries": {"id": id, "entries": [
                {"name": name, "kind": "file", "size": 5, "mtime": [0, 0], "mode": 420}
            ]}}));
            talk.say(json!({"ok": {"id": id}}));
        });
        let got = world.run(server, &["get", "-r", "tree", "-o", "back", "--retry-for", "0"], 3);
        assert_eq!(count_files(&world.here()), 0, "{name}: {}", text(&got.stderr));
        let said = text(&got.stderr);
        assert!(said.contains("entries") || said.contains("does not speak ftx"), "{said}");
        assert_eq!(fs::read(world.home.path().join("x")).unwrap(), b"outside");
    }
}

#[test]
fn a_symlink_in_the_target_leads_nowhere_outside() {
    let world = World::new();
    let server = world.serve();
    many(&world.here().join("tree"), 5);
    world.run(server.address, &["put", "-r", "tree"], 0);
    let outside = world.home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let back = world.here().join("back/tree");
    fs::create_dir_all(&back).unwrap();
    symlink(&outside, back.join("d0")).unwrap();
    let got = world.run(server.address, &["get", "-r", "tree", "-o", "back"], 6);
    assert_eq!(count_files(&outside), 0, "{}", text(&got.stderr));
}

#[test]
fn a_directory_that_is_served_is_no_target() {
    let world = World::new();
    let server = world.serve();
    many(&world.here().join("tree"), 5);
    world.run(server.address, &["put", "-r", "tree"], 0);
    let other = World::new();
    let _served = other.serve();
    symlink(other.served(), world.here().join("tree2")).unwrap();
    fs::remove_dir_all(world.here().join("tree")).unwrap();
    fs::rename(world.here().join("tree2"), world.here().join("tree")).unwrap();
    let refused = world.run(server.address, &["get", "-r", "tree"], 6);
    assert!(text(&refused.stderr).contains("is being written to by another ftx"), "{refused:?}");
    assert_eq!(count_files(&other.served()), 0);
}
