//! Whether what lies on the disk is what it should be: one image, or the whole store.
//!
//! ```text
//! quarantine/NAME     what was found damaged, moved away from where it would be used
//! ```
//!
//! Every blob is hashed again. Every unpacked layer is unpacked once more from its verified blob and compared, byte for
//! byte and with all attributes; one that differs is replaced. What cannot be repaired is moved away, and the images that
//! need it are named: pulling or loading them again brings in what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Document, MANIFEST_SIZE_BYTES_MAX};
use corten_types::{Digest, ErrorKind, Reference, Result};
use rustix::fs::{Mode, RenameFlags};

use crate::blob::{self, FileReader, Hasher};
use crate::disk::{Disk, random_name};
use crate::image::Image;
use crate::lease::Lease;
use crate::store::Store;

/// Bytes that are read at a time.
const BUFFER_SIZE: usize = 256 * 1024;

/// One thing that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What: `blob sha256:…`, `layer …`, `database`.
    pub what: String,
    /// How: one sentence.
    pub found: String,
    /// What was done about it.
    pub outcome: Outcome,
    /// Names (or identifiers) of the images that need it, sorted.
    pub images: Vec<String>,
}

/// What became of something damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was only looked at.
    Found,
    /// It is whole again.
    Repaired,
    /// It was moved to `quarantine`; the images that need it lack it until they are pulled or loaded again.
    Quarantined,
    /// There is nothing to move: the images that need it lack it until they are pulled or loaded again.
    Missing,
}

/// What a check went through.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Blobs that were hashed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Unpacked layers that were compared.
    pub layers: usize,
    /// What is not what it should be.
    pub damage: Vec<Damage>,
}

impl Store {
    /// Hashes every blob of an image again and compares its unpacked layers; changes nothing.
    pub fn verify_image(&self, image: &Image) -> Result<Checked> {
        let lease = self.lease("verify")?;
        let mut checked = Checked::default();
        let names = vec![shown(image)];
        let mut digests = BTreeSet::from([image.target, image.manifest, image.id]);
        digests.extend(image.layers.iter().map(|layer| layer.blob.digest));
        for digest in &digests {
            lease.keep(digest)?;
            let found = match state_of(self.disk(), digest, &mut checked)? {
                State::Whole => continue,
                State::Damaged(found) => found,
                State::Missing => "it is missing".to_owned(),
            };
            let what = format!("blob {digest}");
            checked.damage.push(Damage { what, found, outcome: Outcome::Found, images: names.clone() });
        }
        if checked.damage.is_empty() {
            self.compare_layers(&lease, image, &names, false, &mut checked)?;
        }
        Ok(checked)
    }

    /// Checks the whole store; with `repair` what is damaged is repaired or moved away.
    pub fn check(&self, repair: bool) -> Result<Checked> {
        let mut checked = Checked::default();
        self.check_database(repair, &mut checked)?;
        let lease = self.lease("fsck")?;
        let (images, users) = self.users()?;
        let damaged = self.check_blobs(&lease, &users, repair, &mut checked)?;
        for (image, name) in &images {
            if image.layers.iter().any(|layer| damaged.contains(&layer.blob.digest)) {
                continue;
            }
            self.compare_layers(&lease, image, std::slice::from_ref(name), repair, &mut checked)?;
        }
        Ok(checked)
    }

