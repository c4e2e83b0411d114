//! The program between Corten and a container's program: a few hundred bytes that execute what they are told.
//!
//! While execve(2) looks for a script's interpreter, /proc/self/exe still is the old program. So `#!/proc/self/exe` would
//! run whatever calls execve inside the container, and the container could keep that file open and write it later
//! (CVE-2019-5736). Corten therefore first becomes this launcher, a sealed file in memory that holds nothing worth writing,
//! and the launcher becomes the program. It has no libc to start.
//!
//! It may carry a system call filter, which it loads between: then the program's execve is the only call under the filter.
//!
//! Its arguments are an empty one as a mark, the program's path, and then the program's own. A script that names
//! /proc/self/exe gives no mark, and so gets no second try. Where execve fails it says why, as Go programs do, and
//! exits with 255.
#![expect(unsafe_code, reason = "machine code, and closures that run between fork and exec")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use corten_types::{Context as _, Error, ErrorKind, Result};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;

use crate::Call as _;
use crate::exec::fexecve;
use crate::seccomp::Instruction;

/// Where the launcher's one segment is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Size of the ELF header and the one program header (elf(5)).
const HEADERS_SIZE_BYTES: usize = 64 + 56;
const _: () =
    assert!(HEADERS_SIZE_BYTES.is_multiple_of(8), "the code is aligned to 8 bytes, and so is what follows it");

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.corten_launcher, \"a\"",
    ".globl corten_launcher_start",
    ".globl corten_launcher_end",
    ".balign 8",
    "corten_launcher_start:",
    "mov rax, [rsp + 8]", // the mark
    "mov ebx, -1",
    "cmp byte ptr [rax], 0",
    "jne 9f",
    "lea r12, [rip + 40f]",
    "cmp word ptr [r12 + 8], 0", // a filter of no instructions is none
    "je 8f",
    "mov esi, [r12]", // its flags
    "7:",
    "mov edi, 1", // SECCOMP_SET_MODE_FILTER
    "mov r13d, esi",
    "lea rdx, [r12 + 8]",
    "mov eax, 317", // seccomp
    "syscall",
    "test eax, eax",
    "je 8f",
    "mov ebx, eax",
    "mov esi, [r12 + 4]", // its flags for older kernels
    "cmp r13d, esi",
    "jne 7b",
    "jmp 9f",
    "8:",
    "mov rdi, [rsp + 16]",
    "lea rsi, [rsp + 24]",
    "mov rax, [rsp]",
    "lea rdx, [rsp + rax * 8 + 16]",
    "mov eax, 59", // execve
    "syscall",
    "mov ebx, eax",
    "9:",
    "lea rsi, [rip + 20f]",
    "call 30f",
    "mov rsi, [rsp + 16]",
    "call 30f",
    "lea rsi, [rip + 21f]",
    "cmp ebx, -2", // ENOENT
    "je 10f",
    "lea rsi, [rip + 22f]",
    "cmp ebx, -8", // ENOEXEC
    "je 10f",
    "lea rsi, [rip + 23f]",
    "cmp ebx, -13", // EACCES
    "je 10f",
    "lea rsi, [rip + 24f]",
    "cmp ebx, -7", // E2BIG
    "je 10f",
    "lea rsi, [rip + 25f]",
    "10:",
    "call 30f",
    "mov edi, 255",
    "mov eax, 231", // exit_group
    "syscall",
    "hlt",
    // Writes the string at rsi to standard error.
    "30:",
    "xor edx, edx",
    "31:",
    "cmp byte ptr [rsi + rdx], 0",
    "je 32f",
    "inc rdx",
    "jmp 31b",
    "32:",
    "mov edi, 2",
    "mov eax, 1", // write
    "syscall",
    "ret",
    "20: .asciz \"exec \"",
    "21: .asciz \": no such file or directory\\n\"",
    "22: .asciz \": exec format error\\n\"",
    "23: .asciz \": permission denied\\n\"",
    "24: .asciz \": argument list too long\\n\"",
    "25: .asciz \": cannot be executed\\n\"",
    ".balign 8",
    "40:", // where the filter is appended
    "corten_launcher_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata.corten_launcher, \"a\"",
    ".globl corten_launcher_start",
    ".globl corten_launcher_end",
    ".balign 8",
    "corten_launcher_start:",
    "mov x19, sp",
    "ldr x0, [x19, #8]", // the mark
    "mov x20, #-1",
    "ldrb w0, [x0]",
    "cbnz w0, 9f",
    "adr x21, 40f",
    "ldrh w0, [x21, #8]", // a filter of no instructions is none
    "cbz w0, 8f",
    "ldr w22, [x21]", // its flags
    "7:",
    "mov x0, #1", // SECCOMP_SET_MODE_FILTER
    "mov w1, w22",
    "add x2, x21, #8",
    "mov x8, #277", // seccomp
    "svc #0",
    "mov x20, x0",
    "cbz x0, 8f",
    "mov w23, w22",
    "ldr w22, [x21, #4]", // its flags for older kernels
    "cmp w22, w23",
    "b.ne 7b",
    "b 9f",
    "8:",
    "ldr x0, [x19, #16]",
    "add x1, x19, #24",
    "ldr x2, [x19]",
    "add x2, x19, x2, lsl #3",
    "add x2, x2, #16",
    "mov x8, #221", // execve
    "svc #0",
    "mov x20, x0",
    "9:",
    "adr x1, 20f",
    "bl 30f",
    "ldr x1, [x19, #16]",
    "bl 30f",
    "adr x1, 21f",
    "cmn x20, #2", // ENOENT
    "b.eq 10f",
    "adr x1, 22f",
    "cmn x20, #8", // ENOEXEC
    "b.eq 10f",
    "adr x1, 23f",
    "cmn x20, #13", // EACCES
    "b.eq 10f",
    "adr x1, 24f",
    "cmn x20, #7", // E2BIG
    "b.eq 10f",
    "adr x1, 25f",
    "10:",
    "bl 30f",
    "mov x0, #255",
    "mov x8, #94", // exit_group
    "svc #0",
    "30:",
    "mov x2, #0",
    "31:",
    "ldrb w3, [x1, x2]",
    "cbz w3, 32f",
    "add x2, x2, #1",
    "b 31b",
    "32:",
    "mov x0, #2",
    "mov x8, #64", // write
    "svc #0",
    "ret",
    "20: .asciz \"exec \"",
    "21: .asciz \": no such file or directory\\n\"",
    "22: .asciz \": exec format error\\n\"",
    "23: .asciz \": permission denied\\n\"",
    "24: .asciz \": argument list too long\\n\"",
    "25: .asciz \": cannot be executed\\n\"",
    ".balign 8",
    "40:", // where the filter is appended
    "corten_launcher_end:",
    ".popsection",
);

