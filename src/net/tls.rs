//! Whom to trust and who to be, for TLS connections to services.
//!
//! Reads certificate files when a connection needs them, not before. Holds no connection; the
//! provider of the algorithms is named wherever it is used, so that no process-wide default is set.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
#[cfg(feature = "redis")]
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, ErrorKind, Result};

/// Files in PEM form.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities to trust; absent is those of the system.
    pub authorities: Option<String>,
    /// Own certificate, for services that ask for one.
    pub certificate: Option<String>,
    /// The key of the own certificate.
    pub key: Option<String>,
}

/// What the files hold.
pub struct TlsMaterial {
    /// Authorities to trust.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Own certificate chain and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl TlsFiles {
    /// Reads the files.
    pub fn load(&self) -> Result<TlsMaterial> {
        let authorities = match &self.authorities {
            Some(path) => certificates(path)?,
            None => system_authorities()?,
        };
        let identity = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key_der =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
                Some((chain, key_der))
            }
            _ => {
                let text = "a certificate for TLS needs its key, and the other way round";
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
        };
        Ok(TlsMaterial { authorities, identity })
    }
}

/// The algorithms.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The settings of connections that are not made by an HTTP client.
#[cfg(feature = "redis")]
pub fn client_config(material: TlsMaterial) -> Result<Arc<ClientConfig>> {
    let refused = |error: rustls::Error| {
        Error::new(ErrorKind::InvalidArgument, "the TLS settings do not fit").caused_by(error)
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(material.authorities);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(roots);
    let config = match material.identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(refused)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(Path::new(path))
        .map_err(|error| unreadable(path, error))?
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| unreadable(path, error))?;
    if read.is_empty() {
        let text = "the file has no certificate in PEM form";
        return Err(Error::new(ErrorKind::InvalidArgument, text).with("file", path));
    }
    Ok(read)
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let mut error = Error::new(
            ErrorKind::InvalidArgument,
            "this system has no certificate authorities; name a file of them",
        );
        if let Some(cause) = found.errors.into_iter().next() {
            error = error.caused_by(cause);
        }
        return Err(error);
    }
    Ok(found.certs)
}

fn unreadable(path: &str, error: rustls::pki_types::pem::Error) -> Error {
    Error::new(ErrorKind::InvalidArgument, "a file for TLS cannot be read")
        .with("file", path)
        .caused_by(error)
}
