//! `edgelat pack`: functions of unstripped files, for boxes that run the stripped ones.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use edgelat_image::demangle::{Form, demangle};
use edgelat_image::{DebugFiles, FindError, Image, ImageError, Pack, PackError, PackedImage, Pattern};
use serde::Serialize;

use super::{
    exit::Exit,
    failure::{Fails, Failure},
    output::{PrintError, reason, say, to_stdout},
    parse::PackOptions,
};
use crate::collector::target::file_name;

/// Reasons that a pack is not made or read.
#[derive(Debug, thiserror::Error)]
pub enum PackCommandError {
    /// A file cannot be opened, read or written.
    #[error("{path}: {}; name a file that you may {action}", reason(.error))]
    File {
        /// The file.
        path: String,
        /// The intended action.
        action: &'static str,
        /// Cause of the failure.
        error: io::Error,
    },
    /// A file is not an image, or is damaged.
    #[error("{path}: {error}")]
    Image {
        /// The file.
        path: String,
        /// The error and its correction.
        error: ImageError,
    },
    /// A file cannot be packed, or is not a pack.
    #[error("{path}: {error}")]
    Pack {
        /// The file.
        path: String,
        /// The error and its correction.
        error: PackError,
    },
    /// A file with symbols but without code.
    #[error(
        "{path}: it has symbols but no code; name the program or library that it belongs to with --image as well"
    )]
    DebugOnly {
        /// The file.
        path: String,
    },
    /// A Go program.
    #[error("{path}: a Go program keeps the names of its functions when it is stripped, and needs no pack")]
    Go {
        /// The file.
        path: String,
    },
    /// A pattern without a match.
    #[error("{path}: {error}")]
    Find {
        /// The last file that was searched.
        path: String,
        /// The reason for no match, with similar names.
        error: FindError,
    },
    /// Functions were found, but they cannot be probed.
    #[error("'{pattern}' cannot be probed: {reason}; `edgelat functions` shows what can")]
    Refused {
        /// The pattern.
        pattern: String,
        /// The first reason.
        reason: String,
    },
    /// The pattern names another image.
    #[error("'{pattern}' asks for an image that is not among the files; name it with --debug")]
    OtherImage {
        /// The pattern.
        pattern: String,
    },
}

impl Fails for PackCommandError {
    fn exit(&self) -> Exit {
        match self {
            Self::File { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::File { action: "write", .. } => Exit::Failed,
            Self::Find { error: FindError::Image(_), .. } => Exit::Image,
            Self::File { .. } | Self::Image { .. } | Self::Pack { .. } | Self::DebugOnly { .. } => {
                Exit::Image
            }
            Self::Go { .. } | Self::Find { .. } | Self::Refused { .. } | Self::OtherImage { .. } => {
                Exit::Functions
            }
        }
    }
}

/// Makes or shows a pack.
///
/// # Errors
/// A [`PackCommandError`] as a failure.
pub fn run(options: &PackOptions) -> Result<Exit, Failure> {
    match options {
        PackOptions::Make { output, debug, images, functions } => make(output, debug, images, functions),
        PackOptions::Show { path, json } => show(path, *json),
    }
}

/// A pack whose contents have not been examined.
#[derive(Debug)]
pub struct PackFile {
    path: String,
    bytes: Vec<u8>,
}

/// Reads files that are expected to be packs.
///
/// # Errors
/// A [`PackCommandError`] as a failure, for the first file that cannot be read.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<PackFile>, Failure> {
    paths.iter().map(|path| read(path)).collect()
}

/// Parses the contents of the files.
///
/// # Errors
/// A [`PackCommandError`] as a failure, for the first file that is not a pack.
pub fn understand_all(files: &[PackFile]) -> Result<Vec<Pack>, Failure> {
    files.iter().map(understand).collect()
}

fn understand(file: &PackFile) -> Result<Pack, Failure> {
    let failed = |error| PackCommandError::Pack { path: file.path.clone(), error }.into();
    Pack::read(&file.bytes).map_err(failed)
}

fn read(path: &Path) -> Result<PackFile, Failure> {
    let name = path.display().to_string();
    // One byte more than the maximum: the parser reports files that are too long.
    let most = edgelat_image::limits::PACK_BYTES as u64 + 1;
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, most), &mut bytes))
        .map_err(|error| PackCommandError::File { path: name.clone(), action: "read", error })?;
    Ok(PackFile { path: name, bytes })
}

fn make(output: &Path, debug: &[PathBuf], images: &[PathBuf], patterns: &[Pattern]) -> Result<Exit, Failure> {
    let mut pack = Pack::default();
    let mut found = BTreeSet::new();
    let mut missing = None;
    // Without --image, the files with symbols are the images.
    for path in if images.is_empty() { debug } else { images } {
        let wanted = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches_image(path));
        let wanted: Vec<(usize, &Pattern)> = wanted.collect();
        if !wanted.is_empty() {
            add(&mut pack, path, debug, &wanted, &mut found, &mut missing)?;
        }
    }
    for (number, pattern) in patterns.iter().enumerate() {
        if !found.contains(&number) {
            let other = PackCommandError::OtherImage { pattern: pattern.to_string() };
            return Err(missing.unwrap_or(other).into());
        }
    }
    let name = output.display().to_string();
    let bytes = pack.write().map_err(|error| PackCommandError::Pack { path: name.clone(), error })?;
    std::fs::write(output, &bytes).map_err(|error| PackCommandError::File {
        path: name.clone(),
        action: "write",
        error,
    })?;
    let functions: usize = pack.images().iter().map(|image| image.functions().len()).sum();
    let functions = if functions == 1 { "1 function".to_owned() } else { format!("{functions} functions") };
    say(format_args!("{name}: {functions} in {} bytes", bytes.len()));
    Ok(Exit::Ok)
}

