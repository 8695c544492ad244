//! The pages of the master: health, metrics, and questions about keys and segments, over HTTP.
//!
//! Bodies of upstream 0.3.7 byte for byte under its paths; what 0.3.13 added under its own. Where
//! both have a path the older body is given: `/health` says `OK`, `/query_key` answers in lines.
//! Anybody who reaches the port may list keys and remove everything, as upstream has it.
//!
//! Runs on one thread, `mc-admin`, with a second one for answers that walk over all keys.

mod answer;
mod query;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::{RawQuery, Request, State};
use axum::http::{header, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, MethodRouter};
use axum::Router;
use tokio::sync::oneshot;

use super::exposition::{exposition, Sources};
use super::summary::summary;
use super::view::View;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::http_server::accept;
use crate::net::thread;
use query::Query;

/// Upstream's type of nearly everything.
const PLAIN: &str = "text/plain; version=0.0.4";
const JSON: &str = "application/json";

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// Index, calls, and the rest of the metrics.
    pub sources: Sources,
}

impl Pages {
    /// The summary line.
    pub fn summary(&self) -> String {
        let sources = &self.sources;
        summary(&*sources.view, sources.file_capacity)
    }
}

/// The pages as a router that other servers can merge.
pub fn router(pages: Pages) -> Router {
    let of_the_index = Router::new()
        .route("/get_all_keys", only_get(get(all_keys)))
        .route("/get_all_segments", only_get(get(all_segments)))
        .route("/query_segment", only_get(get(query_segment)))
        .route("/query_key", only_get(get(query_key)))
        .route("/batch_query_keys", only_get(get(batch_query_keys)))
        .route("/get_segments_detail", only_get(get(segments_detail)))
        .route("/api/v1/segments/status", only_get(get(segment_status)))
        .route("/api/v1/remove_all", post(remove_all).fallback(unknown))
        .route_layer(axum::middleware::from_fn_with_state(pages.clone(), only_leader));
    Router::new()
        .route("/metrics", only_get(get(metrics)))
        .route("/metrics/summary", only_get(get(summary_line)))
        // Of a standby, too: it is well, and who restarts it for not leading does harm.
        .route("/health", only_get(get(|| async { plain("OK") })))
        .route("/role", only_get(get(role)))
        .route("/ha_status", only_get(get(ha_status)))
        .route("/leader", only_get(get(leader)))
        .merge(of_the_index)
        .fallback(unknown)
        .with_state(pages)
}

/// An index that does not lead knows nothing, which must not look like an empty pool.
async fn only_leader(State(pages): State<Pages>, request: Request, next: Next) -> Response {
    let standing = pages.sources.view.standing();
    if standing.leads {
        return next.run(request).await;
    }
    let text = match standing.leader {
        Some(address) => format!("this master stands by; the leader is {address}\n"),
        None => "this master stands by; nobody leads at present\n".to_owned(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, PLAIN)], text).into_response()
}

async fn role(State(pages): State<Pages>) -> Response {
    plain(if pages.sources.view.standing().leads { "leader" } else { "standby" })
}

async fn ha_status(State(pages): State<Pages>) -> Response {
    let standing = pages.sources.view.standing();
    // Whose lease has just ended is about to say so.
    let is_late = standing.state == "serving" && !standing.leads;
    plain(if is_late { "standby" } else { standing.state })
}

/// Upstream knows neither HEAD nor a status for methods.
fn only_get(route: MethodRouter<Pages>) -> MethodRouter<Pages> {
    route.head(unknown).fallback(unknown)
}

async fn unknown() -> Response {
    let mut response = (StatusCode::NOT_FOUND, "404 Not Found").into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

fn plain(body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, PLAIN)], body).into_response()
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

async fn leader(State(pages): State<Pages>) -> Response {
    let view = &pages.sources.view;
    let standing = view.standing();
    // A standby does not keep the version, which means something to nobody but the leader.
    let version = (standing.elects && standing.leads).then(|| view.figures().view_version);
    let body = serde_json::json!({
        "present": standing.leader.is_some(),
        "leader_address": standing.leader,
        "view_version": version,
    });
    json(StatusCode::OK, &body)
}

async fn metrics(State(pages): State<Pages>) -> Response {
    plain(exposition(&pages.sources))
}

async fn summary_line(State(pages): State<Pages>) -> Response {
    plain(pages.summary())
}

