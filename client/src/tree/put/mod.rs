//! Putting trees: walk, compare, send, in one pass.

mod answers;
mod breaks;
mod extra;
mod sending;
mod walking;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use extra::Whole;
use ftx_disk::aligned::PageAligned;
use ftx_disk::identity::{Identity, Inode};
use ftx_disk::sys::{Disk, Native, Stat, Want};
use ftx_disk::walk::Walk;
use ftx_protocol::client::Event;
use ftx_protocol::limits::{PART_BYTES, UNKEPT_BYTES};
use ftx_protocol::message::{self, Mkdir};
use ftx_protocol::{Digest, Name, Refusal, RequestId, TransferId};
use walking::path_of;

use super::log::Log;
use super::pipe::{PIPE_REQUESTS_MAX, Pipe};
use super::remove::Removal;
use super::{Mood, TreeDone, TreeNotice, TreeObserver, TreeOptions, Update, mark, open_log};
use crate::Client;
use crate::failure::{Failure, Trouble, plain};
use crate::ids::Ids;
use crate::interrupt::Interrupt;
use crate::link::READ_BYTES;
use crate::partials::About;
use crate::retry::Patience;
use crate::source::Source;
use crate::spent::Spent;

/// What is to be put where.
pub struct PutTree<'a> {
    /// Files and directories, with the names that they get.
    pub sources: &'a mut dyn Iterator<Item = (PathBuf, Name)>,
    /// What tells this job from another one, so that the same one, given again, goes on: the
    /// sources and the names as the user gave them.
    pub job: &'a [u8],
    /// For whoever finds what it left: the sources, and where they go.
    pub about: (OsString, String),
    /// How.
    pub options: &'a TreeOptions,
}

impl Client {
    /// Puts files and trees, over one connection. Tries again, and goes on where it broke, as long
    /// as there is progress. What fails is told, and the rest goes on.
    ///
    /// # Errors
    /// When the server cannot be reached for too long, or does not keep to the protocol.
    pub fn put_tree<'a>(
        &'a self,
        tree: PutTree<'a>,
        observer: &'a mut TreeObserver<'_>,
    ) -> Result<TreeDone, Failure> {
        let (began, paced) = (Instant::now(), self.paced());
        let mut job = Job::new(self, tree, observer);
        let result = job.run();
        job.done.spent.wall = began.elapsed();
        job.done.spent.paced = self.paced().saturating_sub(paced);
        job.done.spent.add_part(Spent { pauses: job.patience.paused(), ..Spent::default() });
        job.close_log(&result);
        result.map(|()| job.done)
    }
}

/// Directories that are open for files under way: each costs a descriptor, of which there may be few.
const ROOTS_MAX: usize = 256;

/// A directory on this side, open, and the name that it has on the other one.
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) handle: OwnedFd,
    /// Counts it among those that are open.
    _open: Rc<()>,
}

/// A file that is to be put.
struct File {
    /// Files are numbered as they are found.
    number: u64,
    root: Rc<Root>,
    /// Below the root.
    path: Name,
    name: Name,
    stat: Stat,
    transfer: TransferId,
    /// What the server may have of it.
    sent: Sent,
    tries_left: u8,
    earlier: Earlier,
}

/// What the log says of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Earlier {
    Nothing,
    /// An earlier run has put it; whether the server still has it is asked.
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Some,
    /// All of it, and it has this digest.
    All(Digest),
}

/// A request under way, or to be made again.
enum Work {
    /// Whether the file has to be put is asked.
    Ask(File),
    /// What is held of it is asked.
    Resume(File),
    Put(File),
    /// Its name is taken, and it is refused so, unless what has the name is this very file.
    Find(Taken),
    /// Its body was closed with `abort`; it has been told.
    Aborted,
    Mkdir(Mkdir),
    Remove(message::Remove),
    List,
}

/// A file whose name is taken, perhaps by an earlier run that did not hear so.
struct Taken {
    file: File,
    failure: Failure,
}

/// A directory that was left: its time is set when everything asked before `barrier` is answered.
struct Left {
    barrier: u64,
    mkdir: Mkdir,
}

