//! Measurable functions of one process: its image, its symbols, and the obstacles.

use std::path::Path;

use edgelat_guard::Line;
use edgelat_guard::check::{Finding, State};
use edgelat_guard::protocol::MappedImage;
use edgelat_image::{DebugFiles, Image, Origin};

use crate::cli::failure::Failure;
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::notes;
use crate::collector::refusals;
use crate::collector::resolve;
use crate::collector::target::{Target, file_name};

/// Examines a process.
///
/// # Errors
/// The reason that the guard refuses it.
pub(super) fn findings(line: &mut Line, pid: i32) -> Result<Vec<Finding>, Failure> {
    // Nothing is attached, so that a debugger does not matter here; below it does.
    let target = Target::open(line, pid, true)?;
    let images = target.images(line)?;
    let mut findings = Vec::new();
    if let Some(executable) = images.iter().find(|image| image.executable) {
        executable_findings(line, &target, executable, &mut findings)?;
    }
    findings.extend(python_finding(line, &target));
    let libraries: Vec<&str> =
        images.iter().filter(|image| !image.executable).map(|image| file_name(&image.path)).collect();
    if !libraries.is_empty() {
        let more = libraries.len().saturating_sub(LIBRARIES);
        let mut names = libraries[..libraries.len().min(LIBRARIES)].join(", ");
        if more > 0 {
            names.push_str(&format!(" and {more} more"));
        }
        findings.push(Finding::ok("libraries", names));
    }
    for image in images.iter().filter(|image| image.writable) {
        let detail = format!(
            "{}: a part of its code is mapped writable or shared, where the kernel places no probe",
            image.path
        );
        let next = "functions there are refused (writable-in-memory) until the program makes it read-only again (mprotect)";
        findings.push(Finding::not_ok("code", State::Warn, detail, next));
    }
    findings.push(match Target::open(line, pid, false) {
        Ok(_) => Finding::ok("debugger", "none"),
        Err(error) => {
            Finding::not_ok("debugger", State::Warn, error.to_string(), "end it, or --allow-ptrace")
        }
    });
    let returns = match refusals::return_probes(line, &target, &images) {
        Some(reason) => format!("probes on return instructions; return probes are refused: {reason}"),
        None => {
            "probes on return instructions; nothing speaks against --returns uretprobe, but that the process \
                 switches no stacks by itself cannot be proven"
                .to_owned()
        }
    };
    findings.push(Finding::ok("returns", returns));
    Ok(findings)
}

/// Maximum number of libraries listed; a person looks for one, not for all.
const LIBRARIES: usize = 8;

/// Reports if the process runs Python, and the measurable part of it.
fn python_finding(line: &mut Line, target: &Target) -> Option<Finding> {
    let next =
        "edgelat watch -p PID 'py:NAME' measures functions of Python; they are known when they are called";
    match resolve::resolve_python(line, target, &[], &[]) {
        Ok(None) => None,
        Ok(Some((python, _))) => {
            let detail = notes::of_python(&python).collect::<Vec<_>>().join("; ");
            Some(match python.interpreters.every_call() && !python.counts_only {
                true => Finding::ok("python", detail),
                false => Finding::not_ok("python", State::Warn, detail, next),
            })
        }
        Err(error) => Some(Finding::not_ok(
            "python",
            State::Warn,
            error.to_string(),
            "functions of its libraries in C can be measured all the same",
        )),
    }
}

fn executable_findings(
    line: &mut Line,
    target: &Target,
    executable: &MappedImage,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let open = target.open_image(line, executable)?;
    let path = &open.path;
    let image = match Image::open(&open.file) {
        Ok(image) => image,
        Err(error) => {
            let next = "measure a function of one of its libraries, as IMAGE:NAME";
            findings.push(Finding::not_ok("target", State::Warn, format!("{path}: {error}"), next));
            return Ok(());
        }
    };
    let build_id =
        image.build_id().map_or_else(|| "without a build-id".to_owned(), |id| format!("build-id {id}"));
    findings.push(Finding::ok("target", format!("{path} ({}), {build_id}", image.arch())));
    if let Some(refusal) = image.refusal() {
        let next = "measure a function of one of its libraries, as IMAGE:NAME";
        findings.push(Finding::not_ok("functions", State::Warn, refusal.to_string(), next));
        return Ok(());
    }
    let debug_dirs = DebugDirs::default();
    let opener = |path: &Path| debug_dirs.file(path).map(edgelat_image::boxed);
    let debug_files = DebugFiles::new(&opener).linked_from(open.on_disk());
    let table = match image.functions(&debug_files, &mut |_| ()) {
        Ok(table) => table,
        Err(error) => {
            let next = "name a function by its address: +0xADDRESS@BUILDID";
            findings.push(Finding::not_ok("functions", State::Warn, error.to_string(), next));
            return Ok(());
        }
    };
    let sources: Vec<&str> = table.origins().iter().map(|origin| origin.name()).collect();
    let names = match sources.as_slice() {
        [] => "no names of functions".to_owned(),
        sources => format!("{} names of functions, from {}", table.len(), sources.join(", ")),
    };
    let exported_only = sources.is_empty() || sources == [Origin::Dynsym.name()];
    let language = match &image.facts().go {
        Some(go) => format!("{go}; its functions keep their names when it is stripped"),
        None => "C, C++, Rust or another that is compiled to machine code".to_owned(),
    };
    findings.push(Finding::ok("language", language));
    findings.push(if exported_only && !image.facts().symtab {
        let next = "install its debug file, bring a pack made where its symbols are (edgelat pack make), or name \
                    functions by address";
        Finding::not_ok("functions", State::Warn, format!("{names}: it is stripped"), next)
    } else {
        Finding::ok("functions", names)
    });
    Ok(())
}
