//! Contents of the BPF object: programs, maps and constants by name.
//!
//! The names are here once, as data, so that the loader has no strings of its own and a test can
//! compare them with clang's object.

use std::mem::offset_of;

use crate::layout::{self, Constants};

/// The compiled object of this architecture. It is packed to a quarter, as it is a large part of
/// a small binary.
pub const PACKED_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/latency.bpf.o.deflate"));
/// Bytes of the object. Decimal digits of the build.
const OBJECT_BYTES: usize = match usize::from_str_radix(env!("OBJECT_BYTES"), 10) {
    Ok(bytes) => bytes,
    Err(_) => panic!("the build tells a number"),
};

/// The compiled object of this architecture. If the binary is damaged, a part of it, which libbpf
/// refuses.
pub fn object() -> Vec<u8> {
    let unpacked = miniz_oxide::inflate::decompress_to_vec_with_limit(PACKED_OBJECT, OBJECT_BYTES);
    unpacked.unwrap_or_else(|failed| failed.output)
}

/// SHA-256 of [`object`] in hexadecimal: identifies the programs that a machine runs.
pub const OBJECT_SHA256: &str = env!("OBJECT_SHA256");

/// Names of maps.
pub mod map {
    /// Histograms, mapped by the collector.
    pub const ROWS: &str = "rows";
    /// Frame table, mapped by the collector.
    pub const FRAMES: &str = "frames";
    /// Frame table of the hash variant.
    pub const FRAME_HASH: &str = "frame_hash";
    /// Functions by address, for probes without a cookie.
    pub const SITES: &str = "sites";
    /// Followed processes.
    pub const FAMILY: &str = "family";
    /// Python functions, mapped by the collector, which writes its answers there.
    pub const CODE_SLOTS: &str = "code_slots";
    /// Code objects of processes, and the decisions about their functions.
    pub const CODE_CACHE: &str = "code_cache";
    /// Free rows of Python functions, filled by the collector.
    pub const PYTHON_POOL: &str = "python_pool";
    /// Descriptions of Python functions, read by the collector.
    pub const CODE_TEXTS: &str = "code_texts";
    /// Ring buffer of forks and new images.
    pub const EVENTS: &str = "events";
    /// Total probe time of each thread.
    pub const THREADS: &str = "threads";
    /// Suffix of the name of the array with the costs of hits.
    pub const PRICES_SUFFIX: &str = ".data.prices";
    /// Suffix of the name of the array with the switches; libbpf may prefix the object's name.
    pub const CONTROL_SUFFIX: &str = ".data.control";
    /// Suffix of the name of the array of constants.
    pub const CONSTANTS_SUFFIX: &str = ".rodata";
}

/// Names of the programs that see forks and new images in all plans.
pub const FAMILY_PROGRAMS: [&str; 2] = ["family_fork", "family_exec"];

/// Names of the programs that see signals and ends in all plans.
pub const END_PROGRAMS: [&str; 2] = ["family_signal", "family_exit"];

/// A way to measure: the programs on the sites and the maps they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// uprobe_multi links with cookies, probes on exit sites. Linux 6.6.
    Multi,
    /// As `Multi`, but the exit program executes plain returns itself. x86-64; distribution kernels
    /// from 6.18 on.
    MultiWriting,
    /// uprobe_multi links with cookies, return probes. Linux 6.6.
    MultiReturn,
    /// One uprobe session for both ends. Linux 6.13.
    Session,
    /// Functions by address, frames in the mapped table. Linux 5.12 (arm64: 5.18).
    Address,
    /// As `Address`, with return probes that carry a cookie. Linux 5.15.
    AddressReturn,
    /// Functions by address, frames in a hash. Linux 5.8.
    AddressHash,
}

impl Programs {
    /// All variants.
    pub const ALL: &[Self] = &[
        Self::Multi,
        #[cfg(target_arch = "x86_64")]
        Self::MultiWriting,
        Self::MultiReturn,
        Self::Session,
        Self::Address,
        Self::AddressReturn,
        Self::AddressHash,
    ];

    /// Program on the entry sites.
    pub fn entry(self) -> &'static str {
        match self {
            Self::Multi | Self::MultiWriting | Self::MultiReturn => "multi_entry",
            Self::Session => "session",
            Self::Address | Self::AddressReturn => "table_entry",
            Self::AddressHash => "hash_entry",
        }
    }

    /// Program on the exit sites or returns; `None` if one program serves both ends.
    pub fn exit(self) -> Option<&'static str> {
        match self {
            Self::Multi => Some("multi_exit"),
            Self::MultiWriting => Some("multi_exit_writing"),
            Self::MultiReturn => Some("multi_return"),
            Self::Session => None,
            Self::Address => Some("table_leave"),
            Self::AddressReturn => Some("single_return"),
            Self::AddressHash => Some("hash_leave"),
        }
    }

    /// True if the frames are in the array that the collector maps.
    pub fn maps_frames(self) -> bool {
        !matches!(self, Self::Session | Self::AddressHash)
    }

    /// True if it can measure Python functions. They need compare-and-exchange and exit sites.
    pub fn knows_python(self) -> bool {
        matches!(self, Self::Multi | Self::MultiWriting | Self::Address)
    }

    /// True if the programs refer to the maps of Python's code objects.
    pub fn refers_to_python(self) -> bool {
        self.maps_frames()
    }

    /// True if the programs look up their function by address.
    pub fn by_address(self) -> bool {
        matches!(self, Self::Address | Self::AddressReturn | Self::AddressHash)
    }
}

