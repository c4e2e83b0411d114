//! The compiled tree against a plain reading of the profile, for every number, architecture and many arguments.

use corten_types::runtime_spec::{SeccompArg, SeccompRule};
use proptest::prelude::*;

use super::architecture::{X32_BIT, by_name, native, system_call};
use super::*;

const KILL: u32 = 0;
const ALLOW: u32 = 0x7fff_0000;
const ENOSYS: u32 = 0x0005_0026;

/// One system call as a filter sees it.
#[derive(Debug, Clone, Copy)]
struct Call {
    token: u32,
    number: u32,
    arguments: [u64; 6],
}

/// Runs `program` as the kernel does; panics where the kernel's checker would refuse it.
fn interpret(program: &[Instruction], call: &Call, big_endian: bool) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.token,
        16..64 if offset.is_multiple_of(4) => {
            let high = (offset % 8 == 4) != big_endian;
            let argument = call.arguments[(offset as usize - 16) / 8];
            let half = if high { argument >> 32 } else { argument & 0xffff_ffff };
            u32::try_from(half).unwrap()
        }
        _ => panic!("load at {offset}"),
    };
    let (mut place, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[place];
        place += 1;
        let taken = match code {
            0x20 => {
                accumulator = word(k);
                continue;
            }
            0x54 => {
                accumulator &= k;
                continue;
            }
            0x05 => {
                place += k as usize;
                continue;
            }
            0x06 => return k,
            0x15 => accumulator == k,
            0x25 => accumulator > k,
            0x35 => accumulator >= k,
            _ => panic!("instruction {code:#x}"),
        };
        place += usize::from(if taken { jt } else { jf });
    }
}

fn action_of(name: &str, errno: Option<u32>) -> u32 {
    match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno.unwrap_or(1),
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        _ => KILL,
    }
}

fn holds(arg: &SeccompArg, call: &Call, wide: bool) -> bool {
    let visible = if wide { u64::MAX } else { 0xffff_ffff };
    let (actual, value) = (call.arguments[arg.index as usize] & visible, arg.value & visible);
    match arg.op.as_str() {
        "SCMP_CMP_EQ" => actual == value,
        "SCMP_CMP_NE" => actual != value,
        "SCMP_CMP_LT" => actual < value,
        "SCMP_CMP_LE" => actual <= value,
        "SCMP_CMP_GT" => actual > value,
        "SCMP_CMP_GE" => actual >= value,
        _ => actual & value == arg.value_two & value,
    }
}

/// What the profile says, read rule by rule. Rules of one call must agree on the action where both have conditions.
fn expected(profile: &Seccomp, native: &'static Architecture, call: &Call) -> u32 {
    let listed = profile.architectures.iter().filter_map(|name| by_name(name));
    let x32 = call.number & X32_BIT != 0;
    let default = action_of(&profile.default_action, profile.default_errno_ret);
    let own = std::iter::once(native)
        .chain(listed)
        .find(|entry| entry.token == call.token && (entry.token != 0xc000_003e || entry.wide != x32));
    let Some(own) = own else {
        let skipped = call.token == 0xc000_003e && native.token == call.token && call.number == u32::MAX;
        return if skipped { default } else { KILL };
    };
    let mut highest = 0;
    let (mut always, mut matched) = (None, None);
    for rule in &profile.syscalls {
        let action = action_of(&rule.action, rule.errno_ret);
        for known in rule.names.iter().filter_map(|name| system_call(name)) {
            let multiplexer = own.multiplexer(known);
            highest = highest.max(own.number(known).unwrap_or(0)).max(multiplexer.map_or(0, |(number, _)| number));
            let behind = multiplexer.is_some_and(|(number, first)| {
                number == call.number && call.arguments[0] & if own.wide { u64::MAX } else { 0xffff_ffff } == first
            });
            if action == default || (own.number(known) != Some(call.number) && !behind) {
                continue;
            }
            let args: Vec<_> = rule.args.iter().filter(|arg| !behind || arg.index != 0).collect();
            let split = (0..6).any(|index| rule.args.iter().filter(|arg| arg.index == index).count() > 1);
            let always_holds = |arg: &SeccompArg| {
                arg.op == "SCMP_CMP_MASKED_EQ" && arg.value & if own.wide { u64::MAX } else { 0xffff_ffff } == 0
            };
            let conditions = rule.args.iter().filter(|arg| !always_holds(arg)).count();
            let unconditional = !behind && if split { conditions < rule.args.len() } else { conditions == 0 };
            let split_behind = split && behind && args.len() < rule.args.len();
            let matches = match split {
                true => split_behind || args.iter().any(|arg| holds(arg, call, own.wide)),
                false => args.iter().all(|arg| holds(arg, call, own.wide)),
            };
            if unconditional && always.is_none() {
                always = Some(action);
            }
            if matches && matched.is_none() {
                matched = Some(action);
            }
        }
    }
    let permissive = matches!(profile.default_action.as_str(), "SCMP_ACT_ALLOW" | "SCMP_ACT_LOG" | "SCMP_ACT_TRACE");
    let newer = call.number > highest || (own.zero_is_unknown() && call.number == 0);
    match always.or(matched) {
        None if highest > 0 && !permissive && newer => ENOSYS,
        decided => decided.unwrap_or(default),
    }
}

