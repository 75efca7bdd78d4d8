//! Putting trees: walk, compare, send, in one pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ftx_disk::hash::Running;
use ftx_disk::identity::{Identity, Inode};
use ftx_disk::sys::{Disk, FileKind, Native, Stat, Want};
use ftx_disk::walk::{Step, Walk};
use ftx_protocol::client::Event;
use ftx_protocol::limits::{PART_BYTES, RESUMABLE_BYTES, UNKEPT_BYTES};
use ftx_protocol::message::{self, Cache, Change, Done, Held, HeldState, Info, Mkdir, Put, Resume};
use ftx_protocol::{
    Code, Condition, Digest, Kind, Mode, Name, Parents, Refusal, RequestId, Retry as Again,
    TransferId,
};

use super::log::Log;
use super::pipe::{Pipe, REQUESTS_MAX};
use super::remove::Removal;
use super::rules::{PathKind, Verdict};
use super::{Extra, Mood, TreeDone, TreeNotice, TreeObserver, TreeOptions, Update, mark, open_log};
use crate::failure::{Class, Failure, Reached, Trouble, plain};
use crate::partials::About;
use crate::put::{PutOptions, new_id};
use crate::retry::Patience;
use crate::source::Source;
use crate::spent::{Spent, timed};
use crate::{Client, Notice};

/// The server's own directory in its root; one in a source is somebody's served directory.
const PRIVATE: &[u8] = b".ftx";

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
        job.close_log(result.is_ok());
        result.map(|()| job.done)
    }
}

/// A directory on this side, open, and the name that it has on the other one.
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) handle: OwnedFd,
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
    /// Its body was closed with `abort`; it has been told.
    Aborted,
    Mkdir(Mkdir),
    Remove(message::Remove),
    List,
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
    /// The trees of which everything was seen, for the removal of what they do not have.
    whole: Vec<Rc<Root>>,
    removal: Option<Removal>,
    pipe: Option<Pipe>,
    under_way: BTreeMap<RequestId, Work>,
    unacknowledged_bytes: u64,
    /// To be made before anything new.
    again: VecDeque<Work>,
    /// Numbers of the files about which a question is not answered.
    asked: BTreeSet<u64>,
    next_number: u64,
    left: VecDeque<Left>,
    /// Directories that could not be made, and whose time is still to come.
    unmade: BTreeSet<Name>,
    log: Option<Log>,
    patience: Patience,
    reached: Reached,
    buffer: Vec<u8>,
    done: TreeDone,
}

