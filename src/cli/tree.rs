//! `ftx put -r`, `ftx get -r` and what belongs to them: which files, under which names.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ftx_client::tree::{
    Extra, GetTree, Interrupted, Mood, PutTree, Rule, Rules, Single, TreeDone, TreeNotice,
    TreeOptions, Update,
};
use ftx_client::{Class, Client, Code, Durability, Failure, Name, Remote, ServerAddress};
use ftx_disk::sys::make_durably;
use ftx_protocol::Escaped;

use super::exit::Exit;
use super::job::{Action, JobReport, Words};
use super::remote::{Place, without_slash, wrong};
use super::report::Form;

/// What put and get of trees have in common.
#[derive(Debug, Default, Args)]
pub struct Selection {
    /// Directories too, with everything in them
    #[arg(short, long)]
    recursive: bool,

    /// Skip files that are there with the same size and time of last modification
    #[arg(short, long)]
    update: bool,

    /// Skip files that are there with the same bytes: compares digests
    #[arg(long, conflicts_with = "update")]
    checksum: bool,

    /// Remove what the source does not have: never what is excluded or was skipped, and nothing if
    /// anything failed
    #[arg(long, requires = "recursive")]
    delete: bool,

    /// Only say what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// Leave out what matches, by the rules of gitignore
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,

    /// Take what matches, though an --exclude leaves it out
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,

    /// Leave out what matches a pattern in this file, one a line
    #[arg(long, value_name = "FILE")]
    exclude_from: Vec<PathBuf>,
}

/// The words of put that make it a job of many files.
#[derive(Debug, Args)]
pub struct PutOptions {
    #[command(flatten)]
    selection: Selection,

    /// The directory on the server that the files are put in
    #[arg(long, value_name = "DIR")]
    pub(super) to: Option<OsString>,

    /// Put the files whose paths are in this file, one a line; - is standard input. Their names on
    /// the server are their paths
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub(super) files_from: Option<PathBuf>,

    /// Paths in --files-from end with NUL, not with a line break
    // A file conflicts with the list, and with that the list would not be asked for.
    #[arg(short = '0', long, requires = "files_from", conflicts_with = "files")]
    null: bool,
}

/// A get has no other words that make it a job of many files.
impl Selection {
    /// Gets trees; returns what is left: names that turned out to be files, and are to be fetched.
    pub fn get(
        &self,
        names: &[OsString],
        output: Option<&Path>,
        each: TreeOptions,
        form: Form,
        client: &dyn Fn(Option<ServerAddress>) -> Client,
    ) -> Result<(Exit, Vec<OsString>), Failure> {
        allow_descriptors();
        let options = self.options(each)?;
        let places = names.iter().map(|name| Place::parse(name));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let is_top = places.iter().any(|place| place.name.is_none());
        if is_top && names.len() > 1 {
            return Err(wrong(
                "/ is all that a server has, and comes into the target itself: get it alone",
            ));
        }
        if is_top && options.extra == Extra::Remove && output.is_none() {
            return Err(wrong(
                "--delete removes everything here that the server does not have; if that is meant, say -o . too",
            ));
        }
        let words = Words { action: Action::Get, mood: options.mood };
        let mut report = JobReport::new(form, words).together();
        let mut total = TreeDone::default();
        let mut files = Vec::new();
        let destination = Destination::of(output, &options)?;
        if names.len() > 1 && matches!(destination, Destination::Path(_)) {
            return Err(wrong("several names need -o to be a directory, or to end in /"));
        }
        for (word, Place { server, name }) in names.iter().zip(places) {
            let client = client(server);
            let target = destination.target(&client, name.as_ref());
            let tree = GetTree { name: name.as_ref(), target: &target, options: &options };
            match one(&client, &tree, &mut report) {
                Ok(Some(done)) => total = total.and(done),
                Ok(None) => files.push(word.clone()),
                Err(failure) if names.len() > 1 && !failure.class.is_about_the_way() => {
                    let name = target.as_os_str().as_bytes();
                    report.enter(b"");
                    report.notice(TreeNotice::Failed { name, failure: &failure });
                    total.count_failure(&failure);
                }
                Err(failure) => return Ok((report.finish(Err(failure)), Vec::new())),
            }
        }
        if files.len() == names.len() {
            return Ok((Exit::Done, files));
        }
        Ok((report.finish(Ok(total)), files))
    }
}

