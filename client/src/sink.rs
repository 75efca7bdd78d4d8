//! Where the bytes of a get go: to a file, which takes its name when it is whole, or to a stream.

use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ftx_disk::landing::{Gap, Landing, Replace};
use ftx_disk::sys::Native;
use ftx_protocol::Durability;
use ftx_protocol::message::File;

use crate::failure::{Class, Failure, plain, shown};

pub(crate) use ftx_disk::landing::{is_part_name, remove_left};

/// Where the bytes go.
pub enum Sink {
    /// To a file that takes its name only when it is whole.
    File(PathBuf),
    /// To a stream (standard output, a FIFO, a device), as they come. They are verified at the end.
    Stream(Box<dyn Write>),
}

impl Sink {
    /// Refuses what could not be replaced, before anything is asked of the server.
    pub(crate) fn check(&self, replace: Replace) -> Result<(), Failure> {
        let Self::File(path) = self else { return Ok(()) };
        let refused = |why: &str| Err(Failure::new(Class::Local, format!("{} {why}", shown(path))));
        match std::fs::symlink_metadata(path) {
            Ok(_) if replace == Replace::No => refused("is there already; it was left as it is"),
            Ok(metadata) if metadata.is_dir() => {
                refused("is a directory here; say -r to get one, or -o PATH to get a file")
            }
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => {
                refused("is a device or FIFO, and is not replaced")
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Failure::local("cannot write", path, &error)),
        }
    }

    /// Gets ready for the first byte. With a number the name of the part file follows from it, so
    /// that one which a killed run left before it could say so is found and replaced. Where another user, say,
    /// has the same transfer under way, the name is another one.
    pub(crate) fn land(&self, size: u64, number: Option<u64>) -> Result<Landed, Failure> {
        let Self::File(path) = self else { return Ok(Landed::Stream { written: 0 }) };
        let failed = |error: &io::Error| Failure::local("cannot write", path, error);
        let create = |number| Landing::create(Native, directory(path), number);
        let create_apart = || create(getrandom::u64()?);
        let created = match number.map(create) {
            None => create_apart(),
            Some(Err(error)) if error.kind() == ErrorKind::WouldBlock => create_apart(),
            Some(created) => created,
        };
        let landing = created.map_err(|error| failed(&error))?;
        match landing.reserve(size) {
            Ok(()) => Ok(Landed::File(landing)),
            Err(error) => {
                landing.discard();
                Err(failed(&error))
            }
        }
    }
}

/// Where the bytes are, so far.
pub(crate) enum Landed {
    /// Nowhere: nothing has arrived.
    Nothing,
    File(Landing<Native>),
    Stream {
        written: u64,
    },
}

impl Landed {
    pub(crate) fn written(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::File(landing) => landing.written(),
            Self::Stream { written } => *written,
        }
    }

    pub(crate) fn write(&mut self, sink: &mut Sink, bytes: &[u8]) -> Result<(), Failure> {
        match (self, sink) {
            (Self::File(landing), Sink::File(path)) => {
                landing.write(bytes).map_err(|error| Failure::local("cannot write", path, &error))
            }
            (Self::Stream { written }, Sink::Stream(stream)) => {
                stream.write_all(bytes).map_err(|error| stream_failure(&error))?;
                *written = written.saturating_add(bytes.len() as u64);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A gap for the next `size` bytes, for another thread to write them. None where they have to be
    /// written here.
    pub(crate) fn leave(&mut self, size: usize) -> Option<Gap<Native>> {
        match self {
            Self::File(landing) => Some(landing.leave(size as u64)),
            Self::Nothing | Self::Stream { .. } => None,
        }
    }

    /// All is here and verified: a file takes its name.
    pub(crate) fn finish(
        self,
        sink: &mut Sink,
        file: Option<&File>,
        replace: Replace,
        durability: Durability,
    ) -> Result<(), Failure> {
        match (self, sink, file) {
            (Self::File(landing), Sink::File(path), Some(file)) => landing
                .publish(
                    path.file_name().unwrap_or_default().as_bytes(),
                    file.mode,
                    file.mtime,
                    replace,
                    durability,
                )
                .map_err(|error| Failure::local("cannot store", path, &error)),
            (_, Sink::Stream(stream), _) => stream.flush().map_err(|error| stream_failure(&error)),
            _ => Ok(()),
        }
    }

    /// Nothing stays of a file. What was written to a stream cannot be taken back.
    pub(crate) fn discard(&mut self) {
        if let Self::File(landing) = std::mem::replace(self, Self::Nothing) {
            landing.discard();
        }
    }
}

fn stream_failure(error: &io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::BrokenPipe => "its reader closed it before the end".to_owned(),
        _ => plain(error),
    };
    Failure::new(Class::Local, format!("cannot write the output: {why}"))
}

/// The directory that a path is in.
pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_get_the_same_to_the_same_place_have_a_part_file_each() {
        let home = tempfile::tempdir().unwrap();
        let sink = Sink::File(home.path().join("a"));
        let land = || match sink.land(1, Some(7)).unwrap() {
            Landed::File(landing) => landing,
            Landed::Nothing | Landed::Stream { .. } => panic!("a file lands in a file"),
        };
        let (first, second) = (land(), land());
        assert!(is_part_name(second.part()) && first.part() != second.part());
        let parts = [first.part(), second.part()].map(|part| home.path().join(part).exists());
        assert_eq!(parts, [true, true]);
    }

    #[test]
    fn an_output_whose_reader_has_enough_is_a_local_failure_that_says_so() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut sink = Sink::Stream(Box::new(writer));
        let mut landed = sink.land(1, None).unwrap();
        let failure = landed.write(&mut sink, b"x").unwrap_err();
        assert_eq!(failure.class, Class::Local);
        assert_eq!(
            failure.to_string(),
            "cannot write the output: its reader closed it before the end"
        );
    }
}
