//! From a checked profile to a program: per architecture, numbers that end the same way become one range of a tree.
//!
//! What libseccomp and runc make of a profile is what profiles are written for, so their reading holds here:
//! a rule with the default's action says nothing; a rule without conditions beats every other rule of its call, and the
//! first such rule the later ones; conditions are tried most specific first ([`precedence`]); a call of an architecture
//! that is not listed kills; a call newer than every name of the profile fails with ENOSYS.

use std::cmp::Ordering;

use corten_sys::seccomp::Instruction;
use corten_types::{Error, ErrorKind, Result};

use super::architecture::{Architecture, SystemCall, X32_BIT, system_call_after};
use super::profile::{Action, Condition, ERRNO, KILL_THREAD, Operator, Profile, Rule};
use super::program::{Layout, Program, Target};

/// Most instructions that the kernel takes (BPF_MAXINSNS).
const INSTRUCTIONS_MAX: usize = 4096;

const UNKNOWN_CALL: Action = ERRNO | 38; // ENOSYS

/// One rule's word on one number.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: u32,
    rule: usize,
    /// For a multiplexer: the first argument that stands for the call.
    call: Option<u64>,
}

/// How a number's fate is decided.
#[derive(Debug)]
enum Decision {
    Always(Action),
    Alternatives(Vec<(Vec<Condition>, Action)>),
}

/// The program of `profile`.
pub(super) fn program(profile: &Profile<'_>) -> Result<Vec<Instruction>> {
    let calls = resolve(profile);
    let mut program = Program::default();
    let mut sections: Vec<(u32, Target)> = Vec::new();
    // Last to first, so that the native architecture comes to lie beside the start.
    for architecture in profile.architectures.iter().rev() {
        if is_x32(architecture) {
            continue;
        }
        let ranges = ranges(profile, architecture, &calls, &mut program)?;
        sections.push((architecture.token, program.numbers(&ranges)));
    }
    sections.reverse();
    let program = program.dispatch(&sections, KILL_THREAD);
    check_length(program.len())?;
    Ok(program)
}

fn is_x32(architecture: &Architecture) -> bool {
    architecture.token == 0xc000_003e && !architecture.wide
}

fn check_length(instructions: usize) -> Result<()> {
    if instructions <= INSTRUCTIONS_MAX {
        return Ok(());
    }
    let message = format!(
        "`linux.seccomp.syscalls`: the rules need {instructions} or more instructions, the kernel takes {INSTRUCTIONS_MAX}"
    );
    Err(Error::new(ErrorKind::Exhausted, message).hint("use fewer conditions on arguments, or fewer architectures"))
}

/// Every name of the profile that exists on any architecture, with the place of its rule.
///
/// A name that is unknown belongs to a newer kernel than this table, and to none that its program could run on.
fn resolve(profile: &Profile<'_>) -> Vec<(SystemCall, usize)> {
    let mut calls = Vec::with_capacity(profile.rules.iter().map(|rule| rule.names.len()).sum());
    let mut place = 0;
    for (rule, entry) in profile.rules.iter().enumerate() {
        let known = entry.names.iter().filter_map(|name| system_call_after(&mut place, name));
        calls.extend(known.map(|call| (call, rule)));
    }
    calls
}

/// The ranges of one section: its own numbers, and for x86_64 those of x32 above them.
fn ranges(
    profile: &Profile<'_>,
    architecture: &'static Architecture,
    calls: &[(SystemCall, usize)],
    program: &mut Program,
) -> Result<Vec<(u32, Target)>> {
    let mut ranges = Ranges::default();
    fill(profile, architecture, calls, program, &mut ranges)?;
    if architecture.token == 0xc000_003e {
        match profile.architectures.iter().find(|other| is_x32(other)) {
            Some(x32) => {
                ranges.push(X32_BIT, Target::Return(profile.default));
                fill(profile, x32, calls, program, &mut ranges)?;
            }
            None => {
                ranges.push(X32_BIT, Target::Return(KILL_THREAD));
                // A tracer skips a call by this number; the filter sees it afterwards.
                ranges.push(u32::MAX, Target::Return(profile.default));
            }
        }
    }
    Ok(ranges.0)
}

