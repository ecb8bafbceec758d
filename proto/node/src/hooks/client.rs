//! The client: keeps connections, connects only to addresses that were looked at, follows no redirect.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tower::Service;
use tracing::warn;

use super::answer::{self, ANSWER_MAX, Answer};
use super::target::{Target, host_and_port, may_be_called};
use crate::config::HttpHooks;

/// How long a connection is kept that nobody uses, and how many of them to one host.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 16;

/// Addresses of one name that are tried.
const TRIES_MAX: usize = 4;

/// Why a callback brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The answer is no; its status, or "code".
    #[error("the answer is no ({0})")]
    Refused(&'static str),
    /// The answer is neither yes nor no; its status.
    #[error("an answer of status {0} that cannot be understood")]
    Unclear(u16),
    /// More than an answer may be.
    #[error("an answer of more than {0} bytes")]
    Long(usize),
    /// There was none in time.
    #[error("no answer in time")]
    Timeout,
    /// The URL leads where callbacks may not go.
    #[error("the URL leads to a link-local address, or to none; see http_hooks.link_local")]
    Forbidden,
    /// The URL cannot be called.
    #[error(transparent)]
    Target(#[from] super::TargetError),
    /// The network, or TLS.
    #[error("{0}")]
    Network(String),
}

/// The certificates of authorities that this machine trusts, read once when they are needed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tls(Rc<OnceCell<Arc<ClientConfig>>>);

impl Tls {
    async fn config(&self) -> Arc<ClientConfig> {
        let read = || async {
            // Some hundred files: not for the thread that carries media.
            let roots = spawn_blocking(roots).await.unwrap_or_else(|_| RootCertStore::empty());
            let builder = ClientConfig::builder_with_provider(crate::tls::provider());
            match builder.with_safe_default_protocol_versions() {
                Ok(builder) => Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
                // The provider has the protocols of its own library.
                Err(error) => unreachable!("{error}"),
            }
        };
        self.0.get_or_init(read).await.clone()
    }
}

fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        warn!(%error, "certificates of authorities cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

type Https = legacy::Client<HttpsConnector<Connector>, Full<Bytes>>;

/// See the module.
pub(super) struct Client {
    connector: Connector,
    tls: Tls,
    made: OnceCell<Https>,
}

impl Client {
    pub(super) fn new(config: &HttpHooks, tls: Tls) -> Self {
        let connector = Connector { link_local: config.link_local, within: config.connect_timeout };
        Self { connector, tls, made: OnceCell::new() }
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failure> {
        let make = || async {
            let connector = HttpsConnector::from((self.connector.clone(), self.tls.config().await));
            legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_MAX)
                .build(connector)
        };
        self.made.get_or_init(make).await.request(request).await.map_err(|error| why(&error))
    }

    /// Posts JSON and reads what it is answered. The caller bounds the time.
    pub(super) async fn post(&self, url: &str, body: String) -> Result<(), Failure> {
        let request = request(Method::POST, url, body.into())?;
        let (head, body) = self.send(request).await?.into_parts();
        let status = head.status.as_u16();
        let body = read(body, ANSWER_MAX).await?;
        match answer::read(status, &body) {
            Answer::Yes => Ok(()),
            Answer::No => Err(Failure::Refused(match status {
                401 => "401",
                403 => "403",
                _ => "code",
            })),
            // A server that has a fault may have none the next time.
            Answer::Unclear if head.status.is_server_error() => Err(Failure::Network(format!("status {status}"))),
            Answer::Unclear => Err(Failure::Unclear(status)),
        }
    }
}

/// Gets a document of at most `longest` bytes, with the time-outs of `config`.
///
/// # Errors
/// It is not to be had.
pub async fn fetch(url: &str, config: &HttpHooks, tls: &Tls, longest: usize) -> Result<Bytes, Failure> {
    let client = Client::new(config, tls.clone());
    let fetched = async {
        let response = client.send(request(Method::GET, url, Bytes::new())?).await?;
        match response.status().as_u16() {
            200 => read(response.into_body(), longest).await,
            status => Err(Failure::Unclear(status)),
        }
    };
    timeout(config.timeout, fetched).await.unwrap_or(Err(Failure::Timeout))
}

fn request(method: Method, url: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
    let target = Target::parse(url)?;
    let request = Request::builder()
        .method(&method)
        .uri(target.uri().clone())
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")));
    let request = if method == Method::POST { request.header(CONTENT_TYPE, "application/json") } else { request };
    request.body(Full::new(body)).map_err(|error| Failure::Network(error.to_string()))
}

async fn read(body: Incoming, longest: usize) -> Result<Bytes, Failure> {
    let read = Limited::new(body, longest).collect().await;
    read.map(|body| body.to_bytes()).map_err(|error| match error.is::<LengthLimitError>() {
        true => Failure::Long(longest),
        false => Failure::Network(error.to_string()),
    })
}

/// The innermost reason says most.
fn why(error: &legacy::Error) -> Failure {
    let mut innermost: &(dyn Error + 'static) = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    if innermost.is::<Forbidden>() { Failure::Forbidden } else { Failure::Network(innermost.to_string()) }
}

#[derive(Debug, thiserror::Error)]
#[error("an address that callbacks may not go to")]
struct Forbidden;

/// Looks a name up once, and connects to one of the addresses that may be called.
#[derive(Clone)]
struct Connector {
    link_local: bool,
    within: Duration,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TokioIo<TcpStream>, Box<dyn Error + Send + Sync>> {
        let (host, port) = host_and_port(&uri).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut addresses: Vec<_> = lookup_host((host, port)).await?.collect();
        let found = !addresses.is_empty();
        addresses.retain(|address| may_be_called(address.ip(), self.link_local));
        if found && addresses.is_empty() {
            return Err(Forbidden.into());
        }
        addresses.truncate(TRIES_MAX);
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true).ok();
                    return Ok(TokioIo::new(stream));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed.into())
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (this, within) = (self.clone(), self.within);
        Box::pin(async move {
            let late = || io::Error::from(io::ErrorKind::TimedOut).into();
            timeout(within, this.connect(uri)).await.unwrap_or_else(|_| Err(late()))
        })
    }
}
