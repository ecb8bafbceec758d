//! The cluster's own certificates, for `weir cert`: one authority, and a certificate for each host.
//!
//! Keys are ECDSA P-256. A host's certificate is for both ends of a connection, since hosts dial each other.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::config::Tls;
use crate::tls::{ClusterTls, TlsError, read_pem};

/// Days that an authority is valid: ten years.
pub const CA_DAYS: i64 = 3653;

/// Days that a host's certificate is valid, the most that common verifiers accept.
pub const NODE_DAYS: i64 = 825;

/// Names that a host's certificate may have.
pub const NAMES_MAX: usize = 100;

/// How far certificates begin in the past, for hosts whose clocks are behind.
const BACKDATE: Duration = Duration::HOUR;

/// Why certificates could not be made. Nothing is left behind then.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// No name was given.
    #[error("a host's certificate needs the names and addresses by which other hosts reach it; give at least one")]
    NoNames,
    /// More than [`NAMES_MAX`].
    #[error("{0} names; give at most {NAMES_MAX}")]
    ManyNames(usize),
    /// Neither an address nor a DNS name.
    #[error("{0:?} is neither a host name nor an IP address")]
    Name(String),
    /// The file is there already.
    #[error("{0} exists already; move it away first, it is not overwritten")]
    Exists(PathBuf),
    /// A file or directory cannot be written.
    #[error("{path}: {source}")]
    Write {
        /// What cannot be written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `ca.pem` or `ca.key` is not what it should be, or they do not belong together.
    #[error("the authority cannot sign: {0}")]
    Authority(#[from] TlsError),
    /// The key of the authority is no private key.
    #[error("{path} is not a private key: {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rcgen::Error,
    },
    /// The certificate cannot be made.
    #[error("the certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// What was made. `Display` is a text for the operator.
#[derive(Clone, Debug)]
pub struct Made {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
    /// Names and addresses of the host; empty for an authority.
    pub names: Vec<String>,
    /// End of its validity.
    pub not_after: OffsetDateTime,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.names.as_slice() {
            [] => "authority of the cluster".to_owned(),
            names => names.join(", "),
        };
        let (cert, key, until) = (self.cert.display(), self.key.display(), self.not_after.date());
        write!(f, "certificate  {cert}\nprivate key  {key}\nfor          {what}\nvalid until  {until}")
    }
}

/// Makes the authority of a cluster in `dir` (created when missing): `ca.pem`, which every host needs, and
/// `ca.key`, which only [`make_node`] needs.
pub fn make_ca(dir: &Path) -> Result<Made, CertError> {
    let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (mut params, not_after) = validity("weir cluster authority", CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let pem = params.self_signed(&pair)?.pem();
    write_pair(dir, (&cert, &pem), (&key, &pair.serialize_pem()))?;
    Ok(Made { cert, key, names: Vec::new(), not_after })
}

/// Makes the certificate of a host with the authority in `dir`: `NAME.pem` and `NAME.key`, named for the first of
/// `names`. They are the host names and IP addresses by which `cluster.origins` reaches the host.
pub fn make_node(dir: &Path, names: &[String]) -> Result<Made, CertError> {
    let first = names.first().ok_or(CertError::NoNames)?;
    if names.len() > NAMES_MAX {
        return Err(CertError::ManyNames(names.len()));
    }
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        return Err(CertError::Name(wrong.clone()));
    }
    let (cert, key) = (dir.join(format!("{first}.pem")), dir.join(format!("{first}.key")));
    let (ca_file, ca_key_file) = (dir.join("ca.pem"), dir.join("ca.key"));
    let ca_pem = read_pem(&ca_file)?;
    let ca_key = KeyPair::from_pem(&read_pem(&ca_key_file)?);
    let ca_key = ca_key.map_err(|source| CertError::Key { path: ca_key_file, source })?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;

    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (mut params, not_after) = validity(first, NODE_DAYS);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let pem = params.signed_by(&pair, &issuer)?.pem();
    let key_pem = pair.serialize_pem();
    // An authority whose key is not that of its certificate would make certificates that nobody accepts.
    let text = |path: &Path| path.display().to_string();
    let files = Tls { ca: text(&ca_file), cert: text(&cert), key: text(&key) };
    ClusterTls::from_pem(&files, &ca_pem, &pem, &key_pem)?;
    write_pair(dir, (&cert, &pem), (&key, &key_pem))?;
    Ok(Made { cert, key, names: names.to_vec(), not_after })
}

