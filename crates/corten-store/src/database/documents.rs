//! Rows of what references point to: manifests of images and of artifacts, and indexes of them.

use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use rusqlite::{Row, Transaction, params};

use super::references::move_reference;
use super::{Database, signed, unsigned};

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The manifest of an image that can be run.
    Image,
    /// An index of several.
    Index,
    /// The manifest of anything else.
    Artifact,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Index => "index",
            Self::Artifact => "artifact",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::Image, Self::Index, Self::Artifact]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("the store has a document of the kind `{text}`")))
    }
}

/// A document's row.
#[derive(Debug, Clone)]
pub(crate) struct DocumentRow {
    pub(crate) digest: Digest,
    pub(crate) kind: Kind,
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    pub(crate) subject: Option<Digest>,
    /// It stays until it is removed.
    pub(crate) top: bool,
    pub(crate) added_ns: i64,
}

/// An image's row.
#[derive(Debug, Clone)]
pub(crate) struct ImageRow {
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) media_type: String,
    /// Bytes of all unpacked layers; unknown until they were unpacked.
    pub(crate) size: Option<u64>,
    pub(crate) added_ns: i64,
}

/// A document with everything that its rows say.
#[derive(Debug, Clone)]
pub(crate) struct NewDocument {
    pub(crate) row: DocumentRow,
    /// Bytes of the document itself.
    pub(crate) size: u64,
    /// Every blob that it needs, itself among them.
    pub(crate) blobs: Vec<Digest>,
    /// What makes it an image.
    pub(crate) image: Option<NewImagePart>,
}

/// What an image has and no other document.
#[derive(Debug, Clone)]
pub(crate) struct NewImagePart {
    pub(crate) config: Digest,
    pub(crate) size: Option<u64>,
    /// Diff id and chain id, lowest first.
    pub(crate) layers: Vec<(Digest, Digest)>,
}

/// Which documents are written together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewTarget<'a> {
    pub(crate) target: &'a NewDocument,
    /// What an index has of its members.
    pub(crate) members: &'a [NewDocument],
    /// Names that point to it from now on.
    pub(crate) references: &'a [Reference],
    pub(crate) cause: &'a str,
}

const DOCUMENT: &str = "SELECT digest, kind, media_type, artifact_type, subject, top, added_ns FROM document";
const IMAGE: &str = "SELECT manifest, config, media_type, size, added_ns FROM image";

impl Database {
    /// Writes documents and moves references to the first, in one transaction. What is there already stays.
    pub(crate) fn add(&self, new: NewTarget<'_>) -> Result<()> {
        let target = new.target.row.digest.to_string();
        self.commit(|transaction| {
            add_document(transaction, new.target)?;
            for member in new.members {
                add_document(transaction, member)?;
                let row = params![target, member.row.digest.to_string()];
                transaction.execute("INSERT INTO member VALUES (?1, ?2) ON CONFLICT DO NOTHING", row)?;
            }
            for reference in new.references {
                let added_ns = new.target.row.added_ns;
                move_reference(transaction, &reference.to_string(), Some(&target), added_ns, new.cause)?;
            }
            Ok(())
        })?;
        if !new.references.is_empty() {
            self.write_names();
        }
        Ok(())
    }

    /// A document by its digest.
    pub(crate) fn document(&self, digest: &Digest) -> Result<Option<DocumentRow>> {
        Ok(self.documents("WHERE digest = ?1", &digest.to_string())?.pop())
    }

    /// Every document that stays by itself, newest first.
    pub(crate) fn tops(&self) -> Result<Vec<DocumentRow>> {
        self.documents("WHERE top = 1 AND ?1 = '' ORDER BY added_ns DESC, digest", "")
    }

    /// Documents whose subject is `digest`, oldest first.
    pub(crate) fn referrers(&self, digest: &Digest) -> Result<Vec<DocumentRow>> {
        self.documents("WHERE subject = ?1 ORDER BY added_ns, digest", &digest.to_string())
    }

    /// Documents whose digest starts with `prefix` (hexadecimal digits of sha256).
    pub(crate) fn documents_by_prefix(&self, prefix: &str) -> Result<Vec<DocumentRow>> {
        self.documents("WHERE digest >= 'sha256:' || ?1 AND digest < 'sha256:' || ?1 || 'g' ORDER BY digest", prefix)
    }

    /// The indexes that have `digest` as a member.
    pub(crate) fn parents(&self, digest: &Digest) -> Result<Vec<DocumentRow>> {
        self.documents(
            "WHERE digest IN (SELECT parent FROM member WHERE child = ?1) ORDER BY added_ns DESC, digest",
            &digest.to_string(),
        )
    }

    fn documents(&self, condition: &str, value: &str) -> Result<Vec<DocumentRow>> {
        type Raw = (String, String, String, Option<String>, Option<String>, bool, i64);
        let read = |row: &Row<'_>| -> rusqlite::Result<Raw> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        };
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(&format!("{DOCUMENT} {condition}"))?;
            query.query_map([value], read)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter()
            .map(|(digest, kind, media_type, artifact_type, subject, top, added_ns)| {
                let (digest, kind) = (Digest::parse(&digest)?, Kind::parse(&kind)?);
                let subject = subject.map(|text| Digest::parse(&text)).transpose()?;
                Ok(DocumentRow { digest, kind, media_type, artifact_type, subject, top, added_ns })
            })
            .collect()
    }

    /// An image by its manifest.
    pub(crate) fn image(&self, manifest: &Digest) -> Result<Option<ImageRow>> {
        Ok(self.image_rows("WHERE manifest = ?1", &manifest.to_string())?.pop())
    }

