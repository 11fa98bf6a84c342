//! Trial that shows whether this kernel arms every probe of an event that holds several.
//!
//! Linux up to 5.15.5, and 5.10 up to 5.10.82, arm only the first probe for a process
//! (`uprobe_perf_open`, kernel/trace/trace_uprobe.c, walks over the probes of an event and applies
//! the first each time; fixed by "tracing/uprobe: Fix uprobe_perf_open probes iteration"). All
//! others then count nothing, without an error: **ran** on 5.11.14, docs/KERNELS-BUILT.md. Version
//! numbers do not show it, since distributions carry the fix. So the trial uses an event with two
//! probes on functions of our own; both must be counted.

use std::fs::File;
use std::io::Read;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use super::tracefs::{Tracefs, cover, errno_of};
use super::{ImageSites, Site, perf};
use crate::protocol::TargetId;
use crate::target::Target;

// Both words mean the same on x86-64 and aarch64, and the kernel takes probes on both instructions.
std::arch::global_asm!(
    ".text",
    ".globl edgelat_trial_first, edgelat_trial_second",
    ".hidden edgelat_trial_first, edgelat_trial_second",
    ".p2align 4",
    "edgelat_trial_first: nop",
    "  ret",
    ".p2align 4",
    "edgelat_trial_second: nop",
    "  ret",
);

unsafe extern "C" {
    fn edgelat_trial_first();
    fn edgelat_trial_second();
}

/// Returns the hits counted by an event with two probes that were hit once each.
pub(super) fn counted(tracefs: &Tracefs) -> Result<u64, Errno> {
    let own = Target::unchecked(TargetId(0), std::process::id() as i32).map_err(|_| Errno::ESRCH)?;
    let first = edgelat_trial_first as *const () as u64;
    let mappings = own.mappings(|m| (m.start..m.end).contains(&first)).map_err(|_| Errno::ESRCH)?;
    let mapping = mappings.first().ok_or(Errno::ENOENT)?;
    let sites = [edgelat_trial_first, edgelat_trial_second].map(|function| Site {
        offset: function as *const () as u64 - mapping.start + mapping.offset,
        cookie: 0,
        before: 0,
        unshadowed: false,
    });
    let file = Rc::new(File::open("/proc/self/exe").map_err(errno_of)?);
    let image = ImageSites {
        bytes: Rc::clone(&file),
        file,
        key: mapping.file,
        entries: Vec::new(),
        exits: Vec::new(),
        mark: 0,
    };
    let copies = Arc::new(Mutex::new(tracefs.copies()?));
    let definition = tracefs.define(&image, &sites, &copies)?;
    // Counts this thread's own hits, without a program.
    let mut event = File::from(cover(&copies, perf::open_tracepoint(definition.id()?, 0)?)?);
    // SAFETY: the functions are the assembly above: they take nothing, change nothing and return. A
    // probe on them runs in the kernel and restores all registers.
    unsafe {
        edgelat_trial_first();
        edgelat_trial_second();
    }
    // The file of an event reads as its count (perf_event_open(2), with a `read_format` of 0).
    let mut count = [0; 8];
    event.read_exact(&mut count).map_err(errno_of)?;
    drop(event);
    Ok(u64::from_ne_bytes(count))
}
