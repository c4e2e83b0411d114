//! From a name to what it means: an image of a platform, an index, an artifact.

use corten_types::digest::Algorithm;
use corten_types::image_spec::{
    CONFIG_SIZE_BYTES_MAX, Descriptor, Document, ImageConfig, MANIFEST_SIZE_BYTES_MAX, Platform,
};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use crate::blob;
use crate::database::{DocumentRow, ImageRow, Kind};
use crate::image::{Image, Layer, Target};
use crate::import::platform;
use crate::layer::chain_ids;
use crate::store::Store;

impl Store {
    /// The image that `name` means, for this machine: a reference, a short name, an identifier or a unique prefix of one,
    /// as docker looks it up. Of a name for several platforms it is the one that this machine runs.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        self.resolve_platform(name, None)
    }

    /// As [`Store::resolve`], for `wanted`. An image of another platform is `NotFound`, which says what is here.
    pub fn resolve_platform(&self, name: &str, wanted: Option<&Platform>) -> Result<Image> {
        let document = self.lookup(name)?;
        self.choose(&document, wanted).context(|| format!("cannot use `{}`", name.escape_debug()))
    }

    /// What `name` means, whatever it is: for what copies, pushes and lists.
    pub fn target(&self, name: &str) -> Result<Target> {
        let row = self.lookup(name)?;
        self.target_of(row)
    }

    /// Everything that stays by itself: images, indexes and artifacts, newest first.
    pub fn targets(&self) -> Result<Vec<Target>> {
        self.database().tops()?.into_iter().map(|row| self.target_of(row)).collect()
    }

    /// The images of a target that are here, of every platform: one for a manifest, those of an index, none for an
    /// artifact.
    pub fn images_of(&self, target: &Digest) -> Result<Vec<Image>> {
        let Some(document) = self.database().document(target)? else { return Ok(Vec::new()) };
        self.image_rows_of(&document)?.into_iter().map(|row| self.read_image(row, Some(target))).collect()
    }

    /// Descriptors of what has `digest` as its subject (distribution specification, "referrers"), oldest first.
    pub fn referrers(&self, digest: &Digest) -> Result<Vec<Descriptor>> {
        let rows = self.database().referrers(digest)?;
        rows.iter().map(|row| self.descriptor_of(row)).collect()
    }

    fn descriptor_of(&self, row: &DocumentRow) -> Result<Descriptor> {
        let bytes = blob::read(self.disk(), &row.digest, MANIFEST_SIZE_BYTES_MAX)?;
        let (artifact_type, annotations) = match Document::parse(&bytes, Some(&row.media_type))? {
            Document::Index(index) => (index.artifact_type, index.annotations),
            Document::Manifest(manifest) => {
                (Some(manifest.artifact_type.unwrap_or(manifest.config.media_type)), manifest.annotations)
            }
        };
        Ok(Descriptor {
            media_type: row.media_type.clone(),
            digest: row.digest,
            size: bytes.len() as u64,
            urls: Vec::new(),
            annotations,
            platform: None,
            artifact_type,
        })
    }

    /// The bytes of a manifest or an index, as they came.
    pub fn document_bytes(&self, digest: &Digest) -> Result<Vec<u8>> {
        blob::read(self.disk(), digest, MANIFEST_SIZE_BYTES_MAX)
    }

    pub(crate) fn target_of(&self, row: DocumentRow) -> Result<Target> {
        Ok(Target {
            references: self.database().references_of(&row.digest)?,
            size: blob::size(self.disk(), &row.digest)?.unwrap_or(0),
            digest: row.digest,
            kind: row.kind,
            media_type: row.media_type,
            artifact_type: row.artifact_type,
            subject: row.subject,
            added_ns: row.added_ns,
        })
    }

    pub(crate) fn lookup(&self, name: &str) -> Result<DocumentRow> {
        let missing = || {
            Error::new(ErrorKind::NotFound, format!("there is no image `{}`", name.escape_debug()))
                .hint("`corten images` lists what is here; `corten load -i FILE` brings in an archive")
        };
        let whole = if name.len() == 64 { Digest::from_hex(Algorithm::Sha256, name) } else { Digest::parse(name) };
        if let Ok(digest) = whole {
            return self.by_digest(&digest)?.ok_or_else(missing);
        }
        let reference = Reference::parse(name);
        for meant in Reference::meanings(name) {
            if let Some(row) = self.by_reference(&meant)? {
                return Ok(row);
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if !prefix.is_empty()
            && prefix.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && let Some(digest) = self.by_prefix(prefix)?
        {
            return self.by_digest(&digest)?.ok_or_else(missing);
        }
        reference.and_then(|_| Err(missing()))
    }

    fn by_digest(&self, digest: &Digest) -> Result<Option<DocumentRow>> {
        if let Some(row) = self.database().document(digest)? {
            return Ok(Some(row));
        }
        match self.database().images_by_digest(digest)?.first() {
            Some(image) => self.database().document(&image.manifest),
            None => Ok(None),
        }
    }

    /// The only identifier (of a configuration, else of a manifest or an index) that starts so.
    fn by_prefix(&self, prefix: &str) -> Result<Option<Digest>> {
        let mut found: Vec<Digest> =
            self.database().images_by_prefix(prefix)?.into_iter().map(|row| row.config).collect();
        if found.is_empty() {
            found = self.database().documents_by_prefix(prefix)?.into_iter().map(|row| row.digest).collect();
        }
        found.dedup();
        match found.as_slice() {
            [] => Ok(None),
            [first, rest @ ..] if rest.iter().all(|other| other == first) => Ok(Some(*first)),
            _ => Err(Error::new(ErrorKind::Conflict, format!("`{prefix}` is the start of several images' ids"))
                .hint("type more digits; `corten images --no-trunc` shows them all")),
        }
    }

    fn by_reference(&self, reference: &Reference) -> Result<Option<DocumentRow>> {
        let target = match (self.database().reference(reference)?, reference.digest()) {
            (Some(target), _) => target,
            // `NAME@DIGEST` finds what another name of the repository brought in, and members of its indexes.
            (None, Some(digest)) => {
                let repository = reference.repository();
                let mut known = self.database().references_of(digest)?;
                for parent in self.database().parents(digest)? {
                    known.extend(self.database().references_of(&parent.digest)?);
                }
                if !known.iter().any(|known| known.repository() == repository) {
                    return Ok(None);
                }
                *digest
            }
            (None, None) => return Ok(None),
        };
        self.database().document(&target)
    }

    /// The image whose configuration, manifest or index is `digest`.
    pub fn image(&self, digest: &Digest) -> Result<Image> {
        self.resolve(&digest.to_string())
    }

    /// Every image, newest first; of an index the one for this machine, else the first that is here.
    pub fn images(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for document in self.database().tops()? {
            let rows = self.image_rows_of(&document)?;
            let row = match rows.as_slice() {
                [] => continue,
                [one] => one.clone(),
                several => self.pick(&document, several, None)?.unwrap_or_else(|| several[0].clone()),
            };
            let added_ns = document.added_ns;
            images.push(Image { added_ns, ..self.read_image(row, Some(&document.digest))? });
        }
        Ok(images)
    }

    fn image_rows_of(&self, document: &DocumentRow) -> Result<Vec<ImageRow>> {
        match document.kind {
            Kind::Image => Ok(self.database().image(&document.digest)?.into_iter().collect()),
            Kind::Index => self.database().images_of(&document.digest),
            Kind::Artifact => Ok(Vec::new()),
        }
    }

    /// The image of a document for a platform; without one, for this machine, or the only one there is.
    fn choose(&self, document: &DocumentRow, wanted: Option<&Platform>) -> Result<Image> {
        if document.kind == Kind::Artifact {
            let kind = document.artifact_type.as_deref().unwrap_or("unknown");
            let message = format!("it is an artifact (`{}`), not an image", corten_types::digest::printable(kind));
            return Err(Error::new(ErrorKind::Unsupported, message).hint("`corten artifact pull` writes its files"));
        }
        let rows = self.image_rows_of(document)?;
        if let Some(row) = self.pick(document, &rows, wanted)? {
            return self.read_image(row, Some(&document.digest));
        }
        let mut known = Vec::new();
        for row in &rows {
            let config = ImageConfig::parse(&blob::read(self.disk(), &row.config, CONFIG_SIZE_BYTES_MAX)?)?;
            known.push(platform::text(&config.platform));
        }
        let wanted = wanted.map_or_else(|| format!("linux/{}", platform::this_machine()), platform::text);
        let message = format!("its image for {wanted} is not here");
        let error = Error::new(ErrorKind::NotFound, message);
        Err(match known.is_empty() {
            true => error.hint("pull it again"),
            false => error.hint(format!("here are: {}", known.join(", "))),
        })
    }

    fn pick(&self, document: &DocumentRow, rows: &[ImageRow], wanted: Option<&Platform>) -> Result<Option<ImageRow>> {
        // A manifest that somebody names is meant, whatever machine it is for; a warning is the front end's.
        if let ([one], None) = (rows, wanted) {
            return Ok(Some(one.clone()));
        }
        let mut known = Vec::with_capacity(rows.len());
        for row in rows {
            let config = ImageConfig::parse(&blob::read(self.disk(), &row.config, CONFIG_SIZE_BYTES_MAX)?)
                .context(|| format!("cannot read an image of {}", document.digest))?;
            known.push((config.platform, row));
        }
        Ok(platform::best(known.iter().map(|(platform, row)| (platform, *row)), wanted).cloned())
    }

    pub(crate) fn read_image(&self, row: ImageRow, target: Option<&Digest>) -> Result<Image> {
        let named = || format!("cannot read image {}", row.config.short());
        let manifest = blob::read(self.disk(), &row.manifest, MANIFEST_SIZE_BYTES_MAX).context(named)?;
        let Document::Manifest(manifest) = Document::parse(&manifest, Some(&row.media_type)).context(named)? else {
            return Err(Error::new(ErrorKind::Corrupt, "an index is stored as an image").context(named()));
        };
        let config = blob::read(self.disk(), &row.config, CONFIG_SIZE_BYTES_MAX).context(named)?;
        let config = ImageConfig::parse(&config).context(named)?;
        let chain = chain_ids(&config.rootfs.diff_ids)?;
        let blobs_size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        let layers = manifest.layers.into_iter().zip(&config.rootfs.diff_ids).zip(chain);
        let layers = layers.map(|((blob, diff_id), chain_id)| Layer { blob, diff_id: *diff_id, chain_id }).collect();
        let (references, target) = self.names_of(&row.manifest, target)?;
        let (repo_digests, repo_tags) = references.into_iter().partition(|reference| reference.digest().is_some());
        Ok(Image {
            id: row.config,
            manifest: row.manifest,
            media_type: row.media_type,
            target,
            config,
            layers,
            size: row.size.unwrap_or(blobs_size),
            added_ns: row.added_ns,
            repo_tags,
            repo_digests,
        })
    }

    /// What points to an image, by itself or through an index, and which of these documents stands for it.
    fn names_of(&self, manifest: &Digest, target: Option<&Digest>) -> Result<(Vec<Reference>, Digest)> {
        let mut references = self.database().references_of(manifest)?;
        let parents = self.database().parents(manifest)?;
        for parent in &parents {
            references.extend(self.database().references_of(&parent.digest)?);
        }
        references.sort();
        references.dedup();
        let target = match target {
            Some(target) if target != manifest => *target,
            _ => match parents.first() {
                Some(parent) if self.database().references_of(manifest)?.is_empty() => parent.digest,
                _ => *manifest,
            },
        };
        Ok((references, target))
    }

    /// The original bytes of an image's configuration.
    pub fn config_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        blob::read(self.disk(), &image.id, CONFIG_SIZE_BYTES_MAX)
    }

    /// The original bytes of an image's manifest.
    pub fn manifest_bytes(&self, image: &Image) -> Result<Vec<u8>> {
        blob::read(self.disk(), &image.manifest, MANIFEST_SIZE_BYTES_MAX)
    }
}
