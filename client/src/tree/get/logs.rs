//! What a job keeps on disk beside the target, and how the same command finds it again.

use std::fs::DirEntry;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use ftx_disk::store::PRIVATE;
use ftx_protocol::{Durability, Name};

use super::ground::{Complete, Ground, Names, OURS, Target, marker, private_in};
use super::versions::Versions;
use super::{GetTree, Job, bytes_of, called};
use crate::Client;
use crate::failure::plain;
use crate::partials::{self, About, about_of};
use crate::tree::folds::Folds;
use crate::tree::log::Log;
use crate::tree::{Extra, Mood, TreeNotice, TreeObserver, Update, log_path, open_log};

impl Client {
    /// Whether an earlier job that got this tree into this directory was interrupted: then the same
    /// command goes on there, though the directory is there by now.
    pub fn was_getting(&self, name: Option<&Name>, target: &Path) -> Interrupted {
        let found = std::fs::read(private_in(target).join(OURS));
        let goes_on = found.is_ok_and(|found| found == marker(self, name));
        // What came whole left nothing there; but then there is the log. By now somebody may have made another
        // directory in the place of the one that it is about, and keep something else in it.
        let logged = || {
            let log = log_path("get", &self.server, &key(name, target));
            let log = log.ok().filter(|log| log.exists());
            let noted = log.and_then(|log| about_of(&log)).map(|about| about.directory);
            match (noted, directory_at(target)) {
                // Some file systems number their directories anew whenever they are mounted.
                (Some(Some((_, Some(then)))), Some((_, Some(now)))) => then == now,
                (Some(Some((then, _))), Some((now, _))) => then == now,
                (Some(None), Some(_)) => is_just_made(target),
                (None, _) | (_, None) => false,
            }
        };
        match goes_on || logged() {
            true => Interrupted::Yes,
            false => Interrupted::No,
        }
    }
}

/// A log for what the server has; what an earlier run left in it may not be there any more.
fn open_seen(client: &Client, key: &[u8]) -> Result<Log, String> {
    let open = || open_log("seen", &client.server, key, None).map_err(|error| plain(&error));
    open()?.into_iter().for_each(Log::remove);
    open()?.ok_or_else(|| "another process gets the same".to_owned())
}

/// For the user: a list of what the server has is not kept.
pub(super) fn nothing_goes(cause: &str) -> String {
    format!("cannot note what the server has: {cause}; nothing will be removed here")
}

/// What tells this job from another one.
fn key(name: Option<&Name>, target: &Path) -> Vec<u8> {
    [bytes_of(name), b"\0", target.as_os_str().as_encoded_bytes()].concat()
}

/// What tells a directory from another one at the same path. Where a disk does not say when it was made, its number
/// has to do.
fn directory_at(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.created().ok()))
}

/// Whether a directory is as one that a job was about to make, and came no further.
fn is_just_made(path: &Path) -> bool {
    let is_private = |entry: DirEntry| entry.file_name().as_bytes() == PRIVATE;
    std::fs::read_dir(path)
        .is_ok_and(|mut entries| entries.all(|entry| entry.is_ok_and(is_private)))
}

/// A job, noted before anything is made for it: so the same command knows what it has made as its own, however far it came.
pub(super) struct Noted {
    log: Option<Log>,
    about: About,
    /// What an earlier run has noted.
    before: Option<About>,
    durability: Durability,
}

impl Noted {
    pub(super) fn begin(
        client: &Client,
        tree: &GetTree<'_>,
        observer: &mut TreeObserver<'_>,
    ) -> Self {
        let target = std::path::absolute(tree.target).unwrap_or_else(|_| tree.target.to_owned());
        let opened = open_log("get", &client.server, &key(tree.name, tree.target), None);
        let log = told(opened, observer);
        let before = log.as_ref().and_then(|log| about_of(log.path()));
        let was_to_be_made = before.as_ref().is_some_and(|before| before.directory.is_none());
        let about = About {
            action: "get -r".to_owned(),
            server: client.server.to_string(),
            name: called(tree.name),
            // Whose that is, is looked at when it matters.
            part: Some(private_in(&target).into_os_string()),
            directory: directory_at(&target).filter(|_| !was_to_be_made || !is_just_made(&target)),
            path: target.into_os_string(),
        };
        let noted = Self { log, about, before, durability: tree.options.durability };
        let durability = match noted.target() {
            Target::Gone => noted.durability,
            Target::There => Durability::None,
        };
        noted.note(durability, observer);
        noted
    }

