//! Functions for a pattern.

use thiserror::Error;

use crate::elf::unwind::Unwind;
use crate::functions::unnamed::name_at;
use crate::go::inline_tree;
use crate::pattern::Wanted;
use crate::{
    Function, FunctionTable, Go, Image, ImageError, Language, NamePattern, Origin, Pattern, ReadAt, Refusal,
};

/// Reasons why a pattern chooses no function.
#[derive(Debug, Error)]
pub enum FindError {
    /// No function has the name, and the glob matches none.
    #[error("function '{name}' not found{}", next_step(.near, *.names))]
    NotFound {
        /// The requested name.
        name: String,
        /// Similar names, nearest first.
        near: Vec<String>,
        /// Kind of names that are known.
        names: Names,
    },
    /// No function has the name, and none of the image could be probed.
    #[error("function '{name}' not found, and it could not be probed: {refusal}")]
    Refused {
        /// The requested name.
        name: String,
        /// Reason why no function of this image can be probed.
        refusal: Refusal,
    },
    /// The image is another build than that of the pattern.
    #[error(
        "the address is of build {wanted}, but this file has build-id {found}; look the address up again"
    )]
    OtherBuild {
        /// The digits of the pattern.
        wanted: String,
        /// The build-id of the image, `none` if it has no build-id.
        found: String,
    },
    /// The address is not in code.
    #[error("0x{address:x} is not in the code of this file; code stands at {text}")]
    NotCode {
        /// The address or offset of the pattern.
        address: u64,
        /// The ranges of addresses or offsets that are code.
        text: String,
    },
    /// An address inside a function.
    #[error(
        "0x{address:x} lies {offset} bytes inside '{name}'; a function is chosen by the address where it starts"
    )]
    InsideFunction {
        /// The address or offset of the pattern.
        address: u64,
        /// The function around it.
        name: String,
        /// Bytes from its start.
        offset: u64,
    },
    /// No symbol and no unwind record gives a function at this address.
    #[error(
        "no symbol and no unwind record says what function begins at 0x{address:x}; \
         install the debug file of this build"
    )]
    UnknownFunction {
        /// The address or offset of the pattern.
        address: u64,
    },
    /// Reading the image failed.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Known names of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Names of a full symbol table, or of Go's own table.
    All,
    /// Exported names: the image has no full symbol table, and no debug file was found.
    Exported,
    /// Functions of this name were inlined: they are in Go's table or debug data and have no code.
    /// The similar names are those of callers.
    Inlined,
}

fn next_step(near: &[String], names: Names) -> String {
    if cfg!(feature = "inlined") && names == Names::Inlined && !near.is_empty() {
        return format!(
            ": it was put into its callers (inlined) and has no code of its own; measure one of those: {}",
            near.join(", ")
        );
    }
    let mut text = match near {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(", ")),
    };
    text.push_str(match (names, near) {
        (Names::Inlined, _) => {
            ": it was put into its callers (inlined) and has no code of its own; measure one of those"
        }
        (Names::Exported, _) => {
            "; the file is stripped: install the debug symbols of this build, bring a pack of its functions (`edgelat pack \
             make`), or write +0xADDRESS@BUILDID"
        }
        (Names::All, []) => "; list what there is with `edgelat functions`",
        (Names::All, _) => "",
    });
    text
}

