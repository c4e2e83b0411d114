//! System call profiles as docker has them: rules that hold for some containers only, by capability, architecture and
//! kernel. Here they become what the runtime reads; docker's own default is in `default_profile.rs`.

use corten_types::runtime_spec::{Seccomp, SeccompArg, SeccompRule, parse_document};
use corten_types::{Error, Result};
use serde::{Deserialize, Deserializer};

use super::default_profile as builtin;

/// A kernel's version: first and second number.
pub type KernelVersion = (u32, u32);

/// Docker's default profile for a container with `capabilities` (`CAP_…`) on a kernel of version (major, minor).
pub fn default_profile(capabilities: &[&str], kernel: KernelVersion) -> Seccomp {
    builtin::profile(&Host { architecture: Architecture::native(), capabilities, kernel })
}

/// A user's profile (`--security-opt seccomp=FILE`) in docker's format, resolved as [`default_profile`] is.
///
/// A profile without default action and rules is none, as docker reads it: the result is then the default value.
pub fn user_profile(json: &[u8], capabilities: &[&str], kernel: KernelVersion) -> Result<Seccomp> {
    let profile: Profile = parse_document(json, "seccomp profile")?;
    profile.resolve(&Host { architecture: Architecture::native(), capabilities, kernel })
}

/// What rules can ask about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Host<'a> {
    pub architecture: &'static Architecture,
    pub capabilities: &'a [&'a str],
    pub kernel: KernelVersion,
}

/// An architecture, as rules name it and as filters name it.
#[derive(Debug)]
pub(super) struct Architecture {
    pub name: &'static str,
    pub filter: &'static str,
}

impl Architecture {
    fn native() -> &'static Self {
        let name = match std::env::consts::ARCH {
            "x86" => "x86",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "powerpc" => "ppc",
            "mips64" if cfg!(target_endian = "little") => "mipsel64",
            other @ ("arm" | "riscv64" | "loongarch64" | "s390x" | "mips64") => other,
            _ => "amd64",
        };
        Self::named(name)
    }

    pub(super) fn named(name: &str) -> &'static Self {
        ARCHITECTURES.iter().find(|architecture| architecture.name == name).unwrap_or(&ARCHITECTURES[0])
    }
}

const fn architecture(name: &'static str, filter: &'static str) -> Architecture {
    Architecture { name, filter }
}

static ARCHITECTURES: [Architecture; 12] = [
    architecture("amd64", "SCMP_ARCH_X86_64"),
    architecture("x86", "SCMP_ARCH_X86"),
    architecture("arm64", "SCMP_ARCH_AARCH64"),
    architecture("arm", "SCMP_ARCH_ARM"),
    architecture("riscv64", "SCMP_ARCH_RISCV64"),
    architecture("loongarch64", "SCMP_ARCH_LOONGARCH64"),
    architecture("ppc64le", "SCMP_ARCH_PPC64LE"),
    architecture("ppc64", "SCMP_ARCH_PPC64"),
    architecture("ppc", "SCMP_ARCH_PPC"),
    architecture("s390x", "SCMP_ARCH_S390X"),
    architecture("mips64", "SCMP_ARCH_MIPS64"),
    architecture("mipsel64", "SCMP_ARCH_MIPSEL64"),
];

/// Where a rule holds, or does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Condition<'a, S> {
    pub capabilities: &'a [S],
    pub architectures: &'a [S],
    pub kernel: Option<KernelVersion>,
}

impl Host<'_> {
    /// Whether every condition of an `includes` holds.
    pub(super) fn meets<S: AsRef<str>>(&self, includes: &Condition<'_, S>) -> bool {
        let architectures = includes.architectures;
        (architectures.is_empty() || architectures.iter().any(|name| name.as_ref() == self.architecture.name))
            && includes.capabilities.iter().all(|name| self.capabilities.contains(&name.as_ref()))
            && includes.kernel.is_none_or(|kernel| self.kernel >= kernel)
    }

    /// Whether any condition of an `excludes` holds.
    pub(super) fn is_excluded<S: AsRef<str>>(&self, excludes: &Condition<'_, S>) -> bool {
        excludes.architectures.iter().any(|name| name.as_ref() == self.architecture.name)
            || excludes.capabilities.iter().any(|name| self.capabilities.contains(&name.as_ref()))
            || excludes.kernel.is_some_and(|kernel| self.kernel >= kernel)
    }
}

