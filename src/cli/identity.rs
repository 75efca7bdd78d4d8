//! Where a server's identity comes from: files of its own, made when they are first needed, or a
//! certificate and a key that somebody else renews.
//!
//! It reads and writes these files and nothing else. What is shown to clients is
//! [`ftx_channel::Identity`].

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use ftx_channel::{Identity, Pin};
use ftx_disk::landing::{Landing, Replace};
use ftx_disk::sys::Native;
use ftx_protocol::{Durability, FileTime, Mode};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustix::fs::OFlags;

const KEY: &str = "key.pem";
const CERTIFICATE: &str = "cert.pem";

/// A chain of certificates is a few KiB. More is another kind of file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// Clients know a server of ours by its key, so its certificate need never end. 4096 is far away, and
/// every program can still reckon with it.
const LAST_YEAR: i32 = 4096;

/// Where an identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory with a key and a certificate that vouches for itself.
    Own(PathBuf),
    /// `--cert` and `--key`.
    Given { certificate: PathBuf, key: PathBuf },
}

/// Whether a name may be a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Whoever renews certificates often has links to them.
    Followed,
    /// Nobody made one for what is ours, unless to have something else read.
    Refused,
}

/// An identity, and where it is read anew from.
#[derive(Debug, Clone)]
pub struct Kept {
    pub identity: Arc<Identity>,
    source: Source,
}

impl Source {
    /// Whether there is something to load: of one's own, a key; what is given is there, or that is an
    /// error.
    pub fn exists(&self) -> bool {
        match self {
            Self::Own(directory) => directory.join(KEY).exists(),
            Self::Given { .. } => true,
        }
    }

    /// Makes what is missing of an identity of one's own, and loads it.
    pub fn make_and_load(self) -> Result<Kept> {
        if let Self::Own(directory) = &self {
            let failed = || format!("cannot make an identity in {}", directory.display());
            make(directory).with_context(failed)?;
        }
        self.load()
    }

    pub fn load(self) -> Result<Kept> {
        let (certificate, key) = self.read()?;
        let identity = Identity::from_pem(&certificate, &key).with_context(|| self.names())?;
        Ok(Kept { identity: Arc::new(identity), source: self })
    }

    /// The file that nobody must get.
    pub fn key(&self) -> PathBuf {
        match self {
            Self::Own(directory) => directory.join(KEY),
            Self::Given { key, .. } => key.clone(),
        }
    }

    fn certificate(&self) -> PathBuf {
        match self {
            Self::Own(directory) => directory.join(CERTIFICATE),
            Self::Given { certificate, .. } => certificate.clone(),
        }
    }

    /// The directories in which a renewed identity appears. Whoever renews certificates often has
    /// links to them in one directory, and the files in another.
    pub fn directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for path in [self.certificate(), self.key()] {
            for path in [path.canonicalize().ok(), Some(path)].into_iter().flatten() {
                let directory = match path.parent() {
                    Some(parent) if parent != Path::new("") => parent.to_owned(),
                    _ => PathBuf::from("."),
                };
                if !directories.contains(&directory) {
                    directories.push(directory);
                }
            }
        }
        directories
    }

    fn names(&self) -> String {
        format!("{} and {}", self.certificate().display(), self.key().display())
    }

    fn read(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let key = self.key();
        let links = match self {
            Self::Own(directory) => {
                check(directory)?;
                Links::Refused
            }
            Self::Given { .. } => Links::Followed,
        };
        let (bytes, mode) = read(&key, links)?;
        // Who keeps a key elsewhere may have a group for it. Ours is for nobody else.
        if matches!(self, Self::Own(_)) && mode & 0o077 != 0 {
            bail!(
                "others can read {0}: whoever has this key can pass for this server. If it is \
                 certain that nobody has read it: chmod 600 {0}; else remove {1}, and all clients \
                 log in anew",
                key.display(),
                self.certificate().parent().unwrap_or(Path::new("/")).display()
            );
        }
        Ok((read(&self.certificate(), links)?.0, bytes))
    }
}

