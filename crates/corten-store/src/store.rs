//! The store's front: what the engine calls.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{CONFIG_SIZE_BYTES_MAX, Document, ImageConfig, MANIFEST_SIZE_BYTES_MAX};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use crate::blob;
use crate::database::{Database, ImageRow};
use crate::disk::Disk;
use crate::garbage::{self, Collected, InUse};
use crate::hello;
use crate::image::{Image, Layer};
use crate::import::archive::StagedArchive;
use crate::import::layout::LayoutDir;
use crate::import::unpack::{Unpacker, with_unpacker};
use crate::import::{self, Imported, LoadedImage, Source, Want};
use crate::layer::owner::Owners;
use crate::layer::{LayerRow, Layers, chain_ids, decode};
use crate::snapshot::{self, Base, PrepareRequest, Snapshot};

/// Where the store lies.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its directory; made with mode 0700 where it is absent.
    pub root: PathBuf,
}

/// A store. Cheap to open; the database is opened by the first call that needs it. May be shared by threads.
#[derive(Debug)]
pub struct Store {
    disk: Disk,
    database: Database,
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// References that no longer exist.
    pub untagged: Vec<Reference>,
    /// The image, where nothing names it any more: its identifier.
    pub deleted: Option<Digest>,
    /// What went with it; empty where a load was under way (the next removal collects it).
    pub collected: Collected,
}

impl Store {
    /// Opens the store, making it where it is absent, and removes what a killed process left half-made.
    pub fn open(options: Options) -> Result<Self> {
        let disk = Disk::open(&options.root)
            .context(|| format!("cannot open the image store at `{}`", options.root.display()))?;
        disk.sweep()?;
        let database = Database::new(disk.path());
        Ok(Self { disk, database })
    }

