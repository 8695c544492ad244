//! etcd's API version 3 as JSON over HTTP, which every etcd from 3.4 on serves beside gRPC.
//!
//! Knows endpoints, users and the calls that a metadata store and an election need; knows nothing
//! of documents and leaders.
//! Runs on the caller's thread. A call tries one endpoint after the other, each with its share of
//! the time, beginning with the one that answered last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD as BASE64;
use base64::Engine as _;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::http::{HttpClient, HttpReply, HttpRequest, Verb};
use crate::time::Deadline;
use crate::{json, net::tls::TlsFiles};

use super::{Settings, SCHEME};

/// gRPC's codes, as far as they are told apart here.
const CODE_INVALID_ARGUMENT: i64 = 3;
const CODE_DEADLINE_EXCEEDED: i64 = 4;
const CODE_NOT_FOUND: i64 = 5;
const CODE_PERMISSION_DENIED: i64 = 7;
const CODE_UNAVAILABLE: i64 = 14;
const CODE_UNAUTHENTICATED: i64 = 16;

/// A failed call.
pub(super) struct Failure {
    pub(super) error: Error,
    /// What the cluster answered; none where no answer came.
    code: Option<i64>,
}

impl Failure {
    /// What the call was about does not exist (a lease).
    pub(super) fn is_not_found(&self) -> bool {
        self.code == Some(CODE_NOT_FOUND)
    }

    /// Another endpoint may do better.
    fn is_local(&self) -> bool {
        matches!(self.code, None | Some(CODE_UNAVAILABLE | CODE_DEADLINE_EXCEEDED))
            && matches!(
                self.error.kind(),
                ErrorKind::Timeout | ErrorKind::MetadataUnavailable | ErrorKind::LimitReached
            )
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure { error, code: None }
    }
}

type Answer<T> = std::result::Result<T, Failure>;

/// The way to a cluster.
pub(super) struct Gateway {
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
}

struct Endpoint {
    url: String,
    client: HttpClient,
}

impl Gateway {
    pub(super) fn new(settings: &Settings<'_>) -> Result<Gateway> {
        let endpoints = settings
            .endpoints
            .iter()
            .map(|text| Endpoint::new(text, settings.tls, &settings.files))
            .collect::<Result<Vec<_>>>()?;
        let user = match settings.username {
            "" => None,
            name => Some((name.to_owned(), settings.password.to_owned())),
        };
        Ok(Gateway { endpoints, preferred: AtomicUsize::new(0), user, token: Mutex::default() })
    }

    /// The value under `key`.
    pub(super) fn range(&self, key: &str, end: Deadline) -> Answer<Option<Vec<u8>>> {
        let request = KeyRequest { key: BASE64.encode(key) };
        let reply: RangeReply = self.call("kv/range", &request, key, end)?;
        let Some(entry) = reply.kvs.into_iter().next() else { return Ok(None) };
        let value = BASE64.decode(entry.value).map_err(|error| {
            let text = "the value in etcd's reply is not in base64";
            place(Error::new(ErrorKind::MetadataMalformed, text).caused_by(error), key)
        })?;
        Ok(Some(value))
    }

    pub(super) fn put(
        &self,
        key: &str,
        value: &[u8],
        lease: Option<&str>,
        end: Deadline,
    ) -> Answer<()> {
        let request = PutRequest { key: BASE64.encode(key), value: BASE64.encode(value), lease };
        self.call::<_, Empty>("kv/put", &request, key, end).map(|_| ())
    }

    pub(super) fn remove(&self, key: &str, end: Deadline) -> Answer<()> {
        let request = KeyRequest { key: BASE64.encode(key) };
        self.call::<_, Empty>("kv/deleterange", &request, key, end).map(|_| ())
    }

    /// A new lease's id; `key` is what it is wanted for.
    pub(super) fn grant(&self, lease: Duration, key: &str, end: Deadline) -> Answer<String> {
        self.grant_for(lease, key, end).map(|(id, _)| id)
    }