/// Gets what one name stands for. `None` where that is a file, to be fetched as any single file is.
fn one(
    client: &Client,
    tree: &GetTree<'_>,
    report: &mut JobReport,
) -> Result<Option<TreeDone>, Failure> {
    report.enter(tree.target.as_os_str().as_bytes());
    let result = client.get_tree(tree, &mut |notice| report.notice(notice));
    match (result, tree.name) {
        (Err(failure), Some(name)) if failure.class == Class::Refused(Code::NotADirectory) => {
            report.enter(b"");
            one_file(client, name, tree, report)
        }
        (result, _) => result.map(Some),
    }
}

/// The same of a file: there may be nothing to do, or only something to say.
fn one_file(
    client: &Client,
    name: &Name,
    tree: &GetTree<'_>,
    report: &mut JobReport,
) -> Result<Option<TreeDone>, Failure> {
    if tree.options.rules.excludes_file(name.last_part()) {
        return Ok(Some(TreeDone::default()));
    }
    let looked = client.look_at_file(name, tree, &mut |notice| report.notice(notice))?;
    let name = tree.target.as_os_str().as_bytes();
    Ok(match (looked, tree.options.mood) {
        (Single::Unchanged, _) => {
            report.notice(TreeNotice::Unchanged { name });
            Some(TreeDone { unchanged: 1, ..TreeDone::default() })
        }
        (Single::Fetch { bytes }, Mood::Tell) => {
            report.notice(TreeNotice::File { name, stored_as: None, bytes, digest: None });
            Some(TreeDone { files: 1, bytes, ..TreeDone::default() })
        }
        (Single::Fetch { .. }, Mood::Do) => None,
    })
}

/// Where trees go, as -o says it.
#[derive(Debug, Clone, Copy)]
enum Destination<'a> {
    /// Here, each under the last part of its name. The top of a server has none: what is in it comes here.
    Here,
    /// Into this directory, in the same way.
    In(&'a Path),
    /// This is what the tree is called here.
    Path(&'a Path),
}

impl<'a> Destination<'a> {
    /// A path that ends in a slash is a directory, and is made if something is to be put there.
    fn of(output: Option<&'a Path>, options: &TreeOptions) -> Result<Self, Failure> {
        let Some(path) = output else { return Ok(Self::Here) };
        if path.as_os_str().as_bytes().ends_with(b"/") {
            if options.mood == Mood::Do {
                let made = match options.durability {
                    Durability::None => std::fs::create_dir_all(path),
                    // What comes into it lasts no longer than it does.
                    Durability::Memory | Durability::Full => make_durably(path, 0o777),
                };
                made.map_err(|error| Failure::local("cannot make", path, &error))?;
            }
            return Ok(Self::In(path));
        }
        Ok(if path.is_dir() { Self::In(path) } else { Self::Path(path) })
    }

    /// Where a name goes. A job that was interrupted goes on where it was, though that is a directory by now.
    fn target(self, client: &Client, name: Option<&Name>) -> PathBuf {
        let last = name.map(|name| Path::new(OsStr::from_bytes(name.last_part())));
        match (self, last) {
            (Self::Here, last) => last.unwrap_or(Path::new(".")).to_owned(),
            (Self::In(path) | Self::Path(path), _)
                if client.was_getting(name, path) == Interrupted::Yes =>
            {
                path.to_owned()
            }
            (Self::In(directory), Some(last)) => directory.join(last),
            (Self::In(path), None) | (Self::Path(path), _) => path.to_owned(),
        }
    }
}

/// The files of the command, and --as.
pub struct Sources<'a> {
    pub files: &'a [OsString],
    pub name: Option<&'a OsString>,
}

/// A job that can be run.
pub struct Job {
    sources: Vec<(PathBuf, Name)>,
    /// Sources that are directories, where -r was not said.
    directories: Vec<(PathBuf, Name)>,
    server: Option<ServerAddress>,
    options: TreeOptions,
    key: Vec<u8>,
    about: (OsString, String),
}

impl Selection {
    /// Whether it is more than single files.
    pub fn is_wanted(&self) -> bool {
        self.recursive
            || self.update
            || self.checksum
            || self.dry_run
            || !self.exclude.is_empty()
            || !self.exclude_from.is_empty()
            || !self.include.is_empty()
    }

