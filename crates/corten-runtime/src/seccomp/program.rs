//! Classic BPF, written from its last instruction to its first: a jump's targets are then always known.

use corten_sys::seccomp::Instruction;

use super::profile::{Action, Condition, Operator};

// linux/bpf_common.h
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;
pub(super) const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;

// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Farthest that a conditional jump is sent: below 255 by the two instructions that may come between.
const NEAR: usize = 253;

/// What goes before a program: a call of `number` on the architecture `token` with `fd` and AT_EMPTY_PATH is allowed, and
/// every other call goes on behind. The arguments are read as a little-endian machine lays them out.
pub(super) fn allow_execveat(token: u32, number: u32, fd: u32) -> Vec<Instruction> {
    const AT_EMPTY_PATH: u32 = 0x1000;
    const ALLOW: u32 = 0x7fff_0000;
    let conditions = [(ARCHITECTURE, token), (NUMBER, number), (ARGUMENTS, fd), (ARGUMENTS + 4 * 8, AT_EMPTY_PATH)];
    let mut program = Vec::with_capacity(2 * conditions.len() + 1);
    let mut left: u8 = 2 * 4 + 1;
    for (place, value) in conditions {
        left -= 2;
        program.push(Instruction { code: LOAD, jt: 0, jf: 0, k: place });
        program.push(Instruction { code: JUMP_EQUAL, jt: 0, jf: left, k: value });
    }
    program.push(Instruction { code: RETURN, jt: 0, jf: 0, k: ALLOW });
    program
}

/// Where a decision goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// It is made.
    Return(Action),
    /// At an instruction, counted from the end.
    At(usize),
}

/// How the arguments of an architecture are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub wide: bool,
    pub big_endian: bool,
}

/// A program in the making.
#[derive(Debug, Default)]
pub(super) struct Program {
    backwards: Vec<Instruction>,
    /// The nearest return of each action.
    returns: Vec<(Action, usize)>,
}

impl Program {
    /// The program that starts with a look at the architecture: each token's decision, or `otherwise`.
    pub(super) fn dispatch(mut self, sections: &[(u32, Target)], otherwise: Action) -> Vec<Instruction> {
        let mut next = Target::Return(otherwise);
        for (token, target) in sections.iter().rev() {
            next = self.jump(JUMP_EQUAL, *token, *target, next);
        }
        self.load(ARCHITECTURE);
        self.backwards.reverse();
        self.backwards
    }

    /// The decision by number: `ranges` holds the first number of each range and its target, from 0 on.
    pub(super) fn numbers(&mut self, ranges: &[(u32, Target)]) -> Target {
        match ranges {
            [] | [_] => ranges.first().map_or(Target::Return(0), |(_, target)| *target),
            _ => {
                self.tree(&leaves(ranges));
                self.load(NUMBER)
            }
        }
    }

    // Written down in halves, so that every number takes the same few steps.
    fn tree(&mut self, leaves: &[Leaf]) -> Target {
        if let [leaf] = leaves {
            let exceptions = leaf.exceptions.iter().flatten();
            return exceptions
                .fold(leaf.target, |next, (number, target)| self.jump(JUMP_EQUAL, *number, *target, next));
        }
        let (below, above) = leaves.split_at(leaves.len() / 2);
        let above_target = self.tree(above);
        let below_target = self.tree(below);
        self.jump(JUMP_GREATER_OR_EQUAL, above[0].first, above_target, below_target)
    }

    /// The decision by arguments: the first of `alternatives` whose conditions all hold, or `otherwise`.
    pub(super) fn alternatives(
        &mut self,
        layout: Layout,
        alternatives: &[(Vec<Condition>, Action)],
        otherwise: Action,
    ) -> Target {
        let mut next = Target::Return(otherwise);
        for (conditions, action) in alternatives.iter().rev() {
            let mut target = Target::Return(*action);
            for condition in conditions.iter().rev() {
                target = self.condition(layout, condition, target, next);
            }
            next = target;
        }
        next
    }

    fn condition(&mut self, layout: Layout, condition: &Condition, yes: Target, no: Target) -> Target {
        let halves = Halves::of(layout, condition);
        match condition.operator {
            Operator::Equal => self.equal(&halves, u64::MAX, yes, no),
            Operator::NotEqual => self.equal(&halves, u64::MAX, no, yes),
            Operator::Masked(mask) => self.equal(&halves, mask, yes, no),
            Operator::Greater => self.above(&halves, JUMP_GREATER, yes, no),
            Operator::LessOrEqual => self.above(&halves, JUMP_GREATER, no, yes),
            Operator::GreaterOrEqual => self.above(&halves, JUMP_GREATER_OR_EQUAL, yes, no),
            Operator::Less => self.above(&halves, JUMP_GREATER_OR_EQUAL, no, yes),
        }
    }