/// Adds the numbers of one architecture, in order.
fn fill(
    profile: &Profile<'_>,
    architecture: &'static Architecture,
    calls: &[(SystemCall, usize)],
    program: &mut Program,
    ranges: &mut Ranges,
) -> Result<()> {
    let default = Target::Return(profile.default);
    if ranges.0.is_empty() {
        ranges.push(0, default);
    }
    let (entries, highest) = entries(profile, architecture, calls);
    let mut after = ranges.0.last().map_or(0, |(first, _)| *first);
    let layout = Layout { wide: architecture.wide, big_endian: architecture.big_endian };
    for group in entries.chunk_by(|left, right| left.number == right.number) {
        let target = match decide(profile, group, layout)? {
            Decision::Always(action) => Target::Return(action),
            Decision::Alternatives(alternatives) => program.alternatives(layout, &alternatives, profile.default),
        };
        check_length(program.len())?;
        if group[0].number > after {
            ranges.push(after, default);
        }
        ranges.push(group[0].number, target);
        after = group[0].number + 1;
    }
    ranges.push(after, default);
    // Programs probe for new calls and fall back on ENOSYS alone; the default's EPERM would break them.
    if highest > 0 && !profile.is_permissive() {
        if architecture.zero_is_unknown() {
            ranges.set_first(Target::Return(UNKNOWN_CALL), default);
        }
        ranges.push(highest + 1, Target::Return(UNKNOWN_CALL));
    }
    Ok(())
}

/// The numbers that rules speak of, sorted, rules of one number in their order; and the highest number of any name.
fn entries(profile: &Profile<'_>, architecture: &Architecture, calls: &[(SystemCall, usize)]) -> (Vec<Entry>, u32) {
    let mut entries = Vec::with_capacity(calls.len());
    let mut highest = 0;
    for (call, rule) in calls {
        let own = architecture.number(*call);
        highest = highest.max(own.unwrap_or(0));
        if profile.rules[*rule].action == profile.default {
            continue;
        }
        if let Some((number, call)) = architecture.multiplexer(*call) {
            highest = highest.max(number);
            entries.push(Entry { number, rule: *rule, call: Some(call) });
        }
        if let Some(number) = own {
            entries.push(Entry { number, rule: *rule, call: None });
        }
    }
    (by_number(entries), highest)
}

/// Sorts by number; entries of one number keep their order. Numbers lie close together, so they are counted.
fn by_number(mut entries: Vec<Entry>) -> Vec<Entry> {
    const SPAN_MAX: u32 = 4096;
    let lowest = entries.iter().map(|entry| entry.number).min().unwrap_or(0);
    let span = entries.iter().map(|entry| entry.number - lowest).max().unwrap_or(0);
    let (Some(first), true) = (entries.first().copied(), span < SPAN_MAX) else {
        entries.sort_by_key(|entry| entry.number);
        return entries;
    };
    let place = |entry: &Entry| usize::try_from(entry.number - lowest).unwrap_or(0);
    // How many come before each number.
    let mut starts = vec![0; usize::try_from(span).unwrap_or(0) + 2];
    entries.iter().for_each(|entry| starts[place(entry) + 1] += 1);
    let mut total = 0;
    for start in &mut starts {
        total += *start;
        *start = total;
    }
    let mut sorted = vec![first; entries.len()];
    for entry in entries {
        let start: &mut usize = &mut starts[place(&entry)];
        sorted[*start] = entry;
        *start += 1;
    }
    sorted
}