/// Adds the matches of `patterns` in one image. `missing` is the error if no image has a match.
fn add(
    pack: &mut Pack,
    path: &Path,
    debug: &[PathBuf],
    patterns: &[(usize, &Pattern)],
    found: &mut BTreeSet<usize>,
    missing: &mut Option<PackCommandError>,
) -> Result<(), PackCommandError> {
    let name = path.display().to_string();
    let open = |path: &Path| File::open(path);
    let file =
        open(path).map_err(|error| PackCommandError::File { path: name.clone(), action: "read", error })?;
    let unreadable = |error| PackCommandError::Image { path: name.clone(), error };
    let image = Image::open(file).map_err(unreadable)?;
    match image.refusal() {
        Some(edgelat_image::Refusal::NoText) => return Err(PackCommandError::DebugOnly { path: name }),
        _ if image.facts().go.is_some() => return Err(PackCommandError::Go { path: name }),
        _ => {}
    }
    // Each file with symbols poses as a folder of debug files with one file in it; the reader of
    // debug files checks that it belongs to this build.
    let posing = |path: &Path| {
        let number = path.components().nth(1).and_then(|part| part.as_os_str().to_str()?.parse().ok());
        let file: Option<&PathBuf> = number.and_then(|number: usize| debug.get(number));
        open(file.ok_or(io::ErrorKind::NotFound)?).map(edgelat_image::boxed)
    };
    let mut debug_files = DebugFiles::new(&posing);
    for number in 0..debug.len() {
        debug_files = debug_files.directory(format!("/{number}"));
    }
    debug_files = debug_files.inlined(true);
    let table = image.functions(&debug_files, &mut |_| ()).map_err(unreadable)?;
    let packed = pack
        .add(file_name(&name), image.arch(), image.build_id())
        .map_err(|error| PackCommandError::Pack { path: name.clone(), error })?;
    let mut taken = BTreeSet::new();
    for (number, pattern) in patterns {
        let functions = match image.find(&table, pattern) {
            Ok(functions) => functions,
            Err(error) => {
                missing.get_or_insert(PackCommandError::Find { path: name.clone(), error });
                continue;
            }
        };
        for function in functions {
            if !taken.insert((function.start, function.end)) {
                found.insert(*number);
                continue;
            }
            match image.pack(&table, &function, packed) {
                Ok(()) => {
                    found.insert(*number);
                    if let Some(copies) = function.inlined.filter(|copies| *copies > 0) {
                        let name = &function.name;
                        say(format_args!(
                            "{name}: {copies} copies of it are inlined, whose calls no probe sees"
                        ));
                    }
                }
                Err(refusal) => {
                    say(format_args!("not packed: {}: {refusal}", function.name));
                    missing.get_or_insert_with(|| PackCommandError::Refused {
                        pattern: pattern.to_string(),
                        reason: refusal.to_string(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// One line of `pack show --json`.
#[derive(Serialize)]
struct FunctionLine<'a> {
    image: &'a str,
    arch: String,
    build_id: String,
    name: String,
    linkage_name: &'a str,
    start: u64,
    size: u64,
    exits: usize,
}

fn show(path: &Path, json: bool) -> Result<Exit, Failure> {
    let pack = understand(&read(path)?)?;
    to_stdout(Exit::Ok, |out| {
        for image in pack.images() {
            if !json {
                writeln!(out, "{}  {}  build-id {}", image.name(), image.arch(), image.build_id())?;
            }
            functions(out, image, json)?;
        }
        Ok(Exit::Ok)
    })
}

fn functions(out: &mut dyn Write, image: &PackedImage, json: bool) -> Result<(), PrintError> {
    for function in image.functions() {
        let linkage_name = function.names().first().map(String::as_str).unwrap_or_default();
        let name = demangle(linkage_name.as_bytes(), Form::Full).unwrap_or_else(|| linkage_name.to_owned());
        let size = function.parts().map(|part| part.end.saturating_sub(part.start)).sum();
        if json {
            let line = FunctionLine {
                image: image.name(),
                arch: image.arch().to_string(),
                build_id: image.build_id(),
                name,
                linkage_name,
                start: function.start(),
                size,
                exits: function.exits(),
            };
            serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
            writeln!(out)?;
        } else {
            let address = format!("0x{:x}", function.start());
            writeln!(out, "{address:>12} {size:>8} {:>3} exits  {name}", function.exits())?;
        }
    }
    Ok(())
}
