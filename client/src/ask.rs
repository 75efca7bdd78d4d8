//! Questions, and changes of names: everything that brings no file. One connection for as many of
//! them as there are, with no round trip for each.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_protocol::client::Event;
use ftx_protocol::message::{Change, Entries, Info, List, Stat};
use ftx_protocol::{Depth, Durability, Name, Refusal, RequestId};

use crate::Client;
use crate::failure::{Failure, Trouble};
use crate::link::{Link, READ_BYTES};

/// Questions and gets under way at most, and the bytes of their lines: so few that the server has room for
/// them while it answers and sends, and this side never has to wait for that.
pub(crate) const ASKED_MAX: usize = 512;
pub(crate) const ASKED_BYTES: usize = 32 * 1024;

/// A question, or a change of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// What a name stands for.
    Stat(Stat),
    /// To change names.
    Change(Change),
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What a name stands for.
    Info(Info),
    /// Names were changed, and survive this.
    Changed(Durability),
}

impl Ask {
    /// For messages.
    fn what(&self) -> String {
        match self {
            Self::Stat(Stat { name, digest: None, .. }) => format!("stat {name}"),
            Self::Stat(Stat { name, .. }) => format!("sum {name}"),
            Self::Change(Change::Mkdir(mkdir)) => format!("mkdir {}", mkdir.name),
            Self::Change(Change::Move(moving)) => format!("mv {} {}", moving.name, moving.to),
            Self::Change(Change::Remove(remove)) => format!("rm {}", remove.name),
        }
    }

    fn line_bytes(&self) -> usize {
        const REST_BYTES: usize = 256;
        let (one, other) = match self {
            Self::Stat(stat) => (&stat.name, None),
            Self::Change(change) => change.names(),
        };
        let bytes = |name: &Name| Name::line_bytes(name.as_bytes());
        bytes(one).saturating_add(other.map_or(0, bytes)).saturating_add(REST_BYTES)
    }
}

impl Client {
    /// Opens a connection for questions.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn session(&self) -> Result<Session, Failure> {
        match self.link() {
            Ok(link) => Ok(Session { client: self.clone(), link, buffer: vec![0; READ_BYTES] }),
            Err(trouble) => Err(trouble.into_failure("connect", &self.server)),
        }
    }

    /// Asks what a name stands for.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn stat(&self, name: &Name) -> Result<Info, Failure> {
        self.session()?.stat(Stat::of(name.clone()))
    }

    /// Asks for a sign of life, and says how long it took once the connection stood.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn ping(&self) -> Result<Duration, Failure> {
        self.sign_of_life().map_err(|trouble| trouble.into_failure("ping", &self.server))
    }

    /// Makes sure that there is a server and that it lets this client in. A [`Keeper`](crate::Keeper)
    /// has the connection then: one on which the greeting is still to come would not be kept.
    ///
    /// # Errors
    /// When the server cannot be reached, or refuses.
    pub fn greet(&self) -> Result<(), Failure> {
        match self.sign_of_life() {
            Ok(_) => Ok(()),
            Err(trouble) => Err(trouble.into_failure("connect", &self.server)),
        }
    }

    pub(crate) fn sign_of_life(&self) -> Result<Duration, Trouble> {
        let link = self.link()?;
        let sent = Instant::now();
        link.send(|machine, out, now| machine.ping(out, now))?;
        let time = wait(&link, |event| matches!(event, Event::Pong(_)).then(|| sent.elapsed()))?;
        self.leave(&link);
        Ok(time)
    }
}

/// A connection for questions. One that has failed stays failed.
pub struct Session {
    client: Client,
    link: Arc<Link>,
    buffer: Vec<u8>,
}

