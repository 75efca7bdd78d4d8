//! Questions to the person at the terminal, whatever stdin and stdout are: one that is answered in
//! the open, and one whose answer is not shown.
//!
//! Ctrl-C ends a question at once, and never leaves a terminal behind that shows nothing; nor does
//! any other key, or a signal that ends a process in order.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ftx_client::Interrupt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, QueueSelector, SpecialCodeIndex, Termios, tcflush, tcgetattr,
    tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::flag::{register, register_conditional_default, register_usize};
use signal_hook::low_level::emulate_default_handler;

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
        let ends = Ends::put_off(&self.interrupted)?;
        let answer = Hidden::new(&self.tty).and_then(|_hidden| self.ask(question));
        ends.are_due()?;
        answer
    }
}

/// Signals that end the process, of which the first one waits until the terminal shows again what is typed.
struct Ends {
    due: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
}

impl Ends {
    /// From now on such a signal ends the question only.
    fn put_off(interrupted: &Arc<AtomicBool>) -> io::Result<Self> {
        let ends = Self { due: Arc::default(), came: Arc::default() };
        for signal in [SIGTERM, SIGHUP] {
            register_usize(signal, Arc::clone(&ends.came), signal.unsigned_abs() as usize)?;
            register(signal, Arc::clone(interrupted))?;
            register_conditional_default(signal, Arc::clone(&ends.due))?;
        }
        Ok(ends)
    }

    /// Ends the process if one has come. From now on they end it at once, as ever.
    fn are_due(self) -> io::Result<()> {
        self.due.store(true, Ordering::SeqCst);
        match i32::try_from(self.came.load(Ordering::SeqCst)) {
            Ok(signal @ 1..) => emulate_default_handler(signal),
            _ => Ok(()),
        }
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
