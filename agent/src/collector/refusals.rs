//! Targets for which return probes would be unsafe.
//!
//! A return probe replaces the return address of a call with an address of the kernel. Code that
//! reads or moves return addresses then fails: an unwinder stops a C++ exception or a Rust panic
//! with an abort, a coroutine returns into another coroutine. Some kernels return through a system
//! call, for which a seccomp filter kills the process.

use std::fs::File;

use edgelat_guard::protocol::MappedImage;
use edgelat_guard::{Line, outside};
use edgelat_image::Image;

use super::target::{Target, file_name};

/// Libraries whose presence means that frames are unwound.
const UNWINDERS: [&str; 3] = ["libgcc_s.so", "libunwind.so", "libstdc++.so"];
/// Functions that switch stacks.
const SWITCHES: [&str; 3] = ["swapcontext", "makecontext", "setcontext"];

/// Maximum number of images that are searched.
const LOOKED_INTO: usize = 256;

/// Returns the reason against return probes in a process, or `None`. Stack switches by a program's
/// own instructions cannot be ruled out.
pub fn return_probes(line: &mut Line, target: &Target, images: &[MappedImage]) -> Option<String> {
    let status = outside::read_to_string(format!("/proc/{}/status", target.pid)).unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    if mode.is_some_and(|mode| mode != "0") {
        return Some("it runs under seccomp, which may kill it at the first return".to_owned());
    }
    if images.len() > LOOKED_INTO {
        return Some(format!("it maps {} files, too many to look into all of them", images.len()));
    }
    images.iter().find_map(|image| {
        let name = file_name(&image.path);
        if UNWINDERS.iter().any(|unwinder| name.starts_with(unwinder)) {
            return Some(format!(
                "{name} is mapped, and an exception or panic through a probed frame would abort it"
            ));
        }
        if name.contains("greenlet") {
            return Some(format!("{name} is mapped, and its coroutines move stacks"));
        }
        // The C library defines these functions; only their callers matter.
        let open = target.open_image(line, image).ok()?;
        unsafe_inside(&open.file).map(|reason| format!("{name} {reason}"))
    })
}

fn unsafe_inside(file: &File) -> Option<String> {
    let image = Image::open(file).ok()?;
    if image.facts().go.is_some() {
        return Some(
            "is written in Go, which moves stacks and finds return addresses that are not its own".to_owned(),
        );
    }
    let imports = image.imports(&SWITCHES).unwrap_or_default();
    if let Some(import) = imports.first() {
        return Some(format!("calls {import}, which moves to another stack"));
    }
    // A statically linked unwinder has symbols of its own; without symbols it cannot be seen.
    if !image.facts().needed.is_empty() {
        return None;
    }
    let functions = image.functions(&edgelat_image::DebugFiles::none(), &mut |_| ()).ok()?;
    let defined = functions.defines(&["_Unwind_RaiseException", "_Unwind_Resume"]);
    let unwinder = defined.first()?;
    Some(format!("contains {unwinder}, and an exception or panic through a probed frame would abort it"))
}