impl<'a, 'o> Job<'a, 'o> {
    fn new(client: &'a Client, tree: PutTree<'a>, observer: &'a mut TreeObserver<'o>) -> Self {
        let (path, name) = tree.about;
        let server = client.server.to_string();
        let about = About { action: "put -r".to_owned(), server, name, path, part: None };
        let log = match tree.options.mood {
            Mood::Do => {
                open_log("put", &client.server, tree.job, Some(about)).unwrap_or_else(|error| {
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
            whole: Vec::new(),
            removal: None,
            pipe: None,
            under_way: BTreeMap::new(),
            unacknowledged_bytes: 0,
            again: VecDeque::new(),
            asked: BTreeSet::new(),
            next_number: 0,
            left: VecDeque::new(),
            unmade: BTreeSet::new(),
            log,
            patience: Patience::new(client.retry),
            reached: Reached::No,
            buffer: vec![0; usize::try_from(PART_BYTES).unwrap_or(usize::MAX)],
            done: TreeDone::default(),
        }
    }

    /// A job of which something is left keeps its log.
    fn close_log(&mut self, complete: bool) {
        if let Some(log) = self.log.take()
            && (log.is_empty() || (complete && self.done.failed == 0))
        {
            log.remove();
        }
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let trouble = match self.attempt() {
                Ok(()) => return Ok(()),
                Err(trouble) => trouble,
            };
            self.pipe = None;
            self.take_back();
            match trouble.retry(self.reached) {
                Again::Later if let Some(pause) = self.patience.next_pause() => {
                    let cause = trouble.into_failure("put", &self.client.server).to_string();
                    (self.observer)(TreeNotice::Retrying { cause, pause });
                    timed(&mut self.done.spent.pauses, || self.client.interrupt.pause(pause));
                }
                _ => return Err(trouble.into_failure("put", &self.client.server)),
            }
        }
    }

    /// What was under way on a connection that is gone has to be made again, in its order.
    fn take_back(&mut self) {
        let mut again: VecDeque<Work> = VecDeque::new();
        for (_, work) in std::mem::take(&mut self.under_way) {
            again.push_back(match work {
                Work::Put(file) | Work::Resume(file) => {
                    self.asked.insert(file.number);
                    Work::Resume(file)
                }
                // The time of a directory comes behind all that is put again into it.
                Work::Mkdir(mkdir) if mkdir.mtime.is_some() => {
                    self.left.push_back(Left { barrier: self.next_number, mkdir });
                    continue;
                }
                // Its listing begins again; what was to be removed is found again.
                Work::Aborted | Work::List | Work::Remove(_) => continue,
                other => other,
            });
        }
        again.append(&mut self.again);
        self.again = again;
        self.unacknowledged_bytes = 0;
        self.removal = None;
    }

    /// One connection, or what is left of one.
    fn attempt(&mut self) -> Result<(), Trouble> {
        loop {
            while let Some(event) = self.try_hear()? {
                self.heard(event)?;
            }
            self.leave_directories();
            if self.is_full() {
                self.wait()?;
            } else if let Some(work) = self.again.pop_front() {
                self.start(work)?;
            } else if self.walk_on_timed()? || self.remove_on()? {
                // There is more.
            } else if self.under_way.is_empty() && self.left.is_empty() && self.again.is_empty() {
                return Ok(());
            } else {
                self.wait()?;
            }
        }
    }

    fn try_hear(&mut self) -> Result<Option<Event>, Trouble> {
        match &mut self.pipe {
            Some(pipe) => pipe.try_hear(),
            None => Ok(None),
        }
    }

    fn wait(&mut self) -> Result<(), Trouble> {
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

    fn is_full(&self) -> bool {
        self.under_way.len().saturating_add(self.left.len()) >= REQUESTS_MAX
            || self.unacknowledged_bytes >= UNKEPT_BYTES
    }

    fn pipe(&mut self) -> Result<&mut Pipe, Trouble> {
        if self.pipe.is_none() {
            self.pipe = Some(Pipe::open(self.client)?);
            self.reached = Reached::Yes;
            self.done.connections = self.done.connections.saturating_add(1);
        }
        self.pipe.as_mut().ok_or_else(|| Trouble::Broken("no connection".to_owned()))
    }

    /// Makes one step through the sources. `false` when they are over.
    fn walk_on(&mut self) -> Result<bool, Trouble> {
        let Some((root, walk)) = &mut self.walk else {
            let Some((path, name)) = self.sources.next() else { return Ok(false) };
            self.begin_source(path, name);
            return Ok(true);
        };
        let root = Rc::clone(root);
        let Some(step) = walk.next() else {
            self.walk = None;
            self.whole.push(Rc::clone(&root));
            if let Ok(stat) = Native.stat(&root.handle) {
                self.leave(root.name.clone(), &stat);
            }
            return Ok(true);
        };
        match step {
            Step::Seen { part, stat } => self.seen(&root, &part, stat),
            Step::Left { part, stat } => {
                let path = walk.path_of(&part);
                if let Ok(name) = Name::inside(Some(&root.name), &path) {
                    self.leave(name, &stat);
                }
            }
            Step::Unread { part, error } => {
                let path = root.path.join(path_of(&walk.path_of(part.as_deref().unwrap_or(b""))));
                self.fail_path(&path, &Failure::local("cannot read", &path, &error));
            }
        }
        Ok(true)
    }

    fn begin_source(&mut self, path: PathBuf, name: Name) {
        if self.whole.iter().any(|root| root.name == name && root.path == path) {
            // Given twice.
            return;
        }
        match open_source(&path) {
            // Each would be taken for what the other one is to hold, and be removed from it.
            Ok(Opened::Directory(..)) if self.whole.iter().any(|root| root.name == name) => {
                let shown = crate::failure::shown(&path);
                let message =
                    format!("cannot put {shown}: another source has the name {name} already");
                self.fail_path(&path, &Failure::new(Class::Usage, message));
            }
            Ok(Opened::Directory(handle, stat)) => {
                match Native.open_root(&path).and_then(|shared| Walk::new(Native, shared.into())) {
                    Ok(walk) => {
                        let root = Rc::new(Root { path, name: name.clone(), handle });
                        self.walk = Some((root, walk));
                        self.enter(name, &stat, Parents::Make);
                    }
                    Err(error) => {
                        self.fail_path(&path, &Failure::local("cannot read", &path, &error));
                    }
                }
            }
            Ok(Opened::File { directory, part, stat }) => {
                let above = path.parent().unwrap_or(Path::new("")).to_owned();
                let root = Rc::new(Root { path: above, name: name.clone(), handle: directory });
                self.found(&root, part, name, stat);
            }
            Ok(Opened::Neither(why)) => {
                self.skip(name.as_bytes(), why);
            }
            Err(failure) => self.fail_path(&path, &failure),
        }
    }

    fn seen(&mut self, root: &Rc<Root>, part: &[u8], stat: Stat) {
        let Some((_, walk)) = &mut self.walk else { return };
        let path = walk.path_of(part);
        let kind = match stat.kind {
            FileKind::Directory => PathKind::Directory,
            _ => PathKind::Other,
        };
        if self.options.rules.takes(&path, kind) == Verdict::Excluded {
            return;
        }
        if part == PRIVATE && walk.depth() == 0 {
            return self.skip(&path, "the directory of an ftx server");
        }
        let names = Name::parse(&path)
            .and_then(|path| Ok((Name::inside(Some(&root.name), path.as_bytes())?, path)));
        let (name, path) = match names {
            Ok(both) => both,
            Err(error) => {
                let shown = root.path.join(path_of(&path));
                let message = format!("cannot put {}: {error}", crate::failure::shown(&shown));
                return self.fail_path(&shown, &Failure::new(Class::Local, message));
            }
        };
        match stat.kind {
            FileKind::Directory => match walk.enter() {
                Ok(()) => self.enter(name, &stat, Parents::Require),
                Err(error) => {
                    let shown = root.path.join(path_of(path.as_bytes()));
                    self.fail_path(&shown, &Failure::local("cannot read", &shown, &error));
                }
            },
            FileKind::File => self.found(root, path, name, stat),
            FileKind::Symlink => self.skip(name.as_bytes(), "a symlink"),
            FileKind::Special => self.skip(name.as_bytes(), "a device, FIFO or socket"),
        }
    }

    /// A directory is made before what is in it, with no more rights than it will have, except
    /// that its owner may write.
    fn enter(&mut self, name: Name, stat: &Stat, parents: Parents) {
        let mode = Some(Mode::new(stat.mode.bits() | 0o700));
        self.mkdir(Mkdir { parents, mode, ..self.mkdir_of(name) });
    }

    /// And when all that is in it is there, it gets its time.
    fn leave(&mut self, name: Name, stat: &Stat) {
        let mkdir =
            Mkdir { mode: Some(stat.mode), mtime: Some(stat.modified), ..self.mkdir_of(name) };
        self.left.push_back(Left { barrier: self.next_number, mkdir });
    }

    fn mkdir_of(&self, name: Name) -> Mkdir {
        Mkdir {
            id: RequestId(0),
            name,
            parents: Parents::Require,
            mtime: None,
            mode: None,
            condition: Condition::Always,
            durability: self.options.durability,
            need: Vec::new(),
        }
    }

    fn mkdir(&mut self, mkdir: Mkdir) {
        if self.options.mood == Mood::Do {
            self.again.push_back(Work::Mkdir(mkdir));
        }
    }

    /// Asks for the times of directories behind everything that was put into them.
    fn leave_directories(&mut self) {
        let first_asked = self.asked.first().copied().unwrap_or(self.next_number);
        // What is to be made again comes before them.
        while self.again.is_empty()
            && self.left.front().is_some_and(|left| left.barrier <= first_asked)
            && let Some(left) = self.left.pop_front()
        {
            self.mkdir(left.mkdir);
        }
    }

    fn found(&mut self, root: &Rc<Root>, path: Name, name: Name, stat: Stat) {
        (self.observer)(TreeNotice::Found { bytes: stat.size });
        if self.was_done(&name, &stat) {
            self.done.done_before = self.done.done_before.saturating_add(1);
            return (self.observer)(TreeNotice::Unchanged { name: name.as_bytes() });
        }
        let transfer = match new_id() {
            Ok(transfer) => transfer,
            Err(failure) => return self.fail(name.as_bytes(), &failure),
        };
        let (root, number) = (Rc::clone(root), self.next_number);
        self.next_number = number.saturating_add(1);
        let sent = Sent::Nothing;
        let file = File { number, root, path, name, stat, transfer, sent, tries_left: 1 };
        self.again.push_back(match self.options.update {
            Update::All => Work::Put(file),
            Update::SizeAndTime | Update::Digest => {
                self.asked.insert(number);
                Work::Ask(file)
            }
        });
    }

    fn start(&mut self, work: Work) -> Result<(), Trouble> {
        match work {
            Work::Ask(file) => self.ask(file),
            Work::Resume(file) => {
                let resume = Resume { id: RequestId(0), transfer: file.transfer, need: Vec::new() };
                self.request(Work::Resume(file), |machine, out, now| {
                    machine.resume(resume, out, now)
                })
            }
            Work::Put(file) if self.options.mood == Mood::Tell => {
                self.count(&file.name, file.stat.size, None);
                Ok(())
            }
            Work::Put(file) if file.stat.size >= RESUMABLE_BYTES => self.put_large(file),
            Work::Put(file) => self.put_small(file),
            Work::Mkdir(mkdir) => {
                let change = Change::Mkdir(mkdir.clone());
                self.request(Work::Mkdir(mkdir), |machine, out, now| {
                    machine.change(change, out, now)
                })
            }
            Work::Remove(remove) if self.options.mood == Mood::Tell => {
                self.removed(&remove.name);
                Ok(())
            }
            Work::Remove(remove) => {
                let change = Change::Remove(remove.clone());
                self.request(Work::Remove(remove), |machine, out, now| {
                    machine.change(change, out, now)
                })
            }
            Work::List | Work::Aborted => Ok(()),
        }
    }

    /// Makes a request and notes it as under way.
    fn request(
        &mut self,
        work: Work,
        make: impl FnOnce(
            &mut ftx_protocol::client::Client,
            &mut Vec<u8>,
            ftx_protocol::Time,
        ) -> RequestId,
    ) -> Result<(), Trouble> {
        let id = match self.pipe() {
            Ok(pipe) => pipe.make(make),
            Err(trouble) => {
                self.again.push_front(work);
                return Err(trouble);
            }
        };
        self.under_way.insert(id, work);
        self.pipe()?.flush_full()
    }

    fn ask(&mut self, file: File) -> Result<(), Trouble> {
        let digest = (self.options.update == Update::Digest).then_some(self.options.algorithm);
        let stat =
            message::Stat { digest, cache: Cache::Use, ..message::Stat::of(file.name.clone()) };
        self.request(Work::Ask(file), |machine, out, now| machine.stat(stat, out, now))
    }

    fn put_small(&mut self, mut file: File) -> Result<(), Trouble> {
        let source = match file.open() {
            Ok(source) => source,
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                return Ok(());
            }
        };
        let size = file.stat.size;
        let put = Put {
            id: RequestId(0),
            name: file.name.clone(),
            digest: self.options.algorithm,
            size: Some(size),
            at: 0,
            transfer: file.transfer,
            mtime: Some(file.stat.modified),
            mode: Some(file.stat.mode),
            condition: self.options.condition.clone(),
            durability: self.options.durability,
            need: Vec::new(),
        };
        let name = file.name.clone();
        file.sent = Sent::Some;
        self.request(Work::Put(file), |machine, out, now| machine.put(put, out, now))?;
        let Some((&id, _)) = self.under_way.last_key_value() else { return Ok(()) };
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(size);
        match self.send_body(id, source, size, &name)? {
            Ok(digest) => {
                self.pipe()?.make(|machine, out, _| machine.end(id, size, digest, out));
                if let Some(Work::Put(file)) = self.under_way.get_mut(&id) {
                    file.sent = Sent::All(digest);
                }
            }
            Err(failure) => {
                self.pipe()?.make(|machine, out, _| machine.abort(id, Code::Changed, out));
                self.forget_bytes(size);
                self.under_way.insert(id, Work::Aborted);
                self.fail(name.as_bytes(), &failure);
            }
        }
        self.pipe()?.flush_full()
    }

    /// Reads, hashes and sends. The inner error is of this side.
    fn send_body(
        &mut self,
        id: RequestId,
        mut source: Source,
        size: u64,
        name: &Name,
    ) -> Result<Result<Digest, Failure>, Trouble> {
        let mut running = Running::new(self.options.algorithm);
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = loop {
            let left = size.saturating_sub(running.offset());
            if left == 0 {
                break source.check_unchanged().map(|()| running.digest());
            }
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let (at, spent) = (running.offset(), &mut self.done.spent);
            let part = buffer.get_mut(..room).unwrap_or_default();
            let bytes = match timed(&mut spent.disk, || source.read_full(part, at)) {
                Ok(bytes) => bytes,
                Err(failure) => break Err(failure),
            };
            timed(&mut spent.hash, || running.update(bytes));
            let count = bytes.len() as u64;
            let began = Instant::now();
            let sent = self.pipe().and_then(|pipe| {
                pipe.part(id, bytes);
                pipe.flush_full()
            });
            self.waited_since(began);
            if let Err(trouble) = sent {
                self.buffer = buffer;
                return Err(trouble);
            }
            (self.observer)(TreeNotice::Moved { bytes: count, name: name.as_bytes() });
        };
        self.buffer = buffer;
        Ok(result)
    }

    /// A file that is worth a connection of its own, on which it resumes by itself.
    fn put_large(&mut self, file: File) -> Result<(), Trouble> {
        let source = match file.open() {
            Ok(source) => source,
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                return Ok(());
            }
        };
        // The others are on their way meanwhile.
        if let Some(pipe) = &mut self.pipe {
            pipe.flush()?;
        }
        let options = PutOptions {
            algorithm: self.options.algorithm,
            condition: self.options.condition.clone(),
            durability: self.options.durability,
        };
        let observer = &mut self.observer;
        let name = file.name.as_bytes();
        let mut moved_to = 0;
        let result = self.client.put(source, &file.name, &options, &mut |notice| match notice {
            Notice::Began { at, .. } => moved_to = at,
            Notice::Moved { at } => {
                let bytes = at.saturating_sub(moved_to);
                moved_to = moved_to.max(at);
                observer(TreeNotice::Moved { bytes, name });
            }
            Notice::Retrying { cause, pause } => observer(TreeNotice::Retrying { cause, pause }),
            Notice::Warning(text) => observer(TreeNotice::Warning(text)),
        });
        match result {
            Ok(done) => {
                self.patience.progress();
                self.done.spent.add_part(Spent { paced: Duration::ZERO, ..done.spent });
                self.succeed(&file, done.size, done.digest);
                Ok(())
            }
            Err(failure) if matches!(failure.class, Class::Network | Class::Interrupted) => {
                Err(Trouble::Final(failure))
            }
            Err(failure) => {
                self.fail(file.name.as_bytes(), &failure);
                Ok(())
            }
        }
    }

    fn heard(&mut self, event: Event) -> Result<(), Trouble> {
        match event {
            Event::Done(done) => self.acknowledged(&done),
            Event::Info(info) => self.compared(&info),
            Event::Held(held) => self.held(&held)?,
            Event::Ok(okay) => {
                self.patience.progress();
                match self.under_way.remove(&okay.id) {
                    Some(Work::Remove(remove)) => self.removed(&remove.name),
                    Some(Work::List) => self.end_removal(),
                    _ => {}
                }
            }
            Event::Entries(entries) => self.compare_listed(&entries)?,
            Event::Refused { id, refusal } => self.refused(id, refusal)?,
            _ => {}
        }
        Ok(())
    }

    fn acknowledged(&mut self, done: &Done) {
        self.patience.progress();
        if let Some(Work::Put(file)) = self.under_way.remove(&done.id) {
            self.forget_bytes(file.stat.size);
            self.succeed(&file, done.size, done.digest);
        }
    }

    fn forget_bytes(&mut self, bytes: u64) {
        self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_sub(bytes);
    }

    fn succeed(&mut self, file: &File, bytes: u64, digest: Digest) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.add(&file.mark())
        {
            self.log = None;
            let message = format!("cannot keep the log for going on later: {error}");
            (self.observer)(TreeNotice::Warning(message));
        }
        self.count(&file.name, bytes, Some(digest));
    }

