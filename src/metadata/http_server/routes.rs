//! What the metadata server answers to which request.
//!
//! Keys are decoded, so that `%2F` and `/` name the same document, whichever way a client escapes.

use std::sync::Arc;

use axum::body::{to_bytes, Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use percent_encoding::percent_decode;
use tokio::sync::Semaphore;

use crate::limits;

use super::table::{Stored, Table};

/// The one resource.
pub(super) const PATH: &str = "/metadata";

/// What requests share.
#[derive(Clone)]
struct Shared {
    table: Arc<Table>,
    /// Bytes of bodies that may be on their way, in units of [`UPLOAD_UNIT_BYTES`].
    uploads: Arc<Semaphore>,
}

const UPLOAD_UNIT_BYTES: usize = 1024;
const MISSING_KEY: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "metadata key is required");

/// The routes over `table`, to be served alone or merged into another server's.
pub fn router(table: Arc<Table>) -> Router {
    let uploads = Semaphore::new(limits::SERVER_UPLOAD_BYTES_MAX / UPLOAD_UNIT_BYTES);
    let shared = Shared { table, uploads: Arc::new(uploads) };
    Router::new()
        .route(PATH, get(read).put(store).delete(remove).fallback(refuse_method))
        .route("/health", get(|| async { "OK" }))
        .with_state(shared)
}

async fn read(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let Some(key) = key_of(query.as_deref()) else { return json(MISSING_KEY) };
    match shared.table.get(&key) {
        Some(document) => json((StatusCode::OK, document)),
        None => json((StatusCode::NOT_FOUND, "metadata not found")),
    }
}

async fn remove(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    let Some(key) = key_of(query.as_deref()) else { return json(MISSING_KEY) };
    match shared.table.remove(&key) {
        true => json((StatusCode::OK, "metadata deleted")),
        false => json((StatusCode::NOT_FOUND, "metadata not found")),
    }
}

async fn store(
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Some(key) = key_of(query.as_deref()) else { return json(MISSING_KEY) };
    if key.len() > limits::SERVER_KEY_BYTES_MAX {
        return json((StatusCode::URI_TOO_LONG, "metadata key is too long"));
    }
    let document = match receive(&shared.uploads, &headers, body).await {
        Ok(document) => document,
        Err(refusal) => return json(refusal),
    };
    match shared.table.put(&key, document) {
        Stored::Updated => json((StatusCode::OK, "metadata updated")),
        Stored::Unchanged => json((StatusCode::OK, "metadata unchanged")),
        Stored::Duplicate => json((StatusCode::BAD_REQUEST, "Duplicate rpc_meta key not allowed")),
        Stored::Full => json((StatusCode::INSUFFICIENT_STORAGE, "metadata table is full")),
    }
}

/// The whole body, within bounds of size, time and what all bodies together may take.
async fn receive(
    uploads: &Semaphore,
    headers: &HeaderMap,
    body: Body,
) -> Result<Bytes, (StatusCode, &'static str)> {
    const TOO_LONG: (StatusCode, &str) =
        (StatusCode::PAYLOAD_TOO_LARGE, "metadata document is too long");
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(limits::SERVER_DOCUMENT_BYTES_MAX);
    if announced > limits::SERVER_DOCUMENT_BYTES_MAX {
        return Err(TOO_LONG);
    }
    let units = (announced / UPLOAD_UNIT_BYTES) as u32;
    let Ok(_permit) = uploads.try_acquire_many(units) else {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "too many documents at once"));
    };
    let whole = to_bytes(body, limits::SERVER_DOCUMENT_BYTES_MAX);
    match tokio::time::timeout(limits::SERVER_BODY_TIMEOUT, whole).await {
        Ok(Ok(document)) => Ok(document),
        Ok(Err(_)) => Err(TOO_LONG),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "metadata document did not arrive")),
    }
}

async fn refuse_method() -> Response {
    json((StatusCode::METHOD_NOT_ALLOWED, "Method not allowed"))
}

fn json(answer: (StatusCode, impl IntoResponse)) -> Response {
    let (status, body) = answer;
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The decoded first `key` of the query; none where it is missing or empty.
fn key_of(query: Option<&str>) -> Option<Vec<u8>> {
    let mut members =
        query?.split('&').map(|member| member.split_once('=').unwrap_or((member, "")));
    let (_, value) = members.find(|(name, _)| *name == "key")?;
    // A plus sign is a blank in a query; engines escape both.
    let value = value.replace('+', " ");
    Some(percent_decode(value.as_bytes()).collect()).filter(|key: &Vec<u8>| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded() {
        for (query, key) in [
            ("key=mooncake%2Fram%2Fa%3A1", Some("mooncake/ram/a:1")),
            ("key=mooncake/ram/a:1", Some("mooncake/ram/a:1")),
            ("x=1&key=a%20b+c%2B&key=z", Some("a b c+")),
            ("key=100%", Some("100%")),
            ("key=", None),
            ("key", None),
            ("keys=a", None),
            ("", None),
        ] {
            assert_eq!(key_of(Some(query)).as_deref(), key.map(str::as_bytes), "{query}");
        }
        assert_eq!(key_of(Some("key=%ff%00")).unwrap(), [0xff, 0]);
        assert_eq!(key_of(None), None);
    }
}
