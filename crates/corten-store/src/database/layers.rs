//! Rows of unpacked layers.

use corten_types::{Digest, Result};
use rusqlite::{OptionalExtension, Transaction, params};

use super::{Database, signed, unsigned};
use crate::layer::LayerRow;
use crate::layer::form::Form;

impl Database {
    /// An unpacked layer.
    pub(crate) fn layer(&self, key: &str) -> Result<Option<LayerRow>> {
        let row = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT size, entries, has_root, opaque_root, squashed, devices_skipped, boot, synced, form, disk_size,
                     index_digest
                 FROM layer WHERE key = ?1",
            )?;
            let row = query.query_row([key], |row| {
                let (form, index): (String, Option<String>) = (row.get(8)?, row.get(10)?);
                let layer = LayerRow {
                    key: key.to_owned(),
                    size: unsigned(row.get(0)?),
                    entries: unsigned(row.get(1)?),
                    has_root: row.get(2)?,
                    opaque_root: row.get(3)?,
                    squashed: unsigned(row.get(4)?),
                    devices_skipped: unsigned(row.get(5)?),
                    boot: row.get(6)?,
                    synced: row.get(7)?,
                    form: Form::Directory,
                    disk_size: row.get::<_, Option<i64>>(9)?.map(unsigned),
                    index: None,
                };
                Ok((layer, form, index))
            });
            row.optional()
        })?;
        row.map(|(layer, form, index)| {
            let index = index.map(|index| Digest::parse(&index)).transpose()?;
            Ok(LayerRow { form: Form::parse(&form)?, index, ..layer })
        })
        .transpose()
    }

    /// Writes an unpacked layer, and the blob that it came from. Not synced: an image's row, written behind it, is; a
    /// layer without a row is unpacked again.
    pub(crate) fn add_layer(&self, layer: &LayerRow, diff_id: &Digest, blob: &Digest) -> Result<()> {
        self.note(|transaction| {
            transaction.execute(
                "INSERT OR REPLACE INTO layer (key, diff_id, size, entries, has_root, opaque_root, squashed,
                     devices_skipped, boot, synced, form, disk_size, index_digest)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
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
                    layer.synced,
                    layer.form.as_str(),
                    layer.disk_size.map(signed),
                    layer.index.map(|index| index.to_string())
                ],
            )?;
            note_blob(transaction, blob, diff_id)
        })
    }

    /// Notes which diff id a blob unfolds to.
    pub(crate) fn note_blob(&self, blob: &Digest, diff_id: &Digest) -> Result<()> {
        self.note(|transaction| note_blob(transaction, blob, diff_id))
    }

    /// The diff id that a blob is known to unfold to.
    pub(crate) fn diff_id_of(&self, blob: &Digest) -> Result<Option<Digest>> {
        self.digest("SELECT diff_id FROM layer_blob WHERE blob = ?1", &blob.to_string())
    }

    /// Forgets an unpacked layer.
    pub(crate) fn remove_layer(&self, key: &str) -> Result<()> {
        self.commit(|transaction| transaction.execute("DELETE FROM layer WHERE key = ?1", [key]).map(drop))
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
        self.note(|transaction| {
            for key in keys {
                transaction.execute("UPDATE layer SET synced = 1 WHERE key = ?1", [key])?;
            }
            Ok(())
        })
    }

    /// Every diff id and chain id that an image needs.
    pub(crate) fn needed_layers(&self) -> Result<Vec<String>> {
        self.texts("SELECT diff_id FROM image_layer UNION SELECT chain_id FROM image_layer")
    }

    /// The keys of all unpacked layers.
    pub(crate) fn layer_keys(&self) -> Result<Vec<String>> {
        self.texts("SELECT key FROM layer")
    }

    /// Forgets unpacked layers, and what blobs unfolded to, in one transaction.
    pub(crate) fn forget(&self, layers: &[String], blobs: &[Digest]) -> Result<()> {
        if layers.is_empty() && blobs.is_empty() {
            return Ok(());
        }
        self.commit(|transaction| {
            for key in layers {
                transaction.execute("DELETE FROM layer WHERE key = ?1", [key])?;
            }
            for blob in blobs {
                transaction.execute("DELETE FROM layer_blob WHERE blob = ?1", [blob.to_string()])?;
            }
            Ok(())
        })
    }
}

fn note_blob(transaction: &Transaction<'_>, blob: &Digest, diff_id: &Digest) -> rusqlite::Result<()> {
    let row = params![blob.to_string(), diff_id.to_string()];
    transaction.execute("INSERT OR REPLACE INTO layer_blob VALUES (?1, ?2)", row).map(drop)
}
