//! Hand-made ELF files, valid or with the defects that a test needs.

pub const OBJECT: u8 = 1;
pub const FUNC: u8 = 2;
pub const IFUNC: u8 = 10;
pub const LABEL: u8 = 0;
pub const FILE: u8 = 4;
pub const LOCAL: u8 = 0;
pub const GLOBAL: u8 = 1;
pub const X86_64: u16 = 62;
pub const AARCH64: u16 = 183;

pub const TEXT_ADDRESS: u64 = 0x40_1000;
pub const TEXT_OFFSET: u64 = 0x1000;
/// Data is loaded at this address plus its file offset.
pub const DATA_ADDRESS: u64 = 0x60_0000;
pub const BUILD_ID: [u8; 20] = [0xab; 20];

pub struct Symbol {
    pub name: String,
    pub value: u64,
    pub size: u64,
    pub kind: u8,
    pub binding: u8,
    pub section: u16,
}

impl Symbol {
    pub fn function(name: &str, value: u64, size: u64) -> Self {
        Self { name: name.to_owned(), value, size, kind: FUNC, binding: GLOBAL, section: 1 }
    }

    pub fn local(self) -> Self {
        Self { binding: LOCAL, ..self }
    }

    pub fn kind(self, kind: u8) -> Self {
        Self { kind, ..self }
    }

    /// The source file that the following local symbols come from.
    pub fn file(name: &str) -> Self {
        Self { name: name.to_owned(), value: 0, size: 0, kind: FILE, binding: LOCAL, section: 0xfff1 }
    }
}

