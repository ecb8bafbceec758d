//! Mutual TLS between the hosts of a cluster, from the files of `cluster.tls`.
//!
//! Both ends show a certificate of the cluster's authority, and nobody else is let in. The end that dials also
//! checks the other's name or address as it is written in `cluster.origins`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Identity, ServerTlsConfig};

use crate::config::Tls;

/// Largest PEM file that is read.
pub const PEM_MAX: u64 = 1 << 20;

/// How long a TLS handshake of the control plane may take.
pub const HANDSHAKE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// Which file of `cluster.tls` is wrong, and why.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Cannot be read.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Larger than [`PEM_MAX`].
    #[error("{0} is larger than {PEM_MAX} bytes, so it is no PEM file of a certificate or key")]
    Large(String),
    /// Holds no certificate.
    #[error("{0} holds no certificate; it must be a PEM file with BEGIN CERTIFICATE")]
    NoCertificate(String),
    /// Holds no private key.
    #[error("{0} holds no private key; it must be a PEM file with BEGIN PRIVATE KEY")]
    NoKey(String),
    /// A certificate or key that cannot be used.
    #[error("{path} cannot be used: {reason}")]
    Unusable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// The private key is another certificate's.
    #[error("{key} is not the private key of {cert}")]
    Mismatch {
        /// `cluster.tls.key`.
        key: String,
        /// `cluster.tls.cert`.
        cert: String,
    },
    /// The authority did not sign the certificate.
    #[error("{cert} was not signed by {ca}; make it with weir cert in the directory of that authority")]
    Stranger {
        /// `cluster.tls.cert`.
        cert: String,
        /// `cluster.tls.ca`.
        ca: String,
    },
    /// The certificate is not for this time.
    #[error("{0} has expired or is not valid yet; make a new one, or set the clock")]
    Expired(String),
}

/// The certificates of this host, read and checked.
#[derive(Clone)]
pub struct ClusterTls {
    roots: Arc<RootCertStore>,
    identity: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    ca_pem: String,
    cert_pem: String,
    key_pem: String,
}

impl fmt::Debug for ClusterTls {
    /// Shows nothing: one of the fields is a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTls").finish_non_exhaustive()
    }
}

impl ClusterTls {
    /// Reads the three files and checks that they belong together and are valid now.
    pub fn load(files: &Tls) -> Result<Self, TlsError> {
        let read = |path: &str| read_pem(Path::new(path));
        Self::from_pem(files, &read(&files.ca)?, &read(&files.cert)?, &read(&files.key)?)
    }

    /// The same from the contents of the files; `files` names them in errors.
    pub(crate) fn from_pem(files: &Tls, ca_pem: &str, cert_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let provider = provider();
        let unusable = |path: &str, reason: String| TlsError::Unusable { path: path.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for cert in certificates(&files.ca, ca_pem)? {
            roots.add(cert).map_err(|e| unusable(&files.ca, e.to_string()))?;
        }
        let chain = certificates(&files.cert, cert_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| TlsError::NoKey(files.key.clone()))?;
        let key = provider.key_provider.load_private_key(key).map_err(|e| unusable(&files.key, e.to_string()))?;
        let identity = CertifiedKey::new(chain, key);
        identity.keys_match().map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => {
                TlsError::Mismatch { key: files.key.clone(), cert: files.cert.clone() }
            }
            e => unusable(&files.cert, e.to_string()),
        })?;
        let tls = Self {
            roots: Arc::new(roots),
            identity: Arc::new(identity),
            provider,
            ca_pem: ca_pem.to_owned(),
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        };
        tls.check(files)?;
        Ok(tls)
    }

    /// Looks at this host's certificate as its peers will.
    fn check(&self, files: &Tls) -> Result<(), TlsError> {
        let unusable = |path: &str, reason: String| TlsError::Unusable { path: path.to_owned(), reason };
        let verifier = self.client_verifier().map_err(|e| unusable(&files.ca, e.to_string()))?;
        let Some((own, between)) = self.identity.cert.split_first() else {
            return Err(TlsError::NoCertificate(files.cert.clone()));
        };
        let verified = verifier.verify_client_cert(own, between, UnixTime::now());
        verified.map(|_| ()).map_err(|e| match e {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                TlsError::Stranger { cert: files.cert.clone(), ca: files.ca.clone() }
            }
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => TlsError::Expired(files.cert.clone()),
            e => unusable(&files.cert, e.to_string()),
        })
    }

    fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
        WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone()).build()
    }

    /// TLS 1.3 of the end that is dialled; peers without a certificate of the cluster are refused.
    pub fn server_config(&self, alpn: &[u8]) -> Result<ServerConfig, rustls::Error> {
        let verifier = self.client_verifier().map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.identity.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// TLS 1.3 of the end that dials.
    pub fn client_config(&self, alpn: &[u8]) -> Result<ClientConfig, rustls::Error> {
        let verifier: Arc<dyn ServerCertVerifier> =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
                .build()
                .map_err(|e| rustls::Error::General(e.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.identity.clone())));
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(config)
    }

    /// TLS of the gRPC server. tonic also offers TLS 1.2, with the same demand for a certificate; two weirs agree
    /// on 1.3.
    pub fn grpc_server(&self) -> ServerTlsConfig {
        install_provider();
        ServerTlsConfig::new()
            .identity(Identity::from_pem(&self.cert_pem, &self.key_pem))
            .client_ca_root(Certificate::from_pem(&self.ca_pem))
            .client_auth_optional(false)
            .timeout(HANDSHAKE_TIMEOUT)
    }

    /// TLS of a gRPC client; `host` is the name or address of `cluster.origins` without port and brackets, for
    /// which the server's certificate must be.
    pub fn grpc_client(&self, host: &str) -> ClientTlsConfig {
        install_provider();
        ClientTlsConfig::new()
            .identity(Identity::from_pem(&self.cert_pem, &self.key_pem))
            .ca_certificate(Certificate::from_pem(&self.ca_pem))
            .domain_name(host)
            .timeout(HANDSHAKE_TIMEOUT)
    }
}