fn decide(profile: &Profile<'_>, group: &[Entry], layout: Layout) -> Result<Decision> {
    // Most calls have one rule, without conditions.
    if let [Entry { call: None, rule, .. }, ..] = group
        && profile.rules[*rule].alternatives.iter().any(Vec::is_empty)
    {
        return Ok(Decision::Always(profile.rules[*rule].action));
    }
    let mut alternatives: Vec<(Vec<Condition>, &Rule<'_>)> = Vec::new();
    for entry in group {
        let rule = &profile.rules[entry.rule];
        for conditions in &rule.alternatives {
            let conditions = conditions_on(conditions, entry.call, layout);
            if conditions.is_empty() {
                return Ok(Decision::Always(rule.action));
            }
            alternatives.push((conditions, rule));
        }
    }
    alternatives.sort_by(|left, right| precedence(&left.0, &right.0));
    for pair in alternatives.windows(2) {
        if pair[0].0 == pair[1].0 && pair[0].1.action != pair[1].1.action {
            let (first, second) = (pair[0].1.position, pair[1].1.position);
            return Err(Error::invalid(format!(
                "`linux.seccomp.syscalls[{second}]` contradicts `linux.seccomp.syscalls[{first}]`: another action for the \
                 same system call and arguments"
            ))
            .hint("remove one of them"));
        }
    }
    alternatives.dedup_by(|second, first| second.0 == first.0);
    Ok(Decision::Alternatives(alternatives.into_iter().map(|(list, rule)| (list, rule.action)).collect()))
}

/// The conditions as the architecture can check them: only low halves on narrow ones, none that always holds.
///
/// A multiplexer's arguments lie in memory where no filter sees them: the first becomes the call's number.
fn conditions_on(conditions: &[Condition], call: Option<u64>, layout: Layout) -> Vec<Condition> {
    let number = call.map(|value| Condition { index: 0, operator: Operator::Equal, value });
    let others = conditions.iter().filter(|condition| call.is_none() || condition.index != 0).copied();
    let visible = if layout.wide { u64::MAX } else { u64::from(u32::MAX) };
    let narrowed = number.into_iter().chain(others).map(|condition| Condition {
        index: condition.index,
        operator: match condition.operator {
            Operator::Masked(mask) => Operator::Masked(mask & visible),
            operator => operator,
        },
        value: condition.value & visible,
    });
    narrowed.filter(|condition| condition.operator != Operator::Masked(0)).collect()
}

/// The order in which alternatives are tried, which is libseccomp's: conditions on later arguments first, equalities
/// before limits, the narrower limit before the wider, a shorter list before one that it begins.
fn precedence(left: &[Condition], right: &[Condition]) -> Ordering {
    let compare = |left: &Condition, right: &Condition| {
        let by_value = match left.operator {
            Operator::Less | Operator::LessOrEqual => left.value.cmp(&right.value),
            _ => right.value.cmp(&left.value),
        };
        let rank = |condition: &Condition| rank(condition.operator);
        right.index.cmp(&left.index).then(rank(left).cmp(&rank(right))).then(by_value)
    };
    let first = left.iter().zip(right).map(|(left, right)| compare(left, right)).find(|order| order.is_ne());
    first.unwrap_or_else(|| left.len().cmp(&right.len()))
}

// The last places make equal lists neighbours; they order nothing that could both hold, or follow libseccomp nowhere.
fn rank(operator: Operator) -> (u8, u8, u64) {
    match operator {
        Operator::Equal => (0, 0, 0),
        Operator::Masked(mask) => (0, 1, !mask),
        Operator::NotEqual => (0, 2, 0),
        Operator::LessOrEqual => (1, 0, 0),
        Operator::Less => (1, 1, 0),
        Operator::GreaterOrEqual => (2, 1, 0),
        Operator::Greater => (2, 0, 0),
    }
}

/// First numbers of ranges and their targets, ascending; neighbours differ.
#[derive(Debug, Default)]
struct Ranges(Vec<(u32, Target)>);

impl Ranges {
    /// Everything from `first` on goes to `target`.
    fn push(&mut self, first: u32, target: Target) {
        if self.0.last().is_some_and(|(last, _)| *last == first) {
            self.0.pop();
        }
        if self.0.last().is_none_or(|(_, last)| *last != target) {
            self.0.push((first, target));
        }
    }

    /// Number 0 alone goes to `target`; no rule has spoken of it.
    fn set_first(&mut self, target: Target, default: Target) {
        self.0[0].1 = target;
        if self.0.get(1).is_none_or(|(first, _)| *first > 1) {
            self.0.insert(1, (1, default));
        }
    }
}
