//! OCI layouts, whether a directory or in an archive.

use corten_types::image_spec::{
    CONFIG_SIZE_BYTES_MAX, Descriptor, Document, ImageConfig, Index, MANIFEST_SIZE_BYTES_MAX, Manifest, Platform,
    layer_compression, media_type,
};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use serde::Deserialize;

use super::{Content, Files, Imported, ImportedIndex, ImportedPart, Want, blob_path, platform};
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
        Want::All(platform) => all(files, &index, platform),
        Want::One(name) => {
            let descriptor = one(&index, name)?;
            let mut imported = image(files, descriptor, None)?.ok_or_else(|| no_platform(&index.manifests, None))?;
            // One image for this machine is wanted, not all that stands beside it.
            imported.index = None;
            Ok(vec![imported])
        }
    }
}

fn all(files: &mut dyn Files, index: &Index, wanted: Option<&Platform>) -> Result<Vec<Imported>> {
    let mut found: Vec<(Digest, Imported)> = Vec::new();
    for descriptor in &index.manifests {
        let name = reference(descriptor)?;
        // One entry for each name of an image.
        if let Some((_, known)) = found.iter_mut().find(|(digest, _)| *digest == descriptor.digest) {
            known.references.extend(name);
            continue;
        }
        let Some(mut imported) = image(files, descriptor, Some(wanted))? else { continue };
        imported.references = name.into_iter().collect();
        found.push((descriptor.digest, imported));
    }
    if found.is_empty() {
        return Err(match wanted {
            Some(_) => no_platform(&index.manifests, wanted),
            None => Error::new(ErrorKind::NotFound, "the layout holds no image"),
        });
    }
    Ok(found.into_iter().map(|(_, imported)| imported).collect())
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
                platform::select(several, None).ok_or_else(|| no_platform(several, None))
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

fn no_platform(manifests: &[Descriptor], wanted: Option<&Platform>) -> Error {
    let known: Vec<String> =
        manifests.iter().filter_map(|descriptor| descriptor.platform.as_ref()).map(platform::text).collect();
    let wanted = wanted.map_or_else(|| format!("linux/{}", platform::this_machine()), platform::text);
    let error = Error::new(ErrorKind::NotFound, format!("there is no image for {wanted}"));
    if known.is_empty() { error } else { error.hint(format!("there are images for: {}", known.join(", "))) }
}

/// The image of a descriptor: itself, or an index with those of its images that are there. `all` asks for all of them
/// (and may name the platform that must be among them); without it only the one for this machine counts.
fn image(files: &mut dyn Files, descriptor: &Descriptor, all: Option<Option<&Platform>>) -> Result<Option<Imported>> {
    let named = || format!("cannot read manifest {}", descriptor.digest);
    let bytes = small(files, descriptor, MANIFEST_SIZE_BYTES_MAX).context(named)?;
    let index = match Document::parse(&bytes, Some(&descriptor.media_type)).context(named)? {
        Document::Manifest(document) => {
            let imported = imported(files, bytes, &descriptor.media_type, &document).context(named)?;
            return match all.flatten() {
                Some(wanted) if !is_for(&imported, wanted)? => Ok(None),
                _ => Ok(Some(imported)),
            };
        }
        Document::Index(index) => index,
    };
    let mut nested = Vec::new();
    let leaves = leaves(files, &index, &mut nested, INDEX_DEPTH_MAX)?;
    let wanted = all.flatten();
    let chosen = match (platform::select(&leaves, wanted), all) {
        (Some(chosen), _) => chosen,
        // Nothing for this machine, but something to keep: what is foreign can be copied and pushed.
        (None, Some(None)) => match first_image(files, &leaves)? {
            Some(first) => first,
            None => return Err(no_platform(&leaves, None)),
        },
        (None, _) => return Err(no_platform(&leaves, wanted)),
    };
    let manifest = small(files, chosen, MANIFEST_SIZE_BYTES_MAX).context(named)?;
    let Document::Manifest(document) = Document::parse(&manifest, Some(&chosen.media_type)).context(named)? else {
        return Err(Error::new(ErrorKind::Internal, "an index among the leaves of an index"));
    };
    let mut primary = imported(files, manifest, &chosen.media_type, &document).context(named)?;
    let mut others = Vec::new();
    for leaf in leaves.iter().filter(|leaf| all == Some(None) && leaf.digest != chosen.digest) {
        others.extend(part(files, leaf).context(|| format!("cannot read manifest {}", leaf.digest))?);
    }
    primary.index = Some(ImportedIndex { bytes, media_type: descriptor.media_type.clone(), nested, others });
    Ok(Some(primary))
}

fn is_for(imported: &Imported, wanted: &Platform) -> Result<bool> {
    let config = ImageConfig::parse(&imported.config)?;
    Ok(platform::best(std::iter::once((&config.platform, ())), Some(wanted)).is_some())
}

/// The manifests of an index and of the indexes within, whose bytes go to `nested`.
fn leaves(
    files: &mut dyn Files,
    index: &Index,
    nested: &mut Vec<(Vec<u8>, String)>,
    depth: u32,
) -> Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    for descriptor in &index.manifests {
        if !matches!(descriptor.media_type.as_str(), media_type::INDEX | media_type::DOCKER_LIST) {
            found.push(descriptor.clone());
            continue;
        }
        if depth == 0 {
            let message = format!("indexes lie deeper than {INDEX_DEPTH_MAX} in each other");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        if files.read(&blob_path(&descriptor.digest), MANIFEST_SIZE_BYTES_MAX)?.is_none() {
            continue;
        }
        let bytes = small(files, descriptor, MANIFEST_SIZE_BYTES_MAX)?;
        if let Document::Index(within) = Document::parse(&bytes, Some(&descriptor.media_type))? {
            found.extend(leaves(files, &within, nested, depth - 1)?);
        }
        nested.push((bytes, descriptor.media_type.clone()));
    }
    Ok(found)
}

/// The first of `leaves` that is an image and is there.
fn first_image<'l>(files: &mut dyn Files, leaves: &'l [Descriptor]) -> Result<Option<&'l Descriptor>> {
    for leaf in leaves {
        let Some(bytes) = files.read(&blob_path(&leaf.digest), MANIFEST_SIZE_BYTES_MAX)? else { continue };
        if let Document::Manifest(manifest) = Document::parse(&bytes, Some(&leaf.media_type))?
            && crate::add::is_image(&manifest)
            && files.read(&blob_path(&manifest.config.digest), CONFIG_SIZE_BYTES_MAX)?.is_some()
        {
            return Ok(Some(leaf));
        }
    }
    Ok(None)
}

/// What stands beside the chosen image of an index: another platform, or an attestation. `None` where it is not there,
/// or not whole: archives often hold one platform alone.
fn part(files: &mut dyn Files, descriptor: &Descriptor) -> Result<Option<ImportedPart>> {
    if files.read(&blob_path(&descriptor.digest), MANIFEST_SIZE_BYTES_MAX)?.is_none() {
        return Ok(None);
    }
    let bytes = small(files, descriptor, MANIFEST_SIZE_BYTES_MAX)?;
    let Document::Manifest(document) = Document::parse(&bytes, Some(&descriptor.media_type))? else {
        return Ok(None);
    };
    let mut contents = Vec::with_capacity(document.layers.len() + 1);
    for blob in std::iter::once(&document.config).chain(&document.layers) {
        let Some(content) = files.content(&blob_path(&blob.digest), blob.digest.algorithm())? else {
            return Ok(None);
        };
        contents.push((blob.clone(), verified(content, blob)?));
    }
    Ok(Some(ImportedPart { bytes, media_type: descriptor.media_type.clone(), contents }))
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
        index: None,
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