    /// A database that SQLite cannot read whole is moved away, and a new one is made of the blobs there are.
    fn check_database(&self, repair: bool, checked: &mut Checked) -> Result<()> {
        let found = match self.database().integrity() {
            Ok(None) => return Ok(()),
            Ok(Some(found)) => found,
            Err(error) if error.kind() == ErrorKind::Corrupt => error.one_line(),
            Err(error) => return Err(error),
        };
        let mut damage = Damage { what: "database".to_owned(), found, outcome: Outcome::Found, images: Vec::new() };
        if repair {
            let names = self.database().salvaged_references();
            self.database().close();
            for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
                quarantine(self.disk(), name)?;
            }
            damage.images = self.rebuild(&names)?;
            damage.outcome = Outcome::Repaired;
        }
        checked.damage.push(damage);
        Ok(())
    }

    /// Rows for every manifest and index among the blobs, and the names that could still be read; names of what came back.
    fn rebuild(&self, names: &[(Reference, Digest)]) -> Result<Vec<String>> {
        use crate::add::{NewImageRequest, RawDocument, Unpack};
        let lease = self.lease("fsck")?;
        let mut documents: Vec<(Digest, Vec<u8>, Document)> = Vec::new();
        for digest in blobs(self.disk())? {
            lease.keep(&digest)?;
            let size = blob::size(self.disk(), &digest)?.unwrap_or(0);
            if size > MANIFEST_SIZE_BYTES_MAX {
                continue;
            }
            let Ok(bytes) = blob::read(self.disk(), &digest, MANIFEST_SIZE_BYTES_MAX) else { continue };
            if let Ok(document) = Document::parse(&bytes, None) {
                documents.push((digest, bytes, document));
            }
        }
        let mut restored = Vec::new();
        // Indexes first: what is a member of one needs no row of its own.
        documents.sort_by_key(|(_, _, document)| matches!(document, Document::Manifest(_)));
        let mut members: BTreeSet<Digest> = BTreeSet::new();
        for (digest, bytes, document) in &documents {
            let references: Vec<_> =
                names.iter().filter(|(_, target)| target == digest).map(|(name, _)| name.clone()).collect();
            if members.contains(digest) && references.is_empty() {
                continue;
            }
            let raw =
                |bytes, media_type, digest: &Digest| RawDocument { bytes, media_type, algorithm: digest.algorithm() };
            let mut below = Vec::new();
            if let Document::Index(index) = document {
                for entry in &index.manifests {
                    if let Some((digest, bytes, _)) = documents.iter().find(|(digest, ..)| *digest == entry.digest) {
                        members.insert(*digest);
                        below.push(raw(bytes.as_slice(), entry.media_type.as_str(), digest));
                    }
                }
            }
            let media_type = media_type_of(document);
            let request = NewImageRequest {
                target: raw(bytes, media_type, digest),
                members: &below,
                references: &references,
                unpack: Unpack::Later,
                attached: true,
                cause: "fsck",
            };
            // What lacks a blob is no image any more.
            if self.add_image(&lease, &request).is_ok() {
                match references.as_slice() {
                    [] => restored.push(digest.to_string()),
                    names => restored.extend(names.iter().map(Reference::familiar)),
                }
            }
        }
        Ok(restored)
    }

    /// Every image that can be read with its name, and who needs each blob.
    fn users(&self) -> Result<Users> {
        let mut users: BTreeMap<Digest, Vec<String>> = BTreeMap::new();
        let mut images = Vec::new();
        for target in self.database().tops()? {
            let references = self.database().references_of(&target.digest)?;
            let name = references.first().map_or_else(|| target.digest.to_string(), |name| name.familiar());
            for digest in self.database().blobs_below(&target.digest)? {
                let names = users.entry(digest).or_default();
                if !names.contains(&name) {
                    names.push(name.clone());
                }
            }
            // Damaged documents are found among the blobs.
            for image in self.images_of(&target.digest).unwrap_or_default() {
                images.push((image, name.clone()));
            }
        }
        Ok((images, users))
    }

    /// Hashes every blob; those that are damaged or missing.
    fn check_blobs(
        &self,
        lease: &Lease,
        users: &BTreeMap<Digest, Vec<String>>,
        repair: bool,
        checked: &mut Checked,
    ) -> Result<BTreeSet<Digest>> {
        let mut damaged = BTreeSet::new();
        let mut all: BTreeSet<Digest> = users.keys().copied().collect();
        all.extend(blobs(self.disk())?);
        for digest in all {
            lease.keep(&digest)?;
            let (found, mut outcome) = match state_of(self.disk(), &digest, checked)? {
                State::Whole => continue,
                State::Damaged(found) => (found, Outcome::Found),
                State::Missing if users.contains_key(&digest) => ("it is missing".to_owned(), Outcome::Missing),
                State::Missing => continue,
            };
            damaged.insert(digest);
            let images = users.get(&digest).cloned().unwrap_or_default();
            if outcome == Outcome::Found {
                let layers = self.layers_made_of(&digest)?;
                if repair {
                    quarantine(self.disk(), &blob_path(&digest))?;
                    outcome = Outcome::Quarantined;
                }
                for key in layers {
                    if repair {
                        self.database().remove_layer(&key)?;
                        quarantine(self.disk(), &format!("layers/{key}"))?;
                    }
                    let (what, found) = (format!("layer {key}"), format!("it is made of the damaged blob {digest}"));
                    checked.damage.push(Damage { what, found, outcome, images: images.clone() });
                }
            }
            checked.damage.push(Damage { what: format!("blob {digest}"), found, outcome, images });
        }
        Ok(damaged)
    }

    /// Unpacked layers whose content is the blob's own file.
    fn layers_made_of(&self, digest: &Digest) -> Result<Vec<String>> {
        let root = self.disk().root();
        let Ok(blob) = root.stat_nofollow(blob_path(digest)) else { return Ok(Vec::new()) };
        let mut keys = self.database().layer_keys()?;
        keys.retain(|key| {
            let tar = root.stat_nofollow(format!("layers/{key}/{}", corten_fs::overlay::DATA));
            tar.is_ok_and(|tar| (tar.st_dev, tar.st_ino) == (blob.st_dev, blob.st_ino))
        });
        Ok(keys)
    }

    /// Unpacks each layer of an image once more and compares it with what is used.
    fn compare_layers(
        &self,
        lease: &Lease,
        image: &Image,
        names: &[String],
        repair: bool,
        checked: &mut Checked,
    ) -> Result<()> {
        let layers = self.layers()?.kept_by(lease);
        let mut below = Vec::new();
        for layer in &image.layers {
            let Some(row) = layers.find(&layer.diff_id, &layer.chain_id)? else {
                // Not unpacked yet, or not to be trusted: the next container has it unpacked.
                return Ok(());
            };
            checked.layers += 1;
            let file = Arc::new(blob::open(self.disk(), &layer.blob.digest)?);
            if let Some(found) = layers.differs(&row, &layer.blob.digest, &layer.diff_id, file, &below)? {
                let what = format!("layer {}", row.key);
                let already = checked.damage.iter_mut().find(|damage| damage.what == what);
                match already {
                    Some(damage) => damage.images.extend_from_slice(names),
                    None => {
                        let outcome = if repair { Outcome::Repaired } else { Outcome::Found };
                        checked.damage.push(Damage { what, found, outcome, images: names.to_vec() });
                    }
                }
                if repair {
                    self.database().remove_layer(&row.key)?;
                    quarantine(self.disk(), &format!("layers/{}", row.key))?;
                    self.unpacked(image, &layers)?;
                }
            }
            below.push(row);
        }
        Ok(())
    }
}

