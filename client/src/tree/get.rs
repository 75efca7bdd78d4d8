//! Getting trees: list, compare, receive, and settle in groups, in one pass.
//!
//! What arrives is stored by the same confined writer as the server's: a store whose root is the
//! target. So nothing is written outside of it, whatever names a server lists and whatever happens
//! to its directories meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ftx_disk::hash::Running;
use ftx_disk::store::{self, Change, Settled, Store, Upload};
use ftx_disk::sys::{Disk, FileKind, Native};
use ftx_disk::walk::{Step, Walk};
use ftx_protocol::client::Event;
use ftx_protocol::limits::{ENTRIES_AHEAD, RESUMABLE_BYTES};
use ftx_protocol::message::{self, Cache, Entry, Info, Unread};
use ftx_protocol::{
    Code, Condition, Depth, Digest, Durability, FileTime, Kind, Mode, Name, Parents, Refusal,
    RequestId, Retry as Again, TransferId, Version,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::folds::{Folds, Told, folds_case};
use super::log::Log;
use super::rules::{PathKind, Verdict};
use super::settle::{Answer, Item, Settler};
use super::{
    Extra, Mood, TreeDone, TreeNotice, TreeObserver, TreeOptions, Update, mark, open_log,
    state_path,
};
use crate::Client;
use crate::address::ServerAddress;
use crate::failure::{Class, Failure, Reached, Trouble, plain};
use crate::link::{Link, READ_BYTES};
use crate::partials::About;
use crate::retry::Patience;
use crate::spent::{Spent, timed};

/// Questions and gets under way at most, and the bytes of their lines: so few that the server has
/// room for them while it sends, and this side never has to wait for that.
const REQUESTS_MAX: usize = 512;
const REQUESTS_BYTES: usize = 32 * 1024;

/// Files and directories that were listed and not asked for: more are listed when there are fewer.
const LISTED_MAX: usize = 1_024;

/// What is settled together: descriptors that are held open, and bytes that are not durable.
const GROUP_ITEMS: usize = 256;
const GROUP_BYTES: u64 = 64 * 1024 * 1024;

/// Files that have come and are not settled, at most.
const UNSETTLED_MAX: usize = 2 * GROUP_ITEMS;

/// What was skipped and is remembered, so that it is told once; 16 bytes each. Of more than these
/// some are told again after a break, and no worse.
const TOLD_MAX: usize = 16_384;

/// The store's own directory in the target, which goes when the job is complete.
const PRIVATE: &[u8] = b".ftx";

/// What is to be fetched, and where to.
pub struct GetTree<'a> {
    /// A directory on the server.
    pub name: &'a Name,
    /// The directory here; made if the one above it is there.
    pub target: &'a Path,
    /// How. The condition says whether a file that is there may be replaced.
    pub options: &'a TreeOptions,
}

impl Client {
    /// Gets a tree, over one connection. Tries again, and goes on where it broke, as long as there
    /// is progress. What fails is told, and the rest goes on.
    ///
    /// # Errors
    /// When the server cannot be reached for too long or does not keep to the protocol, when the
    /// name is no directory, or when the target cannot be written to.
    pub fn get_tree(
        &self,
        tree: &GetTree<'_>,
        observer: &mut TreeObserver<'_>,
    ) -> Result<TreeDone, Failure> {
        // Before anything is made here.
        let info = self.stat(tree.name)?;
        if info.kind != Kind::Directory {
            let failure = Trouble::Refused(Code::NotADirectory.into());
            return Err(failure.into_failure(&format!("get {}", tree.name), &self.server));
        }
        match tree.options.mood {
            Mood::Do => {
                let ground = Ground::prepare(self, tree)?;
                let (began, paced) = (Instant::now(), self.paced());
                let mut job = Job::new(self, tree, &ground, observer);
                let result = job.run();
                job.done.spent.wall = began.elapsed();
                job.done.spent.paced = self.paced().saturating_sub(paced);
                let (done, log) = (job.done, job.close(result.is_ok()));
                let gone = ground.leave();
                if let Some(log) = log
                    && gone == Target::Gone
                {
                    log.remove();
                }
                let mut done = result.map(|()| done)?;
                if let Err(error) = give_times(tree.target, &info) {
                    let failure = Failure::local("cannot set the time of", tree.target, &error);
                    done.count_failure(&failure);
                    observer(TreeNotice::Failed { name: b"", failure: &failure });
                }
                Ok(done)
            }
            Mood::Tell => {
                let ground = Ground::look(tree.target)?;
                let mut job = Job::new(self, tree, &ground, observer);
                let result = job.run();
                let done = job.done;
                job.close(result.is_ok());
                result.map(|()| done)
            }
        }
    }
}

/// The target itself is a directory of the tree too.
fn give_times(path: &Path, info: &Info) -> std::io::Result<()> {
    let directory = Native.open_root(path)?;
    Native.set_mode(&directory, info.mode)?;
    Native.set_modified(&directory, info.mtime)?;
    Native.sync(&directory)
}

impl Client {
    /// Whether an earlier job that got this tree into this directory was interrupted: then the same
    /// command goes on there, though the directory is there by now.
    pub fn was_getting(&self, name: &Name, target: &Path) -> Interrupted {
        let found = std::fs::read(target.join(".ftx").join(OURS));
        let goes_on = found.is_ok_and(|found| found == marker(self, name));
        // What came whole left nothing there; but then it is in the log.
        let logged = || {
            let log = super::log_path("get", &self.server, &key(name, target));
            log.is_ok_and(|log| log.exists())
        };
        match goes_on || logged() {
            true => Interrupted::Yes,
            false => Interrupted::No,
        }
    }
}

