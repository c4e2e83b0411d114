//! Mount options: the specification's table, and what a list of them asks for.

use corten_sys::mount as attr;
use corten_types::{Error, Result};

/// `MS_*` numbers of mount(2) that rustix keeps to itself.
pub(super) mod ms {
    pub(crate) const UNBINDABLE: u64 = 1 << 17;
    pub(crate) const PRIVATE: u64 = 1 << 18;
    pub(crate) const SLAVE: u64 = 1 << 19;
    pub(crate) const SHARED: u64 = 1 << 20;
    pub(crate) const SILENT: u32 = 1 << 15;
    pub(crate) const I_VERSION: u32 = 1 << 23;
}

/// A mount's place in propagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Propagation {
    /// One of `ms::{SHARED, SLAVE, PRIVATE, UNBINDABLE}`.
    pub(super) kind: u64,
    /// Whether the mounts below change too.
    pub(super) recursive: bool,
}

impl Propagation {
    /// `rslave` and its kind; `None` for another word.
    pub(super) fn parse(word: &str) -> Option<Self> {
        match find(word)? {
            Effect::Propagation(kind, recursive) => Some(Self { kind, recursive }),
            _ => None,
        }
    }

    /// Whether nothing below can be shared afterwards.
    pub(super) fn unshares_all(self) -> bool {
        self.recursive && self.kind != ms::SHARED
    }
}

/// Attributes to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) set: u64,
    pub(super) clear: u64,
}

impl Attributes {
    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn set(&mut self, bit: u64) {
        self.set |= bit;
        self.clear &= !bit;
    }

    fn clear(&mut self, bit: u64) {
        self.clear |= bit;
        self.set &= !bit;
    }

    /// The access time modes are a field, not bits: mount_setattr(2) wants all of it cleared.
    fn atime(&mut self, mode: u64) {
        self.set = (self.set & !attr::ATIME_MASK) | mode;
        self.clear |= attr::ATIME_MASK;
    }
}

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Of the mount itself.
    pub(super) attributes: Attributes,
    /// Of the mount and all below.
    pub(super) recursive: Attributes,
    /// In the order asked.
    pub(super) propagation: Vec<Propagation>,
    /// Flags of the file system, as fsconfig(2) names them.
    pub(super) super_flags: Vec<&'static str>,
    /// Flags of the file system that only mount(2) takes.
    pub(super) classic_flags: u32,
    /// `bind` (false) or `rbind` (true).
    pub(super) bind: Option<bool>,
    pub(super) remount: bool,
    pub(super) tmpcopyup: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub(super) idmap: Option<bool>,
    /// What the file system itself understands, in order.
    pub(super) data: Vec<String>,
}

impl Options {
    pub(super) fn parse(words: &[String]) -> Result<Self> {
        let mut options = Self::default();
        for word in words {
            if word.contains('\0') {
                return Err(Error::invalid(format!("option {word:?} contains a NUL byte")));
            }
            match find(word) {
                Some(effect) => options.apply(effect),
                None if word.is_empty() => {}
                None => options.data.push(word.clone()),
            }
        }
        Ok(options)
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Set(bit) => self.attributes.set(bit),
            Effect::Clear(bit) => self.attributes.clear(bit),
            Effect::Atime(mode) => self.attributes.atime(mode),
            Effect::RecursiveSet(bit) => self.recursive.set(bit),
            Effect::RecursiveClear(bit) => self.recursive.clear(bit),
            Effect::RecursiveAtime(mode) => self.recursive.atime(mode),
            Effect::Propagation(kind, recursive) => self.propagation.push(Propagation { kind, recursive }),
            Effect::Super(name, opposite) => {
                self.super_flags.retain(|flag| *flag != opposite && *flag != name);
                self.super_flags.push(name);
            }
            Effect::Classic(flag) => self.classic_flags |= flag,
            Effect::NotClassic(flag) => self.classic_flags &= !flag,
            Effect::Bind(recursive) => self.bind = Some(recursive || self.bind == Some(true)),
            Effect::Remount => self.remount = true,
            Effect::CopyUp => self.tmpcopyup = true,
            Effect::IdMap(recursive) => self.idmap = Some(recursive),
        }
    }

    /// The attributes of a bind mount. Any flag asked for makes the flags of the list the whole truth, as runc and crun
    /// have it (`rw` and `dev` are the defaults); with `keeps_locked` what the kernel may lock stays as the source has it.
    pub(super) fn bind_attributes(&self, keeps_locked: bool) -> Attributes {
        let mut attributes = self.attributes;
        if attributes.is_empty() {
            return attributes;
        }
        let lockable = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        let implied = attr::NOSYMFOLLOW | if keeps_locked { 0 } else { lockable };
        attributes.clear |= implied & !attributes.set;
        attributes
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.attributes.set & attr::RDONLY != 0
    }
}

/// What one option does.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Nothing,
    Set(u64),
    Clear(u64),
    Atime(u64),
    RecursiveSet(u64),
    RecursiveClear(u64),
    RecursiveAtime(u64),
    Propagation(u64, bool),
    /// The flag's name, and the one it undoes.
    Super(&'static str, &'static str),
    Classic(u32),
    NotClassic(u32),
    Bind(bool),
    Remount,
    CopyUp,
    IdMap(bool),
}

fn find(word: &str) -> Option<Effect> {
    TABLE.binary_search_by_key(&word, |(name, _)| name).ok().map(|at| TABLE[at].1)
}

/// Names of every option, sorted.
pub(super) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