impl Kept {
    /// Reads the files again. If that gives nothing that can be used, all stays as it is.
    pub fn reload(&self) -> Result<Reloaded> {
        let before = self.identity.pin();
        let (certificate, key) = self.source.read()?;
        let replaced = self.identity.replace(&certificate, &key);
        replaced.with_context(|| self.source.names())?;
        let now = self.identity.pin();
        Ok(if now == before { Reloaded::SameKey(now) } else { Reloaded::OtherKey(now) })
    }

    /// What whoever wants to use the server is told: where it is, and what its key is, unless others
    /// vouch for it.
    pub fn introduction(&self, address: SocketAddr) -> String {
        let host = host_of(address);
        match self.source {
            Source::Own(_) => format!("ftx login ftx://{host}#{}", self.identity.pin()),
            Source::Given { .. } => format!("ftx login ftx://{host}"),
        }
    }

    pub fn directories(&self) -> Vec<PathBuf> {
        self.source.directories()
    }
}

/// What a reload came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// Nothing, or another certificate for the same key.
    SameKey(Pin),
    /// Whoever knows the server by its key does not know it any more.
    OtherKey(Pin),
}

/// How others reach an address: one that stands for all of this machine's has the machine's name.
fn host_of(address: SocketAddr) -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_name = |character: char| character.is_ascii_alphanumeric() || "-.".contains(character);
    if address.ip().is_unspecified() && !name.is_empty() && name.chars().all(is_name) {
        return format!("{name}:{}", address.port());
    }
    address.to_string()
}

/// Nobody but its owner may change what is in a directory with a key of ours. Whoever may change a
/// directory above it could otherwise have us read, and write, somewhere else: by a link.
fn check(directory: &Path) -> Result<()> {
    let metadata = directory.symlink_metadata();
    let metadata = metadata.with_context(|| format!("cannot look at {}", directory.display()))?;
    if metadata.is_symlink() {
        bail!(
            "{0} is a link, and could lead to another key: remove it, and put there the directory \
             itself, or name that with --identity",
            directory.display()
        );
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        bail!(
            "others can write to {0} (mode {mode:03o}), and the server's key is in it. If it is \
             certain that it is still the server's own: chmod go-w {0}",
            directory.display()
        );
    }
    Ok(())
}

fn read(path: &Path, links: Links) -> Result<(Vec<u8>, u32)> {
    let cannot = || format!("cannot read {}", path.display());
    let flags = match links {
        Links::Followed => OFlags::empty(),
        // A FIFO that somebody put there keeps nobody waiting, either.
        Links::Refused => OFlags::NOFOLLOW | OFlags::NONBLOCK,
    };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path).with_context(cannot)?;
    let mode = file.metadata().with_context(cannot)?.permissions().mode();
    let mut bytes = Vec::new();
    let size = file.take(PEM_BYTES_MAX.saturating_add(1)).read_to_end(&mut bytes);
    if size.with_context(cannot)? as u64 > PEM_BYTES_MAX {
        bail!("{} is too large for a key or certificates", path.display());
    }
    Ok((bytes, mode))
}

/// Makes what is not there. The key comes first: a certificate can be made for it at any time, and
/// clients know the key.
fn make(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => sync(directory.parent().unwrap_or(Path::new("/")))?,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.into()),
    }
    check(directory)?;
    if !directory.join(KEY).try_exists()? {
        if directory.join(CERTIFICATE).try_exists()? {
            bail!("there is a certificate, but {KEY} is missing: put it back, or remove both");
        }
        write(directory, KEY, &KeyPair::generate()?.serialize_pem(), Mode::new(0o600))?;
    }
    if !directory.join(CERTIFICATE).try_exists()? {
        // Of whoever was first, if two are made at once.
        let (key, _) = read(&directory.join(KEY), Links::Refused)?;
        let key = KeyPair::from_pem(std::str::from_utf8(&key)?)?;
        let mut params = CertificateParams::new(vec!["ftx".to_owned()])?;
        params.not_after = date_time_ymd(LAST_YEAR, 1, 1);
        let certificate = params.self_signed(&key)?.pem();
        write(directory, CERTIFICATE, &certificate, Mode::new(0o644))?;
    }
    Ok(())
}

