//! Lists, changes of names and the trash, on a real disk.

mod lists;
mod trash;
#[cfg(all(target_os = "linux", not(ftx_portable)))]
mod unread;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ftx_protocol::{
    Algorithm, Code, Condition, Depth, Durability, FileTime, Mode, Parents, Refusal, Version,
};

use super::{Counts, digest, name, new_id, open_native, options, put, share, whole};
use crate::store::upload::FinishedBody;
use crate::store::{
    Access, Change, Finished, Listed, Memory, OldMode, Options, Put, Recovery, Settled, Step,
    Store, Swept,
};
use crate::sys::Native;

type Result = std::result::Result<Durability, Refusal>;

fn open_read_only(root: &Path) -> Store<Native> {
    Store::open(Native, root, Options { access: Access::ReadOnly, ..options() }).unwrap().0
}

fn make(path: &str, condition: Condition, mode: Option<u32>) -> Change {
    Change::MakeDirectory {
        name: name(path),
        parents: Parents::Require,
        condition,
        modified: mode.map(|_| FileTime::new(1_764_000_000, 5).unwrap()),
        mode: mode.map(Mode::new),
        old_mode: OldMode::Replaced,
        durability: Durability::Full,
    }
}

/// With the directories above it, and nothing is promised.
fn make_all(path: &str) -> Change {
    Change::MakeDirectory {
        name: name(path),
        parents: Parents::Make,
        condition: Condition::Always,
        modified: None,
        mode: None,
        old_mode: OldMode::Replaced,
        durability: Durability::None,
    }
}

fn moving(from: &str, to: &str, condition: Condition) -> Change {
    Change::Move { name: name(from), to: name(to), condition, durability: Durability::Full }
}

fn removing(path: &str, depth: Depth) -> Change {
    Change::Remove { name: name(path), depth, durability: Durability::Full }
}

fn change(store: &Store<Native>, change: Change) -> Result {
    match store.commit(vec![Step::Change { change, within: None }]).remove(0)? {
        Settled::Changed(durability) => Ok(durability),
        Settled::Stored(_) => panic!("nothing was put"),
    }
}

fn code(result: &Result) -> Option<Code> {
    result.as_ref().err().map(|refusal| refusal.code)
}

/// A put that is whole and synced, and has no name yet.
fn staged(store: &Store<Native>, path: &str, bytes: &[u8]) -> Step<Native> {
    let modified = FileTime::new(1_764_000_000, 5);
    let put = Put { modified, ..put(path, new_id(), None) };
    Step::Put(whole(store, put, bytes).unwrap())
}

/// Everything in a list, in order of the names.
fn listed(store: &Store<Native>, path: Option<&str>, depth: Depth) -> Vec<String> {
    let listing = store.list(path.map(name).as_ref(), depth, None, &share()).unwrap();
    let mut all: Vec<String> = listing
        .map(|listed| match listed {
            Listed::Entry { name, stat } => format!("{name} {:?}", stat.kind),
            Listed::Unread { name, refusal } => format!("unread {name:?} {:?}", refusal.code),
        })
        .collect();
    all.sort();
    all
}

fn swept(store: &Store<Native>) {
    assert_eq!(store.sweep_trash(&|| true), Swept::Clean);
    assert!(!store.has_trash());
}

/// Lets another thread exchange two names, again and again, while `work` goes on.
fn while_exchanging(one: &Path, other: &Path, work: impl FnOnce()) {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE);
            }
        });
        work();
        over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_directory_is_made_with_its_mode_and_time_and_one_that_is_there_takes_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    for (path, mode, condition) in
        [("a", 0o4750, Condition::Absent), ("a", 0o711, Condition::Always)]
    {
        assert_eq!(change(&store, make(path, condition, Some(mode))).unwrap(), store.durability());
        let metadata = fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, mode & 0o777);
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_764_000_000, 5));
    }
    for (path, expected) in [("a", 0o711), ("new", 0o700)] {
        let mut kept = make(path, Condition::Always, Some(0o700));
        if let Change::MakeDirectory { old_mode, modified, .. } = &mut kept {
            (*old_mode, *modified) = (OldMode::Kept, FileTime::new(1_765_000_000, 6));
        }
        change(&store, kept).unwrap();
        let metadata = fs::metadata(dir.path().join(path)).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (expected, 1_765_000_000));
    }
    assert_eq!(code(&change(&store, make("a", Condition::Absent, None))), Some(Code::Exists));
    let result = change(&store, make("b/c", Condition::Always, None));
    assert_eq!(code(&result), Some(Code::NotFound));
    assert_eq!(change(&store, make_all("b/c/d")).unwrap(), Durability::None);
    assert!(dir.path().join("b/c/d").is_dir());
}

