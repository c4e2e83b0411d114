//! What nobody needs: blobs and layers of removed images.
//!
//! Collection runs beside everything else. Under the lock that keeps leases from taking things in, it reads the leases
//! first and the rows second (an image that is being stored is in one of them at any time), and moves what is in neither
//! to the trash; deleting comes later and under no lock.

use std::collections::HashSet;

use corten_types::digest::Algorithm;
use corten_types::{Digest, ErrorKind, Result};

use crate::database::Database;
use crate::disk::Disk;
use crate::lease::{self, Alone, Kept};
use crate::snapshot;

/// What a collection removed.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Diff ids (or chain ids) of unpacked layers, as hexadecimal digits.
    pub layers: Vec<String>,
    /// Bytes given back, once the trash is empty.
    pub bytes: u64,
}

/// Moves what no image, snapshot, pin and lease needs to the trash.
pub(crate) fn collect(disk: &Disk, database: &Database) -> Result<Collected> {
    let alone = Alone::wait(disk)?;
    let kept = lease::kept(disk, &alone)?;
    let mut collected = Collected::default();
    let layers = unneeded_layers(disk, database, &kept)?;
    let blobs = unneeded_blobs(disk, database, &kept)?;
    for key in &layers {
        collected.bytes += database.layer(key)?.map_or(0, |row| row.size);
    }
    // The rows first: a row without its blob would say that a layer can be unpacked again.
    database.forget(&layers, &blobs)?;
    for key in &layers {
        disk.discard(&format!("layers/{key}"))?;
    }
    for digest in &blobs {
        let path = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let stat = match disk.root().stat_nofollow(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            result => result?,
        };
        // Its other name is the tar of a layer, which is counted there.
        if stat.st_nlink < 2 {
            collected.bytes += u64::try_from(stat.st_size).unwrap_or(0);
        }
        disk.discard(&path)?;
    }
    collected.layers = layers;
    collected.blobs = blobs;
    Ok(collected)
}

fn unneeded_blobs(disk: &Disk, database: &Database, kept: &Kept) -> Result<Vec<Digest>> {
    let needed: HashSet<String> = database.needed_blobs()?.into_iter().collect();
    let mut unneeded = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let dir = disk.part(&format!("blobs/{}", algorithm.as_str()))?;
        for entry in dir.list(".")? {
            let Ok(digest) = Digest::from_hex(algorithm, &entry.name.to_string_lossy()) else { continue };
            let name = digest.to_string();
            if !needed.contains(&name) && !kept.blobs.contains(&name) {
                unneeded.push(digest);
            }
        }
    }
    Ok(unneeded)
}

fn unneeded_layers(disk: &Disk, database: &Database, kept: &Kept) -> Result<Vec<String>> {
    let mut needed: HashSet<String> = HashSet::new();
    for id in database.needed_layers()? {
        needed.insert(Digest::parse(&id)?.hex());
    }
    for key in snapshot::keys(disk)? {
        // A snapshot that cannot be read keeps nothing; its container could not start either.
        if let Ok(record) = snapshot::read(disk, &key) {
            needed.extend(record.layers);
        }
    }
    let mut known: HashSet<String> = database.layer_keys()?.into_iter().collect();
    let dir = disk.part("layers")?;
    known.extend(dir.list(".")?.into_iter().map(|entry| entry.name.to_string_lossy().into_owned()));
    Ok(known.into_iter().filter(|key| !needed.contains(key) && !kept.layers.contains(key)).collect())
}
