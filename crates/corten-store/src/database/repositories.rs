//! Rows of what a registry serves: which blobs and manifests belong to which repository.
//!
//! A repository's name is `REGISTRY/PATH`, as in a reference. What belongs to it is what was pushed to it (the rows here)
//! and what a reference of the store in that repository leads to.

use corten_types::{Digest, Result};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::{Database, signed, unsigned};

/// A manifest of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryManifest {
    /// Its digest.
    pub digest: Digest,
    /// The type that it was pushed as.
    pub media_type: String,
    /// Its own bytes.
    pub size: u64,
    /// Kind of artifact; an image's is its configuration's type.
    pub artifact_type: Option<String>,
    /// What it is about.
    pub subject: Option<Digest>,
    /// Its annotations as JSON, where it is about something.
    pub annotations: Option<String>,
    /// When it was pushed, nanoseconds since 1970.
    pub pushed_ns: i64,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUsage {
    /// `REGISTRY/PATH`.
    pub repository: String,
    /// Manifests that were pushed.
    pub manifests: u64,
    /// Blobs that were pushed.
    pub blobs: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// Every document that the references of a repository lead to: ?1 and ?2 bound their names.
const REACH: &str = "WITH RECURSIVE reach (digest) AS (
    SELECT target FROM reference WHERE name >= ?1 || ':' AND name < ?1 || ';'
    UNION SELECT target FROM reference WHERE name >= ?1 || '@' AND name < ?1 || 'A'
    UNION SELECT child FROM member JOIN reach ON parent = reach.digest
    UNION SELECT document.digest FROM document JOIN reach ON document.subject = reach.digest)";

const MANIFEST: &str =
    "SELECT digest, media_type, size, artifact_type, subject, annotations, pushed_ns FROM repository_manifest";

type RawManifest = (String, String, i64, Option<String>, Option<String>, Option<String>, i64);

impl Database {
    /// Notes that a blob was pushed to a repository, or asked for again.
    pub(crate) fn link_blob(&self, repository: &str, digest: &Digest, size: u64, now_ns: i64) -> Result<()> {
        let row = params![repository, digest.to_string(), signed(size), now_ns];
        self.commit(|transaction| {
            transaction.execute("INSERT OR REPLACE INTO repository_blob VALUES (?1, ?2, ?3, ?4)", row).map(drop)
        })
    }

    /// A blob that was pushed to a repository: its size, and when it was last asked for by one who pushes.
    pub(crate) fn linked_blob(&self, repository: &str, digest: &Digest) -> Result<Option<(u64, i64)>> {
        self.with(|connection| {
            let mut query = connection
                .prepare_cached("SELECT size, seen_ns FROM repository_blob WHERE repository = ?1 AND digest = ?2")?;
            let row = query
                .query_row(params![repository, digest.to_string()], |row| Ok((unsigned(row.get(0)?), row.get(1)?)));
            row.optional()
        })
    }

