//! `corten manifest create|annotate|inspect|push|rm`: docker's lists of manifests.

use corten_registry::client::Access;
use corten_registry::client::lists::{List, Lists};
use corten_types::{Error, ErrorKind, Reference, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;
use crate::progress::Progress;
use crate::registries;

fn lists(context: &Context<'_>) -> Result<(corten_engine::Engine, Lists)> {
    let engine = context.engine()?;
    let lists = Lists::open(&engine.options().root.join("manifests"))?;
    Ok((engine, lists))
}

/// Makes a list of manifests that are in a registry.
pub(crate) fn create(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let name = Reference::parse(&parsed.operands[0])?;
    let (_engine, lists) = lists(context)?;
    let known = lists.get(&name)?;
    if known.is_some() && !parsed.is_on("amend") {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!("refusing to amend an existing manifest list with no --amend flag: {}", name.familiar()),
        )
        .into());
    }
    let client = registries::client(context.environment, parsed)?;
    let mut list = known.unwrap_or_else(|| List { name: name.to_string(), entries: Vec::new() });
    for word in &parsed.operands[1..] {
        let entry = client.list_entry(&Reference::parse(word)?)?;
        list.entries.retain(|known| known.descriptor.digest != entry.descriptor.digest);
        list.entries.push(entry);
    }
    lists.put(&name, &list)?;
    context.print(&format!("Created manifest list {name}\n"))?;
    Ok(0)
}

/// Says for which platform a manifest of a list is.
pub(crate) fn annotate(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (name, member) = (Reference::parse(&parsed.operands[0])?, Reference::parse(&parsed.operands[1])?);
    let (_engine, lists) = lists(context)?;
    let mut list = lists.need(&name)?;
    let entry = list
        .entries
        .iter_mut()
        .find(|entry| entry.reference == member.to_string() || member.digest() == Some(&entry.descriptor.digest));
    let Some(entry) = entry else {
        let message = format!("manifest for image {} does not exist in {}", member.familiar(), name.familiar());
        return Err(Error::new(ErrorKind::NotFound, message).into());
    };
    let platform = entry.descriptor.platform.get_or_insert_default();
    let given = |flag: &str| parsed.last(flag).filter(|value| !value.is_empty()).map(str::to_owned);
    if let Some(architecture) = given("arch") {
        platform.architecture = architecture;
    }
    if let Some(os) = given("os") {
        platform.os = os;
    }
    if let Some(variant) = given("variant") {
        platform.variant = Some(variant);
    }
    if let Some(version) = given("os-version") {
        platform.os_version = Some(version);
    }
    platform.os_features.extend(parsed.all("os-features").map(str::to_owned));
    lists.put(&name, &list)?;
    Ok(0)
}

/// Shows a list, or a manifest of a registry.
pub(crate) fn inspect(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let last = parsed.operands.last().map(String::as_str).unwrap_or_default();
    let name = Reference::parse(last)?;
    let (_engine, lists) = lists(context)?;
    if let [list, _] = parsed.operands.as_slice() {
        let list = lists.need(&Reference::parse(list)?)?;
        let entry = list.entries.iter().find(|entry| entry.reference == name.to_string());
        let entry =
            entry.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("No such manifest: {}", name.familiar())))?;
        context.print(&pretty(&serde_json::to_vec(&entry.descriptor).unwrap_or_default()))?;
        return Ok(0);
    }
    if let Some(list) = lists.get(&name)? {
        let (_, bytes) = list.document()?;
        context.print(&pretty(&bytes))?;
        return Ok(0);
    }
    let client = registries::client(context.environment, parsed)?;
    let what = match (name.digest(), name.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    };
    let fetched = client.first_of(&name, Access::Read, |session| session.manifest(&what))?;
    context.print(&pretty(&fetched.bytes))?;
    Ok(0)
}

/// JSON as docker indents it; what is none as it is.
fn pretty(bytes: &[u8]) -> String {
    let parsed = serde_json::from_slice::<serde_json::Value>(bytes).ok();
    let text = parsed.and_then(|value| serde_json::to_string_pretty(&value).ok());
    text.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned()) + "\n"
}

/// Sends a list to its registry.
pub(crate) fn push(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let name = Reference::parse(&parsed.operands[0])?;
    let (engine, lists) = lists(context)?;
    let list = lists.need(&name)?;
    let client = registries::client(context.environment, parsed)?;
    let progress = Progress::quiet();
    let scratch = engine.options().root.clone();
    let digest =
        client.push_list(engine.store(), &list, &name, &scratch, &|digest, step| progress.step(digest, step))?;
    if parsed.is_on("purge") {
        lists.remove(&name)?;
    }
    context.print(&format!("{digest}\n"))?;
    Ok(0)
}

/// Forgets lists.
pub(crate) fn rm(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let (_engine, lists) = lists(context)?;
    let mut failed = false;
    for word in &parsed.operands {
        if let Err(error) = Reference::parse(word).and_then(|name| lists.remove(&name)) {
            context.report(&error);
            failed = true;
        }
    }
    Ok(u8::from(failed))
}
