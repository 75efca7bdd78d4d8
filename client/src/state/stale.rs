//! States that were left long ago, and with which nobody can go on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ftx_disk::identity::Identity;

use super::{Direction, Subject};
use crate::locked;
use crate::partials;

/// A state that nobody has touched for this long, and with which nobody can go on, is removed: that
/// of a put whose source is not what it was (of a tree: is gone), that of a get whose part file is gone.
pub(super) const STALE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The longest first line: a path of 4,096 bytes takes four times as many in it.
const FIRST_LINE_BYTES_MAX: u64 = 64 * 1024;

/// How many states of others one transfer looks at, so that it never waits for an old crowd of them.
const LOOKED_AT_MAX: usize = 64;

/// Removes states that were left long ago and cannot be gone on with. Which of many are
/// looked at is left to chance, so that none is passed over for ever.
pub(super) fn prune(directory: &Path, now: SystemTime) {
    // What cannot be looked at or removed now is there at the next transfer too.
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let is_state = |name: &OsString| {
        let name = name.as_bytes();
        let begins = |direction: Direction| name.starts_with(direction.prefix().as_bytes());
        // Not the log of a tree that is got, which is written in another way and goes with its job.
        let is_get = begins(Direction::Get) && !name.starts_with(b"get-tree-");
        (begins(Direction::Put) || is_get) && !name.contains(&b'.')
    };
    let mut names: Vec<OsString> =
        entries.flatten().map(|entry| entry.file_name()).filter(is_state).collect();
    if names.len() > LOOKED_AT_MAX {
        let chance = getrandom::u32().ok().and_then(|number| usize::try_from(number).ok());
        let first = chance.and_then(|number| number.checked_rem(names.len())).unwrap_or(0);
        names.rotate_left(first);
    }
    for name in names.iter().take(LOOKED_AT_MAX) {
        let path = directory.join(name);
        if let Ok(Some(_held)) = hold_stale(&path, now) {
            partials::forget(&path);
            let _ = std::fs::remove_file(&path);
        }
    }
}

/// Opens a state that is to be removed, and keeps others from it. `None` when it is to stay.
fn hold_stale(path: &Path, now: SystemTime) -> io::Result<Option<File>> {
    if !is_stale(path, now)? {
        return Ok(None);
    }
    let file = File::open(path)?;
    // Somebody may have taken it up since it was looked at, and be done with it again.
    let is_still = file.try_lock().is_ok()
        && locked::has_name(&file, path)?
        && is_old(&file.metadata()?, now)?;
    Ok(is_still.then_some(file))
}

fn is_old(metadata: &std::fs::Metadata, now: SystemTime) -> io::Result<bool> {
    Ok(now.duration_since(metadata.modified()?).unwrap_or_default() > STALE)
}

fn is_stale(path: &Path, now: SystemTime) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    if !is_old(&metadata, now)? || !metadata.is_file() {
        return Ok(false);
    }
    let file = File::open(path)?;
    // Not as who works on it: one that begins now is to find it free.
    if file.try_lock_shared().is_err() {
        // A process is working on it.
        return Ok(false);
    }
    // The log of a tree is written in another way.
    if path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"put-tree-")) {
        let source = partials::source_of(path).map(std::fs::metadata);
        return Ok(source.is_none_or(|source| source.is_err_and(|error| says_gone(&error))));
    }
    // What comes behind it may be long, and does not matter here.
    let mut first = Vec::new();
    io::BufReader::new(file.take(FIRST_LINE_BYTES_MAX)).read_until(b'\n', &mut first)?;
    let (source, path) = match serde_json::from_slice(&first) {
        Ok(Subject::Put { source, path, .. }) => (source, path),
        Ok(Subject::Get { .. }) => return Ok(!partials::has_part(path)),
        // Damaged: nobody goes on with it.
        Err(_) => return Ok(true),
    };
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(!Identity::of_metadata(&metadata).is_same_after_reboot(&source)),
        Err(error) => Ok(says_gone(&error)),
    }
}

