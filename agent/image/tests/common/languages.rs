//! Hand-made tables of Go and Python.

use super::elf::{File, OBJECT, Symbol, TEXT_ADDRESS};

/// A magic number of each layout of Go's table, with the versions that write it.
pub const MAGICS: [(u32, &str); 4] =
    [(0xffff_fffb, "go1.15"), (0xffff_fffa, "go1.17"), (0xffff_fff0, "go1.19"), (0xffff_fff1, "go1.24")];
/// Flag of a Go function.
pub const TOP_FRAME: u8 = 1;
pub const ASSEMBLY: u8 = 4;

/// Go's function table.
pub struct GoTable {
    pub magic: u32,
    /// Start in the text, name, and flags of each function. Each ends at the start of the next.
    pub functions: Vec<(u32, &'static str, u8)>,
    /// End of the last function.
    pub end: u32,
    /// True if the header states the place of the text, in layouts that have a field for it.
    pub states_text: bool,
}

impl GoTable {
    pub fn new(magic: u32, functions: &[(u32, &'static str, u8)], end: u32) -> Self {
        Self { magic, functions: functions.to_vec(), end, states_text: true }
    }

    const fn has_offsets(&self) -> bool {
        self.magic < 0xffff_fffa
    }

    pub fn build(&self, machine: u16) -> Vec<u8> {
        const HEADER: usize = 72;
        let mut names = Vec::new();
        let name_at: Vec<u32> = self
            .functions
            .iter()
            .map(|(_, name, _)| {
                let at = names.len() as u32;
                names.extend(name.as_bytes());
                names.push(0);
                at
            })
            .collect();
        names.resize(names.len().next_multiple_of(8), 0);
        // The oldest layout has its list behind a short header; offsets count from the table.
        let oldest = self.magic == 0xffff_fffb;
        let list_at = if oldest { 16 } else { HEADER + names.len() };
        let base = if oldest { 0 } else { list_at };
        let entry = if self.has_offsets() { 8 } else { 16 };
        let list_bytes = (self.functions.len() * entry + entry / 2).next_multiple_of(8);
        let mut list = Vec::new();
        let mut descriptions = Vec::new();
        for ((start, _, flags), name) in self.functions.iter().zip(&name_at) {
            let at = list_at + list_bytes + descriptions.len() - base;
            let mut description = [0; 48];
            if self.has_offsets() {
                list.extend(start.to_le_bytes());
                list.extend((at as u32).to_le_bytes());
                description[4..8].copy_from_slice(&name.to_le_bytes());
                description[if self.magic == 0xffff_fff0 { 37 } else { 41 }] = *flags;
            } else {
                list.extend((TEXT_ADDRESS + u64::from(*start)).to_le_bytes());
                list.extend((at as u64).to_le_bytes());
                // The oldest layout has its names behind the descriptions.
                let behind = list_at + list_bytes + self.functions.len() * description.len();
                let name = if oldest { behind as u32 + name } else { *name };
                description[8..12].copy_from_slice(&name.to_le_bytes());
                description[41] = *flags;
            }
            descriptions.extend(description);
        }
        if self.has_offsets() {
            list.extend(self.end.to_le_bytes());
        } else {
            list.extend((TEXT_ADDRESS + u64::from(self.end)).to_le_bytes());
        }
        list.resize(list_bytes, 0);

        let mut bytes = self.magic.to_le_bytes().to_vec();
        bytes.extend([0, 0, if machine == super::elf::X86_64 { 1 } else { 4 }, 8]);
        let text = if self.states_text { TEXT_ADDRESS } else { 0 };
        let (names_at, names_end, list_word) = (HEADER as u64, list_at as u64, list_at as u64);
        let count = self.functions.len() as u64;
        let words = match self.magic {
            0xffff_fffb => vec![count],
            0xffff_fffa => vec![count, 0, names_at, names_end, names_end, names_end, list_word, 0],
            _ => vec![count, 0, text, names_at, names_end, names_end, names_end, list_word],
        };
        words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        if oldest {
            bytes.extend(list);
            bytes.extend(descriptions);
            bytes.extend(names);
        } else {
            bytes.extend(names);
            bytes.extend(list);
            bytes.extend(descriptions);
        }
        bytes
    }

    /// Makes a program with this table and no other function names.
    pub fn program(&self, text: &[u8], machine: u16) -> File {
        File {
            machine,
            text: text.to_vec(),
            data: vec![(".gopclntab", self.build(machine)), (".go.buildinfo", build_info("go1.24.4"))],
            ..File::default()
        }
    }
}

/// Returns the block that `go version` reads, as from Go 1.18 on.
pub fn build_info(version: &str) -> Vec<u8> {
    let mut bytes = b"\xff Go buildinf:\x08\x02".to_vec();
    bytes.resize(32, 0);
    bytes.push(version.len() as u8);
    bytes.extend(version.as_bytes());
    bytes
}

/// Returns module data for the text: the table, then minpc, maxpc, text, etext as words 20 to 23.
pub fn module_data(table: u64, text_bytes: u64) -> Vec<u8> {
    let mut words = [0_u64; 32];
    words[0] = table;
    let end = TEXT_ADDRESS + text_bytes;
    words[20..24].copy_from_slice(&[TEXT_ADDRESS, end, TEXT_ADDRESS, end]);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Returns the debug offsets that a Python 3.13 interpreter states; 3.14 and 3.15 have others.
pub fn debug_offsets() -> Vec<u64> {
    let mut words = vec![0; 96];
    words[0] = u64::from_le_bytes(*b"xdebugpy");
    words[1] = 0x030d_01f0;
    let frame = [(30, 0), (31, 56), (33, 70)];
    let code = [(35, 112), (37, 128), (39, 68), (43, 200)];
    for (index, value) in frame.into_iter().chain(code).chain([(69, 16), (70, 40)]) {
        words[index] = value;
    }
    words
}

/// Makes an interpreter with these offsets, whose loop fills the text.
pub fn interpreter(offsets: &[u64]) -> File {
    let mut file =
        File::with_symbols(vec![Symbol::function("_PyEval_EvalFrameDefault", TEXT_ADDRESS, 0x1000)]);
    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    file.data = vec![(".PyRuntime", words(offsets)), (".rodata", words(&offsets[1..2]))];
    for (index, name) in ["_PyRuntime", "Py_Version"].into_iter().enumerate() {
        file.symbols.push(Symbol::function(name, file.data_address(index), 8).kind(OBJECT));
    }
    file
}