fn rule(names: &[&str], action: &str) -> SeccompRule {
    let names = names.iter().map(ToString::to_string).collect();
    SeccompRule { names, action: action.into(), ..SeccompRule::default() }
}

fn arg(index: u32, op: &str, value: u64, value_two: u64) -> SeccompArg {
    SeccompArg { index, value, value_two, op: format!("SCMP_CMP_{op}") }
}

fn profile(default: &str, syscalls: Vec<SeccompRule>) -> Seccomp {
    Seccomp { default_action: default.into(), syscalls, ..Seccomp::default() }
}

fn compiled(profile: &Seccomp) -> Filter {
    compile_for(profile, by_name("SCMP_ARCH_X86_64").unwrap()).unwrap().unwrap()
}

fn on_x86_64(filter: &Filter, name: &str, arguments: [u64; 6]) -> u32 {
    let number = by_name("SCMP_ARCH_X86_64").unwrap().number(system_call(name).unwrap()).unwrap();
    interpret(&filter.program, &Call { token: 0xc000_003e, number, arguments }, false)
}

fn refusal(profile: &Seccomp) -> String {
    compile_for(profile, native()).unwrap_err().message().to_owned()
}

const VALUES: [u64; 9] = [0, 1, 5, 0x7e02_0000, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0001, 0x5_0000_0005, u64::MAX];

fn any_arg() -> impl Strategy<Value = SeccompArg> {
    const OPERATORS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    (
        0u32..6,
        prop::sample::select(&OPERATORS[..]),
        prop::sample::select(&VALUES[..]),
        prop::sample::select(&VALUES[..]),
    )
        .prop_map(|(index, op, value, value_two)| arg(index, op, value, value_two))
}

/// Rules of one name share an action, so that the order in which they are tried cannot show.
fn any_profile() -> impl Strategy<Value = Seccomp> {
    const NAMES: [(&str, &str); 12] = [
        ("read", "SCMP_ACT_ALLOW"),
        ("socket", "SCMP_ACT_ALLOW"),
        ("shmat", "SCMP_ACT_ERRNO"),
        ("send", "SCMP_ACT_TRAP"),
        ("personality", "SCMP_ACT_ALLOW"),
        ("clone", "SCMP_ACT_KILL_PROCESS"),
        ("openat2", "SCMP_ACT_LOG"),
        ("execveat", "SCMP_ACT_ALLOW"),
        ("mmap2", "SCMP_ACT_ERRNO"),
        ("set_tls", "SCMP_ACT_TRACE"),
        ("exit", "SCMP_ACT_ALLOW"),
        ("no_such_call", "SCMP_ACT_ALLOW"),
    ];
    let rule = (prop::sample::select(&NAMES[..]), prop::collection::vec(any_arg(), 0..4))
        .prop_map(|((name, action), args)| SeccompRule { args, ..rule(&[name], action) });
    const DEFAULTS: [&str; 4] = ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL", "SCMP_ACT_TRACE"];
    const OTHERS: [&str; 5] =
        ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM", "SCMP_ARCH_AARCH64", "SCMP_ARCH_MIPSEL64"];
    let architectures = prop::sample::subsequence(&OTHERS[..], 0..=OTHERS.len());
    (prop::sample::select(&DEFAULTS[..]), prop::collection::vec(rule, 0..12), architectures).prop_map(
        |(default, rules, architectures)| Seccomp {
            architectures: architectures.into_iter().map(str::to_owned).collect(),
            ..profile(default, rules)
        },
    )
}

