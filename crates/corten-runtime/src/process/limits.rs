//! Resource limits, scheduling, I/O priority, NUMA policy and personality of the program: checked, then set.

use corten_sys::Call as _;
use corten_sys::process::{self, SchedulerAttributes};
use corten_types::runtime_spec::{IoPriority, MemoryPolicy, Personality, Rlimit, Scheduler};
use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::process::{Pid, Resource, Rlimit as Limit};

const RESOURCES: [(&str, Resource); 16] = [
    ("RLIMIT_CPU", Resource::Cpu),
    ("RLIMIT_FSIZE", Resource::Fsize),
    ("RLIMIT_DATA", Resource::Data),
    ("RLIMIT_STACK", Resource::Stack),
    ("RLIMIT_CORE", Resource::Core),
    ("RLIMIT_RSS", Resource::Rss),
    ("RLIMIT_NPROC", Resource::Nproc),
    ("RLIMIT_NOFILE", Resource::Nofile),
    ("RLIMIT_MEMLOCK", Resource::Memlock),
    ("RLIMIT_AS", Resource::As),
    ("RLIMIT_LOCKS", Resource::Locks),
    ("RLIMIT_SIGPENDING", Resource::Sigpending),
    ("RLIMIT_MSGQUEUE", Resource::Msgqueue),
    ("RLIMIT_NICE", Resource::Nice),
    ("RLIMIT_RTPRIO", Resource::Rtprio),
    ("RLIMIT_RTTIME", Resource::Rttime),
];

/// One limit, its name for messages.
#[derive(Debug)]
pub(crate) struct LimitPlan {
    name: &'static str,
    resource: Resource,
    soft: u64,
    hard: u64,
}

impl LimitPlan {
    pub(crate) fn build(limits: &[Rlimit]) -> Result<Vec<Self>> {
        let mut plans: Vec<Self> = Vec::new();
        for (index, limit) in limits.iter().enumerate() {
            let field = format!("process.rlimits[{index}]");
            let Some((name, resource)) = RESOURCES.into_iter().find(|(name, _)| *name == limit.kind) else {
                return Err(Error::invalid(format!("`{field}.type` is no resource limit: `{}`", limit.kind)));
            };
            if plans.iter().any(|plan| plan.name == name) {
                return Err(Error::invalid(format!("`{field}` sets `{name}` a second time")));
            }
            if limit.soft > limit.hard {
                return Err(Error::invalid(format!(
                    "`{field}`: soft limit {} is above hard {}",
                    limit.soft, limit.hard
                )));
            }
            plans.push(Self { name, resource, soft: limit.soft, hard: limit.hard });
        }
        Ok(plans)
    }

    /// Sets it on `pid`, from outside: inside a user namespace no hard limit can be raised.
    pub(crate) fn apply(&self, pid: Pid) -> Result<()> {
        let value = |number: u64| (number != u64::MAX).then_some(number);
        let limit = Limit { current: value(self.soft), maximum: value(self.hard) };
        let result = rustix::process::prlimit(Some(pid), self.resource, limit)
            .call(|| format!("prlimit({}, {{soft {}, hard {}}})", self.name, self.soft, self.hard));
        let Err(error) = result else { return Ok(()) };
        let error = match rustix::process::getrlimit(self.resource).maximum {
            Some(maximum) if error.errno() == Some(1) => error.hint(format!(
                "without CAP_SYS_RESOURCE the hard limit of {} cannot be raised above {maximum}",
                self.name
            )),
            _ => error,
        };
        Err(error.context("cannot set `process.rlimits`"))
    }
}

const POLICIES: [(&str, u32); 7] = [
    ("SCHED_OTHER", 0),
    ("SCHED_FIFO", 1),
    ("SCHED_RR", 2),
    ("SCHED_BATCH", 3),
    ("SCHED_ISO", 4),
    ("SCHED_IDLE", 5),
    ("SCHED_DEADLINE", 6),
];

const SCHEDULER_FLAGS: [(&str, u64); 7] = [
    ("SCHED_FLAG_RESET_ON_FORK", 0x01),
    ("SCHED_FLAG_RECLAIM", 0x02),
    ("SCHED_FLAG_DL_OVERRUN", 0x04),
    ("SCHED_FLAG_KEEP_POLICY", 0x08),
    ("SCHED_FLAG_KEEP_PARAMS", 0x10),
    ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
    ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
];

