//! Trees: many files in one job, over one connection, with no round trip for each.
//!
//! ```text
//!   rules   which files take part
//!   log     what the job has done, on disk
//!   pipe    a connection on which many requests are under way
//!   put     walk, compare, send
//!   remove  what the source does not have
//!   get     list, compare, receive
//!   settle  what arrived is made durable, in groups
//!   folds   names that a disk takes for one
//! ```
//!
//! A file of 8 MiB or more goes as [`Client::put`](crate::Client::put) would send it, on a
//! connection of its own, so that it resumes in its middle.

mod folds;
mod get;
mod log;
mod pipe;
mod put;
mod remove;
mod rules;
mod settle;

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use ftx_protocol::client::Violation;
use ftx_protocol::{Algorithm, Digest, Durability, FileTime};
use sha2::{Digest as _, Sha256};

use crate::Spent;
use crate::address::ServerAddress;
use crate::failure::{Failure, Trouble};
use crate::partials::{self, About};
use crate::short_hash::{hash_of, shortened};
use crate::xdg;
use log::{Log, Mark};

pub use get::{GetTree, Interrupted, Single};
pub(crate) use get::{Private, left};
pub use put::PutTree;
pub use rules::{Rule, Rules};

/// Which files are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Update {
    /// All.
    #[default]
    All,
    /// Those whose size or time of last modification differs.
    SizeAndTime,
    /// Those whose bytes differ.
    Digest,
}

/// What becomes of files that the source does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Extra {
    /// They stay.
    #[default]
    Keep,
    /// They are removed, unless they are excluded.
    Remove,
}

/// Whether anything is done at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mood {
    /// It is.
    #[default]
    Do,
    /// It is only said what would be.
    Tell,
}

/// How a tree is moved.
#[derive(Debug, Clone, Default)]
pub struct TreeOptions {
    /// How digests are computed.
    pub algorithm: Algorithm,
    /// What it has to mean that a file is done, at whichever side it is written.
    pub durability: Durability,
    /// Which files are moved.
    pub update: Update,
    /// What becomes of files that the source does not have.
    pub extra: Extra,
    /// When a file may take its name.
    pub condition: ftx_protocol::Condition,
    /// Whether anything is done.
    pub mood: Mood,
    /// Which files take part.
    pub rules: Rules,
}

/// What a job has to say while it runs. Names are those at the receiver.
#[derive(Debug)]
pub enum TreeNotice<'a> {
    /// A file was found that takes part.
    Found {
        /// Its bytes.
        bytes: u64,
    },
    /// No more will be found. It may be said again.
    FoundAll,
    /// Bytes of files were moved.
    Moved {
        /// How many.
        bytes: u64,
        /// Of which file.
        name: &'a [u8],
    },
    /// A file is at the receiver, verified and durable; or would be.
    File {
        /// Its name.
        name: &'a [u8],
        /// The name under which the receiver has it, if it is another one than was asked for.
        stored_as: Option<&'a ftx_protocol::Name>,
        /// Its bytes.
        bytes: u64,
        /// Equal on both sides; `None` where nothing is done.
        digest: Option<Digest>,
    },
    /// A file is there already, as it should be.
    Unchanged {
        /// Its name.
        name: &'a [u8],
    },
    /// Something that is no file or directory, or that may not be moved, was passed over.
    Skipped {
        /// Its name.
        name: &'a [u8],
        /// What it is.
        why: &'static str,
    },
    /// Something that the source does not have was removed; or would be.
    Removed {
        /// Its name.
        name: &'a [u8],
    },
    /// Something failed, and the job goes on with the rest.
    Failed {
        /// Its name.
        name: &'a [u8],
        /// Why.
        failure: &'a Failure,
    },
    /// The connection broke, or the server asked to come again.
    Retrying {
        /// What happened.
        cause: String,
        /// How long it waits.
        pause: std::time::Duration,
    },
    /// Something that does not stop the job, and that a person should know.
    Warning(String),
    /// Nothing more is known until the other side, or the disk, says something. What was held back is to
    /// be shown.
    Waiting,
}

/// Where notices go.
pub type TreeObserver<'a> = dyn FnMut(TreeNotice<'_>) + 'a;

/// What a job has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TreeDone {
    /// Files that were moved, or would be.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Files that were there already, as they should be.
    pub unchanged: u64,
    /// Files that an earlier run of this job had moved.
    pub done_before: u64,
    /// Symlinks, devices and the like that were passed over.
    pub skipped: u64,
    /// Names that were removed, or would be.
    pub removed: u64,
    /// What failed.
    pub failed: u64,
    /// The first thing that failed.
    pub first_failure: Option<crate::Class>,
    /// Connections that were made for the job itself.
    pub connections: u64,
    /// Where the time went.
    pub spent: Spent,
}

