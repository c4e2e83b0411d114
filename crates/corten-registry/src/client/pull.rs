//! From a registry into the store.
//!
//! A manifest names its parts by digest; what arrives is hashed while it is written, and gets a name in the store only
//! where it is what was announced. Layers come beside each other, and are unpacked while they come. One that several
//! processes want at once is fetched once; one that broke off is continued.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use corten_store::import::platform;
use corten_store::{Incoming, NewImageRequest, RawDocument, Receiver, Store, Target, Turn, Unpack};
use corten_types::digest::Algorithm;
use corten_types::image_spec::{CONFIG_SIZE_BYTES_MAX, Descriptor, Document, Manifest, Platform};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};

use super::Client;
use super::manifests::Fetched;
use super::policy::Policy;
use super::progress::{Step, Watch};
use super::session::{Access, Session};
use super::url::shown;

/// Layers that come at once: docker's number.
const LAYERS_AT_ONCE: usize = 3;
/// Indexes within indexes that are followed.
const DEPTH_MAX: usize = 4;
/// Most manifests of one index that are pulled.
const MEMBERS_MAX: usize = 256;

/// Which images of an index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Platforms {
    /// This machine's.
    #[default]
    ThisMachine,
    /// One.
    One(Platform),
    /// All.
    All,
}

/// What [`Client::pull`] brings in.
#[derive(Clone, Copy)]
pub struct PullRequest<'a> {
    /// What is wanted, by tag or digest.
    pub reference: &'a Reference,
    /// For which platforms.
    pub platforms: &'a Platforms,
    /// What must be signed.
    pub policy: &'a Policy,
    /// Hears of the layers.
    pub watch: Watch<'a>,
}

/// What a pull did.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// What the name points to now.
    pub digest: Digest,
    /// The name pointed there before, and all of it was here.
    pub up_to_date: bool,
}

impl Client {
    /// Brings in an image and points its name to it.
    pub fn pull(&self, store: &Store, request: &PullRequest<'_>) -> Result<Pulled> {
        let reference = request.reference;
        self.first_of(reference, Access::Read, |session| Pull { session, store, request }.run())
            .context(|| format!("cannot pull `{}`", reference.familiar()))
    }
}

struct Pull<'p> {
    session: &'p Session<'p>,
    store: &'p Store,
    request: &'p PullRequest<'p>,
}

/// A manifest or an index, and whether its layers are for here.
struct Member {
    fetched: Fetched,
    /// Its layers, where it is an image.
    manifest: Option<Box<Manifest>>,
}

