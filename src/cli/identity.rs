//! Where a server's identity comes from: files of its own, made when they are first needed, or a
//! certificate and a key that somebody else renews.
//!
//! It reads and writes these files and nothing else. What is shown to clients is
//! [`ftx_channel::Identity`].

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ftx_channel::{Identity, Pin};
use ftx_disk::landing::Replace;
use ftx_protocol::Mode;
use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::directory::{Errand, Links, OwnDirectory};

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

/// An identity, and where it is read anew from.
#[derive(Debug, Clone)]
pub struct Kept {
    pub identity: Arc<Identity>,
    source: Source,
}

impl Source {
    /// Makes what is missing of an identity of one's own, and loads it.
    pub fn make_and_load(self, errand: Errand) -> Result<Kept> {
        if let Self::Own(directory) = &self {
            let failed = || format!("cannot make an identity in {}", directory.display());
            make(directory, errand).with_context(failed)?;
        }
        self.load(errand)
    }

    pub fn load(self, errand: Errand) -> Result<Kept> {
        let (certificate, key) = self.read(errand)?;
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

    /// The certificate and the key.
    fn read(&self, errand: Errand) -> Result<(Vec<u8>, Vec<u8>)> {
        let (certificate, key) = (self.certificate(), self.key());
        let (certificate_file, key_file) = match self {
            // Nobody made a link to what is ours, unless to have something else read.
            Self::Own(directory) => {
                let directory = open(directory, errand)?;
                (directory.open_file(CERTIFICATE), directory.open_file(KEY))
            }
            // Whoever renews certificates often has links to them.
            Self::Given { .. } => (File::open(&certificate), File::open(&key)),
        };
        let (bytes, mode) = read(key_file, &key)?;
        // Who keeps a key elsewhere may have a group for it. Ours is for nobody else.
        if let (Self::Own(directory), true) = (self, mode & 0o077 != 0) {
            bail!(
                "others can read {0}: whoever has this key can pass for this server. If it is \
                 certain that nobody has read it: chmod 600 {0}; else remove {1}, and all clients \
                 log in anew",
                key.display(),
                directory.display()
            );
        }
        Ok((read(certificate_file, &certificate)?.0, bytes))
    }
}

impl Kept {
    /// Reads the files again. If that gives nothing that can be used, all stays as it is.
    pub fn reload(&self) -> Result<Reloaded> {
        let before = self.identity.pin();
        let (certificate, key) = self.source.read(Errand::Own)?;
        let replaced = self.identity.replace(&certificate, &key);
        replaced.with_context(|| self.source.names())?;
        let now = self.identity.pin();
        Ok(if now == before { Reloaded::SameKey(now) } else { Reloaded::OtherKey(now) })
    }