/// Writes a new file, whole and durable. That it is there by now is no error: another server was
/// faster.
fn write(directory: &Path, name: &str, text: &str, mode: Mode) -> Result<()> {
    let mut landing = Landing::create(Native, directory, getrandom::u64()?)?;
    let written = landing.write(text.as_bytes());
    if let Err(error) = written {
        landing.discard();
        return Err(error.into());
    }
    let published = landing.publish(name.as_bytes(), mode, now()?, Replace::No, Durability::Full);
    match published {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => Ok(result?),
    }
}

fn now() -> Result<FileTime> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let time = FileTime::new(i64::try_from(since.as_secs())?, since.subsec_nanos());
    time.context("the clock is past the end of time")
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(directory: &Path) -> Result<Kept> {
        Source::Own(directory.to_owned()).make_and_load()
    }

    #[test]
    fn two_that_are_made_at_once_are_the_same() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("identity");
        let made = || own(&directory).unwrap().identity.pin();
        let pins: Vec<Pin> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(made)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(pins.iter().all(|pin| *pin == pins[0]));
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2);
    }

    #[test]
    fn an_identity_of_our_own_is_no_link_and_nobody_elses_to_change() {
        use std::os::unix::fs::symlink;
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let refused = |name: &str| format!("{:#}", own(&at(name)).unwrap_err());
        std::fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        assert!(refused("link").contains("is a link"));
        assert_eq!(std::fs::read_dir(at("elsewhere")).unwrap().count(), 0, "nothing was made");

        own(&at("identity")).unwrap();
        std::fs::set_permissions(at("identity"), PermissionsExt::from_mode(0o720)).unwrap();
        assert!(refused("identity").contains("chmod go-w"));
        std::fs::set_permissions(at("identity"), PermissionsExt::from_mode(0o750)).unwrap();
        own(&at("identity")).unwrap();
        for name in ["identity/cert.pem", "identity/key.pem"] {
            std::fs::rename(at(name), at("moved")).unwrap();
            symlink(at("moved"), at(name)).unwrap();
            assert!(refused("identity").contains("cannot read"), "{name}");
            std::fs::remove_file(at(name)).unwrap();
            std::fs::rename(at("moved"), at(name)).unwrap();
        }
        // What the operator names may be.
        symlink(at("identity/cert.pem"), at("cert")).unwrap();
        symlink(at("identity/key.pem"), at("key")).unwrap();
        Source::Given { certificate: at("cert"), key: at("key") }.load().unwrap();
    }

    #[test]
    fn an_address_that_stands_for_all_is_told_by_the_name_of_the_machine() {
        let home = tempfile::tempdir().unwrap();
        let kept = own(&home.path().join("identity")).unwrap();
        let pin = kept.identity.pin();
        for address in ["10.0.0.1:7389", "[2001:db8::1]:7389"] {
            let told = format!("ftx login ftx://{address}#{pin}");
            assert_eq!(kept.introduction(address.parse().unwrap()), told);
        }
        for address in ["0.0.0.0:7389", "[::]:7389"] {
            let told = kept.introduction(address.parse().unwrap());
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            assert!(told.contains(&format!("ftx://{name}:7389#")), "{told}");
        }
    }

    #[test]
    fn what_is_too_large_is_no_certificate() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, vec![b'x'; PEM_BYTES_MAX as usize + 1]).unwrap();
        let given = Source::Given { certificate: file.clone(), key: file };
        assert!(given.load().unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn where_links_lead_is_read_too() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().canonicalize().unwrap().join(name);
        std::fs::create_dir(at("live")).unwrap();
        std::fs::create_dir(at("archive")).unwrap();
        std::fs::write(at("archive/cert1.pem"), "").unwrap();
        std::os::unix::fs::symlink("../archive/cert1.pem", at("live/cert.pem")).unwrap();
        let given = Source::Given { certificate: at("live/cert.pem"), key: at("key.pem") };
        assert_eq!(given.directories(), [at("archive"), at("live"), at("")]);
        let here = Source::Given { certificate: "cert.pem".into(), key: "key.pem".into() };
        assert_eq!(here.directories(), [PathBuf::from(".")]);
    }
}
