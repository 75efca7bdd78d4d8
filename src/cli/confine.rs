//! What a server gives up before it takes the first byte: new privileges, and whatever is outside its
//! directory.
//!
//! Rights are given up for the calling thread and for those that it starts later. So this comes
//! before there is a second thread, and after all that needs the world outside the directory. What is
//! open stays open: stdout, stderr, and the sockets that listen; taking a connection needs no right.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use ftx::server::Access;
use rustix::fs::Mode;

/// What a server has given up, for the log.
#[derive(Debug)]
pub enum GivenUp {
    /// `--unconfined`.
    Nothing,
    /// What the system let it give up.
    Rights { privileges: io::Result<()>, landlock: Result<Abi, String> },
}

/// The version of landlock that holds; it says what is covered.
type Abi = String;

impl GivenUp {
    pub fn log(&self) {
        let Self::Rights { privileges, landlock } = self else {
            return tracing::warn!("unconfined, as asked for");
        };
        let privileges = match privileges {
            Ok(()) => "no new privileges".into(),
            Err(error) => format!("cannot give up new privileges: {error}"),
        };
        match landlock {
            Ok(abi) => tracing::info!("confined: landlock ABI {abi}, {privileges}"),
            Err(why) => tracing::warn!("not confined to the directory: {why}; {privileges}"),
        }
    }
}

/// What is made without being told its permissions is not for the group or for others to write,
/// whatever umask the server was started with. Permissions that travel with a file are as they are.
pub fn let_nobody_else_write() {
    // There is no way to ask for it without changing it.
    let umask = rustix::process::umask(Mode::WGRP | Mode::WOTH);
    rustix::process::umask(umask | Mode::WGRP | Mode::WOTH);
}

/// What a server needs besides the directory that it serves.
#[derive(Debug, Default)]
pub struct Outside {
    /// The state directory, to read and to write: tokens change while it runs.
    pub state: Option<PathBuf>,
    /// Where certificates are renewed, to read. A renewed one is a new file, so it is the directory
    /// that counts.
    pub certificates: Vec<PathBuf>,
}

