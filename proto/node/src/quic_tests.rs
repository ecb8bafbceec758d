//! Who gets a connection and who does not, over real endpoints on the loopback interface.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use quinn::{ConnectionError, Endpoint};
use tokio::time::timeout;

use super::*;
use crate::cert::{make_ca, make_node};
use crate::config::Tls;
use crate::tls::TlsError;

const DEADLINE: Duration = Duration::from_secs(10);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn files(dir: &Path, name: &str) -> Tls {
    let path = |file: String| dir.join(file).display().to_string();
    Tls { ca: path("ca.pem".to_owned()), cert: path(format!("{name}.pem")), key: path(format!("{name}.key")) }
}

fn host(dir: &Path, names: &[&str]) -> ClusterTls {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    make_node(dir, &names).unwrap();
    ClusterTls::load(&files(dir, &names[0])).unwrap()
}

/// Serves one connection: answers each unidirectional stream with what it read. The error is the handshake's.
async fn serve(endpoint: Endpoint) -> Result<(), ConnectionError> {
    let connection = endpoint.accept().await.unwrap().await?;
    while let Ok(mut from) = connection.accept_uni().await {
        let read = from.read_to_end(1 << 20).await.unwrap();
        let mut to = connection.open_uni().await.unwrap();
        to.write_all(&read).await.unwrap();
        to.finish().unwrap();
    }
    Ok(())
}

/// Sends a megabyte there and back.
async fn talk(client: &Endpoint, address: SocketAddr, name: &str) -> Result<(), ConnectionError> {
    let connection = client.connect(address, name).unwrap().await?;
    let body = vec![7; 1 << 20];
    let mut to = connection.open_uni().await?;
    // The peer may close at any of these steps when it refuses our certificate; then the last one says why.
    let _ = to.write_all(&body).await;
    let _ = to.finish();
    let mut from = connection.accept_uni().await?;
    assert_eq!(from.read_to_end(1 << 20).await.unwrap(), body);
    connection.close(VarInt::from_u32(0), b"");
    Ok(())
}

async fn meet(
    server: &ClusterTls,
    client: ClientConfig,
    name: &str,
) -> (Result<(), ConnectionError>, Result<(), ConnectionError>) {
    let endpoint = Endpoint::server(server_config(server).unwrap(), ANY).unwrap();
    let address = endpoint.local_addr().unwrap();
    let mut dialler = Endpoint::client(ANY).unwrap();
    dialler.set_default_client_config(client);
    let both = async { tokio::join!(serve(endpoint), talk(&dialler, address, name)) };
    timeout(DEADLINE, both).await.expect("neither end came to an end")
}

#[tokio::test]
async fn hosts_of_a_cluster_talk() {
    let dir = tempfile::tempdir().unwrap();
    make_ca(dir.path()).unwrap();
    let origin = host(dir.path(), &["origin-1", "127.0.0.1"]);
    let edge = host(dir.path(), &["edge-1"]);
    for name in ["origin-1", "127.0.0.1"] {
        let (server, client) = meet(&origin, client_config(&edge).unwrap(), name).await;
        client.unwrap();
        server.unwrap();
    }
}

