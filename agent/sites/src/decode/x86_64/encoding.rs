//! The bytes of one x86-64 instruction: prefixes, opcode map, opcode, ModRM.

/// Opcode map of an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Map {
    /// One byte.
    One,
    /// `0f`.
    Two,
    /// `0f 38`.
    Three38,
    /// `0f 3a`.
    Three3a,
    /// VEX, EVEX or XOP.
    Vector,
}

/// Contents of the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoding {
    pub(super) map: Map,
    pub(super) opcode: u8,
    /// The byte after the opcode, which is ModRM if the opcode has one.
    pub(super) modrm: Option<u8>,
    /// The REX prefix, or 0.
    pub(super) rex: u8,
    /// Prefix 66.
    pub(super) operand_size: bool,
    /// Prefix f3.
    pub(super) repeat: bool,
    /// Prefix f2.
    pub(super) repeat_not: bool,
    /// Prefix 3e, which means `notrack` before an indirect branch.
    pub(super) notrack: bool,
    /// Any of es, cs, ss, ds, or LOCK: bad prefixes to the kernel.
    pub(super) bad_prefix: bool,
}

impl Encoding {
    /// Reads the bytes of one valid instruction; `None` if truncated or a prefix follows REX.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut this = Self {
            map: Map::One,
            opcode: 0,
            modrm: None,
            rex: 0,
            operand_size: false,
            repeat: false,
            repeat_not: false,
            notrack: false,
            bad_prefix: false,
        };
        let mut rest = bytes;
        let opcode = loop {
            let (&byte, after) = rest.split_first()?;
            rest = after;
            match byte {
                0x66 => this.operand_size = true,
                0xf2 => this.repeat_not = true,
                0xf3 => this.repeat = true,
                0x3e => (this.notrack, this.bad_prefix) = (true, true),
                0x26 | 0x2e | 0x36 | 0xf0 => this.bad_prefix = true,
                0x64 | 0x65 | 0x67 => {}
                0x40..=0x4f if this.rex == 0 => {
                    this.rex = byte;
                    continue;
                }
                0x40..=0x4f => return None,
                _ => break byte,
            }
            // REX counts only as the last prefix. No assembler puts another prefix behind it, and
            // disassemblers disagree about it.
            if this.rex != 0 {
                return None;
            }
        };
        match opcode {
            0x0f => {
                let (&second, after) = rest.split_first()?;
                rest = after;
                match second {
                    0x38 | 0x3a => {
                        this.map = if second == 0x38 { Map::Three38 } else { Map::Three3a };
                        let (&third, after) = rest.split_first()?;
                        (this.opcode, rest) = (third, after);
                    }
                    _ => (this.map, this.opcode) = (Map::Two, second),
                }
            }
            // In 64-bit mode these are always VEX and EVEX.
            0xc4 | 0xc5 | 0x62 => (this.map, this.opcode) = (Map::Vector, opcode),
            // pop has extension 0, everything else is XOP.
            0x8f if rest.first().is_some_and(|modrm| modrm & 0x38 != 0) => {
                (this.map, this.opcode) = (Map::Vector, opcode);
            }
            _ => this.opcode = opcode,
        }
        this.modrm = rest.first().copied();
        Some(this)
    }

    /// Returns bits 3 to 5 of ModRM, which extend the opcode in groups.
    pub(super) fn extension(&self) -> u8 {
        self.modrm.map_or(0, |modrm| modrm >> 3 & 7)
    }

    /// Matches `nop` of any length, `int3`.
    pub(super) fn is_padding(&self) -> bool {
        match (self.map, self.opcode) {
            (Map::One, 0x90) => self.rex & 1 == 0 && !self.repeat,
            (Map::One, 0xcc) => true,
            (Map::Two, 0x1f) => true,
            _ => false,
        }
    }

    /// Matches movs, cmps, stos, lods, scas, ins, outs; VIA's xcrypt, with the registers of these.
    pub(super) fn is_string(&self) -> bool {
        match self.map {
            Map::One => matches!(self.opcode, 0xa4..=0xa7 | 0xaa..=0xaf | 0x6c..=0x6f),
            Map::Two => matches!(self.opcode, 0xa6 | 0xa7),
            _ => false,
        }
    }

    /// Instructions that the entry must not pass although the next one follows: long ones (strings,
    /// cpuid in a virtual machine, rdrand), kernel entries, transactions, and segment loads.
    pub(super) fn is_slow_or_system(&self) -> bool {
        self.is_string()
            || match self.map {
                Map::One => match self.opcode {
                    // pop and mov to segments, popf, wait, int, in, out, cli, sti
                    0x8e | 0x9d | 0x9b | 0xcd | 0xe4..=0xe7 | 0xec..=0xef | 0xfa | 0xfb => true,
                    // xabort
                    0xc6 => self.modrm == Some(0xf8),
                    // pause
                    0x90 => self.repeat,
                    _ => false,
                },
                // System groups, syscall, wbinvd, wrmsr to rdpmc, getsec, cpuid, rdrand and cmpxchg16b
                Map::Two => matches!(
                    self.opcode,
                    0x00..=0x09 | 0x20..=0x23 | 0x30 | 0x32 | 0x33 | 0x37 | 0x78 | 0x79 | 0xa1 | 0xa2 | 0xa9 | 0xaa | 0xc7
                ),
                Map::Three38 => matches!(self.opcode, 0x80..=0x82 | 0xf8..=0xfa | 0xd8),
                Map::Three3a | Map::Vector => false,
            }
    }

    /// Compares, tests and nops: they write no general register.
    pub(super) fn only_compares(&self) -> bool {
        match self.map {
            Map::One => match self.opcode {
                0x38..=0x3d | 0x84 | 0x85 | 0xa8 | 0xa9 => true,
                0x80 | 0x81 | 0x83 => self.extension() == 7,
                0xf6 | 0xf7 => self.extension() < 2,
                0x90 => self.rex & 1 == 0,
                0x70..=0x7f | 0xe9 | 0xeb | 0xc2 | 0xc3 | 0xcc => true,
                0xff => matches!(self.extension(), 4),
                _ => false,
            },
            // prefetch, hint nops with endbr (not rdssp, which is 1e with a register), jcc, bt, ud
            Map::Two => match self.opcode {
                0x0d | 0x18 | 0x1f | 0x80..=0x8f | 0xa3 | 0x0b => true,
                0xba => self.extension() == 4,
                _ => false,
            },
            _ => false,
        }
    }

    /// Instructions that write no general register except their first operand.
    pub(super) fn writes_first_operand_only(&self) -> bool {
        match self.map {
            Map::One => match self.opcode {
                0x00..=0x37 | 0x63 | 0x69 | 0x6b | 0x80 | 0x81 | 0x83 | 0x88..=0x8d => true,
                0xb0..=0xbf | 0xc0 | 0xc1 | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe => true,
                0xc6 | 0xc7 => self.modrm != Some(0xf8),
                0xf6 | 0xf7 => self.extension() < 4,
                0xff => self.extension() < 2,
                _ => false,
            },
            Map::Two => matches!(
                self.opcode,
                0x10..=0x17
                    | 0x1e
                    | 0x28..=0x2f
                    | 0x40..=0x76
                    | 0x7c..=0x7f
                    | 0x90..=0x9f
                    | 0xa4
                    | 0xa5
                    | 0xab..=0xad
                    | 0xae
                    | 0xaf
                    | 0xb3
                    | 0xb6..=0xbf
                    | 0xc2..=0xc6
                    | 0xc8..=0xfe
            ),
            _ => false,
        }
    }
}
