//! Whether an unpacked layer is still what its blob says.

use std::fs::File;
use std::sync::Arc;

use corten_fs::Root;
use corten_types::digest::Algorithm;
use corten_types::{Digest, Result};
use rustix::fs::{Mode, OFlags};

use super::decode::Decoder;
use super::form::Form;
use super::{LayerRow, Layers};
use crate::blob::digest_of;
use crate::compare::{Rules, compare};
use crate::growing::LayerBytes;

/// Largest index that is read, bytes.
const INDEX_SIZE_BYTES_MAX: u64 = 1 << 30;

impl Layers<'_> {
    /// Unpacks the layer once more, over those below it (lowest first), and compares: what differs first, in one sentence.
    pub(crate) fn differs(
        &self,
        row: &LayerRow,
        blob: &Digest,
        diff_id: &Digest,
        file: Arc<File>,
        below: &[LayerRow],
    ) -> Result<Option<String>> {
        let temporary = self.disk.temporary("layer")?;
        let known_plain = blob.algorithm() == Algorithm::Sha256;
        let stream = Decoder::new(LayerBytes::Whole(file).reader(), known_plain, self.limits)?.ahead()?;
        let (draft, found) = self.of_form(row.form).unpack(stream, None, &temporary)?;
        let found = found.unwrap_or(*blob);
        if found != *diff_id {
            return Ok(Some(format!("its blob unfolds to {found} in place of {diff_id}")));
        }
        let below: Vec<Root> = below.iter().rev().map(|row| self.open(row)).collect::<Result<_>>()?;
        draft.finish(&below)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fresh = rustix::fs::openat(temporary.as_fd(), c".", flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| corten_types::Error::syscall("openat(<ingest>, \".\")", errno.raw_os_error()))?;
        let used = self.disk.root().open(format!("layers/{}", row.key), flags, Mode::empty())?;
        let mut differences =
            compare(fresh, used, if row.form == Form::Directory { Rules::Layer } else { Rules::Bytes })?;
        if row.form == Form::Erofs {
            // An index tells the moment it was made; it is compared by the digest that its row has.
            differences.retain(|one| one.path.strip_prefix(b"/") != Some(corten_fs::overlay::INDEX.as_bytes()));
            if let Some(found) = self.index_damage(row)? {
                return Ok(Some(found));
            }
        }
        Ok(differences.first().map(|first| {
            let path = String::from_utf8_lossy(&first.path).into_owned();
            let path = path.strip_prefix("/fs").unwrap_or(&path);
            let more = match differences.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            let what = if first.what.is_empty() { "path" } else { first.what };
            format!("{what} of `{path}` is not as in its blob{more}")
        }))
    }

    fn index_damage(&self, row: &LayerRow) -> Result<Option<String>> {
        let Some(expected) = &row.index else { return Ok(None) };
        let path = format!("layers/{}/{}", row.key, row.form.lower());
        let found = digest_of(expected.algorithm(), &self.disk.root().read(&path, INDEX_SIZE_BYTES_MAX)?)?;
        Ok((found != *expected).then(|| format!("its index is {found} in place of {expected}")))
    }
}
