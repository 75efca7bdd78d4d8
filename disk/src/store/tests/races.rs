//! What another process does to a name or its directory in the middle of a put or a round.

use std::io::ErrorKind;
use std::path::Path;

use ftx_protocol::{Code, Condition, Depth, Durability, Mode, Parents, TransferId, Version};

use super::{directory, id, name, open, options, root, share, write};
use crate::identity::{Identity, Inode};
use crate::sim::{Sim, SimHandle};
use crate::store::{Change, Finished, Listed, OldMode, OpenError, Put, Step, Store};
use crate::sys::{Disk, Want};

type Answers = Vec<Result<(), Code>>;

/// A small put of `new`; the id of the transfer is that of its name.
fn put(path: &str, condition: Condition) -> Put {
    let mut transfer = [0; 16];
    transfer[..path.len()].copy_from_slice(path.as_bytes());
    Put { condition, ..super::put(path, TransferId(transfer), Some(3)) }
}

fn whole(store: &Store<Sim>, put: Put) -> Finished<Sim> {
    super::whole(store, put, b"new").unwrap()
}

fn commit(store: &Store<Sim>, round: Vec<Finished<Sim>>) -> Answers {
    let answers = super::commit(store, round).into_iter();
    answers.map(|answer| answer.map(drop).map_err(|refusal| refusal.code)).collect()
}

fn version(sim: &Sim, path: &str) -> Version {
    let file = sim.open_beneath(&root(sim), &name(path), Want::File).unwrap();
    Identity::of(&sim.stat(&file).unwrap()).version()
}

/// Staged files that are left.
fn staged(sim: &Sim) -> usize {
    sim.names(&directory(sim, ".ftx/staging")).unwrap().count()
}

#[test]
fn a_directory_that_is_removed_between_two_files_of_a_round_is_made_again() {
    let sim = Sim::new();
    let store = open(&sim);
    let round = ["d/a", "d/b"].map(|path| whole(&store, put(path, Condition::Absent)));
    sim.before("rename_new b", |sim| {
        sim.remove(&directory(sim, "d"), b"a").unwrap();
        sim.remove_directory(&root(sim), b"d").unwrap();
    });
    assert_eq!(commit(&store, round.into())[1], Ok(()));
    assert_eq!(sim.content("d/a"), None);
    for seed in 0..50 {
        let after = sim.crash(seed);
        assert_eq!(after.content("d/b").as_deref(), Some(&b"new"[..]), "{seed}");
    }
}

#[test]
fn a_directory_that_something_else_made_anew_is_synced_though_its_inode_was_that_of_a_synced_one() {
    let sim = Sim::new();
    let store = open(&sim);
    let inode = || Inode::of(&sim.stat(&directory(&sim, "d")).unwrap());
    assert_eq!(commit(&store, vec![whole(&store, put("d/a", Condition::Absent))]), [Ok(())]);
    let before = inode();
    let root = root(&sim);
    sim.rename(&directory(&sim, "d"), b"a", &root, b"a").unwrap();
    sim.remove_directory(&root, b"d").unwrap();
    sim.make_directory(&root, b"d", Mode::new(0o755)).unwrap();
    assert_eq!(inode(), before, "the disk gave it out again");
    assert_eq!(commit(&store, vec![whole(&store, put("d/b", Condition::Absent))]), [Ok(())]);
    for seed in 0..50 {
        assert_eq!(sim.crash(seed).content("d/b").as_deref(), Some(&b"new"[..]), "{seed}");
    }
}

#[test]
fn a_directory_that_is_moved_between_two_files_of_a_round_has_both_or_its_successor_has_one() {
    for makes_another in [false, true] {
        let sim = Sim::new();
        let store = open(&sim);
        let round = ["d/a", "d/b"].map(|path| whole(&store, put(path, Condition::Absent)));
        sim.before("rename_new b", move |sim| {
            sim.rename(&root(sim), b"d", &root(sim), b"e").unwrap();
            if makes_another {
                sim.make_directory(&root(sim), b"d", Mode::new(0o755)).unwrap();
            }
        });
        assert_eq!(commit(&store, round.into()), [Ok(()), Ok(())]);
        for seed in 0..50 {
            let after = sim.crash(seed);
            let there = |path: &str| after.content(path).is_some_and(|bytes| bytes == b"new");
            // Whether the other process's move is durable is its own affair.
            assert!(there("d/a") || there("e/a"), "{seed}");
            assert!(there("d/b") || there("e/b"), "{seed}");
        }
    }
}

