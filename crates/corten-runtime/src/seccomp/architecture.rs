//! Architectures as seccomp(2) sees them: token, width, byte order, and numbers of their system calls.

use super::numbers::{COLUMNS, IPC, NO, NUMBERS, SOCKETCALL};

/// Bit of a system call's number that marks the x32 ABI.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// One ABI that a filter can name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Architecture {
    /// As profiles name it.
    pub name: &'static str,
    /// `AUDIT_ARCH_*`, what `seccomp_data.arch` holds; x32 shares x86_64's.
    pub token: u32,
    /// Column of the number table.
    column: usize,
    /// What the ABI adds to every number of the table.
    base: u32,
    /// Whether arguments have 64 bits; of others only the low half is compared.
    pub wide: bool,
    /// Byte order, which decides where an argument's halves lie.
    pub big_endian: bool,
    /// Whether socketcall(2) and ipc(2) exist.
    pub multiplexed: bool,
}

/// A system call on every architecture.
#[derive(Debug, Clone, Copy)]
pub(super) struct SystemCall {
    call: u16,
    numbers: &'static [u16; COLUMNS],
}

/// The call named `name`; `None` where no architecture has one.
pub(super) fn system_call(name: &str) -> Option<SystemCall> {
    system_call_after(&mut 0, name)
}

/// As [`system_call`], for names that mostly come in alphabetic order: looks first beside `place`, the last one found.
pub(super) fn system_call_after(place: &mut usize, name: &str) -> Option<SystemCall> {
    const NEIGHBOURS: usize = 4;
    let neighbours = NUMBERS.iter().skip(*place).take(NEIGHBOURS);
    *place = match neighbours.zip(*place..).find(|(row, _)| row.0 == name) {
        Some((_, index)) => index,
        None => NUMBERS.binary_search_by(|row| row.0.cmp(name)).ok()?,
    };
    let (_, call, numbers) = &NUMBERS[*place];
    Some(SystemCall { call: *call, numbers })
}

impl Architecture {
    /// The call's own number.
    pub(super) fn number(&self, call: SystemCall) -> Option<u32> {
        match call.numbers[self.column] {
            NO => None,
            private @ 0xf000.. => Some(0x000f_0000 | u32::from(private & 0xfff)),
            number => Some(self.base + u32::from(number)),
        }
    }

    /// The multiplexer that also makes the call, and the first argument that stands for it there.
    pub(super) fn multiplexer(&self, call: SystemCall) -> Option<(u32, u64)> {
        if !self.multiplexed || call.call == 0 {
            return None;
        }
        let multiplexer = if call.call & SOCKETCALL != 0 { "socketcall" } else { "ipc" };
        let number = self.number(system_call(multiplexer)?)?;
        Some((number, u64::from(call.call & !(SOCKETCALL | IPC))))
    }

    /// Whether this is s390 or s390x, where number 0 stands for every number that does not fit the instruction.
    pub(super) fn zero_is_unknown(&self) -> bool {
        matches!(self.column, 8 | 9)
    }
}

/// The architecture that profiles call `name`.
pub(super) fn by_name(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|architecture| architecture.name == name)
}

/// The architecture of this program.
pub(super) fn native() -> &'static Architecture {
    let big = cfg!(target_endian = "big");
    let name = match std::env::consts::ARCH {
        "x86" => "SCMP_ARCH_X86",
        "aarch64" => "SCMP_ARCH_AARCH64",
        "arm" => "SCMP_ARCH_ARM",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "powerpc" => "SCMP_ARCH_PPC",
        "powerpc64" if big => "SCMP_ARCH_PPC64",
        "powerpc64" => "SCMP_ARCH_PPC64LE",
        "s390x" => "SCMP_ARCH_S390X",
        "loongarch64" => "SCMP_ARCH_LOONGARCH64",
        "mips" if big => "SCMP_ARCH_MIPS",
        "mips" => "SCMP_ARCH_MIPSEL",
        "mips64" if big => "SCMP_ARCH_MIPS64",
        "mips64" => "SCMP_ARCH_MIPSEL64",
        "m68k" => "SCMP_ARCH_M68K",
        _ => "SCMP_ARCH_X86_64",
    };
    by_name(name).unwrap_or(&ARCHITECTURES[0])
}

const BITS_64: u32 = 0x8000_0000;
const LITTLE: u32 = 0x4000_0000;
const N32: u32 = 0x2000_0000;

const fn little(name: &'static str, machine: u32, column: usize, base: u32, wide: bool) -> Architecture {
    let token = machine | LITTLE | if wide { BITS_64 } else { 0 };
    Architecture { name, token, column, base, wide, big_endian: false, multiplexed: false }
}

const fn big(name: &'static str, machine: u32, column: usize, base: u32, wide: bool) -> Architecture {
    let token = machine | if wide { BITS_64 } else { 0 };
    Architecture { name, token, column, base, wide, big_endian: true, multiplexed: false }
}

const fn multiplexed(architecture: Architecture) -> Architecture {
    Architecture { multiplexed: true, ..architecture }
}

const fn token(architecture: Architecture, token: u32) -> Architecture {
    Architecture { token, ..architecture }
}