    fn count(&mut self, name: &Name, bytes: u64, digest: Option<Digest>) {
        self.done.files = self.done.files.saturating_add(1);
        self.done.bytes = self.done.bytes.saturating_add(bytes);
        (self.observer)(TreeNotice::File { name: name.as_bytes(), bytes, digest });
    }

    fn was_done(&self, name: &Name, stat: &Stat) -> bool {
        let mark = mark_of(name, stat);
        self.log.as_ref().is_some_and(|log| log.has(&mark).unwrap_or(false))
    }

    /// The server has said what it has under the name of a file.
    fn compared(&mut self, info: &Info) {
        let Some(Work::Ask(file)) = self.under_way.remove(&info.id) else { return };
        self.asked.remove(&file.number);
        let same = info.kind == Kind::File
            && info.size == file.stat.size
            && match self.options.update {
                Update::Digest => {
                    match (file.digest(self.options.algorithm, &mut self.buffer), info.digest) {
                        (Ok(ours), theirs) => theirs == Some(ours),
                        (Err(failure), _) => return self.fail(file.name.as_bytes(), &failure),
                    }
                }
                Update::SizeAndTime | Update::All => {
                    super::same_time(info.mtime, file.stat.modified)
                }
            };
        if same {
            self.done.unchanged = self.done.unchanged.saturating_add(1);
            (self.observer)(TreeNotice::Unchanged { name: file.name.as_bytes() });
        } else {
            self.again.push_back(Work::Put(file));
        }
    }