#[test]
fn a_condition_is_judged_by_the_directory_that_has_the_name_now() {
    let sim = Sim::new();
    let store = open(&sim);
    let round = ["d/a", "d/b"].map(|path| whole(&store, put(path, Condition::Absent)));
    // Another directory takes the place of the first one, which has such a file now.
    sim.before("rename_new b", |sim| {
        sim.rename(&root(sim), b"d", &root(sim), b"e").unwrap();
        sim.make_directory(&root(sim), b"d", Mode::new(0o755)).unwrap();
        write(sim, &directory(sim, "e"), "b", b"old");
    });
    assert_eq!(commit(&store, round.into()), [Ok(()), Ok(())]);
    assert_eq!(sim.content("d/b").as_deref(), Some(&b"new"[..]));
    assert_eq!(sim.content("e/b").as_deref(), Some(&b"old"[..]));
}

#[test]
fn what_takes_the_name_of_a_put_before_its_commit_is_replaced_only_if_that_is_allowed() {
    type Come = fn(&Sim, &SimHandle);
    let file: Come = |sim, root| write(sim, root, "f", b"old");
    let dir: Come = |sim, root| sim.make_directory(root, b"f", Mode::new(0o755)).unwrap();
    for (come, condition, expected) in [
        (file, Condition::Absent, Err(Code::Exists)),
        (file, Condition::Always, Ok(())),
        (dir, Condition::Absent, Err(Code::IsDirectory)),
        (dir, Condition::Always, Err(Code::IsDirectory)),
    ] {
        // Before the round begins, and at the last moment.
        for moment in ["", "rename_new f"] {
            let sim = Sim::new();
            let store = open(&sim);
            let round = vec![whole(&store, put("f", condition.clone()))];
            match moment {
                "" => come(&sim, &root(&sim)),
                moment => sim.before(moment, move |sim| come(sim, &root(sim))),
            }
            assert_eq!(commit(&store, round), [expected], "{condition:?} {moment}");
            let has: Option<&[u8]> = if expected.is_ok() { Some(b"new") } else { None };
            if let Some(bytes) = has {
                assert_eq!(sim.content("f").as_deref(), Some(bytes));
            } else if expected == Err(Code::Exists) {
                assert_eq!(sim.content("f").as_deref(), Some(&b"old"[..]));
            }
            assert_eq!(staged(&sim), 0);
        }
    }
}

#[test]
fn what_comes_goes_and_comes_again_is_not_replaced_by_what_must_be_new() {
    let sim = Sim::new();
    let store = open(&sim);
    let round = vec![whole(&store, put("f", Condition::Absent))];
    write(&sim, &root(&sim), "f", b"old");
    sim.before("stat_part f", |sim| {
        sim.remove(&root(sim), b"f").unwrap();
        // After it was looked for.
        sim.before("rename_new f", |sim| write(sim, &root(sim), "f", b"other"));
    });
    assert_eq!(commit(&store, round), [Err(Code::Exists)]);
    assert_eq!(sim.content("f").as_deref(), Some(&b"other"[..]));
}

#[test]
fn a_version_that_is_gone_when_the_name_is_taken_is_told() {
    let sim = Sim::new();
    let store = open(&sim);
    write(&sim, &root(&sim), "f", b"old");
    let round = vec![whole(&store, put("f", Condition::Version(version(&sim, "f"))))];
    sim.remove(&root(&sim), b"f").unwrap();
    assert_eq!(commit(&store, round), [Err(Code::VersionMismatch)]);
    assert_eq!((sim.content("f"), staged(&sim)), (None, 0));
}

