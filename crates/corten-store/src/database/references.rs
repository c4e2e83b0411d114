//! References, and where each pointed before.

use corten_types::{Digest, Reference, Result};
use rusqlite::{OptionalExtension, Transaction, params};

use super::Database;

/// One move of a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// What it pointed to from then on; nothing where it was removed.
    pub target: Option<Digest>,
    /// When, nanoseconds since 1970.
    pub moved_ns: i64,
    /// What moved it: `pull`, `tag`, `load`, …
    pub cause: String,
}

impl Database {
    /// Moves a reference, or removes it.
    pub(crate) fn move_reference(
        &self,
        reference: &Reference,
        target: Option<&Digest>,
        now_ns: i64,
        cause: &str,
    ) -> Result<()> {
        let target = target.map(Digest::to_string);
        let name = reference.to_string();
        self.commit(|transaction| move_reference(transaction, &name, target.as_deref(), now_ns, cause))?;
        self.write_names();
        Ok(())
    }

    /// The document that a reference points to.
    pub(crate) fn reference(&self, reference: &Reference) -> Result<Option<Digest>> {
        self.digest("SELECT target FROM reference WHERE name = ?1", &reference.to_string())
    }

    /// Every reference and its target, in full and sorted.
    pub(crate) fn references(&self) -> Result<Vec<(Reference, Digest)>> {
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached("SELECT name, target FROM reference ORDER BY name")?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.iter().map(|(name, target)| Ok((Reference::parse(name)?, Digest::parse(target)?))).collect()
    }

    /// References that point to a document, in full and sorted.
    pub(crate) fn references_of(&self, target: &Digest) -> Result<Vec<Reference>> {
        let names = self.with(|connection| {
            let mut query = connection.prepare_cached("SELECT name FROM reference WHERE target = ?1 ORDER BY name")?;
            query.query_map([target.to_string()], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()
        })?;
        names.iter().map(|name| Reference::parse(name)).collect()
    }

    /// Where a reference pointed, newest first.
    pub(crate) fn history(&self, reference: &Reference) -> Result<Vec<Move>> {
        let rows = self.with(|connection| {
            let mut query = connection.prepare_cached(
                "SELECT target, moved_ns, cause FROM reference_history WHERE name = ?1 ORDER BY id DESC",
            )?;
            let rows = query.query_map([reference.to_string()], |row| {
                Ok((row.get::<_, Option<String>>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        rows.into_iter()
            .map(|(target, moved_ns, cause)| {
                let target = target.map(|text| Digest::parse(&text)).transpose()?;
                Ok(Move { target, moved_ns, cause })
            })
            .collect()
    }
}

pub(super) fn move_reference(
    transaction: &Transaction<'_>,
    name: &str,
    target: Option<&str>,
    now_ns: i64,
    cause: &str,
) -> rusqlite::Result<()> {
    let before: Option<String> =
        transaction.query_row("SELECT target FROM reference WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    if before.as_deref() == target {
        return Ok(());
    }
    match target {
        Some(target) => {
            // What has a name stays by itself.
            transaction.execute("UPDATE document SET top = 1 WHERE digest = ?1", [target])?;
            transaction.execute("INSERT OR REPLACE INTO reference VALUES (?1, ?2)", params![name, target])?
        }
        None => transaction.execute("DELETE FROM reference WHERE name = ?1", [name])?,
    };
    transaction.execute(
        "INSERT INTO reference_history (name, target, moved_ns, cause) VALUES (?1, ?2, ?3, ?4)",
        params![name, target, now_ns, cause],
    )?;
    Ok(())
}
