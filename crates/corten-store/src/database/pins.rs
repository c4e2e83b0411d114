//! Blobs that others than images keep.

use corten_types::{Digest, Result};
use rusqlite::params;

use super::Database;

impl Database {
    pub(crate) fn pin(&self, owner: &str, digests: &[Digest]) -> Result<()> {
        self.commit(|transaction| {
            for digest in digests {
                transaction.execute(
                    "INSERT INTO pin VALUES (?1, ?2) ON CONFLICT DO NOTHING",
                    params![owner, digest.to_string()],
                )?;
            }
            Ok(())
        })
    }

    pub(crate) fn unpin(&self, owner: &str, digests: &[Digest]) -> Result<()> {
        self.commit(|transaction| {
            for digest in digests {
                transaction
                    .execute("DELETE FROM pin WHERE owner = ?1 AND digest = ?2", params![owner, digest.to_string()])?;
            }
            Ok(())
        })
    }

    pub(crate) fn unpin_all(&self, owner: &str) -> Result<()> {
        self.commit(|transaction| transaction.execute("DELETE FROM pin WHERE owner = ?1", [owner]).map(drop))
    }

    /// The blobs that `owner` keeps.
    pub(crate) fn pins(&self, owner: &str) -> Result<Vec<Digest>> {
        let texts = self.with(|connection| {
            let mut query = connection.prepare_cached("SELECT digest FROM pin WHERE owner = ?1 ORDER BY digest")?;
            query.query_map([owner], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        texts.iter().map(|text| Digest::parse(text)).collect()
    }
}
