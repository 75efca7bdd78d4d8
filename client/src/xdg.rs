//! Where this user's side of ftx keeps what it remembers, by the XDG base directories.

use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// `$XDG_STATE_HOME/ftx`, else `~/.local/state/ftx`, made if it is not there; for its user only.
///
/// # Errors
/// When nothing says where it is, or it cannot be made.
pub fn prepared_state_directory() -> io::Result<PathBuf> {
    let directory = state_directory().ok_or_else(|| {
        io::Error::new(ErrorKind::NotFound, "neither XDG_STATE_HOME nor HOME is set")
    })?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    Ok(directory)
}

/// `$XDG_STATE_HOME/ftx`, else `~/.local/state/ftx`: where this user's side of ftx keeps what it remembers. `None` where
/// neither says where.
pub fn state_directory() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("ftx"))
}