    /// Whether a reference of the repository leads to a document that needs the blob.
    pub(crate) fn reaches_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let sql = format!("{REACH} SELECT 1 FROM image_blob JOIN reach ON manifest = reach.digest WHERE blob = ?2");
        self.exists(&sql, repository, digest)
    }

    /// Whether a manifest that was pushed to the repository needs the blob or manifest.
    pub(crate) fn is_needed_in(&self, repository: &str, digest: &Digest) -> Result<bool> {
        self.exists("SELECT 1 FROM repository_need WHERE repository = ?1 AND digest = ?2", repository, digest)
    }

    fn exists(&self, sql: &str, repository: &str, digest: &Digest) -> Result<bool> {
        self.with(|connection| connection.prepare_cached(sql)?.exists(params![repository, digest.to_string()]))
    }

    /// Forgets that a blob was pushed to a repository.
    pub(crate) fn unlink_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let row = params![repository, digest.to_string()];
        self.commit(|transaction| {
            let sql = "DELETE FROM repository_blob WHERE repository = ?1 AND digest = ?2";
            transaction.execute(sql, row).map(|count| count > 0)
        })
    }

    /// Notes that a manifest was pushed to a repository, unless something that it needs is not there: that.
    pub(crate) fn link_manifest(
        &self,
        repository: &str,
        manifest: &RepositoryManifest,
        blobs: &[Digest],
        members: &[Digest],
    ) -> Result<Vec<Digest>> {
        self.commit(|transaction| {
            let mut missing = Vec::new();
            for (table, needs) in [("repository_blob", blobs), ("repository_manifest", members)] {
                let sql = format!("SELECT 1 FROM {table} WHERE repository = ?1 AND digest = ?2");
                for need in needs {
                    if !transaction.prepare_cached(&sql)?.exists(params![repository, need.to_string()])? {
                        missing.push(*need);
                    }
                }
            }
            if missing.is_empty() {
                insert_manifest(transaction, repository, manifest, blobs, members)?;
            }
            Ok(missing)
        })
    }

    /// A manifest that was pushed to a repository.
    pub(crate) fn linked_manifest(&self, repository: &str, digest: &Digest) -> Result<Option<RepositoryManifest>> {
        let sql = format!("{MANIFEST} WHERE repository = ?1 AND digest = ?2");
        Ok(self.manifests(&sql, repository, &digest.to_string())?.pop())
    }

    /// Manifests of a repository about `subject` whose digest comes after `after`.
    pub(crate) fn linked_referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<RepositoryManifest>> {
        let sql = format!("{MANIFEST} WHERE repository = ?1 AND subject = ?2 ORDER BY digest");
        self.manifests(&sql, repository, &subject.to_string())
    }

    /// Documents that references of the repository lead to and that are about `subject`: digest and type.
    pub(crate) fn reached_referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<(Digest, String)>> {
        let sql = format!(
            "{REACH} SELECT document.digest, media_type FROM document JOIN reach USING (digest) WHERE subject = ?2"
        );
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(&sql)?;
            let row = params![repository, subject.to_string()];
            let rows = query.query_map(row, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter().map(|(digest, media_type)| Ok((Digest::parse(&digest)?, media_type))).collect()
    }

    /// Every manifest of a repository, newest first.
    pub(crate) fn linked_manifests(&self, repository: &str) -> Result<Vec<RepositoryManifest>> {
        let sql = format!("{MANIFEST} WHERE repository = ?1 AND ?2 = '' ORDER BY pushed_ns DESC, digest");
        self.manifests(&sql, repository, "")
    }

    fn manifests(&self, sql: &str, repository: &str, value: &str) -> Result<Vec<RepositoryManifest>> {
        let read = |row: &Row<'_>| -> rusqlite::Result<RawManifest> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        };
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(sql)?;
            query.query_map([repository, value], read)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter()
            .map(|(digest, media_type, size, artifact_type, subject, annotations, pushed_ns)| {
                let subject = subject.map(|text| Digest::parse(&text)).transpose()?;
                let (digest, size) = (Digest::parse(&digest)?, unsigned(size));
                Ok(RepositoryManifest { digest, media_type, size, artifact_type, subject, annotations, pushed_ns })
            })
            .collect()
    }

    /// The type of a document that a reference of the repository leads to.
    pub(crate) fn reached_document(&self, repository: &str, digest: &Digest) -> Result<Option<String>> {
        let sql =
            format!("{REACH} SELECT media_type FROM document JOIN reach USING (digest) WHERE document.digest = ?2");
        self.with(|connection| {
            let mut query = connection.prepare_cached(&sql)?;
            query.query_row(params![repository, digest.to_string()], |row| row.get(0)).optional()
        })
    }

    /// Forgets that a manifest was pushed to a repository.
    pub(crate) fn unlink_manifest(&self, repository: &str, digest: &Digest) -> Result<bool> {
        self.commit(|transaction| delete_manifest(transaction, repository, &digest.to_string()))
    }

    /// References of a repository by tag, those after the tag `after`, sorted.
    pub(crate) fn tags(&self, repository: &str, after: &str, count_max: usize) -> Result<Vec<(String, Digest)>> {
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT substr(name, length(?1) + 2), target FROM reference
                 WHERE name > ?1 || ':' || ?2 AND name < ?1 || ';' ORDER BY name LIMIT ?3",
            )?;
            let row = params![repository, after, signed(count_max as u64)];
            let rows = query.query_map(row, |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        // `NAME:TAG@DIGEST` is a pin of somebody's, not a tag.
        let tags = rows.into_iter().filter(|(tag, _)| !tag.contains('@'));
        tags.map(|(tag, target)| Ok((tag, Digest::parse(&target)?))).collect()
    }

    /// Repositories that something was pushed to, sorted.
    pub(crate) fn linked_repositories(&self) -> Result<Vec<String>> {
        self.texts(
            "SELECT repository FROM repository_manifest UNION SELECT repository FROM repository_blob ORDER BY repository",
        )
    }

    /// Repositories that a reference is in: every reference in full.
    pub(crate) fn reference_names(&self) -> Result<Vec<String>> {
        self.texts("SELECT name FROM reference ORDER BY name")
    }

    /// What a repository holds.
    pub(crate) fn usage(&self, repository: &str) -> Result<RepositoryUsage> {
        let (blobs, blob_bytes, manifests, manifest_bytes) = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT (SELECT count(*) FROM repository_blob WHERE repository = ?1),
                        (SELECT total(size) FROM repository_blob WHERE repository = ?1),
                        (SELECT count(*) FROM repository_manifest WHERE repository = ?1),
                        (SELECT total(size) FROM repository_manifest WHERE repository = ?1)",
            )?;
            query.query_row([repository], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?, row.get::<_, i64>(2)?, row.get::<_, f64>(3)?))
            })
        })?;
        Ok(RepositoryUsage {
            repository: repository.to_owned(),
            manifests: unsigned(manifests),
            blobs: unsigned(blobs),
            bytes: whole(blob_bytes + manifest_bytes),
        })
    }

    /// Bytes of all that was pushed, each blob counted once.
    pub(crate) fn usage_of_all(&self) -> Result<u64> {
        let total: f64 = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT total(size) FROM (SELECT digest, size FROM repository_blob UNION
                                          SELECT digest, size FROM repository_manifest)",
            )?;
            query.query_row([], |row| row.get(0))
        })?;
        Ok(whole(total))
    }

    /// Forgets pushed blobs that no manifest of their repository needs and that nobody asked for since `blobs_before_ns`,
    /// and (where told) manifests pushed before `manifests_before_ns` that no tag, index or subject of their repository
    /// keeps; how many of each.
    pub(crate) fn forget_unneeded_links(
        &self,
        blobs_before_ns: i64,
        manifests_before_ns: Option<i64>,
    ) -> Result<(usize, usize)> {
        self.commit(|transaction| {
            let manifests = match manifests_before_ns {
                Some(before_ns) => delete_unkept(transaction, before_ns, "")?,
                None => 0,
            };
            let blobs = transaction.execute(
                "DELETE FROM repository_blob AS one WHERE seen_ns < ?1 AND NOT EXISTS
                 (SELECT 1 FROM repository_need WHERE repository = one.repository AND digest = one.digest)",
                [blobs_before_ns],
            )?;
            Ok((blobs, manifests))
        })
    }

    /// Removes a document that nothing names, with all that stayed because of it.
    pub(crate) fn remove_unnamed(&self, target: &Digest, now_ns: i64) -> Result<()> {
        if self.references_of(target)?.is_empty() {
            self.remove(target, now_ns)?;
        }
        Ok(())
    }
}

