//! The supervisor becomes another image of itself: same process, same children, same sockets.
//!
//! ```text
//! old image                                             new image
//!   NEW upgrade-check   reads the state, says yes or no
//!   exec NEW      ─────── state in a memfd ──────────>  reads the state, attaches its workers, replaces them one by one
//!                 <────── exec the old image ─────────  could not go on, or a new worker did not get ready
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use tracing::{error, info};

use super::image::{ask, exec, set_close_on_exec};
use super::reload::Answer;
use super::state::write_state;
use super::{Host, LAST_WORDS, notify_ready, notify_reloading};
use crate::plan::{Input, Time};
use crate::spawn::{FAILED_VARIABLE, STATE_VARIABLE};

/// An image that was looked at.
#[derive(Debug)]
pub(super) struct Checked {
    binary: PathBuf,
    result: Result<(), String>,
    answer: Option<Answer>,
}

impl Host {
    /// Looks whether `binary`, or the executable that this one was started from, can go on with this host; then becomes it.
    pub(super) fn upgrade(&mut self, binary: Option<PathBuf>, answer: Option<Answer>) {
        let busy = if self.plan.is_stopping() {
            Some("weir is stopping")
        } else if self.reload.is_some() {
            Some("a configuration is just being taken over; try again")
        } else if self.plan.replacing().is_some() || self.is_upgrading() {
            Some("workers are just being replaced")
        } else {
            None
        };
        if let Some(busy) = busy {
            return self.upgrade_failed(answer, busy.to_owned());
        }
        let binary = binary.unwrap_or_else(|| self.binary.clone());
        let state = match self.state(false).and_then(|(state, _)| write_state(&state)) {
            Ok(state) => state,
            Err(error) => return self.upgrade_failed(answer, format!("{error:#}")),
        };
        info!("looking at {}", binary.display());
        self.checking = true;
        self.upgrade = "running".to_owned();
        notify_reloading();
        let checked = self.checked.clone();
        spawn_blocking(move || {
            let result = ask(&binary, &state).map_err(|error| format!("{}: {error:#}", binary.display()));
            checked.blocking_send(Checked { binary, result, answer }).ok();
        });
    }

    /// Whether an image is being looked at, or about to be become.
    pub(super) fn is_upgrading(&self) -> bool {
        self.checking || self.becoming.is_some()
    }

    /// The image was looked at.
    pub(super) fn upgrade_checked(&mut self, checked: Checked) {
        self.checking = false;
        let Checked { binary, result, answer } = checked;
        let result = match self.plan.is_stopping() {
            true => Err("weir is stopping".to_owned()),
            false => result,
        };
        if let Err(why) = result {
            return self.upgrade_failed(answer, why);
        }
        let text = format!("{} was found good; becoming it", binary.display());
        info!("{text}");
        // The answer needs the runtime to go out.
        if let Some(answer) = answer {
            answer.send(Ok(text)).ok();
        }
        self.becoming = Some((self.now() + LAST_WORDS, binary));
    }

    /// Becomes the image that was found good, when it is time. Returns when that is.
    pub(super) fn become_image_if_due(&mut self) -> Option<Time> {
        let (due, _) = self.becoming.as_ref()?;
        if *due > self.now() {
            return Some(*due);
        }
        let (_, binary) = self.becoming.take()?;
        match self.plan.is_stopping() {
            true => self.upgrade_failed(None, "weir is stopping".to_owned()),
            false => self.become_image(&binary),
        }
        None
    }

    /// Becomes the image. Returns only when that fails.
    fn become_image(&mut self, binary: &Path) {
        let image = fs::canonicalize(binary).unwrap_or_else(|_| binary.to_owned());
        let error = match File::open("/proc/self/exe") {
            Ok(old) => self.exec_with(&image, Some(OwnedFd::from(old)), None),
            Err(error) => error.into(),
        };
        self.upgrade_failed(None, format!("{error:#}"));
    }

    /// A new worker did not get ready: becomes the image before, if this one was just upgraded to.
    pub(super) fn replacing_failed(&mut self, why: &str) {
        if let Some(old) = self.old.take() {
            error!("going back to the image before: {why}");
            let path = PathBuf::from(format!("/proc/self/fd/{}", old.as_raw_fd()));
            // It is found by its number before it is closed.
            let error = self.exec_with(&path, None, Some(why));
            return self.upgrade_failed(None, format!("{why}; going back failed: {error:#}"));
        }
        self.upgrade_failed(None, why.to_owned());
    }

    pub(super) fn replaced(&mut self) {
        (self.old, self.written) = (None, None);
        if self.upgrade == "running" {
            self.upgrade = "done".to_owned();
        }
        notify_ready();
    }

    /// After the first look at the inherited workers.
    pub(super) fn go_on(&mut self) {
        match self.failed.take() {
            Some(why) => self.upgrade_failed(None, why),
            None => {
                self.upgrade = "running".to_owned();
                info!("this image, of weir {}, goes on; replacing the workers", env!("CARGO_PKG_VERSION"));
                self.tell(Input::Replace);
            }
        }
    }

    fn upgrade_failed(&mut self, answer: Option<Answer>, why: String) {
        error!("not upgraded: {why}");
        self.upgrade = format!("failed: {why}");
        notify_ready();
        if let Some(answer) = answer {
            answer.send(Err(why)).ok();
        }
    }

    fn exec_with(&self, image: &Path, old: Option<OwnedFd>, back: Option<&str>) -> anyhow::Error {
        let (mut state, mut keep) = match self.state(back.is_some()) {
            Ok(state) => state,
            Err(error) => return error,
        };
        state.old = old.as_ref().map(AsRawFd::as_raw_fd);
        keep.extend(state.old);
        let file = match write_state(&state) {
            Ok(file) => file,
            Err(error) => return error,
        };
        let number = file.as_raw_fd();
        keep.push(number);
        if let Err(error) = set_close_on_exec(&keep, false) {
            return error;
        }
        let mut env = vec![(STATE_VARIABLE, OsString::from(number.to_string()))];
        env.extend(back.map(|why| (FAILED_VARIABLE, OsString::from(why))));
        let error = exec(image, &env);
        set_close_on_exec(&keep, true).ok();
        error
    }
}