unsafe extern "C" {
    static corten_launcher_start: u8;
    static corten_launcher_end: u8;
}

/// A system call filter that the launcher loads. The process must have `no_new_privs`.
#[derive(Debug, Clone, Copy)]
pub struct Carried<'a> {
    /// The program.
    pub program: &'a [Instruction],
    /// `SECCOMP_FILTER_FLAG_*`
    pub flags: u32,
    /// The flags to try where the kernel refuses those.
    pub fallback_flags: u32,
}

/// The launcher, ready to be executed.
#[derive(Debug)]
pub struct Launcher(OwnedFd);

impl Launcher {
    /// Makes the launcher: in the parent, before the clone.
    pub fn new(filter: Option<Carried<'_>>) -> Result<Self> {
        let (writable, sealable) = match memory_file() {
            Ok(file) => (file, true),
            // An outer container's filter may hide memfd_create; vm.memfd_noexec may be 2.
            Err(error) => (unnamed_file().map_err(|_| error)?, false),
        };
        let mut writable = File::from(writable);
        writable.write_all(&program(filter)).context(|| "cannot write the launcher")?;
        if sealable {
            let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
            rustix::fs::fcntl_add_seals(&writable, seals).call(|| "fcntl(<launcher>, F_ADD_SEALS)")?;
        }
        // What is open for writing cannot be executed (ETXTBSY).
        let path = format!("/proc/self/fd/{}", writable.as_raw_fd());
        let readable = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .call(|| format!("open(\"{path}\")"))?;
        Ok(Self(readable))
    }

