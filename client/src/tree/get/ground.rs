//! The target: a store for it, what it was before, and what is left of the job when it ends.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ftx_disk::store::{self, PRIVATE, Store};
use ftx_disk::sys::{Native, sync_above};
use ftx_protocol::{Durability, Name};

use super::{GetTree, bytes_of, left};
use crate::Client;
use crate::failure::{Class, Failure};
use crate::tree::folds::folds_case;

/// The target, open.
pub(super) struct Ground {
    pub(super) path: PathBuf,
    /// `None` where there is nothing yet and nothing is to be done.
    pub(super) store: Option<Arc<Store<Native>>>,
    pub(super) private: Private,
    parts: Parts,
    pub(super) target: Target,
    /// Whether its disk takes `A` and `a` for one.
    pub(super) names: Names,
}

/// See [`crate::tree::folds`].
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Distinct,
    Folded,
}

/// What the target was before this job, or is after it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Nothing.
    Gone,
    There,
}

/// Whether a job has done all that it was to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Complete {
    Yes,
    No,
}

/// Whose the store's own directory in the target is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Private {
    /// This job made it, or an earlier one that was interrupted.
    Ours,
    /// It is that of a server.
    Theirs,
}

/// Whose it may be what the store holds of files that have not come whole.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    OfThisJob,
    /// It was interrupted, and comes back for them: another job in this directory, or this one with all files.
    PerhapsOfAnother,
}

impl Ground {
    pub(super) fn prepare(
        client: &Client,
        tree: &GetTree<'_>,
        before: Target,
    ) -> Result<Self, Failure> {
        let path = tree.target;
        let target = match std::fs::create_dir(path) {
            Ok(()) => Target::Gone,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if !path.is_dir() {
                    let shown = crate::failure::shown(path);
                    let message =
                        format!("{shown} is no directory; a tree comes under another name with -o");
                    return Err(Failure::new(Class::Local, message));
                }
                before
            }
            Err(error) => return Err(Failure::local("cannot write", path, &error)),
        };
        let private = match private_in(path).symlink_metadata() {
            Ok(_) => Target::There,
            Err(_) => Target::Gone,
        };
        Self::settle_on(client, tree, target).inspect_err(|_| {
            if private == Target::Gone {
                left::take_back(&private_in(path));
            }
            if target == Target::Gone {
                // One that is not empty is somebody else's by now.
                let _ = std::fs::remove_dir(path);
            }
        })
    }

    fn settle_on(client: &Client, tree: &GetTree<'_>, target: Target) -> Result<Self, Failure> {
        let path = tree.target;
        let failed = |error: &io::Error| Failure::local("cannot write", path, error);
        if target == Target::Gone && tree.options.durability > Durability::None {
            sync_above(path).map_err(|error| failed(&error))?;
        }
        let store = open_store(path, store::Access::ReadWrite)?;
        let mine = private_in(path).join(OURS);
        let (found, whose) = (std::fs::read(&mine).ok(), marker(client, tree.name));
        let is_blank = store.is_blank();
        if is_blank {
            std::fs::write(&mine, &whose).map_err(|error| failed(&error))?;
        }
        let private = match (is_blank, &found) {
            (true, _) | (_, Some(_)) => Private::Ours,
            (false, None) => Private::Theirs,
        };
        let parts = match is_blank || found.is_some_and(|found| found == whose) {
            true if tree.options.rules.is_empty() => Parts::OfThisJob,
            _ => Parts::PerhapsOfAnother,
        };
        let names = match folds_case(path, OsStr::from_bytes(PRIVATE)) {
            true => Names::Folded,
            false => Names::Distinct,
        };
        Ok(Self {
            path: path.to_owned(),
            store: Some(Arc::new(store)),
            private,
            parts,
            target,
            names,
        })
    }

    pub(super) fn look(path: &Path) -> Result<Self, Failure> {
        let store = match path.is_dir() {
            true => Some(Arc::new(open_store(path, store::Access::ReadOnly)?)),
            false => None,
        };
        let (private, parts) = (Private::Theirs, Parts::PerhapsOfAnother);
        let (target, names) = (Target::There, Names::Distinct);
        Ok(Self { path: path.to_owned(), store, private, parts, target, names })
    }

    /// Takes the store's own directory away again, unless something is left to go on with; and the
    /// target, if it was made for nothing: the same command has to find what this one found. That of an empty
    /// directory is what was asked for.
    pub(super) fn leave(self, complete: Complete) -> Target {
        if self.private == Private::Ours
            && let Some(store) = self.store
            && let Ok(store) = Arc::try_unwrap(store)
        {
            if complete == Complete::Yes && self.parts == Parts::OfThisJob {
                // Nobody comes back for the first bytes of a file that has changed since, or that was asked for
                // in another way.
                store.forget_all();
            }
            store.sweep_trash(&|| true);
            // What stays is hidden, and is taken up by the next job here.
            let _ = store.retire(&[OURS.as_bytes()]);
        }
        match (self.target, complete) {
            // One that is not empty stays.
            (Target::Gone, Complete::No) if std::fs::remove_dir(&self.path).is_ok() => Target::Gone,
            _ => Target::There,
        }
    }
}

/// The store's own directory in a target, which goes when the job is complete.
pub(super) fn private_in(target: &Path) -> PathBuf {
    target.join(OsStr::from_bytes(PRIVATE))
}

/// Says that the store's own directory was made by a client, and for what.
pub(super) const OURS: &str = "get";

pub(super) fn marker(client: &Client, name: Option<&Name>) -> Vec<u8> {
    [client.server.to_string().as_bytes(), b"\n", bytes_of(name)].concat()
}

fn open_store(path: &Path, access: store::Access) -> Result<Store<Native>, Failure> {
    let options = store::Options {
        access,
        durability: Durability::Full,
        memory: store::Memory::Nothing,
        size_max_bytes: u64::MAX,
        free_min_bytes: 0,
    };
    Store::open(Native, path, options).map(|(store, _)| store).map_err(|error| {
        let path = crate::failure::shown(path);
        let text = match error {
            store::OpenError::Locked => {
                format!("{path} is being written to by another ftx, a server or a get")
            }
            error => format!("cannot write to {path}: {error}"),
        };
        Failure::new(Class::Local, text)
    })
}