pub(super) struct Job<'a, 'o> {
    client: &'a Client,
    options: &'a TreeOptions,
    observer: &'a mut TreeObserver<'o>,
    sources: &'a mut dyn Iterator<Item = (PathBuf, Name)>,
    /// The tree that is being walked through.
    walk: Option<(Rc<Root>, Walk<Native>)>,
    /// The directory of the file that was named last: the next one is often in it too.
    above: Option<Rc<Root>>,
    /// Every root that is open has a share in it.
    open: Rc<()>,
    /// The trees of which everything was seen.
    walked: Vec<(PathBuf, Name)>,
    /// The same, open, for the removal of what they do not have.
    whole: Vec<Whole>,
    removal: Option<Removal>,
    /// Directories from which something is removed.
    emptied: BTreeMap<Name, Rc<Root>>,
    /// That of which all was listed, until all that it did not have is removed.
    listed: Option<Whole>,
    pipe: Option<Pipe>,
    under_way: BTreeMap<RequestId, Work>,
    unacknowledged_bytes: u64,
    /// To be made before anything new.
    again: VecDeque<Work>,
    /// Numbers of the files about which a question is not answered.
    asked: BTreeSet<u64>,
    next_number: u64,
    ids: Ids,
    left: VecDeque<Left>,
    /// Directories that could not be made, and whose time is still to come.
    unmade: BTreeSet<Name>,
    /// Those of them that nobody may make, and in which no file is known to be: a drop box makes what its files need.
    denied: BTreeMap<Name, Refusal>,
    log: Option<Log>,
    patience: Patience,
    buffer: PageAligned,
    done: TreeDone,
}

impl File {
    /// Opens the file that was seen, and no other one.
    fn open(&self, near: Option<&OwnedFd>) -> Result<Source, Failure> {
        let path = self.shown_path();
        let opened = match near {
            Some(directory) => Native.open_seen(directory, self.path.last_part()),
            None => Native.open_beneath(&self.root.handle, &self.path, Want::File),
        };
        let (handle, now) = opened
            .and_then(|handle| Native.stat(&handle).map(|stat| (handle, stat)))
            .map_err(|error| Failure::local("cannot read", &path, &error))?;
        let source = Source::of_file(handle.into(), &now, path);
        // The number of an inode may be given to something else at once.
        let is_seen = Inode::of(&now) == Inode::of(&self.stat) && now.kind == self.stat.kind;
        if !is_seen || now.size != self.stat.size {
            return Err(source.changed());
        }
        Ok(source)
    }

    fn shown_path(&self) -> PathBuf {
        self.root.path.join(path_of(self.path.as_bytes()))
    }

    fn digest(
        &self,
        algorithm: ftx_protocol::Algorithm,
        buffer: &mut [u8],
        interrupt: &Interrupt,
    ) -> Result<Digest, Trouble> {
        self.open(None)?.digest(self.stat.size, algorithm, buffer, interrupt)
    }

    fn mark(&self) -> super::log::Mark {
        mark_of(&self.name, &self.stat)
    }
}

fn mark_of(name: &Name, stat: &Stat) -> super::log::Mark {
    let version = Identity::of(stat).version();
    mark(name.as_bytes(), stat.size, stat.modified, version.as_str().as_bytes())
}

impl<'a, 'o> Job<'a, 'o> {
    fn new(client: &'a Client, tree: PutTree<'a>, observer: &'a mut TreeObserver<'o>) -> Self {
        let (path, name) = tree.about;
        let server = client.server.to_string();
        let (action, part, directory) = ("put -r".to_owned(), None, None);
        let about = About { action, server, name, path, part, directory };
        let log = match tree.options.mood {
            Mood::Do => {
                let opened = open_log("put", &client.server, tree.job, Some(about));
                let noted = opened.and_then(|mut log| {
                    log.as_mut().map_or(Ok(()), |log| log.note_asked(tree.options.durability))?;
                    Ok(log)
                });
                noted.unwrap_or_else(|error| {
                    let message =
                        format!("cannot keep a log for going on later: {}", plain(&error));
                    observer(TreeNotice::Warning(message));
                    None
                })
            }
            Mood::Tell => None,
        };
        Self {
            client,
            options: tree.options,
            observer,
            sources: tree.sources,
            walk: None,
            above: None,
            open: Rc::default(),
            walked: Vec::new(),
            whole: Vec::new(),
            removal: None,
            emptied: BTreeMap::new(),
            listed: None,
            pipe: None,
            under_way: BTreeMap::new(),
            unacknowledged_bytes: 0,
            again: VecDeque::new(),
            asked: BTreeSet::new(),
            next_number: 0,
            ids: Ids::default(),
            left: VecDeque::new(),
            unmade: BTreeSet::new(),
            denied: BTreeMap::new(),
            log,
            patience: Patience::new(client.retry),
            buffer: PageAligned::new(usize::try_from(PART_BYTES).unwrap_or(READ_BYTES)),
            done: TreeDone::default(),
        }
    }

