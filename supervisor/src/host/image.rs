//! Executables: asked whether they can go on, and become.
//!
//! Signals are blocked while one becomes another: without handlers they would end the process.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::execve;
use tracing::warn;

use crate::spawn::{FAILED_VARIABLE, STATE_VARIABLE};

/// How long a new image may take to say whether it can go on.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// How the answer of an image begins that can go on.
pub(super) const CAN_GO_ON: &str = "can go on";

/// Lets an image look at the state.
pub(super) fn ask(binary: &Path, state: &File) -> anyhow::Result<()> {
    let mut child = Command::new(binary)
        .arg("upgrade-check")
        .env(STATE_VARIABLE, state.as_raw_fd().to_string())
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let until = Instant::now() + CHECK_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill().ok();
            child.wait().ok();
            anyhow::bail!("it did not answer within {CHECK_WITHIN:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = first_words(child.stderr.take());
    ensure!(status.success(), "it cannot go on: {}", said.trim());
    // Other programs may be content with any arguments.
    let said = first_words(child.stdout.take());
    ensure!(said.starts_with(CAN_GO_ON), "it is no weir");
    Ok(())
}

fn first_words(said: Option<impl Read>) -> String {
    let mut words = Vec::new();
    if let Some(said) = said {
        said.take(4096).read_to_end(&mut words).ok();
    }
    String::from_utf8_lossy(&words).into_owned()
}

pub(super) fn set_close_on_exec(fds: &[RawFd], on: bool) -> anyhow::Result<()> {
    let flag = if on { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    for fd in fds {
        // SAFETY: they belong to the host, which is borrowed by the caller.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd, FcntlArg::F_SETFD(flag)).context("a descriptor of the host")?;
    }
    Ok(())
}

/// Becomes `image`, with the same arguments and with `env` in the environment. Returns only when that fails.
pub(super) fn exec(image: &Path, env: &[(&str, OsString)]) -> anyhow::Error {
    let text = |text: OsString| CString::new(text.into_vec());
    let arguments: Result<Vec<_>, _> = std::env::args_os().map(text).collect();
    let kept = std::env::vars_os().filter(|(name, _)| name != STATE_VARIABLE && name != FAILED_VARIABLE);
    let added = env.iter().map(|(name, value)| (OsString::from(name), value.clone()));
    let environment: Result<Vec<_>, _> = kept
        .chain(added)
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect();
    let image = text(image.as_os_str().to_owned());
    let (Ok(image), Ok(arguments), Ok(environment)) = (image, arguments, environment) else {
        return anyhow::anyhow!("an argument or variable holds a zero byte");
    };
    let blocked = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let Err(error) = execve(&image, &arguments, &environment);
    if let Ok(before) = blocked
        && let Err(error) = before.thread_set_mask()
    {
        warn!("signals stay blocked: {error}");
    }
    anyhow::Error::from(error).context(format!("{} cannot be executed", image.to_string_lossy()))
}

/// Lets signals in again, once they are caught.
pub(super) fn unblock_signals() {
    if let Err(error) = SigSet::all().thread_unblock() {
        warn!("signals stay blocked: {error}");
    }
}
