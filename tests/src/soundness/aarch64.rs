//! Instructions of AArch64: words of 32 bits.
//!
//! Decoder and kernel distinguish them by their top byte and a few more bits. So each top byte has
//! rows of words whose other bits are random, except for the registers, which are usable ones.
//! Branches are listed explicitly.

use std::collections::BTreeSet;

use edgelat_sites::Arch;

use super::{BRANCH_INPUTS, Code, INPUTS, Role, Row, bears_site};

const RET: u32 = 0xd65f_03c0;
/// `prfm pldl1keep, .+65536`: bears no site and has no effect.
const BARE: u32 = 0xd808_0000;
/// `mov x19, x19`: beginning of the call.
const BEGINS: u32 = 0xaa13_03f3;
/// `mov w11, #0x77`.
const MARK: u32 = 0x5280_0eeb;
/// Words that are tried for each top byte, and rows that are kept.
const TRIED: u32 = 600;
const KEPT: u32 = 12;

/// The class of a word.
pub(super) fn class(word: u32) -> String {
    match word >> 24 {
        // Hints by their number; reads of system registers.
        0xd5 if word & 0xffff_f01f == 0xd503_201f => format!("d5_hint_{}", word >> 5 & 0x7f),
        0xd5 if word & 0xfff0_0000 == 0xd530_0000 => "d5_mrs".to_owned(),
        // b and bl have an offset in these bits.
        top @ (0x14..=0x17 | 0x94..=0x97) => format!("{:02x}", top & 0xfc),
        0xd6 => format!("d6_{:x}", word >> 21 & 7),
        top => format!("{top:02x}"),
    }
}

fn code(words: &[u32]) -> Code {
    Code::of(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>())
}

/// A word that the assembler makes from its own notation.
fn linked(word: u32, text: &str) -> Code {
    Code::default().link(&word.to_le_bytes(), text)
}

fn add(
    rows: &mut Vec<Row>,
    word: u32,
    whole: Code,
    site: usize,
    group: &'static str,
    role: Role,
    inputs: u32,
) -> bool {
    let sound = bears_site(Arch::Aarch64, &whole, site, role);
    if sound {
        let class = class(word);
        let name = format!("sound_{:05}_{class}", rows.len());
        rows.push(Row { name, class, group, code: whole, inputs, live: site > 0, by_hand: false });
    }
    sound
}

/// The rows.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    branches(&mut rows);
    by_hand(&mut rows);
    rows.iter_mut().for_each(|row| row.by_hand = true);
    let mut random = 0x2545_f491_4f6c_dd1du64;
    for top in 0..=0xffu32 {
        let mut seen = BTreeSet::new();
        let mut kept = 0;
        for _ in 0..TRIED {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let word = tamed(top << 24 | (random >> 32) as u32 & 0xff_ffff);
            // Another word of the same kind adds nothing: these bits select the operation.
            let kind = (
                word >> 21,
                if word >> 27 & 1 == 0 || word >> 25 & 1 != 0 { word >> 10 & 0x3f } else { word >> 10 & 3 },
            );
            if kept < KEPT && !seen.contains(&kind) && straight(&mut rows, word, group(word)) {
                seen.insert(kind);
                kept += 1;
            }
        }
    }
    rows
}

/// The word with usable registers: base x1 or the stack pointer, index x2, results x3 to x6.
const fn tamed(word: u32) -> u32 {
    // Loads and stores of vector structures may add a register to their base.
    let structure = word >> 24 & 0xbe == 0x0c;
    let base = if word & 0x40 != 0 && !structure { 31 } else { 1 };
    let system = word >> 24 == 0xd5;
    if system {
        return word & !0x1f | 3;
    }
    // An offset inside the compared memory.
    let word = if word & 0x3b00_0000 == 0x3900_0000 { word & !0x0020_0000 } else { word };
    let index = if word & 0x1_0000 != 0 { 2 } else { 0 };
    word & !0x001f_03ff | index << 16 | base << 5 | (3 + (word & 3))
}

