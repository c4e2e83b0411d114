//! `corten push`

use std::collections::BTreeSet;

use corten_engine::store::import::platform;
use corten_engine::store::{Compress, Store};
use corten_registry::client::{Client, PushRequest, Step};
use corten_types::image_spec::Platform;
use corten_types::{Error, ErrorKind, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::{Output, Progress};
use crate::registries;

/// Pushes an image, or every tag of a repository.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let name = &parsed.operands[0];
    let progress = Progress::new(parsed, Output::Out)?;
    let platform = parsed.last("platform").filter(|text| !text.is_empty()).map(platform::parse).transpose()?;
    let compress = super::compress(parsed)?;
    let named = Reference::parse_name(name).map_err(|error| error.context("invalid reference format"))?;
    if named.digest().is_some() {
        return Err(Error::invalid("cannot push a digest reference").into());
    }
    let all = parsed.is_on("all-tags");
    if all && named.tag().is_some() {
        return Err(Error::invalid("tag can't be used with --all-tags/-a").into());
    }
    if !all && named.tag().is_none() {
        progress.line("Using default tag: latest")?;
    }
    let engine = context.engine()?;
    let store = engine.store();
    let references = if all { tags_of(store, &named)? } else { vec![Reference::parse(name)?] };
    let client = registries::client(context.environment, parsed)?;
    progress.line(&format!("The push refers to repository [{}]", named.repository()))?;
    for reference in &references {
        push(context, &client, store, reference, (platform.as_ref(), compress), &progress)?;
    }
    if progress.is_quiet() {
        let name = if all { named.repository() } else { references[0].to_string() };
        context.print(&format!("{name}\n"))?;
    }
    Ok(0)
}

fn push(
    context: &mut Context<'_>,
    client: &Client,
    store: &Store,
    reference: &Reference,
    (platform, compress): (Option<&Platform>, Option<Compress>),
    progress: &Progress,
) -> Result<()> {
    let source = reference.to_string();
    let target = store.target(&source);
    if target.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        let message = format!("an image does not exist locally with the tag: {}", reference.familiar_repository());
        return Err(Error::new(ErrorKind::NotFound, message).hint("`corten images` lists what is here"));
    }
    let watch = |digest: &corten_types::Digest, step: Step| progress.step(digest, step);
    let pushed = client.push(store, &PushRequest { source: &source, reference, platform, compress, watch: &watch });
    progress.finish();
    let pushed = pushed?;
    let tag = reference.tag().unwrap_or("latest");
    progress.line(&format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size))?;
    if let Some((index, manifest)) = pushed.reduced {
        context.warn(&format!(
            "Info: not all multiplatform-content is present and only the available single-platform image was pushed\n      \
             {index} -> {manifest}"
        ));
    }
    Ok(())
}

fn tags_of(store: &Store, repository: &Reference) -> Result<Vec<Reference>> {
    let wanted = repository.repository();
    let all = store.references()?.into_iter().map(|(reference, _)| reference);
    let tags: BTreeSet<Reference> =
        all.filter(|reference| reference.digest().is_none() && reference.repository() == wanted).collect();
    if tags.is_empty() {
        let message = format!("an image does not exist locally with the tag: {}", repository.familiar_repository());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(tags.into_iter().collect())
}
