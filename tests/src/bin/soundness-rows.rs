//! Prints the rows of the soundness oracle as assembly: `soundness-rows x86_64|aarch64 [brief]`.

use edgelat_image::Arch;
use edgelat_tests::soundness::{assembly, brief, rows};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let arch = match arguments.next().as_deref() {
        Some("x86_64") => Arch::X86_64,
        Some("aarch64") => Arch::Aarch64,
        other => panic!("{other:?}: usage: soundness-rows x86_64|aarch64 [brief]"),
    };
    let rows = rows(arch);
    let rows = if arguments.next().as_deref() == Some("brief") { brief(rows) } else { rows };
    print!("{}", assembly(&rows));
}
