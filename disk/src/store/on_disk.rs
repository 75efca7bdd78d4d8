//! Lists, changes of names and the trash, on a real disk.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_protocol::{
    Algorithm, Code, Condition, Depth, Durability, FileTime, Mode, Parents, Refusal,
};

use super::testing::{name, new_id, open_native, options, put, whole};
use super::upload::FinishedBody;
use super::{
    Access, Change, Counts, Finished, Listed, Memory, OldMode, Options, Put, Recovery, Settled,
    Step, Store, Swept,
};
use crate::sys::{FileKind, Native};

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
    let listing = store.list(path.map(name).as_ref(), depth, None).unwrap();
    let mut all: Vec<String> = listing
        .map(|listed| match listed {
            Listed::Entry { name, stat } => format!("{name} {:?}", stat.kind),
            Listed::Unread { name, refusal } => format!("unread {name:?} {:?}", refusal.code),
        })
        .collect();
    all.sort();
    all
}

fn trashed(root: &Path) -> usize {
    fs::read_dir(root.join(".ftx/trash")).unwrap().count()
}

fn swept(store: &Store<Native>) {
    assert_eq!(store.sweep_trash(&|| true), Swept::Clean);
    assert!(!store.has_trash());
}

#[test]
fn a_list_shows_every_kind_and_follows_only_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    fs::write(dir.path().join("a/b/f"), "1").unwrap();
    symlink("b", dir.path().join("a/s")).unwrap();
    symlink("a", dir.path().join("to-a")).unwrap();
    symlink("..", dir.path().join("out")).unwrap();
    let store = open_native(dir.path());
    let below = ["a/b Directory", "a/b/f File", "a/s Symlink"];
    assert_eq!(listed(&store, Some("a"), Depth::All), below);
    assert_eq!(listed(&store, Some("a"), Depth::One), [below[0], below[2]]);
    let below = ["to-a/b Directory", "to-a/b/f File", "to-a/s Symlink"];
    assert_eq!(listed(&store, Some("to-a"), Depth::All), below);
    let refused = |path: &str| store.list(Some(&name(path)), Depth::All, None).err().unwrap().code;
    assert_eq!(refused("a/b/f"), Code::NotADirectory);
    assert_eq!(refused("a/x"), Code::NotFound);
    assert_eq!(refused("out"), Code::OutsideRoot);
}

#[test]
fn no_list_shows_or_enters_the_private_directory_by_whatever_way() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    symlink("..", dir.path().join("a/up")).unwrap();
    symlink(".", dir.path().join("here")).unwrap();
    symlink(".ftx", dir.path().join("in")).unwrap();
    symlink("../.ftx/trash", dir.path().join("a/trash")).unwrap();
    let writer = open_native(dir.path());
    let reader = open_read_only(dir.path());
    for store in [&writer, &reader] {
        for start in [None, Some("here"), Some("a/up")] {
            for listed in listed(store, start, Depth::All) {
                assert!(!listed.contains(".ftx"), "{start:?} shows {listed}");
            }
        }
        for start in ["in", "in/staging", "a/trash", "here/.ftx", ".ftx"] {
            let refusal = store.list(Some(&name(start)), Depth::All, None).err().unwrap();
            assert_eq!(refusal.code, Code::ReservedName, "{start}");
        }
    }
}

