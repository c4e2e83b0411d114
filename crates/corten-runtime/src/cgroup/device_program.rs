//! Device rules as an eBPF program for cgroup2.
//!
//! The program looks at the rules from the last to the first, bit by bit of the access asked for: an allowing rule takes
//! its bits off the list of what is still to be decided, a denying rule that has one of them ends with a no. What no rule
//! decides is denied.

use std::os::fd::{AsFd, BorrowedFd};

use corten_sys::{Call, bpf};
use corten_types::Result;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use super::devices::{ALL, Match, Policy, Rule};

use bpf::Instruction;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const PENDING: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// The context is not needed once it has been read.
const SCRATCH: u8 = 1;

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const AND_REGISTER: u8 = 0x5f;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const KIND_BLOCK: i32 = 1;
const KIND_CHARACTER: i32 = 2;

/// Device numbers that the kernel can make (12 and 20 bits); a rule for others matches nothing.
const MAJOR_MAX: u32 = 0xfff;
const MINOR_MAX: u32 = 0xf_ffff;

/// The program of a policy.
pub(super) fn compile(policy: &Policy) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(MOVE_REGISTER, PENDING, KIND, 0, 0),
        instruction(SHIFT_RIGHT, PENDING, 0, 0, 16),
        instruction(AND, KIND, 0, 0, 0xffff),
    ];
    for rule in policy.rules.iter().rev() {
        match *rule {
            Rule::Everything { allow } => {
                finish(&mut program, allow);
                return program;
            }
            Rule::Some { allow, devices, access, .. } => block(&mut program, allow, devices, access),
        }
    }
    finish(&mut program, false);
    program
}

fn block(program: &mut Vec<Instruction>, allow: bool, devices: Match, access: u8) {
    if devices.major.is_some_and(|major| major > MAJOR_MAX) || devices.minor.is_some_and(|minor| minor > MINOR_MAX) {
        return;
    }
    let kind = if devices.block { KIND_BLOCK } else { KIND_CHARACTER };
    let mut block = vec![instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, kind)];
    for (register, number) in [(MAJOR, devices.major), (MINOR, devices.minor)] {
        if let Some(number) = number {
            block.push(instruction(JUMP_UNLESS_EQUAL, register, 0, 0, number.cast_signed()));
        }
    }
    match (allow, access == ALL) {
        (_, true) => {}
        (true, false) => {
            block.push(instruction(AND, PENDING, 0, 0, i32::from(ALL & !access)));
            block.push(instruction(JUMP_UNLESS_EQUAL, PENDING, 0, 0, 0));
        }
        (false, false) => {
            block.push(instruction(MOVE, SCRATCH, 0, 0, i32::from(access)));
            block.push(instruction(AND_REGISTER, SCRATCH, PENDING, 0, 0));
            block.push(instruction(JUMP_IF_EQUAL, SCRATCH, 0, 0, 0));
        }
    }
    finish(&mut block, allow);
    let length = block.len();
    for (index, one) in block.iter_mut().enumerate() {
        if one.code == JUMP_IF_EQUAL || one.code == JUMP_UNLESS_EQUAL {
            // A block has at most eight instructions; jumps count from the next one.
            one.offset = i16::try_from(length - index - 1).unwrap_or(0);
        }
    }
    program.append(&mut block);
}

