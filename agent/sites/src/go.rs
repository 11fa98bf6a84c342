//! Probe sites of functions that the Go tool chain compiled.
//!
//! Exits are found as in any other code. Two things differ.
//!
//! **The entry.** A function that needs stack begins by comparing the stack pointer with the limit
//! of its goroutine; if too little is left, it has the stack replaced and *jumps to its own start*.
//! A probe on the first instruction would count such a call twice. So the entry is the branch
//! behind the comparison, which each call passes exactly once without taking it; the kernel
//! emulates it, and nothing before it touches the stack. Functions that need almost no stack and
//! call nothing have no such check, and begin as others do.
//!
//! | | comparison | branch to the part that gets more stack |
//! | --- | --- | --- |
//! | x86-64 | `cmp 0x10(%r14),%rsp`, or `%r12` where the frame is large | `jbe` |
//! | aarch64 | `ldr x16,[x28,#16]`, `cmp sp,x16`, or `x17` where the frame is large | `b.ls` |
//!
//! (cmd/internal/obj/x86/obj6.go and arm64/obj7.go, `stacksplit`, Go 1.17 to 1.27; 16 is the offset
//! of `stackguard0`; functions on the system's stack use `stackguard1` at 24.)
//!
//! **Restartable sequences.** If an operation takes several instructions on aarch64, because of a
//! large address or constant, the assembler computes that in X27. A goroutine interrupted in such a
//! sequence continues at the start of the sequence (cmd/internal/obj/arm64/asm7.go,
//! `isRestartable`; runtime/preempt.go, `isAsyncSafePoint`; Go 1.15 to 1.27). A probe on any but
//! its last instruction, which only reads X27, would count such a call twice. Functions with a
//! stack check are not interrupted before they have passed it.
//!
//! **Constants in the text.** The aarch64 assembler puts constants that fit no instruction behind
//! or between the code. Loads refer to them by their own address; they are removed before decoding.
//!
//! An assembly function keeps no goroutine in a reliable register. While it calls nothing, the
//! goroutine stays in its thread (no interrupts in assembly: runtime/preempt.go,
//! `isAsyncSafePoint`) and its stack stays, so the stack pointer is as good a key as in C. If it
//! calls, it is refused.

use std::borrow::Cow;

use crate::dataflow::jump_tables::Tables;
use crate::decode::{Code, Flow, Probing};
use crate::{Arch, Refusal};
use crate::{Ends, Part, Site, SiteKind, Sites, Stepping, Surroundings, ahead, entry, exits, loops};

/// Most instructions before the branch of the stack check.
const CHECK_STEPS: usize = 6;

/// The aarch64 register that the assembler uses for itself (`REGTMP`), by its decoder number.
const ASSEMBLERS_REGISTER: u8 = 27;

/// Returns the condition of the branch not taken, in the numbering of [`Site::condition`].
const fn enough_stack(arch: Arch) -> u8 {
    match arch {
        Arch::X86_64 => 7,  // above: not (carry or zero)
        Arch::Aarch64 => 8, // hi
    }
}

/// Returns the sites of a compiled function.
pub fn find(arch: Arch, main: Part<'_>, surroundings: &dyn Surroundings) -> Result<Sites, Refusal> {
    let bytes = without_padding(arch, main.bytes);
    let (bytes, constants) = without_constants(arch, Part { bytes, ..main });
    let part = Part { address: main.address, bytes: &bytes };
    let mut code = Code::decode(arch, &[part])?;
    code.marks = surroundings.marks(code.start());
    // An address that is only taken is a return address: aarch64 makes a frame by hand before it
    // jumps into the middle of `duffzero`.
    code.references.retain(|reference| reference.accesses && !constants.contains(&(reference.to & !3)));
    let found = exits::exits(&code, &Tables::new(Some(surroundings)))?;
    let wrapped = match found.leaving.as_slice() {
        [only] => Some(only.target),
        _ => None,
    };
    let found = found.sites()?;
    if let Some(target) = wrapped
        && found.sites.iter().all(Site::until_tail_call)
    {
        return Err(Refusal::GoWrapper { target, method: String::new() });
    }
    let entry = match stack_check(arch, &code, part, &found.by_table) {
        Some(entry) => entry,
        None => {
            let wanted = found.wanted(&found.sites, Ends::AtExits, &[]);
            entry::entry_among(&code, &wanted, |step| {
                arch != Arch::Aarch64 || !step.effect.writes(ASSEMBLERS_REGISTER)
            })?
        }
    };
    loops::check(&code, &found.jumps, &found.sites, &found.sites)?;
    let exits = ahead::ahead_of_go(&code, &found, found.sites.clone(), entry.address);
    let on_goroutine = |site| Site { goroutine: true, ..site };
    Ok(Sites { entry: on_goroutine(entry), exits: exits.into_iter().map(on_goroutine).collect() })
}

