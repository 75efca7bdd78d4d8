//! Small questions: stat and ping.

use std::time::{Duration, Instant};

use ftx_protocol::Name;
use ftx_protocol::client::Event;
use ftx_protocol::message::{Info, Stat};

use crate::Client;
use crate::failure::{Failure, Trouble};
use crate::link::{Link, READ_BYTES};

impl Client {
    /// Asks what a name stands for.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn stat(&self, name: &Name) -> Result<Info, Failure> {
        let asked = Link::open(&self.server).and_then(|link| {
            let stat = Stat::of(name.clone());
            link.send(|machine, out, now| machine.stat(stat, out, now))?;
            wait(&link, |event| match event {
                Event::Info(info) => Some(info),
                _ => None,
            })
        });
        asked.map_err(|trouble| trouble.into_failure(&format!("stat {name}"), &self.server))
    }

    /// Asks for a sign of life, and says how long it took once the connection stood.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn ping(&self) -> Result<Duration, Failure> {
        let asked = Link::open(&self.server).and_then(|link| {
            let sent = Instant::now();
            link.send(|machine, out, now| machine.ping(out, now))?;
            wait(&link, |event| matches!(event, Event::Pong(_)).then(|| sent.elapsed()))
        });
        asked.map_err(|trouble| trouble.into_failure("ping", &self.server))
    }
}

/// Reads until the answer has come.
pub(crate) fn wait<T>(link: &Link, answer: impl Fn(Event) -> Option<T>) -> Result<T, Trouble> {
    let mut buffer = vec![0; READ_BYTES];
    let mut found = None;
    loop {
        link.receive(&mut buffer, &mut |event, _| match event {
            Event::Refused { refusal, .. } => Err(Trouble::Refused(refusal)),
            event => {
                found = found.take().or_else(|| answer(event));
                Ok(())
            }
        })?;
        if let Some(found) = found.take() {
            return Ok(found);
        }
    }
}
