//! A worker's link against a supervisor of the test's own.

use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use weir_proto::supervisor::link_server::{Link as Service, LinkServer};
use weir_proto::supervisor::{Drain, Release};

use super::*;
use crate::worker::Role;

const SOON: Duration = Duration::from_secs(3);

/// One call of a worker.
struct Call {
    incoming: Streaming<FromWorker>,
    outgoing: mpsc::Sender<Result<ToWorker, Status>>,
}

impl Call {
    async fn say(&self, kind: to_worker::Kind) {
        self.outgoing.send(Ok(ToWorker { kind: Some(kind) })).await.unwrap();
    }

    /// What the worker says next; heartbeats aside.
    async fn hear(&mut self) -> from_worker::Kind {
        loop {
            let message = timeout(SOON, self.incoming.message()).await.expect("the worker says something");
            match message.unwrap().unwrap().kind.unwrap() {
                from_worker::Kind::Report(_) => {}
                kind => return kind,
            }
        }
    }
}

impl Call {
    async fn hear_report(&mut self) -> Report {
        loop {
            let message = timeout(SOON, self.incoming.message()).await.expect("the worker reports");
            if let from_worker::Kind::Report(report) = message.unwrap().unwrap().kind.unwrap() {
                return report;
            }
        }
    }
}

struct Supervisor {
    calls: mpsc::Sender<Call>,
}

#[tonic::async_trait]
impl Service for Supervisor {
    type AttachStream = ReceiverStream<Result<ToWorker, Status>>;