    /// Replaces the process by the program at `path`, through the launcher. Returns only a failure to become the launcher.
    pub fn execute(&self, path: &CStr, args: &[CString], env: &[CString]) -> Errno {
        let all: Vec<CString> = [CString::default(), path.to_owned()].into_iter().chain(args.iter().cloned()).collect();
        fexecve(self.0.as_fd(), &all, env)
    }

    /// Has `command`, whose arguments and environment are given once more, execute its program through the launcher.
    pub fn carry(&self, command: &mut Command, path: CString, args: Vec<CString>, env: Vec<CString>) -> Result<()> {
        let launcher = self.0.try_clone().context(|| "cannot duplicate the launcher's descriptor")?;
        let launcher = Self(launcher);
        let run = move || -> std::io::Result<()> { Err(launcher.execute(&path, &args, &env).into()) };
        // SAFETY: the process has one thread (its callers hold `SingleThreaded`), so the child may allocate after fork.
        unsafe { command.pre_exec(run) };
        Ok(())
    }

    /// Its descriptor, for who closes all others.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The name that runc gives the sealed file that enters a container: what watches for programs run from memory knows it.
const NAME: &str = "runc_cloned:/proc/self/exe";

fn memory_file() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC must be asked for where vm.memfd_noexec is 1, and is unknown before Linux 6.3.
    rustix::fs::memfd_create(NAME, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(NAME, flags))
        .call(|| "memfd_create(<launcher>, MFD_EXEC)")
        .map_err(|error| match error.errno() {
            Some(13) => error.with_kind(ErrorKind::Unsupported).hint("the sysctl vm.memfd_noexec must not be 2"),
            _ => error,
        })
}

/// A file without a name, executable. It cannot be sealed; but it serves this one start, so writing it harms its writer.
fn unnamed_file() -> Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let places = ["/dev/shm", "/run", "/tmp", "/var/tmp"].iter().filter(|place| {
        rustix::fs::statvfs(**place).is_ok_and(|found| !found.f_flag.contains(StatVfsMountFlags::NOEXEC))
    });
    let mut last = Errno::NOENT;
    for place in places {
        match rustix::fs::open(*place, flags, Mode::from_raw_mode(0o755)) {
            Ok(file) => return Ok(file),
            Err(errno) => last = errno,
        }
    }
    Err(Error::syscall("open(<directory>, O_TMPFILE)", last.raw_os_error()))
}

