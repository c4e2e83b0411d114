//! OCI layouts, whether a directory or in an archive.

use corten_types::image_spec::{
    CONFIG_SIZE_BYTES_MAX, Descriptor, Document, Index, MANIFEST_SIZE_BYTES_MAX, Manifest, layer_compression,
};
use corten_types::{Context, Error, ErrorKind, Reference, Result};
use serde::Deserialize;

use super::{Content, Files, Imported, Want, blob_path, platform};
use crate::blob::digest_of;

/// Indexes within indexes.
const INDEX_DEPTH_MAX: u32 = 3;
/// The name that docker and containerd give.
const NAME: &str = "io.containerd.image.name";
/// The name or tag that the specification gives.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

pub(super) fn images(files: &mut dyn Files, want: Want<'_>) -> Result<Vec<Imported>> {
    let layout = files.read("oci-layout", 4096)?.unwrap_or_default();
    let layout: Layout = corten_types::runtime_spec::parse_document(&layout, "oci-layout")?;
    if !layout.image_layout_version.starts_with("1.") {
        let message = format!("OCI layout version `{}` is not supported", layout.image_layout_version);
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let index = files.read("index.json", MANIFEST_SIZE_BYTES_MAX)?.unwrap_or_default();
    let Document::Index(index) = Document::parse(&index, None).context(|| "cannot read `index.json`")? else {
        return Err(Error::invalid("`index.json` is no index"));
    };
    match want {
        Want::All => all(files, &index),
        Want::One(name) => {
            let descriptor = one(&index, name)?;
            Ok(vec![image(files, descriptor, INDEX_DEPTH_MAX)??])
        }
    }
}

fn all(files: &mut dyn Files, index: &Index) -> Result<Vec<Imported>> {
    let mut found: Vec<Imported> = Vec::new();
    let mut unfit = Error::new(ErrorKind::NotFound, "the layout holds no image");
    for descriptor in &index.manifests {
        let mut imported = match image(files, descriptor, INDEX_DEPTH_MAX)? {
            Ok(imported) => imported,
            Err(error) => {
                unfit = error;
                continue;
            }
        };
        imported.references = reference(descriptor)?.into_iter().collect();
        let digest = |imported: &Imported| digest_of(imported.config_digest.algorithm(), &imported.manifest);
        let this = digest(&imported)?;
        // One entry for each name of an image.
        match found.iter_mut().find(|known| digest(known).is_ok_and(|known| known == this)) {
            Some(known) => known.references.append(&mut imported.references),
            None => found.push(imported),
        }
    }
    if found.is_empty() {
        return Err(unfit);
    }
    Ok(found)
}

/// The name of an image in `index.json`; a bare tag names nothing.
fn reference(descriptor: &Descriptor) -> Result<Option<Reference>> {
    if let Some(name) = descriptor.annotations.get(NAME) {
        return Reference::parse(name).map(Some);
    }
    match descriptor.annotations.get(REF_NAME) {
        Some(name) if name.contains(['/', ':']) => Reference::parse(name).map(Some),
        _ => Ok(None),
    }
}

fn one<'i>(index: &'i Index, name: Option<&str>) -> Result<&'i Descriptor> {
    let Some(name) = name else {
        return match index.manifests.as_slice() {
            [] => Err(Error::new(ErrorKind::NotFound, "the layout holds no image")),
            [one] => Ok(one),
            // Several entries of platforms are one image; several of names are not.
            several if several.iter().all(|descriptor| !descriptor.annotations.contains_key(REF_NAME)) => {
                platform::select(several, None).ok_or_else(|| no_platform(several))
            }
            several => match several.iter().find(|descriptor| is_named(descriptor, "latest")) {
                Some(latest) => Ok(latest),
                None => Err(Error::invalid("the layout holds several images").hint(format!(
                    "add the tag of one: {}",
                    names(several).map(|name| format!("`:{name}`")).collect::<Vec<_>>().join(", ")
                ))),
            },
        };
    };
    index.manifests.iter().find(|descriptor| is_named(descriptor, name)).ok_or_else(|| {
        let known: Vec<_> = names(&index.manifests).collect();
        Error::new(ErrorKind::NotFound, format!("the layout holds no image `{name}`"))
            .hint(format!("it holds: {}", known.join(", ")))
    })
}

fn is_named(descriptor: &Descriptor, name: &str) -> bool {
    [REF_NAME, NAME].iter().any(|key| descriptor.annotations.get(*key).is_some_and(|known| known == name))
}

