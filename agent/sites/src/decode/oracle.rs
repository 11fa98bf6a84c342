//! Test helpers: objdump of binutils, and a generator of random numbers.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Arch;

/// One line of a disassembly.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) text: String,
}

/// Uses the full name, which Debian's native binutils has as well: tests for aarch64 also run under
/// emulation, where plain `objdump` is for another machine.
fn objdump(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "x86_64-linux-gnu-objdump",
        Arch::Aarch64 => "aarch64-linux-gnu-objdump",
    }
}

/// Returns instruction runs, one per symbol, of an ELF file (`-d`), or with `raw` one of bytes from
/// 0.
pub(super) fn disassemble(arch: Arch, file: &Path, raw: bool) -> Vec<Vec<Line>> {
    let mut command = Command::new(objdump(arch));
    match (arch, raw) {
        (_, false) => command.arg("-d"),
        (Arch::X86_64, true) => command.args(["-D", "-b", "binary", "-m", "i386:x86-64"]),
        (Arch::Aarch64, true) => command.args(["-D", "-b", "binary", "-m", "aarch64"]),
    };
    let output = command.args(["--insn-width=16", "-z"]).arg(file).output().expect("binutils is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut runs: Vec<Vec<Line>> = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        match line_of(line, arch) {
            Some(line) => runs.last_mut().expect("a header stands before").push(line),
            None => runs.push(Vec::new()),
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// `  401000:\t55  \tpush   %rbp`; on aarch64 the bytes are a word.
fn line_of(line: &str, arch: Arch) -> Option<Line> {
    let mut fields = line.splitn(3, '\t');
    let address = u64::from_str_radix(fields.next()?.trim().strip_suffix(':')?, 16).ok()?;
    let bytes = fields.next()?.split_whitespace();
    let bytes: Vec<u8> = match arch {
        Arch::X86_64 => bytes.map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?,
        Arch::Aarch64 => bytes
            .map(|word| u32::from_str_radix(word, 16).map(u32::to_le_bytes))
            .collect::<Result<Vec<_>, _>>()
            .ok()?
            .concat(),
    };
    Some(Line { address, bytes, text: fields.next().unwrap_or_default().to_owned() })
}

/// A file with these bytes, removed at the end.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("edgelat-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("the temporary directory can be written");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// xorshift64*: equal numbers in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

/// Returns the first of these files that exists.
pub(super) fn library(paths: &[&'static str]) -> Option<&'static Path> {
    paths.iter().copied().map(Path::new).find(|path| path.exists())
}
