//! `corten image mount` and `corten image unmount`

use std::path::Path;

use corten_types::{Error, Result};

use super::Context;
use crate::Failure;
use crate::command_line::Parsed;

/// Mounts an image and says where; without one, lists what is mounted.
pub(crate) fn mount(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    match parsed.operands.as_slice() {
        [] => {
            for mount in engine.image_mounts()? {
                context.print(&format!("{} {}\n", mount.image, mount.directory.display()))?;
            }
        }
        [image, rest @ ..] => {
            let directory = rest.first().map(|directory| context.environment.absolute(Path::new(directory)));
            let mount = engine.mount_image(image, directory.as_deref())?;
            context.print(&format!("{}\n", mount.directory.display()))?;
        }
    }
    Ok(0)
}

/// Unmounts images, by name or by directory.
pub(crate) fn unmount(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    let all = parsed.is_on("all");
    if all != parsed.operands.is_empty() {
        return Err(Error::invalid("name an image or a directory, or `--all`").into());
    }
    let names: Vec<String> = if all {
        engine.image_mounts()?.into_iter().map(|mount| mount.directory.display().to_string()).collect()
    } else {
        parsed.operands.clone()
    };
    let mut code = 0;
    for name in &names {
        match engine.unmount_image(name) {
            Ok(mounts) => {
                for mount in mounts {
                    context.print(&format!("{}\n", mount.directory.display()))?;
                }
            }
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    Ok(code)
}
