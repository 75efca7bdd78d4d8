//! `--user`: a server that is started as root, for a port below 1,024 say, and is somebody else
//! before it reads a byte from anybody.
//!
//! The system calls are for the calling thread alone. So this comes before there is a second one, and
//! makes sure of that.

use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::unistd;
use rustix::process::{Gid, Uid, getegid, geteuid, getgid, getuid};

use super::directory::Errand;

/// Somebody whom this system knows.
#[derive(Debug)]
pub struct User {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl User {
    pub fn find(name: &str) -> Result<Self> {
        let found = unistd::User::from_name(name);
        let Some(user) = found.with_context(|| format!("cannot look for the user {name}"))? else {
            bail!("there is no user {name} here");
        };
        if user.uid.is_root() {
            bail!("--user is there to be somebody else than root");
        }
        let (uid, gid) = (Uid::from_raw(user.uid.as_raw()), Gid::from_raw(user.gid.as_raw()));
        Ok(Self { name: user.name, uid, gid })
    }

    /// Whether the process is this user, and not root in any way.
    fn is_this_process(&self) -> bool {
        (getuid(), geteuid(), getgid(), getegid()) == (self.uid, self.uid, self.gid, self.gid)
    }

    /// For whom directories are looked for and made.
    pub fn errand(&self) -> Errand {
        match geteuid().is_root() {
            true => Errand::For(self.uid, self.gid),
            false => Errand::Own,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

pub use system::reaches;

#[cfg(target_os = "linux")]
mod system {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::fs::{Access, Dir, FileType, Mode, OFlags, access, fchown, fstat, openat};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

    /// To open a name, whatever it is: not through a link, and a FIFO keeps nobody waiting.
    const LOOK: OFlags =
        OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

    /// How deep a state directory is: it has one for the identity.
    const DEPTH: u32 = 1;

    /// Looks, as root, whether this user gets to what is in a directory: `EACCES` if not. access(2) asks for who a process
    /// really is, and goes by all that decides; what the process may do besides stays as it is.
    pub fn reaches(user: Uid, group: Gid, directory: &Path) -> rustix::io::Result<()> {
        let effective = getegid();
        set_thread_groups(&[])?;
        set_thread_res_gid(group, effective, effective)?;
        set_thread_res_uid(user, Uid::ROOT, Uid::ROOT)?;
        let reached = access(directory, Access::EXEC_OK);
        set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?;
        set_thread_res_gid(effective, effective, effective)?;
        reached
    }

    impl User {
        /// Gives this user a directory of the server's state that is root's, with what is in it. In one that is
        /// not root's, whoever owns it may have put what root would rather keep.
        pub fn take_over(&self, state: BorrowedFd<'_>) -> Result<()> {
            let failed = || format!("cannot give the server's state to {}", self.name);
            match fstat(state).with_context(failed)?.st_uid {
                0 => self.take_all(state, DEPTH).with_context(failed),
                _ => Ok(()),
            }
        }

        fn take_all(&self, directory: BorrowedFd<'_>, depth: u32) -> Result<()> {
            for entry in Dir::read_from(directory)? {
                let entry = entry?;
                let name = entry.file_name();
                if name.to_bytes() == b"." || name.to_bytes() == b".." {
                    continue;
                }
                // A link, or a device that is not there, is nothing of ours.
                let Ok(file) = openat(directory, name, LOOK, Mode::empty()) else { continue };
                match FileType::from_raw_mode(fstat(&file)?.st_mode) {
                    FileType::RegularFile => self.take(file.as_fd())?,
                    FileType::Directory if depth > 0 => {
                        self.take_all(file.as_fd(), depth.saturating_sub(1))?;
                    }
                    _ => {}
                }
            }
            // Last: as long as it is root's, nobody else changes what is in it.
            self.take(directory)
        }

        /// Gives this user what is open, if it is root's, and has no second name in a place where it
        /// should stay so.
        fn take(&self, file: BorrowedFd<'_>) -> Result<()> {
            let stat = fstat(file)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let is_alone = kind == FileType::Directory || stat.st_nlink == 1;
            if stat.st_uid == 0 && is_alone {
                fchown(file, Some(self.uid), Some(self.gid))?;
            }
            Ok(())
        }

        /// Is this user from here on, without any other group, and without a way back.
        pub fn become_it(&self) -> Result<()> {
            let failed = || format!("cannot become {}", self.name);
            if geteuid().is_root() {
                let threads = std::fs::read_dir("/proc/self/task").with_context(failed)?.count();
                if threads != 1 {
                    bail!("cannot become {}: there are {threads} threads", self.name);
                }
                let (uid, gid) = (self.uid, self.gid);
                set_thread_groups(&[]).with_context(failed)?;
                set_thread_res_gid(gid, gid, gid).with_context(failed)?;
                set_thread_res_uid(uid, uid, uid).with_context(failed)?;
                let back = set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT);
                if back.is_ok() {
                    bail!("cannot become {}: there is a way back to root", self.name);
                }
            }
            if !self.is_this_process() {
                bail!("only root can become {}", self.name);
            }
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    pub fn reaches(_: Uid, _: Gid, _: &Path) -> rustix::io::Result<()> {
        Ok(())
    }

    impl User {
        pub fn take_over(&self, _: BorrowedFd<'_>) -> Result<()> {
            Ok(())
        }

        pub fn become_it(&self) -> Result<()> {
            bail!("--user works on Linux only")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_somebody_who_is_there_and_is_not_root() {
        assert!(User::find("root").unwrap_err().to_string().contains("else than root"));
        for name in ["no-such-user-here", "", "a\0b"] {
            assert!(User::find(name).unwrap_err().to_string().contains("no user"), "{name:?}");
        }
    }
}