    /// Images by manifest or configuration, newest first.
    pub(crate) fn images_by_digest(&self, digest: &Digest) -> Result<Vec<ImageRow>> {
        self.image_rows("WHERE manifest = ?1 OR config = ?1 ORDER BY added_ns DESC, manifest", &digest.to_string())
    }

    /// Images whose identifier starts with `prefix` (hexadecimal digits of sha256), newest first.
    pub(crate) fn images_by_prefix(&self, prefix: &str) -> Result<Vec<ImageRow>> {
        self.image_rows(
            "WHERE config >= 'sha256:' || ?1 AND config < 'sha256:' || ?1 || 'g' ORDER BY added_ns DESC, manifest",
            prefix,
        )
    }

    /// The images of an index that are here.
    pub(crate) fn images_of(&self, index: &Digest) -> Result<Vec<ImageRow>> {
        self.image_rows("WHERE manifest IN (SELECT child FROM member WHERE parent = ?1)", &index.to_string())
    }

    fn image_rows(&self, condition: &str, value: &str) -> Result<Vec<ImageRow>> {
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(&format!("{IMAGE} {condition}"))?;
            let rows = query.query_map([value], |row| {
                let texts: (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok((texts, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter()
            .map(|((manifest, config, media_type), size, added_ns)| {
                let (manifest, config) = (Digest::parse(&manifest)?, Digest::parse(&config)?);
                let size = (size >= 0).then(|| unsigned(size));
                Ok(ImageRow { manifest, config, media_type, size, added_ns })
            })
            .collect()
    }

    /// Notes the size of an image whose layers were unpacked after it was stored.
    pub(crate) fn set_image_size(&self, manifest: &Digest, size: u64) -> Result<()> {
        self.commit(|transaction| {
            let row = params![manifest.to_string(), signed(size)];
            transaction.execute("UPDATE image SET size = ?2 WHERE manifest = ?1", row).map(drop)
        })
    }

    /// Removes a document with its references and with all that stayed because of it; the references that went.
    pub(crate) fn remove(&self, target: &Digest, now_ns: i64) -> Result<Vec<Reference>> {
        let references = self.references_of(target)?;
        let target = target.to_string();
        self.commit(|transaction| {
            for reference in &references {
                move_reference(transaction, &reference.to_string(), None, now_ns, "remove")?;
            }
            transaction.execute("UPDATE document SET top = 0 WHERE digest = ?1", [&target])?;
            drop_unkept(transaction)
        })?;
        if !references.is_empty() {
            self.write_names();
        }
        Ok(references)
    }

    /// Takes a member out of an index, and removes it unless something else keeps it.
    pub(crate) fn remove_member(&self, parent: &Digest, child: &Digest) -> Result<()> {
        let row = params![parent.to_string(), child.to_string()];
        self.commit(|transaction| {
            transaction.execute("DELETE FROM member WHERE parent = ?1 AND child = ?2", row)?;
            drop_unkept(transaction)
        })
    }

    /// The blobs of a document and of the members of an index.
    pub(crate) fn blobs_below(&self, document: &Digest) -> Result<Vec<Digest>> {
        let texts = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT blob FROM image_blob WHERE manifest = ?1
                 OR manifest IN (SELECT child FROM member WHERE parent = ?1)",
            )?;
            query
                .query_map([document.to_string()], |row| row.get::<_, String>(0))?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        texts.iter().map(|text| Digest::parse(text)).collect()
    }

    /// Every blob that an image, an artifact, a repository or a pin needs.
    pub(crate) fn needed_blobs(&self) -> Result<Vec<String>> {
        self.texts(
            "SELECT blob FROM image_blob UNION SELECT digest FROM pin
             UNION SELECT digest FROM repository_blob UNION SELECT digest FROM repository_manifest",
        )
    }
}

fn add_document(transaction: &Transaction<'_>, new: &NewDocument) -> rusqlite::Result<()> {
    let row = &new.row;
    let digest = row.digest.to_string();
    transaction.execute(
        "INSERT INTO document VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT DO UPDATE SET top = max(top, excluded.top), size = excluded.size",
        params![
            digest,
            row.kind.as_str(),
            row.media_type,
            signed(new.size),
            row.artifact_type,
            row.subject.map(|subject| subject.to_string()),
            row.top,
            row.added_ns
        ],
    )?;
    for blob in &new.blobs {
        transaction.execute(
            "INSERT INTO image_blob VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![digest, blob.to_string()],
        )?;
    }
    let Some(image) = &new.image else { return Ok(()) };
    transaction.execute(
        "INSERT INTO image VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET size = max(size, excluded.size)",
        params![digest, image.config.to_string(), row.media_type, image.size.map_or(-1, signed), row.added_ns],
    )?;
    for (position, (diff_id, chain_id)) in image.layers.iter().enumerate() {
        transaction.execute(
            "INSERT INTO image_layer VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
            params![digest, signed(position as u64), diff_id.to_string(), chain_id.to_string()],
        )?;
    }
    Ok(())
}

/// Removes documents that nothing keeps, until none is left.
fn drop_unkept(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    loop {
        let unkept = {
            let mut query = transaction.prepare_cached(
                "SELECT digest FROM document AS one WHERE top = 0
                 AND NOT EXISTS (SELECT 1 FROM member WHERE child = one.digest)
                 AND NOT EXISTS (SELECT 1 FROM document WHERE digest = one.subject)",
            )?;
            query.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?
        };
        if unkept.is_empty() {
            return Ok(());
        }
        for digest in &unkept {
            for (table, column) in [
                ("document", "digest"),
                ("image", "manifest"),
                ("image_blob", "manifest"),
                ("image_layer", "manifest"),
                ("builtin", "manifest"),
                ("member", "parent"),
            ] {
                transaction.execute(&format!("DELETE FROM {table} WHERE {column} = ?1"), [digest])?;
            }
        }
    }
}