/// What tells this job from another one.
fn key(name: &Name, target: &Path) -> Vec<u8> {
    [name.as_bytes(), b"\0", target.as_os_str().as_encoded_bytes()].concat()
}

/// See [`Client::was_getting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// It was.
    Yes,
    /// There is nothing to go on with.
    No,
}

/// The target, open.
struct Ground {
    path: PathBuf,
    /// `None` where there is nothing yet and nothing is to be done.
    store: Option<Arc<Store<Native>>>,
    private: Private,
    target: Target,
    /// Whether its disk takes `A` and `a` for one.
    names: Names,
}

/// See [`super::folds`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Distinct,
    Folded,
}

/// What the target was before this job, or is after it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Nothing.
    Gone,
    There,
}

/// Whose the store's own directory in the target is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Private {
    /// This job made it, or an earlier one that was interrupted.
    Ours,
    /// It is that of a server.
    Theirs,
}

impl Ground {
    fn prepare(client: &Client, tree: &GetTree<'_>) -> Result<Self, Failure> {
        let path = tree.target;
        let failed = |error: &std::io::Error| Failure::local("cannot write", path, error);
        let target = match std::fs::create_dir(path) {
            Ok(()) => {
                sync_above(path).map_err(|error| failed(&error))?;
                Target::Gone
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                if !path.is_dir() {
                    let shown = crate::failure::shown(path);
                    let message =
                        format!("{shown} is no directory; a tree comes under another name with -o");
                    return Err(Failure::new(Class::Local, message));
                }
                Target::There
            }
            Err(error) => return Err(failed(&error)),
        };
        let mine = path.join(".ftx").join(OURS);
        let private = match path.join(".ftx").symlink_metadata() {
            Ok(_) if !mine.exists() => Private::Theirs,
            _ => Private::Ours,
        };
        let store = open_store(path, store::Access::ReadWrite)?;
        if private == Private::Ours {
            let whose = marker(client, tree.name);
            std::fs::write(&mine, whose).map_err(|error| failed(&error))?;
        }
        let names = match folds_case(path, ".ftx") {
            true => Names::Folded,
            false => Names::Distinct,
        };
        Ok(Self { path: path.to_owned(), store: Some(Arc::new(store)), private, target, names })
    }

    fn look(path: &Path) -> Result<Self, Failure> {
        let store = match path.is_dir() {
            true => Some(Arc::new(open_store(path, store::Access::ReadOnly)?)),
            false => None,
        };
        let (private, target, names) = (Private::Theirs, Target::There, Names::Distinct);
        Ok(Self { path: path.to_owned(), store, private, target, names })
    }

    /// Takes the store's own directory away again, unless something is left to go on with; and the
    /// target, if it was made for nothing: the same command has to find what this one found.
    fn leave(self) -> Target {
        if self.private == Private::Ours
            && let Some(store) = self.store
            && let Ok(store) = Arc::try_unwrap(store)
        {
            store.sweep_trash(&|| true);
            // What stays is hidden, and is taken up by the next job here.
            let _ = store.retire(&[OURS.as_bytes()]);
        }
        // One that is not empty stays.
        match self.target == Target::Gone && std::fs::remove_dir(&self.path).is_ok() {
            true => Target::Gone,
            false => Target::There,
        }
    }
}

/// Says that the store's own directory was made by a client, and for what.
const OURS: &str = "get";

fn marker(client: &Client, name: &Name) -> Vec<u8> {
    [client.server.to_string().as_bytes(), b"\n", name.as_bytes()].concat()
}

fn open_store(path: &Path, access: store::Access) -> Result<Store<Native>, Failure> {
    let options = store::Options {
        access,
        durability: Durability::Full,
        size_max_bytes: u64::MAX,
        free_min_bytes: 0,
    };
    Store::open(Native, path, options).map(|(store, _)| store).map_err(|error| {
        let path = crate::failure::shown(path);
        let text = match error {
            store::OpenError::Locked => {
                format!("{path} is being written to by another ftx, a server or a get")
            }
            error => format!("cannot write to {path}: {error}"),
        };
        Failure::new(Class::Local, text)
    })
}

fn sync_above(path: &Path) -> std::io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty());
    std::fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that is to be fetched.
struct File {
    number: u64,
    /// On the server.
    name: Name,
    /// In the target.
    path: Name,
    entry: Entry,
    next: Next,
}

/// What is to be done for a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its digest is asked for, and compared with that of the file here.
    Compare,
    Fetch,
    /// Once more, from its first byte, past the server's memory of its digest.
    FetchAgain,
}

/// A request under way.
enum Work {
    List,
    Ask(File),
    Get { file: File, upload: Option<Box<Upload<Native>>> },
    Stopped,
}

/// A directory that all entries were seen of: its time is set when the files before it are settled.
struct Left {
    barrier: u64,
    change: Change,
}

/// A directory whose entries are being listed.
struct Open {
    path: Name,
    mtime: FileTime,
    mode: Mode,
}