#[tokio::test]
async fn the_name_of_the_origin_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    make_ca(dir.path()).unwrap();
    let origin = host(dir.path(), &["origin-1"]);
    let edge = host(dir.path(), &["edge-1"]);
    for name in ["origin-2", "127.0.0.1"] {
        let (server, client) = meet(&origin, client_config(&edge).unwrap(), name).await;
        let error = client.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
        server.unwrap_err();
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_ca(ours.path()).unwrap();
    make_ca(theirs.path()).unwrap();
    let origin = host(ours.path(), &["origin-1"]);
    let stranger = host(theirs.path(), &["origin-1"]);

    // Another authority at either end: the dialling side refuses first.
    let (server, client) = meet(&origin, client_config(&stranger).unwrap(), "origin-1").await;
    // Both authorities have the same name, so it is the signature that tells them apart.
    let error = client.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate: BadSignature"), "{error}");
    server.unwrap_err();

    // Trusts our authority but shows its own certificate, or none: the origin refuses.
    let ca = std::fs::read_to_string(ours.path().join("ca.pem")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for cert in rustls::pki_types::pem::PemObject::pem_slice_iter(ca.as_bytes()) {
        roots.add(Result::<rustls::pki_types::CertificateDer<'_>, _>::unwrap(cert)).unwrap();
    }
    let builder = || {
        rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
    };
    let mut none = builder().with_no_client_auth();
    let mut other = stranger.client_config(ALPN).unwrap();
    other.dangerous().set_certificate_verifier(
        rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), crate::tls::provider())
            .build()
            .unwrap(),
    );
    none.alpn_protocols = vec![ALPN.to_vec()];
    for (config, why) in [(none, "peer sent no certificates"), (other, "invalid peer certificate: BadSignature")] {
        let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
        let (server, client) = meet(&origin, config, "origin-1").await;
        client.unwrap_err();
        let error = server.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    make_ca(dir.path()).unwrap();
    let origin = host(dir.path(), &["origin-1"]);
    let crypto = QuicClientConfig::try_from(origin.client_config(b"h3").unwrap()).unwrap();
    let (server, client) = meet(&origin, ClientConfig::new(Arc::new(crypto)), "origin-1").await;
    client.unwrap_err();
    server.unwrap_err();
}

#[tokio::test]
async fn a_silent_peer_is_lost_within_the_idle_timeout() {
    let dir = tempfile::tempdir().unwrap();
    make_ca(dir.path()).unwrap();
    let origin = host(dir.path(), &["origin-1"]);
    let endpoint = Endpoint::server(server_config(&origin).unwrap(), ANY).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (ready, connected) = std::sync::mpsc::channel::<()>();
    let server = endpoint.clone();
    let silent = std::net::UdpSocket::bind(ANY).unwrap();
    let proxy_address = silent.local_addr().unwrap();
    let forward = std::thread::spawn(move || {
        // Forwards datagrams both ways until the test says so, then neither end hears of the other again.
        silent.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let (mut client, mut buffer) = (None, [0; 2048]);
        let end = std::time::Instant::now() + DEADLINE;
        while connected.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) && std::time::Instant::now() < end {
            let Ok((len, from)) = silent.recv_from(&mut buffer) else { continue };
            let to = if from == address {
                client.unwrap()
            } else {
                client = Some(from);
                address
            };
            silent.send_to(&buffer[..len], to).unwrap();
        }
    });
    let accept = tokio::spawn(async move { server.accept().await.unwrap().await.unwrap().closed().await });
    let mut dialler = Endpoint::client(ANY).unwrap();
    dialler.set_default_client_config(client_config(&origin).unwrap());
    let connection = dialler.connect(proxy_address, "origin-1").unwrap().await.unwrap();
    // Alive past the idle timeout while keep-alives pass.
    assert!(timeout(IDLE_TIMEOUT + KEEP_ALIVE, connection.closed()).await.is_err(), "closed while alive");
    ready.send(()).unwrap();
    let started = std::time::Instant::now();
    let why = timeout(DEADLINE, connection.closed()).await.unwrap();
    assert_eq!(why, ConnectionError::TimedOut);
    assert!(started.elapsed() < IDLE_TIMEOUT * 2, "{:?}", started.elapsed());
    assert_eq!(timeout(DEADLINE, accept).await.unwrap().unwrap(), ConnectionError::TimedOut);
    forward.join().unwrap();
}

#[test]
fn files_that_are_wrong_are_named() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_ca(ours.path()).unwrap();
    make_ca(theirs.path()).unwrap();
    host(ours.path(), &["a"]);
    host(ours.path(), &["b"]);
    let good = files(ours.path(), "a");
    let other = files(ours.path(), "b");
    let load = |files: Tls| ClusterTls::load(&files).unwrap_err();
    assert!(matches!(load(Tls { key: other.key, ..good.clone() }), TlsError::Mismatch { .. }));
    let ca = files(theirs.path(), "a").ca;
    assert!(matches!(load(Tls { ca, ..good.clone() }), TlsError::Stranger { .. }));
    assert!(
        matches!(load(Tls { cert: good.key.clone(), ..good.clone() }), TlsError::NoCertificate(path) if path == good.key)
    );
    assert!(matches!(load(Tls { key: good.cert.clone(), ..good.clone() }), TlsError::NoKey(path) if path == good.cert));
    let missing = load(Tls { ca: "/nowhere/ca.pem".to_owned(), ..good.clone() }).to_string();
    assert_eq!(missing, "/nowhere/ca.pem cannot be read: No such file or directory (os error 2)");
    let big = ours.path().join("big.pem").display().to_string();
    std::fs::write(&big, " ".repeat(crate::tls::PEM_MAX as usize + 1)).unwrap();
    assert!(matches!(load(Tls { ca: big, ..good.clone() }), TlsError::Large(_)));
    let shown = format!("{:?}", ClusterTls::load(&good).unwrap());
    assert_eq!(shown, "ClusterTls { .. }");
}
