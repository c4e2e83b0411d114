//! The writer: ustar headers, with a PAX header before a member that does not fit them.

use std::io::{Read, Write};

use corten_types::{Error, Result};

use super::{BLOCK_SIZE, Kind, Time};

/// A tar archive that is being written.
#[derive(Debug)]
pub struct Builder<W> {
    writer: W,
}

/// A member to write; what [`super::Entry`] is to the reader.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// The path.
    pub path: &'a [u8],
    /// What it is; a sparse file is written with its holes filled, which the caller does.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last modification.
    pub mtime: Time,
    /// Bytes of content; 0 for anything but a file.
    pub size: u64,
    /// Extended attributes.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Member<'a> {
    /// A member owned by root, from 1970.
    pub fn new(path: &'a [u8], kind: Kind, mode: u32, size: u64) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, mtime: Time::default(), size, xattrs: &[] }
    }
}

impl<W: Write> Builder<W> {
    /// Starts an archive.
    pub fn new(writer: W) -> Self {
        Self { writer }
    }

    /// Writes a member; `content` must have exactly its size.
    pub fn append(&mut self, member: &Member<'_>, content: impl Read) -> Result<()> {
        let size = if member.kind == Kind::File { member.size } else { 0 };
        let mut records = Vec::new();
        let header = header(member, size, &mut records)?;
        if !records.is_empty() {
            let extended = Member::new(b"PaxHeaders/member", Kind::File, 0o644, records.len() as u64);
            let mut block = self::header(&extended, extended.size, &mut Vec::new())?;
            block[156] = b'x';
            seal(&mut block);
            self.write(&block)?;
            self.write(&records)?;
            self.pad(extended.size)?;
        }
        self.write(&header)?;
        let copied = std::io::copy(&mut content.take(size), &mut self.writer)
            .map_err(|error| Error::from(error).context("cannot write the archive"))?;
        if copied != size {
            let name = String::from_utf8_lossy(member.path);
            return Err(Error::invalid(format!("member `{name}` has {copied} bytes in place of {size}")));
        }
        self.pad(size)
    }

    /// Ends the archive; the writer back.
    pub fn finish(mut self) -> Result<W> {
        self.write(&[0; 2 * BLOCK_SIZE])?;
        self.writer.flush().map_err(|error| Error::from(error).context("cannot write the archive"))?;
        Ok(self.writer)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let over = usize::try_from(size % BLOCK_SIZE as u64).unwrap_or(0);
        self.write(&[0; BLOCK_SIZE][..(BLOCK_SIZE - over) % BLOCK_SIZE])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write_all(bytes).map_err(|error| Error::from(error).context("cannot write the archive"))
    }
}