/// Gives up what serving this directory does not need.
pub fn give_up(root: BorrowedFd<'_>, access: Access, outside: &Outside) -> GivenUp {
    GivenUp::Rights {
        privileges: system::no_new_privileges(),
        landlock: system::stay(root, access, outside),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::path::Path;

    use super::*;
    use ftx_disk::sys::READ_OUTSIDE;
    use landlock::{
        ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus,
        PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr,
        RulesetError, RulesetStatus, Scope,
    };

    /// What this program knows of and was tried with. A kernel that has less gives what it has.
    const KNOWN: ABI = ABI::V7;

    /// No program that this process might start, by whatever fault, has more rights than it.
    pub fn no_new_privileges() -> io::Result<()> {
        Ok(rustix::thread::set_no_new_privs(true)?)
    }

    /// Opens nothing outside the directory from here on, whatever a fault in the program may ask for,
    /// connects to nobody, and signals nobody.
    pub fn stay(root: BorrowedFd<'_>, access: Access, outside: &Outside) -> Result<Abi, String> {
        let renaming = renaming()
            .map_err(|_| "no landlock here that lets files be renamed between directories")?;
        let status = restrict(renaming, root, access, outside)
            .map_err(|error| format!("landlock fails: {error}"))?;
        match (status.ruleset, status.landlock) {
            (
                RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
                LandlockStatus::Available { effective_abi, .. },
            ) => Ok(effective_abi.to_string()),
            (_, status) => Err(format!("landlock does not hold: {status:?}")),
        }
    }

    /// Without the right to rename from one directory to another every put would fail; so it is this
    /// or nothing.
    fn renaming() -> Result<Ruleset, RulesetError> {
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .handle_access(AccessFs::Refer)
    }

    fn restrict(
        rules: Ruleset,
        root: BorrowedFd<'_>,
        access: Access,
        outside: &Outside,
    ) -> Result<RestrictionStatus, RulesetError> {
        let all = AccessFs::from_all(KNOWN);
        // Devices, FIFOs and symlinks too: what is removed is renamed into the trash, and a rename
        // counts as making.
        let change = all & !(AccessFs::Execute | AccessFs::IoctlDev);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let kept = match access {
            Access::ReadOnly => read,
            Access::ReadWrite => change,
        };
        let mut rules = rules
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(all)?
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rule(PathBeneath::new(root, kept))?;
        let outside = outside
            .state
            .iter()
            .map(|state| (state.as_path(), change))
            .chain(outside.certificates.iter().map(|path| (path.as_path(), read)));
        let for_the_disk =
            READ_OUTSIDE.iter().map(|path| (Path::new(path), AccessFs::ReadFile.into()));
        for (path, kept) in for_the_disk.chain(outside) {
            // What cannot be opened now could not be read before.
            if let Ok(path) = PathFd::new(path) {
                rules = rules.add_rule(PathBeneath::new(path, kept))?;
            }
        }
        rules.restrict_self()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    pub fn no_new_privileges() -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn stay(_: BorrowedFd<'_>, _: Access, _: &Outside) -> Result<Abi, String> {
        Err("this system has no landlock".into())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::path::Path;

    use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};

    use super::*;

    /// What the kernel says of itself. Not asked of what is tested: that may be what is broken.
    fn kernel_can() -> bool {
        let required = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        required.handle_access(AccessFs::Refer).and_then(Ruleset::create).is_ok()
    }

    /// A thread that is confined to a directory does something, and is over.
    fn confined(directory: &Path, access: Access, act: impl FnOnce() + Send) {
        confined_with(directory, access, &Outside::default(), act);
    }

    fn confined_with(
        directory: &Path,
        access: Access,
        outside: &Outside,
        act: impl FnOnce() + Send,
    ) {
        let root = File::open(directory);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let given_up = give_up(root.as_ref().unwrap().as_fd(), access, outside);
                match given_up {
                    GivenUp::Rights { privileges: Ok(()), landlock: Ok(_) } => act(),
                    // Past the capture of what passing tests print.
                    other => {
                        assert!(!kernel_can(), "{other:?}");
                        let _ =
                            writeln!(io::stderr(), "NOT TESTED, because of this kernel: {other:?}");
                    }
                }
            });
        });
    }

    #[track_caller]
    fn assert_denied<T>(result: io::Result<T>) {
        assert_eq!(result.err().map(|error| error.kind()), Some(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn whoever_is_confined_opens_nothing_outside_and_connects_to_nobody() {
        let home = tempfile::tempdir().unwrap();
        let (served, secret) = (home.path().join("served"), home.path().join("secret"));
        fs::create_dir(&served).unwrap();
        fs::write(&secret, "outside").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        confined(&served, Access::ReadWrite, || {
            let in_vain = || {
                assert_denied(File::open(&secret));
                assert_denied(File::open(served.join("../secret")));
                assert_denied(File::create(home.path().join("new")));
                assert_denied(fs::rename(&secret, served.join("secret")));
                assert_denied(fs::remove_file(&secret));
                assert_denied(fs::read_dir(home.path()));
                assert_denied(std::process::Command::new("/bin/true").status());
            };
            in_vain();
            std::thread::scope(|scope| scope.spawn(in_vain).join().unwrap());
            if let GivenUp::Rights { landlock: Ok(abi), .. } = give_up(
                File::open(&served).unwrap().as_fd(),
                Access::ReadWrite,
                &Outside::default(),
            ) && abi.parse::<u32>().unwrap() >= 4
            {
                assert_denied(TcpStream::connect(address));
                assert_denied(TcpListener::bind("127.0.0.1:0"));
            }
        });
        assert_eq!(fs::read(&secret).unwrap(), b"outside");
        // The others of this process go on as they were.
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn whoever_is_confined_can_do_all_that_serving_needs() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        confined(home.path(), Access::ReadWrite, || {
            fs::create_dir_all(at("a/b")).unwrap();
            fs::create_dir(at("c")).unwrap();
            fs::write(at("a/b/file"), "inside").unwrap();
            fs::rename(at("a/b/file"), at("c/file")).unwrap();
            fs::rename(at("a/b"), at("c/b")).unwrap();
            fs::rename(at("link"), at("c/link")).unwrap();
            File::options().write(true).open(at("c/file")).unwrap().set_len(2).unwrap();
            assert_eq!(fs::read_to_string(at("c/file")).unwrap(), "in");
            fs::remove_dir_all(at("c")).unwrap();
            listener.accept().unwrap();
            ftx_disk::sys::READ_OUTSIDE.iter().for_each(|path| drop(fs::read(path).unwrap()));
        });
    }

    #[test]
    fn who_only_reads_cannot_write() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "inside").unwrap();
        confined(home.path(), Access::ReadOnly, || {
            assert_eq!(fs::read(&file).unwrap(), b"inside");
            assert_denied(File::options().write(true).open(&file));
            assert_denied(File::create(home.path().join("new")));
            assert_denied(fs::rename(&file, home.path().join("new")));
            assert_denied(fs::remove_file(&file));
            assert_denied(fs::create_dir(home.path().join("new")));
        });
    }

    #[test]
    fn the_state_can_be_changed_and_certificates_can_be_read() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        for directory in ["served", "state", "certificates"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::write(at("certificates/cert.pem"), "old").unwrap();
        let outside = Outside { state: Some(at("state")), certificates: vec![at("certificates")] };
        let mut renew = fs::File::create(at("certificates/new.pem")).unwrap();
        confined_with(&at("served"), Access::ReadOnly, &outside, || {
            fs::create_dir(at("state/identity")).unwrap();
            fs::write(at("state/new"), "tokens").unwrap();
            fs::rename(at("state/new"), at("state/tokens")).unwrap();
            fs::read(at("certificates/cert.pem")).unwrap();
            // Whoever renews them is another program; here it has the file open already.
            std::io::Write::write_all(&mut renew, b"new").unwrap();
            assert_eq!(fs::read(at("certificates/new.pem")).unwrap(), b"new");
            assert_denied(fs::write(at("certificates/cert.pem"), "evil"));
            assert_denied(fs::write(at("served/file"), "read only"));
            assert_denied(fs::read_dir(home.path()));
        });
    }
}