/// The one cryptographic provider of weir.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Makes [`provider`] the default of the process, for libraries that choose none themselves (tonic's server).
fn install_provider() {
    // An error says that a default is set already, which is as good.
    let _ = aws_lc_rs::default_provider().install_default();
}

pub(crate) fn certificates(path: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        Ok(_) => Err(TlsError::NoCertificate(path.to_owned())),
        Err(e) => Err(TlsError::Unusable { path: path.to_owned(), reason: e.to_string() }),
    }
}

/// Reads a PEM file of at most [`PEM_MAX`] bytes.
pub(crate) fn read_pem(path: &Path) -> Result<String, TlsError> {
    let name = || path.display().to_string();
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(PEM_MAX + 1).read_to_string(&mut text));
    match read {
        Ok(len) if len as u64 > PEM_MAX => Err(TlsError::Large(name())),
        Ok(_) => Ok(text),
        Err(source) => Err(TlsError::Read { path: name(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;
    use tokio::time::timeout;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::client::Grpc;
    use tonic::transport::{Endpoint, Server};
    use tonic::{Code, Request, Status};
    use tonic_prost::ProstCodec;

    use super::*;
    use crate::cert::{make_ca, make_node};

    fn host(dir: &Path, name: &str) -> ClusterTls {
        let made = make_node(dir, &[name.to_owned()]).unwrap();
        let path = |path: &Path| path.display().to_string();
        ClusterTls::load(&Tls { ca: path(&dir.join("ca.pem")), cert: path(&made.cert), key: path(&made.key) }).unwrap()
    }

    /// Calls a method that the server does not have: `Unimplemented` is the answer of one that let us in.
    async fn call(address: std::net::SocketAddr, tls: ClientTlsConfig) -> Result<(), Status> {
        let refused = |e: tonic::transport::Error| Status::unavailable(format!("{e:?}"));
        let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).map_err(refused)?;
        let mut client = Grpc::new(endpoint.connect().await.map_err(refused)?);
        client.ready().await.map_err(refused)?;
        let codec = ProstCodec::<(), ()>::default();
        client.unary(Request::new(()), "/weir.None/None".parse().unwrap(), codec).await.map(|_| ())
    }

    #[tokio::test]
    async fn grpc_lets_in_the_cluster_and_nobody_else() {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        make_ca(ours.path()).unwrap();
        make_ca(theirs.path()).unwrap();
        let origin = host(ours.path(), "127.0.0.1");
        let edge = host(ours.path(), "edge-1");
        let stranger = host(theirs.path(), "127.0.0.1");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder().tls_config(origin.grpc_server()).unwrap();
        let router = server.add_routes(tonic::service::Routes::default());
        let serving = tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));

        let trusting =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&origin.ca_pem)).domain_name("127.0.0.1");
        let disguised = trusting.clone().identity(Identity::from_pem(&stranger.cert_pem, &stranger.key_pem));
        for (who, tls, code) in [
            ("a host of the cluster", edge.grpc_client("127.0.0.1"), Code::Unimplemented),
            ("the wrong name", edge.grpc_client("origin-2"), Code::Unavailable),
            ("another authority", stranger.grpc_client("127.0.0.1"), Code::Unavailable),
            ("no certificate", trusting, Code::Unavailable),
            ("a certificate of another authority", disguised, Code::Unavailable),
        ] {
            let status = timeout(Duration::from_secs(10), call(address, tls)).await.unwrap().unwrap_err();
            // A refusal after our side finished its handshake ends the connection in the middle of the call.
            let code_is = if status.code() == Code::Unknown { Code::Unavailable } else { status.code() };
            assert_eq!(code_is, code, "{who}: {status:?}");
        }
        serving.abort();
    }
}
