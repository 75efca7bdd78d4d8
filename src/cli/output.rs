//! Where the content of a get goes: into a file, into a device, or to standard output; and standard input, for a put.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use ftx_client::{Class, Failure, Sink};
use ftx_disk::sys::LINKS_MAX;
use rustix::fs::OFlags;

/// What takes the content that goes to a path: a file is replaced when all of it is there; a device,
/// a pipe or a socket is written into.
///
/// # Errors
/// Of class `Local`, when a device or the like cannot be opened.
pub fn sink(path: PathBuf) -> Result<Sink, Failure> {
    let special = std::fs::metadata(&path).is_ok_and(|metadata| is_special(&metadata));
    if !special && !leads_to_the_system(&path) {
        return Ok(Sink::File(path));
    }
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(&path)
        .map_err(|error| Failure::local("cannot write", &path, &error))?;
    Ok(Sink::Stream(Box::new(file)))
}

/// Standard output, for content: without the buffer that std puts before it.
///
/// # Errors
/// Of class `Local`, when it is closed.
pub fn stdout() -> Result<File, Failure> {
    open_stdout(
        "cannot write standard output: it is closed; to keep nothing of the content, say -o /dev/null",
    )
}

/// Looks whether standard output can have what is said only once.
///
/// # Errors
/// Of class `Local`, when it is closed.
pub fn check_stdout() -> Result<(), Failure> {
    open_stdout("cannot write standard output: it is closed").map(drop)
}

fn open_stdout(closed: &str) -> Result<File, Failure> {
    let failed = |error: std::io::Error| {
        Failure::local("cannot write", Path::new("standard output"), &error)
    };
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(failed)?;
    match stands_for_a_closed_one(&stdout) {
        true => Err(Failure::new(Class::Local, closed)),
        false => Ok(stdout),
    }
}

/// Standard input, for content: without the buffer that std puts before it.
///
/// # Errors
/// Of class `Local`, when it is closed: an empty file would take the place of whatever has the name.
pub fn stdin() -> Result<File, Failure> {
    let failed =
        |error: std::io::Error| Failure::local("cannot read", Path::new("standard input"), &error);
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().map(File::from).map_err(failed)?;
    match stands_for_a_closed_one(&stdin) {
        true => Err(Failure::new(
            Class::Local,
            "cannot read standard input: it is closed; to put an empty file, say < /dev/null",
        )),
        false => Ok(stdin),
    }
}

/// Whether a path is another word for standard output, such as /dev/stdout.
pub fn is_stdout(path: &Path) -> bool {
    leads_to_the_system(path) && is_same_file(path, Path::new("/dev/fd/1"))
}

/// Whether a word for something to read is standard input: `-`, or a path such as /dev/stdin.
pub fn is_stdin(path: &Path) -> bool {
    let by_path = || leads_to_the_system(path) && is_same_file(path, Path::new("/dev/fd/0"));
    path.as_os_str() == "-" || by_path()
}

fn is_same_file(path: &Path, other: &Path) -> bool {
    let file =
        |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    file(path).is_some() && file(path) == file(other)
}

pub fn is_directory(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Whether a path is a device, or a symlink that leads to where the system keeps its own: such a
/// thing is written into, never replaced.
fn leads_to_the_system(path: &Path) -> bool {
    let mut here = path.to_owned();
    for _ in 0..LINKS_MAX {
        // What is in memory there is as ordinary as a file elsewhere.
        let is_device = here.starts_with("/dev") && !here.starts_with("/dev/shm");
        if is_device || here.starts_with("/proc") || here.starts_with("/sys") {
            return true;
        }
        let Ok(target) = std::fs::read_link(&here) else { return false };
        here = here.parent().unwrap_or(Path::new("")).join(target);
    }
    false
}

fn is_special(metadata: &std::fs::Metadata) -> bool {
    let kind = metadata.file_type();
    kind.is_fifo() || kind.is_char_device() || kind.is_block_device() || kind.is_socket()
}

/// Before main, std opens the null device for reading and writing where a standard descriptor is
/// closed, so that no file takes its number; what is written there would be lost without a word, and what is read
/// there is nothing. A caller who hands over just this is taken for one who closed it: that cannot be told apart.
fn stands_for_a_closed_one(standard: &File) -> bool {
    let null = std::fs::metadata("/dev/null").map(|null| null.rdev());
    let is_null = standard.metadata().is_ok_and(|metadata| {
        metadata.file_type().is_char_device() && null.is_ok_and(|null| null == metadata.rdev())
    });
    is_null && rustix::fs::fcntl_getfl(standard).is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_stdout_is_told_from_one_that_was_sent_to_the_null_device() {
        let null = |options: &mut std::fs::OpenOptions| options.open("/dev/null").unwrap();
        let mut both = std::fs::OpenOptions::new();
        assert!(stands_for_a_closed_one(&null(both.read(true).write(true))));
        assert!(!stands_for_a_closed_one(&null(std::fs::OpenOptions::new().write(true))));
        assert!(!stands_for_a_closed_one(&tempfile::tempfile().unwrap()));
    }

    #[test]
    fn devices_are_written_into_and_files_in_shared_memory_are_files() {
        for path in ["/dev/null", "/dev/stdout", "/proc/self/fd/1", "/sys/x"] {
            assert!(leads_to_the_system(Path::new(path)), "{path}");
        }
        for path in ["/dev/shm/new", "new", "/tmp/new"] {
            assert!(!leads_to_the_system(Path::new(path)), "{path}");
        }
    }
}
