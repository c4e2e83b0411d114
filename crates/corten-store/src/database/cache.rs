//! Rows of repositories that are copies of another registry's: what came, what a tag meant there, and when somebody last
//! asked. They lie in the tables of what was pushed; a prefix (`REGISTRY/PREFIX`) says which are copies.

use corten_types::{Digest, Result};
use rusqlite::{OptionalExtension, params};

use super::repositories::{delete_unkept, insert_manifest};
use super::{Database, RepositoryManifest, unsigned};

/// Repositories below the prefix ?1: `0` follows `/`.
const BELOW: &str = "repository >= ?1 || '/' AND repository < ?1 || '0'";

impl Database {
    /// Notes that a repository has a manifest, whether what it needs is there or not.
    pub(crate) fn copy_manifest(
        &self,
        repository: &str,
        manifest: &RepositoryManifest,
        blobs: &[Digest],
        members: &[Digest],
    ) -> Result<()> {
        self.commit(|transaction| insert_manifest(transaction, repository, manifest, blobs, members))
    }

    /// The manifests of a repository that need a blob.
    pub(crate) fn needing(&self, repository: &str, digest: &Digest) -> Result<Vec<Digest>> {
        let texts = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT manifest FROM repository_need WHERE repository = ?1 AND digest = ?2 LIMIT 16",
            )?;
            let row = params![repository, digest.to_string()];
            query.query_map(row, |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        texts.iter().map(|text| Digest::parse(text)).collect()
    }

    /// What a tag of another registry meant, and when it was asked.
    pub(crate) fn copied_tag(&self, repository: &str, tag: &str) -> Result<Option<(Digest, i64)>> {
        let row: Option<(String, i64)> = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT digest, asked_ns FROM repository_copied_tag WHERE repository = ?1 AND tag = ?2",
            )?;
            query.query_row([repository, tag], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
        row.map(|(digest, asked_ns)| Ok((Digest::parse(&digest)?, asked_ns))).transpose()
    }

    /// Notes what a tag of another registry means.
    pub(crate) fn note_copied_tag(&self, repository: &str, tag: &str, digest: &Digest, now_ns: i64) -> Result<()> {
        let row = params![repository, tag, digest.to_string(), now_ns];
        self.commit(|transaction| {
            let sql = "INSERT OR REPLACE INTO repository_copied_tag VALUES (?1, ?2, ?3, ?4)";
            transaction.execute(sql, row).map(drop)
        })
    }

    /// Tags of another registry that were asked for, sorted.
    pub(crate) fn copied_tags(&self, repository: &str) -> Result<Vec<String>> {
        self.with(|connection| {
            let mut query = connection
                .prepare_cached("SELECT tag FROM repository_copied_tag WHERE repository = ?1 ORDER BY tag")?;
            query.query_map([repository], |row| row.get::<_, String>(0))?.collect()
        })
    }

    /// Notes that a copied manifest was asked for, where that was last noted before `stale_ns`.
    pub(crate) fn touch_copy(&self, repository: &str, digest: &Digest, stale_ns: i64, now_ns: i64) -> Result<()> {
        let row = params![repository, digest.to_string(), stale_ns, now_ns];
        let is_stale = "SELECT 1 FROM repository_manifest WHERE repository = ?1 AND digest = ?2 AND pushed_ns < ?3";
        let was_noted = self.with(|connection| {
            connection.prepare_cached(is_stale)?.exists(params![repository, digest.to_string(), stale_ns])
        })?;
        if !was_noted {
            return Ok(());
        }
        self.commit(|transaction| {
            let sql = "UPDATE repository_manifest SET pushed_ns = ?4
                       WHERE repository = ?1 AND digest = ?2 AND pushed_ns < ?3";
            transaction.execute(sql, row).map(drop)
        })
    }

    /// Bytes of all copies below a prefix, each counted once.
    pub(crate) fn copies_size(&self, prefix: &str) -> Result<u64> {
        let sql = format!(
            "SELECT coalesce(sum(size), 0) FROM (SELECT digest, size FROM repository_blob WHERE {BELOW} UNION
                                                 SELECT digest, size FROM repository_manifest WHERE {BELOW})"
        );
        let size: i64 =
            self.with(|connection| connection.prepare_cached(&sql)?.query_row([prefix], |row| row.get(0)))?;
        Ok(unsigned(size))
    }

    /// Forgets the blobs below a prefix that were not asked for the longest, until that many bytes went; how many went.
    pub(crate) fn forget_oldest_copies(&self, prefix: &str, bytes: u64) -> Result<u64> {
        let choose = format!(
            "SELECT digest, max(seen_ns), size FROM repository_blob WHERE {BELOW} GROUP BY digest ORDER BY 2, digest"
        );
        let forget = format!("DELETE FROM repository_blob WHERE {BELOW} AND digest = ?2");
        self.commit(|transaction| {
            let mut gone = 0;
            let mut chosen = Vec::new();
            {
                let mut query = transaction.prepare_cached(&choose)?;
                let mut rows = query.query([prefix])?;
                while gone < bytes
                    && let Some(row) = rows.next()?
                {
                    chosen.push(row.get::<_, String>(0)?);
                    gone += unsigned(row.get(2)?);
                }
            }
            for digest in &chosen {
                transaction.prepare_cached(&forget)?.execute([prefix, digest])?;
            }
            Ok(gone)
        })
    }

    /// Forgets tags, manifests and blobs below a prefix that nobody asked for since `before_ns`; how many.
    pub(crate) fn forget_unused_copies(&self, prefix: &str, before_ns: i64) -> Result<usize> {
        let tags = format!("DELETE FROM repository_copied_tag WHERE asked_ns < ?2 AND {BELOW}");
        let blobs = format!("DELETE FROM repository_blob WHERE seen_ns < ?2 AND {BELOW}");
        self.commit(|transaction| {
            let tags = transaction.execute(&tags, params![prefix, before_ns])?;
            let manifests = delete_unkept(transaction, before_ns, prefix)?;
            let blobs = transaction.execute(&blobs, params![prefix, before_ns])?;
            Ok(tags + manifests + blobs)
        })
    }
}
