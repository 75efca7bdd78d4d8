//! Sockets that whoever started the server has bound for it, as systemd does: sd_listen_fds(3).

use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;

/// The sockets that were handed over, if any.
///
/// # Errors
/// When they are announced and not there, or are none of TCP.
pub fn handed_over() -> Result<Vec<OwnedFd>> {
    // Whoever has another number was only started by somebody for whom they were.
    if number("LISTEN_PID")? != Some(std::process::id()) || number("LISTEN_FDS")?.is_none() {
        return Ok(Vec::new());
    }
    let mut sockets = ListenFd::from_env();
    let taken = (0..sockets.len()).map(|at| sockets.take_tcp_listener(at));
    let taken =
        taken.filter_map(|socket| socket.map(|socket| socket.map(OwnedFd::from)).transpose());
    let taken: std::io::Result<_> = taken.collect();
    taken.context("cannot listen on a socket that was handed over (LISTEN_FDS)")
}

fn number(variable: &str) -> Result<Option<u32>> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    match value.to_str().and_then(|value| value.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => bail!("{variable} is {value:?}, and that is no number"),
    }
}