/// A static ELF program: two headers, the machine code, and the filter behind it; one segment (elf(5)).
fn program(filter: Option<Carried<'_>>) -> Vec<u8> {
    let code = code();
    let filter = appended(filter, HEADERS_SIZE_BYTES + code.len());
    let size = u64::try_from(HEADERS_SIZE_BYTES + code.len() + filter.len()).unwrap_or(u64::MAX);
    let mut file = Vec::with_capacity(HEADERS_SIZE_BYTES + code.len() + filter.len());
    file.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    file.extend(2u16.to_ne_bytes()); // ET_EXEC
    file.extend(MACHINE.to_ne_bytes());
    file.extend(1u32.to_ne_bytes());
    let entry = ADDRESS + u64::try_from(HEADERS_SIZE_BYTES).unwrap_or_default();
    for word in [entry, 64, 0] {
        file.extend(word.to_ne_bytes()); // e_entry, e_phoff, e_shoff
    }
    file.extend(0u32.to_ne_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_ne_bytes()); // e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    }
    file.extend(1u32.to_ne_bytes()); // PT_LOAD
    file.extend(5u32.to_ne_bytes()); // PF_R | PF_X
    for word in [0, ADDRESS, ADDRESS, size, size, 0x1000] {
        file.extend(word.to_ne_bytes()); // p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    }
    file.extend(code);
    file.extend(filter);
    file
}

/// Flags, fallback flags, a `struct sock_fprog` and its instructions, all at `offset` of the file.
fn appended(filter: Option<Carried<'_>>, offset: usize) -> Vec<u8> {
    const HEAD_SIZE_BYTES: usize = 8 + 16;
    let none = Carried { program: &[], flags: 0, fallback_flags: 0 };
    let filter = filter.unwrap_or(none);
    let address = ADDRESS + u64::try_from(offset + HEAD_SIZE_BYTES).unwrap_or_default();
    let mut bytes = Vec::with_capacity(HEAD_SIZE_BYTES + filter.program.len() * 8);
    bytes.extend(filter.flags.to_ne_bytes());
    bytes.extend(filter.fallback_flags.to_ne_bytes());
    // The compiler of filters stays below 4096 instructions, the kernel's limit.
    bytes.extend(u64::try_from(filter.program.len()).unwrap_or_default().to_ne_bytes());
    bytes.extend(address.to_ne_bytes());
    for instruction in filter.program {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    bytes
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const corten_launcher_start, &raw const corten_launcher_end);
    // SAFETY: both labels lie in the one read-only section that the assembler wrote above, the end after the start.
    unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// The strings of a [`Launcher::carry`]; a NUL in one of them is an error.
pub fn c_strings<'a>(list: impl IntoIterator<Item = &'a str>) -> Result<Vec<CString>> {
    let convert = |text: &str| CString::new(text).map_err(|_| Error::invalid("an argument contains a NUL character"));
    list.into_iter().map(convert).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: &str, args: &[&str]) -> (Option<i32>, String, String) {
        let launcher = Launcher::new(None).unwrap();
        let mut command = Command::new("/bin/true");
        let env = c_strings(["WORD=seen"]).unwrap();
        let args = c_strings(args.iter().copied()).unwrap();
        launcher.carry(&mut command, CString::new(path).unwrap(), args, env).unwrap();
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    #[test]
    fn arguments_and_environment_arrive_as_they_were() {
        let seen = run("/bin/sh", &["my name", "-c", "echo \"$0|$1|$WORD\"", "a", "b c"]);
        assert_eq!(seen, (Some(0), "a|b c|seen\n".to_owned(), String::new()));
    }

    #[test]
    fn what_cannot_be_executed_is_named_with_the_reason() {
        let missing = run("/no/such", &["x"]);
        assert_eq!(missing, (Some(255), String::new(), "exec /no/such: no such file or directory\n".to_owned()));
        let denied = run("/etc/passwd", &["x"]);
        assert_eq!(denied.2, "exec /etc/passwd: permission denied\n");
    }

    #[test]
    fn a_carried_filter_holds_for_the_program() {
        let allow = Instruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
        let refuse_getppid = [
            Instruction { code: 0x20, jt: 0, jf: 0, k: 0 },
            Instruction { code: 0x15, jt: 0, jf: 1, k: u32::try_from(libc::SYS_getppid).unwrap() },
            Instruction { code: 0x06, jt: 0, jf: 0, k: 0x0005_0000 | 42 },
            allow,
        ];
        let filter = Carried { program: &refuse_getppid, flags: 1 << 31, fallback_flags: 0 };
        let launcher = Launcher::new(Some(filter)).unwrap();
        let mut command = Command::new("/bin/true");
        let args = c_strings(["sh", "-c", "grep ^Seccomp: /proc/self/status"]).unwrap();
        launcher.carry(&mut command, c"/bin/sh".to_owned(), args, Vec::new()).unwrap();
        rustix::thread::set_no_new_privs(true).unwrap();
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "Seccomp:\t2");
    }

    #[test]
    fn a_script_that_names_its_caller_finds_the_launcher() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/proc/self/exe\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = script.to_str().unwrap();
        let (code, out, said) = run(path, &[path]);
        assert_eq!((code, out.as_str()), (Some(255), ""));
        assert_eq!(said, format!("exec {path}: cannot be executed\n"));
    }
}