    /// The server for ftx login: where it is, and what its key is, unless others vouch for it. That they do for a name,
    /// which is told instead of an address.
    pub fn addresses(&self, address: SocketAddr) -> Vec<String> {
        let port = address.port();
        let is_everywhere = address.ip().is_unspecified();
        let own_name = || own_name().filter(|_| is_everywhere);
        let routed = || routed_like(address).filter(|_| is_everywhere);
        let (name, routed, pin) = match self.source {
            Source::Own(_) => (own_name(), routed(), format!("#{}", self.identity.pin())),
            Source::Given { .. } => match self.identity.name().or_else(own_name) {
                Some(name) => (Some(name), None, String::new()),
                None => (None, routed(), String::new()),
            },
        };
        let routed = routed.map(|ip| SocketAddr::new(ip, port).to_string());
        let hosts = routed.into_iter().chain(name.map(|name| format!("{name}:{port}")));
        let told = |host: String| format!("ftx://{host}{pin}");
        let hosts: Vec<_> = hosts.map(told).collect();
        match address {
            _ if !hosts.is_empty() => hosts,
            // Which link that is each machine says in a word of its own. What is behind the # is a comment to a shell.
            SocketAddr::V6(address) if address.ip().is_unicast_link_local() => {
                let anywhere = SocketAddrV6::new(*address.ip(), port, 0, 0).to_string();
                let remark =
                    format!("behind {} comes % and that machine's link to here", address.ip());
                vec![format!("{} # {remark}, such as %eth0", told(anywhere))]
            }
            address => vec![told(address.to_string())],
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

/// The address of this machine by which it reaches others, of the kind of `like`: of all that it has, that is
/// the one by which they reach it, if one is. Nothing is sent to find out.
fn routed_like(like: SocketAddr) -> Option<IpAddr> {
    // Nobody has these: they are for documents, and the way there is the way to everybody.
    let (from, to) = match like.ip() {
        IpAddr::V4(any) => (any.into(), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))),
        IpAddr::V6(any) => (any.into(), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
    };
    let socket = UdpSocket::bind(SocketAddr::new(from, 0)).ok()?;
    socket.connect(SocketAddr::new(to, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    Some(own).filter(|own| !own.is_loopback() && !own.is_unspecified())
}

/// What this machine calls itself. Not everybody may be able to resolve it.
fn own_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let is_name = |character: char| character.is_ascii_alphanumeric() || "-.".contains(character);
    Some(name).filter(|name| !name.is_empty() && name.chars().all(is_name))
}

/// Opens a directory with a key of ours, and looks at what was opened.
fn open(path: &Path, errand: Errand) -> Result<OwnDirectory> {
    refuse_link(path)?;
    let opened = OwnDirectory::open(path, Links::Refused, errand);
    let directory = opened.with_context(|| format!("cannot open {}", path.display()))?;
    check(path, &directory, errand)?;
    Ok(directory)
}

/// Whoever may change a directory above it could otherwise have us read, and write, somewhere else. It is never
/// followed; here it is told apart from other things that are no directory.
fn refuse_link(path: &Path) -> Result<()> {
    if path.is_symlink() {
        bail!(
            "{0} is a link, and could lead to another key: remove it, and put there the directory \
             itself, or name that with --identity",
            path.display()
        );
    }
    Ok(())
}

/// Nobody but the server's user, and root, may change what is in a directory with a key of ours.
fn check(path: &Path, directory: &OwnDirectory, errand: Errand) -> Result<()> {
    let (owner, mode) = (directory.owner(), directory.mode());
    if !owner.is_root() && owner != errand.server() {
        bail!(
            "{} belongs to another user ({}), who could put another key there",
            path.display(),
            owner.as_raw()
        );
    }
    if mode & 0o022 != 0 {
        bail!(
            "others can write to {0} (mode {mode:03o}), and the server's key is in it. If it is \
             certain that it is still the server's own: chmod go-w {0}",
            path.display()
        );
    }
    Ok(())
}

/// What is in a file, and its mode.
fn read(file: io::Result<File>, path: &Path) -> Result<(Vec<u8>, u32)> {
    let cannot = || format!("cannot read {}", path.display());
    let file = file.with_context(cannot)?;
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
fn make(path: &Path, errand: Errand) -> Result<()> {
    refuse_link(path)?;
    let directory = OwnDirectory::make(path, Links::Refused, errand)?;
    check(path, &directory, errand)?;
    if !directory.has(KEY)? {
        if directory.has(CERTIFICATE)? {
            bail!("there is a certificate, but {KEY} is missing: put it back, or remove both");
        }
        write(&directory, KEY, &KeyPair::generate()?.serialize_pem(), Mode::new(0o600))?;
    }
    if !directory.has(CERTIFICATE)? {
        // Of whoever was first, if two are made at once.
        let (key, _) = read(directory.open_file(KEY), &path.join(KEY))?;
        let key = KeyPair::from_pem(std::str::from_utf8(&key)?)?;
        let mut params = CertificateParams::new(vec!["ftx".to_owned()])?;
        params.not_after = date_time_ymd(LAST_YEAR, 1, 1);
        let certificate = params.self_signed(&key)?.pem();
        write(&directory, CERTIFICATE, &certificate, Mode::new(0o644))?;
    }
    Ok(())
}

/// Writes a new file. That it is there by now is no error: another server was faster.
fn write(directory: &OwnDirectory, name: &str, text: &str, mode: Mode) -> Result<()> {
    match directory.write(name, text.as_bytes(), mode, Replace::No) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(directory: &Path) -> Result<Kept> {
        Source::Own(directory.to_owned()).make_and_load(Errand::Own)
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
        Source::Given { certificate: at("cert"), key: at("key") }.load(Errand::Own).unwrap();
    }

    /// What is looked at is what is used: whoever swaps the directory for a link, at whatever moment, has nothing
    /// made where that leads.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_directory_that_is_swapped_for_a_link_leads_nowhere() {
        use std::os::unix::fs::symlink;
        use std::sync::atomic::{AtomicBool, Ordering};

        use rustix::fs::{AtFlags, CWD, RenameFlags, renameat_with, unlinkat};
        const ROUNDS: usize = 2_000;
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::create_dir(at("elsewhere")).unwrap();
        symlink(at("elsewhere"), at("link")).unwrap();
        let directory = at("identity");
        let real = OwnDirectory::make(&directory, Links::Refused, Errand::Own).unwrap();
        let elsewhere = || std::fs::read_dir(at("elsewhere")).unwrap().count();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (one, other) = (at("identity"), at("link"));
                    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let mut made = 0;
            for _ in 0..ROUNDS {
                made += usize::from(own(&directory).is_ok());
                for name in [KEY, CERTIFICATE] {
                    let _ = unlinkat(real.handle(), name, AtFlags::empty());
                }
                if elsewhere() > 0 || made > 20 {
                    break;
                }
            }
            let led_astray = elsewhere();
            // The control: to look at a path, and then use it, is led astray.
            for _ in 0..ROUNDS * 100 {
                if !directory.is_symlink() {
                    let _ = File::create(directory.join("control"));
                }
                if elsewhere() > 0 {
                    break;
                }
            }
            let control = elsewhere();
            over.store(true, Ordering::Relaxed);
            assert!(made > 0, "it was always the link");
            assert_eq!(led_astray, 0);
            assert!(control > 0, "nobody was ever led astray");
        });
    }

    #[test]
    fn an_address_that_stands_for_all_is_told_by_an_address_of_the_machine_and_by_its_name() {
        let home = tempfile::tempdir().unwrap();
        let kept = own(&home.path().join("identity")).unwrap();
        let pin = kept.identity.pin();
        for address in ["10.0.0.1:7389", "[2001:db8::1]:7389"] {
            let told = format!("ftx://{address}#{pin}");
            assert_eq!(kept.addresses(address.parse().unwrap()), [told]);
        }
        let told = kept.addresses("[fe80::1%7]:7389".parse().unwrap());
        let (line, remark) = told[0].split_once(' ').unwrap();
        assert_eq!(line, format!("ftx://[fe80::1]:7389#{pin}"), "the zone means nothing elsewhere");
        assert!(remark.starts_with("# behind fe80::1 comes %"), "{remark}");
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        for address in ["0.0.0.0:7389", "[::]:7389"] {
            let address: SocketAddr = address.parse().unwrap();
            let told = kept.addresses(address);
            let last = told.last().unwrap();
            assert!(last.contains(&format!("ftx://{name}:7389#")), "{told:?}");
            let Some(ip) = routed_like(address) else { continue };
            let first = format!("ftx://{}#{pin}", SocketAddr::new(ip, 7389));
            assert_eq!((told.len(), &told[0]), (2, &first));
            // It is one of this machine's.
            UdpSocket::bind(SocketAddr::new(ip, 0)).unwrap();
        }
    }

    /// Others vouch for it under the names in its certificate: with an address nobody could be sure of it.
    #[test]
    fn a_certificate_of_others_is_told_by_a_name_in_it() {
        let told = |names: &[&str], address: &str| {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            let key = KeyPair::generate().unwrap();
            let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            let [certificate, key_pem] = [certificate.pem(), key.serialize_pem()];
            let identity = Identity::from_pem(certificate.as_bytes(), key_pem.as_bytes()).unwrap();
            let source = Source::Given { certificate: "c".into(), key: "k".into() };
            let kept = Kept { identity: Arc::new(identity), source };
            kept.addresses(address.parse().unwrap())
        };
        let by_name = ["ftx://files.example:7389"];
        for address in ["10.0.0.1:7389", "0.0.0.0:7389"] {
            assert_eq!(told(&["*.example", "files.example", "more.example"], address), by_name);
        }
        for names in [&["*.example"][..], &["10.0.0.1"], &[]] {
            assert_eq!(told(names, "10.0.0.1:7389"), ["ftx://10.0.0.1:7389"]);
            let name = own_name().unwrap();
            assert_eq!(told(names, "0.0.0.0:7389"), [format!("ftx://{name}:7389")]);
        }
    }

    #[test]
    fn what_is_too_large_is_no_certificate() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        std::fs::write(&file, vec![b'x'; PEM_BYTES_MAX as usize + 1]).unwrap();
        let given = Source::Given { certificate: file.clone(), key: file };
        assert!(given.load(Errand::Own).unwrap_err().to_string().contains("too large"));
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
