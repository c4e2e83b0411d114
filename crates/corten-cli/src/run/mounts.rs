//! `-v`, `--mount`, `--tmpfs`. An `Err` is the reason alone, in docker's words.

use std::path::{Path, PathBuf};

use corten_engine::{Given, Mount, MountSource, Propagation, Recursion, Relabel, TmpfsOptions};

use super::values::bytes;

/// `HOST:INSIDE[:OPTIONS]`, or `[NAME:]INSIDE` for a volume.
pub(crate) fn volume(text: &str, working_directory: &Path) -> Result<Mount, String> {
    let parts: Vec<&str> = text.split(':').collect();
    if text.is_empty() {
        return Err("invalid empty volume spec".to_owned());
    }
    if parts.len() > 3 {
        return Err(format!("invalid volume specification: '{text}'"));
    }
    if parts.iter().any(|part| part.is_empty()) {
        return Err(format!("invalid spec: {text}: empty section between colons"));
    }
    let [source, inside, words] = match parts.as_slice() {
        [inside] => ["", *inside, ""],
        [source, inside] => [*source, *inside, ""],
        _ => [parts[0], parts[1], parts[2]],
    };
    absolute(inside).map_err(|why| format!("invalid volume specification: '{text}': {why}"))?;
    let options = VolumeOptions::parse(words)?;
    let source = if source.starts_with(['/', '.', '~']) {
        MountSource::Bind {
            path: working_directory.join(source),
            create: true,
            propagation: options.propagation,
            recursion: Recursion::Enabled,
            relabel: options.relabel,
        }
    } else {
        MountSource::Volume((!source.is_empty()).then(|| source.to_owned()))
    };
    Ok(Mount { source, destination: inside.to_owned(), read_only: options.read_only, given: Given::Volume })
}

fn absolute(inside: &str) -> Result<(), String> {
    if inside.starts_with('/') {
        return Ok(());
    }
    Err(format!("invalid mount path: '{inside}' mount path must be absolute"))
}

#[derive(Default)]
struct VolumeOptions {
    read_only: bool,
    propagation: Option<Propagation>,
    relabel: Option<Relabel>,
}

impl VolumeOptions {
    fn parse(words: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            let kind = match word {
                "ro" | "rw" => "access",
                "z" | "Z" => "label",
                "nocopy" => "copy",
                "consistent" | "cached" | "delegated" => "consistency",
                _ => "propagation",
            };
            if seen.contains(&kind) {
                return Err(format!("invalid mode: {words}"));
            }
            seen.push(kind);
            match word {
                "ro" => options.read_only = true,
                "z" => options.relabel = Some(Relabel::Shared),
                "Z" => options.relabel = Some(Relabel::Private),
                // `rw` is the default; a bind copies nothing; consistency is for virtual machines of other systems.
                "rw" | "nocopy" | "consistent" | "cached" | "delegated" => {}
                other => match Propagation::parse(other) {
                    Some(propagation) => options.propagation = Some(propagation),
                    None => return Err(format!("invalid mode: {words}")),
                },
            }
        }
        Ok(options)
    }
}

/// `PATH[:OPTIONS]`
pub(crate) fn tmpfs(text: &str) -> Result<Mount, String> {
    let (inside, words) = text.split_once(':').unwrap_or((text, ""));
    absolute(inside)?;
    let mut options = TmpfsOptions::default();
    let mut read_only = false;
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some(("size", size)) if !size.ends_with('%') => options.size_bytes = Some(bytes(size)?),
            Some(("mode", mode)) => options.mode = Some(octal(mode).ok_or_else(|| bad_tmpfs(word))?),
            Some(("size" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol" | "huge", _)) => {
                options.options.push(word.to_owned());
            }
            None if word == "ro" => read_only = true,
            None if word == "rw" => read_only = false,
            None if TMPFS_WORDS.contains(&word) => options.options.push(word.to_owned()),
            _ => return Err(bad_tmpfs(word)),
        }
    }
    let given = Given::Tmpfs(words.to_owned());
    Ok(Mount { source: MountSource::Tmpfs(options), destination: inside.to_owned(), read_only, given })
}