impl TreeDone {
    /// What both jobs have done.
    pub fn and(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
            unchanged: self.unchanged.saturating_add(other.unchanged),
            done_before: self.done_before.saturating_add(other.done_before),
            skipped: self.skipped.saturating_add(other.skipped),
            removed: self.removed.saturating_add(other.removed),
            failed: self.failed.saturating_add(other.failed),
            first_failure: self.first_failure.or(other.first_failure),
            connections: self.connections.saturating_add(other.connections),
            spent: self.spent.and(other.spent),
        }
    }

    /// One more that failed.
    pub fn count_failure(&mut self, failure: &Failure) {
        self.failed = self.failed.saturating_add(1);
        self.first_failure.get_or_insert(failure.class);
    }
}

/// Opens the log of a job. `None` when another process works on the same one: then this one does
/// all of it.
fn open_log(
    direction: &str,
    server: &ServerAddress,
    job: &[u8],
    about: Option<About>,
) -> std::io::Result<Option<Log>> {
    let path = log_path(direction, server, job)?;
    let log = Log::open(&path)?;
    if let (Some(_), Some(about)) = (&log, about) {
        partials::note(&path, &about, Durability::None)?;
    }
    Ok(log)
}

/// Where the log of a job is.
fn log_path(direction: &str, server: &ServerAddress, job: &[u8]) -> std::io::Result<PathBuf> {
    state_path(&format!("{direction}-tree"), server, job)
}

/// A file for what a job has to remember over the end of the process.
fn state_path(kind: &str, server: &ServerAddress, job: &[u8]) -> std::io::Result<PathBuf> {
    let directory = xdg::prepared_state_directory()?;
    let here = std::env::current_dir()?;
    let (server, here) = (server.to_string(), here.as_os_str().as_encoded_bytes());
    let hash = hash_of(&[server.as_bytes(), here, job]);
    Ok(directory.join(format!("{kind}-{}", HEXLOWER.encode(&hash))))
}

/// Removes what a get of a tree keeps beside its log, which it is over with.
pub(crate) fn forget_beside(log: &Path) {
    let name = log.file_name().and_then(|name| name.to_str());
    let Some(digits) = name.and_then(|name| name.strip_prefix("get-tree-")) else { return };
    for kind in ["versions", "seen-tree", "folds-tree"] {
        // One that stays costs room, and is not believed.
        let _ = std::fs::remove_file(log.with_file_name(format!("{kind}-{digits}")));
    }
}

/// A server that goes on with a list unasked would fill this side's memory.
fn listed_too_much() -> Trouble {
    Trouble::Violation(Violation::Contradiction {
        got: "entries",
        why: "more of them than were asked for",
    })
}

/// What stands for one version of one file in a log.
fn mark(path: &[u8], size: u64, modified: FileTime, version: &[u8]) -> Mark {
    let mut hash = Sha256::new();
    hash.update((path.len() as u64).to_le_bytes());
    hash.update(path);
    hash.update(size.to_le_bytes());
    hash.update(modified.seconds().to_le_bytes());
    hash.update(modified.nanoseconds().to_le_bytes());
    hash.update(version);
    shortened(hash)
}

/// Whether a file may still have the time that one side has given the other: FAT keeps every other second.
fn about_same_time(one: FileTime, other: FileTime) -> bool {
    one.seconds().abs_diff(other.seconds()) < 2
}

/// Whether two times are the same at the precision of the coarser one: a file system that keeps
/// whole seconds, say, gives back no more of what it was given.
fn same_time(one: FileTime, other: FileTime) -> bool {
    if one.seconds() != other.seconds() {
        return false;
    }
    let precision = |nanoseconds: u32| {
        (0..=9).rev().map(|power| 10_u32.pow(power)).find(|step| nanoseconds.is_multiple_of(*step))
    };
    let step = [one, other].map(|time| precision(time.nanoseconds()).unwrap_or(1));
    let coarse = step.into_iter().max().unwrap_or(1);
    one.nanoseconds() / coarse == other.nanoseconds() / coarse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_an_earlier_version_says_what_it_said() {
        let mark = mark(b"a/b", 5, FileTime::new(7, 9).unwrap(), b"v");
        assert_eq!(u128::from_be_bytes(mark), 0x296e_0c78_d69a_2e98_7073_cc0c_4b0a_1cf1);
    }

    #[test]
    fn times_are_compared_at_the_precision_of_the_coarser_side() {
        let time = |nanoseconds| FileTime::new(7, nanoseconds).unwrap();
        assert!(same_time(time(123_456_789), time(123_456_789)));
        assert!(same_time(time(123_456_789), time(123_456_000)));
        assert!(same_time(time(123_456_789), time(0)));
        assert!(!same_time(time(123_456_789), time(123_457_000)));
        assert!(!same_time(time(123_456_789), time(123_456_788)));
        assert!(!same_time(time(0), FileTime::new(8, 0).unwrap()));
    }
}
