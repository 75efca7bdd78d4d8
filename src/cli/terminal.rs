//! Questions to the person at the terminal, whatever stdin and stdout are: one that is answered in
//! the open, and one whose answer is not shown.
//!
//! Ctrl-C ends a question at once, and never leaves a terminal behind that shows nothing; nor does
//! any other key.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ftx_client::Interrupt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush, tcgetattr,
    tcsetattr,
};

/// What a terminal gives as one line at most.
const LINE_BYTES_MAX: usize = 4_096;

/// How often a question looks whether it was interrupted by something else than a signal to this
/// thread.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// In the place of a key: there is none.
const NO_KEY: u8 = if cfg!(target_os = "linux") { 0 } else { 0xff };

pub struct Terminal {
    tty: File,
    interrupted: Arc<AtomicBool>,
}

impl Terminal {
    /// The terminal of this process, if it has one.
    pub fn open(interrupt: &Interrupt) -> Option<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok()?;
        Some(Self { tty, interrupted: interrupt.flag() })
    }

    /// Asks, and returns the line that was typed, without its end; nothing at the end of input. What was typed before is
    /// thrown away: it answers something else.
    ///
    /// # Errors
    /// Those of the terminal; of kind `Interrupted` when the person wants it to end.
    pub fn ask(&self, question: &str) -> io::Result<String> {
        tcflush(&self.tty, QueueSelector::IFlush)?;
        (&self.tty).write_all(question.as_bytes())?;
        let mut line = Vec::new();
        let mut room = [0; LINE_BYTES_MAX];
        while !line.ends_with(b"\n") && line.len() < LINE_BYTES_MAX {
            if self.interrupted.load(Ordering::Acquire) {
                let _ = (&self.tty).write_all(b"\n");
                return Err(ErrorKind::Interrupted.into());
            }
            match poll(&mut [PollFd::new(&self.tty, PollFlags::IN)], Some(&LOOK)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            match (&self.tty).read(&mut room) {
                Ok(0) => break,
                Ok(count) => line.extend_from_slice(room.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let line = String::from_utf8(line).map_err(|_| ErrorKind::InvalidData)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The same, and what is typed is not shown.
    ///
    /// # Errors
    /// As those of [`Terminal::ask`]; and nothing is asked where it would be shown.
    pub fn ask_secretly(&self, question: &str) -> io::Result<String> {
        let _hidden = Hidden::new(&self.tty)?;
        self.ask(question)
    }
}

/// A terminal that does not show what is typed, but for the end of the line. Shows it again when
/// dropped.
struct Hidden<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    fn new(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        hidden.local_modes.insert(LocalModes::ICANON | LocalModes::ECHONL | LocalModes::ISIG);
        // Whoever quits or is stopped cannot show it again. Ctrl-C stays.
        for key in [SpecialCodeIndex::VQUIT, SpecialCodeIndex::VSUSP] {
            hidden.special_codes[key] = NO_KEY;
        }
        tcsetattr(tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing anyway.
        let _ = tcsetattr(self.tty, OptionalActions::Now, &self.before);
    }
}
