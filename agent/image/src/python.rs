//! CPython interpreters: the version in an image, its evaluation loop, and its object layout.
//!
//! A Python call is visible if it enters `_PyEval_EvalFrameDefault`. The frame object passed to it
//! has the code object, with name, file and first line. Up to 3.10 every call enters. From 3.11 on
//! the loop itself runs functions called from Python, and only calls from C enter (scripts,
//! threads, callbacks), unless perf support is on (`PYTHONPERFSUPPORT=1` or `-X perf`, 3.12 and
//! later): then all calls enter.
//!
//! The loop may be one large function or, from 3.14 on, a function that calls the first of many
//! that jump to each other. In both cases its entry and its return are those of a call.
//!
//! # Layouts
//!
//! From 3.13 on `_PyRuntime` begins with the layout for debuggers: `xdebugpy`, the version, and the
//! offsets (`_Py_DebugOffsets`, Include/internal/pycore_runtime.h of 3.13, pycore_debug_offsets.h
//! of 3.14 and 3.15), which differ in each version. Those of 3.8 to 3.12 are from Include/code.h
//! (3.8), Include/cpython/{code,frameobject,unicodeobject}.h (`PyFrameObject` of 3.8 to 3.10), and
//! Include/internal/pycore_frame.h (from 3.11 on: `_PyInterpreterFrame`).

mod state;

use std::fmt;

use edgelat_sites::decode::Step;
use thiserror::Error;

pub use self::state::State;

use crate::elf::symbols::SymbolTable;
use crate::functions::assembly::Text;
use crate::glob::Glob;
use crate::limits::PATTERN_BYTES;
use crate::source::read_exact;
use crate::{Ends, Function, FunctionSites, FunctionTable, Image, ImageError, PatternError, ReadAt, Refusal};

/// The evaluation loop.
const LOOP: &str = "_PyEval_EvalFrameDefault";
/// Symbol at which the debug offsets stand.
const RUNTIME: &str = "_PyRuntime";
/// The version as a number, from 3.11 on.
const VERSION: &str = "Py_Version";
/// First exported by 3.8, 3.9 and 3.10 (Doc/whatsnew); identify versions that do not state theirs.
const MARKS: [(&str, u8); 3] =
    [("PyModule_AddObjectRef", 10), ("PyFrame_GetBack", 9), ("PyCode_NewWithPosOnlyArgs", 8)];
/// Words read of the debug offsets.
const OFFSET_WORDS: usize = 96;
/// Offsets in objects are small; larger ones are damage.
const LARGEST_OFFSET: u64 = 1 << 12;

/// Offsets of the parts of the interpreter's objects, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Index of the evaluation loop's argument that is the frame, from 0.
    pub frame_argument: u8,
    /// In the frame: its code object.
    pub frame_code: u16,
    /// Low bits of that pointer that are tags.
    pub code_marks: u8,
    /// In the frame: the owner byte; 0 before 3.11, which makes generators without the loop.
    pub frame_owner: u16,
    /// In the code object: the name of the file, a string.
    pub code_file: u16,
    /// In the code object: the function's qualified name, or before 3.11 its plain name.
    pub code_name: u16,
    /// In the code object: flags.
    pub code_flags: u16,
    /// In the code object: the first line.
    pub code_line: u16,
    /// In a string: bytes of the header of an ASCII string; the text follows.
    pub text: u16,
    /// In a string: bytes of the header of any other string.
    pub wide_text: u16,
    /// First resume and return of a generator; `None` in 3.11, which never shows every resume.
    pub awaits: Option<Awaits>,
}

/// Parts of a frame that show its first resume and its return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaits {
    /// In the frame: its position. Up to 3.10 `f_lasti`, negative before the first resume; later
    /// the address of an instruction (`prev_instr`, `instr_ptr`).
    pub position: u16,
    /// In the code object: the number of its first traceable instruction, which is a resume; those
    /// before it make the generator. The instructions follow 16 bytes behind it. 0 up to 3.10.
    pub code_first: u16,
    /// From the frame: its state. Up to 3.9 `f_stacktop`, NULL unless it has yielded; in 3.10
    /// `f_state`; later `gi_frame_state` of the generator that contains the frame.
    pub state: i16,
    /// Lowest state of a frame that has returned (`PyFrameState`), or [`Awaits::STACK_TOP`].
    pub ended: u16,
}

