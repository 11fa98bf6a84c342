//! Functions of assembly: symbols without a size or without a type.
//!
//! Compilers state both. If assembly does not, the image has to show the kind and the end:
//!
//! | question | shown by |
//! | --- | --- |
//! | is a symbol without a type a function? | a function symbol or an unwind record with its start, or a call of it in the code of the image: there may be tables of data between functions, which look like any code |
//! | where does a function without a size end? | a symbol with the same start, its unwind record, or its code: it is followed along all ways, and ends where the last of them leaves ([`extent`]) |
//!
//! The start of the next symbol is no end, because data may stand before it. Only code that a path
//! through the function reaches is a part of it.

use std::collections::BTreeMap;
use std::ops::Range;

use edgelat_sites::decode::{Flow, Step};

use super::collect::{Collector, Raw, is_cold};
use crate::ImageError;
use crate::elf::symbols::Binding;
use crate::elf::unwind::Unwind;

/// Symbols looked up in the unwind tables, some 20 reads each; real images have a few dozen.
const UNWIND_LOOKUPS: usize = 4_096;

/// Instructions followed in one function; the longest of crypto libraries have some thousand.
const STEPS: usize = 8_192;

/// Instructions followed in an image, each with a read of the file.
const ALL_STEPS: usize = 1 << 18;

/// Facts about the code of an image.
pub(crate) trait Text {
    /// Returns true if a range is file-backed code.
    fn is_text(&self, start: u64, size: u64) -> bool;

    /// Returns the instruction at an address.
    fn step(&self, address: u64) -> Option<Step>;

    /// Returns those of the sorted `addresses` that the code calls.
    fn called(&self, addresses: &[u64]) -> Vec<u64>;
}

impl Collector {
    /// Gives symbols without a size the size that the image shows, and removes non-functions.
    pub(super) fn end_symbols_without_size(
        &mut self,
        unwind: Option<&Unwind<'_>>,
        text: &dyn Text,
    ) -> Result<(), ImageError> {
        // An empty cold part stays empty, even if another one begins at the same address.
        let open = |raw: &Raw, strings: &[Vec<u8>]| raw.size == 0 && !is_cold(raw, strings);
        let mut starts: Vec<u64> = self
            .raws
            .iter()
            .filter(|raw| raw.is_label() || open(raw, &self.strings))
            .map(|raw| raw.start)
            .collect();
        if starts.is_empty() {
            return Ok(());
        }
        starts.sort_unstable();
        starts.dedup();
        let mut sizes = self.sizes_of_others(&starts);
        let mut lookups = 0;
        for (&start, size) in starts.iter().zip(&mut sizes).filter(|(_, size)| **size == 0) {
            if let Some(unwind) = unwind
                && lookups < UNWIND_LOOKUPS
            {
                lookups += 1;
                if let Some(range) = unwind.range(start)?.filter(|range| range.start == start) {
                    *size = range.end - range.start;
                }
            }
        }
        if cfg!(feature = "assembly") {
            self.follow(&starts, &mut sizes, text);
        }
        for raw in self.raws.iter_mut().filter(|raw| raw.is_label() || open(raw, &self.strings)) {
            raw.size = starts.binary_search(&raw.start).map_or(0, |at| sizes[at]);
        }
        if cfg!(feature = "assembly") {
            self.remove_inner_labels();
        }
        Ok(())
    }

    /// Returns the largest size that function symbols state at each of these addresses, or 0.
    fn sizes_of_others(&self, starts: &[u64]) -> Vec<u64> {
        let mut sizes = vec![0; starts.len()];
        for raw in self.raws.iter().filter(|raw| raw.size > 0 && !raw.is_label()) {
            if let Ok(at) = starts.binary_search(&raw.start) {
                sizes[at] = raw.size.max(sizes[at]);
            }
        }
        sizes
    }

    /// Finds sizes by following the code of functions.
    fn follow(&self, starts: &[u64], sizes: &mut [u64], text: &dyn Text) {
        let unknown = |at: &usize| sizes[*at] == 0;
        let mut typed: Vec<u64> =
            self.raws.iter().filter(|raw| !raw.is_label()).map(|raw| raw.start).collect();
        typed.sort_unstable();
        let untyped = |at: &usize| typed.binary_search(&starts[*at]).is_err();
        let labels: Vec<u64> =
            (0..starts.len()).filter(unknown).filter(untyped).map(|at| starts[at]).collect();
        let called = if labels.is_empty() { Vec::new() } else { text.called(&labels) };
        let functions: Vec<usize> = (0..starts.len())
            .filter(unknown)
            .filter(|at| !untyped(at) || called.binary_search(&starts[*at]).is_ok())
            .collect();
        // A jump behind the start of the next function leaves this one.
        let mut begins = [typed, called].concat();
        begins.sort_unstable();
        let mut steps = ALL_STEPS;
        for at in functions {
            let next = begins.partition_point(|begin| *begin <= starts[at]);
            let bound = begins.get(next).copied().unwrap_or(u64::MAX);
            let end = extent(starts[at]..bound, &mut steps, &|address| text.step(address));
            sizes[at] = end.map_or(0, |end| end - starts[at]);
        }
    }