const TMPFS_WORDS: [&str; 26] = [
    "defaults",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "exec",
    "noexec",
    "sync",
    "async",
    "dirsync",
    "remount",
    "mand",
    "nomand",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
];

fn bad_tmpfs(word: &str) -> String {
    format!("invalid tmpfs option {}", corten_docker::quote(word))
}

fn octal(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777)
}

/// `type=bind,src=PATH,dst=PATH,readonly,…`: one line of comma-separated values.
pub(crate) fn mount(text: &str, working_directory: &Path) -> Result<Mount, String> {
    let mut draft = Draft { kind: "volume".to_owned(), ..Draft::default() };
    for part in csv(text)? {
        draft.set(&part)?;
    }
    draft.finish(working_directory)
}

#[derive(Default)]
struct Draft {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: Option<Propagation>,
    recursion: Recursion,
    create: bool,
    tmpfs: TmpfsOptions,
    /// Prefixes of the options that were given: `bind-`, `volume-`, `tmpfs-`, `image-`.
    families: Vec<&'static str>,
}

impl Draft {
    fn set(&mut self, part: &str) -> Result<(), String> {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        let key = key.to_lowercase();
        let bare = ["readonly", "ro", "volume-nocopy", "bind-nonrecursive", "bind-create-src"];
        if value.is_none() && !bare.contains(&key.as_str()) {
            return Err(format!("invalid field '{part}' must be a key=value pair"));
        }
        let text = value.unwrap_or_default();
        for family in ["bind-", "volume-", "tmpfs-", "image-"] {
            if key.starts_with(family) {
                self.families.push(family);
            }
        }
        match key.as_str() {
            "type" => self.kind = text.to_lowercase(),
            "source" | "src" => self.source = text.to_owned(),
            "target" | "dst" | "destination" => self.target = text.to_owned(),
            "readonly" | "ro" => self.read_only = flag(&key, value)?,
            "bind-create-src" => self.create = flag(&key, value)?,
            // It tunes how virtual machines of other systems share files.
            "consistency" => {}
            "bind-propagation" => {
                let propagation = Propagation::parse(&text.to_lowercase());
                self.propagation = Some(propagation.ok_or_else(|| format!("invalid propagation mode: {text}"))?);
            }
            "bind-nonrecursive" if flag(&key, value)? => self.recursion = Recursion::Disabled,
            "bind-nonrecursive" => {}
            "bind-recursive" => {
                self.recursion = match text {
                    "enabled" => Recursion::Enabled,
                    "disabled" => Recursion::Disabled,
                    "writable" => Recursion::Writable,
                    "readonly" => Recursion::Readonly,
                    _ => {
                        return Err(format!(
                            "invalid value for {key}: {text} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                        ));
                    }
                }
            }
            "tmpfs-size" => {
                self.tmpfs.size_bytes = Some(bytes(text).map_err(|_| format!("invalid value for {key}: {text}"))?);
            }
            "tmpfs-mode" => {
                self.tmpfs.mode = Some(octal(text).ok_or_else(|| format!("invalid value for {key}: {text}"))?);
            }
            other if other.starts_with("volume-") || other.starts_with("image-") => {}
            _ => return Err(format!("unexpected key '{key}' in '{part}'")),
        }
        Ok(())
    }

    fn finish(self, working_directory: &Path) -> Result<Mount, String> {
        if self.kind.is_empty() {
            return Err("type is required".to_owned());
        }
        if self.target.is_empty() {
            return Err("target is required".to_owned());
        }
        if let Some(family) = self.families.iter().find(|family| family.trim_end_matches('-') != self.kind) {
            return Err(format!("cannot mix '{family}*' options with mount type '{}'", self.kind));
        }
        absolute(&self.target).map_err(|why| format!("invalid mount config for type \"{}\": {why}", self.kind))?;
        self.check_recursion()?;
        let source = match self.kind.as_str() {
            "bind" if self.source.is_empty() => {
                return Err("invalid mount config for type \"bind\": field Source must not be empty".to_owned());
            }
            "bind" => MountSource::Bind {
                path: bind_source(&self.source, working_directory)?,
                create: self.create,
                propagation: self.propagation,
                recursion: self.recursion,
                relabel: None,
            },
            "tmpfs" if !self.source.is_empty() => {
                return Err("invalid mount config for type \"tmpfs\": field Source must not be specified".to_owned());
            }
            "tmpfs" => MountSource::Tmpfs(self.tmpfs),
            "volume" => MountSource::Volume((!self.source.is_empty()).then_some(self.source)),
            "image" | "npipe" | "cluster" => return Err(format!("mount type \"{}\" is not supported yet", self.kind)),
            other => return Err(format!("invalid mount config for type \"{other}\": mount type unknown")),
        };
        Ok(Mount { source, destination: self.target, read_only: self.read_only, given: Given::Mount })
    }

    /// Docker's rules: both are about read-only mounts, and what is to stay read-only cannot follow the host.
    fn check_recursion(&self) -> Result<(), String> {
        let word = match self.recursion {
            Recursion::Writable => "writable",
            Recursion::Readonly => "readonly",
            Recursion::Enabled | Recursion::Disabled => return Ok(()),
        };
        if !self.read_only {
            return Err(format!("option 'bind-recursive={word}' requires 'readonly' to be specified in conjunction"));
        }
        if self.recursion == Recursion::Readonly && self.propagation != Some(Propagation::Rprivate) {
            return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in \
                        conjunction"
                .to_owned());
        }
        Ok(())
    }
}

fn bind_source(source: &str, working_directory: &Path) -> Result<PathBuf, String> {
    if source.starts_with('/') || source.starts_with('.') {
        return Ok(working_directory.join(source));
    }
    Err(format!("invalid mount config for type \"bind\": invalid mount path: '{source}' mount path must be absolute"))
}

fn flag(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("1" | "true") => Ok(true),
        Some("0" | "false") => Ok(false),
        Some(other) => {
            Err(format!("invalid value for '{key}': invalid boolean value ({})", corten_docker::quote(other)))
        }
    }
}