/// Finds a word in a table; an error names the field and the word.
fn lookup<T: Copy>(table: &[(&str, T)], word: &str, field: &str) -> Result<T> {
    let found = table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("`{field}` has an unknown value `{word}`"))
            .hint(format!("known are {}", names.join(", ")))
    })
}

/// The attributes for sched_setattr(2).
pub(crate) fn scheduler(scheduler: &Scheduler) -> Result<SchedulerAttributes> {
    let policy = lookup(&POLICIES, &scheduler.policy, "process.scheduler.policy")?;
    let real_time = matches!(policy, 1 | 2);
    if !(-20..=19).contains(&scheduler.nice) {
        return Err(Error::invalid(format!("`process.scheduler.nice` is {}; it goes from -20 to 19", scheduler.nice)));
    }
    if scheduler.priority != 0 && (!real_time || !(1..=99).contains(&scheduler.priority)) {
        return Err(Error::invalid(format!(
            "`process.scheduler.priority` is {}; it goes from 1 to 99 and with SCHED_FIFO and SCHED_RR only",
            scheduler.priority
        )));
    }
    if policy != 6 && (scheduler.runtime, scheduler.deadline, scheduler.period) != (0, 0, 0) {
        return Err(Error::invalid(
            "`process.scheduler` has a runtime, deadline or period, which only SCHED_DEADLINE takes",
        ));
    }
    let mut flags = 0;
    for flag in &scheduler.flags {
        flags |= lookup(&SCHEDULER_FLAGS, flag, "process.scheduler.flags")?;
    }
    Ok(SchedulerAttributes {
        policy,
        flags,
        nice: scheduler.nice,
        priority: scheduler.priority.unsigned_abs(),
        runtime: scheduler.runtime,
        deadline: scheduler.deadline,
        period: scheduler.period,
        ..SchedulerAttributes::default()
    })
}

const IO_CLASSES: [(&str, u32); 3] = [("IOPRIO_CLASS_RT", 1), ("IOPRIO_CLASS_BE", 2), ("IOPRIO_CLASS_IDLE", 3)];

/// Class and priority for ioprio_set(2).
pub(crate) fn io_priority(priority: &IoPriority) -> Result<(u32, u32)> {
    let class = lookup(&IO_CLASSES, &priority.class, "process.ioPriority.class")?;
    match u32::try_from(priority.priority) {
        Ok(level @ 0..=7) => Ok((class, level)),
        _ => Err(Error::invalid(format!("`process.ioPriority.priority` is {}, not 0 to 7", priority.priority))),
    }
}

const MEMORY_MODES: [(&str, i32); 7] = [
    ("MPOL_DEFAULT", 0),
    ("MPOL_PREFERRED", 1),
    ("MPOL_BIND", 2),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

const MEMORY_FLAGS: [(&str, i32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

/// Names of the NUMA modes and mode flags, for `features`.
pub(crate) fn memory_policy_names() -> (Vec<&'static str>, Vec<&'static str>) {
    (MEMORY_MODES.iter().map(|mode| mode.0).collect(), MEMORY_FLAGS.iter().map(|flag| flag.0).collect())
}

/// Mode with flags and node mask for set_mempolicy(2).
pub(crate) fn memory_policy(policy: &MemoryPolicy) -> Result<(i32, Vec<u64>)> {
    let mut mode = lookup(&MEMORY_MODES, &policy.mode, "linux.memoryPolicy.mode")
        .context(|| format!("invalid memory policy mode \"{}\"", policy.mode))?;
    let takes_no_nodes = matches!(policy.mode.as_str(), "MPOL_DEFAULT" | "MPOL_LOCAL");
    for flag in &policy.flags {
        mode |= lookup(&MEMORY_FLAGS, flag, "linux.memoryPolicy.flags")
            .context(|| format!("invalid memory policy flag \"{flag}\""))?;
    }
    let mut mask = Vec::new();
    if !policy.nodes.is_empty() {
        let nodes = list("linux.memoryPolicy.nodes", &policy.nodes, 1023)
            .context(|| format!("invalid memory policy node \"{}\"", policy.nodes))?;
        if takes_no_nodes {
            let message = format!("{} mode requires 0 nodes but got {}", policy.mode, nodes.len());
            return Err(Error::invalid(message).hint("leave `linux.memoryPolicy.nodes` out"));
        }
        for node in nodes {
            let word = node / 64;
            if mask.len() <= word {
                mask.resize(word + 1, 0);
            }
            mask[word] |= 1 << (node % 64);
        }
    }
    Ok((mode, mask))
}

/// Numbers of a list such as `0-3,7` (cpuset(7), "List format").
pub(crate) fn list(field: &str, text: &str, last: usize) -> Result<Vec<usize>> {
    let bad = || Error::invalid(format!("`{field}` is not a list such as `0-3,7`: `{text}`"));
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let from: usize = from.trim().parse().map_err(|_| bad())?;
        let to: usize = to.trim().parse().map_err(|_| bad())?;
        if from > to || to > last {
            return Err(bad());
        }
        numbers.extend(from..=to);
    }
    Ok(numbers)
}

/// The persona for personality(2).
pub(crate) fn personality(personality: &Personality) -> Result<u64> {
    if !personality.flags.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, "`linux.personality.flags` has no defined value"));
    }
    lookup(&[("LINUX", 0), ("LINUX32", 8)], &personality.domain, "linux.personality.domain")
}