fn compare(profile: &Seccomp, native: &'static Architecture, arguments: &[[u64; 6]]) {
    let filter = compile_for(profile, native).unwrap().unwrap();
    assert!(filter.program.len() <= 4096);
    let tokens = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0xc000_0008, 0x8000_0016, 0x0000_0016, 0xdead];
    let numbers = (0..600).chain((0..600).map(|number| X32_BIT | number)).chain(5000..5100);
    for number in numbers.chain([0x000f_0005, 0x7fff_ffff, u32::MAX]) {
        for token in tokens {
            for arguments in arguments {
                let call = Call { token, number, arguments: *arguments };
                let (actual, wanted) =
                    (interpret(&filter.program, &call, native.big_endian), expected(profile, native, &call));
                assert_eq!(actual, wanted, "{call:x?} of {profile:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_decides_as_the_profile_reads(
        profile in any_profile(),
        arguments in prop::collection::vec(prop::array::uniform6(prop::sample::select(&VALUES[..])), 4),
    ) {
        compare(&profile, by_name("SCMP_ARCH_X86_64").unwrap(), &arguments);
    }

    #[test]
    fn so_it_does_where_the_high_half_comes_first(
        mut profile in any_profile(),
        arguments in prop::collection::vec(prop::array::uniform6(prop::sample::select(&VALUES[..])), 2),
    ) {
        profile.architectures = vec!["SCMP_ARCH_S390".into()];
        compare(&profile, by_name("SCMP_ARCH_S390X").unwrap(), &arguments);
    }
}

#[test]
fn every_call_can_have_a_range_of_its_own() {
    let names: Vec<&str> = super::numbers::NUMBERS.iter().map(|row| row.0).collect();
    let actions = ["SCMP_ACT_ALLOW", "SCMP_ACT_TRAP", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"];
    let rules = names.iter().enumerate().map(|(index, name)| rule(&[name], actions[index % actions.len()])).collect();
    let mut profile = profile("SCMP_ACT_ERRNO", rules);
    profile.architectures = vec!["SCMP_ARCH_X86".into(), "SCMP_ARCH_X32".into()];
    compare(&profile, by_name("SCMP_ARCH_X86_64").unwrap(), &[[0; 6], [1, 2, 3, 4, 5, 6]]);
}

#[test]
fn far_targets_are_reached_by_long_jumps() {
    let many = (0..400).map(|value| SeccompRule {
        args: vec![arg(0, "EQ", value, 0), arg(1, "NE", value << 32, 0)],
        ..rule(&["personality"], if value % 2 == 0 { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_TRAP" })
    });
    let filter = compiled(&profile("SCMP_ACT_ERRNO", many.chain([rule(&["read"], "SCMP_ACT_LOG")]).collect()));
    assert!(filter.program.len() > 1000);
    for value in 0..400 {
        let action = if value % 2 == 0 { ALLOW } else { 0x0003_0000 };
        assert_eq!(on_x86_64(&filter, "personality", [value, 9, 0, 0, 0, 0]), action);
        assert_eq!(on_x86_64(&filter, "personality", [value, value << 32, 0, 0, 0, 0]), 0x0005_0001);
    }
    assert_eq!(on_x86_64(&filter, "read", [0; 6]), 0x7ffc_0000);
}

#[test]
fn a_rule_without_conditions_beats_the_others_and_the_first_of_them_the_later() {
    let conditional = SeccompRule { args: vec![arg(0, "EQ", 1, 0)], ..rule(&["read"], "SCMP_ACT_TRAP") };
    let rules = vec![conditional, rule(&["read"], "SCMP_ACT_ALLOW"), rule(&["read"], "SCMP_ACT_LOG")];
    assert_eq!(on_x86_64(&compiled(&profile("SCMP_ACT_ERRNO", rules)), "read", [1, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn conditions_with_other_actions_are_tried_as_libseccomp_tries_them() {
    let with = |args, action| SeccompRule { args, ..rule(&["read"], action) };
    let filter = compiled(&profile(
        "SCMP_ACT_ERRNO",
        vec![
            with(vec![arg(0, "GE", 10, 0)], "SCMP_ACT_TRAP"),
            with(vec![arg(0, "GE", 20, 0)], "SCMP_ACT_LOG"),
            with(vec![arg(0, "EQ", 30, 0)], "SCMP_ACT_ALLOW"),
            with(vec![arg(2, "EQ", 7, 0)], "SCMP_ACT_KILL"),
        ],
    ));
    let decide = |first, third| on_x86_64(&filter, "read", [first, 0, third, 0, 0, 0]);
    assert_eq!(
        [decide(9, 0), decide(10, 0), decide(20, 0), decide(30, 0), decide(30, 7)],
        [0x0005_0001, 0x0003_0000, 0x7ffc_0000, ALLOW, KILL]
    );
}

#[test]
fn two_comparisons_of_one_argument_are_alternatives() {
    let both = SeccompRule { args: vec![arg(0, "EQ", 1, 0), arg(0, "EQ", 2, 0)], ..rule(&["read"], "SCMP_ACT_ALLOW") };
    let filter = compiled(&profile("SCMP_ACT_ERRNO", vec![both]));
    let decide = |first| on_x86_64(&filter, "read", [first, 0, 0, 0, 0, 0]);
    assert_eq!([decide(1), decide(2), decide(3)], [ALLOW, ALLOW, 0x0005_0001]);
}

#[test]
fn new_calls_do_not_exist_unless_the_default_lets_them_run() {
    let new = Call { token: 0xc000_003e, number: 9000, arguments: [0; 6] };
    let decide = |default: &str, errno| {
        let mut profile = profile(default, vec![rule(&["openat2"], "SCMP_ACT_TRAP")]);
        profile.default_errno_ret = errno;
        interpret(&compiled(&profile).program, &new, false)
    };
    assert_eq!(decide("SCMP_ACT_ERRNO", Some(13)), ENOSYS);
    assert_eq!(decide("SCMP_ACT_KILL_PROCESS", None), ENOSYS);
    assert_eq!(decide("SCMP_ACT_ALLOW", None), ALLOW);
    assert_eq!(decide("SCMP_ACT_LOG", None), 0x7ffc_0000);
    assert_eq!(decide("SCMP_ACT_TRACE", Some(9)), 0x7ff0_0009);
}

#[test]
fn nothing_asked_is_no_filter() {
    assert_eq!(compile(&Seccomp::default()).unwrap(), None);
}

#[test]
fn flags_are_runcs() {
    let flags = |flags: Option<&[&str]>| {
        let mut profile = profile("SCMP_ACT_ALLOW", Vec::new());
        profile.flags = flags.map(|flags| flags.iter().map(ToString::to_string).collect());
        let filter = compile(&profile).unwrap().unwrap();
        (filter.flags, filter.optional_flags)
    };
    assert_eq!(flags(None), (4, 4));
    assert_eq!(flags(Some(&[])), (0, 0));
    assert_eq!(flags(Some(&["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"])), (2, 0));
    assert_eq!(flags(Some(&["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])), (0, 0));
}

#[test]
fn faults_are_named_by_their_field() {
    let read = || rule(&["read"], "SCMP_ACT_ALLOW");
    let with_arg = |wrong: SeccompArg| SeccompRule { args: vec![arg(0, "EQ", 1, 0), wrong], ..read() };
    let deny = |rules| profile("SCMP_ACT_ERRNO", rules);
    let cases = [
        (profile("SCMP_ACT_MAYBE", vec![]), "`linux.seccomp.defaultAction`: unknown action `SCMP_ACT_MAYBE`"),
        (profile("", vec![read()]), "`linux.seccomp.defaultAction`: unknown action ``"),
        (profile("SCMP_ACT_NOTIFY", vec![]), "SCMP_ACT_NOTIFY cannot be used as default action"),
        (
            Seccomp { default_errno_ret: Some(4096), ..deny(vec![]) },
            "`linux.seccomp.defaultErrnoRet`: 4096 is too large, at most 4095",
        ),
        (
            Seccomp { default_errno_ret: Some(1), ..profile("SCMP_ACT_ALLOW", vec![]) },
            "`linux.seccomp.defaultErrnoRet`: the action `SCMP_ACT_ALLOW` takes no error number",
        ),
        (
            deny(vec![read(), SeccompRule { errno_ret: Some(70_000), ..rule(&["read"], "SCMP_ACT_TRACE") }]),
            "`linux.seccomp.syscalls[1].errnoRet`: 70000 is too large, at most 65535",
        ),
        (deny(vec![rule(&["read"], "ALLOW")]), "`linux.seccomp.syscalls[0].action`: unknown action `ALLOW`"),
        (deny(vec![rule(&[], "SCMP_ACT_ALLOW")]), "`linux.seccomp.syscalls[0].names` names no system call"),
        (deny(vec![rule(&["read", ""], "SCMP_ACT_ALLOW")]), "`linux.seccomp.syscalls[0].names[1]` is empty"),
        (
            deny(vec![read(), with_arg(arg(6, "EQ", 1, 0))]),
            "`linux.seccomp.syscalls[1].args[1].index`: 6 is not 0 to 5",
        ),
        (
            deny(vec![with_arg(arg(1, "ALMOST", 1, 0))]),
            "`linux.seccomp.syscalls[0].args[1].op`: unknown operator `SCMP_CMP_ALMOST`",
        ),
        (
            Seccomp { architectures: vec!["SCMP_ARCH_PDP11".into()], ..deny(vec![]) },
            "`linux.seccomp.architectures[0]`: unknown architecture `SCMP_ARCH_PDP11`",
        ),
        (
            Seccomp { flags: Some(vec!["SECCOMP_FILTER_FLAG_FAST".into()]), ..deny(vec![]) },
            "`linux.seccomp.flags[0]`: unknown flag `SECCOMP_FILTER_FLAG_FAST`",
        ),
        (
            deny(vec![rule(&["mkdir"], "SCMP_ACT_NOTIFY")]),
            "`linux.seccomp.listenerPath` is empty, but a rule has the action SCMP_ACT_NOTIFY",
        ),
        (
            Seccomp { listener_path: "/agent".into(), ..deny(vec![rule(&["read", "write"], "SCMP_ACT_NOTIFY")]) },
            "`linux.seccomp.syscalls[0].names`: SCMP_ACT_NOTIFY cannot be used for the write syscall",
        ),
        (
            Seccomp { listener_metadata: "x".into(), ..deny(vec![]) },
            "`linux.seccomp.listenerMetadata` is set, but `linux.seccomp.listenerPath` is not",
        ),
        (
            deny(vec![
                SeccompRule { args: vec![arg(0, "EQ", 1, 0)], ..rule(&["read"], "SCMP_ACT_ALLOW") },
                SeccompRule { args: vec![arg(0, "EQ", 1, 0)], ..rule(&["read"], "SCMP_ACT_TRAP") },
            ]),
            "`linux.seccomp.syscalls[1]` contradicts `linux.seccomp.syscalls[0]`",
        ),
    ];
    for (profile, message) in cases {
        let refusal = refusal(&profile);
        assert!(refusal.contains(message), "{refusal}");
    }
}

#[test]
fn an_architecture_of_the_other_byte_order_is_refused() {
    let foreign = if native().big_endian { "SCMP_ARCH_ARM" } else { "SCMP_ARCH_S390X" };
    let message = refusal(&Seccomp { architectures: vec![foreign.into()], ..profile("SCMP_ACT_ERRNO", vec![]) });
    assert!(message.contains("`linux.seccomp.architectures[0]`"), "{message}");
}

#[test]
fn more_than_the_kernel_takes_is_refused_soon() {
    let rules = (0..200_000)
        .map(|value| SeccompRule { args: vec![arg(0, "EQ", value, 0)], ..rule(&["read"], "SCMP_ACT_ALLOW") })
        .collect();
    let message = refusal(&profile("SCMP_ACT_ERRNO", rules));
    assert!(message.starts_with("`linux.seccomp.syscalls`: the rules need"), "{message}");
    let names = vec!["read"; 500_000];
    compile(&profile("SCMP_ACT_ERRNO", vec![rule(&names, "SCMP_ACT_ALLOW")])).unwrap();
}