    fn rules(&self) -> Result<Rules, Failure> {
        if !self.include.is_empty() && self.exclude.is_empty() && self.exclude_from.is_empty() {
            return Err(wrong(
                "--include takes back what an --exclude leaves out; to move nothing else, say --exclude '*' too",
            ));
        }
        let files = self.exclude_from.iter().cloned().map(Rule::ExcludeFrom);
        let excluded = self.exclude.iter().cloned().map(Rule::Exclude);
        let included = self.include.iter().cloned().map(Rule::Include);
        Rules::new(&files.chain(excluded).chain(included).collect::<Vec<_>>())
    }

    /// The options of a job, from those that say how each of its files is moved.
    fn options(&self, each: TreeOptions) -> Result<TreeOptions, Failure> {
        Ok(TreeOptions {
            update: match (self.update, self.checksum) {
                (true, _) => Update::SizeAndTime,
                (false, true) => Update::Digest,
                (false, false) => Update::All,
            },
            extra: if self.delete { Extra::Remove } else { Extra::Keep },
            mood: if self.dry_run { Mood::Tell } else { Mood::Do },
            rules: self.rules()?,
            ..each
        })
    }
}

impl PutOptions {
    /// Whether it is more than single files.
    pub fn is_wanted(&self) -> bool {
        self.selection.is_wanted() || self.to.is_some() || self.files_from.is_some()
    }

    /// Finds out what is to be put where.
    pub fn prepare(&self, words: &Sources<'_>, each: TreeOptions) -> Result<Job, Failure> {
        let to = self.to.as_ref().map(|to| Remote::parse(without_slash(to))).transpose()?;
        if words.files.iter().any(|file| file == "-") {
            return Err(wrong(
                "- is standard input: put it alone, with --as NAME and without the words for trees",
            ));
        }
        let named = words.name.map(|name| Remote::parse(name.as_bytes())).transpose()?;
        let server = to.as_ref().or(named.as_ref()).and_then(|remote| remote.server.clone());
        let directory = to.map(|to| to.name);
        let options = self.selection.options(each)?;
        // Of a directory the rules say what in it takes part. What is not there is told.
        let takes = |path: &Path, listed: &[u8]| {
            !options.rules.excludes_file(listed)
                || path.is_dir()
                || path.symlink_metadata().is_err()
        };
        let mut sources = Vec::new();
        match (&self.files_from, named) {
            (Some(list), _) => {
                for path in self.listed(list)? {
                    let listed = name_of_path(&path)?;
                    if takes(&path, &listed) {
                        sources.push((path, inside(directory.as_ref(), &listed)?));
                    }
                }
            }
            (None, Some(Remote { name, .. })) => {
                let path = words.files.first().map(PathBuf::from).unwrap_or_default();
                sources.push((path, name));
            }
            (None, None) => {
                for file in words.files {
                    let path = PathBuf::from(file);
                    let name = self.name_of_source(directory.as_ref(), &path)?;
                    sources.push((path, name));
                }
            }
        }
        if self.files_from.is_none() {
            sources
                .retain(|(path, _)| takes(path, path.file_name().unwrap_or_default().as_bytes()));
        }
        refuse_names_given_twice(&sources)?;
        if options.extra == Extra::Remove {
            refuse_names_in_others(&sources)?;
        }
        let (directories, sources): (Vec<_>, Vec<_>) =
            sources.into_iter().partition(|(path, _)| !self.selection.recursive && path.is_dir());
        let mut key = Vec::new();
        for (path, name) in &sources {
            key.extend_from_slice(path.as_os_str().as_bytes());
            key.push(0);
            key.extend_from_slice(name.as_bytes());
            key.push(0);
        }
        let about = about(&sources);
        Ok(Job { sources, directories, server, options, key, about })
    }

    fn listed(&self, list: &Path) -> Result<Vec<PathBuf>, Failure> {
        let failed = |error: &std::io::Error| Failure::local("cannot read", list, error);
        let mut bytes = Vec::new();
        match list.as_os_str().as_bytes() {
            b"-" => std::io::stdin().read_to_end(&mut bytes),
            _ => std::fs::File::open(list).and_then(|mut file| file.read_to_end(&mut bytes)),
        }
        .map_err(|error| failed(&error))?;
        let end = if self.null { 0 } else { b'\n' };
        let paths = bytes.split(|&byte| byte == end).filter(|path| !path.is_empty());
        Ok(paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect())
    }

