//! Layers that came plain, compressed: what a push sends where that is asked for, and what Corten's own layers become.
//!
//! What came compressed stays as it came: its digest is what others know it by.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use corten_types::digest::Algorithm;
use corten_types::image_spec::{Compression, Descriptor, Document, Index, Manifest, layer_compression, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Result};

use crate::add::is_image;
use crate::blob::{self, FileReader, Ingest, Staged, digest_of};
use crate::disk::{Disk, storing};
use crate::lease::Lease;
use crate::store::Store;

/// Bytes that are compressed at a time.
const BUFFER_SIZE: usize = 256 * 1024;
/// Indexes within indexes that are followed.
const DEPTH_MAX: usize = 4;

/// How plain layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// gzip, level 1 (fast) to 9 (small).
    Gzip(u32),
    /// Zstandard, level 1 (fast) to 20 (small).
    Zstd(i32),
}

impl Compress {
    /// From podman's words for `--compression-format` and `--compression-level`.
    pub fn parse(format: &str, level: Option<&str>) -> Result<Self> {
        let level = |range: std::ops::RangeInclusive<i32>, default: i32| match level {
            None => Ok(default),
            Some(text) => text.parse::<i32>().ok().filter(|level| range.contains(level)).ok_or_else(|| {
                let (first, last) = (range.start(), range.end());
                Error::invalid(format!("`{}` is no level of {format}: {first} to {last}", text.escape_debug()))
            }),
        };
        match format {
            "gzip" => Ok(Self::Gzip(level(1..=9, 6)?.unsigned_abs())),
            "zstd" => Ok(Self::Zstd(level(1..=20, 3)?)),
            "zstd:chunked" => {
                Err(Error::new(ErrorKind::Unsupported, "layers in the form zstd:chunked are not written")
                    .hint("`zstd` is read by all that read zstd:chunked"))
            }
            _ => Err(Error::invalid(format!("`{}` is no form of compression", format.escape_debug()))
                .hint("the forms are `gzip` and `zstd`")),
        }
    }

    fn compression(self) -> Compression {
        match self {
            Self::Gzip(_) => Compression::Gzip,
            Self::Zstd(_) => Compression::Zstd,
        }
    }

    /// All of `input`, compressed into a blob that waits for its name.
    pub(crate) fn encode(self, disk: &Disk, input: &mut impl BufRead) -> Result<Staged> {
        let mut ingest = Ingest::new(disk, Algorithm::Sha256)?;
        let out = std::io::BufWriter::with_capacity(BUFFER_SIZE, &mut ingest);
        match self {
            Self::Gzip(level) => {
                let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(level));
                copy(input, &mut encoder)?;
                encoder.finish().and_then(|mut out| out.flush()).map_err(writing)?;
            }
            Self::Zstd(level) => {
                let mut encoder = zstd::stream::write::Encoder::new(out, level).map_err(writing)?;
                encoder.include_checksum(true).map_err(writing)?;
                copy(input, &mut encoder)?;
                encoder.finish().and_then(|mut out| out.flush()).map_err(writing)?;
            }
        }
        ingest.finish()
    }
}

fn writing(error: std::io::Error) -> Error {
    storing(error.into(), "a blob")
}

fn copy(input: &mut impl BufRead, out: &mut impl Write) -> Result<()> {
    loop {
        let count = match input.fill_buf() {
            Ok([]) => return Ok(()),
            Ok(bytes) => {
                out.write_all(bytes).map_err(writing)?;
                bytes.len()
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(Error::from)),
        };
        input.consume(count);
    }
}

impl Store {
    /// A manifest or an index as one whose plain layers are compressed: its digest and media type. Blobs and documents of
    /// it are here as long as `lease` is, and named by no image. Where nothing was plain it is what it was.
    pub fn compressed(
        &self,
        lease: &Lease,
        digest: &Digest,
        media_type: &str,
        compress: Compress,
    ) -> Result<(Digest, String)> {
        Compressing { store: self, lease, compress }
            .document(digest, media_type, 0)
            .context(|| format!("cannot compress the layers of {digest}"))
    }
}

struct Compressing<'a> {
    store: &'a Store,
    lease: &'a Lease,
    compress: Compress,
}

