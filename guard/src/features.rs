//! Features of this kernel, found by trying.
//!
//! Version numbers mislead: vendors port features back and forth. Each test is a small program or a
//! call that only a kernel with the feature accepts.

use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use libbpf_rs::libbpf_sys::{self, bpf_insn};
use nix::errno::Errno;

/// Opcodes of `struct bpf_insn` (include/uapi/linux/bpf.h, bpf_common.h).
mod op {
    pub(super) const LOAD: u8 = 0x79; // BPF_LDX | BPF_MEM | BPF_DW
    pub(super) const STORE: u8 = 0x7b; // BPF_STX | BPF_MEM | BPF_DW
    pub(super) const MOV64_IMM: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    pub(super) const STORE_IMM: u8 = 0x7a; // BPF_ST | BPF_MEM | BPF_DW
    pub(super) const ATOMIC: u8 = 0xdb; // BPF_STX | BPF_ATOMIC | BPF_DW
    pub(super) const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
    pub(super) const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
    pub(super) const CMPXCHG: i32 = 0xf1; // BPF_CMPXCHG
}

/// A program that returns at once.
fn nothing() -> [bpf_insn; 2] {
    [insn(op::MOV64_IMM, 0, 0, 0, 0), insn(op::EXIT, 0, 0, 0, 0)]
}

/// Returns true if the kernel describes its own types.
pub(crate) fn btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Checks that the caller may load a program at all, with the smallest one.
pub(crate) fn programs() -> Result<(), Errno> {
    load(0, &nothing()).map(drop)
}

/// Checks for sleepable uprobe programs, which may wait for a page of the target: 6.0 on single
/// events and tracefs, 6.6 on uprobe_multi.
pub(crate) fn may_sleep() -> Result<(), Errno> {
    load_with(0, libbpf_sys::BPF_F_SLEEPABLE, &nothing()).map(drop)
}

/// Returns the version of landlock, from 1 (5.13) on. EOPNOTSUPP: present, but off at boot.
pub(crate) fn landlock() -> Result<u32, Errno> {
    /// LANDLOCK_CREATE_RULESET_VERSION (include/uapi/linux/landlock.h).
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes no memory (it refuses a pointer or a size) and makes
    // nothing; it returns a number.
    let version =
        unsafe { nix::libc::syscall(nix::libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    Errno::result(version).map(|version| version as u32)
}

/// Checks for compare-and-exchange in BPF programs: 5.12, arm64 5.18.
pub(crate) fn compare_exchange() -> Result<(), Errno> {
    load(
        0,
        &[
            insn(op::STORE_IMM, 10, 0, -8, 0),
            insn(op::MOV64_IMM, 0, 0, 0, 0),
            insn(op::MOV64_IMM, 1, 0, 0, 1),
            insn(op::ATOMIC, 10, 1, -8, op::CMPXCHG),
            insn(op::MOV64_IMM, 0, 0, 0, 0),
            insn(op::EXIT, 0, 0, 0, 0),
        ],
    )
    .map(drop)
}

/// Checks for cookies on perf events: 5.15.
pub(crate) fn attach_cookie() -> Result<(), Errno> {
    let helper = libbpf_sys::BPF_FUNC_get_attach_cookie as i32;
    load(0, &[insn(op::CALL, 0, 0, 0, helper), insn(op::MOV64_IMM, 0, 0, 0, 0), insn(op::EXIT, 0, 0, 0, 0)])
        .map(drop)
}

/// Checks for uprobe_multi links that filter by process, not thread (6.6, fixed in 6.6.32 and 6.9).
///
/// Two calls must fail, each in its own way: "/" is no file to probe, and a kernel with the link
/// type returns EBADF; a process of -1 gets EINVAL only on a kernel with the fixed filter.
pub(crate) fn uprobe_multi() -> Result<(), Errno> {
    multi_link(libbpf_sys::BPF_TRACE_UPROBE_MULTI)
}

/// Checks for uprobe programs that may write the registers of the thread: some 6.18 kernels, all
/// from 6.19 on. Tried only on x86-64, whose `ret` the kernel would otherwise single-step;
/// aarch64's is simulated.
pub(crate) fn write_registers() -> Result<(), Errno> {
    /// Offset of `sp` in `struct pt_regs` (arch/x86/include/uapi/asm/ptrace-abi.h, RSP).
    const SP: i16 = 152;
    if !cfg!(target_arch = "x86_64") {
        return Err(Errno::ENOTSUP);
    }
    uprobe_multi()?;
    let program = [
        insn(op::LOAD, 2, 1, SP, 0),
        insn(op::STORE, 1, 2, SP, 0),
        insn(op::MOV64_IMM, 0, 0, 0, 0),
        insn(op::EXIT, 0, 0, 0, 0),
    ];
    load(libbpf_sys::BPF_TRACE_UPROBE_MULTI, &program).map(drop)
}

/// Checks for uprobe sessions: 6.13.
pub(crate) fn session() -> Result<(), Errno> {
    multi_link(libbpf_sys::BPF_TRACE_UPROBE_SESSION)
}

fn multi_link(attach_type: libbpf_sys::bpf_attach_type) -> Result<(), Errno> {
    let program = load(attach_type, &nothing())?;
    let link = |pid: u32| -> Errno {
        let offset = 0 as std::ffi::c_ulong;
        let mut options = libbpf_sys::bpf_link_create_opts {
            sz: size_of::<libbpf_sys::bpf_link_create_opts>() as _,
            ..Default::default()
        };
        options.__bindgen_anon_1.uprobe_multi.path = c"/".as_ptr();
        options.__bindgen_anon_1.uprobe_multi.offsets = &raw const offset;
        options.__bindgen_anon_1.uprobe_multi.cnt = 1;
        options.__bindgen_anon_1.uprobe_multi.pid = pid;
        // SAFETY: the program descriptor is open, `options` is initialised and says its own size,
        // and path and offset outlive the call, which keeps no pointer.
        let fd = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), 0, attach_type, &options) };
        if fd < 0 {
            return Errno::from_raw(-fd);
        }
        // SAFETY: a new descriptor without another owner; dropping it removes the link.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        Errno::UnknownErrno
    };
    match (link(0), link(u32::MAX)) {
        (Errno::EBADF, Errno::EINVAL) => Ok(()),
        (Errno::EBADF, _) => Err(Errno::ENOTSUP),
        (errno, _) => Err(errno),
    }
}

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    let mut insn = bpf_insn { code, off, imm, ..Default::default() };
    insn.set_dst_reg(dst);
    insn.set_src_reg(src);
    insn
}

fn load(attach_type: libbpf_sys::bpf_attach_type, program: &[bpf_insn]) -> Result<OwnedFd, Errno> {
    load_with(attach_type, 0, program)
}

fn load_with(
    attach_type: libbpf_sys::bpf_attach_type,
    flags: u32,
    program: &[bpf_insn],
) -> Result<OwnedFd, Errno> {
    let license = CString::from(c"Dual BSD/GPL");
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as _,
        expected_attach_type: attach_type,
        prog_flags: flags,
        ..Default::default()
    };
    // SAFETY: name, licence, instructions and options are initialised, outlive the call and are not
    // kept; the count is that of the slice.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_KPROBE,
            std::ptr::null::<c_char>(),
            license.as_ptr(),
            program.as_ptr(),
            program.len() as _,
            (&raw const options).cast_mut(),
        )
    };
    if fd < 0 {
        return Err(Errno::from_raw(-fd));
    }
    // SAFETY: a new descriptor without another owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