    /// The server has said what it has of a file that was under way when the connection broke.
    fn held(&mut self, held: &Held) -> Result<(), Trouble> {
        let Some(Work::Resume(mut file)) = self.under_way.remove(&held.id) else { return Ok(()) };
        self.asked.remove(&file.number);
        let size = file.stat.size;
        if let (HeldState::Complete, Sent::All(digest), Some(theirs)) =
            (held.state, file.sent, held.digest)
            && theirs == digest
        {
            let put = Put {
                id: RequestId(0),
                name: file.name.clone(),
                digest: self.options.algorithm,
                size: Some(size),
                at: size,
                transfer: file.transfer,
                mtime: Some(file.stat.modified),
                mode: Some(file.stat.mode),
                condition: self.options.condition.clone(),
                durability: self.options.durability,
                need: Vec::new(),
            };
            self.request(Work::Put(file), |machine, out, now| machine.put(put, out, now))?;
            if let Some((&id, _)) = self.under_way.last_key_value() {
                self.unacknowledged_bytes = self.unacknowledged_bytes.saturating_add(size);
                self.pipe()?.make(|machine, out, _| machine.end(id, size, digest, out));
            }
            return Ok(());
        }
        if held.state != HeldState::Nothing {
            file.transfer = new_id()?;
        }
        file.sent = Sent::Nothing;
        self.again.push_front(Work::Put(file));
        Ok(())
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal) -> Result<(), Trouble> {
        let Some(work) = self.under_way.remove(&id) else { return Ok(()) };
        if refusal.code.retry() == Again::Later {
            self.under_way.insert(id, work);
            return Err(Trouble::Refused(refusal));
        }
        match work {
            Work::Ask(file) => {
                self.asked.remove(&file.number);
                match refusal.code {
                    Code::NotFound | Code::NotAFile | Code::NotADirectory => {
                        self.again.push_back(Work::Put(file));
                    }
                    _ => self.refuse(&file.name, refusal),
                }
            }
            Work::Put(mut file) => {
                self.forget_bytes(file.stat.size);
                if refusal.code.retry() == Again::Fresh && file.tries_left > 0 {
                    file.tries_left = 0;
                    file.transfer = new_id()?;
                    file.sent = Sent::Nothing;
                    self.again.push_front(Work::Put(file));
                } else {
                    self.refuse(&file.name, refusal);
                }
            }
            Work::Resume(file) => {
                self.asked.remove(&file.number);
                self.refuse(&file.name, refusal);
            }
            // What could not be made gets no time either, and that is told already.
            Work::Mkdir(mkdir) if mkdir.mtime.is_some() && self.unmade.remove(&mkdir.name) => {}
            Work::Mkdir(mkdir) => {
                if mkdir.mtime.is_none() {
                    self.unmade.insert(mkdir.name.clone());
                }
                self.refuse(&mkdir.name, refusal);
            }
            Work::Remove(remove) => self.not_removed(&remove, refusal),
            Work::List => {
                self.removal = None;
                return Err(Trouble::Refused(refusal));
            }
            Work::Aborted => {}
        }
        Ok(())
    }

