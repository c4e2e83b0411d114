//! The checked form of a profile: every word of `linux.seccomp` understood, or the field named that is not.

use corten_types::runtime_spec::{Seccomp, SeccompArg, SeccompRule};
use corten_types::{Error, ErrorKind, Result};

use super::architecture::{self, Architecture};

/// What the kernel returns for a call (`SECCOMP_RET_*`), data included.
pub(super) type Action = u32;

pub(super) const KILL_THREAD: Action = 0;
pub(super) const ERRNO: Action = 0x0005_0000;
pub(super) const NOTIFY: Action = 0x7fc0_0000;
const TRACE: Action = 0x7ff0_0000;
const LOG: Action = 0x7ffc_0000;
const ALLOW: Action = 0x7fff_0000;

/// Sorted by name.
const ACTIONS: [(&str, Action); 9] = [
    ("SCMP_ACT_ALLOW", ALLOW),
    ("SCMP_ACT_ERRNO", ERRNO),
    ("SCMP_ACT_KILL", KILL_THREAD),
    ("SCMP_ACT_KILL_PROCESS", 0x8000_0000),
    ("SCMP_ACT_KILL_THREAD", KILL_THREAD),
    ("SCMP_ACT_LOG", LOG),
    ("SCMP_ACT_NOTIFY", NOTIFY),
    ("SCMP_ACT_TRACE", TRACE),
    ("SCMP_ACT_TRAP", 0x0003_0000),
];

/// Names of the actions, sorted.
pub(super) const ACTION_NAMES: [&str; ACTIONS.len()] = names(&ACTIONS);

const fn names<const N: usize>(table: &[(&'static str, u32); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut index = 0;
    while index < N {
        names[index] = table[index].0;
        index += 1;
    }
    names
}

/// Names of the operators, sorted.
pub(super) const OPERATOR_NAMES: [&str; 7] =
    ["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// Flags that a profile may name, in runc's order, with the kernel's bit. TSYNC means nothing to a process of one thread.
pub(super) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", WAIT_KILLABLE),
];

/// Names of the flags.
pub(super) const FLAG_NAMES: [&str; FLAGS.len()] = names(&FLAGS);

pub(super) const SPEC_ALLOW: u32 = 1 << 2;
pub(super) const WAIT_KILLABLE: u32 = 1 << 5;

/// Highest error number that a system call can return.
const ERRNO_MAX: u32 = 4095;

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// Equal in the bits of the mask.
    Masked(u64),
}

/// One comparison of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub index: u8,
    pub operator: Operator,
    pub value: u64,
}

/// One entry of `syscalls`.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    /// Place in `syscalls`, for errors.
    pub position: usize,
    pub names: &'a [String],
    pub action: Action,
    /// Each a conjunction, at most one comparison an argument, by argument; the rule matches where any of them holds.
    pub alternatives: Vec<Vec<Condition>>,
}

/// A checked profile.
#[derive(Debug)]
pub(super) struct Profile<'a> {
    pub default: Action,
    /// The native one first.
    pub architectures: Vec<&'static Architecture>,
    pub flags: u32,
    /// Those of `flags` that the profile did not ask for itself.
    pub optional_flags: u32,
    pub rules: Vec<Rule<'a>>,
    pub notify: bool,
}

impl<'a> Profile<'a> {
    /// Checks `seccomp` for a machine of architecture `native`.
    pub(super) fn check(seccomp: &'a Seccomp, native: &'static Architecture) -> Result<Self> {
        let default = action(&seccomp.default_action, seccomp.default_errno_ret, "linux.seccomp", "default")?;
        if default == NOTIFY {
            return Err(Error::invalid(
                "`linux.seccomp.defaultAction`: SCMP_ACT_NOTIFY cannot be used as default action",
            )
            .hint("list the system calls to notify of in `linux.seccomp.syscalls`"));
        }
        let mut rules = Vec::with_capacity(seccomp.syscalls.len());
        for (position, rule) in seccomp.syscalls.iter().enumerate() {
            rules.push(check_rule(rule, position)?);
        }
        let notify = rules.iter().any(|rule| rule.action == NOTIFY);
        check_listener(seccomp, notify)?;
        let (flags, optional_flags) = flags(seccomp.flags.as_deref(), notify)?;
        let architectures = architectures(&seccomp.architectures, native)?;
        Ok(Self { default, architectures, flags, optional_flags, rules, notify })
    }

    /// Whether calls that no rule names run, so that new ones need no ENOSYS. A tracer answers for itself, as runc has it.
    pub(super) fn is_permissive(&self) -> bool {
        matches!(self.default & 0xffff_0000, ALLOW | LOG | TRACE)
    }
}

/// The action `name` with its data; `field` and `prefix` name the place in an error.
fn action(name: &str, errno: Option<u32>, field: &str, prefix: &str) -> Result<Action> {
    let place = |word: &str| match prefix {
        "" => format!("{field}.{word}"),
        _ => format!("{field}.{prefix}{}{}", word[..1].to_uppercase(), &word[1..]),
    };
    let Some((_, action)) = ACTIONS.iter().find(|(known, _)| *known == name) else {
        return Err(Error::invalid(format!("`{}`: unknown action `{name}`", place("action")))
            .hint(format!("known actions: {}", ACTION_NAMES.join(", "))));
    };
    let limit = match (*action, errno) {
        (ERRNO, _) => ERRNO_MAX,
        (TRACE, _) => u32::from(u16::MAX),
        (_, None) => return Ok(*action),
        (_, Some(_)) => {
            let message = format!("`{}`: the action `{name}` takes no error number", place("errnoRet"));
            return Err(Error::invalid(message).hint("only SCMP_ACT_ERRNO and SCMP_ACT_TRACE take one"));
        }
    };
    const EPERM: u32 = 1;
    match errno.unwrap_or(EPERM) {
        data if data <= limit => Ok(action | data),
        data => Err(Error::invalid(format!("`{}`: {data} is too large, at most {limit}", place("errnoRet")))),
    }
}