impl Awaits {
    /// The state is a pointer.
    pub const STACK_TOP: u16 = 0x100;

    const fn of(minor: u8) -> Option<Self> {
        match minor {
            8 | 9 => Some(Self { position: 104, code_first: 0, state: 72, ended: Self::STACK_TOP }),
            10 => Some(Self { position: 96, code_first: 0, state: 108, ended: 1 }),
            11 => None,
            12 => Some(Self { position: 56, code_first: 176, state: -5, ended: 0 }),
            13 | 14 => Some(Self { position: 56, code_first: 184, state: -5, ended: 0 }),
            // Never negative: FRAME_CREATED, 3 suspended, FRAME_EXECUTING, FRAME_CLEARED.
            _ => Some(Self { position: 56, code_first: 192, state: -5, ended: 4 }),
        }
    }
}

/// An interpreter that can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Minor version: 11 for 3.11.
    pub minor: u8,
    /// Layout of its objects.
    pub layout: Layout,
    /// Entry and exits of the evaluation loop.
    pub sites: FunctionSites,
    /// State that shows if every call enters; `None` if not needed (up to 3.10) or not found.
    pub state: Option<State>,
}

/// Reasons why an interpreter cannot be measured.
#[derive(Debug, Error)]
pub enum PythonError {
    /// A version with an unknown layout.
    #[error("this is Python {found}, and edgelat knows the layout of 3.8 to 3.15")]
    Version {
        /// The version, as far as it is known.
        found: String,
    },
    /// An interpreter without the global lock.
    #[error(
        "this is a free-threaded Python {minor}, whose objects are laid out differently; use the usual build"
    )]
    FreeThreaded {
        /// As in [`Interpreter::minor`].
        minor: String,
    },
    /// The debug offsets are implausible.
    #[error("the offsets that this Python states for debuggers make no sense ({what}); is it a debug build?")]
    Offsets {
        /// The implausible part.
        what: &'static str,
    },
    /// The evaluation loop cannot be probed.
    #[error("the evaluation loop of this Python cannot be probed: {0}")]
    Loop(Refusal),
    /// Reading the image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Requested functions: `[FILE:]NAME`, each exact or a glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonPattern {
    text: String,
    file: Option<String>,
    name: String,
}

impl PythonPattern {
    /// Prefix of such a pattern on a command line.
    pub const PREFIX: &'static str = "py:";

    /// Parses the text after the prefix.
    ///
    /// # Errors
    /// A [`PatternError`] that says what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let whole = || format!("{}{text}", Self::PREFIX);
        if text.len() > PATTERN_BYTES {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        let (file, name) = match text.rsplit_once(':') {
            Some(("", _)) => return Err(PatternError::EmptyImage { text: whole() }),
            Some((file, name)) => (Some(file.to_owned()), name),
            None => (None, text),
        };
        if name.is_empty() {
            return Err(PatternError::EmptyName { text: whole() });
        }
        Ok(Self { text: whole(), file, name: name.to_owned() })
    }

    /// Returns true if a function matches. `qualified` is true if `name` includes the enclosing
    /// scopes, as from 3.11 on; otherwise only the last part of the pattern is compared.
    #[must_use]
    pub fn matches(&self, file: &str, name: &str, qualified: bool) -> bool {
        let wanted = match self.name.rsplit_once('.') {
            Some((_, last)) if !qualified => last,
            _ => &self.name,
        };
        let file_fits = self.file.as_deref().is_none_or(|wanted| {
            let base = file.rsplit('/').next().unwrap_or(file);
            fits(wanted, file) || !wanted.contains('/') && fits(wanted, base)
        });
        file_fits && fits(wanted, name)
    }
}

/// Returns true if the text equals the wanted text, or the glob matches it.
fn fits(wanted: &str, text: &str) -> bool {
    wanted == text || Glob::is_glob(wanted) && Glob::new(wanted).matches(text.chars())
}

