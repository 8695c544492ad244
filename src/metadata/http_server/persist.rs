//! The documents of a metadata server in a file, so that a restart forgets nothing.
//!
//! One line each: key and document, both percent-encoded as far as the format needs it, with a
//! blank between. The whole file is written beside the old one and then put in its place, at most
//! once in a while and at the end; a crash loses the changes since.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use percent_encoding::{percent_decode, percent_encode, AsciiSet, CONTROLS};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::{Error, ErrorKind, Result};
use crate::limits;

use super::table::{Stored, Table};

const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// Writes the table into its file whenever it changed.
pub(super) struct Saver {
    finish: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl Saver {
    /// Follows the table.
    pub(super) fn start(path: PathBuf, table: Arc<Table>) -> Saver {
        let (finish, finished) = oneshot::channel();
        let task = tokio::spawn(follow(path, table, finished));
        Saver { finish, task }
    }

    /// Writes the file a last time.
    pub(super) async fn finish(self) -> Result<()> {
        let _ = self.finish.send(());
        match self.task.await {
            Ok(written) => written,
            Err(error) => {
                Err(Error::new(ErrorKind::Internal, "the writer of the file ended early")
                    .caused_by(error))
            }
        }
    }
}

async fn follow(
    path: PathBuf,
    table: Arc<Table>,
    mut finished: oneshot::Receiver<()>,
) -> Result<()> {
    loop {
        tokio::select! {
            () = table.changed.notified() => {}
            _ = &mut finished => return save(path, table).await,
        }
        // Engines write several documents one after the other.
        tokio::select! {
            () = tokio::time::sleep(limits::SERVER_SAVE_PAUSE) => {}
            _ = &mut finished => return save(path, table).await,
        }
        if let Err(error) = save(path.clone(), Arc::clone(&table)).await {
            log::error!("the documents are not saved: {error}");
        }
    }
}

async fn save(path: PathBuf, table: Arc<Table>) -> Result<()> {
    let written = tokio::task::spawn_blocking(move || {
        let documents = table.all();
        write(&path, &documents).map_err(|error| {
            Error::io(ErrorKind::Resource, "cannot write the file of documents", error)
                .with("file", path.display())
        })
    });
    match written.await {
        Ok(result) => result,
        Err(error) => {
            Err(Error::new(ErrorKind::Internal, "the writer ended early").caused_by(error))
        }
    }
}

fn write(path: &Path, documents: &[(Vec<u8>, Bytes)]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = BufWriter::new(File::create(&beside)?);
    for (key, document) in documents {
        let (key, document) = (percent_encode(key, ESCAPED), percent_encode(document, ESCAPED));
        writeln!(file, "{key} {document}")?;
    }
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Fills the table from the file, if it is there.
pub(super) fn load(path: &Path, table: &Table) -> Result<()> {
    // Every byte may be three in the file.
    const LINE_BYTES_MAX: u64 =
        3 * (limits::SERVER_DOCUMENT_BYTES_MAX + limits::SERVER_KEY_BYTES_MAX) as u64 + 2;
    let place = |error: Error| error.with("file", path.display());
    let unreadable =
        |error| place(Error::io(ErrorKind::Resource, "cannot read the file of documents", error));
    let mut file = match File::open(path) {
        Ok(file) => BufReader::new(file),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let count = (&mut file).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if count.map_err(unreadable)? == 0 {
            break;
        }
        let broken =
            |why: &str| place(Error::new(ErrorKind::MetadataMalformed, why).with("line", number));
        let text = line.strip_suffix(b"\n").ok_or_else(|| broken("the line has no end"))?;
        let blank = text.iter().position(|byte| *byte == b' ');
        let (key, document) = match blank {
            Some(at) if at > 0 => (&text[..at], &text[at + 1..]),
            _ => return Err(broken("the line is not a key and a document")),
        };
        let key: Vec<u8> = percent_decode(key).collect();
        let document: Vec<u8> = percent_decode(document).collect();
        if !matches!(table.put(&key, document.into()), Stored::Updated | Stored::Unchanged) {
            return Err(broken("the file holds too much, or a key twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = std::env::temp_dir().join(format!("mc-persist-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("documents");
        let table = Table::default();
        load(&path, &table).unwrap();
        let every_byte: Vec<u8> = (0..=255).collect();
        table.put(&every_byte, Bytes::from(every_byte.clone()));
        table.put(b"mooncake/ram/a b", "{\"name\":\"%\"}\n".into());
        table.put(b"empty", Bytes::new());
        write(&path, &table.all()).unwrap();
        let again = Table::default();
        load(&path, &again).unwrap();
        assert_eq!(again.all(), table.all());

        for text in ["key", "key value", " value\n", "\n", "a%2Frpc_meta 1\na/rpc_meta 2\n"] {
            std::fs::write(&path, text).unwrap();
            let error = load(&path, &Table::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MetadataMalformed, "{text:?}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
