//! What the store knows by name: images, references with their history, unpacked layers. SQLite in WAL mode, every commit
//! synced, opened by the first call that needs it.

mod cache;
mod documents;
mod layers;
mod names;
mod pins;
mod references;
mod repositories;
mod schema;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use corten_fs::Root;
use corten_sys::Call;
use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

pub use documents::Kind;
pub(crate) use documents::{DocumentRow, ImageRow, NewDocument, NewImagePart, NewTarget};
pub use references::Move;
pub use repositories::{RepositoryManifest, RepositoryUsage};
use schema::{STEPS, VERSION};

use crate::disk::give_up_reserve;

/// How long a commit of another process is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// The store's database.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Database {
    pub(crate) fn new(root: &Path) -> Self {
        Self { path: root.join("db.sqlite"), connection: Mutex::new(None) }
    }

    /// Runs `work` on the open database.
    fn with<T>(&self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        // A thread that panicked aborts the process in release; in tests its data is whole (a transaction or none).
        let mut guard = self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if guard.is_none() {
            *guard = Some(self.open().or_else(|error| self.open_on_a_full_disk(error))?);
        }
        let connection = guard.as_mut().ok_or_else(|| Error::new(ErrorKind::Internal, "no database"))?;
        work(connection).map_err(|error| self.explain(error))
    }

    /// Runs `work` as one transaction.
    fn commit<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// As [`Database::commit`], but not synced: a power cut may take it back, no other crash does. The next synced commit
    /// makes it durable too. For what can be made again.
    fn note<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T> {
        self.with(|connection| connection.pragma_update(None, "synchronous", "NORMAL"))?;
        let result = self.commit(work);
        self.with(|connection| connection.pragma_update(None, "synchronous", "FULL"))?;
        result
    }

    fn open(&self) -> Result<Connection> {
        // Made here, because SQLite would make it readable for everybody; its log and index take the same mode. By mknod:
        // closing any descriptor of the file would release the locks that SQLite holds on it in this process.
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::mknodat(CWD, &self.path, FileType::RegularFile, mode, 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            result => result.call(|| format!("mknod({:?}, S_IFREG)", self.path))?,
        }
        let (connection, found) = self.try_open().map_err(|error| self.explain(error))?;
        if found != VERSION {
            let path = self.path.display();
            let message = format!("the store's database `{path}` has version {found}, this program knows {VERSION}");
            return Err(
                Error::new(ErrorKind::Unsupported, message).hint("use the version of Corten that wrote it, or newer")
            );
        }
        Ok(connection)
    }

    /// SQLite's index of its log wants a name and some room, which are set aside for that.
    fn open_on_a_full_disk(&self, error: Error) -> Result<Connection> {
        let root = self.path.parent().and_then(|root| Root::open_ambient(root).ok());
        match root {
            Some(root) if give_up_reserve(&root)? => self.open(),
            _ => Err(error),
        }
    }

    /// The connection, and the version that the tables have now: older ones are brought to this program's.
    fn try_open(&self) -> rusqlite::Result<(Connection, usize)> {
        let mut connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A short-lived reader would copy and sync the whole log as it leaves; the writers do it every 1000 pages.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let version = |connection: &Connection| {
            let found = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
            Ok::<_, rusqlite::Error>(usize::try_from(found).unwrap_or(usize::MAX))
        };
        let mut found = version(&connection)?;
        if found == 0 {
            keep_a_log(&connection)?;
        }
        if found < VERSION {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have been faster.
            found = version(&transaction)?;
            for step in STEPS.iter().skip(found) {
                transaction.execute_batch(step)?;
            }
            found = found.max(VERSION);
            transaction.pragma_update(None, "user_version", signed(found as u64))?;
            transaction.commit()?;
        }
        Ok((connection, found))
    }

    /// What SQLite finds wrong with the file, read whole; nothing where it is sound.
    pub(crate) fn integrity(&self) -> Result<Option<String>> {
        let found: String =
            self.with(|connection| connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)))?;
        Ok((found != "ok").then_some(found))
    }

    /// The names that a damaged database still gives, and those that lie beside it.
    pub(crate) fn salvaged_references(&self) -> Vec<(Reference, Digest)> {
        let mut found = self.readable_references();
        let beside = self.read_names();
        found.extend(
            beside.into_iter().filter(|(name, _)| !found.iter().any(|(known, _)| known == name)).collect::<Vec<_>>(),
        );
        found
    }

    fn readable_references(&self) -> Vec<(Reference, Digest)> {
        let read = |connection: &Connection| {
            let mut found = Vec::new();
            let Ok(mut query) = connection.prepare("SELECT name, target FROM reference") else { return found };
            let Ok(mut rows) = query.query([]) else { return found };
            // Up to the first page that cannot be read.
            while let Ok(Some(row)) = rows.next() {
                let texts = (row.get::<_, String>(0), row.get::<_, String>(1));
                if let (Ok(name), Ok(target)) = texts
                    && let (Ok(name), Ok(target)) = (Reference::parse(&name), Digest::parse(&target))
                {
                    found.push((name, target));
                }
            }
            found
        };
        Connection::open(&self.path).map(|connection| read(&connection)).unwrap_or_default()
    }

    /// Lets go of the file; the next call opens it anew.
    pub(crate) fn close(&self) {
        *self.connection.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    fn explain(&self, error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode;
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
            Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory) => ErrorKind::Exhausted,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        };
        let failed =
            Error::new(kind, format!("the store's database `{}` failed", self.path.display())).caused_by(error);
        match kind {
            ErrorKind::Corrupt => failed.hint("`corten image fsck` makes a new one of the images that are there"),
            _ => failed,
        }
    }

    fn texts(&self, sql: &str) -> Result<Vec<String>> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(sql)?;
            query.query_map([], |row| row.get::<_, String>(0))?.collect()
        })
    }

    fn digest(&self, sql: &str, value: &str) -> Result<Option<Digest>> {
        let text: Option<String> =
            self.with(|connection| connection.prepare_cached(sql)?.query_row([value], |row| row.get(0)).optional())?;
        text.map(|text| Digest::parse(&text)).transpose()
    }

    /// The built-in image `name`: what it was made from, and its manifest.
    pub(crate) fn builtin(&self, name: &str) -> Result<Option<(String, Digest)>> {
        let row: Option<(String, String)> = self.with(|connection| {
            let mut query = connection.prepare_cached("SELECT identity, manifest FROM builtin WHERE name = ?1")?;
            query.query_row([name], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        row.map(|(identity, manifest)| Ok((identity, Digest::parse(&manifest)?))).transpose()
    }

    /// Notes what a built-in image was made from.
    pub(crate) fn set_builtin(&self, name: &str, identity: &str, manifest: &Digest) -> Result<()> {
        self.commit(|transaction| {
            let row = params![name, identity, manifest.to_string()];
            transaction.execute("INSERT OR REPLACE INTO builtin VALUES (?1, ?2, ?3)", row).map(drop)
        })
    }
}

/// Lets a new database keep a write-ahead log. Only one process at a time may say so, and SQLite waits for none here: two
/// that read and want to write would wait for each other.
#[expect(clippy::disallowed_methods, reason = "SQLite tells nobody when the other is done")]
fn keep_a_log(connection: &Connection) -> rusqlite::Result<()> {
    let end = Instant::now() + BUSY_TIMEOUT;
    loop {
        let result = connection.pragma_update(None, "journal_mode", "WAL");
        let is_busy = result.as_ref().is_err_and(|error| error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy));
        if !is_busy || Instant::now() > end {
            return result;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// SQLite's integers are signed; no size comes near the difference.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