    fn equal(&mut self, halves: &Halves, mask: u64, yes: Target, no: Target) -> Target {
        let (mask_low, mask_high) = split(mask);
        let mut target = self.equal_half(halves.low, mask_low, yes, no);
        if let Some(high) = halves.high {
            target = self.equal_half(high, mask_high, target, no);
        }
        target
    }

    fn equal_half(&mut self, (offset, value): (u32, u32), mask: u32, yes: Target, no: Target) -> Target {
        if mask == 0 {
            return yes;
        }
        let target = self.jump(JUMP_EQUAL, value & mask, yes, no);
        if mask == u32::MAX {
            return self.load(offset);
        }
        self.push(AND, mask, 0, 0);
        debug_assert!(matches!(target, Target::At(_)));
        self.load(offset)
    }

    fn above(&mut self, halves: &Halves, low: u16, yes: Target, no: Target) -> Target {
        let (offset, value) = halves.low;
        self.jump(low, value, yes, no);
        let target = self.load(offset);
        let Some((offset, value)) = halves.high else { return target };
        let equal = self.jump(JUMP_EQUAL, value, target, no);
        self.jump(JUMP_GREATER, value, yes, equal);
        self.load(offset)
    }

    fn load(&mut self, offset: u32) -> Target {
        self.push(LOAD, offset, 0, 0)
    }

    fn jump(&mut self, code: u16, operand: u32, yes: Target, no: Target) -> Target {
        let (yes, no) = (self.near(yes), self.near(no));
        let offset = |program: &Self, place: usize| {
            u8::try_from(program.backwards.len() - place - 1).expect("`near` brought the target within reach")
        };
        let (yes, no) = (offset(self, yes), offset(self, no));
        self.push(code, operand, yes, no)
    }

    /// A place within reach of a conditional jump that does as `target`: itself, a copy, or a far jump to it.
    fn near(&mut self, target: Target) -> usize {
        let end = self.backwards.len();
        let place = match target {
            Target::At(place) => {
                if end - place - 1 <= NEAR {
                    return place;
                }
                let far = u32::try_from(end - place - 1).unwrap_or(u32::MAX);
                self.push(JUMP, far, 0, 0);
                return end;
            }
            Target::Return(action) => action,
        };
        let known = self.returns.iter_mut().find(|(action, _)| *action == place);
        match known {
            Some((_, at)) if end - *at - 1 <= NEAR => return *at,
            Some((_, at)) => *at = end,
            None => self.returns.push((place, end)),
        }
        self.push(RETURN, place, 0, 0);
        end
    }

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Target {
        self.backwards.push(Instruction { code, jt, jf, k });
        Target::At(self.backwards.len() - 1)
    }

    /// Instructions so far.
    pub(super) fn len(&self) -> usize {
        self.backwards.len()
    }
}

/// A range with up to two single numbers in it that go elsewhere: one instruction each in place of two.
#[derive(Debug)]
struct Leaf {
    first: u32,
    target: Target,
    exceptions: [Option<(u32, Target)>; 2],
}

fn leaves(ranges: &[(u32, Target)]) -> Vec<Leaf> {
    let mut leaves = Vec::with_capacity(ranges.len());
    let mut rest = ranges;
    while let [(first, target), behind @ ..] = rest {
        let mut leaf = Leaf { first: *first, target: *target, exceptions: [None; 2] };
        rest = behind;
        for exception in &mut leaf.exceptions {
            let [(number, elsewhere), (next, back), behind @ ..] = rest else { break };
            if *next != number + 1 || back != target {
                break;
            }
            *exception = Some((*number, *elsewhere));
            rest = behind;
        }
        leaves.push(leaf);
    }
    leaves
}

/// Offset and operand of an argument's halves; a narrow architecture has the low one alone.
struct Halves {
    low: (u32, u32),
    high: Option<(u32, u32)>,
}

impl Halves {
    fn of(layout: Layout, condition: &Condition) -> Self {
        let start = ARGUMENTS + 8 * u32::from(condition.index);
        let (low, high) = if layout.big_endian { (start + 4, start) } else { (start, start + 4) };
        let (value_low, value_high) = split(condition.value);
        Self { low: (low, value_low), high: layout.wide.then_some((high, value_high)) }
    }
}

fn split(value: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is asked for")]
    (value as u32, (value >> 32) as u32)
}