fn finish(program: &mut Vec<Instruction>, allow: bool) {
    program.push(instruction(MOVE, RESULT, 0, 0, i32::from(allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
}

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: source << 4 | destination, offset, immediate }
}

/// Gives the new cgroup `directory` the program of `policy`.
pub(super) fn attach(directory: BorrowedFd<'_>, policy: &Policy) -> Result<()> {
    if policy.allows_everything() {
        return Ok(());
    }
    let program = load(&compile(policy))?;
    bpf::attach_device_program(directory, program.as_fd(), None).call(|| "bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE)")
}

/// Gives the living cgroup `directory` the program of `policy` in the place of the one that it has, without a moment
/// between the two.
pub(super) fn replace(directory: BorrowedFd<'_>, policy: &Policy) -> Result<()> {
    let old = bpf::device_programs(directory).call(|| "bpf(BPF_PROG_QUERY, BPF_CGROUP_DEVICE)")?;
    let program = load(&compile(policy))?;
    if let [only] = &old[..] {
        match bpf::attach_device_program(directory, program.as_fd(), Some(only.as_fd())) {
            // Linux before 5.6 cannot replace: attach, then detach.
            Err(Errno::INVAL) => {}
            result => return result.call(|| "bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE, BPF_F_REPLACE)"),
        }
    }
    bpf::attach_device_program(directory, program.as_fd(), None).call(|| "bpf(BPF_PROG_ATTACH, BPF_CGROUP_DEVICE)")?;
    for program in &old {
        bpf::detach_device_program(directory, program.as_fd()).call(|| "bpf(BPF_PROG_DETACH, BPF_CGROUP_DEVICE)")?;
    }
    Ok(())
}

fn load(program: &[Instruction]) -> Result<std::os::fd::OwnedFd> {
    let result = match bpf::load_device_program(program) {
        // Linux before 5.11 counts programs against the memory that may be locked. What cannot be raised shows again below.
        Err(Errno::PERM) => {
            let unlimited = Rlimit { current: None, maximum: None };
            match rustix::process::setrlimit(Resource::Memlock, unlimited) {
                Ok(()) => bpf::load_device_program(program),
                Err(_) => Err(Errno::PERM),
            }
        }
        result => result,
    };
    result.call(|| format!("bpf(BPF_PROG_LOAD, BPF_PROG_TYPE_CGROUP_DEVICE, {} instructions)", program.len()))
}

#[cfg(test)]
mod tests {
    use corten_types::runtime_spec::DeviceRule;
    use proptest::prelude::*;

    use super::super::devices::{MKNOD, READ, WRITE};
    use super::*;

    /// Interprets a program for one access, as the kernel would.
    fn run(program: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> bool {
        let context = [i64::from(access) << 16 | i64::from(kind), i64::from(major), i64::from(minor)];
        let mut registers = [0i64; 11];
        let mut at = 0;
        loop {
            let one = program[at];
            let (destination, source) = (usize::from(one.registers & 15), usize::from(one.registers >> 4));
            let immediate = i64::from(one.immediate);
            at += 1;
            match one.code {
                LOAD_WORD => registers[destination] = context[usize::try_from(one.offset / 4).unwrap()],
                AND => registers[destination] &= immediate,
                AND_REGISTER => registers[destination] &= registers[source],
                SHIFT_RIGHT => registers[destination] >>= immediate,
                MOVE => registers[destination] = immediate,
                MOVE_REGISTER => registers[destination] = registers[source],
                JUMP_IF_EQUAL if registers[destination] != immediate => {}
                JUMP_UNLESS_EQUAL if registers[destination] == immediate => {}
                JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL => at += usize::try_from(one.offset).unwrap(),
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    /// The meaning of a policy, said directly.
    fn expected(policy: &Policy, kind: i32, access: u8, major: u32, minor: u32) -> bool {
        [READ, WRITE, MKNOD].iter().filter(|bit| access & **bit != 0).all(|bit| {
            let last = policy.rules.iter().rev().find_map(|rule| match rule {
                Rule::Everything { allow } => Some(*allow),
                Rule::Some { allow, devices, access, .. } => {
                    let number = |want: Option<u32>, have| want.is_none_or(|want| want == have);
                    let hit = (kind == KIND_BLOCK) == devices.block
                        && number(devices.major, major)
                        && number(devices.minor, minor)
                        && access & bit != 0;
                    hit.then_some(*allow)
                }
            });
            last.unwrap_or(false)
        })
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let number = || prop::option::of(-1i64..4);
        (any::<bool>(), "[abc]?", number(), number(), "(r?w?m?)")
            .prop_map(|(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access })
    }

    proptest! {
        #[test]
        fn the_last_matching_rule_decides(rules in prop::collection::vec(rule(), 0..8)) {
            let policy = Policy::new(&rules, &[]).unwrap();
            let program = compile(&policy);
            for kind in [KIND_BLOCK, KIND_CHARACTER] {
                for access in 1..8 {
                    for (major, minor) in (0..5).flat_map(|major| (0..5).map(move |minor| (major, minor))) {
                        prop_assert_eq!(
                            run(&program, kind, access, major, minor),
                            expected(&policy, kind, access, major, minor),
                            "{:?} kind {} access {} {}:{}", rules, kind, access, major, minor
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn the_default_list_is_what_an_empty_document_allows() {
        let program = compile(&Policy::new(&[], &[]).unwrap());
        assert!(run(&program, KIND_CHARACTER, READ | WRITE, 1, 3));
        assert!(run(&program, KIND_CHARACTER, READ | WRITE, 136, 17));
        assert!(run(&program, KIND_BLOCK, MKNOD, 8, 0));
        assert!(!run(&program, KIND_BLOCK, READ, 8, 0));
        assert!(!run(&program, KIND_BLOCK, READ | MKNOD, 8, 0));
        assert!(!run(&program, KIND_CHARACTER, WRITE, 1, 1));
    }

    #[test]
    fn a_denied_write_also_denies_read_and_write() {
        let all = DeviceRule { allow: true, ..DeviceRule::default() };
        let but = DeviceRule { kind: "b".into(), major: Some(8), access: "w".into(), ..DeviceRule::default() };
        let program = compile(&Policy::new(&[all, but], &[]).unwrap());
        assert!(run(&program, KIND_BLOCK, READ, 8, 0) && !run(&program, KIND_BLOCK, READ | WRITE, 8, 0));
    }

    #[test]
    fn impossible_numbers_match_nothing() {
        let far = DeviceRule { allow: true, kind: "b".into(), major: Some(4_294_967_295), ..DeviceRule::default() };
        let policy = Policy::new(&[far], &[]).unwrap();
        assert_eq!(compile(&policy), compile(&Policy::new(&[], &[]).unwrap()));
    }
}