impl Pull<'_> {
    fn run(&self) -> Result<Pulled> {
        let reference = self.request.reference;
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        // Only what is here already can be up to date; and a HEAD counts for no limit of Docker Hub's.
        if let Some(known) = self.known(reference)? {
            let remote = match reference.digest() {
                Some(digest) => Some(*digest),
                None => self.session.resolve(&name)?.map(|descriptor| descriptor.digest),
            };
            if remote == Some(known) && self.is_whole(&known) {
                self.request.policy.check(self.session, reference, &known)?;
                return Ok(Pulled { digest: known, up_to_date: true });
            }
        }
        let target = self.session.manifest(&name)?;
        self.request.policy.check(self.session, reference, &target.digest)?;
        let (target, members) = self.members(target)?;
        let digest = target.fetched.digest;
        self.store
            .receive(&format!("pull {}", reference.familiar()), |receiver| self.receive(receiver, &target, &members))?;
        Ok(Pulled { digest, up_to_date: false })
    }

    /// What the name points to here.
    fn known(&self, reference: &Reference) -> Result<Option<Digest>> {
        match self.store.target(&reference.to_string()) {
            Ok(Target { digest, references, .. }) => Ok(references.contains(reference).then_some(digest)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether everything that is wanted of a target is here, and unpacked where it is to be run.
    fn is_whole(&self, digest: &Digest) -> bool {
        let name = digest.to_string();
        match self.request.platforms {
            Platforms::ThisMachine => self.store.resolve_platform(&name, None).is_ok(),
            Platforms::One(platform) => self.store.resolve_platform(&name, Some(platform)).is_ok(),
            Platforms::All => {
                let Ok(bytes) = self.store.document_bytes(digest) else { return false };
                match Document::parse(&bytes, None) {
                    Ok(Document::Index(index)) => {
                        index.manifests.iter().all(|member| self.store.document_bytes(&member.digest).is_ok())
                    }
                    Ok(Document::Manifest(_)) => true,
                    Err(_) => false,
                }
            }
        }
    }

    /// The target, and those members of an index that are wanted.
    fn members(&self, target: Fetched) -> Result<(Member, Vec<Member>)> {
        let target = self.parsed(target)?;
        if let Some(manifest) = &target.manifest {
            self.check_platform(manifest)?;
            return Ok((target, Vec::new()));
        }
        let mut members = Vec::new();
        self.collect(&target.fetched, &mut members, 0)?;
        Ok((target, members))
    }

    fn parsed(&self, fetched: Fetched) -> Result<Member> {
        match Document::parse(&fetched.bytes, Some(&fetched.media_type))? {
            Document::Manifest(manifest) => Ok(Member { fetched, manifest: Some(manifest) }),
            Document::Index(_) => Ok(Member { fetched, manifest: None }),
        }
    }

    fn collect(&self, index: &Fetched, members: &mut Vec<Member>, depth: usize) -> Result<()> {
        if depth >= DEPTH_MAX {
            return Err(Error::new(ErrorKind::Exhausted, format!("indexes lie more than {DEPTH_MAX} deep")));
        }
        let Document::Index(index) = Document::parse(&index.bytes, Some(&index.media_type))? else { return Ok(()) };
        let wanted: Vec<&Descriptor> = match self.request.platforms {
            Platforms::All => index.manifests.iter().collect(),
            Platforms::ThisMachine => platform::select(&index.manifests, None).into_iter().collect(),
            Platforms::One(wanted) => platform::select(&index.manifests, Some(wanted)).into_iter().collect(),
        };
        if wanted.is_empty() {
            return Err(self.no_match(&index.manifests));
        }
        if wanted.len() + members.len() > MEMBERS_MAX {
            let message = format!("the index has more than {MEMBERS_MAX} manifests");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        for descriptor in wanted {
            let fetched = self.session.manifest(&descriptor.digest.to_string())?;
            if fetched.bytes.len() as u64 != descriptor.size {
                let (digest, said, came) = (descriptor.digest, descriptor.size, fetched.bytes.len());
                let message = format!("manifest {digest} has {came} bytes, the index says {said}");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            if !fetched.media_type.is_empty() && fetched.media_type != descriptor.media_type {
                let (said, came) = (shown(&descriptor.media_type), shown(&fetched.media_type));
                return Err(Error::invalid(format!(
                    "manifest {} is `{came}`, the index says `{said}`",
                    descriptor.digest
                )));
            }
            let member = self.parsed(Fetched { media_type: descriptor.media_type.clone(), ..fetched })?;
            if member.manifest.is_none() {
                self.collect(&member.fetched, members, depth + 1)?;
            }
            members.push(member);
        }
        Ok(())
    }

    fn no_match(&self, manifests: &[Descriptor]) -> Error {
        let wanted = match self.request.platforms {
            Platforms::One(platform) => platform::text(platform),
            _ => format!("linux/{}", platform::this_machine()),
        };
        let known: Vec<String> = manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref())
            .map(platform::text)
            .take(20)
            .collect();
        let message = format!("no matching manifest for {wanted} in the manifest list entries");
        let error = Error::new(ErrorKind::NotFound, message);
        if known.is_empty() {
            error
        } else {
            error.hint(format!("there are: {}; choose with `--platform`", known.join(", ")))
        }
    }

    /// A manifest of its own says only in its configuration what machine it is for.
    fn check_platform(&self, manifest: &Manifest) -> Result<()> {
        let Platforms::One(wanted) = self.request.platforms else { return Ok(()) };
        if !is_image(manifest) {
            return Ok(());
        }
        let config = self.session.small_blob(&manifest.config, CONFIG_SIZE_BYTES_MAX, "image configuration")?;
        let config = corten_types::image_spec::ImageConfig::parse(&config)?;
        let described = Descriptor { platform: Some(config.platform.clone()), ..manifest.config.clone() };
        match platform::select(std::slice::from_ref(&described), Some(wanted)) {
            Some(_) => Ok(()),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("the image is for {}, not for {}", platform::text(&config.platform), platform::text(wanted)),
            )),
        }
    }

    fn receive(&self, receiver: &Receiver<'_>, target: &Member, members: &[Member]) -> Result<()> {
        let manifests: Vec<&Manifest> =
            members.iter().chain([target]).filter_map(|member| member.manifest.as_deref()).collect();
        // Layers of one machine are unpacked while they come; of all machines nobody will run most.
        let unpack =
            if *self.request.platforms == Platforms::All && members.len() > 1 { Unpack::Later } else { Unpack::Now };
        let mut layers: Vec<(&Descriptor, bool)> = Vec::new();
        for manifest in &manifests {
            let runs = unpack == Unpack::Now && is_image(manifest);
            for layer in &manifest.layers {
                if !layers.iter().any(|(known, _)| known.digest == layer.digest) {
                    layers.push((layer, runs));
                }
            }
        }
        for (layer, _) in &layers {
            (self.request.watch)(&layer.digest, Step::Waiting);
        }
        self.receive_all(receiver, &manifests, &layers)?;
        let raw = |member: &Member| -> (Vec<u8>, String, Algorithm) {
            let fetched = &member.fetched;
            (fetched.bytes.clone(), fetched.media_type.clone(), fetched.digest.algorithm())
        };
        let owned: Vec<_> = members.iter().map(raw).collect();
        let documents: Vec<RawDocument<'_>> = owned
            .iter()
            .map(|(bytes, media_type, algorithm)| RawDocument { bytes, media_type, algorithm: *algorithm })
            .collect();
        let mut references = vec![self.request.reference.with_digest(target.fetched.digest)];
        if self.request.reference.digest().is_none() {
            references.push(self.request.reference.clone());
        }
        receiver.commit(&NewImageRequest {
            target: RawDocument {
                bytes: &target.fetched.bytes,
                media_type: &target.fetched.media_type,
                algorithm: target.fetched.digest.algorithm(),
            },
            members: &documents,
            references: &references,
            unpack,
            attached: false,
            cause: "pull",
        })?;
        for (layer, _) in &layers {
            (self.request.watch)(&layer.digest, Step::Complete);
        }
        Ok(())
    }

    /// Configurations and layers, several at once; the first failure ends the others.
    fn receive_all(
        &self,
        receiver: &Receiver<'_>,
        manifests: &[&Manifest],
        layers: &[(&Descriptor, bool)],
    ) -> Result<()> {
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let failure = Mutex::new(None);
        let fail = |error: Error| {
            failed.store(true, Ordering::Relaxed);
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        };
        std::thread::scope(|scope| {
            for _ in 0..LAYERS_AT_ONCE.min(layers.len()) {
                scope.spawn(|| {
                    while let Some((layer, runs)) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if failed.load(Ordering::Relaxed) {
                            return;
                        }
                        let result = self.layer(receiver, layer, *runs, &failed);
                        if let Err(error) = result.context(|| format!("cannot pull layer {}", layer.digest.short())) {
                            fail(error);
                        }
                    }
                });
            }
            for manifest in manifests {
                if let Err(error) = self.config(receiver, manifest) {
                    fail(error);
                }
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn config(&self, receiver: &Receiver<'_>, manifest: &Manifest) -> Result<()> {
        if receiver.lease().keep(&manifest.config.digest)? {
            return Ok(());
        }
        // An artifact's configuration is `{}` or a blob like others.
        let config = self.session.small_blob(&manifest.config, CONFIG_SIZE_BYTES_MAX, "image configuration")?;
        receiver.put(&manifest.config.digest, &config)
    }

    fn layer(&self, receiver: &Receiver<'_>, layer: &Descriptor, runs: bool, failed: &AtomicBool) -> Result<()> {
        let mut resumed_wrong = false;
        loop {
            let turn = if runs { receiver.layer(layer)? } else { receiver.blob(layer)? };
            let Turn::Fetch(incoming) = turn else {
                (self.request.watch)(&layer.digest, Step::Exists);
                return Ok(());
            };
            let start = incoming.offset();
            match self.fetch(layer, incoming, failed) {
                Ok(()) => {
                    (self.request.watch)(&layer.digest, Step::Downloaded);
                    return Ok(());
                }
                // What an earlier run left may have been another server's: once more, from the start.
                Err(error) if error.kind() == ErrorKind::Corrupt && start > 0 && !resumed_wrong => resumed_wrong = true,
                Err(error) => return Err(error),
            }
        }
    }

    fn fetch(&self, layer: &Descriptor, mut incoming: Box<Incoming<'_>>, failed: &AtomicBool) -> Result<()> {
        let total = layer.size;
        (self.request.watch)(&layer.digest, Step::Downloading { current: incoming.offset(), total });
        self.session.transfer(layer, incoming.offset(), &mut |bytes| {
            incoming.append(bytes)?;
            (self.request.watch)(&layer.digest, Step::Downloading { current: incoming.offset(), total });
            // What is here stays for the next time.
            match failed.load(Ordering::Relaxed) {
                true => Err(Error::new(ErrorKind::Conflict, "another layer failed")),
                false => Ok(()),
            }
        })?;
        incoming.finish().map_err(|error| match error.kind() {
            ErrorKind::Corrupt => error.hint("nothing was stored; retry, or try another mirror with `--mirror URL`"),
            _ => error,
        })
    }
}

/// Whether a manifest's layers are a root file system.
pub(crate) fn is_image(manifest: &Manifest) -> bool {
    use corten_types::image_spec::{layer_compression, media_type};
    manifest.artifact_type.is_none()
        && matches!(manifest.config.media_type.as_str(), media_type::CONFIG | media_type::DOCKER_CONFIG)
        && manifest.layers.iter().all(|layer| layer_compression(&layer.media_type).is_ok())
}