/// Words of a set of CPUs.
pub const CPU_WORDS: usize = (layout::CPUS / u64::BITS) as usize;

/// Size of the array of constants in bytes.
pub const CONSTANTS_BYTES: usize = size_of::<Constants>();

/// Constants for the measurement of Python functions. Offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PythonConstants {
    /// Number of rows, from [`PythonConstants::first_row`] on.
    pub rows: u32,
    /// Number of the first row.
    pub first_row: u32,
    /// Slots for functions, a power of two.
    pub slots: u32,
    /// Sets of the cache of code objects, a power of two.
    pub sets: u32,
    /// Maximum number of descriptions that wait for the collector; a power of two.
    pub texts: u32,
    /// Index of the evaluation loop's argument that is the frame.
    pub frame_argument: u32,
    /// In a frame: its code object.
    pub frame_code: u32,
    /// Low bits of that pointer that are marks.
    pub code_marks: u32,
    /// In a frame: its owner; 0 if creating a generator is no call.
    pub frame_owner: u32,
    /// In a code object: name of its file.
    pub code_file: u32,
    /// In a code object: the reported name.
    pub code_name: u32,
    /// In a code object: flags.
    pub code_flags: u32,
    /// In a code object: first line.
    pub code_line: u32,
    /// In an ASCII string: its text.
    pub text: u32,
    /// In any other string: its text.
    pub wide_text: u32,
    /// True if frames cannot be distinguished.
    pub counts_only: bool,
    /// Constants for whole awaits, if they are measured.
    pub awaits: Option<AwaitConstants>,
}

/// Constants for the measurement of whole awaits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AwaitConstants {
    /// Sets of the frame table for open awaits, a power of two.
    pub sets: u32,
    /// In a frame: its position.
    pub frame_position: u32,
    /// In a code object: number of the first instruction that a resume executes; 0 if the sign of a
    /// position says it.
    pub code_first: u32,
    /// Distance from a frame of the mark of its return.
    pub frame_state: i32,
    /// Lowest value of that mark that means returned, or
    /// [`AWAIT_ENDED_WORD`](layout::AWAIT_ENDED_WORD).
    pub ended: u32,
}