/// A profile in docker's format: the runtime specification's, with conditions.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arch_map: Vec<ArchitectureMap>,
    flags: Option<Vec<String>>,
    listener_path: String,
    listener_metadata: String,
    #[serde(deserialize_with = "nullable")]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ArchitectureMap {
    architecture: String,
    #[serde(deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    /// The old form of `names`.
    name: String,
    #[serde(deserialize_with = "nullable")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    args: Vec<SeccompArg>,
    #[serde(deserialize_with = "nullable")]
    includes: Filter,
    #[serde(deserialize_with = "nullable")]
    excludes: Filter,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    #[serde(deserialize_with = "nullable")]
    caps: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    arches: Vec<String>,
    #[serde(deserialize_with = "kernel_version")]
    min_kernel: Option<KernelVersion>,
}

impl Filter {
    fn condition(&self) -> Condition<'_, String> {
        Condition { capabilities: &self.caps, architectures: &self.arches, kernel: self.min_kernel }
    }
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

fn kernel_version<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<KernelVersion>, D::Error> {
    let text: Option<String> = Option::deserialize(reader)?;
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let version = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
    match version {
        None | Some((0, 0)) => {
            Err(serde::de::Error::custom(format!("`{text}` is no kernel version, expected `MAJOR.MINOR`")))
        }
        version => Ok(version),
    }
}

fn number(digits: &str) -> Option<u32> {
    digits.parse::<u8>().ok().filter(|_| !digits.starts_with('+')).map(u32::from)
}

impl Profile {
    fn resolve(self, host: &Host<'_>) -> Result<Seccomp> {
        if self.default_action.is_empty() && self.syscalls.is_empty() {
            return Ok(Seccomp::default());
        }
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return Err(Error::invalid("the seccomp profile has both `architectures` and `archMap`")
                .hint("use either `architectures` or `archMap`"));
        }
        let mut architectures = self.architectures;
        if let Some(map) = self.arch_map.into_iter().find(|map| map.architecture == host.architecture.filter) {
            architectures.push(map.architecture);
            architectures.extend(map.sub_architectures);
        }
        let mut syscalls = Vec::with_capacity(self.syscalls.len());
        for (index, rule) in self.syscalls.into_iter().enumerate() {
            let names = rule_names(index, rule.name, rule.names)?;
            if host.meets(&rule.includes.condition()) && !host.is_excluded(&rule.excludes.condition()) {
                let (action, errno_ret, args) = (rule.action, rule.errno_ret, rule.args);
                syscalls.push(SeccompRule { names, action, errno_ret, args });
            }
        }
        Ok(Seccomp {
            default_action: self.default_action,
            default_errno_ret: self.default_errno_ret,
            architectures,
            flags: self.flags,
            listener_path: self.listener_path,
            listener_metadata: self.listener_metadata,
            syscalls,
        })
    }
}