impl<S: ReadAt> Image<S> {
    /// Returns the functions that a pattern chooses, by start, at least one; unprobeable functions
    /// have a refusal. [`Pattern::matches_image`] tests if the pattern means this image.
    ///
    /// # Errors
    /// A [`FindError`] that states the next step.
    pub fn find(&self, table: &FunctionTable, pattern: &Pattern) -> Result<Vec<Function>, FindError> {
        let (number, address, build_id) = match pattern.wanted() {
            Wanted::Name(name) => {
                let found = table.named(name).into_iter().map(|index| table.function(index));
                // `*` means functions with a name.
                let wanted =
                    |function: &Function| function.origin != Origin::Unwind || pattern.wants_unnamed();
                let found: Vec<Function> = found.filter(wanted).collect();
                return if found.is_empty() { Err(self.not_found(table, name)) } else { Ok(found) };
            }
            Wanted::Address { address, build_id } => {
                (*address, Some(*address).filter(|&address| self.file_offset(address).is_some()), build_id)
            }
            Wanted::Offset { offset, build_id } => (*offset, self.address_of(*offset), build_id),
        };
        if !self.build_id().is_some_and(|found| found.begins_with(build_id)) {
            return Err(FindError::OtherBuild {
                wanted: build_id.clone(),
                found: self.build_id().map_or_else(|| "none".to_owned(), ToString::to_string),
            });
        }
        let by_offset = matches!(pattern.wanted(), Wanted::Offset { .. });
        let Some(address) = address else {
            return Err(FindError::NotCode { address: number, text: self.text_ranges(by_offset) });
        };
        self.starting_at(table, address, number).map(|function| vec![function])
    }

    fn not_found(&self, table: &FunctionTable, pattern: &NamePattern) -> FindError {
        let name = pattern.text().to_owned();
        if let Some(refusal) = self.refusal() {
            return FindError::Refused { name, refusal };
        }
        let copies = table.copies(pattern);
        if copies.count > 0 || table.has_inlined(pattern) {
            let near = match cfg!(feature = "inlined") {
                true => self.callers(table, copies.callers, &table.inlined_in_go(pattern)),
                false => Vec::new(),
            };
            return FindError::NotFound { name, near, names: Names::Inlined };
        }
        let near = table.near(&name);
        let all = table.has(Origin::Gopclntab) || self.facts().symtab || table.has(Origin::DebugFile);
        let names = if all { Names::All } else { Names::Exported };
        FindError::NotFound { name, near, names }
    }

    /// Returns the names of functions with inlined calls: those at `starts`, and those for which
    /// Go's table has an inlined call of `names`.
    fn callers(&self, table: &FunctionTable, mut starts: Vec<u64>, names: &[u32]) -> Vec<String> {
        if !names.is_empty() {
            let minor = self.facts().go.as_ref().and_then(Go::minor);
            // They are a hint, so damage of the tree does not matter.
            starts.extend(inline_tree::callers(&self.elf, minor, names).unwrap_or_default());
        }
        let callers = starts.into_iter().filter_map(|start| table.starting_at(start));
        let mut names: Vec<String> = callers.map(|index| table.function(index).name).collect();
        names.dedup();
        names
    }

    /// Returns the function at an address, by its symbol or by the unwind tables.
    pub(crate) fn starting_at(
        &self,
        table: &FunctionTable,
        address: u64,
        number: u64,
    ) -> Result<Function, FindError> {
        if let Some(index) = table.starting_at(address) {
            return Ok(table.function(index));
        }
        let inside = |name: String, start: u64| FindError::InsideFunction {
            address: number,
            name,
            offset: address - start,
        };
        if let Some(index) = table.around(address) {
            let function = table.function(index);
            return Err(inside(function.name, function.start));
        }
        match Unwind::around(&self.elf, address)? {
            Some(range) if range.start == address => Ok(Function {
                name: name_at(address),
                linkage_name: String::new(),
                aliases: Vec::new(),
                start: range.start,
                end: range.end,
                cold: Vec::new(),
                origin: Origin::Unwind,
                refusal: None,
                language: Language::Native,
                inlined: None,
            }),
            Some(range) => Err(inside(name_at(range.start), range.start)),
            None => Err(FindError::UnknownFunction { address: number }),
        }
    }

    /// Formats the ranges of code for a person.
    fn text_ranges(&self, by_offset: bool) -> String {
        let ranges: Vec<String> = self
            .segments()
            .iter()
            .filter(|segment| segment.executable && segment.file_size > 0)
            .map(|segment| {
                let start = if by_offset { segment.file_offset } else { segment.address };
                format!("0x{start:x}..0x{:x}", start.saturating_add(segment.file_size))
            })
            .collect();
        if ranges.is_empty() { "no address".to_owned() } else { ranges.join(", ") }
    }
}