#[test]
fn a_directory_is_not_made_where_something_else_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    symlink("d", dir.path().join("link")).unwrap();
    symlink("nothing", dir.path().join("dangling")).unwrap();
    symlink(".", dir.path().join("here")).unwrap();
    let store = open_native(dir.path());
    for path in ["file", "link", "dangling"] {
        let result = change(&store, make(path, Condition::Always, Some(0o700)));
        assert_eq!(code(&result), Some(Code::NotADirectory), "{path}");
        let result = change(&store, make(path, Condition::Absent, None));
        assert_eq!(code(&result), Some(Code::Exists), "{path}");
    }
    assert_ne!(fs::metadata(dir.path().join("d")).unwrap().mode() & 0o777, 0o700);
    for path in [".ftx", ".ftx/x", "here/.ftx", "here/.ftx/trash/x"] {
        let result = change(&store, make(path, Condition::Always, Some(0o777)));
        assert_eq!(code(&result), Some(Code::ReservedName), "{path}");
    }
    assert_eq!(fs::metadata(dir.path().join(".ftx")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_is_moved_replaces_only_its_like_and_the_last_part_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for path in ["empty", "full/x", "other/y"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    fs::write(at("file"), "file").unwrap();
    fs::write(at("old"), "old").unwrap();
    symlink("full", at("link")).unwrap();
    let store = open_native(dir.path());
    let all = |from, to, condition| code(&change(&store, moving(from, to, condition)));
    let always = |from, to| all(from, to, Condition::Always);
    assert_eq!(always("file", "empty"), Some(Code::IsDirectory));
    assert_eq!(always("full", "file"), Some(Code::NotADirectory));
    assert_eq!(always("full", "link"), Some(Code::NotADirectory));
    assert_eq!(always("empty", "full"), Some(Code::NotEmpty));
    assert_eq!(always("full", "full/x/z"), Some(Code::BadName));
    assert_eq!(always("full", "link/x/z"), Some(Code::BadName));
    assert_eq!(always("nothing", "new"), Some(Code::NotFound));
    assert_eq!(always("file", "no/new"), Some(Code::NotFound));
    assert_eq!(all("file", "old", Condition::Absent), Some(Code::Exists));
    assert_eq!(all("full", "empty", Condition::Absent), Some(Code::Exists));
    assert_eq!(fs::read(at("old")).unwrap(), b"old");
    assert_eq!(always("file", "file"), None);
    assert_eq!(always("file", "old"), None);
    assert_eq!(fs::read(at("old")).unwrap(), b"file");
    assert_eq!(always("full", "empty"), None);
    assert!(at("empty/x").is_dir() && !at("full").exists());
    assert_eq!(always("link", "other/link"), None);
    assert_eq!(fs::read_link(at("other/link")).unwrap(), Path::new("full"));
    assert_eq!(all("other/link", "link", Condition::Absent), None);
    assert_eq!(always("old", "link"), None);
    assert_eq!(fs::read(at("link")).unwrap(), b"file");
}

#[test]
fn a_move_onto_another_name_of_the_same_file_is_not_said_to_be_made() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "x").unwrap();
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
    let store = open_native(dir.path());
    let result = change(&store, moving("a", "b", Condition::Always));
    assert_eq!(code(&result), Some(Code::Exists));
    assert!(dir.path().join("a").exists() && dir.path().join("b").exists());
}