/// Makes a certificate that a host shows to clients of `names`, signed by itself: for development, as nobody trusts it.
/// `weir-dev.pem` and `weir-dev.key` in `dir`, or named for the first name where that is not `localhost`.
pub fn make_site(dir: &Path, names: &[String]) -> Result<Made, CertError> {
    let first = names.first().ok_or(CertError::NoNames)?;
    if names.len() > NAMES_MAX {
        return Err(CertError::ManyNames(names.len()));
    }
    if let Some(wrong) = names.iter().find(|name| !is_name(name)) {
        return Err(CertError::Name(wrong.clone()));
    }
    let file = if first == "localhost" { "weir-dev" } else { first };
    let (cert, key) = (dir.join(format!("{file}.pem")), dir.join(format!("{file}.key")));
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let (mut params, not_after) = validity(first, NODE_DAYS);
    params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let pem = params.self_signed(&pair)?.pem();
    write_pair(dir, (&cert, &pem), (&key, &pair.serialize_pem()))?;
    Ok(Made { cert, key, names: names.to_vec(), not_after })
}

fn validity(name: &str, days: i64) -> (CertificateParams, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - BACKDATE;
    params.not_after = now + Duration::days(days);
    let not_after = params.not_after;
    (params, not_after)
}

/// True for an IP address and for a DNS name (RFC 1123, 2.1); both are safe as a file name.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name != "ca" && name.split('.').all(label))
}

/// Writes a certificate and its key, or neither.
fn write_pair(dir: &Path, cert: (&Path, &str), key: (&Path, &str)) -> Result<(), CertError> {
    fs::create_dir_all(dir).map_err(|source| CertError::Write { path: dir.to_owned(), source })?;
    write_new(key.0, key.1, 0o600)?;
    write_new(cert.0, cert.1, 0o644).inspect_err(|_| drop(fs::remove_file(key.0)))
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CertError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CertError::Exists(path.to_owned()),
        _ => CertError::Write { path: path.to_owned(), source },
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|source| {
        drop(fs::remove_file(path));
        CertError::Write { path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn makes_an_authority_and_hosts_that_it_vouches_for() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("new/tls");
        let ca = make_ca(&dir).unwrap();
        let node = make_node(&dir, &names(&["edge-1", "edge-1.example.com", "127.0.0.3", "fd00::1"])).unwrap();
        for file in [&ca.key, &node.key] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(node.cert, dir.join("edge-1.pem"));
        let text = node.to_string();
        assert!(text.contains("edge-1, edge-1.example.com, 127.0.0.3, fd00::1"), "{text}");
        assert!(
            text.ends_with(&format!("valid until  {}", (OffsetDateTime::now_utc() + Duration::days(825)).date())),
            "{text}"
        );
        let path = |path: &Path| path.display().to_string();
        let files = Tls { ca: path(&ca.cert), cert: path(&node.cert), key: path(&node.key) };
        ClusterTls::load(&files).unwrap();
    }

    #[test]
    fn overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        make_ca(dir.path()).unwrap();
        let before = fs::read(dir.path().join("ca.key")).unwrap();
        assert!(matches!(make_ca(dir.path()), Err(CertError::Exists(_))));
        assert_eq!(fs::read(dir.path().join("ca.key")).unwrap(), before);
        fs::write(dir.path().join("a.pem"), "mine").unwrap();
        assert!(matches!(make_node(dir.path(), &names(&["a"])), Err(CertError::Exists(_))));
        assert!(!dir.path().join("a.key").exists(), "half a pair was left behind");
        assert_eq!(fs::read_to_string(dir.path().join("a.pem")).unwrap(), "mine");
    }

    #[test]
    fn refuses_names_that_are_none() {
        let dir = tempfile::tempdir().unwrap();
        make_ca(dir.path()).unwrap();
        assert!(matches!(make_node(dir.path(), &[]), Err(CertError::NoNames)));
        for wrong in ["", "ca", "../x", "a b", "-a", "a-", "a..b", "*.example.com", "a:1", "é", &"a".repeat(64)] {
            assert!(matches!(make_node(dir.path(), &names(&["ok", wrong])), Err(CertError::Name(_))), "{wrong}");
        }
        assert!(matches!(make_node(dir.path(), &vec!["a".to_owned(); 101]), Err(CertError::ManyNames(101))));
    }

    #[test]
    fn says_what_is_wrong_with_the_authority() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error = make_node(a.path(), &names(&["n"])).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains("No such file"), "{error}");
        make_ca(a.path()).unwrap();
        make_ca(b.path()).unwrap();
        fs::copy(b.path().join("ca.key"), a.path().join("ca.key")).unwrap();
        let error = make_node(a.path(), &names(&["n"])).unwrap_err().to_string();
        assert!(error.contains("was not signed by"), "{error}");
        assert!(!a.path().join("n.key").exists());
        fs::write(a.path().join("ca.key"), "no key").unwrap();
        let error = make_node(a.path(), &names(&["n"])).unwrap_err().to_string();
        assert!(error.contains("ca.key is not a private key"), "{error}");
    }
}