impl fmt::Display for PythonPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Layout {
    /// Returns the text of a string, truncated if long; `bytes` begin at the text of an ASCII
    /// string. `None` if `state` is implausible. From bit 2: width of a character (three bits),
    /// text behind the header, ASCII (Include/cpython/unicodeobject.h, 3.8 to 3.15).
    #[must_use]
    pub fn text_of(&self, length: u32, state: u32, bytes: &[u8]) -> Option<String> {
        const COMPACT: u32 = 1 << 5;
        const ASCII: u32 = 1 << 6;
        if state & COMPACT == 0 {
            return None;
        }
        let wide = usize::from(self.wide_text - self.text);
        let bytes = if state & ASCII == 0 { bytes.get(wide..)? } else { bytes };
        let width = (state >> 2 & 7) as usize;
        let code_points: Vec<u32> = match width {
            1 => bytes.iter().map(|&byte| byte.into()).collect(),
            2 => bytes.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair).into()).collect(),
            4 => bytes.as_chunks().0.iter().map(|four| u32::from_le_bytes(*four)).collect(),
            _ => return None,
        };
        let length = length as usize;
        let known = code_points.len();
        let text = code_points.into_iter().take(length);
        let mut text: String = text.map(|code| char::from_u32(code).unwrap_or('\u{fffd}')).collect();
        if length > known {
            text.push_str("...");
        }
        // A name from the target must not move a terminal's cursor.
        Some(text.replace(char::is_control, "\u{fffd}"))
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Python 3.{}", self.minor)
    }
}

impl Interpreter {
    /// Returns true if every call of a Python function enters the loop in any environment.
    #[must_use]
    pub const fn sees_every_call(&self) -> bool {
        self.minor <= 10
    }

    /// Returns true if it can be started so that every call enters.
    #[must_use]
    pub const fn has_perf_support(&self) -> bool {
        self.minor >= 12
    }

    /// Returns a method whose calls may stay inside the loop even if all others enter: its
    /// specialised instruction does not check for another frame evaluator. These instructions are
    /// `BINARY_SUBSCR_GETITEM` in 3.11 and `CALL_ALLOC_AND_ENTER_INIT` in 3.13.
    #[must_use]
    pub const fn bypassing(&self) -> Option<&'static str> {
        match self.minor {
            11 => Some("__getitem__"),
            13 => Some("__init__"),
            _ => None,
        }
    }
}

impl<S: ReadAt> Image<S> {
    /// Returns the interpreter in this image; `None` if there is no interpreter.
    ///
    /// # Errors
    /// The reason why it cannot be measured.
    pub fn python(&self, table: &FunctionTable) -> Result<Option<Interpreter>, PythonError> {
        let mut loops = table.iter().filter(|function| function.linkage_name == LOOP);
        let Some(function) = loops.next() else { return Ok(None) };
        let [runtime, version, accessor] = self.data([RUNTIME, VERSION, state::ACCESSOR])?;
        let minor = self.python_minor(table, version)?;
        let layout = match (minor, runtime) {
            (8..=12, _) => Layout::of(minor),
            (13..=15, Some(runtime)) => self.stated_layout(minor, runtime)?,
            _ => return Err(PythonError::Version { found: format!("3.{minor}") }),
        };
        // Its cold parts may be mixed with those of other functions; they return into it.
        let whole = self.sites_and(table, &function, Ends::AtExits, &mut edgelat_sites::find_with_arguments);
        let sites = whole.or_else(|_| self.returns(table, &function)).map_err(PythonError::Loop)?;
        self.passes_no_argument(&function, &sites)?;
        let state = runtime.zip(accessor).filter(|_| minor > 10);
        let state = state.and_then(|(runtime, accessor)| self.state(minor, runtime, accessor));
        Ok(Some(Interpreter { minor, layout, sites, state }))
    }

    /// Checks that the entry, from any source, has not slid past a write to an argument register.
    fn passes_no_argument(&self, function: &Function, sites: &FunctionSites) -> Result<(), PythonError> {
        let (mut at, address) = (function.start, sites.entry.site.address);
        let keeps = |step: &Step| {
            edgelat_sites::arguments(self.arch()).iter().all(|&register| !step.effect.writes(register))
        };
        while at < address {
            let step = self.step(at).filter(keeps);
            at = step.ok_or(PythonError::Loop(Refusal::Unsteppable { address }))?.end();
        }
        Ok(())
    }

