//! Instruction boundaries and probe costs, from the surrounding code alone, independent of any
//! claim about functions.
//!
//! x86-64 code decoded from any place falls into step with the real instructions after a few of
//! them. So decoding begins at several places well before; an instruction begins at a place that
//! most of these decodings reach. In libc, libcrypto and libstdc++ of Debian 13 all reached each of
//! 26,077 sites but two, and none reached 33,467 of 33,470 places inside instructions; the
//! exceptions stand right behind tables between functions.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use crate::decode::{Code, Probing};
use crate::{Arch, Part};

/// Bytes read before a place, as far as the segment has them.
pub const LEAD: u64 = 192;
/// Bytes from the place on: the longest instruction of x86-64 has 15.
pub const TAIL: u64 = 16;
/// Places at which decoding begins, one byte after the other.
const STARTS: usize = 16;

/// Instruction at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Instructed {
    /// No instruction begins there, or only an unprobeable one.
    No = 0,
    /// An instruction that the kernel emulates.
    Emulated = 1,
    /// An instruction that the kernel single-steps.
    SingleStepped = 2,
}

/// Checks `at` in code of this program's architecture; [`Instructed`] as a number, for the guard.
#[must_use]
pub fn confirm(code: &[u8], at: usize) -> u8 {
    Arch::host().map_or(Instructed::No, |arch| instructed(arch, code, at)) as u8
}

/// Checks `at` in `code`, which has [`LEAD`] bytes before it or begins where its segment does.
#[must_use]
pub fn instructed(arch: Arch, code: &[u8], at: usize) -> Instructed {
    let length = match arch {
        Arch::Aarch64 => at.is_multiple_of(4).then_some(4),
        Arch::X86_64 => begins(code, at).then(|| length(code, at)),
    };
    let bytes = length.and_then(|length| code.get(at..)?.get(..length)).unwrap_or_default();
    let decoded = Code::decode(arch, &[Part { address: LEAD, bytes }]);
    match decoded.ok().and_then(|code| code.steps.first().map(|step| step.probing)) {
        Some(Probing::Emulated) => Instructed::Emulated,
        Some(Probing::SingleStepped) => Instructed::SingleStepped,
        Some(Probing::Unsound) | None => Instructed::No,
    }
}

fn begins(code: &[u8], at: usize) -> bool {
    let Some(from) = at.checked_sub(LEAD as usize) else {
        // An instruction begins where a segment does.
        return arrives(code, 0, at);
    };
    2 * (from..from + STARTS).filter(|start| arrives(code, *start, at)).count() > STARTS
}

fn arrives(code: &[u8], start: usize, at: usize) -> bool {
    let mut position = start;
    while position < at {
        position += length(code, position);
    }
    position == at
}

/// Returns the bytes of the instruction at a place; 1 for an invalid instruction.
pub fn length(code: &[u8], at: usize) -> usize {
    let mut decoder = Decoder::new(64, code.get(at..).unwrap_or_default(), DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    decoder.decode_out(&mut instruction);
    if instruction.is_invalid() { 1 } else { instruction.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame and its end, in a loop of functions: push rbp; mov rbp, rsp; mov eax, 0x90c3c3c3; cmp eax, 1; pop rbp; ret.
    const FUNCTION: [u8; 14] =
        [0x55, 0x48, 0x89, 0xe5, 0xb8, 0xc3, 0xc3, 0xc3, 0x90, 0x83, 0xf8, 0x01, 0x5d, 0xc3];

    #[test]
    fn instructions_begin_where_the_code_before_leads() {
        let code = FUNCTION.repeat(20);
        let at = 14 * 14;
        let found: Vec<Instructed> = (at..at + 14)
            .map(|at| instructed(Arch::X86_64, &code[at - LEAD as usize..], LEAD as usize))
            .collect();
        let begin: Vec<usize> = (0..14).filter(|at| found[*at] != Instructed::No).collect();
        assert_eq!(begin, [0, 1, 4, 9, 12, 13]);
        // push is emulated, ret is not.
        assert_eq!((found[0], found[13]), (Instructed::Emulated, Instructed::SingleStepped));
    }

    #[test]
    fn where_a_segment_begins_an_instruction_does() {
        assert_eq!(instructed(Arch::X86_64, &FUNCTION, 0), Instructed::Emulated);
        assert_eq!(instructed(Arch::X86_64, &FUNCTION, 5), Instructed::No);
        assert_eq!(instructed(Arch::X86_64, &[], 0), Instructed::No);
    }

    #[test]
    fn words_of_aarch64_begin_at_every_fourth_byte() {
        // b .+8; nop
        let code = [0x02, 0x00, 0x00, 0x14, 0x1f, 0x20, 0x03, 0xd5];
        assert_eq!(instructed(Arch::Aarch64, &code, 0), Instructed::Emulated);
        assert_eq!(instructed(Arch::Aarch64, &code, 2), Instructed::No);
    }
}
