//! `corten pull`, and the pull before `run` and `create`.

use corten_engine::store::Store;
use corten_engine::store::import::platform;
use corten_registry::client::{Access, Client, Platforms, Policy, PullRequest};
use corten_types::{Error, ErrorKind, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::{Output, Progress};
use crate::registries;

/// Pulls an image or every tag of a repository.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let name = &parsed.operands[0];
    let progress = Progress::new(parsed, Output::Out)?;
    let platforms = platforms(parsed)?;
    let named = Reference::parse_name(name).map_err(|error| error.context("invalid reference format"))?;
    let bare = named.tag().is_none() && named.digest().is_none();
    let all_tags = parsed.is_on("all-tags");
    if all_tags && !bare {
        return Err(Error::invalid("tag can't be used with --all-tags/-a").into());
    }
    if bare && !all_tags {
        progress.line("Using default tag: latest")?;
    }
    let engine = context.engine()?;
    let client = registries::client(context.environment, parsed)?;
    let policy = registries::policy(context.environment)?;
    let puller =
        Puller { client: &client, store: engine.store(), policy: &policy, platforms: &platforms, progress: &progress };
    let pulled = if all_tags { puller.all_tags(name)? } else { puller.one(name)? };
    engine.do_chores_in_background()?;
    if progress.is_quiet() || !all_tags {
        context.print(&format!("{pulled}\n"))?;
    }
    Ok(0)
}

fn platforms(parsed: &Parsed) -> Result<Platforms> {
    let one = parsed.last("platform").filter(|text| !text.is_empty());
    match (one, parsed.is_on("all-platforms")) {
        (Some(_), true) => Err(Error::invalid("`--platform` and `--all-platforms` exclude each other")),
        (Some(text), false) => Ok(Platforms::One(platform::parse(text)?)),
        (None, true) => Ok(Platforms::All),
        (None, false) => Ok(Platforms::ThisMachine),
    }
}

/// Pulls the image of a container that is about to be made, where `--pull` says so; its name in full.
pub(crate) fn before_run(context: &mut Context<'_>, parsed: &Parsed, store: &Store, name: &str) -> Result<()> {
    let wanted = parsed.last("platform").filter(|text| !text.is_empty()).map(platform::parse).transpose()?;
    let always = match parsed.last("pull").unwrap_or("missing") {
        "never" => return Ok(()),
        "always" => true,
        _ => false,
    };
    // An identifier is nothing that a registry knows.
    let reference = match Reference::parse(name) {
        Ok(reference) => reference,
        Err(_) => return Ok(()),
    };
    if !always {
        match store.resolve_platform(name, wanted.as_ref()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ => return Ok(()),
        }
        if !parsed.is_on("quiet") {
            context.warn(&format!("Unable to find image '{}' locally", reference.familiar()));
        }
    }
    let progress = if parsed.is_on("quiet") { Progress::quiet() } else { Progress::new(parsed, Output::Err)? };
    let client = registries::client(context.environment, parsed)?;
    let policy = registries::policy(context.environment)?;
    let platforms = wanted.map_or(Platforms::ThisMachine, Platforms::One);
    let puller = Puller { client: &client, store, policy: &policy, platforms: &platforms, progress: &progress };
    let pulled = puller.one(name)?;
    // An alias or a searched registry: the short name is what the user goes on using.
    if pulled != reference.to_string() && reference.digest().is_none() {
        store.tag(&store.target(&pulled)?.digest, &reference)?;
    }
    Ok(())
}

struct Puller<'p> {
    client: &'p Client,
    store: &'p Store,
    policy: &'p Policy,
    platforms: &'p Platforms,
    progress: &'p Progress,
}

impl Puller<'_> {
    /// The first of what `name` may mean that there is; it in full.
    fn one(&self, name: &str) -> Result<String> {
        let mut missing = None;
        for reference in self.client.options().registries.candidates(name)? {
            match self.pull(&reference) {
                Ok(()) => return Ok(reference.to_string()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    missing.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(missing.unwrap_or_else(|| Error::invalid(format!("`{name}` means nothing"))))
    }

    fn pull(&self, reference: &Reference) -> Result<()> {
        let what = reference.tag().map(str::to_owned).or_else(|| reference.digest().map(ToString::to_string));
        self.progress.line_of(&what.unwrap_or_default(), &format!("Pulling from {}", shown_path(reference)))?;
        let request = PullRequest {
            reference,
            platforms: self.platforms,
            policy: self.policy,
            watch: &|digest, step| self.progress.step(digest, step),
        };
        let pulled = self.client.pull(self.store, &request);
        self.progress.finish();
        let pulled = pulled.map_err(|error| in_docker_s_words(error, reference))?;
        self.progress.line(&format!("Digest: {}", pulled.digest))?;
        let status = if pulled.up_to_date { "Image is up to date" } else { "Downloaded newer image" };
        self.progress.line(&format!("Status: {status} for {}", reference.familiar()))
    }

    fn all_tags(&self, name: &str) -> Result<String> {
        let reference = Reference::parse_name(name)?;
        let tagged = reference.with_tag("latest")?;
        let tags = self.client.first_of(&tagged, Access::Read, |session| session.tags())?;
        if tags.is_empty() {
            let message = format!("repository `{}` has no tags", reference.familiar_repository());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        for tag in tags {
            self.pull(&reference.with_tag(&tag)?)?;
        }
        Ok(reference.repository())
    }
}

/// `library/debian` of Docker Hub, `team/app` of others.
fn shown_path(reference: &Reference) -> String {
    reference.path().to_owned()
}

/// What a registry that hides its repositories may have meant.
fn in_docker_s_words(error: Error, reference: &Reference) -> Error {
    if error.kind() != ErrorKind::Denied || !error.hints().is_empty() {
        return error;
    }
    let registry = reference.domain();
    let login = if registry == "docker.io" { String::new() } else { format!(" {registry}") };
    error.hint(format!("the repository may not exist, or may require a login: `corten login{login}`"))
}
