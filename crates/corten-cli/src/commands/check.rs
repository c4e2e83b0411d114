//! `corten image diff`, `corten image verify` and `corten image fsck`.

use std::collections::BTreeSet;

use corten_docker::units::human_size;
use corten_engine::store::{Change, Checked, Image, Outcome};
use corten_types::{Error, ErrorKind, Result};
use serde_json::Value;

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Shows what differs between two images: paths as `docker diff` has them, then the configuration.
pub(crate) fn diff(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let store = engine.store();
    let (first, second) = (store.resolve(&parsed.operands[0])?, store.resolve(&parsed.operands[1])?);
    let mut text = String::new();
    if first.config.rootfs.diff_ids != second.config.rootfs.diff_ids {
        for difference in store.view_image(&first)?.differences(&store.view_image(&second)?)? {
            let letter = match difference.change {
                Change::Added => 'A',
                Change::Changed => 'C',
                Change::Removed => 'D',
            };
            let path = String::from_utf8_lossy(&difference.path).escape_debug().to_string();
            text.push_str(&format!("{letter} {path}"));
            if !difference.what.is_empty() {
                text.push_str(&format!(" ({})", difference.what));
            }
            text.push('\n');
        }
    }
    text.push_str(&configuration(&first, &second)?);
    context.print(&text)?;
    Ok(0)
}

fn configuration(first: &Image, second: &Image) -> Result<String> {
    let json = |image: &Image| {
        serde_json::to_value(&image.config.config)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot compare configurations").caused_by(error))
    };
    let (before, after) = (json(first)?, json(second)?);
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let all: BTreeSet<String> = keys(&before).into_iter().chain(keys(&after)).collect();
    let mut text = String::new();
    for key in all {
        if before[&key] != after[&key] {
            text.push_str(&format!("config {key}: {} -> {}\n", before[&key], after[&key]));
        }
    }
    Ok(text)
}

/// Hashes all that images consist of again.
pub(crate) fn verify(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let mut code = 0;
    for name in &parsed.operands {
        // A manifest that is damaged cannot even be resolved: that is an answer too.
        let checked = engine.store().resolve(name).and_then(|image| engine.store().verify_image(&image));
        match checked {
            Ok(checked) => {
                code |= u8::from(!checked.damage.is_empty());
                let text = report(name, &checked);
                context.print(&text)?;
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// Checks the whole store, and repairs it or moves what is damaged out of the way.
pub(crate) fn fsck(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let checked = context.engine()?.store().check(!parsed.is_on("dry-run"))?;
    let text = report("store", &checked);
    context.print(&text)?;
    let is_left = checked.damage.iter().any(|damage| damage.outcome != Outcome::Repaired);
    Ok(u8::from(is_left))
}

fn report(name: &str, checked: &Checked) -> String {
    let mut text = String::new();
    for damage in &checked.damage {
        let outcome = match damage.outcome {
            Outcome::Found => "damaged",
            Outcome::Repaired => "repaired",
            Outcome::Quarantined => "quarantined",
            Outcome::Missing => "missing",
        };
        text.push_str(&format!("{outcome}: {}: {}\n", damage.what, damage.found));
        for image in &damage.images {
            text.push_str(&format!("  needed by {image}\n"));
        }
    }
    let (blobs, bytes, layers) = (checked.blobs, human_size(checked.bytes, 4), checked.layers);
    let verdict = match checked.damage.len() {
        0 => "no damage".to_owned(),
        1 => "1 damage".to_owned(),
        count => format!("{count} damages"),
    };
    text.push_str(&format!("{name}: {blobs} blobs ({bytes}) and {layers} layers checked, {verdict}\n"));
    text
}
