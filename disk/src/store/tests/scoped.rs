//! Somebody who is held to one directory, on a real disk: nothing that they name is outside it,
//! whatever the symlinks in it say and whoever moves them meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ftx_protocol::{Code, Condition, Depth, Durability, FileTime, Mode, Name, Parents};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{commit, name, new_id, open_native, share, whole};
use crate::store::{Change, Listed, Naming, OldMode, Put, Settled, Step, Store, Stored};
use crate::sys::Native;

/// Puts that a directory and a symlink change places under.
const RACED: u64 = 20_000;

/// Everything below a directory, by its path: its mode, and what it holds or leads to.
type Tree = BTreeMap<String, (u32, [i64; 4], Vec<u8>)>;

fn put(path: &str, within: Option<&str>, size: Option<usize>) -> Put {
    let (durability, within) = (Durability::None, within.map(name));
    Put { durability, within, ..super::put(path, new_id(), size) }
}

fn try_put(store: &Store<Native>, put: Put) -> Result<Stored, Code> {
    let finished = whole(store, put, b"new").map_err(|refusal| refusal.code)?;
    commit(store, vec![finished]).remove(0).map_err(|refusal| refusal.code)
}

fn change(store: &Store<Native>, change: Change, within: &str) -> Result<(), Code> {
    let step = Step::Change { change, within: Some(name(within)) };
    store.commit(vec![step]).remove(0).map(drop).map_err(|refusal| refusal.code)
}

fn make(path: &str, parents: Parents) -> Change {
    Change::MakeDirectory {
        name: name(path),
        parents,
        condition: Condition::Always,
        modified: Some(FileTime::new(1_764_000_000, 0).unwrap()),
        mode: Some(Mode::new(0o700)),
        old_mode: OldMode::Replaced,
        durability: Durability::None,
    }
}

fn moving(from: &str, to: &str) -> Change {
    let (condition, durability) = (Condition::Always, Durability::None);
    Change::Move { name: name(from), to: name(to), condition, durability }
}

fn removing(path: &str) -> Change {
    Change::Remove { name: name(path), depth: Depth::All, durability: Durability::None }
}

fn tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(path) = ahead.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let holds = if metadata.is_dir() {
            ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            fs::read(&path).unwrap()
        };
        let changed =
            [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
        let seen = (metadata.permissions().mode(), changed, holds);
        tree.insert(path.to_str().unwrap().to_owned(), seen);
    }
    tree
}

/// A root with a scope `s/t`, a sibling of it that nobody in the scope may reach, and symlinks in
/// the scope: into it, to the sibling, to the root, and out.
fn world() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    fs::create_dir_all(root.join("s/t/in/deep")).unwrap();
    fs::create_dir_all(root.join("s/sibling/sub")).unwrap();
    fs::write(root.join("s/t/in/file"), "inside").unwrap();
    fs::write(root.join("s/sibling/file"), "secret").unwrap();
    fs::write(root.join("s/sibling/sub/file"), "secret, too").unwrap();
    fs::write(home.path().join("secret"), "outside").unwrap();
    for (link, target) in [
        ("to-in", "in"),
        ("to-file", "in/file"),
        ("sibling", "../sibling"),
        ("sibling-file", "../sibling/file"),
        ("up", ".."),
        ("back", "../t/in"),
        ("in/deep/sibling", "../../../sibling"),
        ("out", "../../../"),
        ("absolute", "/etc"),
        ("dangling", "../sibling/new"),
    ] {
        symlink(target, root.join("s/t").join(link)).unwrap();
    }
    symlink("s/t", root.join("to-scope")).unwrap();
    symlink("s", root.join("to-s")).unwrap();
    home
}

/// Ways out of the scope, and what is there.
const OUT: [&str; 9] = [
    "s/t/sibling/file",
    "s/t/sibling-file",
    "s/t/up/sibling/file",
    "s/t/back/file",
    "s/t/in/deep/sibling/sub/file",
    "s/t/out/secret",
    "s/t/absolute/passwd",
    "s/sibling/file",
    "secret",
];