    /// What the target is before this job, or was before an earlier run of it that came no further than to make it.
    pub(super) fn target(&self) -> Target {
        match self.about.directory {
            Some(_) => Target::There,
            None => Target::Gone,
        }
    }

    /// The target is made.
    pub(super) fn made(mut self, observer: &mut TreeObserver<'_>) -> Option<Log> {
        let directory = directory_at(Path::new(&self.about.path));
        if self.about.directory != directory {
            self.about.directory = directory;
            self.note(self.durability, observer);
        }
        self.log
    }

    /// Nothing was made.
    pub(super) fn take_back(mut self, observer: &mut TreeObserver<'_>) {
        match self.before.take() {
            Some(before) => {
                self.about = before;
                self.note(Durability::None, observer);
            }
            None => self.log.into_iter().for_each(Log::remove),
        }
    }

    fn note(&self, durability: Durability, observer: &mut TreeObserver<'_>) {
        if let Some(log) = &self.log
            && let Err(error) = partials::note(log.path(), &self.about, durability)
        {
            observer(cannot_keep(&error));
        }
    }
}

/// A log that there may be.
fn told(opened: io::Result<Option<Log>>, observer: &mut TreeObserver<'_>) -> Option<Log> {
    opened.unwrap_or_else(|error| {
        observer(cannot_keep(&error));
        None
    })
}

fn cannot_keep(error: &io::Error) -> TreeNotice<'static> {
    TreeNotice::Warning(format!("cannot keep a log for going on later: {}", plain(error)))
}

/// See [`Client::was_getting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// It was.
    Yes,
    /// There is nothing to go on with.
    No,
}

/// What a job keeps on disk.
pub(super) struct Logs {
    /// What it has done.
    pub(super) log: Option<Log>,
    /// What the server has, for the removal of everything else.
    pub(super) seen: Option<Log>,
    /// What was listed, where the disk takes some of it for one.
    pub(super) folds: Option<Folds>,
    pub(super) versions: Versions,
}

impl Logs {
    pub(super) fn open(
        client: &Client,
        tree: &GetTree<'_>,
        ground: &Ground,
        log: Option<Log>,
        observer: &mut TreeObserver<'_>,
    ) -> Self {
        let key = key(tree.name, tree.target);
        let seen = match tree.options.extra {
            Extra::Remove => open_seen(client, &key)
                .inspect_err(|cause| observer(TreeNotice::Warning(nothing_goes(cause))))
                .ok(),
            Extra::Keep => None,
        };
        let log = match (log, tree.options.update) {
            // Whose bytes are to be compared is not taken on the word of an earlier run.
            (Some(log), Update::Digest) => told(log.cleared().map(Some), observer),
            (log, _) => log,
        };
        let mut open = |what: &str| told(open_log(what, &client.server, &key, None), observer);
        let folds = match ground.names {
            Names::Folded => {
                // What an earlier run left is not looked at.
                open("folds").into_iter().for_each(Log::remove);
                open("folds").map(Folds::new)
            }
            Names::Distinct => None,
        };
        let versions = match tree.options.mood {
            Mood::Do => Versions::open(&client.server, &key),
            Mood::Tell => Versions::none(),
        };
        Self { log, seen, folds, versions }
    }
}

impl Job<'_, '_> {
    /// Ends it. Its log is still there, also an empty one: it tells the same command that the target, which is there by
    /// now, is its own.
    pub(super) fn close(mut self, complete: Complete) -> Option<Log> {
        if let Some(seen) = self.seen.take() {
            seen.remove();
        }
        if let Some(folds) = self.folds.take() {
            folds.remove();
        }
        if complete == Complete::Yes {
            self.versions.remove();
        }
        self.log.take()
    }
}
