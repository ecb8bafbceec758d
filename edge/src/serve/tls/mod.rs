//! TLS towards clients. What is inside is served as if it had come without: the decrypted end of a connection is a socket,
//! which the fan-out writes to as to any other.

mod h2;

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};
use weir_node::config::Certificate;
use weir_node::tls_sites::SitesTls;

use super::http::Service;
use super::{Client, Context, http, rtmp};
use crate::admission::Refusal;

/// How long a client may take for its handshake.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);

/// How long a client has to take what was written before the end.
const LINGER: Duration = Duration::from_secs(10);

/// What is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inside {
    /// HTTP/2 or HTTP/1.1.
    Http,
    /// RTMP.
    Rtmp,
}

/// The certificates of this worker.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    tls: RefCell<Option<SitesTls>>,
    /// What the configuration names.
    files: RefCell<Vec<Certificate>>,
}

impl Certificates {
    /// Reads what the configuration names. What cannot be read leaves what there was: connections are worth more than the
    /// news.
    pub(crate) fn configure(&self, files: &[Certificate]) {
        self.files.replace(files.to_vec());
        let tls = &mut *self.tls.borrow_mut();
        let read = match tls {
            _ if files.is_empty() => {
                *tls = None;
                return;
            }
            Some(tls) => tls.renew(files),
            None => SitesTls::load(files).map(|loaded| *tls = Some(loaded)),
        };
        if let Err(error) = read {
            warn!(%error, "edge.tls");
        }
    }

    /// Reads files again that were written since, and those that could not be read at all: a certificate whose key is not
    /// there yet, as when both are being replaced.
    pub(crate) fn renew(&self) {
        let tls = &mut *self.tls.borrow_mut();
        let files = self.files.borrow();
        let renewed = match tls {
            Some(tls) => tls.renew_changed(),
            None if files.is_empty() => Ok(false),
            None => SitesTls::load(&files).map(|loaded| *tls = Some(loaded)).map(|()| true),
        };
        match renewed {
            Ok(true) => info!("certificates of edge.tls were read again"),
            Err(error) => warn!(%error, "edge.tls: the certificates from before are used on"),
            Ok(false) => {}
        }
    }

    fn of(&self, inside: Inside) -> Option<Rc<ServerConfigOf>> {
        let tls = self.tls.borrow();
        let tls = tls.as_ref()?;
        Some(Rc::new(ServerConfigOf(if inside == Inside::Http { tls.http() } else { tls.plain() })))
    }
}

/// What a handshake is made by.
struct ServerConfigOf(std::sync::Arc<ServerConfig>);

/// Serves one client; one that has no place here is told so inside.
pub(crate) async fn serve(cx: Context, client: Client, inside: Inside, refused: Option<Refusal>) {
    let (peer, id) = (client.peer, client.id);
    let Some(config) = cx.certificates.of(inside) else {
        return debug!(client = %id, %peer, "there is no certificate");
    };
    let Some(Ok(socket)) = client.socket.map(Rc::try_unwrap) else { return };
    let handshake = TlsAcceptor::from(config.0.clone()).accept(socket);
    let handshake = tokio::select! {
        done = timeout(HANDSHAKE_WITHIN, handshake) => done,
        () = cx.hub.closing() => return,
    };
    let mut stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(client = %id, %peer, %error, "TLS handshake failed"),
        Err(_) => return debug!(client = %id, %peer, "TLS handshake took too long"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return h2::serve(cx, stream, peer).await;
    }
    let Ok((mut ours, client)) = inner(peer, id) else { return };
    let carry = async move {
        copy_bidirectional(&mut stream, &mut ours).await.ok();
    };
    let served = async {
        match inside {
            Inside::Http => http::serve(cx, client, Service::Https, refused).await,
            Inside::Rtmp => rtmp::serve(cx, client, refused).await,
        }
    };
    tokio::pin!(carry, served);
    tokio::select! {
        // The client went: who serves it sees that at its own end.
        () = &mut carry => served.await,
        () = &mut served => drop(timeout(LINGER, carry).await),
    }
}

/// A pair of sockets: one to carry to and from the client, and one that is served.
fn inner(peer: std::net::SocketAddr, id: u64) -> io::Result<(tokio::net::UnixStream, Client)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    // Reading, writing and waiting are the same for both kinds of stream sockets; nothing else is done with it.
    let theirs = TcpStream::from_std(std::net::TcpStream::from(OwnedFd::from(theirs)))?;
    Ok((tokio::net::UnixStream::from_std(ours)?, Client { over_tls: true, ..Client::new(theirs, peer, id) }))
}