#[test]
fn scoped_token_follows_no_link_out() {
    let home = world();
    let root = home.path().join("root");
    let store = open_native(&root);
    let scope = name("s/t");
    let scope = Some(&scope);
    let refused = |code: Option<Code>, what: &str| {
        assert_eq!(code, Some(Code::OutsideRoot), "{what}");
    };
    let before = tree(&root.join("s/sibling"));
    for path in OUT {
        refused(store.open_file(&name(path), scope).err().map(|refusal| refusal.code), path);
        refused(store.stat(&name(path), scope).err().map(|refusal| refusal.code), path);
        let Some((directory, _)) = path.rsplit_once('/').filter(|_| path != "s/t/sibling-file")
        else {
            continue;
        };
        let listed = store.list(Some(&name(directory)), Depth::All, scope, &share());
        refused(listed.err().map(|refusal| refusal.code), directory);
        for (beside, size) in [("new", Some(3)), ("new", None), ("new/new", Some(3))] {
            let beside = format!("{directory}/{beside}");
            refused(try_put(&store, put(&beside, Some("s/t"), size)).err(), &beside);
            for parents in [Parents::Require, Parents::Make] {
                let made = change(&store, make(&beside, parents), "s/t");
                // Nothing is looked for above what is missing.
                let (is_missing, code) = (beside.ends_with("new/new"), made.err());
                assert!(
                    code == Some(Code::OutsideRoot) || (is_missing && code.is_some()),
                    "{beside} {code:?}"
                );
            }
            refused(change(&store, moving("s/t/in/file", &beside), "s/t").err(), &beside);
        }
        refused(change(&store, moving(path, "s/t/in/taken"), "s/t").err(), path);
        refused(change(&store, removing(path), "s/t").err(), path);
    }
    refused(
        store.list(None, Depth::One, scope, &share()).err().map(|refusal| refusal.code),
        "the root",
    );
    for own in [removing("s/t"), moving("s/t", "s/sibling/x"), moving("s/t/in", "s/t")] {
        let what = format!("{own:?}");
        refused(change(&store, own, "s/t").err(), &what);
    }
    assert_eq!(tree(&root.join("s/sibling")), before);
    assert_eq!(fs::read(root.join("s/t/in/file")).unwrap(), b"inside");
}

#[test]
fn in_the_scope_everything_is_as_without_one() {
    let home = world();
    let root = home.path().join("root");
    let store = open_native(&root);
    let scope = name("s/t");
    let scope = Some(&scope);
    let before = tree(&root.join("s/sibling"));
    for path in ["s/t/in/file", "s/t/to-file", "s/t/to-in/file"] {
        assert_eq!(store.open_file(&name(path), scope).unwrap().size(), 6, "{path}");
        assert_eq!(store.stat(&name(path), scope).unwrap().size, 6, "{path}");
    }
    assert!(store.stat(&name("s/t"), scope).is_ok());
    // A symlink is shown, and not entered.
    let listing = store.list(Some(&name("s/t")), Depth::All, scope, &share()).unwrap();
    for listed in listing {
        let Listed::Entry { name, .. } = listed else { panic!("{listed:?}") };
        assert!(!name.to_string().contains("sibling/"), "{name}");
    }
    for path in ["s/t/new", "s/t/to-in/new", "s/t/x/y/new"] {
        assert!(try_put(&store, put(path, Some("s/t"), Some(3))).is_ok(), "{path}");
        assert_eq!(fs::read(root.join(path)).unwrap(), b"new");
    }
    // What has the name of a put is replaced, and not what it leads to.
    for path in ["s/t/sibling-file", "s/t/dangling"] {
        assert!(try_put(&store, put(path, Some("s/t"), Some(3))).is_ok(), "{path}");
        assert!(fs::symlink_metadata(root.join(path)).unwrap().is_file());
    }
    assert_eq!(change(&store, make("s/t/to-in/d", Parents::Require), "s/t"), Ok(()));
    assert_eq!(change(&store, make("s/t", Parents::Require), "s/t"), Ok(()));
    assert_eq!(change(&store, moving("s/t/in/d", "s/t/x/d"), "s/t"), Ok(()));
    for path in ["s/t/x", "s/t/sibling", "s/t/in/deep"] {
        assert_eq!(change(&store, removing(path), "s/t"), Ok(()), "{path}");
    }
    assert_eq!(try_put(&store, put("s/t", Some("s/t"), Some(3))), Err(Code::IsDirectory));
    assert_eq!(tree(&root.join("s/sibling")), before);
}

#[test]
fn a_scope_that_is_not_there_is_made_by_the_first_put_and_by_nothing_that_reads() {
    let home = world();
    let root = home.path().join("root");
    let store = open_native(&root);
    let (new, file) = (name("n/o"), name("n/o/f"));
    let missing = [
        store.open_file(&file, Some(&new)).err(),
        store.stat(&new, Some(&new)).err(),
        store.list(Some(&new), Depth::All, Some(&new), &share()).err(),
    ];
    for refusal in missing {
        assert_eq!(refusal.unwrap().code, Code::NotFound);
    }
    assert_eq!(change(&store, make("n/o/d", Parents::Require), "n/o"), Err(Code::NotFound));
    assert!(!root.join("n").exists());
    assert!(try_put(&store, put("n/o/f", Some("n/o"), Some(3))).is_ok());
    assert!(try_put(&store, put("n/p/f", Some("n/p"), None)).is_ok());
    assert_eq!(change(&store, make("n/q/d", Parents::Make), "n/q"), Ok(()));
    assert_eq!(fs::read(root.join("n/o/f")).unwrap(), b"new");
    assert!(root.join("n/q/d").is_dir());
}