/// The array of constants for `lanes` lanes, `frame_sets` (a power of two) sets of the frame table,
/// and the row that counts hits at unknown addresses. `plan` selects the switch of the programs.
/// Calls that begin on CPUs outside `cpus` (64 per word, from the lowest bit of the first on) do
/// not count. `may_sleep` says that the programs are loaded as sleepable.
pub fn constants(
    lanes: u32,
    frame_sets: u32,
    unknown_row: u32,
    plan: u32,
    cpus: Option<&[u64; CPU_WORDS]>,
    python: Option<&PythonConstants>,
    may_sleep: bool,
) -> [u8; CONSTANTS_BYTES] {
    debug_assert!(frame_sets.is_power_of_two(), "the programs find a set by a mask");
    let mut bytes = [0; CONSTANTS_BYTES];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(Constants, lanes), &lanes.to_ne_bytes());
    put(offset_of!(Constants, frame_set_mask), &(frame_sets - 1).to_ne_bytes());
    put(offset_of!(Constants, unknown_row), &unknown_row.to_ne_bytes());
    put(offset_of!(Constants, plan), &plan.to_ne_bytes());
    for (index, word) in cpus.into_iter().flatten().enumerate() {
        put(offset_of!(Constants, cpus) + index * size_of::<u64>(), &word.to_ne_bytes());
    }
    put(offset_of!(Constants, cpus_limited), &u32::from(cpus.is_some()).to_ne_bytes());
    put(offset_of!(Constants, may_sleep), &u32::from(may_sleep).to_ne_bytes());
    if let Some(python) = python {
        for (at, value) in [
            (offset_of!(Constants, python_rows), python.rows),
            (offset_of!(Constants, python_first_row), python.first_row),
            (offset_of!(Constants, code_slot_mask), python.slots.saturating_sub(1)),
            (offset_of!(Constants, code_set_mask), python.sets.saturating_sub(1)),
            (offset_of!(Constants, code_text_mask), python.texts.saturating_sub(1)),
            (offset_of!(Constants, python_frame_owner), python.frame_owner),
            (offset_of!(Constants, python_wide_text), python.wide_text),
            (offset_of!(Constants, python_frame_argument), python.frame_argument),
            (offset_of!(Constants, python_frame_code), python.frame_code),
            (offset_of!(Constants, python_code_marks), python.code_marks),
            (offset_of!(Constants, python_code_file), python.code_file),
            (offset_of!(Constants, python_code_name), python.code_name),
            (offset_of!(Constants, python_code_flags), python.code_flags),
            (offset_of!(Constants, python_code_line), python.code_line),
            (offset_of!(Constants, python_text), python.text),
            (offset_of!(Constants, python_counts_only), u32::from(python.counts_only)),
        ] {
            put(at, &value.to_ne_bytes());
        }
        let awaits = python.awaits.unwrap_or_default();
        for (at, value) in [
            (offset_of!(Constants, await_sets), awaits.sets),
            (offset_of!(Constants, python_frame_position), awaits.frame_position),
            (offset_of!(Constants, python_code_first), awaits.code_first),
            (offset_of!(Constants, python_frame_state), awaits.frame_state as u32),
            (offset_of!(Constants, python_ended), awaits.ended),
        ] {
            put(at, &value.to_ne_bytes());
        }
    }
    for (index, threshold) in edgelat_histogram::THRESHOLDS.iter().enumerate() {
        put(offset_of!(Constants, thresholds) + index * size_of::<u64>(), &threshold.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::layout::STRUCTS;
    use libbpf_rs::btf::types::{Array, MemberAttr, Struct};
    use libbpf_rs::btf::{Btf, BtfType, HasSize};
    use libbpf_rs::{AsRawLibbpf, ObjectBuilder};

    #[test]
    fn the_object_has_every_program_and_map_that_is_named_here() {
        let object = ObjectBuilder::default().open_memory(&object()).unwrap();
        let programs: Vec<String> = object.progs().map(|p| p.name().to_string_lossy().into_owned()).collect();
        let maps: Vec<String> = object.maps().map(|m| m.name().to_string_lossy().into_owned()).collect();

        let mut named: Vec<&str> = [FAMILY_PROGRAMS, END_PROGRAMS].concat();
        for &programs in Programs::ALL {
            named.push(programs.entry());
            named.extend(programs.exit());
        }
        for name in &named {
            assert!(programs.iter().any(|p| p == name), "{name} is not in the object");
        }
        for program in &programs {
            assert!(named.contains(&program.as_str()), "{program} is in the object but has no use");
        }
        for name in [
            map::ROWS,
            map::FRAMES,
            map::FRAME_HASH,
            map::SITES,
            map::FAMILY,
            map::EVENTS,
            map::CODE_SLOTS,
            map::CODE_CACHE,
            map::PYTHON_POOL,
            map::CODE_TEXTS,
            map::THREADS,
        ] {
            assert!(maps.iter().any(|m| m == name), "map {name} is not in the object");
        }
        for suffix in [map::CONTROL_SUFFIX, map::CONSTANTS_SUFFIX, map::PRICES_SUFFIX] {
            assert!(maps.iter().any(|m| m.ends_with(suffix)), "map {suffix} is not in the object");
        }
    }

    /// Checked independently, with the program of coreutils or BusyBox.
    #[test]
    fn the_hash_is_that_of_the_object() {
        let command = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut command = command.unwrap();
        command.stdin.take().unwrap().write_all(&object()).unwrap();
        let told = command.wait_with_output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&told).split_whitespace().next(), Some(OBJECT_SHA256));
    }

    #[test]
    fn the_layout_in_the_object_is_the_layout_in_rust() {
        let object = ObjectBuilder::default().open_memory(&object()).unwrap();
        // SAFETY: the object is open and outlives the BTF that is read from it.
        let btf = Btf::from_bpf_object(unsafe { object.as_libbpf_object().as_ref() }).unwrap().unwrap();
        // Only structures that a map or a global names are in the BTF; the header asserts the others.
        for expected in STRUCTS.iter().filter(|s| s.name != "event") {
            let found = btf.type_by_name::<Struct<'_>>(expected.name).expect(expected.name);
            assert_eq!(found.size(), expected.size, "size of {}", expected.name);
            let members: Vec<_> = found.iter().collect();
            assert_eq!(members.len(), expected.fields.len(), "fields of {}", expected.name);
            for (member, field) in members.iter().zip(expected.fields) {
                let name = format!("{}.{}", expected.name, field.name);
                assert_eq!(member.name.unwrap(), field.name, "{name}");
                let MemberAttr::Normal { offset } = member.attr else { panic!("{name} is a bit field") };
                assert_eq!(offset as usize, field.offset * 8, "{name}");
                let ty: BtfType<'_> = btf.type_by_id(member.ty).unwrap();
                let count = Array::try_from(ty.skip_mods_and_typedefs()).map_or(0, |a| a.capacity());
                assert_eq!(count, field.count, "elements of {name}");
            }
        }
    }
}
