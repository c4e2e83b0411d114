//! `corten save` and `corten export`: archives on their way out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use corten_engine::store::SaveRequest;
use corten_types::{Context as _, Error, Result};

use super::{Context, platform};
use crate::Failure;
use crate::command_line::Parsed;
use crate::terminal::is_terminal;

/// Writes images as an archive.
pub(crate) fn run(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let platform = platform(parsed)?;
    let engine = context.engine()?;
    let out = Out::open(context, parsed)?;
    let request = SaveRequest { names: &parsed.operands, platform: platform.as_ref() };
    engine.store().save(&request, out.file())?;
    out.finish()?;
    Ok(0)
}

/// Writes a container's root as a tar.
pub(crate) fn export(context: &mut Context<'_>, parsed: &Parsed) -> Result<u8, Failure> {
    let engine = context.engine()?;
    // Before the file is made: a name that means nothing leaves none behind.
    engine.container(&parsed.operands[0])?;
    let out = Out::open(context, parsed)?;
    let mut buffer = BufWriter::with_capacity(256 * 1024, out.file());
    engine.export(&parsed.operands[0], &mut buffer)?;
    buffer.flush().map_err(Error::from)?;
    drop(buffer);
    out.finish()?;
    Ok(0)
}

/// Where an archive goes: standard output, or a file that appears only once it is whole.
pub(super) struct Out {
    file: File,
    beside: Option<(PathBuf, PathBuf)>,
}

impl Out {
    fn open(context: &Context<'_>, parsed: &Parsed) -> Result<Self> {
        let Some(path) = parsed.last("output").filter(|path| !path.is_empty()) else {
            if is_terminal(rustix::stdio::stdout()) {
                return Err(
                    Error::invalid("cowardly refusing to save to a terminal").hint("use the `-o` flag or redirect")
                );
            }
            let file = rustix::stdio::stdout().try_clone_to_owned().context(|| "cannot duplicate standard output")?;
            return Ok(Self { file: file.into(), beside: None });
        };
        Self::at(&context.environment.absolute(path))
    }

    /// Starts to write `path`.
    pub(super) fn at(path: &Path) -> Result<Self> {
        let path = path.to_owned();
        let named = || format!("cannot write `{}`", path.display());
        // A device or a pipe is written to as it is; only a regular file is replaced.
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(&path).context(named)?;
            return Ok(Self { file, beside: None });
        }
        let beside = beside(&path)?;
        let file = File::options().write(true).create_new(true).open(&beside).context(named)?;
        Ok(Self { file, beside: Some((beside, path)) })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some((beside, path)) = self.beside.take() else { return Ok(()) };
        std::fs::rename(&beside, &path).context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if let Some((beside, _)) = self.beside.take() {
            // Half an archive is worse than none; what cannot be removed is at least not named as a whole one.
            let _removed = std::fs::remove_file(beside);
        }
    }
}

fn beside(path: &Path) -> Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(Error::invalid(format!("`{}` is not the name of a file", path.display())));
    };
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    Ok(path.with_file_name(beside))
}
