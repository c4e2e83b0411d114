//! A plain root file system becomes an image of one layer: `import`, and what a squashed image is made of.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Compression, History, ImageConfig, Manifest, RootFs, media_type};
use corten_types::{Error, Reference, Result};

use super::docker::{descriptor, start_of};
use super::unpack::Unpacker;
use super::{Content, Imported, LoadedImage};
use crate::blob::{Ingest, Staged, digest_of};
use crate::compress::Compress;
use crate::disk::Disk;
use crate::layer::decode::{self, Decoder};
use crate::layer::wrapping;
use crate::store::Store;

/// Largest archive, bytes.
const SIZE_BYTES_MAX: u64 = 1 << 40;
const BUFFER_SIZE: usize = 256 * 1024;

/// What [`Store::import_rootfs`] makes of an archive.
#[derive(Debug, Clone)]
pub struct RootfsRequest {
    /// Creation time, author, platform and the container's defaults; its layers and history are made anew.
    pub config: ImageConfig,
    /// How the layer came to be.
    pub step: History,
    /// The image's name.
    pub reference: Option<Reference>,
    /// How its layer is compressed, where it comes plain.
    pub compress: Option<Compress>,
    /// What the reference's history says.
    pub cause: &'static str,
}

/// The archive as the blob that it becomes.
fn staged(disk: &Disk, mut archive: impl Read + Send, compress: Option<Compress>) -> Result<Staged> {
    let mut start = [0; 4];
    let length = decode::read_start(&mut archive, &mut start)?;
    let start = &start[..length];
    let (is_wrapped, compression) = (wrapping::is_wrapped(start), decode::sniff(start));
    let mut input: Box<dyn BufRead + '_> = match is_wrapped {
        true => Box::new(Decoder::of_archive(start.chain(archive), decode::Limits::default())?),
        false => Box::new(BufReader::with_capacity(BUFFER_SIZE, start.chain(archive))),
    };
    match compress.filter(|_| compression == Compression::None) {
        Some(compress) => compress.encode(disk, &mut input),
        None => {
            let mut ingest = Ingest::new(disk, Algorithm::Sha256)?;
            ingest.copy(&mut input, SIZE_BYTES_MAX)?;
            ingest.finish()
        }
    }
}

impl Store {
    /// Stores a tar of a root file system as an image of one layer. What comes in gzip or zstd is kept as it came; what
    /// comes plain, in xz or bzip2, is kept plain or as the request says.
    pub fn import_rootfs(&self, archive: impl Read + Send, request: RootfsRequest) -> Result<LoadedImage> {
        let cause = request.cause;
        let loaded = self.import_with(cause, |unpacker| {
            let staged = Arc::new(staged(self.disk(), archive, request.compress)?);
            unpacker.start(&staged);
            unpacker.sync(&staged);
            self.one_layer(unpacker, Content::Staged(staged), request).map(|image| vec![image])
        })?;
        loaded.into_iter().next().ok_or_else(|| Error::new(corten_types::ErrorKind::Internal, "no image was made"))
    }

    fn one_layer(&self, unpacker: &Unpacker<'_>, content: Content, request: RootfsRequest) -> Result<Imported> {
        let Content::Staged(staged) = &content else {
            return Err(Error::new(corten_types::ErrorKind::Internal, "a root file system was not staged"));
        };
        let diff_id = unpacker.diff_id(&staged.digest, || Ok(Arc::clone(&staged.file)))?;
        let kind = match start_of(&staged.file)? {
            Compression::None => media_type::LAYER,
            Compression::Gzip => media_type::LAYER_GZIP,
            Compression::Zstd => media_type::LAYER_ZSTD,
        };
        let layer = descriptor(kind, staged.digest, staged.size);
        let config = ImageConfig {
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
            history: vec![request.step],
            ..request.config
        };
        let to_json = |error| Error::invalid("cannot write JSON").caused_by(error);
        let config = serde_json::to_vec(&config).map_err(to_json)?;
        let config_digest = digest_of(Algorithm::Sha256, &config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config: descriptor(media_type::CONFIG, config_digest, config.len() as u64),
            layers: vec![layer.clone()],
            subject: None,
            annotations: Default::default(),
        };
        Ok(Imported {
            manifest: serde_json::to_vec(&manifest).map_err(to_json)?,
            media_type: media_type::MANIFEST.to_owned(),
            config,
            config_digest,
            layers: vec![(layer, content)],
            references: request.reference.into_iter().collect(),
            index: None,
        })
    }
}