impl Session {
    /// Asks what a name stands for.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub fn stat(&mut self, stat: Stat) -> Result<Info, Failure> {
        match self.ask(Ask::Stat(stat))? {
            Answer::Info(info) => Ok(info),
            Answer::Changed(_) => Err(self.nonsense("stat")),
        }
    }

    /// Changes names.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks: then they may have been changed.
    pub fn change(&mut self, change: Change) -> Result<Durability, Failure> {
        match self.ask(Ask::Change(change))? {
            Answer::Changed(durability) => Ok(durability),
            Answer::Info(_) => Err(self.nonsense("change")),
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, Failure> {
        let mut found = None;
        self.ask_all(&mut std::iter::once(((), ask)), &mut |(), answer| found = Some(answer))?;
        found.unwrap_or_else(|| Err(self.nonsense("ask")))
    }

    fn nonsense(&self, what: &str) -> Failure {
        Trouble::Broken("no answer came".to_owned()).into_failure(what, &self.client.server)
    }

    /// Asks many questions, each with something that tells it from the others. The answers come in
    /// any order.
    ///
    /// # Errors
    /// When the connection breaks. What is refused is an answer, and the rest goes on.
    pub fn ask_all<K>(
        &mut self,
        asks: &mut dyn Iterator<Item = (K, Ask)>,
        each: &mut dyn FnMut(K, Result<Answer, Failure>),
    ) -> Result<(), Failure> {
        let mut asked: BTreeMap<RequestId, (K, Ask)> = BTreeMap::new();
        let mut asked_bytes: usize = 0;
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            let mut lines = Vec::new();
            while asked.len() < ASKED_MAX
                && asked_bytes < ASKED_BYTES
                && let Some((key, ask)) = asks.next()
            {
                asked_bytes = asked_bytes.saturating_add(ask.line_bytes());
                let id = self.make(&ask, &mut lines);
                asked.insert(id, (key, ask));
            }
            if asked.is_empty() {
                break Ok(());
            }
            let (link, server) = (&self.link, &self.client.server);
            let heard = link.write(&lines).map_err(Trouble::from).and_then(|()| {
                link.receive(&mut buffer, &mut |event, _| {
                    let (id, answer) = match event {
                        Event::Info(info) => (info.id, Ok(Answer::Info(info))),
                        Event::Ok(okay) => {
                            let durability = okay.durability.unwrap_or(Durability::None);
                            (okay.id, Ok(Answer::Changed(durability)))
                        }
                        Event::Refused { id, refusal } => (id, Err(refusal)),
                        _ => return Ok(()),
                    };
                    let Some((key, ask)) = asked.remove(&id) else { return Ok(()) };
                    asked_bytes = asked_bytes.saturating_sub(ask.line_bytes());
                    let failed = |refusal: Refusal| {
                        Trouble::Refused(refusal).into_failure(&ask.what(), server)
                    };
                    each(key, answer.map_err(failed));
                    Ok(())
                })
            });
            if let Err(trouble) = heard {
                let what = asked.values().next().map_or_else(String::new, |(_, ask)| ask.what());
                break Err(trouble.into_failure(&what, &self.client.server));
            }
        };
        self.buffer = buffer;
        result
    }

    fn make(&self, ask: &Ask, lines: &mut Vec<u8>) -> RequestId {
        let now = self.link.now();
        match ask.clone() {
            Ask::Stat(stat) => self.link.machine().stat(stat, lines, now),
            Ask::Change(change) => self.link.machine().change(change, lines, now),
        }
    }

    /// Lists a directory; `None` is the root. Hands over what comes as it comes; a caller that
    /// breaks off ends the session.
    ///
    /// # Errors
    /// When the server refuses, or the connection breaks.
    pub fn list(
        &mut self,
        name: Option<&Name>,
        depth: Depth,
        each: &mut dyn FnMut(Entries) -> ControlFlow<()>,
    ) -> Result<(), Failure> {
        let what = name.map_or_else(|| "list".to_owned(), |name| format!("list {name}"));
        let list = List { id: RequestId(0), name: name.cloned(), depth, need: Vec::new() };
        let mut buffer = std::mem::take(&mut self.buffer);
        let link = &self.link;
        let listed =
            link.send(|machine, out, now| machine.list(list, out, now)).map_err(Trouble::from);
        let listed = listed.and_then(|id| {
            let mut over = ControlFlow::Continue(());
            let mut owed: u32 = 0;
            while over.is_continue() {
                link.receive(&mut buffer, &mut |event, _| {
                    match event {
                        Event::Entries(entries) => {
                            owed = owed.saturating_add(1);
                            if over.is_continue() {
                                over = each(entries);
                            }
                        }
                        Event::Ok(_) => over = ControlFlow::Break(()),
                        Event::Refused { refusal, .. } => return Err(Trouble::Refused(refusal)),
                        _ => {}
                    }
                    Ok(())
                })?;
                for _ in 0..std::mem::take(&mut owed) {
                    link.send(|machine, out, _| machine.more(id, out))?;
                }
            }
            Ok(())
        });
        self.buffer = buffer;
        listed.map_err(|trouble| trouble.into_failure(&what, &self.client.server))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.client.leave(&self.link);
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