    fn python_minor(&self, table: &FunctionTable, version: Option<u64>) -> Result<u8, PythonError> {
        if let Some(hex) = version.and_then(|address| self.version_word(address)) {
            // PY_VERSION_HEX: major, minor, micro, level and serial; Include/patchlevel.h.
            return match ((hex >> 24) as u8, (hex >> 16) as u8) {
                (3, minor) => Ok(minor),
                (major, minor) => Err(PythonError::Version { found: format!("{major}.{minor}") }),
            };
        }
        let marks: Vec<&str> = MARKS.iter().map(|(mark, _)| *mark).collect();
        let defined = table.defines(&marks);
        let found = MARKS.iter().find(|(mark, _)| defined.iter().any(|name| name == mark));
        found.map(|(_, minor)| *minor).ok_or(PythonError::Version { found: "3.7 or older".to_owned() })
    }

    /// Reads the layout that an interpreter states.
    fn stated_layout(&self, minor: u8, runtime: u64) -> Result<Layout, PythonError> {
        let bad = |what| PythonError::Offsets { what };
        let words = self.stated_offsets(runtime)?.ok_or(bad("they are not in the file"))?;
        let word = |index: usize| words.get(index).copied().unwrap_or(u64::MAX);
        if word(0) != u64::from_le_bytes(*b"xdebugpy") || (word(1) >> 16) as u16 != 0x300 | u16::from(minor) {
            return Err(bad("they are not those of its version"));
        }
        if word(2) != 0 {
            return Err(PythonError::FreeThreaded { minor: format!("3.{minor}") });
        }
        // Words of executable, owner, filename, qualname, firstlineno; string length and size.
        let [executable, owner, file, qualname, line, length, header] = match minor {
            13 => [30, 33, 35, 37, 39, 69, 70],
            14 => [33, 36, 40, 42, 44, 79, 80],
            _ => [41, 44, 48, 50, 52, 91, 92],
        };
        let small = |index: usize, what: &'static str| {
            u16::try_from(word(index)).ok().filter(|&at| u64::from(at) < LARGEST_OFFSET).ok_or(bad(what))
        };
        if word(length) != u64::from(Layout::LENGTH) {
            return Err(bad("the length of a string"));
        }
        let usual = Layout::of(minor);
        // In all versions position and instructions stand behind other entries of the tables.
        let instructions = "the instructions of a code object";
        let awaits = Awaits {
            position: small(executable + 1, "the position of a frame")?,
            code_first: small(line + 4, instructions)?.checked_sub(16).ok_or(bad(instructions))?,
            ..Awaits::of(minor).ok_or(bad(instructions))?
        };
        let layout = Layout {
            awaits: Some(awaits),
            frame_code: small(executable, "the code of a frame")?,
            frame_owner: small(owner, "the owner of a frame")?,
            code_file: small(file, "the file of a code object")?,
            code_name: small(qualname, "the name of a code object")?,
            code_line: small(line, "the line of a code object")?,
            text: small(header, "the header of a string")?,
            ..usual
        };
        // The programs read file, name and qualified name in one piece.
        if layout.code_name != layout.code_file + 16 || layout.text != usual.text {
            return Err(bad("names of a code object"));
        }
        Ok(layout)
    }

    /// Returns the addresses of data symbols.
    fn data<const N: usize>(&self, names: [&str; N]) -> Result<[Option<u64>; N], ImageError> {
        let mut found = [None; N];
        for table in [SymbolTable::dynamic(&self.elf)?, SymbolTable::full(&self.elf)?].into_iter().flatten() {
            table.for_each(&self.elf.source, |_, symbol| {
                let name = table.name(symbol).map(crate::linkage::without_version);
                for (wanted, found) in names.iter().zip(&mut found) {
                    if symbol.defined && name == Some(wanted.as_bytes()) {
                        *found = Some(symbol.value);
                    }
                }
            })?;
        }
        Ok(found)
    }

    fn version_word(&self, address: u64) -> Option<u64> {
        let [word] = self.words(address, "version of Python").ok()??;
        Some(word)
    }

    /// Reads the interpreter's own description of its objects (`_Py_DebugOffsets`).
    fn stated_offsets(&self, runtime: u64) -> Result<Option<[u64; OFFSET_WORDS]>, ImageError> {
        self.words(runtime, "offsets of Python")
    }

    /// Reads words at an address; `None` if the address is not in the file.
    fn words<const N: usize>(
        &self,
        address: u64,
        what: &'static str,
    ) -> Result<Option<[u64; N]>, ImageError> {
        let Some(offset) = self.elf.offset_of(address) else { return Ok(None) };
        let mut bytes = [[0; 8]; N];
        read_exact(&self.elf.source, what, offset, bytes.as_flattened_mut())?;
        Ok(Some(bytes.map(u64::from_le_bytes)))
    }
}

