//! Prints the rows of the soundness oracle as assembly: `soundness-rows x86_64|aarch64 [brief|guest]`.

use edgelat_sites::Arch;
use edgelat_tests::soundness::{assembly, brief, for_emulation, rows};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let arch = match arguments.next().as_deref() {
        Some("x86_64") => Arch::X86_64,
        Some("aarch64") => Arch::Aarch64,
        other => panic!("{other:?}: usage: soundness-rows x86_64|aarch64 [brief|guest]"),
    };
    let rows = rows(arch);
    let rows = match arguments.next().as_deref() {
        Some("brief") => brief(rows),
        Some("guest") => for_emulation(brief(rows)),
        _ => rows,
    };
    print!("{}", assembly(arch, &rows));
}