/// Images with their names, and the names of those that need each blob.
type Users = (Vec<(Image, String)>, BTreeMap<Digest, Vec<String>>);

/// What a blob's file turned out to be.
enum State {
    Whole,
    Damaged(String),
    Missing,
}

fn state_of(disk: &Disk, digest: &Digest, checked: &mut Checked) -> Result<State> {
    if !blob::exists(disk, digest)? {
        return Ok(State::Missing);
    }
    let file: Arc<File> = match blob::open(disk, digest) {
        Ok(file) => Arc::new(file),
        Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(State::Missing),
        // Not even a file.
        Err(error) => return Ok(State::Damaged(error.one_line())),
    };
    checked.blobs += 1;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut reader = FileReader::new(file);
    let mut buffer = vec![0; BUFFER_SIZE];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                checked.bytes += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // The disk itself gave up on it.
            Err(error) => return Ok(State::Damaged(format!("it cannot be read: {error}"))),
        }
    }
    let found = hasher.finish()?;
    if found == *digest { Ok(State::Whole) } else { Ok(State::Damaged(format!("its content is {found}"))) }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Every blob that is named.
fn blobs(disk: &Disk) -> Result<Vec<Digest>> {
    let mut found = Vec::new();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let dir = disk.part(&format!("blobs/{}", algorithm.as_str()))?;
        for entry in dir.list(".")? {
            found.extend(Digest::from_hex(algorithm, &entry.name.to_string_lossy()));
        }
    }
    Ok(found)
}

/// Moves something to where nobody uses it.
fn quarantine(disk: &Disk, path: &str) -> Result<()> {
    match disk.root().create_dir("quarantine", Mode::RWXU) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    let to = format!("quarantine/{name}-{}", random_name()?);
    match disk.root().rename(path, to, RenameFlags::empty()) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn media_type_of(document: &Document) -> &str {
    use corten_types::image_spec::media_type;
    match document {
        Document::Index(index) => index.media_type.as_deref().unwrap_or(media_type::INDEX),
        Document::Manifest(manifest) => manifest.media_type.as_deref().unwrap_or(media_type::MANIFEST),
    }
}

fn shown(image: &Image) -> String {
    image.repo_tags.first().map_or_else(|| image.id.to_string(), |name| name.familiar())
}
