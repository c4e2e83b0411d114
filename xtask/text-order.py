#!/usr/bin/env python3
"""Writes crates/corten/hot.ld: the functions that a runtime's commands enter, for the linker to lay together.

    cargo rustc --release -p corten --bin corten -- -C link-arg=-Wl,-Map=/tmp/corten.map
    xtask/text-order.py PATH-OF-BINARY /tmp/corten.map BUNDLE SLEEPING-BUNDLE       (as root, x86_64)

BUNDLE's program ends by itself, SLEEPING-BUNDLE's waits. Every command is run instruction by instruction (ptrace(2)); what
was executed is looked up in the linker's map. Hashes in names become `*`, so that the list outlives the compiler's version.
"""

import bisect
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile

TRACEME, PEEKUSER, CONT, SINGLESTEP, SETOPTIONS, GETEVENTMSG = 0, 3, 7, 9, 0x4200, 0x4201
OPTIONS = 0x02 | 0x04 | 0x08 | 0x10  # fork, vfork, clone, exec
RIP = 16 * 8
WALL = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
ptrace = libc.ptrace
ptrace.restype = ctypes.c_long
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def trace(command):
    """The addresses that the program and its children executed, up to their next execve."""
    first = os.fork()
    if first == 0:
        ptrace(TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execv(command[0], command)
    os.waitpid(first, 0)
    ptrace(SETOPTIONS, first, None, OPTIONS)
    ptrace(CONT, first, None, None)
    seen, execs, living = set(), {first: -1}, {first}
    while first in living:
        pid, status = os.waitpid(-1, WALL)
        if not os.WIFSTOPPED(status):
            living.discard(pid)
            continue
        living.add(pid)
        number, event = os.WSTOPSIG(status), status >> 16
        if event == 4:
            execs[pid] = execs.get(pid, 0) + 1
        ours = execs.get(pid, 0) == 0
        if ours and number == signal.SIGTRAP and not event:
            seen.add(ptrace(PEEKUSER, pid, RIP, None))
        deliver = None if number in (signal.SIGTRAP, signal.SIGSTOP) else number
        ptrace(SINGLESTEP if ours else CONT, pid, None, deliver)
    return seen


def sections(path):
    """Address, size, file and name of every input section of code in the linker's map."""
    line = re.compile(r"\s*([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)\s+\d+ {9}(\S.*):\((\.text[^)]*)\)$")
    found = [line.match(text) for text in open(path, encoding="utf-8")]
    return sorted((int(m[1], 16), int(m[2], 16), m[3], m[4]) for m in found if m)


def file_pattern(path):
    archive = re.search(r"/(lib[^/]*)\.(a|rlib)\(([^)]*)\)$", path)
    if archive and archive[2] == "a":
        return f"*{archive[1]}.a:{archive[3]}"
    if archive:
        return "*" + re.sub(r"-[0-9a-f]{16}$", "-*", archive[1]) + ".rlib:" + re.sub(r"-[0-9a-f]{16}\..*", "-*", archive[3])
    crate = re.search(r"/corten-[0-9a-f]{16}\.([a-z0-9_]+)-[0-9a-f]{16}\.", path)
    if crate:
        return f"*.{crate[1]}-*.rcgu.o"
    return "*" if "rcgu" in path else "*" + path.rsplit("/", 1)[1]


def section_pattern(name):
    name = re.sub(r"\.llvm\.\d+$", "*", name)
    name = re.sub(r"17h[0-9a-f]{16}E", "17h*", name)
    name = re.sub(r"Cs[0-9A-Za-z]+_", "Cs*_", name)
    return re.sub(r"\*+", "*", name)


def main():
    binary, linker_map, bundle, sleeping = (os.path.abspath(path) for path in sys.argv[1:5])
    root = tempfile.mkdtemp()
    runtime = [binary, "runtime", "--root", root]

    def quietly(*words):
        subprocess.run([*runtime, *words], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    seen = trace([*runtime, "run", "--bundle", bundle, "order-1"])
    quietly("create", "--bundle", sleeping, "order-2")
    for words in (["start", "order-2"], ["state", "order-2"], ["exec", "order-2", "/bin/true"], ["delete", "-f", "order-2"]):
        seen |= trace([*runtime, *words])
    os.rmdir(root)

    table = sections(linker_map)
    starts = [row[0] for row in table]
    hot = {bisect.bisect_right(starts, address) - 1 for address in seen}
    lines = {}
    for index in sorted(hot):
        if index >= 0:
            _, _, path, name = table[index]
            lines[f"    {file_pattern(path)}({section_pattern(name)})\n"] = None
    place = os.path.join(os.path.dirname(__file__), "../crates/corten/hot.ld")
    head = open(place, encoding="utf-8").read().split("SECTIONS", 1)[0]
    with open(place, "w", encoding="utf-8") as out:
        out.write(head + "SECTIONS\n{\n  .text.hot :\n  {\n" + "".join(lines) + "  }\n}\nINSERT BEFORE .text;\n")
    print(f"{len(lines)} lines, {sum(table[index][1] for index in hot if index >= 0)} bytes of code")


main()