// Machine numbers are those of ELF (linux/elf-em.h), tokens those of linux/audit.h.
static ARCHITECTURES: [Architecture; 23] = [
    little("SCMP_ARCH_X86_64", 62, 0, 0, true),
    multiplexed(little("SCMP_ARCH_X86", 3, 1, 0, false)),
    token(little("SCMP_ARCH_X32", 62, 2, X32_BIT, false), 62 | LITTLE | BITS_64),
    little("SCMP_ARCH_AARCH64", 183, 3, 0, true),
    little("SCMP_ARCH_ARM", 40, 4, 0, false),
    little("SCMP_ARCH_RISCV64", 243, 5, 0, true),
    multiplexed(little("SCMP_ARCH_PPC64LE", 21, 6, 0, true)),
    multiplexed(big("SCMP_ARCH_PPC64", 21, 6, 0, true)),
    multiplexed(big("SCMP_ARCH_PPC", 20, 7, 0, false)),
    multiplexed(big("SCMP_ARCH_S390X", 22, 8, 0, true)),
    multiplexed(big("SCMP_ARCH_S390", 22, 9, 0, false)),
    little("SCMP_ARCH_LOONGARCH64", 258, 10, 0, true),
    multiplexed(big("SCMP_ARCH_MIPS", 8, 11, 4000, false)),
    multiplexed(little("SCMP_ARCH_MIPSEL", 8, 11, 4000, false)),
    big("SCMP_ARCH_MIPS64", 8, 12, 5000, true),
    little("SCMP_ARCH_MIPSEL64", 8, 12, 5000, true),
    token(big("SCMP_ARCH_MIPS64N32", 8, 13, 6000, false), 8 | BITS_64 | N32),
    token(little("SCMP_ARCH_MIPSEL64N32", 8, 13, 6000, false), 8 | BITS_64 | N32 | LITTLE),
    multiplexed(big("SCMP_ARCH_M68K", 4, 14, 0, false)),
    big("SCMP_ARCH_PARISC", 15, 15, 0, false),
    big("SCMP_ARCH_PARISC64", 15, 16, 0, true),
    multiplexed(little("SCMP_ARCH_SH", 42, 17, 0, false)),
    multiplexed(big("SCMP_ARCH_SHEB", 42, 17, 0, false)),
];

/// Names of all of them, sorted.
pub(super) static NAMES: [&str; ARCHITECTURES.len()] = [
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn number(architecture: &str, name: &str) -> Option<u32> {
        by_name(architecture)?.number(system_call(name)?)
    }

    #[test]
    fn the_table_is_sorted_and_every_name_has_an_architecture() {
        assert!(NUMBERS.is_sorted_by(|left, right| left.0 < right.0));
        assert!(NAMES.is_sorted_by(|left, right| left < right));
        assert!(NAMES.iter().all(|name| by_name(name).is_some()));
    }

    #[test]
    fn numbers_are_those_of_the_kernel() {
        assert_eq!(number("SCMP_ARCH_X86_64", "execveat"), Some(322));
        assert_eq!(number("SCMP_ARCH_X32", "execveat"), Some(X32_BIT | 545));
        assert_eq!(number("SCMP_ARCH_MIPS64N32", "read"), Some(6000));
        assert_eq!(number("SCMP_ARCH_ARM", "set_tls"), Some(0x000f_0005));
        assert_eq!(number("SCMP_ARCH_AARCH64", "open"), None);
        assert_eq!(number("SCMP_ARCH_X86_64", "nonsense"), None);
        let native = native();
        let here = |name| native.number(system_call(name).unwrap()).unwrap();
        assert_eq!(here("openat2"), 437);
        assert_eq!(native.name == "SCMP_ARCH_X86_64", cfg!(target_arch = "x86_64"));
    }

    #[test]
    fn tokens_are_those_of_the_audit_header() {
        let token = |name| by_name(name).unwrap().token;
        assert_eq!(token("SCMP_ARCH_X86_64"), 0xc000_003e);
        assert_eq!(token("SCMP_ARCH_X32"), 0xc000_003e);
        assert_eq!(token("SCMP_ARCH_X86"), 0x4000_0003);
        assert_eq!(token("SCMP_ARCH_AARCH64"), 0xc000_00b7);
        assert_eq!(token("SCMP_ARCH_MIPSEL64N32"), 0xe000_0008);
        assert_eq!(token("SCMP_ARCH_S390X"), 0x8000_0016);
        assert_eq!(token("SCMP_ARCH_LOONGARCH64"), 0xc000_0102);
    }

    #[test]
    fn socket_calls_are_also_found_behind_the_multiplexer() {
        let x86 = by_name("SCMP_ARCH_X86").unwrap();
        assert_eq!(x86.multiplexer(system_call("socket").unwrap()), Some((102, 1)));
        assert_eq!(x86.multiplexer(system_call("shmctl").unwrap()), Some((117, 24)));
        assert_eq!(x86.multiplexer(system_call("read").unwrap()), None);
        assert_eq!(native().multiplexer(system_call("socket").unwrap()).is_some(), native().multiplexed);
    }
}