/// Sorted by name.
const TABLE: &[(&str, Effect)] = {
    use Effect::{
        Atime, Bind, Classic, Clear, CopyUp, IdMap, NotClassic, Nothing, Propagation, RecursiveAtime, RecursiveClear,
        RecursiveSet, Remount, Set, Super,
    };
    &[
        ("async", Super("async", "sync")),
        ("atime", Atime(attr::RELATIME)),
        ("bind", Bind(false)),
        ("defaults", Nothing),
        ("dev", Clear(attr::NODEV)),
        ("diratime", Clear(attr::NODIRATIME)),
        ("dirsync", Super("dirsync", "")),
        ("exec", Clear(attr::NOEXEC)),
        ("idmap", IdMap(false)),
        ("iversion", Classic(ms::I_VERSION)),
        ("lazytime", Super("lazytime", "nolazytime")),
        ("loud", NotClassic(ms::SILENT)),
        ("mand", Super("mand", "nomand")),
        ("noatime", Atime(attr::NOATIME)),
        ("nodev", Set(attr::NODEV)),
        ("nodiratime", Set(attr::NODIRATIME)),
        ("noexec", Set(attr::NOEXEC)),
        ("noiversion", NotClassic(ms::I_VERSION)),
        ("nolazytime", Super("nolazytime", "lazytime")),
        ("nomand", Super("nomand", "mand")),
        // The kernel's default is relatime all the same, as with mount(2).
        ("norelatime", Nothing),
        ("nostrictatime", Atime(attr::RELATIME)),
        ("nosuid", Set(attr::NOSUID)),
        ("nosymfollow", Set(attr::NOSYMFOLLOW)),
        ("private", Propagation(ms::PRIVATE, false)),
        ("ratime", RecursiveAtime(attr::RELATIME)),
        ("rbind", Bind(true)),
        ("rdev", RecursiveClear(attr::NODEV)),
        ("rdiratime", RecursiveClear(attr::NODIRATIME)),
        ("relatime", Atime(attr::RELATIME)),
        ("remount", Remount),
        ("rexec", RecursiveClear(attr::NOEXEC)),
        ("ridmap", IdMap(true)),
        ("rnoatime", RecursiveAtime(attr::NOATIME)),
        ("rnodev", RecursiveSet(attr::NODEV)),
        ("rnodiratime", RecursiveSet(attr::NODIRATIME)),
        ("rnoexec", RecursiveSet(attr::NOEXEC)),
        ("rnorelatime", Nothing),
        ("rnostrictatime", RecursiveAtime(attr::RELATIME)),
        ("rnosuid", RecursiveSet(attr::NOSUID)),
        ("rnosymfollow", RecursiveSet(attr::NOSYMFOLLOW)),
        ("ro", Set(attr::RDONLY)),
        ("rprivate", Propagation(ms::PRIVATE, true)),
        ("rrelatime", RecursiveAtime(attr::RELATIME)),
        ("rro", RecursiveSet(attr::RDONLY)),
        ("rrw", RecursiveClear(attr::RDONLY)),
        ("rshared", Propagation(ms::SHARED, true)),
        ("rslave", Propagation(ms::SLAVE, true)),
        ("rstrictatime", RecursiveAtime(attr::STRICTATIME)),
        ("rsuid", RecursiveClear(attr::NOSUID)),
        ("rsymfollow", RecursiveClear(attr::NOSYMFOLLOW)),
        ("runbindable", Propagation(ms::UNBINDABLE, true)),
        ("rw", Clear(attr::RDONLY)),
        ("shared", Propagation(ms::SHARED, false)),
        ("silent", Classic(ms::SILENT)),
        ("slave", Propagation(ms::SLAVE, false)),
        ("strictatime", Atime(attr::STRICTATIME)),
        ("suid", Clear(attr::NOSUID)),
        ("symfollow", Clear(attr::NOSYMFOLLOW)),
        ("sync", Super("sync", "async")),
        ("tmpcopyup", CopyUp),
        ("unbindable", Propagation(ms::UNBINDABLE, false)),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_table_is_sorted_and_holds_every_option_of_the_specification() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(names().len(), 62);
    }

    #[test]
    fn the_last_of_two_opposites_wins() {
        let options = parse(&["ro", "nosuid", "rw", "suid", "nosuid"]);
        assert_eq!(options.attributes, Attributes { set: attr::NOSUID, clear: attr::RDONLY });
        assert!(!options.is_read_only());
        assert_eq!(parse(&["sync", "async", "lazytime"]).super_flags, ["async", "lazytime"]);
    }

    #[test]
    fn access_time_modes_replace_each_other_and_clear_the_whole_field() {
        let options = parse(&["noatime", "strictatime", "nodiratime"]);
        let set = attr::STRICTATIME | attr::NODIRATIME;
        assert_eq!(options.attributes, Attributes { set, clear: attr::ATIME_MASK });
        assert_eq!(parse(&["ratime"]).recursive, Attributes { set: 0, clear: attr::ATIME_MASK });
    }

    #[test]
    fn unknown_words_are_the_file_systems() {
        let options = parse(&["mode=755", "", "defaults", "size=64m", "inode64", "rbind", "bind"]);
        assert_eq!(options.data, ["mode=755", "size=64m", "inode64"]);
        assert_eq!(options.bind, Some(true));
        assert!(Options::parse(&["a\0b".to_owned()]).is_err());
    }

    #[test]
    fn propagation_words() {
        assert_eq!(Propagation::parse("rslave"), Some(Propagation { kind: ms::SLAVE, recursive: true }));
        assert_eq!(Propagation::parse("ro"), None);
        assert_eq!(parse(&["rbind", "rprivate", "shared"]).propagation.len(), 2);
    }
}
