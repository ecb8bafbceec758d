//! The taker's side.

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::pin::Pin;

use anyhow::Context as _;
use prost::Message as _;
use tokio::net::UnixListener;
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep};
use tracing::{debug, info, warn};
use weir_node::handover::{Error, Item, Passage};
use weir_proto::session::{Session, session::Kind};

use crate::serve::{Client, Context, flv, rtmp};

/// The pause after an accept error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the links to the origins may take to come up before clients are taken all the same.
const LINKS_WITHIN: Duration = Duration::from_secs(1);

/// What a client does from here on; it does not begin before the other process was told that it is taken.
type Life = Pin<Box<dyn Future<Output = ()>>>;

/// Takes clients from other workers at `path` for as long as this one lives.
///
/// # Errors
/// The socket cannot be made.
pub(crate) fn listen(cx: Context, path: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(path).ok();
    let listener = UnixListener::bind(path).with_context(|| path.display().to_string())?;
    spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(spawn_local(take(cx.clone(), Passage::accepted(stream)))),
                Err(error) => {
                    warn!(%error, "accepting another worker failed; trying on");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(())
}

async fn take(cx: Context, passage: Passage) {
    let mut count = 0_usize;
    let taken = async {
        links_up(&cx).await;
        passage.greet().await?;
        while let Some(items) = passage.take().await? {
            let lives: Vec<_> = items.into_iter().map(|item| settle(&cx, item)).collect();
            passage.answer(&lives.iter().map(Option::is_some).collect::<Vec<_>>()).await?;
            for life in lives.into_iter().flatten() {
                count += 1;
                spawn_local(life);
            }
        }
        Ok::<_, Error>(())
    };
    match taken.await {
        Ok(()) => {}
        Err(error) => warn!(%error, "the other worker's clients stay there"),
    }
    info!(clients = count, "clients taken over");
}

/// Publishers that come find their origins, if those are there at all.
async fn links_up(cx: &Context) {
    let by = Instant::now() + LINKS_WITHIN;
    while cx.hub.links().iter().any(|link| !link.is_up()) && Instant::now() < by {
        sleep(Duration::from_millis(5)).await;
    }
}

/// `None`: this is nothing that can go on here.
fn settle(cx: &Context, item: Item) -> Option<Life> {
    let session = match Session::decode(&*item.state) {
        Ok(session) => session,
        Err(error) => {
            warn!(%error, "a client of the other worker cannot be understood");
            return None;
        }
    };
    let socket = TcpStream::from(item.socket);
    socket.set_nonblocking(true).ok()?;
    // One that has left meanwhile has no address any more; its task will notice.
    let peer = session.peer.parse().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    debug!(%peer, "a client comes from another worker");
    let client = Client::new(tokio::net::TcpStream::from_std(socket).ok()?, peer, cx.client_id());
    let cx = cx.clone();
    match session.kind? {
        Kind::Fresh(fresh) => crate::worker::serve_fresh(cx, client, &fresh.service),
        Kind::Rtmp(state) => rtmp::arrive(cx, client, state),
        Kind::Flv(state) => flv::arrive(cx, client, state),
    }
}