#[test]
fn the_directories_that_all_lists_have_open_are_counted_and_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let lists: Vec<_> =
        std::iter::from_fn(|| store.list(None, Depth::One, None).ok()).take(10_000).collect();
    assert!(lists.len() < 10_000);
    assert_eq!(store.list(None, Depth::One, None).err().unwrap().code, Code::Busy);
    drop(lists);
    assert!(store.list(None, Depth::One, None).is_ok());
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
    for private in [".ftx", "here/.ftx", "here/.ftx/trash", "in/staging", "in/lock", "in/new"] {
        for change_ in [
            moving(private, "new", Condition::Always),
            moving("d", private, Condition::Always),
            moving("f", private, Condition::Absent),
            removing(private, Depth::One),
            removing(private, Depth::All),
        ] {
            let said = format!("{change_:?}");
            let code = code(&change(&store, change_));
            let there = private == "here/.ftx" && said.contains("Absent");
            let expected = if there { Code::Exists } else { Code::ReservedName };
            assert!(code == Some(Code::ReservedName) || code == Some(expected), "{said}: {code:?}");
        }
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
fn a_tree_is_removed_at_once_and_its_room_is_given_back_later() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    fs::create_dir_all(dir.path().join("t/a/b")).unwrap();
    fs::create_dir(dir.path().join("e")).unwrap();
    fs::write(dir.path().join("t/a/f"), "").unwrap();
    symlink(outside.path(), dir.path().join("t/a/out")).unwrap();
    let store = open_native(dir.path());
    assert_eq!(code(&change(&store, removing("t", Depth::One))), Some(Code::NotEmpty));
    assert_eq!(code(&change(&store, removing("no", Depth::All))), Some(Code::NotFound));
    assert!(!store.has_trash());
    change(&store, removing("t/a/out", Depth::One)).unwrap();
    change(&store, removing("e", Depth::One)).unwrap();
    symlink(outside.path(), dir.path().join("t/a/b/out")).unwrap();
    change(&store, removing("t", Depth::All)).unwrap();
    assert!(!dir.path().join("t").exists() && store.has_trash());
    // Asked to stop, it stops, and goes on later: in another run, too.
    assert_eq!(store.sweep_trash(&|| false), Swept::Stopped);
    assert!(store.has_trash() && trashed(dir.path()) > 0);
    drop(store);
    let store = open_native(dir.path());
    assert!(store.has_trash());
    swept(&store);
    assert_eq!(trashed(dir.path()), 0);
    assert!(outside.path().join("keep").exists());
}

#[test]
fn nobody_reaches_what_was_removed_by_a_symlink_into_the_trash() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("t/sub")).unwrap();
    fs::write(dir.path().join("t/sub/f"), "gone").unwrap();
    let store = open_native(dir.path());
    change(&store, removing("t", Depth::All)).unwrap();
    let trashed = fs::read_dir(dir.path().join(".ftx/trash")).unwrap().next().unwrap().unwrap();
    let target = Path::new(".ftx/trash").join(trashed.file_name());
    symlink(&target, dir.path().join("tree")).unwrap();
    symlink(target.join("sub/f"), dir.path().join("file")).unwrap();
    let reserved = |code: Option<Code>, what: &str| {
        assert_eq!(code, Some(Code::ReservedName), "{what}");
    };
    let begin =
        |path: &str| store.begin(put(path, new_id(), None)).err().map(|refusal| refusal.code);
    reserved(store.open_file(&name("tree/sub/f"), None).err().map(|refusal| refusal.code), "get");
    reserved(store.stat(&name("tree/sub"), None).err().map(|refusal| refusal.code), "stat");
    reserved(store.list(Some(&name("tree")), Depth::One, None).err().map(|r| r.code), "list");
    reserved(begin("tree/sub/new"), "put");
    reserved(begin("tree/new/new"), "put below");
    reserved(code(&change(&store, make("tree/new", Condition::Always, None))), "mkdir");
    reserved(code(&change(&store, moving("tree/sub", "back", Condition::Always))), "move");
    reserved(code(&change(&store, removing("tree/sub", Depth::All))), "remove");
    swept(&store);
    assert!(store.open_file(&name("tree/sub/f"), None).is_err());
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