/// The header block; what does not fit goes to `records`.
fn header(member: &Member<'_>, size: u64, records: &mut Vec<u8>) -> Result<[u8; BLOCK_SIZE]> {
    let mut block = [0; BLOCK_SIZE];
    let (kind, link, device) = match &member.kind {
        Kind::File => (b'0', &b""[..], None),
        Kind::Sparse(_) => return Err(Error::invalid("a sparse file is written as a plain one")),
        Kind::HardLink(target) => (b'1', target.as_slice(), None),
        Kind::Symlink(target) => (b'2', target.as_slice(), None),
        Kind::CharDevice { major, minor } => (b'3', &b""[..], Some((*major, *minor))),
        Kind::BlockDevice { major, minor } => (b'4', &b""[..], Some((*major, *minor))),
        Kind::Directory => (b'5', &b""[..], None),
        Kind::Fifo => (b'6', &b""[..], None),
    };
    name(&mut block[..100], member.path, "path", records)?;
    name(&mut block[157..257], link, "linkpath", records)?;
    octal(&mut block[100..108], u64::from(member.mode & 0o7777));
    number(&mut block[108..116], member.uid, "uid", records);
    number(&mut block[116..124], member.gid, "gid", records);
    number(&mut block[124..136], size, "size", records);
    match u64::try_from(member.mtime.seconds) {
        Ok(seconds) if member.mtime.nanoseconds == 0 && fits(12, seconds) => octal(&mut block[136..148], seconds),
        _ => {
            octal(&mut block[136..148], 0);
            record(records, b"mtime", time(member.mtime).as_bytes());
        }
    }
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    if let Some((major, minor)) = device {
        if !fits(8, u64::from(major)) || !fits(8, u64::from(minor)) {
            return Err(Error::invalid(format!("device {major}:{minor} does not fit a tar header")));
        }
        octal(&mut block[329..337], u64::from(major));
        octal(&mut block[337..345], u64::from(minor));
    }
    for (name, value) in member.xattrs {
        record(records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    seal(&mut block);
    Ok(block)
}

fn seal(block: &mut [u8; BLOCK_SIZE]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
}

fn name(field: &mut [u8], name: &[u8], key: &str, records: &mut Vec<u8>) -> Result<()> {
    if name.contains(&0) {
        return Err(Error::invalid("a path contains NUL"));
    }
    let length = name.len().min(field.len());
    field[..length].copy_from_slice(&name[..length]);
    if name.len() > field.len() {
        record(records, key.as_bytes(), name);
    }
    Ok(())
}

fn number(field: &mut [u8], value: u64, key: &str, records: &mut Vec<u8>) {
    if fits(field.len(), value) {
        octal(field, value);
    } else {
        octal(field, 0);
        record(records, key.as_bytes(), value.to_string().as_bytes());
    }
}

fn fits(width: usize, value: u64) -> bool {
    value >> (3 * (width - 1)) == 0
}

/// Octal digits and a NUL.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    field[..width].copy_from_slice(format!("{value:0width$o}").as_bytes());
    field[width] = 0;
}

/// A record's length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn time(time: Time) -> String {
    let mut text = if time.seconds < 0 && time.nanoseconds != 0 {
        format!(
            "{}{}.{:09}",
            if time.seconds == -1 { "-" } else { "" },
            time.seconds + 1,
            1_000_000_000 - time.nanoseconds
        )
    } else {
        format!("{}.{:09}", time.seconds, time.nanoseconds)
    };
    text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    text
}

#[cfg(test)]
mod tests {
    use super::super::{Archive, Limits};
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let long = vec![b'p'; 300];
        let xattrs = vec![(b"user.a".to_vec(), b"\0\n=".to_vec())];
        let mut members = vec![
            Member::new(b"dir/", Kind::Directory, 0o1777, 0),
            Member::new(b"dir/file", Kind::File, 0o4755, 3),
            Member::new(&long, Kind::Symlink(vec![b't'; 200]), 0o777, 0),
            Member::new(b"hard", Kind::HardLink(b"dir/file".to_vec()), 0o644, 0),
            Member::new(b"null", Kind::CharDevice { major: 1, minor: 3 }, 0o666, 0),
            Member::new(b"fifo", Kind::Fifo, 0o600, 0),
        ];
        members[1].uid = 3_000_000_000;
        members[1].xattrs = &xattrs;
        for (member, seconds) in members.iter_mut().zip([-1i64, -2, 0, 1, 1 << 40, 7]) {
            member.mtime = Time { seconds, nanoseconds: if seconds == 7 { 0 } else { 250_000_000 } };
        }
        let mut builder = Builder::new(Vec::new());
        for member in &members {
            builder.append(member, &b"abc"[..]).unwrap();
        }
        let bytes = builder.finish().unwrap();
        let mut archive = Archive::new(bytes.as_slice(), Limits::default());
        for member in &members {
            let entry = archive.next_entry().unwrap().unwrap();
            assert_eq!(entry.path, member.path);
            assert_eq!((entry.kind, entry.mtime, entry.mode), (member.kind.clone(), member.mtime, member.mode));
            assert_eq!((entry.uid, entry.xattrs.as_slice(), entry.size), (member.uid, member.xattrs, member.size));
        }
        assert!(archive.next_entry().unwrap().is_none());
    }
}
