//! A single file among the names of a job: whether it has to be fetched at all.

use std::path::Path;

use ftx_disk::aligned::PageAligned;
use ftx_protocol::Name;
use ftx_protocol::message::{Info, Stat};

use super::GetTree;
use crate::failure::{Failure, Trouble};
use crate::link::READ_BYTES;
use crate::retry::Patience;
use crate::source::Source;
use crate::tree::{TreeObserver, Update, same_time};
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
    /// Looks what a job has to do for a name that turned out to be a file, whose target is a path here. Tries again as
    /// the job does.
    ///
    /// # Errors
    /// When the server cannot be reached for too long, or refuses.
    pub fn look_at_file(
        &self,
        name: &Name,
        tree: &GetTree<'_>,
        observer: &mut TreeObserver<'_>,
    ) -> Result<Single, Failure> {
        let options = tree.options;
        let digest = (options.update == Update::Digest).then_some(options.algorithm);
        let stat = Stat { digest, ..Stat::of(name.clone()) };
        let info = self.look_first(&stat, &mut Patience::new(self.retry), observer)?;
        let is_here = match options.update {
            Update::All => false,
            Update::SizeAndTime => source(tree.target, &info)
                .and_then(|source| source.modified())
                .is_some_and(|modified| same_time(modified, info.mtime)),
            Update::Digest => match source(tree.target, &info).map(|source| {
                let mut buffer = PageAligned::new(READ_BYTES);
                source.digest(info.size, options.algorithm, &mut buffer, &self.interrupt)
            }) {
                Some(Ok(ours)) => info.digest == Some(ours),
                Some(Err(trouble @ Trouble::Interrupted)) => {
                    let what = format!("get {name}");
                    return Err(trouble.into_failure(&what, &self.server));
                }
                Some(Err(_)) | None => false,
            },
        };
        Ok(if is_here { Single::Unchanged } else { Single::Fetch { bytes: info.size } })
    }
}

/// The file here, if it is one of the same size. One that cannot be read is replaced, and that says why.
fn source(path: &Path, info: &Info) -> Option<Source> {
    let may_be = info.kind == Kind::File && std::fs::symlink_metadata(path).ok()?.is_file();
    let source = may_be.then(|| Source::open(path).ok()).flatten()?;
    (source.size() == Some(info.size)).then_some(source)
}
