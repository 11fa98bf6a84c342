//! Functions, probe sites and refusals from the bytes of an ELF file.
//!
//! This crate answers three questions about an executable or a shared object, without processes or
//! BPF:
//!
//! 1. **What is this file?** [`Image::open`] reads header, segments, sections and build-id.
//! 2. **Which functions does it have?** [`Image::functions`] merges `.symtab`, `.dynsym`,
//!    `.gnu_debugdata` and a separate debug file into one [`FunctionTable`]; a [`Pattern`] picks
//!    from it by name, glob or address.
//! 3. **Where may a probe sit?** [`Image::sites`] decodes one function and gives the file offsets
//!    of its entry and of its exits, or a [`Refusal`] with the reason.
//!
//! The file is untrusted. Every count and length is compared with a cap of [`limits`] before any
//! allocation or loop, every read goes through [`ReadAt`] (positioned reads; no mapping, because a
//! mapped file that shrinks kills its reader), and there is no unsafe code. Unreadable input gives
//! an [`ImageError`] for the whole file or a [`Refusal`] for one function; nothing panics.
//!
//! # Map
//!
//! | module | job |
//! | --- | --- |
//! | `source` | [`ReadAt`]: positioned reads from a file or from bytes |
//! | `elf` | the layout of the file: headers, sections, notes, dynamic section, symbol tables, unwind tables |
//! | `image` | [`Image`]: what one file is; segments, build-id, facts for the guard |
//! | `pack` | [`Pack`]: functions with their sites for a stripped image |
//! | `debug_files`, `debugdata` | symbols from elsewhere: the debug file of the build, and `.gnu_debugdata` |
//! | `dwarf` | how often functions were put into others, by debug data |
//! | `functions` | [`FunctionTable`]: symbols of all sources to functions with ranges, aliases and cold parts |
//! | `linkage`, [`demangle`] | what compilers make of names, and back |
//! | `pattern`, [`glob`] | [`Pattern`]: what a person types to choose functions |
//! | `find`, `near` | from a pattern to functions, or to names that may have been meant |
//! | `code` | [`Image::sites`]: from a function to file offsets, by way of [`edgelat_sites`], which knows no files |
//! | `tails` | [`Tails`]: from a jump out of a function to where the call ends |
//! | [`python`] | CPython: version, evaluation loop, layout of its objects |
//! | [`limits`] | the caps on everything |
//!
//! # Example
//!
//! ```no_run
//! use edgelat_image::{DebugFiles, Image, Pattern};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let image = Image::open(std::fs::File::open("/usr/lib/libfoo.so.1")?)?;
//! let open = |path: &std::path::Path| std::fs::File::open(path).map(edgelat_image::boxed);
//! let functions = image.functions(&DebugFiles::new(&open), &mut |_| ())?;
//! for function in image.find(&functions, &Pattern::parse("libfoo.so:work_*")?)? {
//!     match image.sites(&functions, &function) {
//!         Ok(sites) => println!("{}: entry at file offset {}", function.name, sites.entry.file_offset),
//!         Err(refusal) => println!("{}: {refusal}", function.name),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod build_id;
mod code;
mod debug_files;
mod debug_link;
mod debugdata;
pub mod demangle;
#[cfg(feature = "inlined")]
mod dwarf;
#[cfg(not(feature = "inlined"))]
#[path = "dwarf/left_out.rs"]
mod dwarf;
mod elf;
mod error;
mod find;
mod functions;
pub mod glob;
mod go;
mod identity;
mod image;
pub mod limits;
mod linkage;
mod near;
mod pack;
mod pattern;
pub mod python;
mod source;
mod tails;
#[cfg(test)]
mod testing;

pub use build_id::BuildId;
pub use code::{FunctionSites, ProbeSite};
pub use debug_files::{DebugFiles, Open};
pub use edgelat_sites::{Arch, Ends, Refusal, SiteKind, Stepping};
pub use error::ImageError;
pub use find::{FindError, Names};
pub use functions::{Function, FunctionTable, Language, Origin, Progress, Skipped};
pub use glob::Glob;
pub use go::Go;
pub use image::{Facts, Image, Kind, Segment};
pub use near::nearest;
pub use pack::{Pack, PackError, PackedFunction, PackedImage};
pub use pattern::{NamePattern, Pattern, PatternError, Wanted};
pub use python::{Interpreter, PythonError, PythonPattern};
pub use source::{ReadAt, boxed};
pub use tails::{CallEnds, Export, Followers, Tails};