/// The fields of one CSV record: `a,"b,c"`.
fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut inner = quoted;
            loop {
                let end = inner.find('"').ok_or("parse error: extraneous or missing \" in quoted-field")?;
                field.push_str(&inner[..end]);
                inner = &inner[end + 1..];
                match inner.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        inner = after;
                    }
                    None => break,
                }
            }
            fields.push(field);
            rest = inner;
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err("parse error: bare \" in non-quoted-field".to_owned());
            }
            fields.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(fields),
            None => return Err("parse error: extraneous or missing \" in quoted-field".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(path: &str, destination: &str, read_only: bool) -> Mount {
        let source = MountSource::Bind {
            path: path.into(),
            create: true,
            propagation: None,
            recursion: Recursion::Enabled,
            relabel: None,
        };
        Mount { source, destination: destination.to_owned(), read_only, given: Given::Volume }
    }

    fn volume_of(text: &str) -> Result<Mount, String> {
        volume(text, Path::new("/here"))
    }

    fn mount_of(text: &str) -> Result<Mount, String> {
        mount(text, Path::new("/here"))
    }

    #[test]
    fn a_volume_that_starts_like_a_path_is_a_bind() {
        assert_eq!(volume_of("/a:/b"), Ok(bind("/a", "/b", false)));
        assert_eq!(volume_of("./a:/b:ro"), Ok(bind("/here/./a", "/b", true)));
        let named = Mount {
            source: MountSource::Volume(Some("data".to_owned())),
            destination: "/b".to_owned(),
            read_only: false,
            given: Given::Volume,
        };
        assert_eq!(volume_of("data:/b"), Ok(named.clone()));
        assert_eq!(volume_of("/b"), Ok(Mount { source: MountSource::Volume(None), ..named }));
    }

    #[test]
    fn options_of_a_volume_do_not_contradict_each_other() {
        let Ok(Mount { source: MountSource::Bind { relabel, propagation, .. }, read_only, .. }) =
            volume_of("/a:/b:ro,Z,rshared")
        else {
            panic!("a bind");
        };
        assert_eq!((relabel, propagation, read_only), (Some(Relabel::Private), Some(Propagation::Rshared), true));
        for wrong in ["/a:/b:zz", "/a:/b:ro,rw", "/a:/b:z,Z", "/a:/b:shared,private"] {
            assert!(volume_of(wrong).unwrap_err().starts_with("invalid mode: "), "{wrong}");
        }
        assert!(volume_of("a:b:c:d").is_err());
        assert!(volume_of("/a:b").unwrap_err().contains("mount path must be absolute"));
        assert!(volume_of("/a::ro").is_err());
        assert!(volume_of("").is_err());
    }

    #[test]
    fn a_mount_is_read_key_by_key() {
        let shown =
            mount_of("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave,bind-recursive=disabled").unwrap();
        assert!(shown.read_only);
        let MountSource::Bind { path, create, propagation, recursion, .. } = shown.source else { panic!("a bind") };
        assert_eq!((path, create), (PathBuf::from("/a"), false));
        assert_eq!((propagation, recursion), (Some(Propagation::Rslave), Recursion::Disabled));
        let memory = mount_of("type=tmpfs,destination=/t,tmpfs-size=64m,tmpfs-mode=1777").unwrap();
        let options = TmpfsOptions { size_bytes: Some(64 << 20), mode: Some(0o1777), options: Vec::new() };
        assert_eq!(memory.source, MountSource::Tmpfs(options));
        assert_eq!(mount_of("type=bind,\"src=/a,b\",dst=/c").unwrap().source, {
            let MountSource::Bind { .. } = bind("/a,b", "/c", false).source else { panic!("a bind") };
            MountSource::Bind {
                path: "/a,b".into(),
                create: false,
                propagation: None,
                recursion: Recursion::Enabled,
                relabel: None,
            }
        });
    }

    #[test]
    fn a_wrong_mount_says_what_is_wrong() {
        for (text, part) in [
            ("type=bind", "target is required"),
            ("foo=bar", "unexpected key 'foo' in 'foo=bar'"),
            ("type=bind,src=/a,dst=b", "mount path must be absolute"),
            ("type=zzz,src=/tmp,dst=/b", "mount type unknown"),
            ("type=tmpfs,dst=/b,bind-propagation=shared", "cannot mix 'bind-*' options with mount type 'tmpfs'"),
            ("type=bind,src=/a,dst=/b,bind-propagation=x", "invalid propagation mode: x"),
            ("type=bind,dst=/b", "Source must not be empty"),
            ("type=tmpfs,src=/a,dst=/b", "Source must not be specified"),
            ("readonly=maybe,type=bind", "invalid boolean value"),
            ("dst", "must be a key=value pair"),
            ("type=\"bind", "parse error"),
            ("type=bind,src=/a,dst=/b,bind-recursive=writable", "requires 'readonly'"),
            ("type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly", "requires 'bind-propagation=rprivate'"),
        ] {
            assert!(mount_of(text).unwrap_err().contains(part), "{text}: {:?}", mount_of(text));
        }
    }

    #[test]
    fn tmpfs_options_are_known_words() {
        let memory = tmpfs("/x:size=64m,mode=1777,noexec,uid=5,ro").unwrap();
        let options = TmpfsOptions {
            size_bytes: Some(64 << 20),
            mode: Some(0o1777),
            options: vec!["noexec".to_owned(), "uid=5".to_owned()],
        };
        assert_eq!(
            memory,
            Mount {
                source: MountSource::Tmpfs(options),
                destination: "/x".to_owned(),
                read_only: true,
                given: Given::Tmpfs("size=64m,mode=1777,noexec,uid=5,ro".to_owned()),
            }
        );
        assert_eq!(tmpfs("/x:foo"), Err("invalid tmpfs option \"foo\"".to_owned()));
        assert!(tmpfs("x").is_err());
        assert!(tmpfs("/x").is_ok());
    }
}
