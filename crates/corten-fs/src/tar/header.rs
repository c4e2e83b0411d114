//! One 512-byte header block: checksum, numbers, names.

use corten_types::{Error, Result};

use super::BLOCK_SIZE;

/// A header block whose checksum holds.
pub(super) struct Header<'a>(&'a [u8; BLOCK_SIZE]);

impl<'a> Header<'a> {
    /// `None` for the block of zeros that ends an archive.
    pub(super) fn parse(block: &'a [u8; BLOCK_SIZE]) -> Result<Option<Self>> {
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = number(&block[148..156]).ok_or_else(|| Error::invalid("header checksum is no number"))?;
        let outside = block[..148].iter().chain(&block[156..]);
        let unsigned: i64 = outside.clone().map(|byte| i64::from(*byte)).sum::<i64>() + 8 * 32;
        // Some old writers summed signed bytes.
        let signed: i64 = outside.map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
        if stated != unsigned && stated != signed {
            return Err(Error::invalid("header checksum does not match").hint("the file is damaged or no tar archive"));
        }
        Ok(Some(Self(block)))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The path, with ustar's prefix before it.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // GNU's older format says `ustar  ` and keeps times where POSIX keeps the prefix.
        let prefix = if &self.0[257..263] == b"ustar\0" { text(&self.0[345..500]) } else { b"" };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u64> {
        unsigned(&self.0[100..108], "mode")
    }

    pub(super) fn uid(&self) -> Result<u64> {
        unsigned(&self.0[108..116], "uid")
    }

    pub(super) fn gid(&self) -> Result<u64> {
        unsigned(&self.0[116..124], "gid")
    }

    pub(super) fn size(&self) -> Result<u64> {
        unsigned(&self.0[124..136], "size")
    }

    pub(super) fn mtime(&self) -> Result<i64> {
        number(&self.0[136..148]).ok_or_else(|| Error::invalid("`mtime` in the header is no number"))
    }

    pub(super) fn device(&self) -> Result<(u32, u32)> {
        let narrow = |field: &[u8], name| {
            u32::try_from(unsigned(field, name)?).map_err(|_| Error::invalid(format!("`{name}` is too large")))
        };
        Ok((narrow(&self.0[329..337], "devmajor")?, narrow(&self.0[337..345], "devminor")?))
    }

    /// The fields of an old GNU sparse header: four segments, whether more blocks follow, the real size.
    pub(super) fn old_sparse(&self) -> Result<(&[u8], bool, u64)> {
        Ok((&self.0[386..482], self.0[482] != 0, unsigned(&self.0[483..495], "realsize")?))
    }
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A field that must not be negative.
pub(super) fn unsigned(field: &[u8], name: &str) -> Result<u64> {
    number(field)
        .and_then(|value| u64::try_from(value).ok())
        .ok_or_else(|| Error::invalid(format!("`{name}` in the header is no valid number")))
}

/// Octal digits between spaces and NULs, or GNU's base-256 (two's complement, top bit set). An empty field is 0.
fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let top = if negative { first } else { first & 0x7f };
        let start = i128::from(if negative { top.cast_signed() } else { 0 });
        let mut value = if negative { start } else { i128::from(top) };
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(i128::from(*byte))?;
            if i64::try_from(value).is_err() {
                return None;
            }
        }
        return i64::try_from(value).ok();
    }
    let is_pad = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !is_pad(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_pad).unwrap_or(digits.len());
    if !digits[end..].iter().all(is_pad) {
        return None;
    }
    digits[..end].iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777777\0", Some(0o777_7777_7777)),
            (b"777777777777", Some(0o7777_7777_7777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\xbf\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"0000648\0", None),
            (b"12 34\0\0\0", None),
            (b"-1\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
