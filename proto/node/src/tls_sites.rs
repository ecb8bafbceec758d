//! Certificates that clients are shown, chosen by the name that they ask for (SNI, RFC 6066 3).

use std::fs;
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::Certificate;
use crate::tls::{TlsError, certificates, provider, read_pem};

/// One certificate and the names that it is for, in small letters.
#[derive(Debug)]
struct Site {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// All of them; see the module.
#[derive(Debug, Default)]
struct Sites(RwLock<Vec<Site>>);

impl ResolvesServerCert for Sites {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sites = self.0.read().ok()?;
        let asked = hello.server_name().map(str::to_ascii_lowercase);
        let of_name =
            asked.and_then(|asked| sites.iter().find(|site| site.names.iter().any(|name| covers(name, &asked))));
        of_name.or_else(|| sites.first()).map(|site| site.key.clone())
    }
}

/// A name, or one with a star for its first label (RFC 9525 6.3).
fn covers(name: &str, asked: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(rest) => asked.split_once('.').is_some_and(|(label, behind)| !label.is_empty() && behind == rest),
        None => name == asked,
    }
}

/// The end of TLS towards clients. Certificates can be exchanged while it serves.
#[derive(Debug)]
pub struct SitesTls {
    sites: Arc<Sites>,
    files: Vec<Certificate>,
    /// When the files were last written.
    written: Vec<Option<SystemTime>>,
    http: Arc<ServerConfig>,
    plain: Arc<ServerConfig>,
}

impl SitesTls {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn load(files: &[Certificate]) -> Result<Self, TlsError> {
        let sites: Arc<Sites> = Arc::default();
        let config = |protocols: &[&[u8]]| {
            let versions = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
            let unusable =
                |reason: rustls::Error| TlsError::Unusable { path: "TLS".to_owned(), reason: reason.to_string() };
            let mut config = versions.map_err(unusable)?.with_no_client_auth().with_cert_resolver(sites.clone());
            config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Ok(Arc::new(config))
        };
        let (http, plain) = (config(&[b"h2", b"http/1.1"])?, config(&[])?);
        let mut this = Self { sites, files: Vec::new(), written: Vec::new(), http, plain };
        this.renew(files)?;
        Ok(this)
    }

    /// Reads the certificates again. Handshakes from now on are by them; on an error by those that there were.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn renew(&mut self, files: &[Certificate]) -> Result<(), TlsError> {
        let written = written(files);
        let sites = files.iter().map(site).collect::<Result<Vec<_>, _>>()?;
        if let Ok(mut current) = self.sites.0.write() {
            *current = sites;
        }
        (self.files, self.written) = (files.to_vec(), written);
        Ok(())
    }

    /// Reads them again if a file was written since; whether one was.
    ///
    /// # Errors
    /// A file cannot be used. It is tried again when it is written again.
    pub fn renew_changed(&mut self) -> Result<bool, TlsError> {
        let files = self.files.clone();
        let written = written(&files);
        if written == self.written {
            return Ok(false);
        }
        self.written = written;
        self.renew(&files).map(|()| true)
    }

    /// For HTTP/2 and HTTP/1.1, as the client chooses.
    pub fn http(&self) -> Arc<ServerConfig> {
        self.http.clone()
    }

    /// For a protocol without a name.
    pub fn plain(&self) -> Arc<ServerConfig> {
        self.plain.clone()
    }
}

fn written(files: &[Certificate]) -> Vec<Option<SystemTime>> {
    let time = |path: &String| fs::metadata(path).and_then(|data| data.modified()).ok();
    files.iter().flat_map(|site| [time(&site.cert), time(&site.key)]).collect()
}

fn site(files: &Certificate) -> Result<Site, TlsError> {
    let unusable = |path: &str, reason: String| TlsError::Unusable { path: path.to_owned(), reason };
    let chain = certificates(&files.cert, &read_pem(files.cert.as_ref())?)?;
    let key = read_pem(files.key.as_ref())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| TlsError::NoKey(files.key.clone()))?;
    let key = provider().key_provider.load_private_key(key).map_err(|e| unusable(&files.key, e.to_string()))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { key: files.key.clone(), cert: files.cert.clone() },
        e => unusable(&files.cert, e.to_string()),
    })?;
    let Some(own) = key.cert.first() else { return Err(TlsError::NoCertificate(files.cert.clone())) };
    let own = webpki::EndEntityCert::try_from(own).map_err(|e| unusable(&files.cert, e.to_string()))?;
    let names = own.valid_dns_names().map(str::to_ascii_lowercase).collect();
    Ok(Site { names, key: Arc::new(key) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_star() {
        assert!(covers("*.a.example", "x.a.example") && covers("a.example", "a.example"));
        for other in ["a.example", ".a.example", "x.y.a.example", "xa.example"] {
            assert!(!covers("*.a.example", other), "{other}");
        }
    }

    #[test]
    fn files_that_change_are_read_again_and_bad_ones_are_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let made = crate::cert::make_site(dir.path(), &[name.to_owned()]).unwrap();
            Certificate { cert: made.cert.display().to_string(), key: made.key.display().to_string() }
        };
        let (a, b) = (make("a.example"), make("b.example"));
        let mut tls = SitesTls::load(&[a.clone(), b.clone()]).unwrap();
        let names =
            |tls: &SitesTls| tls.sites.0.read().unwrap().iter().flat_map(|site| site.names.clone()).collect::<Vec<_>>();
        assert_eq!(names(&tls), ["a.example", "b.example"]);
        assert!(!tls.renew_changed().unwrap());
        let mixed = Certificate { cert: a.cert.clone(), key: b.key.clone() };
        assert!(matches!(tls.renew(&[mixed]), Err(TlsError::Mismatch { .. })));
        assert_eq!(names(&tls), ["a.example", "b.example"]);
        for (from, to) in [(&b.cert, &a.cert), (&b.key, &a.key)] {
            fs::remove_file(to).unwrap();
            fs::copy(from, to).unwrap();
        }
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        fs::File::options().write(true).open(&a.cert).unwrap().set_modified(later).unwrap();
        assert!(tls.renew_changed().unwrap());
        assert_eq!(names(&tls), ["b.example", "b.example"]);
        fs::write(&a.cert, "nonsense").unwrap();
        assert!(tls.renew_changed().is_err() && !tls.renew_changed().unwrap(), "said once");
        assert_eq!(names(&tls), ["b.example", "b.example"]);
    }
}