    /// A job of which something is left keeps its log, or of which the server may have what it has not acknowledged: to
    /// this run, or to an earlier one.
    fn close_log(&mut self, result: &Result<(), Failure>) {
        let is_owed = self.again.iter().any(|work| matches!(work, Work::Resume(_)));
        let is_complete = result.is_ok() && self.done.failed == 0;
        if let Some(log) = self.log.take()
            && (is_complete || (log.is_empty() && !log.goes_on() && !is_owed))
        {
            log.remove();
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let trouble = match self.attempt() {
                Ok(()) => {
                    for (name, refusal) in std::mem::take(&mut self.denied) {
                        self.refuse(&name, refusal);
                    }
                    return Ok(());
                }
                Err(trouble) => trouble,
            };
            self.hear_last();
            self.take_back();
            let tell = |cause, pause| (self.observer)(TreeNotice::Retrying { cause, pause });
            self.patience
                .again(trouble, "put", self.client, tell)
                .map_err(|trouble| trouble.into_failure("put", &self.client.server))?;
        }
    }

    /// One connection, or what is left of one.
    fn attempt(&mut self) -> Result<(), Trouble> {
        loop {
            self.client.interrupt.check()?;
            while let Some(event) = self.try_hear()? {
                self.heard(event)?;
            }
            self.leave_directories();
            if self.is_full() {
                self.wait()?;
            } else if let Some(work) = self.again.pop_front() {
                self.start(work)?;
            } else if self.has_many_roots() && !self.under_way.is_empty() {
                self.wait()?;
            } else if self.walk_on_timed()? || self.remove_on()? {
                // There is more.
            } else if self.under_way.is_empty() && self.left.is_empty() && self.again.is_empty() {
                return Ok(());
            } else {
                self.wait()?;
            }
        }
    }

    /// The directory of a file, if the walk is still in it: then the file was seen a moment ago.
    fn near(&self, file: &File) -> Option<&OwnedFd> {
        let (root, walk) = self.walk.as_ref()?;
        let mut parts = file.path.parts();
        let is_near = Rc::ptr_eq(root, &file.root)
            && self.options.update == Update::All
            && file.earlier == Earlier::Nothing
            && walk.way().all(|part| parts.next() == Some(part))
            && parts.count() == 1;
        walk.directory().filter(|_| is_near).map(|directory| &**directory)
    }

    fn try_hear(&mut self) -> Result<Option<Event>, Trouble> {
        let Some(pipe) = &mut self.pipe else { return Ok(None) };
        match pipe.try_hear() {
            // A server waits only so long while this side reads a large file, or sends one by a way
            // of its own. Nothing is lost with it, and the next request opens another one.
            Err(Trouble::Broken(_) | Trouble::Refused(_)) if self.under_way.is_empty() => {
                self.pipe = None;
                Ok(None)
            }
            heard => heard,
        }
    }

    fn wait(&mut self) -> Result<(), Trouble> {
        (self.observer)(TreeNotice::Waiting);
        let began = Instant::now();
        let event = self.pipe()?.hear()?;
        self.waited_since(began);
        self.heard(event)
    }

    fn waited_since(&mut self, began: Instant) {
        let waiting = &mut self.done.spent.waiting;
        *waiting = waiting.saturating_add(began.elapsed());
    }

