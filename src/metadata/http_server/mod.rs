//! The HTTP metadata server: what upstream's Python server and the one inside its master answer,
//! both at once.
//!
//! A library part: `mooncake_http_metadata_server` and any program that has a `tokio` runtime run
//! [`serve`]; [`MetadataServer`] runs it on a thread of its own. The documents are in [`Table`],
//! the answers in `routes`, the optional file in `persist`. Nothing here knows what documents mean.
//!
//! Anybody who reaches the port may read and replace every document, as upstream has it.

mod persist;
mod routes;
mod table;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::{oneshot, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use crate::net::thread;

pub use routes::router;
pub use table::{Stored, Table};

/// How to serve.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Keeps the documents here across restarts; absent keeps them in memory only.
    pub file: Option<PathBuf>,
}

/// Serves `listener` until `stop` is ready, then finishes the requests that have begun and writes
/// the file, if there is one.
pub async fn serve(
    listener: TcpListener,
    options: ServerOptions,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    Prepared::new(listener, options)?.run(stop).await
}

/// A server that has everything it can fail for.
struct Prepared {
    listener: TcpListener,
    table: Arc<Table>,
    file: Option<PathBuf>,
}

impl Prepared {
    fn new(listener: TcpListener, options: ServerOptions) -> Result<Prepared> {
        let table = Arc::new(Table::default());
        if let Some(path) = &options.file {
            persist::load(path, &table)?;
        }
        listener.set_nonblocking(true).map_err(unusable)?;
        Ok(Prepared { listener, table, file: options.file })
    }

    async fn run(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Prepared { listener, table, file } = self;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(unusable)?;
        let saver = file.map(|path| persist::Saver::start(path, Arc::clone(&table)));
        accept(listener, router(table), stop).await;
        match saver {
            Some(saver) => saver.finish().await,
            None => Ok(()),
        }
    }
}

fn unusable(error: std::io::Error) -> Error {
    Error::io(ErrorKind::Resource, "cannot use the listening socket", error)
}

/// Serves every connection until `stop` is ready, and then those that are at a request. Any router
/// does, so that other pages are served with the same bounds.
pub async fn accept(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Semaphore::new(limits::SERVER_CONNECTIONS_MAX));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stop => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, mostly: accepting again at once would only spin.
                log::warn!("a connection cannot be accepted: {error}");
                tokio::time::sleep(limits::SERVER_ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            log::debug!("too many connections: one is closed");
            continue;
        };
        // Replies are small and wait for nothing that comes after them.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::SERVER_HEADER_TIMEOUT)
            .max_buf_size(limits::SERVER_HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = connection.await {
                log::debug!("a connection ended early: {error}");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(limits::SERVER_STOP_TIMEOUT, graceful.shutdown()).await.is_err() {
        log::warn!("requests that were not done in time are dropped");
    }
}

/// A server on a thread of its own; dropping it stops the server.
pub struct MetadataServer {
    address: SocketAddr,
    table: Arc<Table>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MetadataServer {
    /// Serves `listener` at once. Fails where the file is there and cannot be read.
    pub fn start(listener: TcpListener, options: ServerOptions) -> Result<MetadataServer> {
        let resource = |error| Error::io(ErrorKind::Resource, "cannot start a server", error);
        let address = listener.local_addr().map_err(resource)?;
        let prepared = Prepared::new(listener, options)?;
        let table = Arc::clone(&prepared.table);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("mc-http-file")
            .max_blocking_threads(1)
            .build()
            .map_err(resource)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn("mc-http", move || {
            // A sender that is gone means stop, too.
            let stop = async { drop(stopped.await) };
            if let Err(error) = runtime.block_on(prepared.run(stop)) {
                log::error!("the metadata server ended: {error}");
            }
        })?;
        Ok(MetadataServer { address, table, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The documents.
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// What engines are configured with: the server's one resource.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.address, routes::PATH)
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

impl Drop for MetadataServer {
    fn drop(&mut self) {
        self.stop();
    }
}
