//! `corten artifact push|pull|attach|ls|rm`: ORAS's commands.

use std::collections::BTreeMap;

use corten_registry::client::{ArtifactFile, ArtifactRequest};
use corten_types::{Error, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::{Output, Progress};
use crate::registries;

/// Pushes files under a name.
pub(crate) fn push(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    send(context, parsed, false)
}

/// Attaches files to an image or an artifact.
pub(crate) fn attach(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    if parsed.last("artifact-type").is_none_or(str::is_empty) {
        return Err(Error::invalid("what is attached needs `--artifact-type`").into());
    }
    send(context, parsed, true)
}

fn send(context: &mut Context<'_>, parsed: &Parsed, attach: bool) -> Result<u8, Failure> {
    let reference = Reference::parse(&parsed.operands[0])?;
    let files: Vec<ArtifactFile> = parsed.operands[1..].iter().map(|word| file(context, word)).collect();
    let mut annotations = BTreeMap::new();
    for word in parsed.all("annotation") {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("invalid annotation `{word}`: NAME=VALUE is wanted")))?;
        annotations.insert(name.to_owned(), value.to_owned());
    }
    let progress = Progress::new(parsed, Output::Out)?;
    let client = registries::client(context.environment, parsed)?;
    let (seconds, _) = corten_types::time::now();
    let digest = client.push_artifact(&ArtifactRequest {
        reference: &reference,
        attach,
        artifact_type: parsed.last("artifact-type").filter(|kind| !kind.is_empty()),
        files: &files,
        annotations: &annotations,
        created: &corten_types::time::rfc3339(seconds, 0),
        watch: &|digest, step| progress.step(digest, step),
    });
    progress.finish();
    let digest = digest?;
    let verb = if attach { "Attached to" } else { "Pushed" };
    progress.line(&format!("{verb} {reference}"))?;
    context.print(&format!("Digest: {digest}\n"))?;
    Ok(0)
}

/// `PATH[:MEDIA-TYPE]`
fn file(context: &Context<'_>, word: &str) -> ArtifactFile {
    let (path, media_type) = match word.rsplit_once(':') {
        Some((path, kind)) if kind.contains('/') => (path, Some(kind.to_owned())),
        _ => (word, None),
    };
    let title = path.trim_start_matches("./");
    // A file from elsewhere is called by its last word: what it is pulled into is another directory.
    let outside = title.starts_with('/') || title.split('/').any(|part| part == "..");
    let title = if outside { title.rsplit('/').next().unwrap_or(title) } else { title };
    ArtifactFile { path: context.environment.absolute(path), title: title.to_owned(), media_type }
}

/// Writes an artifact's files.
pub(crate) fn pull(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let reference = Reference::parse(&parsed.operands[0])?;
    let directory = context.environment.absolute(parsed.last("output").filter(|path| !path.is_empty()).unwrap_or("."));
    let progress = Progress::new(parsed, Output::Out)?;
    let client = registries::client(context.environment, parsed)?;
    let pulled = client.pull_artifact(&reference, &directory, parsed.is_on("overwrite"), &|digest, step| {
        progress.step(digest, step);
    });
    progress.finish();
    let (digest, files) = pulled?;
    for file in files {
        context.print(&format!("{file}\n"))?;
    }
    progress.line(&format!("Digest: {digest}"))?;
    Ok(0)
}

/// Lists what is attached.
pub(crate) fn ls(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let reference = Reference::parse(&parsed.operands[0])?;
    let client = registries::client(context.environment, parsed)?;
    let kind = parsed.last("artifact-type").filter(|kind| !kind.is_empty());
    let (_, found) = client.artifacts_of(&reference, kind)?;
    let mut text = "DIGEST\tARTIFACT TYPE\tSIZE\n".to_owned();
    for descriptor in found {
        let kind = descriptor.artifact_type.unwrap_or_default();
        text.push_str(&format!("{}\t{}\t{}\n", descriptor.digest, kind.escape_debug(), descriptor.size));
    }
    context.print(&corten_docker::align(&text))?;
    Ok(0)
}

/// Removes artifacts from their registry.
pub(crate) fn rm(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let client = registries::client(context.environment, parsed)?;
    for name in &parsed.operands {
        let reference = Reference::parse(name)?;
        client.remove_artifact(&reference)?;
        context.print(&format!("Removed {}\n", reference.familiar()))?;
    }
    Ok(0)
}
