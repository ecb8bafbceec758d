//! The run directory.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::Error;
use super::bind::BACKLOG;

/// The run directory, held exclusively for the process's life.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: Lock,
}

/// The lock belongs to the open file, so it outlives the image of the process that took it.
#[derive(Debug)]
enum Lock {
    Taken(Flock<File>),
    Inherited(OwnedFd),
}

impl RunDir {
    /// Makes the directory (mode 0700) where needed, locks it, and removes the sockets of a dead predecessor.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let refuse = |error| Error::RunDir { path: path.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(path).and_then(|()| keep_private(path)).map_err(refuse)?;
        let mut open = OpenOptions::new();
        open.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = open.open(path.join("lock")).map_err(refuse)?;
        let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((file, nix::Error::EWOULDBLOCK)) => {
                return Err(Error::Running { path: path.to_owned(), pid: holder(file) });
            }
            Err((_, error)) => return Err(refuse(error.into())),
        };
        lock.set_len(0).and_then(|()| write!(lock, "{}", std::process::id())).map_err(refuse)?;
        let dir = Self { path: path.to_owned(), lock: Lock::Taken(lock) };
        dir.remove_sockets().map_err(refuse)?;
        Ok(dir)
    }

    /// The directory of the image that this process ran before, with its lock.
    pub fn inherit(path: PathBuf, lock: OwnedFd) -> Self {
        Self { path, lock: Lock::Inherited(lock) }
    }

    /// The lock, for another image.
    pub fn lock_fd(&self) -> BorrowedFd<'_> {
        match &self.lock {
            Lock::Taken(lock) => lock.as_fd(),
            Lock::Inherited(lock) => lock.as_fd(),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A listening unix socket `name` in the directory.
    pub fn listen(&self, name: &str) -> Result<Socket, Error> {
        let path = self.path.join(name);
        let bind = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&SockAddr::unix(&path)?)?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        bind().map_err(|error| Error::RunDir { path: path.clone(), error })
    }

    /// Removes every socket file: those of a dead predecessor, or at the end one's own.
    pub fn remove_sockets(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Whoever can write to the directory can stand in for the supervisor or an origin. A default directory has a name
/// that another user may have taken first.
fn keep_private(path: &Path) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() {
        return Err(io::Error::other("it is not a directory of this user"));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// The process that a lock file names.
fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_directory_is_private_locked_and_rid_of_dead_sockets() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("deep/run");
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        drop(std::os::unix::net::UnixListener::bind(path.join("link.sock")).unwrap());
        fs::write(path.join("notes"), "kept").unwrap();

        let dir = RunDir::lock(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(!path.join("link.sock").exists() && path.join("notes").exists());
        let error = RunDir::lock(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("another weir (process {}) runs here", std::process::id())), "{error}");
        drop(dir);
        RunDir::lock(&path).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_ours_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        let error = RunDir::lock(&link).unwrap_err().to_string();
        assert!(error.contains("not a directory of this user"), "{error}");
    }
}