impl Compressing<'_> {
    fn document(&self, digest: &Digest, media_type: &str, depth: usize) -> Result<(Digest, String)> {
        if depth >= DEPTH_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("indexes lie more than {DEPTH_MAX} deep")));
        }
        let unchanged = || Ok((*digest, media_type.to_owned()));
        let bytes = self.store.document_bytes(digest)?;
        match Document::parse(&bytes, Some(media_type))? {
            Document::Manifest(manifest) if is_image(&manifest) => match self.manifest(*manifest)? {
                Some(manifest) => {
                    let media_type = manifest.media_type.clone().unwrap_or_else(|| media_type.to_owned());
                    Ok((self.put(&manifest)?, media_type))
                }
                None => unchanged(),
            },
            Document::Manifest(_) => unchanged(),
            Document::Index(index) => match self.index(index, depth)? {
                Some(index) => Ok((self.put(&index)?, media_type.to_owned())),
                None => unchanged(),
            },
        }
    }

    fn put(&self, document: &impl serde::Serialize) -> Result<Digest> {
        let bytes =
            serde_json::to_vec(document).map_err(|error| Error::invalid("cannot write a manifest").caused_by(error))?;
        let digest = digest_of(Algorithm::Sha256, &bytes)?;
        self.store.put_blob(self.lease, &digest, &bytes)?;
        Ok(digest)
    }

    fn index(&self, mut index: Index, depth: usize) -> Result<Option<Index>> {
        let mut changed = false;
        for entry in &mut index.manifests {
            // A platform that is not here goes as it is: whoever sends it says what is missing.
            if !self.store.has_blob(&entry.digest)? {
                continue;
            }
            let (digest, media_type) = self.document(&entry.digest, &entry.media_type, depth + 1)?;
            if digest != entry.digest {
                entry.size = blob::size(self.store.disk(), &digest)?.unwrap_or(0);
                (entry.digest, entry.media_type, changed) = (digest, media_type, true);
            }
        }
        Ok(changed.then_some(index))
    }

    fn manifest(&self, mut manifest: Manifest) -> Result<Option<Manifest>> {
        let mut plain: Vec<Digest> = Vec::new();
        for layer in &manifest.layers {
            if layer_compression(&layer.media_type)? == Compression::None && !plain.contains(&layer.digest) {
                plain.push(layer.digest);
            }
        }
        if plain.is_empty() {
            return Ok(None);
        }
        let made = self.layers(&plain)?;
        for layer in &mut manifest.layers {
            if let Some((digest, size)) = made.get(&layer.digest) {
                (layer.digest, layer.size) = (*digest, *size);
                layer.media_type = compressed_type(&layer.media_type, self.compress);
            }
        }
        // Docker's own form of a manifest has no layers in zstd: it becomes OCI's.
        if self.compress.compression() == Compression::Zstd {
            manifest.media_type = Some(media_type::MANIFEST.to_owned());
            manifest.config.media_type = media_type::CONFIG.to_owned();
            for layer in &mut manifest.layers {
                layer.media_type = oci_type(layer)?.to_owned();
            }
        }
        Ok(Some(manifest))
    }

    /// Every layer compressed, several beside each other: digest and size of what it became.
    fn layers(&self, plain: &[Digest]) -> Result<BTreeMap<Digest, (Digest, u64)>> {
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Ok(BTreeMap::new())));
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(plain.len()));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(digest) = plain.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let result = self.layer(digest);
                        let mut made = made.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut *made, result) {
                            (Ok(made), Ok(new)) => drop(made.insert(*digest, new)),
                            (Ok(_), Err(error)) => {
                                *made = Err(error);
                                return;
                            }
                            (Err(_), _) => return,
                        }
                    }
                });
            }
        });
        made.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn layer(&self, digest: &Digest) -> Result<(Digest, u64)> {
        let file: Arc<File> = Arc::new(self.store.open_blob(digest)?);
        let mut checked = Checked { reader: FileReader::new(file), hasher: blob::Hasher::new(digest.algorithm()) };
        let mut input = BufReader::with_capacity(BUFFER_SIZE, &mut checked);
        let staged = self.compress.encode(self.store.disk(), &mut input)?;
        let found = checked.hasher.finish()?;
        if found != *digest {
            return Err(Error::new(ErrorKind::Corrupt, format!("blob {digest} is damaged: its content is {found}"))
                .hint("load or pull the image again"));
        }
        let made = staged.digest();
        staged.commit(self.lease, &made)?;
        Ok((made, staged.size()))
    }
}

/// A reader that hashes: damage is never sealed under a new digest.
struct Checked {
    reader: FileReader,
    hasher: blob::Hasher,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

/// The media type of a plain layer's compressed form, docker's or OCI's as it was.
fn compressed_type(plain: &str, compress: Compress) -> String {
    match compress {
        Compress::Gzip(_) if plain == media_type::DOCKER_LAYER => media_type::DOCKER_LAYER_GZIP.to_owned(),
        Compress::Gzip(_) => format!("{plain}+gzip"),
        Compress::Zstd(_) => media_type::LAYER_ZSTD.to_owned(),
    }
}

fn oci_type(layer: &Descriptor) -> Result<&'static str> {
    Ok(match layer_compression(&layer.media_type)? {
        Compression::None => media_type::LAYER,
        Compression::Gzip => media_type::LAYER_GZIP,
        Compression::Zstd => media_type::LAYER_ZSTD,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_levels_are_podmans() {
        assert_eq!(Compress::parse("gzip", None).unwrap(), Compress::Gzip(6));
        assert_eq!(Compress::parse("zstd", Some("20")).unwrap(), Compress::Zstd(20));
        for (format, level) in [("gzip", "0"), ("gzip", "10"), ("zstd", "21"), ("gzip", "x"), ("xz", "1")] {
            assert!(Compress::parse(format, Some(level)).is_err(), "{format} {level}");
        }
        assert_eq!(Compress::parse("zstd:chunked", None).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(compressed_type(media_type::DOCKER_LAYER, Compress::Gzip(6)), media_type::DOCKER_LAYER_GZIP);
        assert_eq!(compressed_type(media_type::LAYER, Compress::Gzip(6)), media_type::LAYER_GZIP);
    }
}