#[test]
fn a_tree_that_was_removed_does_not_come_back_for_what_is_refused() {
    let sim = Sim::new();
    let store = open(&sim);
    sim.make_directory(&root(&sim), b"d", Mode::new(0o755)).unwrap();
    write(&sim, &directory(&sim, "d"), "f", b"old");
    let condition = Condition::Version(version(&sim, "d/f"));
    let finished = whole(&store, put("d/f", condition.clone()));
    sim.remove(&directory(&sim, "d"), b"f").unwrap();
    sim.remove_directory(&root(&sim), b"d").unwrap();
    assert_eq!(commit(&store, vec![finished]), [Err(Code::VersionMismatch)]);
    let change = Change::MakeDirectory {
        name: name("d/e/f"),
        parents: Parents::Make,
        condition,
        modified: None,
        mode: None,
        old_mode: OldMode::Replaced,
        durability: Durability::Full,
    };
    let made = store.commit(vec![Step::Change { change, within: None }]).remove(0);
    assert_eq!(made.err().map(|refusal| refusal.code), Some(Code::VersionMismatch));
    assert_eq!(sim.stat_part(&root(&sim), b"d").err().unwrap().kind(), ErrorKind::NotFound);
}

#[test]
fn no_put_is_refused_for_what_the_directory_of_the_one_before_it_was() {
    let sim = Sim::new();
    let store = open(&sim);
    // Nothing is there, then a file is.
    store.discard(store.begin(put("d/a", Condition::Absent)).unwrap());
    sim.make_directory(&root(&sim), b"d", Mode::new(0o755)).unwrap();
    write(&sim, &directory(&sim, "d"), "f", b"old");
    let changed = put("d/f", Condition::Version(version(&sim, "d/f")));
    let finished = whole(&store, changed);
    assert_eq!(commit(&store, vec![finished]), [Ok(())]);
    // The directory that was looked at is another one's now.
    sim.rename(&root(&sim), b"d", &root(&sim), b"e").unwrap();
    let finished = whole(&store, put("d/f2", Condition::Absent));
    let mut other = put("d/f", Condition::Absent);
    other.transfer = id(9);
    let other = whole(&store, other);
    assert_eq!(commit(&store, vec![finished, other]), [Ok(()), Ok(())]);
    assert_eq!(sim.content("e/f").as_deref(), Some(&b"new"[..]));
    assert_eq!(sim.content("d/f").as_deref(), Some(&b"new"[..]));
}

#[test]
fn a_directory_that_is_another_one_when_a_list_goes_into_it_is_not_found() {
    let sim = Sim::new();
    let store = open(&sim);
    sim.make_directory(&root(&sim), b"d", Mode::new(0o755)).unwrap();
    sim.before("open_part d", |sim| {
        sim.rename(&root(sim), b"d", &root(sim), b"e").unwrap();
        sim.make_directory(&root(sim), b"d", Mode::new(0o755)).unwrap();
        write(sim, &directory(sim, "d"), "f", b"other");
    });
    let listed: Vec<Listed> = store
        .list(None, Depth::All, None, &share())
        .unwrap()
        .filter(|listed| is_of(listed, "d"))
        .collect();
    let [Listed::Entry { .. }, Listed::Unread { refusal, .. }] = listed.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!(refusal.code, Code::NotFound);
}

fn is_of(listed: &Listed, path: &str) -> bool {
    match listed {
        Listed::Entry { name: of, .. } => *of == name(path),
        Listed::Unread { name: of, .. } => *of == Some(name(path)),
    }
}

/// It has opened the lock of a store that goes: that one would keep nobody out.
#[test]
fn a_store_that_begins_while_another_takes_its_directory_away_has_it_alone() {
    for is_left in [false, true] {
        let sim = Sim::new();
        let first = open(&sim);
        if is_left {
            write(&sim, &directory(&sim, ".ftx"), "of-somebody", b"");
        }
        sim.before("lock ", move |_| assert_eq!(first.retire(&[b"further"]).is_err(), is_left));
        let second = open(&sim);
        let third = Store::open(sim.clone(), Path::new("/"), options()).err();
        assert!(matches!(third, Some(OpenError::Locked)), "{third:?}");
        assert_eq!(commit(&second, vec![whole(&second, put("a", Condition::Absent))]), [Ok(())]);
    }
}

#[test]
fn a_store_that_goes_takes_its_lock_away_last() {
    let sim = Sim::new();
    let store = open(&sim);
    sim.before("remove further", |sim| {
        let third = Store::open(sim.clone(), Path::new("/"), options()).err();
        assert!(matches!(third, Some(OpenError::Locked)), "{third:?}");
    });
    store.retire(&[b"further"]).unwrap();
    assert!(sim.log().iter().any(|call| call.ends_with("remove further")));
}
