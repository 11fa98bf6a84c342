//! The caps on everything that a file can make this crate allocate, read or repeat.
//!
//! An ELF file is untrusted input. Each count and length in it is compared with one of these caps
//! before use, and the file's own size bounds the rest. The caps leave a wide margin over the
//! largest real images known to the authors, so only a damaged or hostile file meets one; the
//! comments give the figures of real files.

/// Program headers read; the System V ABI allows 65,535, real images have at most about 20.
pub const PROGRAM_HEADERS: usize = 256;

/// Section headers; an executable has about 40, with a section for each function a few thousand.
pub const SECTIONS: usize = 16_384;

/// Bytes of the table of section names.
pub const SECTION_NAME_BYTES: u64 = 1 << 20;

/// Bytes read of one note segment or note section; a build-id note has 36.
pub const NOTE_BYTES: u64 = 64 << 10;

/// Entries read of the dynamic section; real ones have about 40, only `DT_NEEDED` is open-ended.
pub const DYNAMIC_ENTRIES: usize = 4_096;

/// Symbols in one table. The largest browsers have about 2 million with full symbols.
pub const SYMBOLS: u64 = 4_000_000;

/// Versions of symbols that a library defines and an image distinguishes. libc has some fifty.
pub const VERSIONS: u64 = 255;

/// Symbols of functions in all tables of an image together. Each takes up to 80 bytes besides its
/// name: 1.9 million of them took 144 MiB.
pub const FUNCTIONS: usize = 2_000_000;

/// Bytes of the names of all functions. Names may overlap in their string table, so its size does
/// not bound the time to read them all.
pub const NAMES_TOTAL_BYTES: u64 = 256 << 20;

/// Bytes of one string table of symbols, which is kept in memory along with the functions.
pub const STRING_TABLE_BYTES: u64 = 256 << 20;

/// Bytes of one symbol's name; longer ones are skipped and counted. C++ templates reach thousands.
pub const NAME_BYTES: usize = 16 << 10;

/// Bytes of a mangled name that is demangled, and of its result; longer ones keep their linkage
/// name. Demanglers expand back references, so the output needs a bound of its own.
pub const DEMANGLED_BYTES: usize = 8 << 10;

/// Depth of nested parts of a mangled C++ name. Deeper names keep their linkage name.
pub const DEMANGLE_DEPTH: u32 = 96;

/// Bytes read of one section of debug data, of up to six in memory, for inlined functions. A large
/// daemon's has some 30 MiB; for browsers no copies are reported.
pub const DWARF_BYTES: u64 = 128 << 20;

/// Compressed bytes of `.gnu_debugdata`; that of a 20 MiB library is about 200 KiB.
pub const DEBUGDATA_COMPRESSED_BYTES: u64 = 16 << 20;

/// Bytes that `.gnu_debugdata` may decompress to. It holds a reduced symbol table only: an image
/// with 500,000 functions needs about 50 MiB.
pub const DEBUGDATA_BYTES: usize = 64 << 20;

/// Dictionary that the xz stream may request; `xz -9`: 64 MiB. Only written pages are resident.
pub const XZ_DICTIONARY_BYTES: usize = 64 << 20;

/// Bytes of an image without a build-id that are read to make one. The largest browsers have 200 MiB of code.
pub const HASHED_BYTES: u64 = 512 << 20;

/// Bytes of a link to a debug file: the name of a file and a checksum.
pub const DEBUG_LINK_BYTES: u64 = 4 << 10;

/// Bytes of a debug file found by a link, which is read completely for the checksum. Those of large
/// browsers are larger, and are found by their build-id.
pub const LINKED_BYTES: u64 = 512 << 20;

/// Bytes of code of one function with its cold parts; larger ones are refused instead of decoded.
/// The largest interpreters' loops have some hundred KiB.
pub const FUNCTION_BYTES: u64 = 4 << 20;

/// Cold parts of one function.
pub const COLD_PARTS: usize = 64;

/// Exits in functions that a function jumps to; with more, its calls are measured up to the jump.
pub const TAIL_EXITS: usize = 256;

/// Entries of the search table of `.eh_frame_hdr`.
pub const UNWIND_ENTRIES: u64 = 4_000_000;

/// Bytes of a build-id: 20 for SHA-1, 16 for MD5 and UUID, 8 for lld; `--build-id=0x...` any.
pub const BUILD_ID_BYTES: usize = 64;

/// Bytes searched for Go's function table and its module data if no section names them.
pub const GO_SCANNED_BYTES: u64 = 512 << 20;

/// Bytes of a pack: some 60 for each function.
pub const PACK_BYTES: usize = 1 << 20;

/// Functions of a pack, all images together.
pub const PACK_FUNCTIONS: usize = 1 << 16;

/// Bytes of a pattern.
pub const PATTERN_BYTES: usize = 1_024;

/// Least hexadecimal digits of a build-id in an address pattern, so that it cannot match by chance.
pub const BUILD_ID_DIGITS: usize = 8;

/// Names offered if a function was not found.
pub const NEAR_NAMES: usize = 5;
