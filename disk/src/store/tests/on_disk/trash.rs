//! What is removed, and the sweep of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ftx_protocol::limits::NAME_PARTS;
use ftx_protocol::{Code, Condition, Depth, Durability, Kind};

use super::{change, code, listed, make, make_all, moving, removing, swept, while_exchanging};
use crate::store::tests::{name, new_id, open_native, put, share};
use crate::store::{Change, Listed, Swept};

fn trashed(root: &Path) -> usize {
    fs::read_dir(root.join(".ftx/trash")).unwrap().count()
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
    reserved(
        store.list(Some(&name("tree")), Depth::One, None, &share()).err().map(|r| r.code),
        "list",
    );
    reserved(begin("tree/sub/new"), "put");
    reserved(begin("tree/new/new"), "put below");
    reserved(code(&change(&store, make("tree/new", Condition::Always, None))), "mkdir");
    reserved(code(&change(&store, moving("tree/sub", "back", Condition::Always))), "move");
    reserved(code(&change(&store, removing("tree/sub", Depth::All))), "remove");
    swept(&store);
    assert!(store.open_file(&name("tree/sub/f"), None).is_err());
}

#[test]
fn a_tree_deeper_than_any_name_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    let deep = vec!["d"; NAME_PARTS - 2].join("/");
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
        store.list(None, Depth::All, None, &share()).unwrap().filter(is_directory).count(),
        0,
        "nothing is left"
    );
}

fn is_directory(listed: &Listed) -> bool {
    matches!(listed, Listed::Entry { stat, .. } if stat.kind == Kind::Directory)
}
