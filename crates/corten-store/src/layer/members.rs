//! What a member of a layer's archive asks for, whatever form the layer takes: a name to make, something below to hide, or
//! nothing (image specification, "Whiteouts").

use corten_fs::tar::Kind;
use corten_types::{Error, Result};

/// Prefix of a name that hides the same name of the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// The name that hides everything below its directory; other names of this prefix are notes of AUFS.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a member asks for. Paths are in their one form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish<'p> {
    /// It is a note of AUFS.
    Nothing,
    /// It says what the root looks like.
    Root,
    /// Everything below this directory is hidden.
    Opaque(&'p [u8]),
    /// A name in a directory is hidden.
    Whiteout(&'p [u8], &'p [u8]),
    /// A name in a directory is made.
    Make(&'p [u8], &'p [u8]),
}

/// What the member at `path` asks for.
pub(super) fn wish<'p>(path: &'p [u8], kind: &Kind) -> Result<Wish<'p>> {
    let (parent, name) = split(path);
    if name.is_empty() {
        let is_directory = *kind == Kind::Directory;
        return if is_directory { Ok(Wish::Root) } else { Err(Error::invalid("the layer's root is not a directory")) };
    }
    if path.split(|byte| *byte == b'/').any(|name| name.starts_with(b".wh..wh.") && name != OPAQUE) {
        return Ok(Wish::Nothing);
    }
    if name == OPAQUE {
        return Ok(Wish::Opaque(parent));
    }
    let hidden = match (name.strip_prefix(WHITEOUT), kind) {
        (Some(hidden), _) => hidden,
        // What overlay itself takes for a whiteout.
        (None, Kind::CharDevice { major: 0, minor: 0 }) => name,
        _ => return Ok(Wish::Make(parent, name)),
    };
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(Error::invalid("a whiteout of no name"));
    }
    Ok(Wish::Whiteout(parent, hidden))
}

/// Attributes that belong to a file and not to the machine it came from: labels of its security modules and overlay's own
/// notes stay behind.
pub(super) fn is_wanted(xattr: &[u8]) -> bool {
    xattr == b"security.capability"
        || xattr == b"system.posix_acl_access"
        || xattr == b"system.posix_acl_default"
        || xattr.starts_with(b"user.") && xattr.len() > b"user.".len() && !xattr.starts_with(b"user.overlay.")
}

/// The path in its one form: no leading slash, no empty or `.` component. `..` is refused.
pub(crate) fn normalise(path: &[u8]) -> Result<Vec<u8>> {
    let mut normal = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Error::invalid("the path contains `..`")),
            _ => {
                if !normal.is_empty() {
                    normal.push(b'/');
                }
                normal.extend_from_slice(component);
            }
        }
    }
    Ok(normal)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A path for an error.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(&path[..path.len().min(200)]);
    text.chars().flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_hidden() {
        let wish = |path: &'static str| wish(path.as_bytes(), &Kind::File).unwrap();
        assert_eq!(wish("a/b"), Wish::Make(b"a", b"b"));
        assert_eq!(wish("b"), Wish::Make(b"", b"b"));
        assert_eq!(wish("a/.wh.b"), Wish::Whiteout(b"a", b"b"));
        assert_eq!(wish("a/.wh..wh..opq"), Wish::Opaque(b"a"));
        assert_eq!(wish(".wh..wh.plnk/1.2"), Wish::Nothing);
        assert_eq!(super::wish(b"", &Kind::Directory).unwrap(), Wish::Root);
        assert!(super::wish(b"", &Kind::File).is_err() && super::wish(b"a/.wh..", &Kind::File).is_err());
        assert_eq!(super::wish(b"x", &Kind::CharDevice { major: 0, minor: 0 }).unwrap(), Wish::Whiteout(b"", b"x"));
    }
}
