//! Roots on their way out.

use std::io::Write;

use corten_types::shim::RootMount;
use corten_types::{Context, Error, ErrorKind, Result};

use crate::engine::Engine;

impl Engine {
    /// Writes the root of a container, running or not, as a tar.
    pub fn export(&self, container: &str, out: impl Write) -> Result<()> {
        let container = self.container(container)?;
        let named = || format!("cannot export container `{}`", container.config.name);
        if let Some(RootMount::Directory(directory)) = &container.config.root {
            let message = format!("its root is the directory `{}`", directory.display());
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("pack that directory with `tar`")
                .context(named()));
        }
        let view = self.store().view_snapshot(&container.config.id).context(named)?;
        view.write_tar(out).map(drop).context(named)
    }
}
