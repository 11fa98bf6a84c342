//! System calls of the collector, as data.
//!
//! It reads files that it was given or that are readable to all, reads mapped memory, talks to the
//! guard over a socket that is open already, and prints. Only an intruder would make a call in
//! [`DEADLY`], and it ends the process; every other call outside [`ALLOWED`] fails with EPERM.
//! `guard/tests/sandbox.rs` walks both lists and all numbers that are in neither.

use nix::libc::{
    self, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_OFD_SETLK, F_SETFD, O_ACCMODE, O_CREAT, O_TRUNC, PROT_EXEC,
    TCGETS, TIOCGWINSZ,
};

/// A system call that is allowed.
#[derive(Debug)]
pub struct Allowed {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
    /// Required arguments.
    pub only: Only,
}

/// Condition on arguments.
#[derive(Debug)]
pub enum Only {
    /// Anything.
    Any,
    /// Argument number, and its permitted values.
    OneOf(u8, &'static [u64]),
    /// Argument number, and bits that must not be set in it.
    Without(u8, u64),
    /// Argument numbers, each of which must be the descriptor of the collector's writable folder.
    Folder(&'static [u8]),
    /// Argument number, which must not be that descriptor: its number is never another folder's.
    NotFolder(u8),
}

/// A system call that ends the process.
#[derive(Debug)]
pub struct Deadly {
    /// Its name.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: i64,
}

macro_rules! allowed {
    ($($name:ident $(: $only:expr)?),* $(,)?) => {
        &[$(Allowed {
            name: stringify!($name),
            number: libc::$name,
            only: { let only = Only::Any; $(let _ = only; let only = $only;)? only },
        }),*]
    };
}

macro_rules! deadly {
    ($($name:ident),* $(,)?) => { &[$(Deadly { name: stringify!($name), number: libc::$name }),*] };
}

/// Bits of an open that writes or creates a file.
const WRITING: u64 = (O_ACCMODE | O_CREAT | O_TRUNC) as u64;
/// Descriptors are shared and marked, never moved to a number in use; a file that a command writes
/// as well is locked without waiting.
const OF_FCNTL: &[u64] =
    &[F_DUPFD_CLOEXEC as u64, F_GETFD as u64, F_SETFD as u64, F_GETFL as u64, F_OFD_SETLK as u64];
/// Test for a terminal, and its width.
#[allow(clippy::unnecessary_cast, reason = "musl has these numbers as another type")]
const OF_IOCTL: &[u64] = &[TIOCGWINSZ as u64, TCGETS as u64];

/// The calling thread, in a call that takes a thread number.
const ITSELF: &[u64] = &[0];

/// On every architecture.
pub const ALLOWED: &[Allowed] = allowed![
    // Files and output.
    SYS_read,
    SYS_pread64,
    SYS_write,
    // The quarantine, through a descriptor that the guard opened: a record at its place, and to the disk.
    SYS_pwrite64,
    SYS_fdatasync,
    SYS_writev,
    SYS_lseek,
    SYS_close: Only::NotFolder(0),
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_openat: Only::Without(2, WRITING),
    SYS_fcntl: Only::OneOf(1, OF_FCNTL),
    SYS_ioctl: Only::OneOf(1, OF_IOCTL),
    // The line to the guard; signal handlers send a byte over a socket pair of this process' own.
    SYS_sendmsg,
    SYS_recvmsg,
    SYS_sendto,
    SYS_socketpair: Only::OneOf(0, &[libc::AF_UNIX as u64]),
    SYS_ppoll,
    // Memory, which is never executed.
    SYS_brk,
    SYS_mmap: Only::Without(2, PROT_EXEC as u64),
    SYS_mprotect: Only::Without(2, PROT_EXEC as u64),
    SYS_mremap,
    SYS_munmap,
    SYS_madvise,
    // Signals of its own.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    // Time; most of it comes without a call.
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_restart_syscall,
    // Query of the clock's synchronisation. Setting it takes a capability.
    SYS_clock_adjtime: Only::OneOf(0, &[libc::CLOCK_REALTIME as u64]),
    // Check of its own placement, and its repair; only for itself.
    SYS_sched_getaffinity: Only::OneOf(0, ITSELF),
    SYS_sched_setaffinity: Only::OneOf(0, ITSELF),
    // Calls of the C library itself.
    SYS_futex,
    SYS_getpid,
    SYS_gettid,
    SYS_getrandom,
    SYS_exit,
    SYS_exit_group,
];

/// Older names of these calls, which musl uses if an architecture has them.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_HERE: &[Allowed] = allowed![SYS_open: Only::Without(1, WRITING), SYS_poll];
/// Older names of these calls; this architecture has no such names.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_HERE: &[Allowed] = &[];

/// Further calls of a collector that keeps a spool: it creates, renames and removes files of its
/// folder through the folder's descriptor. The folder is the root of the process, so no path leads
/// out, and landlock, if the kernel has it, enforces the same.
pub const ALLOWED_IN_FOLDER: &[Allowed] = allowed![
    SYS_openat: Only::Folder(&[0]),
    SYS_unlinkat: Only::Folder(&[0]),
    // A file open for writing is in the folder, or was passed in.
    SYS_ftruncate,
    SYS_fallocate: Only::OneOf(1, &[libc::FALLOC_FL_KEEP_SIZE as u64]),
    SYS_fsync,
    SYS_getdents64,
];

/// The older name, which the library uses if an architecture has it.
#[cfg(target_arch = "x86_64")]
pub const ALLOWED_IN_FOLDER_HERE: &[Allowed] = allowed![SYS_renameat: Only::Folder(&[0, 2])];
/// By number (include/uapi/asm-generic/unistd.h): the crate has no name for glibc on aarch64.
#[cfg(not(target_arch = "x86_64"))]
pub const ALLOWED_IN_FOLDER_HERE: &[Allowed] =
    &[Allowed { name: "SYS_renameat", number: 38, only: Only::Folder(&[0, 2]) }];

/// All calls of a process that confirms sites; any other call ends it.
pub const OF_CONFIRMER: &[Allowed] = allowed![
    SYS_read,
    SYS_write,
    SYS_brk,
    SYS_mmap: Only::Without(2, PROT_EXEC as u64),
    SYS_mprotect: Only::Without(2, PROT_EXEC as u64),
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_exit,
    SYS_exit_group,
];

/// On every architecture.
pub const DEADLY: &[Deadly] = deadly![
    SYS_bpf,
    SYS_perf_event_open,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_execve,
    SYS_execveat,
    SYS_clone,
    SYS_clone3,
    SYS_socket,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept4,
    SYS_kill,
    SYS_pidfd_send_signal,
    SYS_pidfd_getfd,
    SYS_mount,
    SYS_umount2,
    SYS_setns,
    SYS_unshare,
    SYS_init_module,
    SYS_finit_module,
    SYS_reboot,
    SYS_memfd_create,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_open_by_handle_at,
    SYS_add_key,
    SYS_keyctl,
];