    async fn attach(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<Self::AttachStream>, Status> {
        let (outgoing, queue) = mpsc::channel(8);
        let call = Call { incoming: request.into_inner(), outgoing };
        self.calls.send(call).await.map_err(|_| Status::permission_denied("unknown"))?;
        Ok(Response::new(ReceiverStream::new(queue)))
    }
}

fn supervise(socket: &Path) -> (mpsc::Receiver<Call>, JoinHandle<()>) {
    let (calls, received) = mpsc::channel(1);
    let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
    let server = Server::builder().add_service(LinkServer::new(Supervisor { calls })).serve_with_incoming(incoming);
    (received, spawn_local(async move { server.await.unwrap() }))
}

/// Takes a worker in.
async fn welcome(calls: &mut mpsc::Receiver<Call>, generation: u64) -> Call {
    let mut call = timeout(SOON, calls.recv()).await.expect("the worker calls").unwrap();
    let from_worker::Kind::Attach(attach) = call.hear().await else { panic!("no attach") };
    assert_eq!((attach.role.as_str(), attach.slot, attach.incarnation), ("edge", 3, 9));
    let config = serde_json::to_string(&Config::default()).unwrap();
    call.say(to_worker::Kind::Welcome(Welcome { config, generation, ..Welcome::default() })).await;
    call
}

struct Worker {
    handle: LinkHandle,
    commands: mpsc::Receiver<Command>,
    /// The supervisor's end.
    fds: OwnedFd,
}

impl Worker {
    async fn next(&mut self, within: Duration) -> Command {
        timeout(within, self.commands.recv()).await.expect("a command comes").unwrap()
    }
}

async fn start(socket: &Path, calls: &mut mpsc::Receiver<Call>) -> (Worker, Call) {
    let handle = LinkHandle::new();
    let identity = Identity::of_test(Role::Edge, 3, 9);
    let (session, call) = tokio::join!(attach(&identity, socket, &handle), welcome(calls, 1));
    let (fds, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let (sender, commands) = mpsc::channel(8);
    let orders = Orders::new(sender, watch::channel(None).0);
    let (socket, drain_timeout) = (socket.to_owned(), Duration::from_secs(7));
    let link = Link { identity, socket, fds: theirs, handle: handle.clone(), orders, drain_timeout };
    spawn_local(link.run(session.unwrap()));
    (Worker { handle, commands, fds }, call)
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F) {
    let dir = std::env::temp_dir().join(format!("weir-link-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir(&dir).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(test(dir.join("link.sock")));
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn commands_arrive_with_their_descriptors_and_are_answered() {
    run(async |socket| {
        let (mut calls, _server) = supervise(&socket);
        let (mut worker, mut call) = start(&socket, &mut calls).await;
        worker.handle.ready();
        assert!(matches!(call.hear().await, from_worker::Kind::Ready(_)));

        let lent = nix::unistd::pipe().unwrap().0;
        fdpass::send(worker.fds.as_fd(), 5, &[lent.as_fd()]).unwrap();
        call.say(to_worker::Kind::Adopt(Adopt { token: 5, slot: 1, names: vec!["rtmp.0".to_owned()] })).await;
        let Command::Adopt { token: 5, slot: 1, sockets } = worker.next(SOON).await else { panic!("no adopt") };
        assert_eq!(sockets[0].name, "rtmp.0");
        assert_eq!(fstat(&sockets[0].fd).unwrap().st_ino, fstat(&lent).unwrap().st_ino);
        worker.handle.ack(5, Ok(()));
        assert_eq!(call.hear().await, from_worker::Kind::Ack(Ack { token: 5, error: String::new() }));

        // Descriptors that did not come are an answer, not a wait.
        call.say(to_worker::Kind::Adopt(Adopt { token: 6, slot: 1, names: vec!["rtmp.0".to_owned()] })).await;
        let from_worker::Kind::Ack(Ack { token: 6, error }) = call.hear().await else { panic!("no ack") };
        assert!(error.contains("0 of 1 descriptors"), "{error}");

        call.say(to_worker::Kind::Release(Release { token: 7, slot: 1 })).await;
        assert!(matches!(worker.next(SOON).await, Command::Release { token: 7, slot: 1 }));
        call.say(to_worker::Kind::Drain(Drain { deadline_ms: 60_000 })).await;
        let Command::Drain { deadline } = worker.next(SOON).await else { panic!("no drain") };
        assert!(deadline > Instant::now() + Duration::from_secs(50));
    });
}

#[test]
fn a_broken_link_is_made_again_and_what_was_missed_is_caught_up() {
    run(async |socket| {
        let (mut calls, _server) = supervise(&socket);
        let (mut worker, mut call) = start(&socket, &mut calls).await;
        worker.handle.ready();
        worker.handle.report(Report { connections: 4, ..Report::default() });
        assert!(matches!(call.hear().await, from_worker::Kind::Ready(_)));
        drop(call);

        let mut call = welcome(&mut calls, 2).await;
        assert!(matches!(call.hear().await, from_worker::Kind::Ready(_)), "ready is said again");
        assert!(matches!(worker.next(SOON).await, Command::Apply { generation: 2, token: 0, .. }));
        let report = timeout(SOON, call.incoming.message()).await.unwrap().unwrap().unwrap();
        let Some(from_worker::Kind::Report(report)) = report.kind else { panic!("no report") };
        assert_eq!(report.connections, 4);
        assert!(worker.commands.try_recv().is_err(), "no drain");
    });
}

#[test]
fn what_was_counted_last_is_said_before_the_end() {
    run(async |socket| {
        let (mut calls, _server) = supervise(&socket);
        let (worker, mut call) = start(&socket, &mut calls).await;
        // The heartbeat that comes at once is out of the way.
        assert_eq!(call.hear_report().await.skips, 0);
        worker.handle.report(Report { skips: 7, ..Report::default() });
        let begun = Instant::now();
        worker.handle.last_words().await;
        assert!(begun.elapsed() < REPORT_EVERY / 2);
        assert_eq!(call.hear_report().await.skips, 7);
        assert!(begun.elapsed() < REPORT_EVERY, "it was not the next heartbeat");
    });
}

#[test]
fn a_link_that_stays_broken_drains_the_worker_after_its_patience() {
    run(async |socket| {
        let (mut calls, server) = supervise(&socket);
        let (mut worker, call) = start(&socket, &mut calls).await;
        std::fs::remove_file(&socket).unwrap();
        server.abort();
        drop(call);
        let broken = Instant::now();
        let Command::Drain { deadline } = worker.next(PATIENCE * 2).await else { panic!("no drain") };
        assert!(broken.elapsed() > PATIENCE - Duration::from_secs(1), "{:?}", broken.elapsed());
        assert!(deadline > Instant::now() + Duration::from_secs(6));
    });
}

#[test]
fn a_refused_worker_drains_at_once() {
    run(async |socket| {
        let (mut calls, _server) = supervise(&socket);
        let (mut worker, call) = start(&socket, &mut calls).await;
        // From now on the service refuses.
        drop(calls);
        drop(call);
        assert!(matches!(worker.next(Duration::from_secs(2)).await, Command::Drain { .. }));
    });
}

#[test]
fn nobody_there_is_an_error_after_the_patience() {
    run(async |socket| {
        let identity = Identity::of_test(Role::Edge, 3, 9);
        let begun = Instant::now();
        let error = attach(&identity, &socket, &LinkHandle::new()).await.err().unwrap();
        assert!(matches!(error, Error::Lost(_)), "{error}");
        assert!(begun.elapsed() < PATIENCE + Duration::from_secs(1));
    });
}