pub(super) fn insert_manifest(
    transaction: &Transaction<'_>,
    repository: &str,
    manifest: &RepositoryManifest,
    blobs: &[Digest],
    members: &[Digest],
) -> rusqlite::Result<()> {
    let digest = manifest.digest.to_string();
    transaction.execute(
        "INSERT OR REPLACE INTO repository_manifest VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            repository,
            digest,
            manifest.media_type,
            signed(manifest.size),
            manifest.artifact_type,
            manifest.subject.map(|subject| subject.to_string()),
            manifest.annotations,
            manifest.pushed_ns
        ],
    )?;
    for need in blobs.iter().chain(members) {
        transaction.prepare_cached("INSERT OR IGNORE INTO repository_need VALUES (?1, ?2, ?3)")?.execute(params![
            repository,
            digest,
            need.to_string()
        ])?;
    }
    Ok(())
}

fn delete_manifest(transaction: &Transaction<'_>, repository: &str, digest: &str) -> rusqlite::Result<bool> {
    transaction
        .execute("DELETE FROM repository_need WHERE repository = ?1 AND manifest = ?2", params![repository, digest])?;
    let sql = "DELETE FROM repository_manifest WHERE repository = ?1 AND digest = ?2";
    transaction.execute(sql, params![repository, digest]).map(|count| count > 0)
}

/// Deletes manifests below `prefix` (all, where it is empty) that nothing keeps, until there are none; how many.
pub(super) fn delete_unkept(transaction: &Transaction<'_>, before_ns: i64, prefix: &str) -> rusqlite::Result<usize> {
    let mut count = 0;
    loop {
        let unkept = unkept_manifests(transaction, before_ns, prefix)?;
        if unkept.is_empty() {
            return Ok(count);
        }
        for (repository, digest) in &unkept {
            delete_manifest(transaction, repository, digest)?;
        }
        count += unkept.len();
    }
}

fn unkept_manifests(
    transaction: &Transaction<'_>,
    before_ns: i64,
    prefix: &str,
) -> rusqlite::Result<Vec<(String, String)>> {
    let mut query = transaction.prepare_cached(
        "SELECT repository, digest FROM repository_manifest AS one WHERE pushed_ns < ?1
         AND (?2 = '' OR (repository >= ?2 || '/' AND repository < ?2 || '0'))
         AND NOT EXISTS (SELECT 1 FROM reference WHERE target = one.digest
             AND (name LIKE one.repository || ':%' OR name LIKE one.repository || '@%'))
         AND NOT EXISTS (SELECT 1 FROM repository_need WHERE repository = one.repository AND digest = one.digest)
         AND NOT EXISTS (SELECT 1 FROM repository_copied_tag WHERE repository = one.repository AND digest = one.digest)
         AND NOT EXISTS (SELECT 1 FROM repository_manifest WHERE repository = one.repository AND digest = one.subject)",
    )?;
    query.query_map(params![before_ns, prefix], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// `total` is a double; sums of sizes are whole.
fn whole(sum: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "sums of sizes are whole and positive")]
    let whole = sum as u64;
    whole
}