/// A position-dependent executable with one executable segment, a build-id, and a full symbol
/// table; and a writable segment if there is data.
pub struct File {
    pub machine: u16,
    pub text: Vec<u8>,
    pub symbols: Vec<Symbol>,
    /// Further sections: name, type and bytes.
    pub sections: Vec<(&'static str, u32, Vec<u8>)>,
    /// Sections of the data segment.
    pub data: Vec<(&'static str, Vec<u8>)>,
    pub flags: u32,
    pub section_table: bool,
}

impl Default for File {
    fn default() -> Self {
        Self {
            machine: X86_64,
            // nop, ..., ret
            text: [vec![0x90; 0xfff], vec![0xc3]].concat(),
            symbols: Vec::new(),
            sections: Vec::new(),
            data: Vec::new(),
            flags: 5,
            section_table: true,
        }
    }
}

/// Positions of the fields that tests change.
pub struct Layout {
    pub section_table: usize,
    pub symtab: usize,
    pub strtab: usize,
    pub symbols: usize,
    pub note: usize,
}

pub const HEADER: usize = 64;
pub const PROGRAM_HEADER: usize = 56;
pub const SECTION_HEADER: usize = 64;

impl File {
    pub fn with_symbols(symbols: Vec<Symbol>) -> Self {
        Self { symbols, ..Self::default() }
    }

    /// Returns the address of a section of the data segment. The segment begins at the end of the
    /// text, and each section at a multiple of 16 bytes.
    pub fn data_address(&self, section: usize) -> u64 {
        let before =
            self.data[..section].iter().map(|(_, content)| content.len().next_multiple_of(16) as u64);
        DATA_ADDRESS + (TEXT_OFFSET + self.text.len() as u64).next_multiple_of(16) + before.sum::<u64>()
    }

    pub fn build(&self) -> Vec<u8> {
        self.build_with_layout().0
    }

    pub fn build_with_layout(&self) -> (Vec<u8>, Layout) {
        let mut note = Vec::new();
        for word in [4u32, 20, 3] {
            note.extend(word.to_le_bytes());
        }
        note.extend(b"GNU\0");
        note.extend(BUILD_ID);
        let mut strings = vec![0];
        let mut symbols = vec![0; 24];
        for symbol in &self.symbols {
            let name = if symbol.name.is_empty() { 0 } else { strings.len() as u32 };
            if name != 0 {
                strings.extend(symbol.name.as_bytes());
                strings.push(0);
            }
            symbols.extend(name.to_le_bytes());
            symbols.push(symbol.binding << 4 | symbol.kind);
            symbols.push(0);
            symbols.extend(symbol.section.to_le_bytes());
            symbols.extend(symbol.value.to_le_bytes());
            symbols.extend(symbol.size.to_le_bytes());
        }
        let segments = if self.data.is_empty() { 2 } else { 3 };
        let mut bytes = vec![0; HEADER + segments * PROGRAM_HEADER];
        let note_at = bytes.len();
        bytes.extend(&note);
        bytes.resize(TEXT_OFFSET as usize, 0);
        bytes.extend(&self.text);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let data_at = bytes.len();
        let mut data = Vec::new();
        for (name, content) in &self.data {
            data.push((*name, bytes.len(), content.len()));
            bytes.extend(content);
            bytes.resize(bytes.len().next_multiple_of(16), 0);
        }
        let data_size = (bytes.len() - data_at) as u64;
        let mut names = vec![0];
        let mut headers = vec![[0; SECTION_HEADER]];
        let mut section =
            |name: &str, kind: u32, flags: u64, address: u64, offset: usize, size: usize, link: u32| {
                let mut header = [0; SECTION_HEADER];
                header[0..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
                names.extend(name.as_bytes());
                names.push(0);
                header[4..8].copy_from_slice(&kind.to_le_bytes());
                header[8..16].copy_from_slice(&flags.to_le_bytes());
                header[16..24].copy_from_slice(&address.to_le_bytes());
                header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
                header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
                header[40..44].copy_from_slice(&link.to_le_bytes());
                header[48..56].copy_from_slice(&4u64.to_le_bytes());
                headers.push(header);
            };
        section(".text", 1, 6, TEXT_ADDRESS, TEXT_OFFSET as usize, self.text.len(), 0);
        let symbols_at = bytes.len();
        bytes.extend(&symbols);
        section(".symtab", 2, 0, 0, symbols_at, symbols.len(), 3);
        section(".strtab", 3, 0, 0, bytes.len(), strings.len(), 0);
        bytes.extend(&strings);
        section(".note.gnu.build-id", 7, 2, 0, note_at, note.len(), 0);
        for (name, offset, size) in data {
            section(name, 1, 3, DATA_ADDRESS + offset as u64, offset, size, 0);
        }
        for (name, kind, content) in &self.sections {
            section(name, *kind, 0, 0, bytes.len(), content.len(), 0);
            bytes.extend(content);
        }
        let names_at = bytes.len();
        // The name of the name section is the last one in it.
        section(".shstrtab", 3, 0, 0, names_at, 0, 0);
        let names_size = names.len() as u64;
        let last = headers.len() - 1;
        headers[last][32..40].copy_from_slice(&names_size.to_le_bytes());
        bytes.extend(&names);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let table_at = if self.section_table { bytes.len() } else { 0 };
        if self.section_table {
            headers.iter().for_each(|header| bytes.extend(header));
        }
        let count = if self.section_table { headers.len() as u16 } else { 0 };

        bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(16, &2u16.to_le_bytes());
        put(18, &self.machine.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(24, &TEXT_ADDRESS.to_le_bytes());
        put(32, &(HEADER as u64).to_le_bytes());
        put(40, &(table_at as u64).to_le_bytes());
        put(52, &64u16.to_le_bytes());
        put(54, &56u16.to_le_bytes());
        put(56, &(segments as u16).to_le_bytes());
        put(58, &64u16.to_le_bytes());
        put(60, &count.to_le_bytes());
        put(62, &if self.section_table { last as u16 } else { 0 }.to_le_bytes());
        let text_size = self.text.len() as u64;
        for (index, kind, flags, offset, address, size, align) in [
            (0, 1u32, self.flags, TEXT_OFFSET, TEXT_ADDRESS, text_size, 0x1000u64),
            (1, 4, 4, note_at as u64, 0, note.len() as u64, 4),
            (2, 1, 6, data_at as u64, DATA_ADDRESS + data_at as u64, data_size, 0x1000),
        ]
        .into_iter()
        .take(segments)
        {
            let at = HEADER + index * PROGRAM_HEADER;
            put(at, &kind.to_le_bytes());
            put(at + 4, &flags.to_le_bytes());
            put(at + 8, &offset.to_le_bytes());
            put(at + 16, &address.to_le_bytes());
            put(at + 32, &size.to_le_bytes());
            put(at + 40, &size.to_le_bytes());
            put(at + 48, &align.to_le_bytes());
        }
        let header = |index: usize| table_at + index * SECTION_HEADER;
        (
            bytes,
            Layout {
                section_table: table_at,
                symtab: header(2),
                strtab: header(3),
                symbols: symbols_at,
                note: note_at,
            },
        )
    }
}

/// Two functions, as a base for tests.
pub fn small() -> File {
    File::with_symbols(vec![
        Symbol::function("first", TEXT_ADDRESS, 0x100),
        Symbol::function("second", TEXT_ADDRESS + 0x100, 0xf00),
    ])
}
