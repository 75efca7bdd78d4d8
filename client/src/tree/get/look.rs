//! What a name on the server stands for, before anything is made here.

use ftx_protocol::client::Event;
use ftx_protocol::message::{Info, Stat};
use ftx_protocol::{Code, Kind, Name};

use super::{TreeNotice, TreeObserver};
use crate::Client;
use crate::ask::wait;
use crate::failure::{Failure, Trouble};
use crate::retry::Patience;

impl Client {
    pub(super) fn look_at_directory(
        &self,
        name: &Name,
        patience: &mut Patience,
        observer: &mut TreeObserver<'_>,
    ) -> Result<Info, Failure> {
        let info = self.look_first(&Stat::of(name.clone()), patience, observer)?;
        if info.kind != Kind::Directory {
            let failure = Trouble::Refused(Code::NotADirectory.into());
            return Err(failure.into_failure(&format!("get {name}"), &self.server));
        }
        Ok(info)
    }

    /// What a name stands for; tried again as all of the job is.
    pub(super) fn look_first(
        &self,
        stat: &Stat,
        patience: &mut Patience,
        observer: &mut TreeObserver<'_>,
    ) -> Result<Info, Failure> {
        loop {
            let looked = self.link().and_then(|link| {
                link.send(|machine, out, now| machine.stat(stat.clone(), out, now))?;
                let info = wait(&link, |event| match event {
                    Event::Info(info) => Some(info),
                    _ => None,
                })?;
                self.leave(&link);
                Ok(info)
            });
            let trouble = match looked {
                Ok(info) => return Ok(info),
                Err(trouble) => trouble,
            };
            let what = match trouble {
                Trouble::Unreachable(_) => "connect".to_owned(),
                _ => format!("stat {}", stat.name),
            };
            let tell = |cause, pause| observer(TreeNotice::Retrying { cause, pause });
            patience
                .again(trouble, &what, self, tell)
                .map_err(|trouble| trouble.into_failure(&what, &self.server))?;
        }
    }
}
