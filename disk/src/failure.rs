//! The one place where an error of the operating system becomes a code that a peer can be told, or words for a
//! person.

use std::io;

use ftx_protocol::{Code, Refusal};
use rustix::io::Errno;
use thiserror::Error;

/// Others changed a directory while its names were read, so that some may be missing.
#[derive(Debug, Error)]
#[error("it was changed meanwhile, so that names of it may be missing")]
pub(crate) struct ChangedMeanwhile;

/// What the failed call was for. The same error number means different things for a name that a
/// peer asked for and for the store's own files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Looking up what a peer named.
    Name,
    /// Giving a file the name that a peer asked for, or making its directories.
    Naming,
    /// Writing the bytes of a put, or making room for them.
    Bytes,
    /// The store's own files.
    Store,
    /// Making something durable: whatever the reason, it is not (rule 6.4).
    Sync,
}

/// The refusal for a failed call. `step` says what was being done, in words that show no path.
pub(crate) fn refusal(cause: Cause, step: &str, error: &io::Error) -> Refusal {
    match code(cause, error) {
        // The system's words ("cross-device link") are about something else.
        code @ Code::OutsideRoot => code.into(),
        code => Refusal::new(code, format!("{step}: {}", plain(error))),
    }
}

fn code(cause: Cause, error: &io::Error) -> Code {
    let Some(errno) = Errno::from_io_error(error) else {
        return match error.get_ref() {
            Some(error) if error.is::<ChangedMeanwhile>() => Code::Changed,
            _ => Code::StorageFailed,
        };
    };
    match errno {
        _ if cause == Cause::Sync => Code::StorageFailed,
        Errno::NOSPC | Errno::DQUOT => Code::NoSpace,
        Errno::FBIG => Code::TooLarge,
        // Out of descriptors: the next moment may have some.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => Code::Busy,
        _ if matches!(cause, Cause::Store | Cause::Bytes) => Code::StorageFailed,
        Errno::ROFS => Code::ReadOnly,
        Errno::ACCESS | Errno::PERM => Code::PermissionDenied,
        // What had the name when it was seen has it no more.
        Errno::NOENT | Errno::STALE => Code::NotFound,
        Errno::NOTDIR => Code::NotADirectory,
        Errno::ISDIR => Code::IsDirectory,
        Errno::MLINK if cause == Cause::Naming => Code::NoSpace,
        Errno::LOOP | Errno::XDEV | Errno::MLINK => Code::OutsideRoot,
        Errno::NXIO | Errno::NODEV => Code::NotAFile,
        Errno::NOTEMPTY => Code::NotEmpty,
        // Something is mounted there.
        Errno::BUSY => Code::OtherFilesystem,
        Errno::NAMETOOLONG | Errno::INVAL | Errno::ILSEQ => Code::UnstorableName,
        _ => Code::StorageFailed,
    }
}

/// The system's words, without the number that std adds.
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It may go before a call, or, where others serve the same files, under what is open. Of the store's own files
    /// neither may happen.
    #[test]
    fn what_has_gone_is_not_found_if_a_peer_named_it() {
        for errno in [Errno::NOENT, Errno::STALE] {
            let code = |cause| code(cause, &errno.into());
            assert_eq!([Cause::Name, Cause::Naming].map(code), [Code::NotFound; 2]);
            let own = [Cause::Bytes, Cause::Store, Cause::Sync];
            assert_eq!(own.map(code), [Code::StorageFailed; 3]);
        }
    }

    #[test]
    fn a_directory_that_others_change_is_no_fault_of_the_disk() {
        let refusal = refusal(Cause::Name, "reading", &io::Error::other(ChangedMeanwhile));
        assert_eq!(refusal.code, Code::Changed);
    }
}
