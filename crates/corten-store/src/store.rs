//! The store's front: what the engine calls.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use corten_types::image_spec::Platform;
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use crate::blob;
use crate::database::Database;
use crate::disk::{Disk, give_up_reserve};
use crate::growing::LayerBytes;
use crate::hello;
use crate::image::Image;
use crate::import::archive::StagedArchive;
use crate::import::layout::LayoutDir;
use crate::import::unpack::{Unpacker, with_unpacker};
use crate::import::{self, Imported, LoadedImage, Source, Want};
use crate::layer::form::Form;
use crate::layer::owner::Owners;
use crate::layer::{LayerRow, Layers, decode};
use crate::lease::Shared;
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
    disk: Arc<Disk>,
    database: Database,
}

impl Store {
    /// Opens the store, making it where it is absent, and removes what a killed process left half-made.
    pub fn open(options: Options) -> Result<Self> {
        let disk = Disk::open(&options.root)
            .context(|| format!("cannot open the image store at `{}`", options.root.display()))?;
        disk.sweep()?;
        let database = Database::new(disk.path());
        Ok(Self { disk: Arc::new(disk), database })
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// Loads every image of an archive (docker-archive or oci-archive, plain or compressed) that is read once, front to
    /// back; names that the archive gives are moved to its images.
    pub fn load(&self, archive: impl Read + Send) -> Result<Vec<LoadedImage>> {
        self.load_platform(archive, None)
    }

    /// As [`Store::load`], but only what is for `platform`.
    pub fn load_platform(&self, archive: impl Read + Send, platform: Option<&Platform>) -> Result<Vec<LoadedImage>> {
        self.import_with("load", |unpacker| {
            let mut files = StagedArchive::read(archive, &self.disk, unpacker)?;
            import::images(&mut files, Want::All(platform))
        })
        .context(|| "cannot load the archive")
    }

    /// Brings in the one image that `source` means, for this machine, without a name: kept by digest.
    pub fn import(&self, source: &Source) -> Result<Image> {
        let loaded = self.import_with("import", |unpacker| {
            let mut images = self.found_in(source, unpacker)?;
            images.iter_mut().for_each(|image| image.references.clear());
            Ok(images)
        })?;
        let first = loaded.first().ok_or_else(|| Error::new(ErrorKind::NotFound, "the source holds no image"))?;
        self.image(&first.manifest)
    }

    fn found_in(&self, source: &Source, unpacker: &Unpacker<'_>) -> Result<Vec<Imported>> {
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
    pub(crate) fn import_with(
        &self,
        cause: &str,
        find: impl FnOnce(&Unpacker<'_>) -> Result<Vec<Imported>>,
    ) -> Result<Vec<LoadedImage>> {
        let lease = self.lease(cause)?;
        let layers = self.layers()?.kept_by(&lease);
        with_unpacker(&layers, |unpacker| {
            let images = find(unpacker)?;
            images.into_iter().map(|image| image.commit(self, &lease, unpacker, cause)).collect()
        })
    }

    pub(crate) fn layers(&self) -> Result<Layers<'_>> {
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

    /// Makes a container's root, unpacking layers that are not unpacked yet.
    pub fn prepare(&self, request: PrepareRequest<'_>) -> Result<Snapshot> {
        let Base::Image(image) = request.base else {
            let user_xattr = Owners::of_this_process()?.in_user_namespace();
            return snapshot::prepare(&self.disk, &request, &[], None, user_xattr);
        };
        {
            let _collection_waits = Shared::hold(&self.disk)?;
            let layers = self.layers()?;
            if let Some(rows) = found(image, &layers)? {
                return snapshot::prepare(&self.disk, &request, &rows, Some(&layers), layers.user_xattr());
            }
        }
        let lease = self.lease("start")?;
        let layers = self.layers()?.kept_by(&lease);
        let rows = self.unpacked(image, &layers)?;
        self.database.set_image_size(&image.manifest, rows.iter().map(|row| row.size).sum())?;
        snapshot::prepare(&self.disk, &request, &rows, Some(&layers), layers.user_xattr())
    }

    /// Every layer of an image, unpacked (again where a power cut, a wider id map or a missing directory asks for it).
    pub(crate) fn unpacked(&self, image: &Image, layers: &Layers<'_>) -> Result<Vec<LayerRow>> {
        let mut rows: Vec<LayerRow> = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let row = match layers.find(&layer.diff_id, &layer.chain_id)? {
                Some(row) => row,
                None => {
                    let file = Arc::new(blob::open(&self.disk, &layer.blob.digest)?);
                    let unpacked = layers.unpack(&layer.blob.digest, &LayerBytes::Whole(file))?;
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

    /// Whether there is work for the background: something to delete, or layers that are not on the disk yet.
    pub fn has_chores(&self) -> Result<bool> {
        Ok(!self.disk.part("trash")?.list(".")?.is_empty() || self.layers()?.is_unsynced()?)
    }

    /// Does the work of the background, once: another process that is at it is left to it.
    pub fn do_chores(&self) -> Result<()> {
        let Some(_alone) = corten_fs::Lock::attempt(self.disk.part("locks")?, "chores")? else { return Ok(()) };
        self.sync()?;
        self.disk.empty_trash()?;
        // On a disk that is still full it waits for the next time.
        self.disk.make_reserve().unwrap_or_default();
        Ok(())
    }

    /// A removal, tried once more with what was set aside for it where the disk is full.
    pub(crate) fn removing<T>(&self, remove: impl Fn() -> Result<T>) -> Result<T> {
        match remove() {
            Err(_) if give_up_reserve(self.disk.root())? => {
                // SQLite keeps what failed in mind.
                self.database.close();
                remove()
            }
            result => result,
        }
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

    /// New layers take this form from now on, whatever is fastest here.
    #[must_use]
    pub fn with_layer_form(self, form: Form) -> Self {
        self.disk.set_layer_form(form);
        self
    }

    /// The form that new layers take, and why.
    pub fn layer_form(&self) -> Result<(Form, String)> {
        Ok(self.layers()?.form().clone())
    }

    /// Where the store lies.
    pub fn root(&self) -> &Path {
        self.disk.path()
    }
}

/// The unpacked layers of an image, if all are there and usable.
fn found(image: &Image, layers: &Layers<'_>) -> Result<Option<Vec<LayerRow>>> {
    image.layers.iter().map(|layer| layers.find(&layer.diff_id, &layer.chain_id)).collect()
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