#[test]
fn the_private_directory_is_neither_moved_nor_replaced_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    symlink(".", dir.path().join("here")).unwrap();
    symlink(".ftx", dir.path().join("in")).unwrap();
    let store = open_native(dir.path());
    symlink(".ftx/journal", dir.path().join("journal")).unwrap();
    let there = ["here/.ftx/trash", "in/staging", "in/lock", "in/new"];
    // Nobody learns what is in there by what the answer is.
    let beneath = ["in/lock/new", "in/none/new", "here/.ftx/none/none/new", "journal/new"];
    for private in [".ftx", "here/.ftx"].into_iter().chain(there).chain(beneath) {
        for change_ in [
            moving(private, "new", Condition::Always),
            moving("d", private, Condition::Always),
            moving("f", private, Condition::Absent),
            removing(private, Depth::One),
            removing(private, Depth::All),
        ] {
            let said = format!("{change_:?}");
            assert_eq!(code(&change(&store, change_)), Some(Code::ReservedName), "{said}");
        }
    }
    for private in [".ftx"].into_iter().chain(there).chain(beneath) {
        let version = Condition::Version(Version::parse("v").unwrap());
        for making in [
            make(private, Condition::Always, None),
            make(private, version, None),
            make_all(private),
        ] {
            let said = format!("{making:?}");
            assert_eq!(code(&change(&store, making)), Some(Code::ReservedName), "{said}");
        }
        // A large one is refused at once, a small one when it is whole.
        let large = store.begin(put(private, new_id(), Some(1_000_000))).err().unwrap();
        assert_eq!(large.code, Code::ReservedName, "{private}");
        let small = whole(&store, put(private, new_id(), Some(5)), b"small")
            .and_then(|small| store.commit(vec![Step::Put(small)]).remove(0));
        assert_eq!(small.err().unwrap().code, Code::ReservedName, "{private}");
        let stat = store.stat(&name(private), None).err().unwrap();
        assert_eq!(stat.code, Code::ReservedName, "{private}");
    }
    // The symlink itself is nobody's own.
    assert_eq!(code(&change(&store, removing("in", Depth::All))), None);
    assert!(dir.path().join(".ftx/staging").is_dir());
}

#[test]
fn a_digest_that_is_known_stays_known_when_its_file_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let put = staged(&store, "a/f", b"bytes");
    store.commit(vec![put]).remove(0).unwrap();
    let known = |path: &str| {
        let reading = store.open_file(&name(path), None).unwrap();
        store.digests().digest(reading.identity(), Algorithm::Sha256)
    };
    let digest = known("a/f").unwrap();
    // A rename sets the time of change, by a clock that ticks.
    std::thread::sleep(std::time::Duration::from_millis(15));
    change(&store, moving("a/f", "g", Condition::Always)).unwrap();
    assert_eq!(known("g"), Some(digest));
    change(&store, moving("a", "b", Condition::Always)).unwrap();
    change(&store, moving("g", "b/h", Condition::Absent)).unwrap();
    assert_eq!(known("b/h"), Some(digest));
    // What was written to is not taken for the same.
    fs::write(dir.path().join("b/h"), "other").unwrap();
    change(&store, moving("b/h", "i", Condition::Always)).unwrap();
    assert_eq!(known("i"), None);
}

#[test]
fn a_read_only_store_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    let store = open_read_only(dir.path());
    for change_ in [
        make("e", Condition::Always, None),
        moving("d", "e", Condition::Always),
        removing("d", Depth::One),
    ] {
        assert_eq!(code(&change(&store, change_)), Some(Code::ReadOnly));
    }
    assert!(dir.path().join("d").is_dir() && !store.has_trash());
}

#[test]
fn the_steps_of_a_round_take_effect_in_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let round = vec![
        staged(&store, "a/f", b"1"),
        Step::Change { change: moving("a", "b", Condition::Absent), within: None },
        staged(&store, "a/f", b"2"),
        Step::Change { change: moving("b/f", "a/g", Condition::Absent), within: None },
        Step::Change { change: removing("b", Depth::One), within: None },
        staged(&store, "c/f", b"3"),
        Step::Change { change: removing("c", Depth::All), within: None },
    ];
    for answer in store.commit(round) {
        answer.unwrap();
    }
    assert_eq!(listed(&store, None, Depth::All), ["a Directory", "a/f File", "a/g File"]);
    assert_eq!(fs::read(dir.path().join("a/f")).unwrap(), b"2");
    assert_eq!(fs::read(dir.path().join("a/g")).unwrap(), b"1");
    swept(&store);
}