fn says_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use ftx_protocol::Durability;

    use super::*;
    use crate::partials::About;
    use crate::state::tests::{got, left};

    #[test]
    fn old_states_of_puts_go_once_their_source_is_gone_or_another_one() {
        let home = tempfile::tempdir().unwrap();
        let (same, _) = left(home.path(), "same");
        let (gone, source) = left(home.path(), "gone");
        std::fs::remove_file(source).unwrap();
        let (changed, source) = left(home.path(), "changed");
        std::fs::write(source, "another size").unwrap();
        let (busy, source) = left(home.path(), "busy");
        std::fs::remove_file(source).unwrap();
        let lock = File::open(&busy).unwrap();
        lock.try_lock().unwrap();
        let damaged = home.path().join("put-damaged");
        std::fs::write(&damaged, b"\xff\n").unwrap();
        let tree = home.path().join("get-tree-1");
        std::fs::write(&tree, "a log\n").unwrap();
        let there = |now: SystemTime| {
            prune(home.path(), now);
            [&same, &busy, &tree, &gone, &changed, &damaged].map(|path| path.exists())
        };
        let now = SystemTime::now();
        assert_eq!(there(now), [true; 6]);
        assert_eq!(there(now + STALE - Duration::from_secs(60)), [true; 6]);
        let later = now + STALE + Duration::from_secs(60);
        assert_eq!(there(later), [true, true, true, false, false, false]);
        drop(lock);
        assert_eq!(there(later), [true, false, true, false, false, false]);
    }

    #[test]
    fn old_logs_of_trees_that_were_put_go_once_their_source_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let source = home.path().join("tree");
        std::fs::create_dir(&source).unwrap();
        let log = home.path().join("put-tree-1");
        std::fs::write(&log, [0; 64]).unwrap();
        let about = About {
            action: "put -r".to_owned(),
            server: String::new(),
            name: String::new(),
            path: source.clone().into(),
            part: None,
            directory: None,
        };
        partials::note(&log, &about, Durability::None).unwrap();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        prune(home.path(), later);
        assert!(log.exists());
        std::fs::remove_dir(source).unwrap();
        prune(home.path(), SystemTime::now());
        assert!(log.exists());
        prune(home.path(), later);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_state_is_looked_at_beside_others_who_only_look() {
        let home = tempfile::tempdir().unwrap();
        let (gone, source) = left(home.path(), "gone");
        std::fs::remove_file(source).unwrap();
        let looks = File::open(&gone).unwrap();
        looks.try_lock_shared().unwrap();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        assert!(is_stale(&gone, later).unwrap());
        assert!(hold_stale(&gone, later).unwrap().is_none(), "it is not removed under them");
        drop(looks);
        assert!(hold_stale(&gone, later).unwrap().is_some());
    }

    #[test]
    fn old_states_of_gets_go_once_their_part_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let subject = serde_json::to_string(&got()).unwrap() + "\n";
        let [kept, gone] = ["get-kept", "get-gone"].map(|name| home.path().join(name));
        for state in [&kept, &gone] {
            std::fs::write(state, &subject).unwrap();
            let part = state.with_extension("part");
            std::fs::write(&part, "some").unwrap();
            let about = About {
                action: partials::GET.to_owned(),
                server: String::new(),
                name: String::new(),
                path: OsString::new(),
                part: Some(part.into()),
                directory: None,
            };
            partials::note(state, &about, Durability::None).unwrap();
        }
        std::fs::remove_file(gone.with_extension("part")).unwrap();
        let now = SystemTime::now();
        prune(home.path(), now);
        assert!(kept.exists() && gone.exists());
        prune(home.path(), now + STALE + Duration::from_secs(60));
        assert!(kept.exists() && !gone.exists());
    }

    #[test]
    fn a_put_looks_at_a_bounded_number_of_old_states_and_gets_round_to_all() {
        let home = tempfile::tempdir().unwrap();
        let all = LOOKED_AT_MAX + 10;
        for number in 0..all {
            let (_, source) = left(home.path(), &number.to_string());
            std::fs::remove_file(source).unwrap();
        }
        let count = || std::fs::read_dir(home.path()).unwrap().count();
        let later = SystemTime::now() + STALE + Duration::from_secs(60);
        prune(home.path(), later);
        assert_eq!(count(), all - LOOKED_AT_MAX);
        prune(home.path(), later);
        assert_eq!(count(), 0);
    }
}