    /// The same, with the time to live that the cluster chose.
    pub(super) fn grant_for(
        &self,
        lease: Duration,
        key: &str,
        end: Deadline,
    ) -> Answer<(String, Duration)> {
        let request = GrantRequest { ttl: lease.as_secs().max(1) };
        let reply: LeaseReply = self.call("lease/grant", &request, key, end)?;
        if reply.id.is_empty() {
            let text = "etcd granted a lease without an id";
            return Err(place(Error::new(ErrorKind::MetadataMalformed, text), key).into());
        }
        let seconds = u64::try_from(number(&reply.ttl)).unwrap_or(0);
        Ok((reply.id, Duration::from_secs(seconds)))
    }

    /// Renews a lease; false if the cluster does not know it any more.
    pub(super) fn keep_alive(&self, id: &str, end: Deadline) -> Answer<bool> {
        let reply: StreamReply = self.call("lease/keepalive", &LeaseRequest { id }, "", end)?;
        match reply.result {
            Some(lease) => Ok(lease.ttl.parse().is_ok_and(|seconds: i64| seconds > 0)),
            None => {
                let text = "etcd did not renew the lease";
                Err(place(Error::new(ErrorKind::MetadataUnavailable, text), "").into())
            }
        }
    }

    /// What lies under several keys at one moment, in their order.
    pub(super) fn entries(&self, keys: &[&str], end: Deadline) -> Answer<Vec<Option<Kept>>> {
        let about = keys.first().copied().unwrap_or("");
        let request = Transaction {
            success: keys.iter().map(|key| Operation::range(key)).collect(),
            ..Transaction::default()
        };
        let reply: TransactionReply = self.call("kv/txn", &request, about, end)?;
        reply.kept(keys.len()).map_err(|error| place(error, about).into())
    }

    /// Carries `changes` out if `conditions` hold, else says what lies under `otherwise`.
    pub(super) fn change(
        &self,
        conditions: &[Condition<'_>],
        changes: &[PutUnder<'_>],
        otherwise: &str,
        end: Deadline,
    ) -> Answer<Changed> {
        let request = Transaction {
            compare: conditions.iter().map(Compare::new).collect(),
            success: changes.iter().map(Operation::put).collect(),
            failure: vec![Operation::range(otherwise)],
        };
        let reply: TransactionReply = self.call("kv/txn", &request, otherwise, end)?;
        if reply.succeeded {
            return Ok(Changed::Done { revision: number(&reply.header.revision) });
        }
        let mut kept = reply.kept(1).map_err(|error| place(error, otherwise))?;
        Ok(Changed::Not(kept.pop().flatten()))
    }

    pub(super) fn revoke(&self, id: &str, end: Deadline) -> Answer<()> {
        self.call::<_, Empty>("lease/revoke", &LeaseRequest { id }, "", end).map(|_| ())
    }

    /// Posts `request`, with a token where there is a user; a token that has expired is renewed.
    fn call<Q, A>(&self, path: &str, request: &Q, key: &str, end: Deadline) -> Answer<A>
    where
        Q: Serialize,
        A: for<'de> Deserialize<'de>,
    {
        let longest = Deadline::after(Instant::now(), limits::METADATA_CALL_TIMEOUT);
        let end = end.min(longest);
        let body = json::encode(request);
        let add_place = |failure: Failure| Failure { error: place(failure.error, key), ..failure };
        let token = self.token(None, key, end)?;
        let reply = match self.post(path, &body, token.as_deref(), end) {
            Err(failure) if failure.code == Some(CODE_UNAUTHENTICATED) && token.is_some() => {
                let token = self.token(token, key, end)?;
                self.post(path, &body, token.as_deref(), end)
            }
            other => other,
        };
        decode(&reply.map_err(add_place)?).map_err(add_place)
    }

    /// The token to send; `expired` is one that was refused.
    fn token(&self, expired: Option<String>, key: &str, end: Deadline) -> Answer<Option<String>> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let known = self.token.lock().clone();
        if known.is_some() && known != expired {
            return Ok(known);
        }
        let body = json::encode(&AuthenticateRequest { name, password });
        let reply = self.post("auth/authenticate", &body, None, end).map_err(|failure| {
            let mut error = failure.error;
            if failure.code == Some(CODE_INVALID_ARGUMENT) {
                error = Error::new(ErrorKind::Rejected, "etcd does not accept user and password")
                    .caused_by(error);
            }
            Failure { error: place(error, key).with("user", name), ..failure }
        })?;
        let token = decode::<AuthenticateReply>(&reply)
            .map_err(|failure| Failure { error: place(failure.error, key), ..failure })?
            .token;
        *self.token.lock() = Some(token.clone());
        Ok(Some(token))
    }

    fn post(&self, path: &str, body: &[u8], token: Option<&str>, end: Deadline) -> Answer<Vec<u8>> {
        let first = self.preferred.load(Ordering::Relaxed);
        let count = self.endpoints.len();
        let mut last = None;
        for turn in 0..count {
            let index = (first + turn) % count;
            let now = Instant::now();
            let share = end.remaining(now) / (count - turn) as u32;
            let share_end = Deadline::after(now, share);
            match self.endpoints[index].post(path, body, token, share_end) {
                Err(failure) if failure.is_local() => last = Some(failure),
                answer => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(ErrorKind::MetadataUnavailable, "no etcd endpoint is configured").into()
        }))
    }
}

