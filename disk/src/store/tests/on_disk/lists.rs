//! Lists.

use std::fs;
use std::os::unix::fs::symlink;

use ftx_protocol::{Code, Depth};

use super::{listed, open_read_only, while_exchanging};
use crate::store::Listed;
#[cfg(all(target_os = "linux", not(ftx_portable)))]
use crate::store::Opened;
use crate::store::tests::{name, open_native, share, share_of};
#[cfg(all(target_os = "linux", not(ftx_portable)))]
use crate::walk::NAMES_ROOM_BYTES;

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
    let refused =
        |path: &str| store.list(Some(&name(path)), Depth::All, None, &share()).err().unwrap().code;
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
    symlink(".ftx/journal", dir.path().join("journal")).unwrap();
    let writer = open_native(dir.path());
    let reader = open_read_only(dir.path());
    for store in [&writer, &reader] {
        for start in [None, Some("here"), Some("a/up")] {
            for listed in listed(store, start, Depth::All) {
                assert!(!listed.contains(".ftx"), "{start:?} shows {listed}");
            }
        }
        for start in [
            "in",
            "in/staging",
            "a/trash",
            "here/.ftx",
            ".ftx",
            "in/journal",
            "in/none",
            "in/journal/none",
            "in/none/none",
            "journal",
            "journal/none",
        ] {
            let refusal = store.list(Some(&name(start)), Depth::All, None, &share()).err().unwrap();
            assert_eq!(refusal.code, Code::ReservedName, "{start}");
        }
    }
}

#[test]
fn a_share_of_the_directories_is_no_more_than_that_and_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    fs::create_dir_all(dir.path().join("a/b/c/d")).unwrap();
    let few = share_of(3);
    let list = |share: &_| store.list(None, Depth::All, None, share);
    let listed: Vec<_> = list(&few).unwrap().collect();
    let names = |listed: &Listed| matches!(listed, Listed::Entry { .. });
    assert_eq!(listed.iter().filter(|listed| names(listed)).count(), 3, "{listed:?}");
    let Some(Listed::Unread { refusal, .. }) = listed.iter().find(|listed| !names(listed)) else {
        panic!("{listed:?}");
    };
    assert_eq!(refusal.code, Code::Busy);
    let lists: Vec<_> = (0..3).map(|_| list(&few).unwrap()).collect();
    assert_eq!(list(&few).err().unwrap().code, Code::Busy);
    assert_eq!(list(&share()).unwrap().count(), 4, "others have theirs");
    drop(lists);
    list(&few).unwrap();
}

#[cfg(all(target_os = "linux", not(ftx_portable)))]
#[test]
fn names_that_wait_take_of_the_share_that_a_list_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_native(dir.path());
    for number in 0..2_000 {
        fs::write(dir.path().join(format!("name-{number}")), "").unwrap();
    }
    let limits = share();
    let is_free = || Opened::under(limits.names.clone()).take_up_to(NAMES_ROOM_BYTES);
    let listing = store.list(None, Depth::All, None, &limits).unwrap();
    assert!(!is_free());
    assert_eq!(listing.count(), 2_000);
    assert!(is_free());
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
