//! What the supervisor knows of the whole host, asked for on its operator's socket.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use weir_node::link::MESSAGE_MAX;
use weir_node::rows::id_of;
use weir_proto::supervisor::ReloadRequest;
use weir_proto::supervisor::admin_client::AdminClient;

use super::system::{Disk, DiskCounters};

/// How long the supervisor may take. It gives its workers 400 ms.
const ANSWER_WITHIN: Duration = Duration::from_millis(700);

/// How long it may take until all workers have another configuration. It gives them 5 s.
const RELOADED_WITHIN: Duration = Duration::from_secs(6);

/// Disks are looked at over so long.
const DISK_EVERY: Duration = Duration::from_secs(5);

/// Clients that may wait for the supervisor at a time.
const ASKING_MAX: usize = 16;

/// The operator's service.
pub(crate) type Admin = AdminClient<Channel>;

/// What answers call this host, whichever worker gives them.
#[derive(Debug)]
pub(crate) struct Host {
    /// The same after each start.
    pub(crate) server: String,
    /// Another after each start.
    pub(crate) service: String,
    /// The supervisor's.
    pub(crate) pid: u32,
    disk: Cell<(DiskCounters, Instant)>,
}

impl Host {
    /// `service`: the supervisor's instance.
    pub(crate) fn new(node: &str, service: String) -> Self {
        let disk = Cell::new((DiskCounters::now(), Instant::now()));
        Self { server: id_of(&[node]), service, pid: std::os::unix::process::parent_id(), disk }
    }

    /// What disks did since somebody asked, some seconds ago at least.
    pub(super) fn disk(&self) -> Disk {
        let (before, at) = self.disk.get();
        let (now, passed) = (DiskCounters::now(), at.elapsed());
        if passed > DISK_EVERY {
            self.disk.set((now, Instant::now()));
        }
        now.since(before, u64::try_from(passed.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The way to the supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    socket: PathBuf,
    asking: Cell<usize>,
}

/// One who asks, for as long as it lives.
struct Asking<'a>(&'a Cell<usize>);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} ask already")]
    Busy(usize),
    #[error("{0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] Status),
    #[error("it did not answer within {0:?}")]
    Silent(Duration),
}

impl Error {
    /// What was asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::NotFound)
    }
}

impl Supervisor {
    /// `socket` is that of the operator's service.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, asking: Cell::new(0) }
    }

    /// Asks something.
    ///
    /// # Errors
    /// Too many ask, the supervisor is gone or does not answer, or it says no.
    pub(crate) async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(Admin) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        self.ask_for(ANSWER_WITHIN, question).await
    }

    /// Has the configuration read again.
    ///
    /// # Errors
    /// As above; a status says why the configuration is not taken over.
    pub(super) async fn reload(&self) -> Result<(), Error> {
        self.ask_for(RELOADED_WITHIN, async |mut admin| admin.reload(ReloadRequest {}).await).await.map(drop)
    }

    async fn ask_for<T>(
        &self,
        within: Duration,
        question: impl AsyncFnOnce(Admin) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let before = self.asking.replace(self.asking.get() + 1);
        let _one = Asking(&self.asking);
        if before >= ASKING_MAX {
            return Err(Error::Busy(before));
        }
        let asked = async {
            let channel = Endpoint::from_shared(format!("unix:{}", self.socket.display()))?.connect().await?;
            let admin = AdminClient::new(channel).max_decoding_message_size(MESSAGE_MAX);
            Ok(question(admin).await?.into_inner())
        };
        timeout(within, asked).await.unwrap_or(Err(Error::Silent(within)))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use weir_proto::supervisor::MetricsRequest;

    use super::*;

    #[test]
    fn a_supervisor_that_hangs_or_is_not_there_is_a_quick_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        runtime.unwrap().block_on(async {
            let supervisor = Rc::new(Supervisor::new(dir.path().join("ctl.sock")));
            let question = async |mut admin: Admin| admin.metrics(MetricsRequest {}).await;
            assert!(matches!(supervisor.ask(question).await, Err(Error::Transport(_))));
            // It listens and says nothing.
            let _hangs = std::os::unix::net::UnixListener::bind(dir.path().join("ctl.sock")).unwrap();
            let begun = Instant::now();
            let ask = || {
                let supervisor = supervisor.clone();
                tokio::task::spawn_local(async move { (supervisor.ask(question).await.is_err(), Instant::now()) })
            };
            let many: Vec<_> = (0..=ASKING_MAX).map(|_| ask()).collect();
            let mut waited = 0;
            for answer in many {
                let (failed, at) = answer.await.unwrap();
                assert!(failed);
                waited += usize::from(at - begun >= ANSWER_WITHIN);
            }
            assert_eq!(waited, ASKING_MAX, "one too many is told at once");
            assert!(begun.elapsed() < ANSWER_WITHIN * 4, "{:?}", begun.elapsed());
            assert_eq!(supervisor.asking.get(), 0);
        });
    }
}
