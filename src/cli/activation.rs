//! Sockets that whoever started the server has bound for it, as systemd does: sd_listen_fds(3).

use std::os::fd::OwnedFd;

use anyhow::Result;

/// The sockets that were handed over, if any.
///
/// # Errors
/// When they are announced and not there.
#[cfg(target_os = "linux")]
pub fn handed_over() -> Result<Vec<OwnedFd>> {
    use anyhow::Context;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    /// The descriptor of the first; the others follow.
    const FIRST: i32 = 3;

    // Whoever has another number was only started by somebody for whom they were.
    let own = getpid();
    if number("LISTEN_PID")? != Some(own.as_raw_pid()) {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS")?.unwrap_or(0);
    let missing = "cannot take over the sockets that LISTEN_FDS announces";
    // To take a descriptor by its number is unsafe, to ask for a second one for the same is not. The
    // first stays open beside it, and is not heard of again.
    let own = pidfd_open(own, PidfdFlags::empty()).context(missing)?;
    (FIRST..FIRST.saturating_add(count))
        .map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).context(missing))
        .collect()
}

#[cfg(not(target_os = "linux"))]
pub fn handed_over() -> Result<Vec<OwnedFd>> {
    Ok(Vec::new())
}

#[cfg(target_os = "linux")]
fn number(variable: &str) -> Result<Option<i32>> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let number = value.to_str().and_then(|value| value.parse().ok()).filter(|&number| number >= 0);
    match number {
        Some(number) => Ok(Some(number)),
        None => anyhow::bail!("{variable} is {value:?}, and that is no number"),
    }
}