/// It is asked for when all that comes before the step is done, and what is refused then is not made by the next start
/// either.
#[test]
fn a_step_whose_right_is_lost_in_its_round_is_not_made() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("removed"), "old").unwrap();
    let store = open_native(dir.path());
    let round = vec![
        staged(&store, "first", b"1"),
        staged(&store, "second", b"2"),
        Step::Change { change: removing("removed", Depth::One), within: None },
        staged(&store, "last", b"3"),
    ];
    let is_there = |path: &str| dir.path().join(path).exists();
    let rights = (0..4).map(|step| {
        assert_eq!(is_there("first"), step > 0);
        if step == 1 || step == 2 { Err(Code::Denied.into()) } else { Ok(()) }
    });
    let codes = |answers: Vec<std::result::Result<Settled, Refusal>>| -> Vec<Option<Code>> {
        answers.into_iter().map(|answer| answer.err().map(|refusal| refusal.code)).collect()
    };
    let denied = Some(Code::Denied);
    let answers = store.commit_in(store.turn(), round, rights);
    assert_eq!(codes(answers), [None, denied, denied, None]);
    assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
    drop(store);
    drop(open_native(dir.path()));
    assert!(is_there("first") && is_there("last") && is_there("removed") && !is_there("second"));
}

#[test]
fn a_store_that_remembers_nothing_keeps_what_it_was_given_and_writes_nothing_down() {
    let written = |memory, durability| {
        let dir = tempfile::tempdir().unwrap();
        let forgetful = Options { memory, ..options() };
        let store = Store::open(Native, dir.path(), forgetful).unwrap().0;
        let before = fs::read_to_string(dir.path().join(".ftx/journal")).unwrap().lines().count();
        let mut step = staged(&store, "d/f", b"1");
        if let Step::Put(Finished { put, body: FinishedBody::Staged { committed, .. } }) = &mut step
        {
            put.durability = durability;
            committed.durability = durability;
        }
        store.commit(vec![step]).remove(0).unwrap();
        assert_eq!(store.counts().unwrap(), Counts { partial: 0, staged: 0 });
        assert_eq!(fs::read(dir.path().join("d/f")).unwrap(), b"1");
        drop(store);
        let lines = |part: &str| {
            let text = fs::read_to_string(dir.path().join(part)).unwrap();
            text.lines().count()
        };
        let written = (lines(".ftx/journal") - before, lines(".ftx/digests"));
        let recovery = Store::open(Native, dir.path(), options()).unwrap().1;
        assert_eq!(recovery, Recovery::default());
        written
    };
    assert_eq!(written(Memory::Puts, Durability::Full), (2, 1), "about to be, and done");
    assert_eq!(written(Memory::Nothing, Durability::Full), (1, 0), "about to be");
    assert_eq!(written(Memory::Nothing, Durability::None), (0, 0));
}

#[test]
fn a_file_that_is_opened_as_soon_as_it_was_written_is_judged_by_when_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let hash = digest(b"what was read before and after a write");
    loop {
        fs::write(dir.path().join("f"), b"bytes").unwrap();
        let written = Instant::now();
        let reading = store.open_file(&name("f"), None).unwrap();
        if written.elapsed() > Duration::from_millis(5) {
            // The machine was busy with something else.
            continue;
        }
        thread::sleep(Duration::from_millis(30));
        store.digests().remember(reading.seen(), hash);
        assert_eq!(store.digests().digest(reading.identity(), Algorithm::Sha256), None);
        let reading = store.open_file(&name("f"), None).unwrap();
        store.digests().remember(reading.seen(), hash);
        assert_eq!(store.digests().digest(reading.identity(), Algorithm::Sha256), Some(hash));
        return;
    }
}

#[test]
fn what_a_crash_or_a_job_has_left_in_the_stores_own_directory_is_nobodys() {
    for access in [Access::ReadWrite, Access::ReadOnly] {
        let dir = tempfile::tempdir().unwrap();
        drop(open_native(dir.path()));
        fs::create_dir(dir.path().join(".ftx/job")).unwrap();
        // The last one was left by nobody that is known.
        for left in ["lock", "journal.new", "digests.new", "get", "job/log"] {
            let left = Path::new(".ftx").join(left);
            fs::write(dir.path().join(&left), "{}").unwrap();
            let link = left.to_string_lossy().replace('/', "-");
            symlink(&left, dir.path().join(link.trim_start_matches('.'))).unwrap();
        }
        symlink(".ftx/job", dir.path().join("into")).unwrap();
        let store = Store::open(Native, dir.path(), Options { access, ..options() }).unwrap().0;
        for link in ["ftx-lock", "ftx-digests.new", "ftx-get", "ftx-job-log", "into/log", "into"] {
            let opened = store.open_file(&name(link), None).map(drop);
            assert_eq!(
                code(&opened.map(|()| Durability::None)),
                Some(Code::ReservedName),
                "{link}"
            );
        }
        assert!(store.open_file(&name("ftx-journal.new"), None).is_err());
    }
}