#[test]
fn a_scope_that_is_a_symlink_or_below_one_or_a_file_is_no_scope() {
    let home = world();
    let store = open_native(&home.path().join("root"));
    for scope in ["to-scope", "to-s/t", "to-s/new", "s/t/to-in", "s/sibling/file"] {
        let below = format!("{scope}/file");
        let within = Some(name(scope));
        let (below, within) = (name(&below), within.as_ref());
        let codes = [
            store.open_file(&below, within).err().map(|refusal| refusal.code),
            store.list(within, Depth::One, within, &share()).err().map(|refusal| refusal.code),
            try_put(&store, put(&below.to_string(), Some(scope), Some(3))).err(),
            try_put(&store, put(&below.to_string(), Some(scope), None)).err(),
            change(&store, removing(&below.to_string()), scope).err(),
        ];
        assert_eq!(codes, [Some(Code::NotADirectory); 5], "{scope}");
    }
}

#[test]
fn fifty_parallel_puts_of_one_name_into_a_box_are_fifty_files() {
    let home = tempfile::tempdir().unwrap();
    let store = open_native(home.path());
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let numbered =
                    Put { naming: Naming::Numbered, ..put("box/photo.jpg", Some("box"), Some(3)) };
                try_put(&store, numbered).unwrap();
            });
        }
    });
    let mut names: Vec<String> = fs::read_dir(home.path().join("box"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_by_key(|name| name.len());
    let numbers: std::collections::BTreeSet<u32> = names
        .iter()
        .filter_map(|name| name.strip_prefix("photo-")?.strip_suffix(".jpg")?.parse().ok())
        .collect();
    assert_eq!((names.len(), names[0].as_str()), (50, "photo.jpg"));
    assert!(numbers.into_iter().eq(1..50));
}

#[test]
fn a_number_avoids_whatever_has_a_name_on_the_disk_or_in_the_round() {
    let home = tempfile::tempdir().unwrap();
    let store = open_native(home.path());
    let box_ = home.path().join("box");
    fs::create_dir_all(box_.join("f")).unwrap();
    symlink("nowhere", box_.join("f-1")).unwrap();
    fs::write(box_.join("f-2"), "old").unwrap();
    let numbered = |path: &str| Put { naming: Naming::Numbered, ..put(path, Some("box"), Some(3)) };
    let whole = |put: Put| Step::Put(whole(&store, put, b"new").unwrap());
    let within = Some(name("box"));
    let round = vec![
        whole(numbered("box/f")),
        whole(put("box/f-4", Some("box"), Some(3))),
        whole(numbered("box/f")),
        Step::Change { change: make("box/g", Parents::Require), within: within.clone() },
        whole(numbered("box/g")),
        whole(put("box/h/file", Some("box"), Some(3))),
        whole(numbered("box/h")),
        whole(numbered("box/free")),
    ];
    let got: Vec<Option<String>> = store
        .commit(round)
        .into_iter()
        .map(|answer| match answer.unwrap() {
            Settled::Stored(stored) => stored.name.map(|name| name.to_string()),
            Settled::Changed(_) => None,
        })
        .collect();
    let expected = [Some("box/f-3"), None, Some("box/f-5"), None, Some("box/g-1"), None];
    assert_eq!(got[..6], expected.map(|name| name.map(str::to_owned)));
    assert_eq!(got[6..], [Some("box/h-1".to_owned()), None]);
    assert_eq!(fs::read(box_.join("f-2")).unwrap(), b"old");
    // No condition replaces anything, and a full box takes no more of a name.
    for number in 1..=9_999 {
        let _ = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(box_.join(format!("f-{number}")));
    }
    assert_eq!(try_put(&store, numbered("box/f")), Err(Code::Exists));
    assert_eq!(try_put(&store, numbered("box/free")).unwrap().name, Some(name("box/free-1")));
}

/// A directory and a symlink change places, again and again: of the root, with one that leads out
/// of it, and of a scope, with one that leads to its sibling.
fn flip(root: &Path, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        for (directory, link) in [("dir", "link"), ("s/t/dir", "s/t/link")] {
            let (directory, link) = (root.join(directory), root.join(link));
            let _ = renameat_with(CWD, &directory, CWD, &link, RenameFlags::EXCHANGE);
            // Shorter than any step; without it there is one core less to be raced with.
            std::thread::sleep(Duration::from_micros(10));
        }
    }
}

