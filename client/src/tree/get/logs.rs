//! What a job keeps on disk beside the target, and how the same command finds it again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use ftx_protocol::Name;

use super::ground::{Ground, Names, OURS, Private, marker, private_in};
use super::versions::Versions;
use super::{GetTree, Job};
use crate::Client;
use crate::failure::{Failure, plain};
use crate::partials::{About, about_of};
use crate::tree::folds::Folds;
use crate::tree::log::Log;
use crate::tree::{Extra, Mood, TreeNotice, TreeObserver, Update, log_path, open_log};

impl Client {
    /// Whether an earlier job that got this tree into this directory was interrupted: then the same
    /// command goes on there, though the directory is there by now.
    pub fn was_getting(&self, name: &Name, target: &Path) -> Interrupted {
        let found = std::fs::read(private_in(target).join(OURS));
        let goes_on = found.is_ok_and(|found| found == marker(self, name));
        // What came whole left nothing there; but then there is the log. By now somebody may have made another
        // directory in the place of the one that it is about, and keep something else in it.
        let logged = || {
            let log = log_path("get", &self.server, &key(name, target));
            let log = log.ok().filter(|log| log.exists());
            let noted = log.and_then(|log| about_of(&log)?.directory);
            match (noted, directory_at(target)) {
                // Some file systems number their directories anew whenever they are mounted.
                (Some((_, Some(then))), Some((_, Some(now)))) => then == now,
                (Some((then, _)), Some((now, _))) => then == now,
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
fn key(name: &Name, target: &Path) -> Vec<u8> {
    [name.as_bytes(), b"\0", target.as_os_str().as_encoded_bytes()].concat()
}

/// What tells a directory from another one at the same path. Where a disk does not say when it was made, its number
/// has to do.
fn directory_at(path: &Path) -> Option<(u64, Option<SystemTime>)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.created().ok()))
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
        observer: &mut TreeObserver<'_>,
    ) -> Self {
        let key = key(tree.name, tree.target);
        let target = std::path::absolute(tree.target).unwrap_or_else(|_| tree.target.to_owned());
        let about = About {
            action: "get -r".to_owned(),
            server: client.server.to_string(),
            name: tree.name.to_string(),
            part: match ground.private {
                Private::Ours => Some(private_in(&target).into_os_string()),
                Private::Theirs => None,
            },
            directory: directory_at(&target),
            path: target.into_os_string(),
        };
        let seen = match tree.options.extra {
            Extra::Remove => open_seen(client, &key)
                .inspect_err(|cause| observer(TreeNotice::Warning(nothing_goes(cause))))
                .ok(),
            Extra::Keep => None,
        };
        let mut open = |what: &str, about: Option<About>| {
            open_log(what, &client.server, &key, about).unwrap_or_else(|error| {
                let message = format!("cannot keep a log for going on later: {}", plain(&error));
                observer(TreeNotice::Warning(message));
                None
            })
        };
        let log = match (tree.options.mood, tree.options.update) {
            (Mood::Do, Update::Digest) => {
                // Whose bytes are to be compared is not taken on the word of an earlier run.
                open("get", None).into_iter().for_each(Log::remove);
                open("get", Some(about))
            }
            (Mood::Do, Update::All | Update::SizeAndTime) => open("get", Some(about)),
            (Mood::Tell, _) => None,
        };
        let folds = match ground.names {
            Names::Folded => {
                // What an earlier run left is not looked at.
                open("folds", None).into_iter().for_each(Log::remove);
                open("folds", None).map(Folds::new)
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
    /// A job of which something is left keeps its log, also an empty one: it tells the same command
    /// that the target, which is there by now, is its own.
    pub(super) fn close(mut self, result: &Result<(), Failure>) -> Option<Log> {
        if let Some(seen) = self.seen.take() {
            seen.remove();
        }
        if let Some(folds) = self.folds.take() {
            folds.remove();
        }
        if result.is_err() || self.done.failed > 0 {
            return self.log.take();
        }
        if let Some(log) = self.log.take() {
            log.remove();
        }
        self.versions.remove();
        None
    }
}
