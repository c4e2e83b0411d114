//! What the store knows by name: images, references with their history, unpacked layers. SQLite in WAL mode, every commit
//! synced, opened by the first call that needs it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use corten_sys::Call;
use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

use crate::layer::LayerRow;

/// How long a commit of another process is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// Version of the tables, kept in `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE image (
    manifest TEXT PRIMARY KEY, config TEXT NOT NULL, media_type TEXT NOT NULL,
    size INTEGER NOT NULL, added_ns INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX image_by_config ON image (config);
CREATE TABLE image_blob (
    manifest TEXT NOT NULL, blob TEXT NOT NULL, PRIMARY KEY (manifest, blob)
) WITHOUT ROWID;
CREATE TABLE image_layer (
    manifest TEXT NOT NULL, position INTEGER NOT NULL, diff_id TEXT NOT NULL, chain_id TEXT NOT NULL,
    PRIMARY KEY (manifest, position)
) WITHOUT ROWID;
CREATE TABLE reference (name TEXT PRIMARY KEY, manifest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX reference_by_manifest ON reference (manifest);
CREATE TABLE reference_history (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, manifest TEXT, moved_ns INTEGER NOT NULL, cause TEXT NOT NULL
);
CREATE INDEX reference_history_by_name ON reference_history (name, id);
CREATE TABLE layer (
    key TEXT PRIMARY KEY, diff_id TEXT NOT NULL, size INTEGER NOT NULL, entries INTEGER NOT NULL,
    has_root INTEGER NOT NULL, opaque_root INTEGER NOT NULL, squashed INTEGER NOT NULL,
    devices_skipped INTEGER NOT NULL, boot TEXT NOT NULL, synced INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE layer_blob (blob TEXT PRIMARY KEY, diff_id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE builtin (name TEXT PRIMARY KEY, identity TEXT NOT NULL, manifest TEXT NOT NULL) WITHOUT ROWID;
";

/// The store's database.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

/// An image's row.
#[derive(Debug, Clone)]
pub(crate) struct ImageRow {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) added_ns: i64,
}

/// An image with everything that its rows say.
#[derive(Debug, Clone)]
pub(crate) struct NewImage {
    pub(crate) row: ImageRow,
    pub(crate) blobs: Vec<Digest>,
    /// Diff id and chain id, lowest first.
    pub(crate) layers: Vec<(Digest, Digest)>,
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
            *guard = Some(self.open()?);
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

    fn try_open(&self) -> rusqlite::Result<(Connection, i64)> {
        let mut connection = Connection::open(&self.path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A short-lived reader would copy and sync the whole log as it leaves; the writers do it every 1000 pages.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        let version = |connection: &Connection| connection.pragma_query_value(None, "user_version", |row| row.get(0));
        let mut found: i64 = version(&connection)?;
        if found == 0 {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            found = version(&transaction)?;
            if found == 0 {
                transaction.execute_batch(SCHEMA)?;
                transaction.pragma_update(None, "user_version", VERSION)?;
                found = VERSION;
            }
            transaction.commit()?;
        }
        Ok((connection, found))
    }

    fn explain(&self, error: rusqlite::Error) -> Error {
        use rusqlite::ErrorCode;
        let kind = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt,
            Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory) => ErrorKind::Exhausted,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => ErrorKind::Denied,
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("the store's database `{}` failed", self.path.display())).caused_by(error)
    }

    /// Writes an image and moves `references` to it, in one transaction. What is there already stays.
    pub(crate) fn add_image(&self, image: &NewImage, references: &[Reference], cause: &str) -> Result<()> {
        let row = &image.row;
        let manifest = row.manifest.to_string();
        self.commit(|transaction| {
            transaction.execute(
                "INSERT INTO image VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
                params![manifest, row.config.to_string(), row.media_type, signed(row.size), row.added_ns],
            )?;
            for blob in &image.blobs {
                transaction.execute(
                    "INSERT INTO image_blob VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    params![manifest, blob.to_string()],
                )?;
            }
            for (position, (diff_id, chain_id)) in image.layers.iter().enumerate() {
                transaction.execute(
                    "INSERT INTO image_layer VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
                    params![manifest, signed(position as u64), diff_id.to_string(), chain_id.to_string()],
                )?;
            }
            for reference in references {
                move_reference(transaction, &reference.to_string(), Some(&manifest), row.added_ns, cause)?;
            }
            Ok(())
        })
    }

    /// Moves a reference, or removes it.
    pub(crate) fn move_reference(
        &self,
        reference: &Reference,
        manifest: Option<&Digest>,
        now_ns: i64,
        cause: &str,
    ) -> Result<()> {
        let manifest = manifest.map(Digest::to_string);
        self.commit(|transaction| {
            move_reference(transaction, &reference.to_string(), manifest.as_deref(), now_ns, cause)
        })
    }

    /// The manifest that a reference points to.
    pub(crate) fn reference(&self, reference: &Reference) -> Result<Option<Digest>> {
        self.digest("SELECT manifest FROM reference WHERE name = ?1", &reference.to_string())
    }

    /// References that point to a manifest, in full and sorted.
    pub(crate) fn references_of(&self, manifest: &Digest) -> Result<Vec<Reference>> {
        let names = self.with(|connection| {
            let mut query =
                connection.prepare_cached("SELECT name FROM reference WHERE manifest = ?1 ORDER BY name")?;
            query.query_map([manifest.to_string()], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()
        })?;
        names.iter().map(|name| Reference::parse(name)).collect()
    }

    /// Every image, newest first.
    pub(crate) fn images(&self) -> Result<Vec<ImageRow>> {
        self.image_rows("WHERE ?1 = '' ORDER BY added_ns DESC", "")
    }

    /// Images by manifest or configuration, newest first.
    pub(crate) fn images_by_digest(&self, digest: &Digest) -> Result<Vec<ImageRow>> {
        self.image_rows("WHERE manifest = ?1 OR config = ?1 ORDER BY added_ns DESC", &digest.to_string())
    }

    /// Images whose identifier starts with `prefix` (hexadecimal digits of sha256), newest first.
    pub(crate) fn images_by_prefix(&self, prefix: &str) -> Result<Vec<ImageRow>> {
        self.image_rows(
            "WHERE config >= 'sha256:' || ?1 AND config < 'sha256:' || ?1 || 'g' ORDER BY added_ns DESC",
            prefix,
        )
    }

    fn image_rows(&self, condition: &str, value: &str) -> Result<Vec<ImageRow>> {
        let sql = format!("SELECT manifest, config, media_type, size, added_ns FROM image {condition}");
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(&sql)?;
            let rows = query.query_map([value], |row| {
                let texts: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok((texts, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter()
            .map(|((manifest, config, media_type), size, added_ns)| {
                let (manifest, config) = (Digest::parse(&manifest)?, Digest::parse(&config)?);
                Ok(ImageRow { manifest, config, media_type, size: unsigned(size), added_ns })
            })
            .collect()
    }

    /// Removes an image with its references; the references that went.
    pub(crate) fn remove_image(&self, manifest: &Digest, now_ns: i64) -> Result<Vec<Reference>> {
        let references = self.references_of(manifest)?;
        let manifest = manifest.to_string();
        self.commit(|transaction| {
            for reference in &references {
                move_reference(transaction, &reference.to_string(), None, now_ns, "remove")?;
            }
            for table in ["image", "image_blob", "image_layer", "builtin"] {
                transaction.execute(&format!("DELETE FROM {table} WHERE manifest = ?1"), [&manifest])?;
            }
            Ok(())
        })?;
        Ok(references)
    }

    /// Every blob that an image needs.
    pub(crate) fn needed_blobs(&self) -> Result<Vec<String>> {
        self.texts("SELECT DISTINCT blob FROM image_blob")
    }

    /// Every diff id and chain id that an image needs.
    pub(crate) fn needed_layers(&self) -> Result<Vec<String>> {
        self.texts("SELECT diff_id FROM image_layer UNION SELECT chain_id FROM image_layer")
    }

    /// The keys of all unpacked layers.
    pub(crate) fn layer_keys(&self) -> Result<Vec<String>> {
        self.texts("SELECT key FROM layer")
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

    /// An unpacked layer.
    pub(crate) fn layer(&self, key: &str) -> Result<Option<LayerRow>> {
        self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT size, entries, has_root, opaque_root, squashed, devices_skipped, boot, synced
                 FROM layer WHERE key = ?1",
            )?;
            let row = query.query_row([key], |row| {
                Ok(LayerRow {
                    key: key.to_owned(),
                    size: unsigned(row.get(0)?),
                    entries: unsigned(row.get(1)?),
                    has_root: row.get(2)?,
                    opaque_root: row.get(3)?,
                    squashed: unsigned(row.get(4)?),
                    devices_skipped: unsigned(row.get(5)?),
                    boot: row.get(6)?,
                    synced: row.get(7)?,
                })
            });
            row.optional()
        })
    }

    /// Writes an unpacked layer, and the blob that it came from.
    pub(crate) fn add_layer(&self, layer: &LayerRow, diff_id: &Digest, blob: &Digest) -> Result<()> {
        self.commit(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO layer VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                params![
                    layer.key,
                    diff_id.to_string(),
                    signed(layer.size),
                    signed(layer.entries),
                    layer.has_root,
                    layer.opaque_root,
                    signed(layer.squashed),
                    signed(layer.devices_skipped),
                    layer.boot,
                    layer.synced
                ],
            )?;
            note_blob(transaction, blob, diff_id)
        })
    }

    /// Notes which diff id a blob unfolds to.
    pub(crate) fn note_blob(&self, blob: &Digest, diff_id: &Digest) -> Result<()> {
        self.commit(|transaction| note_blob(transaction, blob, diff_id))
    }

    /// The diff id that a blob is known to unfold to.
    pub(crate) fn diff_id_of(&self, blob: &Digest) -> Result<Option<Digest>> {
        self.digest("SELECT diff_id FROM layer_blob WHERE blob = ?1", &blob.to_string())
    }

    /// Forgets an unpacked layer.
    pub(crate) fn remove_layer(&self, key: &str) -> Result<()> {
        self.commit(|transaction| transaction.execute("DELETE FROM layer WHERE key = ?1", [key]).map(drop))
    }

    /// Forgets what blobs unfolded to.
    pub(crate) fn forget_blob(&self, blob: &str) -> Result<()> {
        self.commit(|transaction| transaction.execute("DELETE FROM layer_blob WHERE blob = ?1", [blob]).map(drop))
    }

    /// Layers of this boot that nobody synced yet.
    pub(crate) fn unsynced_layers(&self, boot: &str) -> Result<Vec<String>> {
        self.with(|connection| {
            let mut query = connection.prepare_cached("SELECT key FROM layer WHERE synced = 0 AND boot = ?1")?;
            query.query_map([boot], |row| row.get::<_, String>(0))?.collect()
        })
    }

    /// Notes that layers are on the disk.
    pub(crate) fn mark_synced(&self, keys: &[String]) -> Result<()> {
        self.commit(|transaction| {
            for key in keys {
                transaction.execute("UPDATE layer SET synced = 1 WHERE key = ?1", [key])?;
            }
            Ok(())
        })
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

fn move_reference(
    transaction: &Transaction<'_>,
    name: &str,
    manifest: Option<&str>,
    now_ns: i64,
    cause: &str,
) -> rusqlite::Result<()> {
    let before: Option<String> =
        transaction.query_row("SELECT manifest FROM reference WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    if before.as_deref() == manifest {
        return Ok(());
    }
    match manifest {
        Some(manifest) => {
            transaction.execute("INSERT OR REPLACE INTO reference VALUES (?1, ?2)", params![name, manifest])?
        }
        None => transaction.execute("DELETE FROM reference WHERE name = ?1", [name])?,
    };
    transaction.execute(
        "INSERT INTO reference_history (name, manifest, moved_ns, cause) VALUES (?1, ?2, ?3, ?4)",
        params![name, manifest, now_ns, cause],
    )?;
    Ok(())
}

fn note_blob(transaction: &Transaction<'_>, blob: &Digest, diff_id: &Digest) -> rusqlite::Result<()> {
    let row = params![blob.to_string(), diff_id.to_string()];
    transaction.execute("INSERT OR REPLACE INTO layer_blob VALUES (?1, ?2)", row).map(drop)
}

/// SQLite's integers are signed; no size comes near the difference.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