/// What is raced: a directory that is a symlink now and then, and who is held to what.
struct Raced<'a> {
    store: &'a Store<Native>,
    directory: &'static str,
    within: Option<Name>,
    /// Whether nothing but what is in the directory may be seen.
    is_held: bool,
}

impl Raced<'_> {
    /// What is done in one turn; looks at what it can.
    fn steps(&self, turn: u64) -> Vec<Step<Native>> {
        let path = |part: &str| format!("{}/{part}", self.directory);
        let number = turn % 50;
        // New for the most part: some file systems wait for what is replaced.
        let part = match turn % 16 {
            0 => format!("new{number}/f"),
            1 => format!("f{number}"),
            _ => format!("t{turn}"),
        };
        // One in two looks at its place before its bytes come.
        let size = turn.is_multiple_of(2).then_some(3);
        let within = self.within.clone();
        let put = Put { within, ..put(&path(&part), None, size) };
        let mut steps: Vec<_> =
            whole(self.store, put, b"new").ok().map(Step::Put).into_iter().collect();
        let change = match turn % 32 {
            3 => make(&path("made/deeper"), Parents::Make),
            11 => moving(&path(&format!("f{number}")), &path("moved")),
            19 => removing(&path("sub")),
            _ => return steps,
        };
        steps.push(Step::Change { change, within: self.within.clone() });
        steps
    }

    fn look(&self) {
        if !self.is_held {
            return;
        }
        let directory = name(self.directory);
        let file = Name::inside(Some(&directory), b"file").unwrap();
        if let Ok(reading) = self.store.open_file(&file, self.within.as_ref()) {
            let mut bytes = [0; 16];
            let count = reading.read_at(&mut bytes, 0).unwrap();
            assert_eq!(&bytes[..count], b"inside");
        }
        let listing = self.store.list(Some(&directory), Depth::All, self.within.as_ref(), &share());
        for listed in listing.into_iter().flatten() {
            let Listed::Entry { name, .. } = listed else { continue };
            assert!(!name.to_string().contains("sentinel"), "{name}");
        }
    }
}

/// Races puts and everything else in a directory of the root and in one of `s/t` with symlinks that
/// lead to where there are other files of the same names. Says of what is outside the root, and of
/// what is beside `s/t`, whether it was left alone.
fn race(scope: Option<Name>, puts: u64) -> [bool; 2] {
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("root");
    let sentinels = [home.path().join("trap"), root.join("s/sibling")];
    for directory in ["dir", "s/t/dir"] {
        fs::create_dir_all(root.join(directory)).unwrap();
        fs::write(root.join(directory).join("file"), "inside").unwrap();
    }
    for sentinel in &sentinels {
        fs::create_dir_all(sentinel.join("sub/sentinel")).unwrap();
        for file in ["f1", "f43", "moved", "sub/sentinel/file"] {
            fs::write(sentinel.join(file), "sentinel").unwrap();
            fs::set_permissions(sentinel.join(file), fs::Permissions::from_mode(0o640)).unwrap();
        }
    }
    symlink("../trap", root.join("link")).unwrap();
    symlink("../sibling", root.join("s/t/link")).unwrap();
    let before = sentinels.each_ref().map(|sentinel| tree(sentinel));
    let store = open_native(&root);
    let over = AtomicBool::new(false);
    let is_scoped = scope.is_some();
    let places = [("dir", None), ("s/t/dir", scope)].map(|(directory, within)| Raced {
        store: &store,
        directory,
        within,
        is_held: is_scoped || directory == "dir",
    });
    let (mut taken, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| flip(&root, &over));
        for turn in (0..puts / 2).step_by(4) {
            let turns = turn..turn + 4;
            let round = turns.flat_map(|turn| places.iter().flat_map(move |at| at.steps(turn)));
            for answer in store.commit(round.collect()) {
                match answer {
                    Ok(_) => taken += 1,
                    Err(_) => refused += 1,
                }
            }
            if turn.is_multiple_of(512) {
                store.sweep_trash(&|| true);
                places.iter().for_each(Raced::look);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(taken > puts / 10 && refused > puts / 10, "{taken} and {refused}: there was no race");
    std::array::from_fn(|place| tree(&sentinels[place]) == before[place])
}

#[test]
fn symlink_raced_between_check_and_use() {
    assert_eq!(race(Some(name("s/t")), RACED), [true, true]);
}

#[test]
fn control_without_the_scope_the_race_reaches_what_is_beside_it() {
    assert_eq!(race(None, RACED / 10), [true, false]);
}