    /// The last part of a path, in the directory of --to.
    fn name_of_source(&self, directory: Option<&Name>, path: &Path) -> Result<Name, Failure> {
        let last = match path.file_name() {
            Some(last) => last.to_owned(),
            // `.` and the like are called as they are called above.
            None if directory.is_some() => std::fs::canonicalize(path)
                .map_err(|error| Failure::local("cannot read", path, &error))?
                .file_name()
                .map(OsStr::to_owned)
                .unwrap_or_default(),
            None => {
                let path = Escaped::of(path);
                return Err(wrong(&format!(
                    "{path} has no last part to be called by on the server; say --as NAME or --to DIR"
                )));
            }
        };
        inside(directory, last.as_bytes())
    }
}

impl Job {
    /// The server that is part of a name.
    pub fn server(&self) -> Option<ServerAddress> {
        self.server.clone()
    }

    pub fn run(self, client: &Client, form: Form) -> Exit {
        allow_descriptors();
        let words = Words { action: Action::Put, mood: self.options.mood };
        let mut report = JobReport::new(form, words).together();
        let mut refused = TreeDone::default();
        for (path, name) in &self.directories {
            let failure = Failure::is_directory(path);
            report.notice(TreeNotice::Failed { name: name.as_bytes(), failure: &failure });
            refused.count_failure(&failure);
        }
        if self.sources.is_empty() && refused.failed > 0 {
            return report.finish(Ok(refused));
        }
        let tree = PutTree {
            sources: &mut self.sources.into_iter(),
            job: &self.key,
            about: self.about,
            options: &self.options,
        };
        let result = client.put_tree(tree, &mut |notice| report.notice(notice));
        report.finish(result.map(|done| refused.and(done)))
    }
}

/// A job has directories and files open for what is under way: more than a shell allows at first.
fn allow_descriptors() {
    // Those that it has are enough for most, and who comes to lack one is told.
    let _ = ftx_disk::sys::raise_descriptor_limit();
}

/// What a person calls these sources, and where they go.
fn about(sources: &[(PathBuf, Name)]) -> (OsString, String) {
    let Some((path, name)) = sources.first() else { return Default::default() };
    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    match sources.len() {
        1 => (path.into_os_string(), name.to_string()),
        more => (path.into_os_string(), format!("{name} and {} more", more.saturating_sub(1))),
    }
}

/// One of the two would be gone, though its digest was printed.
fn refuse_names_given_twice(sources: &[(PathBuf, Name)]) -> Result<(), Failure> {
    let mut names: Vec<(&Name, &Path)> =
        sources.iter().map(|(path, name)| (name, path.as_path())).collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        if let [(name, one), (other, another)] = pair
            && name == other
            && one != another
        {
            let [one, another] = [one, another].map(Escaped::of);
            return Err(wrong(&format!(
                "{one} and {another} would both be {name} on the server; put them one by one, with --as"
            )));
        }
    }
    Ok(())
}

/// It would be put, and then be removed as something that the other source does not have.
fn refuse_names_in_others(sources: &[(PathBuf, Name)]) -> Result<(), Failure> {
    let paths: BTreeMap<&Name, &Path> =
        sources.iter().map(|(path, name)| (name, path.as_path())).collect();
    for (path, name) in sources {
        let above = std::iter::successors(name.parent(), Name::parent);
        let other =
            above.filter_map(|above| paths.get(&above)).find(|other| !is_below(path, other));
        if let Some(other) = other {
            let [path, other] = [path, *other].map(Escaped::of);
            return Err(wrong(&format!(
                "{path} would be {name} on the server, among what is in {other}, and --delete would remove \
                 it there; put them one by one"
            )));
        }
    }
    Ok(())
}

fn is_below(path: &Path, other: &Path) -> bool {
    let [path, other] = [path, other].map(std::path::absolute);
    matches!((path, other), (Ok(path), Ok(other)) if path.starts_with(&other))
}

/// A path as it was given, as a name has it: without what leads to the root or stays where it is.
pub fn name_of_path(path: &Path) -> Result<Vec<u8>, Failure> {
    use std::path::Component;
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.as_bytes()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                let path = Escaped::of(path);
                return Err(wrong(&format!("{path} leads up, and cannot be a name on the server")));
            }
        }
    }
    Ok(parts.join(&b'/'))
}

/// A name in a directory; `None` is the top.
pub fn inside(directory: Option<&Name>, part: &[u8]) -> Result<Name, Failure> {
    Name::inside(directory, part).map_err(|error| {
        wrong(&format!("\"{}\" cannot be a name on the server: {error}", Escaped(part)))
    })
}
