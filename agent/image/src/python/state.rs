//! Process state that shows the path of Python calls.
//!
//! An interpreter of 3.11 or later runs functions called from Python inside the running loop,
//! unless its state has a frame evaluator (`eval_frame`, PEP 523), which enters the loop at each
//! call. Perf support, debuggers and compilers have such evaluators. A process may have several
//! interpreters, each with its own state, in a list that begins in `_PyRuntime`.
//!
//! | what | where |
//! | --- | --- |
//! | first of the list | 3.11 and 3.12: Include/internal/pycore_runtime.h, 40 bytes into `_PyRuntime`; then in the debug offsets |
//! | whether it has started | the same structure, the word before that of `_finalizing`: 16 bytes into it, or by the debug offsets |
//! | next of each | 3.11 and 3.12: Include/internal/pycore_interp.h, its first word; then in the debug offsets |
//! | `eval_frame` of each | in no table, and elsewhere in each build: `_PyInterpreterState_GetEvalFrameFunc`, which is exported, loads it from its argument |

use super::{Image, ReadAt};
use crate::Arch;

/// Exported function that loads `eval_frame`.
pub(super) const ACCESSOR: &str = "_PyInterpreterState_GetEvalFrameFunc";
/// Words of its code that are read: before the load stand a landing pad and the frame set-up.
const ACCESSOR_WORDS: usize = 3;
/// Word positions in the debug offsets of the start word, the first interpreter, and the next of
/// each; equal in 3.13 to 3.15.
const STATED: [usize; 3] = [4, 5, 8];
/// Words that a reader takes at most from the first one on; two follow the first interpreter's.
const WORDS: u64 = 8;

/// Location of the interpreters of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Offset in the file of a word that is not 0 once Python has started.
    pub started: u64,
    /// Index of the word from there on that leads to the first interpreter. Behind it stand the
    /// word for the main one, and the next interpreter number, which is the number made so far.
    pub first: u8,
    /// In an interpreter: offset of the next one.
    pub next: u16,
    /// In an interpreter: offset of the frame evaluator; 0 there means the loop itself.
    pub eval_frame: u16,
}

impl<S: ReadAt> Image<S> {
    /// Returns their location, as far as this build shows it.
    pub(super) fn state(&self, minor: u8, runtime: u64, accessor: u64) -> Option<State> {
        let code: [u64; ACCESSOR_WORDS] = self.words(accessor, "accessor of Python").ok()??;
        let eval_frame = loaded_from_argument(self.arch(), code.map(u64::to_le_bytes).as_flattened())?;
        let [started, first, next] = match minor {
            11 | 12 => [16, 40, 0],
            _ => {
                let words = self.stated_offsets(runtime).ok()??;
                let [behind, first, next] = STATED.map(|at| words[at]);
                [behind.checked_sub(8)?, first, next]
            }
        };
        // Offsets fit a structure of some kilobytes; others are damage.
        let (begin, words) = (u16::try_from(started).ok()?, first.checked_sub(started)? / 8);
        Some(State {
            started: self.elf.offset_of(runtime.checked_add(begin.into())?)?,
            first: u8::try_from(words).ok().filter(|_| words + 2 < WORDS)?,
            next: u16::try_from(next).ok()?,
            eval_frame,
        })
    }
}

/// Returns the offset of the first load through the first argument, if nothing else comes before.
fn loaded_from_argument(arch: Arch, code: &[u8]) -> Option<u16> {
    match arch {
        Arch::X86_64 => {
            // endbr64; push %rbp; mov %rsp,%rbp
            let before: [&[u8]; 3] = [&[0xf3, 0x0f, 0x1e, 0xfa], &[0x55], &[0x48, 0x89, 0xe5]];
            let code = before.iter().fold(code, |code, step| code.strip_prefix(*step).unwrap_or(code));
            // mov disp(%rdi),REGISTER; the third byte has the register in the middle.
            match code {
                [0x48, 0x8b, modrm, rest @ ..] if modrm & 0xc7 == 0x87 => {
                    u16::try_from(u32::from_le_bytes(*rest.first_chunk()?)).ok()
                }
                [0x48, 0x8b, modrm, disp, ..] if modrm & 0xc7 == 0x47 && *disp < 0x80 => Some((*disp).into()),
                _ => None,
            }
        }
        Arch::Aarch64 => {
            let words = code.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
            // Landing pads and signing are hints; with frame pointers, stp and mov; mov x1,x0.
            let passed = |word: u32| {
                word & 0xffff_f01f == 0xd503_201f
                    || word & 0xffc0_7fff == 0xa980_7bfd
                    || word == 0x9100_03fd
                    || word & 0xffff_ffe0 == 0xaa00_03e0
            };
            // ldr REGISTER,[x0,#disp]
            let load = words.take(ACCESSOR_WORDS * 2).find(|word| !passed(*word))?;
            (load & 0xffc0_03e0 == 0xf940_0000).then_some((load >> 10 & 0xfff) as u16 * 8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_accessor_loads_is_read_from_its_code() {
        let x86 = |code: &[u8]| loaded_from_argument(Arch::X86_64, code);
        // Debian's 3.11, and 3.14 with landing pads; a build with frame pointers; a small offset.
        assert_eq!(x86(&[0x48, 0x8b, 0x87, 0x90, 0x05, 0, 0, 0x48]), Some(0x590));
        assert_eq!(x86(&[0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x87, 0x48, 0x21, 0, 0, 0xba]), Some(0x2148));
        assert_eq!(x86(&[0x55, 0x48, 0x89, 0xe5, 0x48, 0x8b, 0x97, 0x18, 0x21, 0, 0]), Some(0x2118));
        assert_eq!(x86(&[0x48, 0x8b, 0x47, 0x70, 0xc3]), Some(0x70));
        // Not from the argument, negative, too far away, truncated.
        for code in [
            &[0x48, 0x8b, 0x05, 0x90, 0x05, 0, 0][..],
            &[0x48, 0x8b, 0x47, 0x80],
            &[0x48, 0x8b, 0x87, 0, 0, 1, 0],
            &[0x48, 0x8b, 0x87, 0x90],
            &[],
        ] {
            assert_eq!(x86(code), None, "{code:x?}");
        }
        let arm = |words: &[u32]| {
            let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            loaded_from_argument(Arch::Aarch64, &code)
        };
        // ldr x0,[x0,#0x2118]; the same behind bti c and mov x1,x0; a load by another register.
        assert_eq!(arm(&[0xf950_8c00, 0xb400_0040]), Some(0x2118));
        assert_eq!(arm(&[0xd503_245f, 0xaa00_03e1, 0xf950_8c00]), Some(0x2118));
        assert_eq!(arm(&[0xa9bf_7bfd, 0x9100_03fd, 0xf950_8c00]), Some(0x2118));
        assert_eq!(arm(&[0xf950_8c21]), None);
        assert_eq!(arm(&[0xd503_245f]), None);
    }
}