/// Returns the sites of a function in assembly.
pub fn find_assembly(arch: Arch, main: Part<'_>, surroundings: &dyn Surroundings) -> Result<Sites, Refusal> {
    let part = Part { bytes: without_padding(arch, main.bytes), ..main };
    let code = Code::decode(arch, &[part])?;
    let calls = code.steps.iter().find(|step| matches!(step.flow, Flow::Call(_)));
    if let Some(call) = calls {
        return Err(Refusal::GoAssembly { address: call.address });
    }
    crate::find_in(arch, part, &[], surroundings, Ends::AtExits)
}

/// Removes the linker's padding up to the next function: `int3` on x86-64, which is a regular
/// instruction, and zeros on aarch64, which are not.
fn without_padding(arch: Arch, mut bytes: &[u8]) -> &[u8] {
    while let Some(rest) =
        bytes.strip_suffix(&[0; 4]).filter(|rest| arch == Arch::Aarch64 && !rest.is_empty())
    {
        bytes = rest;
    }
    bytes
}

/// Returns the code with a trap instruction for each constant, and the addresses of the constants.
fn without_constants(arch: Arch, part: Part<'_>) -> (Cow<'_, [u8]>, Vec<u64>) {
    if arch != Arch::Aarch64 {
        return (Cow::Borrowed(part.bytes), Vec::new());
    }
    const TRAP: [u8; 4] = 0xd420_0000_u32.to_le_bytes(); // brk #0
    let words = part.bytes.as_chunks::<4>().0;
    let loaded_besides = |constants: &[usize]| {
        let code = words.iter().enumerate().filter(|(index, _)| constants.binary_search(index).is_err());
        let found = code.flat_map(|(index, word)| loaded(u32::from_le_bytes(*word), index));
        let mut found: Vec<usize> = found.filter(|&word| word < words.len()).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    // A constant may look like a load of code: without the false loads there are fewer constants.
    let mut constants = loaded_besides(&[]);
    loop {
        let fewer = loaded_besides(&constants);
        if fewer.len() >= constants.len() {
            break;
        }
        constants = fewer;
    }
    let mut bytes = part.bytes.to_vec();
    for &index in &constants {
        bytes[index * 4..][..4].copy_from_slice(&TRAP);
    }
    let addresses = constants.iter().map(|&index| part.address.wrapping_add(index as u64 * 4)).collect();
    (Cow::Owned(bytes), addresses)
}

/// Returns the words that the load at `index` reads, relative to its own address (Arm ARM, C4.1.94,
/// "Load register (literal)"): 4, 8 or 16 bytes.
fn loaded(word: u32, index: usize) -> impl Iterator<Item = usize> {
    let is_load = word & 0x3b00_0000 == 0x1800_0000;
    let count = match (word >> 30, word >> 26 & 1) {
        (0, _) | (2, 0) => 1,
        (1, _) => 2,
        (2, _) => 4,
        // A prefetch reads nothing.
        _ => 0,
    };
    let distance = (word << 8) as i32 >> 13;
    let first = index.checked_add_signed(distance as isize).filter(|_| is_load);
    first.into_iter().flat_map(move |first| first..first.saturating_add(count))
}

/// Returns the branch of the stack check, if the function has one.
fn stack_check(arch: Arch, code: &Code, part: Part<'_>, by_table: &[usize]) -> Option<Site> {
    let steps = code.steps.get(..code.steps.len().min(CHECK_STEPS + 1))?;
    let stack_pointer = code.machine.stack_pointer;
    let bytes = |address: u64| {
        let start = usize::try_from(address.checked_sub(part.address)?).ok()?;
        part.bytes.get(start..)?.first_chunk::<4>()
    };
    let mut limit_loaded = false;
    for (index, pair) in steps.windows(2).enumerate() {
        let (step, next) = (&pair[0], &pair[1]);
        if step.effect.writes(stack_pointer) || step.end() != next.address {
            return None;
        }
        let compares = match (arch, *bytes(step.address)?) {
            (Arch::X86_64, [0x49 | 0x4d, 0x3b, 0x66, 0x10 | 0x18]) => true,
            (Arch::X86_64, _) => false,
            (Arch::Aarch64, word) => {
                let word = u32::from_le_bytes(word);
                limit_loaded |= matches!(word, 0xf940_0b90 | 0xf940_0f90); // ldr x16, [x28, #16] or #24
                limit_loaded && matches!(word, 0xeb30_63ff | 0xeb10_023f) // cmp sp, x16; cmp x17, x16
            }
        };
        let enough = enough_stack(arch);
        let Flow::Branch { condition: Some(taken), .. } = next.flow else { continue };
        if !compares || taken != enough ^ 1 {
            continue;
        }
        // Of these places, branches may only lead to the start.
        let targets = entry::targets(code, by_table);
        if targets.iter().any(|(target, _)| (1..=index + 1).contains(target)) {
            return None;
        }
        let stepping = match next.probing {
            Probing::Emulated => Stepping::Emulated,
            Probing::SingleStepped => Stepping::SingleStepped,
            Probing::Unsound => return None,
        };
        let condition = Some(enough);
        let left_out = index as u8 + 1;
        return Some(Site { condition, left_out, ..Site::new(next.address, SiteKind::Entry, stepping) });
    }
    None
}