impl Layout {
    /// In a string: its length, in all versions; the hash of the text and the state follow.
    pub const LENGTH: u16 = 16;
    /// In a string: its state.
    pub const STATE: u16 = 32;

    /// Layout from the headers of the version; stated offsets take precedence.
    const fn of(minor: u8) -> Self {
        let common = Self {
            frame_argument: if minor == 8 { 0 } else { 1 },
            frame_code: 0,
            code_marks: 0,
            frame_owner: 70,
            code_file: 112,
            code_name: 128,
            code_flags: 48,
            code_line: 68,
            text: 40,
            wide_text: 56,
            awaits: Awaits::of(minor),
        };
        match minor {
            8..=10 => Self {
                frame_code: 32,
                frame_owner: 0,
                code_file: 104,
                code_name: 112,
                code_flags: 36,
                code_line: 40,
                text: 48,
                wide_text: 72,
                ..common
            },
            11 => Self { frame_code: 32, frame_owner: 69, code_line: 72, text: 48, wide_text: 72, ..common },
            12 | 13 => common,
            // The code pointer has tags in its low bits.
            _ => Self { code_marks: 3, frame_owner: 74, ..common },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_of_all_versions_have_file_and_name_in_reach_of_one_reading() {
        for minor in 8..=15 {
            let layout = Layout::of(minor);
            assert!(matches!(layout.code_name - layout.code_file, 8 | 16), "3.{minor}");
            assert!(layout.text >= Layout::STATE + 4 && layout.wide_text > layout.text, "3.{minor}");
        }
    }

    #[test]
    fn a_pattern_names_functions_with_or_without_their_file() {
        let matches = |pattern: &str, file: &str, name: &str| {
            PythonPattern::parse(pattern).unwrap().matches(file, name, true)
        };
        assert!(matches("work", "/srv/app.py", "work"));
        assert!(!matches("work", "/srv/app.py", "Worker.work"));
        assert!(matches("Worker.*", "/srv/app.py", "Worker.work"));
        assert!(matches("app.py:work", "/srv/app.py", "work"));
        assert!(matches("/srv/*:work", "/srv/app.py", "work"));
        assert!(!matches("b.py:work", "/srv/app.py", "work"));
        assert!(matches("<module>", "/srv/app.py", "<module>"));
        // Up to 3.10 the name has no class.
        assert!(PythonPattern::parse("Worker.work").unwrap().matches("a.py", "work", false));
        assert!(matches!(PythonPattern::parse("a.py:"), Err(PatternError::EmptyName { .. })));
        assert!(matches!(PythonPattern::parse(":f"), Err(PatternError::EmptyImage { .. })));
        assert!(matches!(PythonPattern::parse(""), Err(PatternError::EmptyName { .. })));
    }

    #[test]
    fn strings_of_every_width_are_read() {
        let layout = Layout::of(13);
        let state = |width: u32, ascii: u32| width << 2 | 1 << 5 | ascii << 6;
        assert_eq!(layout.text_of(3, state(1, 1), b"abcdef"), Some("abc".to_owned()));
        let wide = |text: &[u8]| [&[0; 16], text].concat();
        assert_eq!(layout.text_of(2, state(1, 0), &wide(&[0xe4, 0x62])), Some("\u{e4}b".to_owned()));
        assert_eq!(layout.text_of(1, state(2, 0), &wide(&[0xac, 0x20])), Some("\u{20ac}".to_owned()));
        assert_eq!(layout.text_of(1, state(4, 0), &wide(&[0, 0xf6, 1, 0])), Some("\u{1f600}".to_owned()));
        assert_eq!(layout.text_of(9, state(1, 1), b"abc"), Some("abc...".to_owned()));
        assert_eq!(layout.text_of(2, state(1, 1), b"\x1b["), Some("\u{fffd}[".to_owned()));
        assert_eq!(layout.text_of(3, 0, b"abc"), None);
        assert_eq!(layout.text_of(3, state(3, 0), &wide(b"abc")), None);
    }
}