impl Endpoint {
    fn new(text: &str, tls: bool, files: &TlsFiles) -> Result<Endpoint> {
        let url = match (text.contains("://"), tls) {
            (true, _) => text.to_owned(),
            (false, true) => format!("https://{text}"),
            (false, false) => format!("http://{text}"),
        };
        let client = HttpClient::new(&url, files).map_err(|error| error.with("endpoint", text))?;
        Ok(Endpoint { url, client })
    }

    fn post(&self, path: &str, body: &[u8], token: Option<&str>, end: Deadline) -> Answer<Vec<u8>> {
        let url = format!("{}/v3/{path}", self.url);
        let content = ("Content-Type", "application/json");
        let with_token;
        let headers: &[_] = match token {
            None => &[content],
            Some(token) => {
                with_token = [content, ("Authorization", token)];
                &with_token
            }
        };
        let connect_timeout = limits::METADATA_CALL_TIMEOUT;
        let request = HttpRequest {
            verb: Verb::Post,
            url: &url,
            headers,
            body,
            connect_timeout,
            deadline: end,
        };
        let add_place = |error: Error| error.with("endpoint", &self.url);
        let reply = self.client.exchange(&request).map_err(add_place)?;
        if reply.status == 200 {
            return Ok(reply.body);
        }
        let failure = refusal(&reply);
        Err(Failure { error: add_place(failure.error), ..failure })
    }
}

fn refusal(reply: &HttpReply) -> Failure {
    let what = json::decode_object::<ErrorReply>(&reply.body, ErrorKind::MetadataMalformed, "");
    let Ok(ErrorReply { code: Some(code), message }) = what else {
        let kind = match reply.status {
            500.. => ErrorKind::MetadataUnavailable,
            _ => ErrorKind::MetadataMalformed,
        };
        let error = Error::new(kind, "the service does not answer like etcd 3.4 or later")
            .with("status", reply.status)
            .with("reply", reply.excerpt());
        return error.into();
    };
    let (kind, text) = match code {
        CODE_UNAVAILABLE | CODE_DEADLINE_EXCEEDED => {
            (ErrorKind::MetadataUnavailable, "etcd cannot serve the request now")
        }
        CODE_PERMISSION_DENIED | CODE_UNAUTHENTICATED => {
            (ErrorKind::Rejected, "etcd grants no access")
        }
        _ => (ErrorKind::Rejected, "etcd refused the request"),
    };
    let error = Error::new(kind, text).with("reply", json::quote(&message));
    Failure { error, code: Some(code) }
}

fn decode<A: for<'de> Deserialize<'de>>(body: &[u8]) -> Answer<A> {
    Ok(json::decode_object(body, ErrorKind::MetadataMalformed, "reply of etcd")?)
}

fn place(error: Error, key: &str) -> Error {
    let error = error.with("service", SCHEME);
    match key {
        "" => error,
        key => error.with("key", key.escape_debug()),
    }
}

/// What has to be so before a change is made.
pub(super) enum Condition<'a> {
    /// Nothing lies under the key.
    Absent(&'a str),
    /// The key was changed last at this revision; 0 is never, or it was removed since.
    ChangedAt(&'a str, i64),
}

/// A value to be put under a key.
pub(super) struct PutUnder<'a> {
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
    pub(super) lease: Option<&'a str>,
}

/// What became of a change.
pub(super) enum Changed {
    /// It was made, at this revision.
    Done { revision: i64 },
    /// A condition did not hold; this lies under the key that was asked for.
    Not(Option<Kept>),
}

