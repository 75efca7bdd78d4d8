//! A single file among the names of a job: whether it has to be fetched at all.

use std::path::Path;

use ftx_disk::hash::Running;
use ftx_protocol::message::{Info, Stat};
use ftx_protocol::{Algorithm, Digest};

use super::GetTree;
use crate::failure::Failure;
use crate::link::READ_BYTES;
use crate::source::Source;
use crate::tree::{Update, same_time};
use crate::{Client, Kind};

/// What a job has to do for a single file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Single {
    /// Nothing: it is here as it should be.
    Unchanged,
    /// To fetch it.
    Fetch {
        /// Bytes that the server says it has.
        bytes: u64,
    },
}

impl Client {
    /// Looks what a job has to do for a name that is a file, whose target is a path here.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn look_at_file(&self, tree: &GetTree<'_>) -> Result<Single, Failure> {
        let options = tree.options;
        let digest = (options.update == Update::Digest).then_some(options.algorithm);
        let info = self.session()?.stat(Stat { digest, ..Stat::of(tree.name.clone()) })?;
        let is_here = match options.update {
            Update::All => false,
            Update::SizeAndTime => source(tree.target, &info)
                .and_then(|source| source.modified())
                .is_some_and(|modified| same_time(modified, info.mtime)),
            Update::Digest => source(tree.target, &info)
                .and_then(|source| digest_of(source, info.size, options.algorithm))
                .is_some_and(|ours| info.digest == Some(ours)),
        };
        Ok(if is_here { Single::Unchanged } else { Single::Fetch { bytes: info.size } })
    }
}

/// The file here, if it is one of the same size. One that cannot be read is replaced, and that says why.
fn source(path: &Path, info: &Info) -> Option<Source> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    let may_be = info.kind == Kind::File && metadata.is_file() && metadata.len() == info.size;
    may_be.then(|| Source::open(path).ok()).flatten()
}

fn digest_of(mut source: Source, size: u64, algorithm: Algorithm) -> Option<Digest> {
    let mut running = Running::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    while running.offset() < size {
        let left = usize::try_from(size.saturating_sub(running.offset())).unwrap_or(usize::MAX);
        let room = buffer.get_mut(..left.min(READ_BYTES))?;
        running.update(source.read_full(room, running.offset()).ok()?);
    }
    source.check_unchanged().ok()?;
    Some(running.digest())
}