fn names(manifests: &[Descriptor]) -> impl Iterator<Item = &str> {
    manifests.iter().filter_map(|descriptor| descriptor.annotations.get(REF_NAME)).map(String::as_str)
}

fn no_platform(manifests: &[Descriptor]) -> Error {
    let known: Vec<String> = manifests
        .iter()
        .filter_map(|descriptor| descriptor.platform.as_ref())
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    let message = format!("there is no image for linux/{}", platform::this_machine());
    let error = Error::new(ErrorKind::NotFound, message);
    if known.is_empty() { error } else { error.hint(format!("there are images for: {}", known.join(", "))) }
}

/// An image, or why none of an index is for this machine, which is no error where another entry is.
type ForThisMachine = Result<Imported, Error>;

/// The image of a descriptor: itself, or within an index the one for this machine.
fn image(files: &mut dyn Files, descriptor: &Descriptor, depth: u32) -> Result<ForThisMachine> {
    let named = || format!("cannot read manifest {}", descriptor.digest);
    let manifest = small(files, descriptor, MANIFEST_SIZE_BYTES_MAX).context(named)?;
    match Document::parse(&manifest, Some(&descriptor.media_type)).context(named)? {
        Document::Manifest(document) => {
            imported(files, manifest, &descriptor.media_type, &document).context(named).map(Ok)
        }
        Document::Index(_) if depth == 0 => {
            Err(Error::new(ErrorKind::Exhausted, format!("indexes lie deeper than {INDEX_DEPTH_MAX} in each other")))
        }
        Document::Index(index) => match platform::select(&index.manifests, None) {
            Some(chosen) => image(files, chosen, depth - 1),
            None => Ok(Err(no_platform(&index.manifests))),
        },
    }
}

fn imported(files: &mut dyn Files, manifest: Vec<u8>, media_type: &str, document: &Manifest) -> Result<Imported> {
    let mut layers = Vec::with_capacity(document.layers.len());
    for (position, layer) in document.layers.iter().enumerate() {
        layer_compression(&layer.media_type).context(|| format!("layer {}", position + 1))?;
    }
    let config = small(files, &document.config, CONFIG_SIZE_BYTES_MAX).context(|| "cannot read the configuration")?;
    for (position, layer) in document.layers.iter().enumerate() {
        let content = files
            .content(&blob_path(&layer.digest), layer.digest.algorithm())?
            .ok_or_else(|| missing(layer))
            .and_then(|content| verified(content, layer))
            .context(|| format!("layer {}", position + 1))?;
        layers.push((layer.clone(), content));
    }
    Ok(Imported {
        manifest,
        media_type: media_type.to_owned(),
        config,
        config_digest: document.config.digest,
        layers,
        references: Vec::new(),
    })
}

fn small(files: &mut dyn Files, descriptor: &Descriptor, size_bytes_max: u64) -> Result<Vec<u8>> {
    if descriptor.size > size_bytes_max {
        let message =
            format!("{} is announced with {} bytes, more than {size_bytes_max}", descriptor.digest, descriptor.size);
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    let bytes = files.read(&blob_path(&descriptor.digest), size_bytes_max)?.ok_or_else(|| missing(descriptor))?;
    let digest = digest_of(descriptor.digest.algorithm(), &bytes)?;
    verified(Content::Bytes(digest, Vec::new()), &Descriptor { size: 0, ..descriptor.clone() })?;
    if bytes.len() as u64 != descriptor.size {
        return Err(wrong_size(descriptor, bytes.len() as u64));
    }
    Ok(bytes)
}

fn verified(content: Content, descriptor: &Descriptor) -> Result<Content> {
    if content.digest() != descriptor.digest {
        let message = format!("expected {}, found {}", descriptor.digest, content.digest());
        return Err(Error::new(ErrorKind::Corrupt, message).hint("the file is damaged; nothing was stored"));
    }
    if content.size() != descriptor.size {
        return Err(wrong_size(descriptor, content.size()));
    }
    Ok(content)
}

fn wrong_size(descriptor: &Descriptor, size: u64) -> Error {
    let message = format!("{} has {size} bytes where its descriptor says {}", descriptor.digest, descriptor.size);
    Error::new(ErrorKind::Corrupt, message)
}

fn missing(descriptor: &Descriptor) -> Error {
    Error::new(ErrorKind::NotFound, format!("blob {} is missing", descriptor.digest))
        .hint("the archive or layout is incomplete: it may hold another platform only")
}