    fn walk_on_timed(&mut self) -> Result<bool, Trouble> {
        let began = Instant::now();
        let walked = self.walk_on();
        let disk = &mut self.done.spent.disk;
        *disk = disk.saturating_add(began.elapsed());
        walked
    }

    /// Whether something has to be answered before more is asked. Never where there is nothing to wait for.
    fn is_full(&self) -> bool {
        if self.under_way.is_empty() {
            return false;
        }
        self.under_way.len().saturating_add(self.left.len()) >= PIPE_REQUESTS_MAX
            || self.unacknowledged_bytes >= UNKEPT_BYTES
    }

    /// Whether so many directories are open for what is under way that no more should be.
    fn has_many_roots(&self) -> bool {
        let open = Rc::strong_count(&self.open).saturating_sub(1);
        open.saturating_sub(self.whole.len()) >= ROOTS_MAX
    }

    fn pipe(&mut self) -> Result<&mut Pipe, Trouble> {
        if self.pipe.is_none() {
            self.pipe = Some(Pipe::open(self.client)?);
            self.done.connections = self.done.connections.saturating_add(1);
        }
        self.pipe.as_mut().ok_or_else(|| Trouble::Broken("no connection".to_owned()))
    }

    fn fail(&mut self, name: &[u8], failure: &Failure) {
        self.done.count_failure(failure);
        (self.observer)(TreeNotice::Failed { name, failure });
    }

    fn fail_path(&mut self, path: &Path, failure: &Failure) {
        use std::os::unix::ffi::OsStrExt;
        self.fail(path.as_os_str().as_bytes(), failure);
    }

    fn skip(&mut self, name: &[u8], why: &'static str) {
        self.done.skipped = self.done.skipped.saturating_add(1);
        (self.observer)(TreeNotice::Skipped { name, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Class;
    use crate::retry::Retry;
    use ftx_protocol::Kind;

    /// It asks no server, and so hears of nothing.
    #[test]
    fn a_job_that_only_tells_is_interrupted_too() {
        let dir = tempfile::tempdir().unwrap();
        for part in ["a", "b", "c"] {
            std::fs::write(dir.path().join(part), "x").unwrap();
        }
        let interrupt = Interrupt::default();
        let client = Client::new("127.0.0.1:1".parse().unwrap(), Retry::default())
            .with_interrupt(interrupt.clone());
        let options = TreeOptions { mood: Mood::Tell, ..TreeOptions::default() };
        let source = (dir.path().to_owned(), Name::parse(b"tree").unwrap());
        let tree = PutTree {
            sources: &mut std::iter::once(source),
            job: b"",
            about: Default::default(),
            options: &options,
        };
        let mut told = 0;
        let result = client.put_tree(tree, &mut |notice| {
            if matches!(notice, TreeNotice::File { .. }) {
                told += 1;
                interrupt.flag().store(true, std::sync::atomic::Ordering::Release);
            }
        });
        assert_eq!(result.unwrap_err().class, Class::Interrupted);
        assert_eq!(told, 1);
    }

    #[test]
    fn a_fifo_in_the_place_of_a_file_is_not_waited_for_and_is_no_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo").arg(dir.path().join("f")).status().unwrap();
        assert!(made.success());
        let handle = Native.open_root(dir.path()).unwrap();
        let near = Native.open_root(dir.path()).unwrap();
        let name = Name::parse(b"f").unwrap();
        // With the number that an empty file had when it was seen.
        let stat = Native.stat_part(&handle, b"f").unwrap();
        assert_eq!(stat.kind, Kind::Special);
        let file = File {
            number: 0,
            root: Rc::new(Root {
                path: dir.path().to_owned(),
                handle,
                name: name.clone(),
                _open: Rc::default(),
            }),
            path: name.clone(),
            name,
            stat: Stat { kind: Kind::File, ..stat },
            transfer: TransferId([0; 16]),
            sent: Sent::Nothing,
            tries_left: 0,
            earlier: Earlier::Nothing,
        };
        for near in [None, Some(&near)] {
            let failure = file.open(near).err().unwrap();
            assert!(failure.to_string().contains("changed while it was read"), "{failure}");
        }
    }
}