#[test]
fn a_store_that_remembers_nothing_keeps_what_it_was_given_and_writes_nothing_down() {
    let written = |memory, durability| {
        let dir = tempfile::tempdir().unwrap();
        let forgetful = Options { memory, ..options() };
        let store = Store::open(Native, dir.path(), forgetful).unwrap().0;
        let before = fs::read_to_string(dir.path().join(".ftx/journal")).unwrap().lines().count();
        let mut put = staged(&store, "d/f", b"1");
        if let Step::Put(Finished { plan, body: FinishedBody::Staged { committed, .. } }) = &mut put
        {
            plan.durability = durability;
            committed.durability = durability;
        }
        store.commit(vec![put]).remove(0).unwrap();
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
fn a_tree_deeper_than_any_name_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let deep = vec!["d"; 1_500].join("/");
    for top in ["x", "y"] {
        change(&store, make_all(&format!("{top}/{deep}"))).unwrap();
    }
    let below = Change::Move {
        name: name("y"),
        to: name(&format!("x/{deep}/y")),
        condition: Condition::Absent,
        durability: Durability::None,
    };
    change(&store, below).unwrap();
    // It is too much for one list, which says so.
    assert!(listed(&store, None, Depth::All).iter().any(|line| line.starts_with("unread")));
    change(&store, removing("x", Depth::All)).unwrap();
    swept(&store);
    assert_eq!(trashed(dir.path()), 0);
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

#[cfg(target_os = "linux")]
#[test]
fn no_race_of_a_directory_with_a_symlink_shows_a_list_what_is_outside() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "").unwrap();
    fs::create_dir_all(dir.path().join("a/d")).unwrap();
    fs::write(dir.path().join("a/d/inside"), "").unwrap();
    symlink(outside.path(), dir.path().join("a/link")).unwrap();
    let store = open_native(dir.path());
    while_exchanging(&dir.path().join("a/d"), &dir.path().join("a/link"), || {
        let mut seen = 0;
        for _ in 0..5_000 {
            for line in listed(&store, Some("a"), Depth::All) {
                assert!(!line.contains("secret"), "{line}");
                seen += usize::from(line.contains("inside"));
            }
        }
        assert!(seen > 0);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn no_race_of_a_directory_with_a_symlink_sweeps_what_is_outside() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("keep"), "").unwrap();
    fs::create_dir(outside.path().join("dir")).unwrap();
    let store = open_native(dir.path());
    let place = dir.path().join("place");
    symlink(outside.path(), &place).unwrap();
    for turn in 0..200 {
        fs::create_dir_all(dir.path().join("t/d")).unwrap();
        for number in 0..5 {
            fs::write(dir.path().join(format!("t/d/{number}")), "").unwrap();
        }
        change(&store, removing("t", Depth::All)).unwrap();
        let trash = dir.path().join(".ftx/trash");
        let tree = fs::read_dir(trash).unwrap().next().unwrap().unwrap().path();
        while_exchanging(&tree.join("d"), &place, || {
            let _ = store.sweep_trash(&|| true);
        });
        assert!(outside.path().join("keep").exists(), "turn {turn}");
        assert!(outside.path().join("dir").exists(), "turn {turn}");
        // For the next turn: the symlink is where it was.
        let _ = fs::remove_dir_all(&place);
        let _ = fs::remove_file(&place);
        symlink(outside.path(), &place).unwrap();
        swept(&store);
    }
}

#[test]
fn directories_that_may_not_be_written_to_are_swept_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("t/a/b")).unwrap();
    fs::write(dir.path().join("t/a/b/f"), "").unwrap();
    for path in ["t/a/b", "t/a"] {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let store = open_native(dir.path());
    change(&store, removing("t", Depth::All)).unwrap();
    swept(&store);
    assert_eq!(trashed(dir.path()), 0);
    assert_eq!(
        store.list(None, Depth::All, None).unwrap().filter(is_directory).count(),
        0,
        "nothing is left"
    );
}

fn is_directory(listed: &Listed) -> bool {
    matches!(listed, Listed::Entry { stat, .. } if stat.kind == FileKind::Directory)
}
