//! Requests to HTTP services: one call, one reply, bounded in time and bytes.
//!
//! A thin layer over `ureq`: no redirects, no cookies, no compression, no `User-Agent`, as the
//! services expect it from upstream. It runs on the caller's thread and starts none, except for
//! looking up names. It knows no service.

use std::time::{Duration, Instant};

use ureq::config::{AutoHeaderValue, Config};
use ureq::http::{Method, Uri};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Proxy};

use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::limits;
use crate::time::Deadline;

use super::address::Family;
use super::tls::{self, TlsFiles};
use super::{proxy, resolve};

/// What to do with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read it.
    Get,
    /// Create or replace it.
    Put,
    /// Remove it.
    Delete,
    /// Hand it something.
    Post,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// What to do.
    pub verb: Verb,
    /// The whole URL, percent-encoded.
    pub url: &'a str,
    /// Headers beyond those that every request has.
    pub headers: &'a [(&'a str, &'a str)],
    /// Sent with `Put` and `Post`.
    pub body: &'a [u8],
    /// Longest time to connect, within the deadline.
    pub connect_timeout: Duration,
    /// End of the whole exchange.
    pub deadline: Deadline,
}

/// What came back.
#[derive(Debug)]
pub struct HttpReply {
    /// 200 and the like.
    pub status: u16,
    /// The whole body.
    pub body: Vec<u8>,
}

impl HttpReply {
    /// The beginning of the body, fit for an error message.
    pub fn excerpt(&self) -> String {
        let start = &self.body[..self.body.len().min(limits::REPLY_BYTES_SHOWN)];
        json::quote(String::from_utf8_lossy(start).trim())
    }
}

/// Talks to one service. Any thread may enter; keeps a connection for the next request.
pub struct HttpClient {
    agent: Agent,
}

impl HttpClient {
    /// A client for the service at `base_url`; TLS files are read if the URL needs them.
    pub fn new(base_url: &str, files: &TlsFiles) -> Result<HttpClient> {
        let invalid = |why: &str| Error::new(ErrorKind::InvalidAddress, why);
        let uri: Uri = base_url
            .parse()
            .map_err(|error| invalid("the address of the service is no URL").caused_by(error))?;
        let (Some(scheme), Some(host)) =
            (uri.scheme_str(), uri.host().filter(|host| !host.is_empty()))
        else {
            return Err(invalid("the address of the service names no host"));
        };
        let mut settings = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(AutoHeaderValue::None)
            .max_idle_connections(limits::HTTP_IDLE_CONNECTIONS_MAX)
            .max_idle_connections_per_host(limits::HTTP_IDLE_CONNECTIONS_MAX)
            .proxy(chosen_proxy(scheme, host)?);
        if scheme == "https" {
            settings = settings.tls_config(tls_config(files)?);
        }
        let agent =
            Agent::with_parts(settings.build(), DefaultConnector::default(), BoundedResolver);
        Ok(HttpClient { agent })
    }

    /// Sends the request and reads the reply, whatever its status.
    ///
    /// A kept connection may have been closed by the service meanwhile, so what breaks is tried
    /// once more; requests must be such that doing them twice is harmless.
    pub fn exchange(&self, request: &HttpRequest<'_>) -> Result<HttpReply> {
        match self.attempt(request) {
            Err(ureq::Error::Io(_)) => self.attempt(request).map_err(describe),
            first => first.map_err(describe),
        }
    }

    fn attempt(&self, request: &HttpRequest<'_>) -> std::result::Result<HttpReply, ureq::Error> {
        let left = request.deadline.remaining(Instant::now());
        if left.is_zero() {
            return Err(ureq::Error::Timeout(ureq::Timeout::Global));
        }
        let method = match request.verb {
            Verb::Get => Method::GET,
            Verb::Put => Method::PUT,
            Verb::Delete => Method::DELETE,
            Verb::Post => Method::POST,
        };
        let mut head = ureq::http::Request::builder().method(method).uri(request.url);
        for (name, value) in request.headers {
            head = head.header(*name, *value);
        }
        let connect = request.connect_timeout.min(left);
        let mut response = if matches!(request.verb, Verb::Put | Verb::Post) {
            self.agent.run(
                self.agent
                    .configure_request(head.body(request.body)?)
                    .timeout_global(Some(left))
                    .timeout_connect(Some(connect))
                    .build(),
            )
        } else {
            self.agent.run(
                self.agent
                    .configure_request(head.body(())?)
                    .timeout_global(Some(left))
                    .timeout_connect(Some(connect))
                    .build(),
            )
        }?;
        let body = response
            .body_mut()
            .with_config()
            .limit(limits::DOCUMENT_BYTES_MAX as u64)
            .read_to_vec()?;
        Ok(HttpReply { status: response.status().as_u16(), body })
    }
}

fn chosen_proxy(scheme: &str, host: &str) -> Result<Option<Proxy>> {
    let Some(text) = proxy::choose(scheme, host, &|name| std::env::var(name).ok()) else {
        return Ok(None);
    };
    // The text may hold a password, so the error does not repeat it.
    Proxy::new(&text).map(Some).map_err(|_| {
        Error::new(ErrorKind::InvalidAddress, "the proxy named by the environment is no URL")
            .with("scheme", scheme)
    })
}

fn tls_config(files: &TlsFiles) -> Result<TlsConfig> {
    let material = files.load()?;
    let authorities: Vec<_> =
        material.authorities.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
    let mut config = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(RootCerts::new_with_certs(&authorities));
    if let (Some((chain, _)), Some(key_path)) = (&material.identity, &files.key) {
        let chain: Vec<_> = chain.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let pem = std::fs::read(key_path).map_err(|error| {
            Error::io(ErrorKind::InvalidArgument, "a file for TLS cannot be read", error)
                .with("file", key_path)
        })?;
        let key = PrivateKey::from_pem(&pem).map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, "the file has no private key in PEM form")
                .with("file", key_path)
                .caused_by(error)
        })?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(config.build())
}

/// What `ResolvedSocketAddrs` has room for.
const ADDRESSES_MAX: usize = 16;

/// Names are looked up on quiet threads of bounded number.
#[derive(Debug)]
struct BoundedResolver;

impl Resolver for BoundedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().ok_or(ureq::Error::HostNotFound)?;
        let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        let found =
            resolve::resolve_within(host, port, Family::Any, *timeout.after).map_err(|error| {
                match error.kind() {
                    ErrorKind::Timeout => ureq::Error::Timeout(ureq::Timeout::Resolve),
                    _ => ureq::Error::Other(Box::new(error)),
                }
            })?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// The library's error for one of the client's.
fn describe(error: ureq::Error) -> Error {
    let (kind, text) = match &error {
        ureq::Error::Timeout(_) => (ErrorKind::Timeout, "the metadata service did not answer"),
        ureq::Error::BodyExceedsLimit(_) | ureq::Error::LargeResponseHeader(..) => {
            (ErrorKind::MetadataMalformed, "the reply of the metadata service is too long")
        }
        ureq::Error::Protocol(_) => {
            (ErrorKind::MetadataMalformed, "the metadata service does not speak HTTP")
        }
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            (ErrorKind::MetadataUnavailable, "TLS with the metadata service failed")
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (ErrorKind::InvalidAddress, "the address of the metadata service is no URL")
        }
        _ => (ErrorKind::MetadataUnavailable, "the metadata service cannot be reached"),
    };
    Error::new(kind, text).caused_by(error)
}