/// Adds a word that continues with the next one, if calls would begin on it.
fn straight(rows: &mut Vec<Row>, word: u32, group: &'static str) -> bool {
    if is_unfit(word) {
        return false;
    }
    for before in [&[BARE][..], &[]] {
        for fix in FIXES {
            let whole = code(before).then(&code(&[word])).then(&code(fix));
            if add(rows, word, whole, before.len() * 4, group, Role::Entry, INPUTS) {
                return true;
            }
        }
    }
    false
}

/// Compensation for a push or pop of 16 bytes (add sp, sp, #16; sub), and the return.
const FIXES: [&[u32]; 3] = [&[RET], &[0x9100_43ff, RET], &[0xd100_43ff, RET]];

/// True if calls could begin on the word.
pub(super) fn may_begin(word: &[u8]) -> bool {
    FIXES.iter().any(|fix| {
        let whole = code(&[BARE]).then(&Code::of(word)).then(&code(fix));
        bears_site(Arch::Aarch64, &whole, 4, Role::Entry)
    })
}

/// Branches are listed explicitly; the platform register of the ABI and the link register are not
/// touched.
const fn is_unfit(word: u32) -> bool {
    let branch = matches!(
        word >> 24,
        0x14..=0x17 | 0x94..=0x97 | 0x54 | 0x55 | 0x34..=0x37 | 0xb4..=0xb7 | 0x74 | 0x75 | 0xf4 | 0xf5 | 0xd6 | 0xd7 | 0xd4
    );
    let second = word >> 10 & 0x1f;
    let pair = word & 0x3a00_0000 == 0x2800_0000;
    branch || pair && (second == 18 || second == 30)
}

fn group(word: u32) -> &'static str {
    match word >> 25 & 0xf {
        0b1000 if word >> 24 & 1 == 0 => "adr, adrp",
        0b1000 | 0b1001 => "immediates (add, sub, mov, logical, bitfields)",
        0b1010 | 0b1011 => "system registers and hints",
        0b0101 | 0b1101 => "registers (add, sub, logical, mul, div, csel, ccmp)",
        0b0111 | 0b1111 => "floating point and vectors",
        0b0100 | 0b0110 | 0b1100 | 0b1110 if word & 0x3a00_0000 == 0x2800_0000 => "ldp, stp",
        0b0100 | 0b0110 | 0b1100 | 0b1110 => "loads and stores, atomics",
        _ => "SVE, SME",
    }
}

fn branches(rows: &mut Vec<Row>) {
    let inside = |word| code(&[BARE, word, MARK, RET]);
    // Over the mark: to the word after the next.
    for condition in 0..14u32 {
        let word = 0x5400_0040 | condition;
        add(rows, word, inside(word), 4, "b.cond inside a function", Role::Entry, BRANCH_INPUTS);
        let out = 0x5400_0000 | condition | 0x1000 << 5;
        let name = ["eq", "ne", "cs", "cc", "mi", "pl", "vs", "vc", "hi", "ls", "ge", "lt", "gt", "le"];
        let text = format!("b.{} sound_return", name[condition as usize]);
        let whole = code(&[BEGINS]).then(&linked(out, &text)).then(&code(&[RET]));
        add(rows, out, whole, 4, "b.cond out of a function", Role::Exit, BRANCH_INPUTS);
    }
    // cbz, cbnz of x0, w2; tbz, tbnz of bits of x0 and x2.
    for word in [
        0xb400_0040,
        0xb500_0040,
        0x3400_0042,
        0x3500_0042,
        0x3600_0040,
        0x3718_0042,
        0xb628_0040,
        0xb7f8_0042,
    ] {
        add(rows, word, inside(word), 4, "cbz, cbnz, tbz, tbnz", Role::Entry, BRANCH_INPUTS);
    }
    add(rows, 0x1400_0002, inside(0x1400_0002), 4, "b", Role::Entry, INPUTS);
    let out = code(&[BEGINS]).then(&linked(0x1400_1000, "b sound_return"));
    add(rows, 0x1400_1000, out, 4, "b", Role::Exit, INPUTS);
    // The return address is kept in x9, and the call's value of x30 in x10.
    let calls = |call: &Code| code(&[0xaa1e_03e9]).then(call).then(&code(&[0xaa1e_03ea, 0xaa09_03fe, RET]));
    add(rows, 0x9400_1000, calls(&linked(0x9400_1000, "bl sound_return")), 4, "bl, blr", Role::Entry, INPUTS);
    // x16 is the beginning of the function; the called or jumped-to code follows it.
    let called = Code { behind: RET.to_le_bytes().to_vec(), ..code(&[0xd63f_0100]) }; // blr x8
    let whole = code(&[0xaa1e_03e9, 0x9100_6208]).then(&called).then(&code(&[0xaa1e_03ea, 0xaa09_03fe, RET]));
    add(rows, 0xd63f_0100, whole, 8, "bl, blr", Role::Entry, INPUTS);
    let left = Code { behind: RET.to_le_bytes().to_vec(), ..code(&[0x9100_2208, 0xd61f_0100]) }; // br x8
    add(rows, 0xd61f_0100, left, 4, "br", Role::Exit, INPUTS);
    add(rows, RET, code(&[BEGINS, RET]), 4, "ret", Role::Exit, INPUTS);
    let other = code(&[0xaa1e_03e9, 0xd65f_0120]); // mov x9, x30; ret x9
    add(rows, 0xd65f_0120, other, 4, "ret", Role::Exit, INPUTS);
}