struct Job<'a, 'o> {
    client: &'a Client,
    tree: &'a GetTree<'a>,
    ground: &'a Ground,
    observer: &'a mut TreeObserver<'o>,
    link: Option<Arc<Link>>,
    under_way: BTreeMap<RequestId, Work>,
    line_bytes: usize,
    list: Listing,
    listed: VecDeque<File>,
    owed: u32,
    /// Messages of the list that the server may still send without being asked.
    ahead: u32,
    way: Vec<Open>,
    left: VecDeque<Left>,
    /// Directories that could not be made, and whose time is still to come.
    unmade: BTreeSet<Name>,
    next_number: u64,
    unsettled: BTreeMap<u64, File>,
    settler: Option<Settler>,
    group: Vec<Item>,
    group_bytes: u64,
    /// What the first bytes of large files came from.
    versions: Versions,
    log: Option<Log>,
    /// What the server has, for the removal of everything else.
    seen: Option<Log>,
    /// What was listed, where the disk takes some of it for one.
    folds: Option<Folds>,
    whole: Whole,
    patience: Patience,
    reached: Reached,
    done: TreeDone,
    /// Files that were told as found.
    found: u64,
    /// How many of them the listing that runs has still to come to, after an earlier one broke.
    found_again: u64,
    /// The same of the files that this run has moved.
    done_again: u64,
    /// What was told as skipped; so that it is not told again after a break.
    told: BTreeSet<super::log::Mark>,
}

/// How far the listing is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Listing {
    ToBegin,
    Running(RequestId),
    Complete,
}

/// Whether everything of the source was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

impl<'a, 'o> Job<'a, 'o> {
    fn new(
        client: &'a Client,
        tree: &'a GetTree<'a>,
        ground: &'a Ground,
        observer: &'a mut TreeObserver<'o>,
    ) -> Self {
        let key = key(tree.name, tree.target);
        let target = std::path::absolute(tree.target).unwrap_or_else(|_| tree.target.to_owned());
        let about = About {
            action: "get -r".to_owned(),
            server: client.server.to_string(),
            name: tree.name.to_string(),
            part: match ground.private {
                Private::Ours => Some(target.join(".ftx").into_os_string()),
                Private::Theirs => None,
            },
            path: target.into_os_string(),
        };
        let mut open = |what: &str, about: Option<About>| {
            open_log(what, &client.server, &key, about).unwrap_or_else(|error| {
                let message = format!("cannot keep a log for going on later: {}", plain(&error));
                observer(TreeNotice::Warning(message));
                None
            })
        };
        let log = match tree.options.mood {
            Mood::Do => open("get", Some(about)),
            Mood::Tell => None,
        };
        let seen = match tree.options.extra {
            Extra::Remove => open("seen", None),
            Extra::Keep => None,
        };
        let folds = match ground.names {
            Names::Folded => {
                // What an earlier run left is not looked at.
                open("folds", None).into_iter().for_each(Log::remove);
                open("folds", None).map(Folds::new)
            }
            Names::Distinct => None,
        };
        let settler = match tree.options.mood {
            Mood::Do => ground.store.clone().map(Settler::start),
            Mood::Tell => None,
        };
        Self {
            client,
            tree,
            ground,
            observer,
            link: None,
            under_way: BTreeMap::new(),
            line_bytes: 0,
            list: Listing::ToBegin,
            listed: VecDeque::new(),
            owed: 0,
            ahead: 0,
            way: Vec::new(),
            left: VecDeque::new(),
            unmade: BTreeSet::new(),
            next_number: 0,
            unsettled: BTreeMap::new(),
            settler,
            group: Vec::new(),
            group_bytes: 0,
            versions: match tree.options.mood {
                Mood::Do => Versions::open(&client.server, &key),
                Mood::Tell => Versions::none(),
            },
            log,
            seen,
            folds,
            whole: Whole::Yes,
            patience: Patience::new(client.retry),
            reached: Reached::No,
            done: TreeDone::default(),
            found: 0,
            found_again: 0,
            done_again: 0,
            told: BTreeSet::new(),
        }
    }

