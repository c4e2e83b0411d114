#!/usr/bin/env python3
"""Writes crates/corten-runtime/src/seccomp/numbers.rs: every system call's number on every architecture.

    python3 xtask/syscall-numbers.py syscalls.csv > crates/corten-runtime/src/seccomp/numbers.rs

syscalls.csv is the table that libseccomp extracts from the kernel's own tables (src/syscalls.csv of its repository): one
line a name, one column an architecture, "PNR" where it does not exist. Only the numbers are taken. Checked against the
headers of Debian's linux-libc-dev-ARCH-cross packages: no number differs.
"""

import csv
import re
import sys

COLUMNS = (
    "x86_64 x86 x32 aarch64 arm riscv64 ppc64 ppc s390x s390 loongarch64 mips mips64 mips64n32 m68k parisc parisc64 sh".split()
)
# Names that the kernel's headers define and the table lacks.
ALIASES = {("sync_file_range2", "arm"): "arm_sync_file_range"}
ARM_PRIVATE = 0x0F0000
# The first argument of socketcall(2) and ipc(2) that stands for the call (linux/net.h, linux/ipc.h).
SOCKETCALL = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown setsockopt "
    "getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
).split()
IPC = {
    "semop": 1, "semget": 2, "semctl": 3, "semtimedop": 4, "msgsnd": 11, "msgrcv": 12, "msgget": 13, "msgctl": 14,
    "shmat": 21, "shmdt": 22, "shmget": 23, "shmctl": 24,
}


def call(name):
    if name in SOCKETCALL:
        return f"SOCKETCALL | {SOCKETCALL.index(name) + 1}"
    return f"IPC | {IPC[name]}" if name in IPC else "0"


def cell(row, column, rows):
    value = row[column]
    if value == "PNR" and (row["name"], column) in ALIASES:
        value = rows[ALIASES[row["name"], column]][column]
    if value == "PNR":
        return "NO"
    number = int(value)
    if number >= ARM_PRIVATE:
        number = 0xF000 | (number - ARM_PRIVATE)
    return str(number)


def main():
    lines = list(csv.reader(open(sys.argv[1])))
    version = re.search(r"\(v(\d+\.\d+)", lines[0][0]).group(1)
    header = ["name"] + lines[0][1:]
    rows = {line[0]: dict(zip(header, line)) for line in lines[1:]}
    print(f"""//! Numbers of system calls by name, up to Linux {version}. Written by xtask/syscall-numbers.py; do not edit.
//!
//! Numbers are without the architecture's base (MIPS, x32); ARM's private calls (0xf0000 and up) are stored as 0xf000 and up.

/// Marks a call that the architecture does not have.
pub(super) const NO: u16 = u16::MAX;

/// Number of columns: one a family of architectures, in the order named at [`NUMBERS`].
pub(super) const COLUMNS: usize = {len(COLUMNS)};

/// Marks a call that can also be made through socketcall(2), with the number below as its first argument.
pub(super) const SOCKETCALL: u16 = 0x100;

/// Marks a call that can also be made through ipc(2), with the number below as its first argument.
pub(super) const IPC: u16 = 0x200;

/// Sorted by name: name, multiplexed call, numbers. Columns: {", ".join(COLUMNS[:9])},
/// {", ".join(COLUMNS[9:])}.
#[rustfmt::skip]
pub(super) static NUMBERS: [(&str, u16, [u16; COLUMNS]); {len(rows)}] = [""")
    for name in sorted(rows):
        print(f'    ("{name}", {call(name)}, [{", ".join(cell(rows[name], column, rows) for column in COLUMNS)}]),')
    print("];")


main()