/// Walks over everything, so it runs beside the thread that answers whether the master is well.
async fn aside<T: Send + 'static>(
    view: &Arc<dyn View>,
    work: impl FnOnce(&dyn View) -> T + Send + 'static,
) -> std::result::Result<T, Response> {
    let view = Arc::clone(view);
    let failed = |_| (StatusCode::INTERNAL_SERVER_ERROR, "the answer failed").into_response();
    tokio::task::spawn_blocking(move || work(&*view)).await.map_err(failed)
}

async fn all_keys(State(pages): State<Pages>) -> Response {
    let collect = |view: &dyn View| {
        let mut body = Vec::new();
        view.keys(&mut |key| {
            body.extend_from_slice(key);
            body.push(b'\n');
        });
        body
    };
    aside(&pages.sources.view, collect).await.map_or_else(|failed| failed, plain)
}

async fn all_segments(State(pages): State<Pages>) -> Response {
    let mut body = String::new();
    for segment in pages.sources.view.segments() {
        body += &segment.name;
        body.push('\n');
    }
    plain(body)
}

async fn query_segment(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let segments = pages.sources.view.segments();
    let query = Query::new(query.as_deref());
    let found = query
        .spellings("segment")
        .into_iter()
        .find_map(|name| answer::segment_figures(&segments, &name));
    match found {
        Some(body) => plain(body),
        None => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, PLAIN)],
            "Failed to query segment",
        )
            .into_response(),
    }
}

async fn query_key(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let view = &pages.sources.view;
    let key = existing_spelling(&**view, Query::new(query.as_deref()).spellings("key"));
    match view.lookup(&key) {
        Ok(replicas) => plain(answer::ranges(&replicas)),
        Err(why) => {
            let plain = [(header::CONTENT_TYPE, PLAIN)];
            (StatusCode::NOT_FOUND, plain, why.name()).into_response()
        }
    }
}

/// Upstream 0.3.7 takes a key as it stands in the query, clients of its successor escape it.
fn existing_spelling(view: &dyn View, spellings: Vec<Vec<u8>>) -> Vec<u8> {
    use crate::pool::outcome::Refusal;
    let exists = |key: &Vec<u8>| view.peek(key).err() != Some(Refusal::OBJECT_NOT_FOUND);
    let found = spellings.iter().position(exists).unwrap_or(0);
    spellings.into_iter().nth(found).unwrap_or_default()
}

async fn batch_query_keys(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let keys = Query::new(query.as_deref()).list("keys");
    if keys.is_empty() {
        let body = serde_json::json!({"success": false, "error": "no keys are given"});
        return json(StatusCode::BAD_REQUEST, &body);
    }
    json(StatusCode::OK, &answer::batch(&*pages.sources.view, &keys))
}

async fn segments_detail(State(pages): State<Pages>) -> Response {
    json(StatusCode::OK, &answer::segments_detail(&pages.sources.view.segments()))
}

async fn segment_status(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let segments = pages.sources.view.segments();
    let spellings = Query::new(query.as_deref()).spellings("segment");
    let found = spellings.iter().find_map(|name| {
        segments.iter().find(|segment| segment.name.as_bytes() == name.as_slice())
    });
    let asked = spellings.first().map(|name| String::from_utf8_lossy(name).into_owned());
    let (status, body) = answer::segment_status(found, asked.as_deref().unwrap_or(""));
    json(status, &body)
}

async fn remove_all(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let query = Query::new(query.as_deref());
    let force = query.spellings("force").iter().any(|word| word == b"true" || word == b"1");
    match aside(&pages.sources.view, move |view| view.remove_all(force)).await {
        Ok(count) => {
            json(StatusCode::OK, &serde_json::json!({"success": true, "removed_count": count}))
        }
        Err(failed) => failed,
    }
}

/// A server of pages on a thread of its own; dropping it stops the server.
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves `listener`.
    pub fn start(listener: TcpListener, pages: Pages) -> Result<Admin> {
        let resource = |error| Error::io(ErrorKind::Resource, "cannot serve pages", error);
        listener.set_nonblocking(true).map_err(resource)?;
        let address = listener.local_addr().map_err(resource)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("mc-admin-walk")
            .max_blocking_threads(1)
            .build()
            .map_err(resource)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn("mc-admin", move || {
            // A sender that is gone means stop, too.
            let stop = async { drop(stopped.await) };
            runtime.block_on(async {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => accept(listener, router(pages), stop).await,
                    Err(error) => log::error!("pages are not served: {error}"),
                }
            });
        })?;
        Ok(Admin { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends the server and waits for its end.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