    /// A job of which something is left keeps its log, also an empty one: it tells the same command
    /// that the target, which is there by now, is its own.
    fn close(mut self, complete: bool) -> Option<Log> {
        if let Some(seen) = self.seen.take() {
            seen.remove();
        }
        if let Some(folds) = self.folds.take() {
            folds.remove();
        }
        if !complete || self.done.failed > 0 {
            return self.log.take();
        }
        if let Some(log) = self.log.take() {
            log.remove();
        }
        self.versions.remove();
        None
    }

    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let trouble = match self.attempt() {
                Ok(()) => break,
                Err(trouble) => trouble,
            };
            self.take_back();
            match trouble.retry(self.reached) {
                Again::Later if let Some(pause) = self.patience.next_pause() => {
                    let cause = self.failure(trouble).to_string();
                    (self.observer)(TreeNotice::Retrying { cause, pause });
                    timed(&mut self.done.spent.pauses, || self.client.interrupt.pause(pause));
                }
                _ => return Err(self.failure(trouble)),
            }
        }
        self.remove_extra()?;
        self.settle_all();
        Ok(())
    }

    fn failure(&self, trouble: Trouble) -> Failure {
        trouble.into_failure(&format!("get {}", self.tree.name), &self.client.server)
    }

    /// A connection is gone: what is done is settled, the rest is listed again.
    fn take_back(&mut self) {
        self.link = None;
        // Before they are suspended: what is to be kept of large files is among it, and is void
        // afterwards.
        self.settle_all();
        for (_, work) in std::mem::take(&mut self.under_way) {
            if let (Work::Get { upload: Some(upload), .. }, Some(store)) =
                (work, &self.ground.store)
            {
                store.suspend(*upload);
            }
        }
        self.listed.clear();
        self.way.clear();
        self.left.clear();
        self.unmade.clear();
        self.owed = 0;
        self.line_bytes = 0;
        self.list = Listing::ToBegin;
        self.settle_all();
        self.unsettled.clear();
        self.count_anew();
    }

    /// Everything is listed again, and is to be counted and told once.
    fn count_anew(&mut self) {
        self.found_again = self.found;
        let moved = match &self.log {
            Some(_) => self.done,
            // Without a log they are fetched again.
            None => TreeDone::default(),
        };
        self.done_again = moved.files;
        self.done = TreeDone {
            files: moved.files,
            bytes: moved.bytes,
            connections: self.done.connections,
            spent: self.done.spent,
            ..TreeDone::default()
        };
    }

    /// One connection.
    fn attempt(&mut self) -> Result<(), Trouble> {
        let link = self.client.link()?;
        self.link = Some(Arc::clone(&link));
        self.reached = Reached::Yes;
        self.done.connections = self.done.connections.saturating_add(1);
        let mut buffer = vec![0; READ_BYTES];
        let list = message::List {
            id: RequestId(0),
            name: Some(self.tree.name.clone()),
            depth: Depth::All,
            need: Vec::new(),
        };
        let id = link.send(|machine, out, now| machine.list(list, out, now))?;
        self.list = Listing::Running(id);
        self.ahead = ENTRIES_AHEAD;
        self.under_way.insert(id, Work::List);
        loop {
            self.take_answers();
            self.leave_directories();
            self.ask_for_more(&link)?;
            if self.unsettled.len() >= UNSETTLED_MAX {
                self.settle_all();
            } else if !self.under_way.is_empty() {
                self.hand_over_group();
                self.receive(&link, &mut buffer)?;
            } else if !self.listed.is_empty() {
                // The next ones are asked for.
            } else if self.group.is_empty() && self.left.is_empty() && self.is_settled() {
                self.client.leave(&link);
                return Ok(());
            } else {
                self.settle_all();
            }
        }
    }

    fn receive(&mut self, link: &Link, buffer: &mut [u8]) -> Result<(), Trouble> {
        let began = Instant::now();
        let mut heard = Duration::ZERO;
        let received = link
            .receive(buffer, &mut |event, input| timed(&mut heard, || self.heard(event, input)));
        let waiting = &mut self.done.spent.waiting;
        *waiting = waiting.saturating_add(began.elapsed().saturating_sub(heard));
        received
    }

    fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.settler.as_ref().is_none_or(Settler::is_idle)
    }

    /// Sends the next requests, and allows more of the list.
    fn ask_for_more(&mut self, link: &Link) -> Result<(), Trouble> {
        let mut lines = Vec::new();
        while self.under_way.len() < REQUESTS_MAX
            && self.line_bytes < REQUESTS_BYTES
            && self.unsettled.len() < UNSETTLED_MAX
            && let Some(file) = self.listed.pop_front()
        {
            let cost = Name::line_bytes(file.name.as_bytes());
            self.line_bytes = self.line_bytes.saturating_add(cost);
            self.request(link, file, &mut lines);
        }
        while self.owed > 0
            && self.listed.len() < LISTED_MAX
            && let Listing::Running(id) = self.list
        {
            self.owed = self.owed.saturating_sub(1);
            self.ahead = self.ahead.saturating_add(1);
            link.machine().more(id, &mut lines);
        }
        Ok(link.write(&lines)?)
    }

    fn request(&mut self, link: &Link, file: File, lines: &mut Vec<u8>) {
        if file.next == Next::Compare {
            let stat = message::Stat {
                digest: Some(self.tree.options.algorithm),
                ..message::Stat::of(file.name.clone())
            };
            let id = link.machine().stat(stat, lines, link.now());
            self.under_way.insert(id, Work::Ask(file));
            return;
        }
        if self.tree.options.mood == Mood::Tell {
            self.line_bytes = 0;
            return self.count(&file, None);
        }
        let (at, version) = self.held(&file);
        let get = message::Get {
            id: RequestId(0),
            name: file.name.clone(),
            digest: self.tree.options.algorithm,
            at,
            version,
            cache: match file.next {
                Next::Compare | Next::Fetch => Cache::Use,
                Next::FetchAgain => Cache::Bypass,
            },
            need: Vec::new(),
        };
        let id = link.machine().get(get, lines, link.now());
        self.under_way.insert(id, Work::Get { file, upload: None });
    }

    /// What an earlier connection, or run, left of a large file.
    fn held(&self, file: &File) -> (u64, Option<Version>) {
        if file.entry.size < RESUMABLE_BYTES {
            return (0, None);
        }
        let transfer = transfer_of(self.client, self.tree.options, file);
        let held = self.ground.store.as_ref().map_or(0, |store| store.held(&transfer).at);
        match self.versions.get(&transfer) {
            Some(version) if held > 0 => (held, Some(version.clone())),
            _ => (0, None),
        }
    }

    fn heard(&mut self, event: Event, input: &[u8]) -> Result<(), Trouble> {
        match event {
            Event::Entries(entries) => {
                self.ahead = self.ahead.checked_sub(1).ok_or_else(super::listed_too_much)?;
                self.owed = self.owed.saturating_add(1);
                for entry in entries.entries {
                    self.seen(entry);
                }
                for unread in entries.unread {
                    self.unread(&unread);
                }
            }
            Event::Ok(okay) => {
                self.under_way.remove(&okay.id);
                self.list = Listing::Complete;
                self.leave_to(None);
            }
            Event::Info(info) => self.compared(&info),
            Event::File(file) => self.opened(&file)?,
            Event::Body { id, bytes, .. } => {
                self.arrived(id, input.get(bytes).unwrap_or_default())?;
            }
            Event::End(end) => self.ended(end.id, end.digest),
            Event::Refused { id, refusal } => self.refused(id, refusal)?,
            _ => {}
        }
        Ok(())
    }

    /// An entry of the listed tree.
    fn seen(&mut self, entry: Entry) {
        let Some(path) = self.path_of(&entry.name) else { return };
        self.leave_to(Some(&path));
        if path.parts().next() == Some(PRIVATE) {
            if path.as_bytes() == PRIVATE {
                self.skip(&path, "the directory of an ftx server");
            }
            return;
        }
        let kind = match entry.kind {
            Kind::Directory => PathKind::Directory,
            _ => PathKind::Other,
        };
        if self.tree.options.rules.takes_with_parents(path.as_bytes(), kind) == Verdict::Excluded {
            return;
        }
        if let Some(seen) = &mut self.seen
            && let Err(error) = seen.add(&seen_mark(path.as_bytes()))
        {
            self.whole = Whole::No;
            let message = format!("cannot note what the server has: {error}");
            (self.observer)(TreeNotice::Warning(message));
        }
        if self.collides(&path) {
            return;
        }
        match entry.kind {
            Kind::Directory => self.enter(path, &entry),
            Kind::File => self.found(path, entry),
            Kind::Symlink => self.skip(&path, "a symlink"),
            Kind::Special => self.skip(&path, "a device, FIFO or socket"),
        }
    }

    /// Whether the disk takes something for another file or directory of the tree, which is told.
    fn collides(&mut self, path: &Name) -> bool {
        let Some(folds) = &mut self.folds else { return false };
        match folds.note(path) {
            Ok(Told::Apart) => false,
            Ok(Told::Collides) => {
                let words = "this disk takes it for another name of the tree, which differs only in \
                             upper and lower case; get it alone, with -o";
                self.fail_here(path, &Refusal::new(Code::UnstorableName, words));
                true
            }
            Err(error) => {
                self.folds = None;
                let message = format!("cannot note which names differ only in case: {error}");
                (self.observer)(TreeNotice::Warning(message));
                false
            }
        }
    }

    fn path_of(&self, name: &Name) -> Option<Name> {
        let path = name.as_bytes().strip_prefix(self.tree.name.as_bytes())?.strip_prefix(b"/")?;
        Name::parse(path).ok()
    }

    /// A directory is made before what is in it, with no more rights than it will have, except
    /// that its owner may write.
    fn enter(&mut self, path: Name, entry: &Entry) {
        let mode = Mode::new(entry.mode.bits() | 0o700);
        self.change(make_directory(path.clone(), None, mode));
        self.way.push(Open { path, mtime: entry.mtime, mode: entry.mode });
    }

    /// Directories that this path is not below are complete.
    fn leave_to(&mut self, path: Option<&Name>) {
        while let Some(last) = self.way.last()
            && path.is_none_or(|path| !path.is_or_is_below(&last.path))
            && let Some(Open { path, mtime, mode }) = self.way.pop()
        {
            let change = make_directory(path, Some(mtime), mode);
            self.left.push_back(Left { barrier: self.next_number, change });
        }
    }

    fn leave_directories(&mut self) {
        let first = self.first_unsettled();
        while self.left.front().is_some_and(|left| left.barrier <= first)
            && let Some(left) = self.left.pop_front()
        {
            self.change(left.change);
        }
    }

    /// The first file that is not at its place, and may still come to be.
    fn first_unsettled(&self) -> u64 {
        let numbers = self.under_way.values().filter_map(|work| match work {
            Work::Ask(file) | Work::Get { file, .. } => Some(file.number),
            Work::List | Work::Stopped => None,
        });
        let listed = self.listed.iter().map(|file| file.number);
        let unsettled = self.unsettled.keys().copied();
        numbers.chain(listed).chain(unsettled).min().unwrap_or(self.next_number)
    }

    fn change(&mut self, change: Change) {
        if self.tree.options.mood == Mood::Do {
            self.group.push(Item::Change(change));
        }
    }

    fn found(&mut self, path: Name, entry: Entry) {
        match self.found_again.checked_sub(1) {
            Some(left) => self.found_again = left,
            None => {
                self.found = self.found.saturating_add(1);
                (self.observer)(TreeNotice::Found { bytes: entry.size });
            }
        }
        if self.was_done(&entry) {
            if let Some(left) = self.done_again.checked_sub(1) {
                self.done_again = left;
                return;
            }
            self.done.done_before = self.done.done_before.saturating_add(1);
            return (self.observer)(TreeNotice::Unchanged { name: path.as_bytes() });
        }
        if self.tree.options.update == Update::SizeAndTime && self.is_here(&path, &entry) {
            return self.unchanged(&path);
        }
        let (number, name) = (self.next_number, entry.name.clone());
        self.next_number = number.saturating_add(1);
        let next = match self.tree.options.update {
            Update::Digest => Next::Compare,
            Update::All | Update::SizeAndTime => Next::Fetch,
        };
        self.listed.push_back(File { number, name, path, entry, next });
    }

    fn was_done(&self, entry: &Entry) -> bool {
        self.log.as_ref().is_some_and(|log| log.has(&mark_of(entry)).unwrap_or(false))
    }

    fn is_here(&self, path: &Name, entry: &Entry) -> bool {
        let Some(store) = &self.ground.store else { return false };
        store.stat(path).is_ok_and(|here| {
            here.kind == Kind::File
                && here.size == entry.size
                && super::same_time(here.modified, entry.mtime)
        })
    }

    fn unchanged(&mut self, path: &Name) {
        self.done.unchanged = self.done.unchanged.saturating_add(1);
        (self.observer)(TreeNotice::Unchanged { name: path.as_bytes() });
    }

    /// The server has said the digest of a file.
    fn compared(&mut self, info: &Info) {
        let Some(Work::Ask(mut file)) = self.under_way.remove(&info.id) else { return };
        self.answered(&file);
        match self.digest_here(&file.path, info.size) {
            Some(digest) if Some(digest) == info.digest => self.unchanged(&file.path),
            _ => {
                file.next = Next::Fetch;
                self.listed.push_front(file);
            }
        }
    }

    fn digest_here(&self, path: &Name, size: u64) -> Option<Digest> {
        let reading = self.ground.store.as_ref()?.open_file(path).ok()?;
        if reading.size() != size {
            return None;
        }
        let mut running = Running::new(self.tree.options.algorithm);
        let mut buffer = vec![0; READ_BYTES];
        while running.offset() < size {
            let count = reading.read_at(&mut buffer, running.offset()).ok()?;
            if count == 0 {
                return None;
            }
            running.update(buffer.get(..count)?);
        }
        Some(running.digest())
    }

    fn answered(&mut self, file: &File) {
        let cost = Name::line_bytes(file.name.as_bytes());
        self.line_bytes = self.line_bytes.saturating_sub(cost);
    }

    /// A file is about to come.
    fn opened(&mut self, opened: &message::File) -> Result<(), Trouble> {
        let Some(Work::Get { file, upload }) = self.under_way.get_mut(&opened.id) else {
            return Ok(());
        };
        let Some(store) = &self.ground.store else { return Ok(()) };
        let transfer = transfer_of(self.client, self.tree.options, file);
        if opened.at == 0 && opened.size >= RESUMABLE_BYTES {
            self.versions.note(transfer, &opened.version);
        }
        let begin = |transfer| store::Put {
            name: file.path.clone(),
            algorithm: self.tree.options.algorithm,
            size: Some(opened.size),
            at: opened.at,
            transfer,
            condition: self.tree.options.condition.clone(),
            durability: Durability::Full,
            modified: Some(opened.mtime),
            mode: Some(opened.mode),
        };
        let mut begun = store.begin(begin(transfer));
        if begun.is_err() && opened.at == 0 {
            // Something is held under this id that cannot be gone on with.
            begun = store.begin(begin(crate::put::new_id()?));
        }
        match begun {
            Ok(begun) => *upload = Some(Box::new(begun)),
            Err(refusal) => self.stop(opened.id, &refusal)?,
        }
        Ok(())
    }

    /// This side cannot take the file.
    fn stop(&mut self, id: RequestId, refusal: &Refusal) -> Result<(), Trouble> {
        if let Some(Work::Get { file, .. }) = self.under_way.insert(id, Work::Stopped) {
            self.answered(&file);
            self.fail_here(&file.path, refusal);
        }
        match &self.link {
            Some(link) => {
                link.send(|machine, out, _| machine.abort(id, Code::Aborted, out))?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn arrived(&mut self, id: RequestId, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(Work::Get { file, upload: Some(upload), .. }) = self.under_way.get_mut(&id) else {
            return Ok(());
        };
        self.patience.progress();
        (self.observer)(TreeNotice::Moved {
            bytes: bytes.len() as u64,
            name: file.path.as_bytes(),
        });
        match upload.write(bytes) {
            Ok(Some(checkpoint)) => self.group.push(Item::Keep(checkpoint)),
            Ok(None) => {}
            Err(refusal) => {
                self.drop_upload(id);
                self.stop(id, &refusal)?;
            }
        }
        Ok(())
    }

    fn drop_upload(&mut self, id: RequestId) {
        if let Some(Work::Get { upload, .. }) = self.under_way.get_mut(&id)
            && let (Some(upload), Some(store)) = (upload.take(), &self.ground.store)
        {
            store.discard(*upload);
        }
    }

    /// Every byte of a file has come.
    fn ended(&mut self, id: RequestId, digest: Digest) {
        let Some(Work::Get { mut file, upload: Some(upload), .. }) = self.under_way.remove(&id)
        else {
            return;
        };
        self.answered(&file);
        let Some(store) = &self.ground.store else { return };
        let size = upload.offset();
        let store::Spent { disk, hash } = upload.spent();
        self.done.spent.add_part(Spent { disk, hash, ..Spent::default() });
        match upload.finish(store, size, digest) {
            Ok(finished) => {
                let number = file.number;
                self.group_bytes = self.group_bytes.saturating_add(size);
                self.group.push(Item::File { number, finished: Box::new(finished) });
                file.entry.size = size;
                self.unsettled.insert(number, file);
            }
            Err(refusal)
                if refusal.code == Code::DigestMismatch && file.next != Next::FetchAgain =>
            {
                // Perhaps the server's memory of it is out of date: it has to read it again.
                file.next = Next::FetchAgain;
                self.listed.push_front(file);
            }
            Err(refusal) if refusal.code == Code::DigestMismatch => {
                let message =
                    format!("get {}: the bytes that arrived are not the server's", file.name);
                self.fail(&file.path, &Failure::new(Class::Integrity, message));
            }
            Err(refusal) => self.fail_here(&file.path, &refusal),
        }
    }

    fn refused(&mut self, id: RequestId, refusal: Refusal) -> Result<(), Trouble> {
        self.drop_upload(id);
        let Some(work) = self.under_way.remove(&id) else { return Ok(()) };
        if refusal.code.retry() == Again::Later {
            return Err(Trouble::Refused(refusal));
        }
        let mut file = match work {
            Work::List => return Err(Trouble::Refused(refusal)),
            Work::Stopped => return Ok(()),
            Work::Ask(file) | Work::Get { file, .. } => file,
        };
        self.answered(&file);
        if refusal.code.retry() == Again::Fresh && file.next != Next::FetchAgain {
            file.next = Next::FetchAgain;
            self.listed.push_front(file);
        } else {
            let what = format!("get {}", file.name);
            let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
            self.fail(&file.path, &failure);
        }
        Ok(())
    }

    fn unread(&mut self, unread: &Unread) {
        self.whole = Whole::No;
        let name = unread.name.as_ref().unwrap_or(self.tree.name).clone();
        let refusal = Refusal::new(unread.code, unread.message.clone());
        let what = format!("list {name}");
        let failure = Trouble::Refused(refusal).into_failure(&what, &self.client.server);
        match self.path_of(&name) {
            Some(path) => self.fail(&path, &failure),
            None => self.fail_target(&failure),
        }
    }
}

/// Settling what has arrived.
impl Job<'_, '_> {
    /// Gives what has arrived to the settler, if it has nothing to do, or if it is much.
    fn hand_over_group(&mut self) {
        let Some(settler) = &mut self.settler else { return self.group.clear() };
        if self.group.is_empty() {
            return;
        }
        if !settler.is_idle() {
            if self.group.len() < GROUP_ITEMS && self.group_bytes < GROUP_BYTES {
                return;
            }
            let answers = timed(&mut self.done.spent.sync, || settler.wait());
            self.settled(answers.unwrap_or_default());
        }
        if let Some(settler) = &mut self.settler {
            settler.settle(std::mem::take(&mut self.group));
            self.group_bytes = 0;
        }
    }

    fn take_answers(&mut self) {
        while let Some(answers) = self.settler.as_mut().and_then(Settler::answers) {
            self.settled(answers);
        }
    }

    /// Settles what has arrived, and waits for it.
    fn settle_all(&mut self) {
        loop {
            self.leave_directories();
            self.hand_over_group();
            let Some(settler) = &mut self.settler else { return };
            let answers = timed(&mut self.done.spent.sync, || settler.wait());
            let Some(answers) = answers else { return };
            self.settled(answers);
            if self.group.is_empty() && self.settler.as_ref().is_none_or(Settler::is_idle) {
                self.leave_directories();
                if self.group.is_empty() {
                    return;
                }
            }
        }
    }

    fn settled(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            match answer {
                Answer::File { number, result } => self.file_settled(number, result),
                Answer::Change { change, result } => self.changed(&change, result),
            }
        }
    }

    fn file_settled(&mut self, number: u64, result: Result<Settled, Refusal>) {
        let Some(file) = self.unsettled.remove(&number) else { return };
        match result {
            Ok(Settled::Stored(stored)) => {
                if let Some(log) = &mut self.log
                    && let Err(error) = log.add(&mark_of(&file.entry))
                {
                    self.log = None;
                    let message = format!("cannot keep the log for going on later: {error}");
                    (self.observer)(TreeNotice::Warning(message));
                }
                self.count(&file, Some(stored.digest));
            }
            Ok(Settled::Changed(_)) => {}
            Err(refusal) => self.fail_here(&file.path, &refusal),
        }
    }

    fn changed(&mut self, change: &Change, result: Result<Settled, Refusal>) {
        match (change, result) {
            // What could not be made gets no time either, and that is told already.
            (Change::MakeDirectory { name, modified: Some(_), .. }, Err(_))
                if self.unmade.remove(name) => {}
            (Change::MakeDirectory { name, modified: None, .. }, Err(refusal)) => {
                self.unmade.insert(name.clone());
                self.fail_here(name, &refusal);
            }
            (Change::Remove { name, .. }, Ok(_)) => {
                self.done.removed = self.done.removed.saturating_add(1);
                (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
            }
            (
                Change::MakeDirectory { name, .. }
                | Change::Move { name, .. }
                | Change::Remove { name, .. },
                Err(refusal),
            ) => {
                let benign = matches!(change, Change::Remove { .. })
                    && matches!(refusal.code, Code::NotEmpty | Code::NotFound);
                if !benign {
                    self.fail_here(name, &refusal);
                }
            }
            _ => {}
        }
    }

    fn count(&mut self, file: &File, digest: Option<Digest>) {
        self.done.files = self.done.files.saturating_add(1);
        self.done.bytes = self.done.bytes.saturating_add(file.entry.size);
        let (name, bytes) = (file.path.as_bytes(), file.entry.size);
        (self.observer)(TreeNotice::File { name, bytes, digest });
    }

    fn fail_here(&mut self, path: &Name, refusal: &Refusal) {
        use std::os::unix::ffi::OsStrExt;
        let shown = self.ground.path.join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        let shown = crate::failure::shown(&shown);
        let message = match (refusal.code, &self.tree.options.condition) {
            (Code::Exists, Condition::Absent) => {
                format!("{shown} is there already; it was left as it is")
            }
            _ => {
                let words = refusal.message.trim_end_matches('.');
                format!("cannot write {shown}: {words}")
            }
        };
        self.fail(path, &Failure::new(Class::Local, message));
    }

    fn fail_target(&mut self, failure: &Failure) {
        self.done.count_failure(failure);
        (self.observer)(TreeNotice::Failed { name: b"", failure });
    }

    fn fail(&mut self, name: &Name, failure: &Failure) {
        self.done.count_failure(failure);
        (self.observer)(TreeNotice::Failed { name: name.as_bytes(), failure });
    }

    fn skip(&mut self, name: &Name, why: &'static str) {
        self.done.skipped = self.done.skipped.saturating_add(1);
        let mark = seen_mark(name.as_bytes());
        if self.told.contains(&mark) {
            return;
        }
        if self.told.len() < TOLD_MAX {
            self.told.insert(mark);
        }
        (self.observer)(TreeNotice::Skipped { name: name.as_bytes(), why });
    }

    /// Removes what the server does not have.
    fn remove_extra(&mut self) -> Result<(), Failure> {
        let Some(seen) = self.seen.take() else { return Ok(()) };
        if self.whole == Whole::No || self.done.failed > 0 {
            let message = "nothing was removed, because not everything could be listed and got";
            (self.observer)(TreeNotice::Warning(message.to_owned()));
            self.seen = Some(seen);
            return Ok(());
        }
        let failed =
            |error: &std::io::Error| Failure::local("cannot read", &self.ground.path, error);
        let opened = Native.open_root(&self.ground.path);
        let mut walk = match opened.and_then(|root| Walk::new(Native, root.into())) {
            Ok(walk) => walk,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        let mut emptied: BTreeSet<Vec<u8>> = BTreeSet::new();
        while let Some(step) = walk.next() {
            let (path, kind, depth) = match step {
                Step::Seen { part, .. } if part == PRIVATE && walk.depth() == 0 => continue,
                Step::Seen { part, stat } => (walk.path_of(&part), stat.kind, Depth::All),
                Step::Left { part, .. } => {
                    let path = walk.path_of(&part);
                    if !emptied.remove(&path) {
                        continue;
                    }
                    (path, FileKind::Symlink, Depth::One)
                }
                Step::Unread { .. } => continue,
            };
            let rules = &self.tree.options.rules;
            let path_kind = match kind {
                FileKind::Directory => PathKind::Directory,
                _ => PathKind::Other,
            };
            if depth == Depth::All {
                if rules.takes_with_parents(&path, path_kind) == Verdict::Excluded {
                    continue;
                }
                let is_seen = seen.has(&seen_mark(&path)).unwrap_or(true);
                if kind == FileKind::Directory && (is_seen || !rules.is_empty()) {
                    if walk.enter().is_ok() && !is_seen {
                        emptied.insert(path);
                    }
                    continue;
                }
                if is_seen {
                    continue;
                }
            }
            let Ok(name) = Name::parse(&path) else { continue };
            self.remove(name, depth);
        }
        seen.remove();
        Ok(())
    }

    fn remove(&mut self, name: Name, depth: Depth) {
        if self.tree.options.mood == Mood::Tell {
            self.done.removed = self.done.removed.saturating_add(1);
            return (self.observer)(TreeNotice::Removed { name: name.as_bytes() });
        }
        self.group.push(Item::Change(Change::Remove { name, depth, durability: Durability::Full }));
        if self.group.len() >= GROUP_ITEMS {
            self.settle_all();
        }
    }
}

/// What stands for a path among those that were seen.
fn seen_mark(path: &[u8]) -> super::log::Mark {
    mark(path, 0, FileTime::nearest(0, 0), b"")
}

fn make_directory(name: Name, modified: Option<FileTime>, mode: Mode) -> Change {
    Change::MakeDirectory {
        name,
        parents: Parents::Make,
        condition: Condition::Always,
        modified,
        mode: Some(mode),
        durability: Durability::Full,
    }
}

/// The same for the same file, in every run.
fn transfer_of(client: &Client, options: &TreeOptions, file: &File) -> TransferId {
    let mut hash = Sha256::new();
    for field in [
        client.server.to_string().as_bytes(),
        file.name.as_bytes(),
        options.algorithm.as_str().as_bytes(),
        &file.entry.size.to_le_bytes(),
        &file.entry.mtime.seconds().to_le_bytes(),
        &file.entry.mtime.nanoseconds().to_le_bytes(),
        // Not the one that could not be gone on with.
        &[u8::from(file.next == Next::FetchAgain)],
    ] {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    let mut id = [0; 16];
    id.iter_mut().zip(hash.finalize()).for_each(|(to, byte)| *to = byte);
    TransferId(id)
}

fn mark_of(entry: &Entry) -> super::log::Mark {
    mark(entry.name.as_bytes(), entry.size, entry.mtime, b"")
}

/// What the first bytes of large files came from, over the end of the process.
struct Versions {
    known: HashMap<TransferId, Version>,
    file: Option<(std::fs::File, PathBuf)>,
}

/// One line of it.
#[derive(Serialize, Deserialize)]
struct Noted {
    transfer: TransferId,
    version: Version,
}

impl Versions {
    /// For a job that does nothing.
    fn none() -> Self {
        Self { known: HashMap::new(), file: None }
    }

    /// Without it a large file begins again after the end of the process, and no worse.
    fn open(server: &ServerAddress, key: &[u8]) -> Self {
        let opened = state_path("versions", server, key).and_then(|path| {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let file = std::fs::File::options().append(true).create(true).open(&path)?;
            Ok((text, file, path))
        });
        match opened {
            Ok((text, file, path)) => {
                let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
                let known = lines.map(|noted: Noted| (noted.transfer, noted.version)).collect();
                Self { known, file: Some((file, path)) }
            }
            Err(_) => Self::none(),
        }
    }

    fn get(&self, transfer: &TransferId) -> Option<&Version> {
        self.known.get(transfer)
    }

    fn note(&mut self, transfer: TransferId, version: &Version) {
        let noted = Noted { transfer, version: version.clone() };
        if let (Some((file, _)), Ok(line)) = (&mut self.file, serde_json::to_string(&noted)) {
            // See `open`.
            let _ = writeln!(file, "{line}");
        }
        self.known.insert(transfer, noted.version);
    }

    fn remove(&mut self) {
        if let Some((_, path)) = self.file.take() {
            // One that stays says what is not true any more, and is found out when it is used.
            let _ = std::fs::remove_file(path);
        }
    }
}
