//! Directories that may be searched and not read, on a real disk, by somebody who is not root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::thread;

use ftx_protocol::{Condition, Depth, Name};
use rustix::process::{Gid, Uid, getuid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::{change, make, moving, open_read_only, removing, staged, swept};
use crate::store::tests::{name, new_id, open_native, put, share};
use crate::store::{Put, Store};
use crate::sys::Native;

/// nobody, on most systems; it has nothing anywhere.
const NOBODY: u32 = 65_534;

/// Acts in a directory of their own as somebody whom modes hold back.
fn as_nobody(act: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            if getuid().is_root() {
                chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
                let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                // Of this thread alone.
                set_thread_groups(&[]).unwrap();
                set_thread_res_gid(group, group, group).unwrap();
                set_thread_res_uid(user, user, user).unwrap();
            }
            act(dir.path());
            set_mode(&dir.path().join("x"), 0o700);
        });
    });
}

fn set_mode(path: &Path, mode: u32) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}

#[test]
fn what_is_put_below_a_directory_that_may_not_be_read_is_durable_and_so_is_what_follows() {
    as_nobody(|root| {
        fs::create_dir_all(root.join("x/y")).unwrap();
        set_mode(&root.join("x"), 0o311);
        let store = open_native(root);
        let put = store.commit(vec![staged(&store, "x/y/f", b"f")]).remove(0);
        put.unwrap();
        change(&store, make("q", Condition::Absent, None)).unwrap();
        change(&store, moving("q", "x/y/q", Condition::Absent)).unwrap();
    });
}

#[test]
fn what_is_below_a_directory_that_may_not_be_read_is_reached_whatever_has_to_be_looked_at() {
    as_nobody(|root| {
        fs::create_dir_all(root.join("x/y/d")).unwrap();
        fs::write(root.join("x/f"), "x").unwrap();
        fs::write(root.join("x/y/f"), "y").unwrap();
        fs::create_dir(root.join("t")).unwrap();
        let store = open_native(root);
        set_mode(&root.join("x"), 0o311);
        let reach = |store: &Store<Native>, within: Option<&Name>| {
            for path in ["x/y/f", "x/y/d"] {
                assert_eq!(store.stat(&name(path), within).err(), None, "{path}");
                store.look_at(within, &name(path)).unwrap();
            }
            store.open_file(&name("x/y/f"), within).map(drop).unwrap();
            store.list(Some(&name("x/y")), Depth::One, within, &share()).map(drop).unwrap();
        };
        for within in [None, Some(name("x/y"))] {
            reach(&store, within.as_ref());
        }
        // With something in the trash the way to everything is looked at.
        change(&store, removing("t", Depth::All)).unwrap();
        for within in [None, Some(name("x/y"))] {
            reach(&store, within.as_ref());
        }
        store.open_file(&name("x/f"), None).map(drop).unwrap();
        store.look_at(None, &name("x/f")).unwrap();
        let within = Some(name("x/y"));
        let upload = store.begin(Put { within, ..put("x/y/new", new_id(), None) }).unwrap();
        store.discard(upload);
        reach(&open_read_only(root), None);
    });
}

#[test]
fn a_directory_is_made_durable_with_a_mode_by_which_nobody_gets_up_from_it() {
    as_nobody(|root| {
        let store = open_native(root);
        for mode in [0, 0o200, 0o400, 0o600] {
            let path = mode.to_string();
            change(&store, make(&path, Condition::Absent, Some(mode))).unwrap();
            assert_eq!(root.join(path).metadata().unwrap().permissions().mode() & 0o777, mode);
        }
    });
}

#[test]
fn a_removed_tree_with_directories_that_may_not_be_entered_is_swept() {
    as_nobody(|root| {
        let modes = [0, 0o100, 0o300, 0o400, 0o500];
        for mode in modes {
            fs::create_dir_all(root.join(format!("t/{mode}/d"))).unwrap();
            fs::create_dir_all(root.join(format!("{mode}/d"))).unwrap();
        }
        let store = open_native(root);
        for mode in modes {
            for path in [format!("t/{mode}"), format!("{mode}")] {
                set_mode(&root.join(path).join("d"), mode);
            }
        }
        for mode in modes {
            // A directory that its owner may not write to is not moved by them.
            set_mode(&root.join(format!("t/{mode}")), mode);
            set_mode(&root.join(format!("{mode}")), mode | 0o200);
            change(&store, removing(&format!("{mode}"), Depth::All)).unwrap();
        }
        change(&store, removing("t", Depth::All)).unwrap();
        swept(&store);
        assert_eq!(fs::read_dir(root.join(".ftx/trash")).unwrap().count(), 0);
    });
}