    /// Removes local labels inside functions, and labels of an unknown kind.
    fn remove_inner_labels(&mut self) {
        let functions = self.raws.iter().filter(|raw| !(raw.is_label() && raw.binding == Binding::Local));
        let known = merged(functions.map(|raw| raw.start..raw.start.saturating_add(raw.size)).collect());
        self.raws.retain(|raw| {
            let before = known.partition_point(|range| range.start < raw.start);
            let around = before.checked_sub(1).and_then(|before| known.get(before));
            let inside = around.is_some_and(|range| raw.start < range.end);
            !(raw.is_label() && raw.binding == Binding::Local && (inside || raw.size == 0))
        });
    }
}

/// Merges ranges into sorted ranges that do not overlap.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Returns the end of the function at the start of `bounds`: behind the last reachable instruction,
/// at most the end of `bounds`. `None` if unknown: a jump through a register or memory may stay
/// inside, instructions overlap, or unreached bytes are between. Subtracts from `steps`.
fn extent(bounds: Range<u64>, steps: &mut usize, step_at: &dyn Fn(u64) -> Option<Step>) -> Option<u64> {
    // Start and end of each instruction.
    let mut reached: BTreeMap<u64, u64> = BTreeMap::new();
    let mut waiting = vec![bounds.start];
    while let Some(mut at) = waiting.pop() {
        // Code that falls through to the next function ends there; so does a call without a return.
        while bounds.contains(&at) && !reached.contains_key(&at) {
            *steps = steps.checked_sub(1)?;
            let step = step_at(at)?;
            reached.insert(at, step.end());
            if reached.len() > STEPS {
                return None;
            }
            at = match step.flow {
                Flow::Next | Flow::Call(_) => step.end(),
                Flow::Branch { target, .. } => {
                    waiting.push(target);
                    step.end()
                }
                Flow::Jump(target) => target,
                Flow::Return | Flow::Stop | Flow::AuthenticatedReturn | Flow::SystemReturn => break,
                Flow::Indirect(_) => return None,
            };
        }
    }
    let mut end = bounds.start;
    for (start, after) in reached {
        while end < start {
            end = step_at(end).filter(|step| step.padding)?.end();
        }
        if end != start {
            return None;
        }
        end = after;
    }
    (bounds.start < end && end <= bounds.end).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Arch;
    use edgelat_sites::Part;
    use edgelat_sites::boundary;
    use edgelat_sites::decode::Code;

    const START: u64 = 0x1000;

    /// Size of the function that `code` begins with; the next function begins at `bound`.
    fn size(code: &[u8], bound: usize) -> Option<u64> {
        let step = |address: u64| {
            let rest = code.get((address - START) as usize..)?;
            let bytes = rest.get(..boundary::length(rest, 0))?;
            Code::decode(Arch::X86_64, &[Part { address, bytes }]).ok()?.steps.first().copied()
        };
        extent(START..START + bound as u64, &mut 10_000, &step).map(|end| end - START)
    }

    #[test]
    fn a_function_ends_where_the_last_way_through_it_leaves() {
        for (code, bound, expected) in [
            // ret; the code after it is no part of the function.
            (&[0xc3, 0xc3, 0xff, 0xff][..], 4, Some(1)),
            // jz over a ret, and over padding.
            (&[0x74, 0x01, 0xc3, 0x90, 0xc3], 5, Some(5)),
            (&[0x74, 0x02, 0xc3, 0x90, 0xc3, 0xcc], 6, Some(5)),
            // The same over possible data.
            (&[0x74, 0x02, 0xc3, 0x58, 0xc3], 5, None),
            // Into the middle of an instruction.
            (&[0x74, 0x01, 0xb8, 0xc3, 0, 0, 0, 0xc3], 8, None),
            // Out of it by a jump, or by falling through.
            (&[0xeb, 0x10, 0xc3], 3, Some(2)),
            (&[0x90, 0x90, 0xc3], 2, Some(2)),
            (&[0xb8, 0, 0, 0, 0, 0xc3], 3, None),
            // jmp *%rax, nothing, bytes that are no instruction.
            (&[0xff, 0xe0, 0xc3], 3, None),
            (&[], 0, None),
            (&[0x90, 0x06], 2, None),
            (&[0x90], 9, None),
        ] {
            assert_eq!(size(code, bound), expected, "{code:x?}");
        }
    }

    #[test]
    fn what_is_taken_of_random_code_is_decoded_from_its_start_on() {
        let mut random = crate::testing::Random::new(23);
        let pieces = [0x90, 0xc3, 0x74, 0x75, 0xeb, 0x01, 0x02, 0xfd, 0x58, 0x50, 0xe8, 0x00, 0xb8];
        let mut found = 0;
        for _ in 0..20_000 {
            let code: Vec<u8> = (0..random.below(24)).map(|_| pieces[random.below(pieces.len())]).collect();
            let bound = random.below(code.len() + 2);
            if let Some(size) = size(&code, bound) {
                assert!(size > 0 && size as usize <= bound.min(code.len()), "{code:x?}");
                let part = Part { address: START, bytes: &code[..size as usize] };
                assert!(Code::decode(Arch::X86_64, &[part]).is_ok(), "{code:x?}");
                found += 1;
            }
        }
        assert!(found > 1_000, "{found}");
    }
}