fn rule_names(index: usize, name: String, names: Vec<String>) -> Result<Vec<String>> {
    match (name.is_empty(), names.is_empty()) {
        (true, _) => Ok(names),
        (false, true) => Ok(vec![name]),
        (false, false) => {
            Err(Error::invalid(format!("`syscalls[{index}]` of the seccomp profile has both `name` and `names`"))
                .hint("use either `name` or `names`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host<'_> = Host { architecture: &ARCHITECTURES[0], capabilities: &["CAP_CHOWN"], kernel: (6, 1) };

    fn resolve(json: &str) -> Result<Seccomp> {
        parse_document::<Profile>(json.as_bytes(), "seccomp profile")?.resolve(&HOST)
    }

    fn rule_with(condition: &str) -> String {
        format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",{condition}}}]}}"#
        )
    }

    fn kept(condition: &str) -> bool {
        !resolve(&rule_with(condition)).unwrap().syscalls.is_empty()
    }

    #[test]
    fn rules_hold_where_their_conditions_do() {
        assert!(kept(r#""includes":{},"excludes":null,"args":null,"comment":"free""#));
        assert!(kept(r#""includes":{"caps":["CAP_CHOWN"],"arches":["s390","amd64"],"minKernel":"6.1"}"#));
        assert!(!kept(r#""includes":{"caps":["CAP_CHOWN","CAP_BPF"]}"#));
        assert!(!kept(r#""includes":{"arches":["arm64"]}"#));
        assert!(!kept(r#""includes":{"minKernel":"6.2"}"#));
        assert!(kept(r#""includes":{"minKernel":"5.19"}"#));
        assert!(!kept(r#""excludes":{"caps":["CAP_BPF","CAP_CHOWN"]}"#));
        assert!(!kept(r#""excludes":{"arches":["amd64"]}"#));
        assert!(!kept(r#""excludes":{"minKernel":"4.8"}"#));
        assert!(kept(r#""excludes":{"minKernel":"7.0","caps":["CAP_BPF"],"arches":["x86"]}"#));
    }

    #[test]
    fn the_map_of_architectures_gives_those_of_this_machine() {
        let map = r#""archMap":[{"architecture":"SCMP_ARCH_ARM","subArchitectures":null},
            {"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"]}]"#;
        let profile = resolve(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{map},"syscalls":null}}"#)).unwrap();
        assert_eq!(profile.architectures, ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
        let both = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW",{map},"architectures":["SCMP_ARCH_ARM"]}}"#);
        assert_eq!(resolve(&both).unwrap_err().message(), "the seccomp profile has both `architectures` and `archMap`");
    }

    #[test]
    fn the_old_form_names_one_call() {
        let old = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"name":"read","action":"SCMP_ACT_ALLOW"}]}"#;
        assert_eq!(resolve(old).unwrap().syscalls[0].names, ["read"]);
        let both = rule_with(r#""name":"write""#);
        assert_eq!(
            resolve(&both).unwrap_err().message(),
            "`syscalls[0]` of the seccomp profile has both `name` and `names`"
        );
    }

    #[test]
    fn everything_else_is_handed_on() {
        let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"architectures":["SCMP_ARCH_ARM"],
            "flags":["SECCOMP_FILTER_FLAG_LOG"],"listenerPath":"/agent","listenerMetadata":"m","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_TRACE","errnoRet":7,
             "args":[{"index":1,"value":2,"valueTwo":3,"op":"SCMP_CMP_MASKED_EQ"}]}]}"#;
        let same: serde_json::Value = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_value(resolve(json).unwrap()).unwrap(), same);
    }

    #[test]
    fn an_empty_profile_is_none() {
        assert_eq!(resolve("{}").unwrap(), Seccomp::default());
    }

    #[test]
    fn faults_are_named_by_their_field() {
        let message = |json: &str| resolve(json).unwrap_err().message().to_owned();
        let kernel = message(&rule_with(r#""includes":{"minKernel":"4"}"#));
        assert!(kernel.starts_with("`syscalls[0].includes.minKernel` in `seccomp profile`"), "{kernel}");
        assert!(kernel.contains("`4` is no kernel version"), "{kernel}");
        for version in ["0.0", "4.8.1", "4.x", "300.1", "-1.2", "+4.8"] {
            assert!(resolve(&rule_with(&format!(r#""includes":{{"minKernel":"{version}"}}"#))).is_err(), "{version}");
        }
        let index = message(&rule_with(r#""args":[{"index":-1,"value":2,"op":"SCMP_CMP_EQ"}]"#));
        assert!(index.starts_with("`syscalls[0].args[0].index` in `seccomp profile`"), "{index}");
        assert!(message("[").contains("`seccomp profile` is not a valid document"));
    }
}