/// Prologues, and words that a random draw might miss.
fn by_hand(rows: &mut Vec<Row>) {
    // Each with its compensation.
    let cases: [(&[u32], &'static str); 24] = [
        (&[0xd503_201f], "system registers and hints"), // nop
        (&[0xd503_245f], "system registers and hints"), // bti c
        (&[0xd503_24df], "system registers and hints"), // bti jc
        (&[0xd503_233f, 0xd503_23bf], "system registers and hints"), // paciasp, autiasp
        (&[0xd503_237f, 0xd503_23ff], "system registers and hints"), // pacibsp, autibsp
        (&[0xd53b_d040], "system registers and hints"), // mrs x0, tpidr_el0
        (&[0xd53b_4200], "system registers and hints"), // mrs x0, nzcv
        (&[0xa9be_7bfd, 0xa8c2_7bfd], "ldp, stp"),      // stp x29, x30, [sp, #-32]!; ldp
        (&[0xa9bf_53f3, 0xa8c1_53f3], "ldp, stp"),      // stp x19, x20, [sp, #-16]!
        (&[0xa93f_7bfd], "ldp, stp"),                   // stp x29, x30, [sp, #-16]
        (&[0x6dbb_27e8, 0x6cc5_27e8], "ldp, stp"),      // stp d8, d9, [sp, #-80]!
        (&[0xa9c1_0c22], "ldp, stp"),                   // ldp x2, x3, [x1, #16]!
        (&[0xa8c1_0c22], "ldp, stp"),                   // ldp x2, x3, [x1], #16
        (&[0xf81f_0fe1, 0xf841_07e1], "loads and stores, atomics"), // str x1, [sp, #-16]!
        (&[0xf85f_03e3], "loads and stores, atomics"),  // ldur x3, [sp, #-16]
        (&[0xd100_83ff, 0x9100_83ff], "stack pointer as an operand"), // sub sp, sp, #32; add
        (&[0xd140_07ff, 0x9140_07ff], "stack pointer as an operand"), // sub sp, sp, #4096; add
        (&[0x9100_03e3], "stack pointer as an operand"), // mov x3, sp
        (&[0xcb22_63e4], "stack pointer as an operand"), // sub x4, sp, x2
        (&[0x9000_0003], "adr, adrp"),                  // adrp x3, .
        (&[0xb000_0003], "adr, adrp"),                  // adrp x3, .+4096
        (&[0x10ff_ff03], "adr, adrp"),                  // adr x3, .-32
        (&[0x7000_0203], "adr, adrp"),                  // adr x3, .+67
        (&[0xaa01_03e3], "registers (add, sub, logical, mul, div, csel, ccmp)"), // mov x3, x1
    ];
    for (words, group) in cases {
        let [word, rest @ ..] = words else { continue };
        for before in [&[BARE][..], &[]] {
            let whole = code(before).then(&code(&[*word])).then(&code(rest)).then(&code(&[RET]));
            if add(rows, *word, whole, before.len() * 4, group, Role::Entry, INPUTS) {
                break;
            }
        }
    }
}
