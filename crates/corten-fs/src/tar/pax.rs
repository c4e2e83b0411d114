//! Extended headers of PAX (pax(1), "pax Extended Header"): records of `LENGTH KEY=VALUE\n`.

use corten_types::{Error, Result};

use super::{Segment, Time};

/// What the extended headers before a member say about it. An absent value leaves the header's own.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU's three ways to describe holes in PAX records.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    pub(super) map: Option<Vec<Segment>>,
    /// Format 0.0: an offset that waits for its length.
    offset: Option<u64>,
}

impl Extensions {
    /// Adds the records of one `x` header. A later record of a key wins; an empty value takes it back.
    pub(super) fn add(&mut self, records: &[u8]) -> Result<()> {
        for record in Records(records) {
            let (key, value) = record?;
            self.record(key, value).map_err(|error| {
                error.context(format!("extended header `{}` is wrong", String::from_utf8_lossy(key).escape_debug()))
            })?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = decimal(value)?,
            b"uid" => self.uid = decimal(value)?,
            b"gid" => self.gid = decimal(value)?,
            b"mtime" => self.mtime = time(value)?,
            b"GNU.sparse.major" => self.sparse.major = decimal(value)?,
            b"GNU.sparse.minor" => self.sparse.minor = decimal(value)?,
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => self.sparse.real_size = decimal(value)?,
            b"GNU.sparse.map" => self.sparse.map = Some(map(value)?),
            b"GNU.sparse.offset" => self.sparse.offset = decimal(value)?,
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.offset.take().ok_or_else(|| Error::invalid("a length without an offset"))?;
                let length = decimal(value)?.ok_or_else(|| Error::invalid("an empty number"))?;
                self.sparse.map.get_or_insert_default().push(Segment { offset, length });
            }
            _ => {
                if let Some(xattr) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattr(xattr, value)?;
                }
            }
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(Error::invalid("the attribute's name is not one"));
        }
        self.xattrs.retain(|(known, _)| known != name);
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

/// Checks the records of a `g` header, which are not applied: readers differ, so one that would matter is refused.
pub(super) fn check_global(records: &[u8]) -> Result<()> {
    for record in Records(records) {
        let (key, _) = record?;
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            let key = String::from_utf8_lossy(key);
            return Err(Error::invalid(format!(
                "a global extended header sets `{key}`, which readers take differently"
            )));
        }
    }
    Ok(())
}

struct Records<'a>(&'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers pad the last record with NULs.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = split_record(self.0);
        match record {
            Some((key, value, rest)) => {
                self.0 = rest;
                Some(Ok((key, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(Error::invalid("extended header is malformed")))
            }
        }
    }
}

fn split_record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(21).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&text[..space]).ok()??).ok()?;
    if length > text.len() || length < space + 4 || text[length - 1] != b'\n' {
        return None;
    }
    let record = &text[space + 1..length - 1];
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    (!key.is_empty()).then_some((key, value, &text[length..]))
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) {
        return Err(Error::invalid("a name contains NUL"));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// An unsigned decimal number; `None` for an empty value.
pub(super) fn decimal(value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    let number = value.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    });
    number.map(Some).ok_or_else(|| Error::invalid("it is no decimal number"))
}

/// `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
fn time(value: &[u8]) -> Result<Option<Time>> {
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let dot = digits.iter().position(|byte| *byte == b'.').unwrap_or(digits.len());
    let wrong = || Error::invalid("it is no time");
    let seconds = decimal(&digits[..dot])?.and_then(|seconds| i64::try_from(seconds).ok()).ok_or_else(wrong)?;
    let mut nanoseconds = 0u32;
    let mut rest = false;
    let mut scale = 100_000_000;
    for digit in digits.get(dot + 1..).unwrap_or_default() {
        if !digit.is_ascii_digit() {
            return Err(wrong());
        }
        let digit = u32::from(digit - b'0');
        nanoseconds += digit * scale;
        rest |= scale == 0 && digit != 0;
        scale /= 10;
    }
    if !negative {
        return Ok(Some(Time { seconds, nanoseconds }));
    }
    nanoseconds += u32::from(rest);
    Ok(Some(if nanoseconds == 0 {
        Time { seconds: -seconds, nanoseconds }
    } else {
        Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds }
    }))
}

/// Format 0.1: `OFFSET,LENGTH,…`.
fn map(value: &[u8]) -> Result<Vec<Segment>> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let missing = || Error::invalid("the map ends in an offset");
    let mut numbers =
        value.split(|byte| *byte == b',').map(|word| decimal(word)?.ok_or_else(|| Error::invalid("an empty number")));
    let mut segments = Vec::new();
    while let Some(offset) = numbers.next() {
        segments.push(Segment { offset: offset?, length: numbers.next().ok_or_else(missing)?? });
    }
    Ok(segments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(records: &[u8]) -> Result<Extensions> {
        let mut extensions = Extensions::default();
        extensions.add(records)?;
        Ok(extensions)
    }

    #[test]
    fn records_give_names_numbers_and_attributes() {
        let extensions = parse(b"9 path=a\n11 size=12\n15 mtime=-1.25\n29 SCHILY.xattr.user.a=x=y\nz\n9 path=b\n\0\0");
        let extensions = extensions.unwrap();
        assert_eq!(extensions.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(extensions.size, Some(12));
        assert_eq!(extensions.mtime, Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(extensions.xattrs, [(b"user.a".to_vec(), b"x=y\nz".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for records in [
            &b"8 path=a\n"[..],
            b"11 path=a\n",
            b"99999999999999999999 path=a\n",
            b"path=a\n",
            b"5 a=\n\n",
            b"4 =\n",
            b"11 path=a\0\n",
            b"10 size=-1\n",
            b"9 size=x\n",
            b"29 size=99999999999999999999\n",
            b"18 GNU.sparse.map=1\n",
            b"22 GNU.sparse.map=1,2,3\n",
        ] {
            assert!(parse(records).is_err(), "{:?}", String::from_utf8_lossy(records));
        }
        assert!(check_global(b"11 size=10\n").is_err());
        assert!(check_global(b"17 comment=words\n").is_ok());
    }
}
