//! The signals that a server takes: to stop, and to read a certificate anew.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use ftx::server::Stopper;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::identity::{Kept, Reloaded};

/// What there is of SIGHUP before somebody hears it.
pub struct HeldBack {
    came: Arc<AtomicBool>,
    /// Whether there was a terminal at first: one that is gone says that it is none.
    had_terminal: bool,
}

/// Notes a SIGHUP that comes before there is somebody to hear it: as soon as the process is there, its service counts
/// as started, and may be told to read its certificate anew.
pub fn hold_sighup() -> Result<HeldBack> {
    let came = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, Arc::clone(&came)).context("cannot take signals")?;
    Ok(HeldBack { came, had_terminal: io::stderr().is_terminal() })
}

/// The first SIGTERM or SIGINT stops the server in order, the second at once. SIGHUP brings a renewed
/// certificate; if it came because the terminal is gone, it is as SIGTERM.
pub fn take_signals(stopper: Stopper, kept: Option<Kept>, held_back: &HeldBack) -> Result<()> {
    /// As a shell says it of a program that SIGINT ended.
    const QUIT: i32 = 130;
    enum Stage {
        Serving,
        Stopping,
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot take signals")?;
    let had_terminal = held_back.had_terminal;
    if held_back.came.load(Ordering::Relaxed) {
        signal_hook::low_level::raise(SIGHUP).context("cannot take signals")?;
    }
    let listen = move || {
        let mut stage = Stage::Serving;
        for signal in signals.forever() {
            let hung_up = had_terminal && !io::stderr().is_terminal();
            stage = match stage {
                stage if signal == SIGHUP && !hung_up => {
                    reload(kept.as_ref());
                    stage
                }
                Stage::Serving => {
                    stopper.stop();
                    Stage::Stopping
                }
                Stage::Stopping => std::process::exit(QUIT),
            };
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listen)
        .context("cannot start a thread")?;
    Ok(())
}

fn reload(kept: Option<&Kept>) {
    match kept.map(Kept::reload) {
        None => tracing::info!("SIGHUP: there is no certificate to read anew"),
        Some(Ok(Reloaded::SameKey(key))) => tracing::info!(%key, "read the certificate anew"),
        Some(Ok(Reloaded::OtherKey(key))) => {
            tracing::warn!(%key, "read the certificate anew, and the key is another one now");
        }
        Some(Err(error)) => {
            tracing::error!("cannot read the certificate anew, the one before stays: {error:#}");
        }
    }
}