/// Everything of this module in one place: what is set on the process itself before its user changes.
#[derive(Debug, Default)]
pub(crate) struct AttributePlan {
    pub(crate) scheduler: Option<SchedulerAttributes>,
    pub(crate) io_priority: Option<(u32, u32)>,
    pub(crate) memory_policy: Option<(i32, Vec<u64>)>,
    pub(crate) personality: Option<u64>,
    /// The cgroup has some of the machine's CPUs alone.
    pub(crate) chosen_cpus: bool,
}

impl AttributePlan {
    /// The kernel gives a deadline to processes that may run on every CPU alone (sched_setattr(2), EPERM).
    fn blame_cpus(&self, error: Error) -> Error {
        if self.chosen_cpus && error.errno() == Some(rustix::io::Errno::PERM.raw_os_error()) {
            return error
                .context("process scheduler can't be used together with AllowedCPUs")
                .hint("remove `process.scheduler` or `linux.resources.cpu.cpus`");
        }
        error
    }

    pub(crate) fn apply(&self) -> Result<()> {
        if let Some(attributes) = self.scheduler {
            let set = process::set_scheduler(attributes).call(|| format!("sched_setattr({attributes:?})"));
            set.map_err(|error| self.blame_cpus(error))?;
        }
        if let Some((class, level)) = self.io_priority {
            process::set_io_priority(class, level).call(|| format!("ioprio_set(class {class}, level {level})"))?;
        }
        if let Some(persona) = self.personality {
            process::set_personality(persona).call(|| format!("personality({persona:#x})"))?;
        }
        if let Some((mode, nodes)) = &self.memory_policy {
            process::set_memory_policy(*mode, nodes).call(|| format!("set_mempolicy({mode:#x}, {nodes:x?})"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_limit_above_the_hard_one_is_refused_by_name() {
        let limits = [Rlimit { kind: "RLIMIT_NOFILE".into(), soft: 10, hard: 5 }];
        let error = LimitPlan::build(&limits).unwrap_err();
        assert_eq!(error.message(), "`process.rlimits[0]`: soft limit 10 is above hard 5");
    }

    #[test]
    fn a_list_has_single_numbers_and_ranges() {
        assert_eq!(list("f", "0-2,5", 9).unwrap(), [0, 1, 2, 5]);
        for bad in ["", "a", "3-1", "0-99999999", "1,,2", "-1"] {
            assert!(list("f", bad, 9).is_err(), "{bad}");
        }
    }

    #[test]
    fn nodes_become_a_mask() {
        let policy =
            MemoryPolicy { mode: "MPOL_BIND".into(), nodes: "0,65".into(), flags: vec!["MPOL_F_STATIC_NODES".into()] };
        assert_eq!(memory_policy(&policy).unwrap(), (2 | 1 << 15, vec![1, 2]));
    }
}