    fn refuse(&mut self, name: &Name, refusal: Refusal) {
        let what = format!("put {name}");
        let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
        self.fail(name.as_bytes(), &failure);
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

/// Removing what the sources do not have.
impl Job<'_, '_> {
    /// Begins the next listing, or allows more of the one that runs. `false` when there is nothing
    /// to do, or to wait for.
    fn remove_on(&mut self) -> Result<bool, Trouble> {
        if self.options.extra == Extra::Keep {
            return Ok(false);
        }
        if let Some(removal) = &mut self.removal {
            let Some(id) = removal.allow_more() else { return Ok(false) };
            self.pipe()?.make(|machine, out, _| machine.more(id, out));
            return Ok(true);
        }
        // Nothing is removed while something may still come.
        if !self.under_way.is_empty() || !self.left.is_empty() || self.whole.is_empty() {
            return Ok(false);
        }
        if self.done.failed > 0 {
            self.whole.clear();
            let message = "nothing was removed, because not everything could be read and put";
            (self.observer)(TreeNotice::Warning(message.to_owned()));
            return Ok(false);
        }
        let Some(root) = self.whole.last().map(Rc::clone) else { return Ok(false) };
        let list = message::List {
            id: RequestId(0),
            name: Some(root.name.clone()),
            depth: ftx_protocol::Depth::All,
            need: Vec::new(),
        };
        self.request(Work::List, |machine, out, now| machine.list(list, out, now))?;
        if let Some((&id, _)) = self.under_way.last_key_value() {
            self.removal = Some(Removal::new(id, root));
        }
        Ok(true)
    }

    fn compare_listed(&mut self, listed: &message::Entries) -> Result<(), Trouble> {
        let Some(removal) = self.removal.as_mut().filter(|removal| removal.id() == listed.id)
        else {
            return Ok(());
        };
        let (rules, durability) = (&self.options.rules, self.options.durability);
        let Some(go) = removal.compare(&listed.entries, rules, durability) else {
            return Err(super::listed_too_much());
        };
        self.again.extend(go.into_iter().map(Work::Remove));
        for unread in &listed.unread {
            let Some(name) = &unread.name else { continue };
            let refusal = Refusal::new(unread.code, unread.message.clone());
            let what = format!("list {name}, to remove what is not in the source");
            let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
            self.fail(name.as_bytes(), &failure);
        }
        Ok(())
    }

    fn end_removal(&mut self) {
        self.whole.pop();
        if let Some(removal) = self.removal.take() {
            for remove in removal.end(self.options.durability) {
                self.again.push_back(Work::Remove(remove));
            }
        }
    }

    fn removed(&mut self, name: &Name) {
        self.done.removed = self.done.removed.saturating_add(1);
        (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
    }

    fn not_removed(&mut self, remove: &message::Remove, refusal: Refusal) {
        match refusal.code {
            // Something that is excluded is in it; or somebody else was faster.
            Code::NotEmpty | Code::NotFound => {}
            _ => {
                let what = format!("remove {}", remove.name);
                let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
                self.fail(remove.name.as_bytes(), &failure);
            }
        }
    }
}

impl File {
    /// Opens the file that was seen, and no other one.
    fn open(&self) -> Result<Source, Failure> {
        let path = self.root.path.join(path_of(self.path.as_bytes()));
        let failed = |error: &std::io::Error| Failure::local("cannot read", &path, error);
        let handle = Native
            .open_beneath(&self.root.handle, &self.path, Want::File)
            .map_err(|error| failed(&error))?;
        let now = Native.stat(&handle).map_err(|error| failed(&error))?;
        let source =
            Source::of_file(handle.into(), path.clone()).map_err(|error| failed(&error))?;
        if Inode::of(&now) != Inode::of(&self.stat) || now.size != self.stat.size {
            return Err(source.changed());
        }
        Ok(source)
    }

    fn digest(
        &self,
        algorithm: ftx_protocol::Algorithm,
        buffer: &mut [u8],
    ) -> Result<Digest, Failure> {
        let mut source = self.open()?;
        let mut running = Running::new(algorithm);
        while running.offset() < self.stat.size {
            let left = self.stat.size.saturating_sub(running.offset());
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let at = running.offset();
            running.update(source.read_full(buffer.get_mut(..room).unwrap_or_default(), at)?);
        }
        source.check_unchanged()?;
        Ok(running.digest())
    }

    fn mark(&self) -> super::log::Mark {
        mark_of(&self.name, &self.stat)
    }
}

fn mark_of(name: &Name, stat: &Stat) -> super::log::Mark {
    let version = Identity::of(stat).version();
    mark(name.as_bytes(), stat.size, stat.modified, version.as_str().as_bytes())
}

/// What a source turns out to be.
enum Opened {
    Directory(OwnedFd, Stat),
    File { directory: OwnedFd, part: Name, stat: Stat },
    Neither(&'static str),
}

/// Opens what the user named. A symlink that is named is followed.
fn open_source(path: &Path) -> Result<Opened, Failure> {
    use std::os::unix::ffi::OsStrExt;
    let failed = |error: &std::io::Error| Failure::local("cannot read", path, error);
    let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        let handle = Native.open_root(path).map_err(|error| failed(&error))?;
        let stat = Native.stat(&handle).map_err(|error| failed(&error))?;
        return Ok(Opened::Directory(handle, stat));
    }
    if !metadata.is_file() {
        return Ok(Opened::Neither("a device, FIFO or socket"));
    }
    // Of a symlink, where it leads to.
    let real = std::fs::canonicalize(path).map_err(|error| failed(&error))?;
    let above = real.parent().unwrap_or(Path::new("/"));
    let directory = Native.open_root(above).map_err(|error| failed(&error))?;
    let part = real.file_name().unwrap_or_default().as_bytes();
    let part = Name::parse(part).map_err(|error| {
        Failure::new(Class::Local, format!("cannot put {}: {error}", crate::failure::shown(path)))
    })?;
    let stat = Native.stat_part(&directory, part.as_bytes()).map_err(|error| failed(&error))?;
    Ok(Opened::File { directory, part, stat })
}

fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}
