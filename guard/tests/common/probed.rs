//! A target with a function that the tests know: the test program itself.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use edgelat_guard::protocol::PlanSite;
use nix::libc;

const TARGET: &str = "EDGELAT_TEST_TARGET";

// One instruction and a return, each of which the kernel can probe.
std::arch::global_asm!(
    ".globl edgelat_test_probed",
    ".globl edgelat_test_probed_return",
    ".text",
    "edgelat_test_probed:",
    "nop",
    "edgelat_test_probed_return:",
    "ret",
);

unsafe extern "C" {
    pub(crate) fn edgelat_test_probed();
    pub(crate) fn edgelat_test_probed_return();
}

/// The target: this program again, if it was started as that. It calls the function a thousand
/// times a second, and forks on request.
pub(crate) fn target() {
    if std::env::var_os(TARGET).is_none() {
        return;
    }
    thread::spawn(|| {
        loop {
            // SAFETY: the function above does nothing and returns.
            unsafe { edgelat_test_probed() };
            thread::sleep(Duration::from_millis(1));
        }
    });
    let mut word = [0];
    while std::io::stdin().read(&mut word).unwrap() == 1 {
        // SAFETY: the child makes only two system calls before it ends.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                nix::unistd::sleep(1);
                // SAFETY: ends the process without running anything of ours.
                unsafe { libc::_exit(0) };
            }
            nix::unistd::ForkResult::Parent { child } => _ = nix::sys::wait::waitpid(child, None),
        }
    }
    std::process::exit(0);
}

/// A running target.
pub(crate) struct Target(pub(crate) Child);

impl Target {
    pub(crate) fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_target", "--nocapture"]).env(TARGET, "1");
        Self(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// File offset of an address of this program.
pub(crate) fn file_offset(address: usize) -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let hex = |digits: &str| u64::from_str_radix(digits, 16).unwrap();
    let of_line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let offset = words.nth(1)?;
        let address = address as u64;
        (hex(start)..hex(end)).contains(&address).then(|| address - hex(start) + hex(offset))
    };
    maps.lines().find_map(of_line).unwrap()
}

/// A site of this program.
pub(crate) fn site(file: &fs::File, address: usize, exit: bool) -> PlanSite {
    let offset = file_offset(address);
    let mut code = [0; 4];
    file.read_exact_at(&mut code, offset).unwrap();
    PlanSite { offset, cookie: 0, exit, stepped: true, code, code_len: 4, before: 0 }
}