    /// The image that `name` means: a reference, a short name, an identifier or a unique prefix of one, as docker looks
    /// it up.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let row = self.lookup(name)?;
        self.read_image(row)
    }

    fn lookup(&self, name: &str) -> Result<ImageRow> {
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("there is no image `{}`", name.escape_debug()))
                .hint("`corten images` lists what is here; `corten load -i FILE` brings in an archive")
        };
        let whole = if name.len() == 64 { Digest::from_hex(Algorithm::Sha256, name) } else { Digest::parse(name) };
        if let Ok(digest) = whole {
            return self.database.images_by_digest(&digest)?.into_iter().next().ok_or_else(missing);
        }
        let reference = Reference::parse(name);
        if let Ok(reference) = &reference
            && let Some(row) = self.by_reference(reference)?
        {
            return Ok(row);
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if !prefix.is_empty() && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            let rows = self.database.images_by_prefix(prefix)?;
            if let Some(first) = rows.first() {
                if rows.iter().any(|row| row.config != first.config) {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("`{name}` is the start of several images' ids"),
                    )
                    .hint("type more digits; `corten images --no-trunc` shows them all"));
                }
                return Ok(first.clone());
            }
        }
        reference.and_then(|_| Err(missing()))
    }

    fn by_reference(&self, reference: &Reference) -> Result<Option<ImageRow>> {
        let manifest = match (self.database.reference(reference)?, reference.digest()) {
            (Some(manifest), _) => manifest,
            // `NAME@DIGEST` finds what another name of the repository brought in.
            (None, Some(digest)) => {
                let repository = reference.repository();
                let known = self.database.references_of(digest)?;
                if !known.iter().any(|known| known.repository() == repository) {
                    return Ok(None);
                }
                *digest
            }
            (None, None) => return Ok(None),
        };
        Ok(self.database.images_by_digest(&manifest)?.into_iter().find(|row| row.manifest == manifest))
    }

    /// The image whose configuration or manifest is `digest`.
    pub fn image(&self, digest: &Digest) -> Result<Image> {
        self.resolve(&digest.to_string())
    }

    /// Every image, newest first.
    pub fn images(&self) -> Result<Vec<Image>> {
        self.database.images()?.into_iter().map(|row| self.read_image(row)).collect()
    }

    fn read_image(&self, row: ImageRow) -> Result<Image> {
        let named = || format!("cannot read image {}", row.config.short());
        let manifest = blob::read(&self.disk, &row.manifest, MANIFEST_SIZE_BYTES_MAX).context(named)?;
        let Document::Manifest(manifest) = Document::parse(&manifest, Some(&row.media_type)).context(named)? else {
            return Err(Error::new(ErrorKind::Corrupt, "an index is stored as an image").context(named()));
        };
        let config = blob::read(&self.disk, &row.config, CONFIG_SIZE_BYTES_MAX).context(named)?;
        let config = ImageConfig::parse(&config).context(named)?;
        let chain = chain_ids(&config.rootfs.diff_ids)?;
        let layers = manifest.layers.into_iter().zip(&config.rootfs.diff_ids).zip(chain);
        let layers = layers.map(|((blob, diff_id), chain_id)| Layer { blob, diff_id: *diff_id, chain_id }).collect();
        let references = self.database.references_of(&row.manifest)?;
        let (repo_digests, repo_tags) = references.into_iter().partition(|reference| reference.digest().is_some());
        Ok(Image {
            id: row.config,
            manifest: row.manifest,
            media_type: row.media_type,
            config,
            layers,
            size: row.size,
            added_ns: row.added_ns,
            repo_tags,
            repo_digests,
        })
    }

    /// The original bytes of an image's configuration.
    pub fn config_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        blob::read(&self.disk, &image.id, CONFIG_SIZE_BYTES_MAX)
    }

    /// The original bytes of an image's manifest.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        blob::read(&self.disk, &image.manifest, MANIFEST_SIZE_BYTES_MAX)
    }

    /// A blob, for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        blob::open(&self.disk, digest)
    }

    /// Loads every image of an archive (docker-archive or oci-archive, plain or compressed) that is read once, front to
    /// back; names that the archive gives are moved to its images.
    pub fn load(&self, archive: impl Read + Send) -> Result<Vec<LoadedImage>> {
        self.import_with("load", |unpacker| {
            let mut files = StagedArchive::read(archive, &self.disk, unpacker)?;
            import::images(&mut files, Want::All)
        })
        .context(|| "cannot load the archive")
    }

    /// Brings in the one image that `source` means, for this machine, without a name: kept by digest.
    pub fn import(&self, source: &Source) -> Result<Image> {
        let loaded = self.import_with("import", |unpacker| {
            let mut images = self.images_of(source, unpacker)?;
            images.iter_mut().for_each(|image| image.references.clear());
            Ok(images)
        })?;
        let first = loaded.first().ok_or_else(|| Error::new(ErrorKind::NotFound, "the source holds no image"))?;
        let row =
            self.database.images_by_digest(&first.manifest)?.into_iter().find(|row| row.manifest == first.manifest);
        self.read_image(row.ok_or_else(|| Error::new(ErrorKind::Conflict, "the image was removed meanwhile"))?)
    }

    fn images_of(&self, source: &Source, unpacker: &Unpacker<'_>) -> Result<Vec<Imported>> {
        let (path, want) = match source {
            Source::OciLayout { dir, tag } => {
                let mut files = LayoutDir::open(dir, &self.disk, unpacker)?;
                return import::images(&mut files, Want::One(tag.as_deref()))
                    .context(|| format!("cannot import `{}`", dir.display()));
            }
            Source::OciArchive { file, tag } => (file, tag.clone()),
            Source::DockerArchive { file, reference } => (file, reference.as_ref().map(Reference::to_string)),
        };
        let named = || format!("cannot import `{}`", path.display());
        let archive = File::open(path).context(named)?;
        let mut files = StagedArchive::read(archive, &self.disk, unpacker).context(named)?;
        import::images(&mut files, Want::One(want.as_deref())).context(named)
    }

    /// Finds images with threads that unpack beside it, and stores them.
    fn import_with(
        &self,
        cause: &str,
        find: impl FnOnce(&Unpacker<'_>) -> Result<Vec<Imported>>,
    ) -> Result<Vec<LoadedImage>> {
        let _in_use = InUse::hold(&self.disk)?;
        let layers = self.layers()?;
        with_unpacker(&layers, |unpacker| {
            let images = find(unpacker)?;
            images.into_iter().map(|image| image.commit(&self.disk, &self.database, unpacker, cause)).collect()
        })
    }

    fn layers(&self) -> Result<Layers<'_>> {
        Layers::new(&self.disk, &self.database, decode::Limits::default())
    }

    /// The image that `hello` means: the built-in one, whose one layer is `binary` (the running executable) as `/corten`,
    /// made on first use and remade when the binary changes; or the user's own, where the name was moved to one.
    pub fn hello(&self, binary: &File) -> Result<Image> {
        let reference = Reference::parse(hello::NAME)?;
        let named = self.database.reference(&reference)?;
        let builtin = self.database.builtin(hello::NAME)?;
        let is_ours = |manifest: &Digest| builtin.as_ref().is_some_and(|(_, ours)| ours == manifest);
        if let Some(manifest) = named.filter(|manifest| !is_ours(manifest)) {
            return self.image(&manifest);
        }
        let identity = hello::identity(binary)?;
        if let Some((known, manifest)) = &builtin
            && *known == identity
            && let Ok(image) = self.image(manifest)
        {
            return Ok(image);
        }
        let loaded = self
            .import_with("built in", |unpacker| {
                hello::build(binary, &self.disk, unpacker, Some(reference)).map(|image| vec![image])
            })
            .context(|| "cannot make the built-in image `hello`")?;
        let made = loaded.first().ok_or_else(|| Error::new(ErrorKind::Internal, "no image was made"))?.manifest;
        self.database.set_builtin(hello::NAME, &identity, &made)?;
        if let Some((_, superseded)) = builtin.filter(|(_, manifest)| *manifest != made) {
            self.retire(&superseded)?;
        }
        self.image(&made)
    }

    /// Removes an image that nothing names and no container uses.
    fn retire(&self, manifest: &Digest) -> Result<()> {
        if self.database.references_of(manifest)?.is_empty() && !self.is_used(manifest)? {
            self.database.remove_image(manifest, now_ns())?;
            garbage::collect(&self.disk, &self.database)?;
        }
        Ok(())
    }

    /// Points `reference` at an image; the move is remembered in the reference's history.
    pub fn tag(&self, image: &Digest, reference: &Reference) -> Result<()> {
        if reference.digest().is_some() {
            return Err(Error::invalid(format!("`{reference}` names a digest; a tag is wanted")));
        }
        let row = self.lookup(&image.to_string())?;
        self.database.move_reference(reference, Some(&row.manifest), now_ns(), "tag")
    }

    /// Removes a reference; the image stays. The manifest it pointed to.
    pub fn untag(&self, reference: &Reference) -> Result<Digest> {
        let manifest = self
            .database
            .reference(reference)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no image `{}`", reference.familiar())))?;
        self.database.move_reference(reference, None, now_ns(), "untag")?;
        Ok(manifest)
    }

    /// Removes what `name` means as docker's `rmi` does: one of several names is only untagged, the last name or an
    /// identifier deletes the image. `Conflict` while a container uses it, or while several repositories name an
    /// identifier, unless `force`.
    pub fn remove(&self, name: &str, force: bool) -> Result<Removed> {
        let row = self.lookup(name)?;
        let references = self.database.references_of(&row.manifest)?;
        let named = Reference::parse(name).ok().filter(|reference| references.contains(reference));
        if let Some(reference) = &named
            && references.len() > 1
        {
            self.untag(reference)?;
            return Ok(Removed { untagged: vec![reference.clone()], ..Removed::default() });
        }
        let id = row.config.short();
        let mut repositories: Vec<String> = references.iter().map(Reference::repository).collect();
        repositories.dedup();
        if named.is_none() && repositories.len() > 1 && !force {
            return Err(Error::new(ErrorKind::Conflict, format!("image `{id}` is named in several repositories"))
                .hint("remove its names one by one, or all with `--force`"));
        }
        if self.is_used(&row.manifest)? && !force {
            return Err(Error::new(ErrorKind::Conflict, format!("image `{id}` is used by a container"))
                .hint("remove the container first (`corten ps -a`), or use `--force`"));
        }
        // A container's layers stay; their blobs may go, so they must not be needed after a power cut.
        self.layers()?.sync()?;
        let untagged = self.database.remove_image(&row.manifest, now_ns())?;
        let collected = garbage::collect(&self.disk, &self.database)?.unwrap_or_default();
        Ok(Removed { untagged, deleted: Some(row.config), collected })
    }

    fn is_used(&self, manifest: &Digest) -> Result<bool> {
        for key in snapshot::keys(&self.disk)? {
            if snapshot::read(&self.disk, &key).is_ok_and(|record| record.manifest() == Some(*manifest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes blobs and layers that no image and no snapshot needs. `None` while a load or a start is under way.
    pub fn collect_garbage(&self) -> Result<Option<Collected>> {
        garbage::collect(&self.disk, &self.database)
    }

    /// Makes a container's root, unpacking layers that are not unpacked yet.
    pub fn prepare(&self, request: PrepareRequest<'_>) -> Result<Snapshot> {
        let Base::Image(image) = request.base else {
            let user_xattr = Owners::of_this_process()?.in_user_namespace();
            return snapshot::prepare(&self.disk, &request, &[], None, user_xattr);
        };
        let _in_use = InUse::hold(&self.disk)?;
        let layers = self.layers()?;
        let rows = self.unpacked(image, &layers)?;
        snapshot::prepare(&self.disk, &request, &rows, Some(&layers), layers.user_xattr())
    }

    /// Every layer of an image, unpacked (again where a power cut, a wider id map or a missing directory asks for it).
    fn unpacked(&self, image: &Image, layers: &Layers<'_>) -> Result<Vec<LayerRow>> {
        let mut rows: Vec<LayerRow> = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let row = match layers.find(&layer.diff_id, &layer.chain_id)? {
                Some(row) => row,
                None => {
                    let file = Arc::new(blob::open(&self.disk, &layer.blob.digest)?);
                    let unpacked = layers.unpack(&layer.blob.digest, file)?;
                    import::settle(layers, unpacked, &layer.diff_id, &layer.chain_id, &rows)?
                }
            };
            rows.push(row);
        }
        Ok(rows)
    }

    /// A root that was prepared before.
    pub fn snapshot(&self, key: &str) -> Result<Snapshot> {
        Ok(snapshot::read(&self.disk, key)?.snapshot(&self.disk, key))
    }

    /// The names of all snapshots.
    pub fn snapshots(&self) -> Result<Vec<String>> {
        snapshot::keys(&self.disk)
    }

    /// Removes a root that is no longer mounted. Returns at once: the tree waits in the trash for
    /// [`Store::empty_trash`]. An absent key is no error.
    pub fn remove_snapshot(&self, key: &str) -> Result<()> {
        snapshot::remove(&self.disk, key)
    }

    /// Deletes what was removed; slow, for the background.
    pub fn empty_trash(&self) -> Result<()> {
        self.disk.empty_trash()
    }

    /// Makes unpacked layers durable, so that a power cut does not ask for unpacking them again; slow, for the
    /// background.
    pub fn sync(&self) -> Result<()> {
        self.layers()?.sync()
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        self.disk.path()
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