fn check_rule(rule: &SeccompRule, position: usize) -> Result<Rule<'_>> {
    let field = format!("linux.seccomp.syscalls[{position}]");
    let action = action(&rule.action, rule.errno_ret, &field, "")?;
    if rule.names.is_empty() {
        return Err(Error::invalid(format!("`{field}.names` names no system call")));
    }
    if let Some(index) = rule.names.iter().position(String::is_empty) {
        return Err(Error::invalid(format!("`{field}.names[{index}]` is empty")));
    }
    // The process that loads the filter still has to write to the runtime which descriptor the listener is to have.
    if action == NOTIFY && rule.names.iter().any(|name| name == "write") {
        let message = format!("`{field}.names`: SCMP_ACT_NOTIFY cannot be used for the write syscall");
        return Err(Error::invalid(message).hint("the runtime hands the listener over with it"));
    }
    let mut conditions = Vec::with_capacity(rule.args.len());
    for (index, arg) in rule.args.iter().enumerate() {
        conditions.push(check_condition(arg, || format!("{field}.args[{index}]"))?);
    }
    Ok(Rule { position, names: &rule.names, action, alternatives: alternatives(conditions) })
}

fn check_condition(arg: &SeccompArg, field: impl Fn() -> String) -> Result<Condition> {
    let index = match u8::try_from(arg.index) {
        Ok(index @ 0..=5) => index,
        _ => return Err(Error::invalid(format!("`{}.index`: {} is not 0 to 5", field(), arg.index))),
    };
    let (operator, value) = match arg.op.as_str() {
        "SCMP_CMP_EQ" => (Operator::Equal, arg.value),
        "SCMP_CMP_NE" => (Operator::NotEqual, arg.value),
        "SCMP_CMP_LT" => (Operator::Less, arg.value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, arg.value),
        "SCMP_CMP_GT" => (Operator::Greater, arg.value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, arg.value),
        "SCMP_CMP_MASKED_EQ" => (Operator::Masked(arg.value), arg.value_two & arg.value),
        other => {
            return Err(Error::invalid(format!("`{}.op`: unknown operator `{other}`", field()))
                .hint(format!("known operators: {}", OPERATOR_NAMES.join(", "))));
        }
    };
    Ok(Condition { index, operator, value })
}

/// All conditions at once; where two are about the same argument, each on its own (what runc and crun do).
fn alternatives(mut conditions: Vec<Condition>) -> Vec<Vec<Condition>> {
    conditions.sort_by_key(|condition| condition.index);
    match conditions.windows(2).any(|pair| pair[0].index == pair[1].index) {
        true => conditions.into_iter().map(|condition| vec![condition]).collect(),
        false => vec![conditions],
    }
}

fn check_listener(seccomp: &Seccomp, notify: bool) -> Result<()> {
    if notify && seccomp.listener_path.is_empty() {
        return Err(Error::invalid("`linux.seccomp.listenerPath` is empty, but a rule has the action SCMP_ACT_NOTIFY")
            .hint("name the Unix socket of a seccomp agent"));
    }
    if seccomp.listener_path.is_empty() && !seccomp.listener_metadata.is_empty() {
        return Err(Error::invalid("`linux.seccomp.listenerMetadata` is set, but `linux.seccomp.listenerPath` is not"));
    }
    Ok(())
}

/// The flags, and those among them that the profile did not ask for itself.
fn flags(names: Option<&[String]>, notify: bool) -> Result<(u32, u32)> {
    // Without a word from the profile runc keeps speculation as it is: the mitigation costs much and guards little.
    let Some(names) = names else { return Ok((SPEC_ALLOW, SPEC_ALLOW)) };
    let mut flags = 0;
    for (index, name) in names.iter().enumerate() {
        let Some((_, flag)) = FLAGS.iter().find(|(known, _)| known == name) else {
            return Err(Error::invalid(format!("`linux.seccomp.flags[{index}]`: unknown flag `{name}`"))
                .hint(format!("known flags: {}", FLAG_NAMES.join(", "))));
        };
        if !corten_sys::seccomp::flag_available(*flag) {
            let message = format!("`linux.seccomp.flags[{index}]`: this kernel does not know `{name}`");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("leave the flag out, or run a newer kernel"));
        }
        flags |= flag;
    }
    // The kernel takes it only together with a listener, and it says how one waits.
    if !notify {
        flags &= !WAIT_KILLABLE;
    }
    Ok((flags, 0))
}

/// The native architecture and those listed, each once.
fn architectures(names: &[String], native: &'static Architecture) -> Result<Vec<&'static Architecture>> {
    let mut listed = vec![native];
    for (index, name) in names.iter().enumerate() {
        let Some(architecture) = architecture::by_name(name) else {
            let message = format!("`linux.seccomp.architectures[{index}]`: unknown architecture `{name}`");
            return Err(
                Error::invalid(message).hint(format!("known architectures: {}", architecture::NAMES.join(", ")))
            );
        };
        if architecture.big_endian != native.big_endian {
            let message = format!(
                "`linux.seccomp.architectures[{index}]`: `{name}` has another byte order than this machine's `{}`",
                native.name
            );
            return Err(Error::invalid(message).hint("leave it out: no program of it can run here"));
        }
        if !listed.contains(&architecture) {
            listed.push(architecture);
        }
    }
    Ok(listed)
}
