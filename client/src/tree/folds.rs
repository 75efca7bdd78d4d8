//! Names that a disk takes for one, because it does not tell `A` from `a`: the second one would
//! silently take the place of the first.
//!
//! A disk may take more for one than is known here (`ß` and `ss`, composed and decomposed accents);
//! what it does is found out from it, which names collide is only computed.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::log::{Log, Mark};
use super::mark;
use ftx_protocol::{FileTime, Name};

/// What a job has come upon in one tree.
pub(super) struct Folds {
    names: Log,
}

/// Whether a name can be told from those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    Yes,
    /// Another one is the same here, or is that of a directory above it.
    No,
}

/// Whether a disk tells `A` from `a` in this directory, which has something called `part`.
pub(super) fn folds_case(directory: &Path, part: &OsStr) -> bool {
    let [one, other] = [part.to_owned(), part.to_ascii_uppercase()]
        .map(|part| directory.join(part).symlink_metadata().ok());
    match (one, other) {
        (Some(one), Some(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

impl Folds {
    /// Wants an empty log: what an earlier run came upon may have other names by now.
    pub(super) fn new(names: Log) -> Self {
        Self { names }
    }

    /// Notes a name. A directory comes before what is in it. May come again.
    pub(super) fn note(&mut self, path: &Name) -> std::io::Result<Apart> {
        let inside = match path.parent() {
            Some(parent) => self.is_apart(&parent)?,
            None => true,
        };
        let apart = inside && self.is_apart(path)?;
        self.names.add(&folded(path))?;
        if apart {
            self.names.add(&exact(path))?;
            return Ok(Apart::Yes);
        }
        Ok(Apart::No)
    }

    fn is_apart(&self, path: &Name) -> std::io::Result<bool> {
        Ok(self.names.has(&exact(path))? || !self.names.has(&folded(path))?)
    }

    pub(super) fn remove(self) {
        self.names.remove();
    }
}

fn exact(path: &Name) -> Mark {
    mark(path.as_bytes(), 0, FileTime::nearest(0, 0), b"exact")
}

fn folded(path: &Name) -> Mark {
    let lower = match std::str::from_utf8(path.as_bytes()) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => path.as_bytes().to_ascii_lowercase(),
    };
    mark(&lower, 0, FileTime::nearest(0, 0), b"folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_of_two_names_collides_with_all_that_is_below_it_and_the_first_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("log")).unwrap().unwrap();
        let mut folds = Folds::new(log);
        let mut told = |name: &str| folds.note(&Name::parse(name.as_bytes()).unwrap()).unwrap();
        for name in ["Docs", "Docs/a", "b", "Docs/deep", "Docs/deep/x", "\u{c4}", "Docs/a", "Docs"]
        {
            assert_eq!(told(name), Apart::Yes, "{name}");
        }
        for name in
            ["docs", "docs/new", "docs/deep", "docs/deep/y", "B", "\u{e4}", "Docs/A", "docs"]
        {
            assert_eq!(told(name), Apart::No, "{name}");
        }
        assert_eq!(told("Docs/deep/z"), Apart::Yes);
        folds.remove();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_that_tells_names_apart_does_so_though_both_are_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "").unwrap();
        if std::fs::exists(dir.path().join("A")).unwrap() {
            return assert!(folds_case(dir.path(), OsStr::new("a")));
        }
        assert!(!folds_case(dir.path(), OsStr::new("a")));
        std::fs::write(dir.path().join("A"), "").unwrap();
        assert!(!folds_case(dir.path(), OsStr::new("a")));
    }
}