/// A value with its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) value: Vec<u8>,
    /// The revision at which the key came to be.
    pub(super) created: i64,
    /// The revision of its last change.
    pub(super) changed: i64,
    /// The lease it hangs on; empty for none.
    pub(super) lease: String,
}

/// A number in a reply; absent means 0.
fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}

#[derive(Serialize, Default)]
struct Transaction<'a> {
    compare: Vec<Compare>,
    success: Vec<Operation<'a>>,
    failure: Vec<Operation<'a>>,
}

#[derive(Serialize)]
struct Compare {
    key: String,
    target: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    create_revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mod_revision: Option<String>,
}

impl Compare {
    fn new(condition: &Condition<'_>) -> Compare {
        let (key, target, create_revision, mod_revision) = match condition {
            Condition::Absent(key) => (key, "CREATE", Some("0".to_owned()), None),
            Condition::ChangedAt(key, revision) => (key, "MOD", None, Some(revision.to_string())),
        };
        Compare { key: BASE64.encode(key), target, create_revision, mod_revision }
    }
}

#[derive(Serialize)]
enum Operation<'a> {
    #[serde(rename = "request_range")]
    Range(KeyRequest),
    #[serde(rename = "request_put")]
    Put(PutRequest<'a>),
}

impl<'a> Operation<'a> {
    fn range(key: &str) -> Operation<'a> {
        Operation::Range(KeyRequest { key: BASE64.encode(key) })
    }

    fn put(put: &PutUnder<'a>) -> Operation<'a> {
        let (key, value) = (BASE64.encode(put.key), BASE64.encode(put.value));
        Operation::Put(PutRequest { key, value, lease: put.lease })
    }
}

#[derive(Deserialize)]
struct TransactionReply {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    succeeded: bool,
    #[serde(default)]
    responses: Vec<Response>,
}

#[derive(Deserialize, Default)]
struct Header {
    #[serde(default)]
    revision: String,
}

#[derive(Deserialize)]
struct Response {
    #[serde(alias = "responseRange")]
    response_range: Option<RangeReply>,
}

impl TransactionReply {
    /// The first entry of each of `count` ranges.
    fn kept(self, count: usize) -> Result<Vec<Option<Kept>>> {
        let malformed = |text| Error::new(ErrorKind::MetadataMalformed, text);
        if self.responses.len() != count {
            return Err(malformed("etcd answered another number of questions"));
        }
        let one = |response: Response| {
            let Some(entry) =
                response.response_range.and_then(|range| range.kvs.into_iter().next())
            else {
                return Ok(None);
            };
            let value = BASE64.decode(entry.value).map_err(|error| {
                malformed("the value in etcd's reply is not in base64").caused_by(error)
            })?;
            let (created, changed) = (number(&entry.create_revision), number(&entry.mod_revision));
            Ok(Some(Kept { value, created, changed, lease: entry.lease }))
        };
        self.responses.into_iter().map(one).collect()
    }
}

#[derive(Serialize)]
struct KeyRequest {
    key: String,
}

#[derive(Serialize)]
struct PutRequest<'a> {
    key: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<&'a str>,
}

#[derive(Serialize)]
struct GrantRequest {
    #[serde(rename = "TTL")]
    ttl: u64,
}

#[derive(Serialize)]
struct LeaseRequest<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
}

#[derive(Serialize)]
struct AuthenticateRequest<'a> {
    name: &'a str,
    password: &'a str,
}

#[derive(Deserialize)]
struct Empty {}

// Members that are zero or empty are left out of replies; 64-bit numbers are strings.

#[derive(Deserialize)]
struct RangeReply {
    #[serde(default)]
    kvs: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    value: String,
    #[serde(default, alias = "createRevision")]
    create_revision: String,
    #[serde(default, alias = "modRevision")]
    mod_revision: String,
    #[serde(default)]
    lease: String,
}

#[derive(Deserialize)]
struct LeaseReply {
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(rename = "TTL", default)]
    ttl: String,
}

#[derive(Deserialize)]
struct StreamReply {
    result: Option<LeaseReply>,
}

#[derive(Deserialize)]
struct AuthenticateReply {
    token: String,
}

#[derive(Deserialize)]
struct ErrorReply {
    code: Option<i64>,
    #[serde(default)]
    message: String,
}
