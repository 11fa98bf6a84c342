//! `edgelat functions`: lists functions and reports if they can be probed.
//!
//! One function is examined and printed before the next is decoded, so that the first line appears
//! at once and memory does not grow with the list.

mod print;

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use edgelat_guard::{Asked, Guard, Line, protocol::MappedImage};
use edgelat_image::{
    DebugFiles, FindError, Followers, Function, Image, ImageError, Origin, Pack, Pattern, Progress, Refusal,
    Tails,
};
use nix::libc::O_NONBLOCK;

use super::{
    exit::Exit,
    failure::{Fails, Failure},
    guarded::guarded,
    output::{PrintError, ProgressLine, reason, say, to_stdout},
    parse::{FunctionsOf, FunctionsOptions},
};
use crate::collector::debug_dirs::DebugDirs;
use crate::collector::notes;
use crate::collector::resolve::{self, ResolveError};
use crate::collector::target::{Target, file_name};
use print::Printer;

/// Reasons that functions of a file or process are not listed.
#[derive(Debug, thiserror::Error)]
pub enum FunctionsError {
    /// The file cannot be opened.
    #[error("{path}: {}; name an executable or shared object", reason(.error))]
    Open {
        /// The file.
        path: String,
        /// Cause of the failure.
        error: io::Error,
    },
    /// The file is not an image, or is damaged.
    #[error("{path}: {error}")]
    Image {
        /// The file.
        path: String,
        /// The error and its correction.
        error: ImageError,
    },
    /// Nothing fits the pattern.
    #[error("{path}: {error}")]
    Find {
        /// The searched file.
        path: String,
        /// The reason for no match, with similar names.
        error: FindError,
    },
    /// There are no symbols.
    #[error(
        "{path}: no function is named in it (it is stripped) and no debug file was found{build_id}; give the directory \
         of its debug file with --debug-dir, list what its unwind tables know with 'fn_0x*', or use the address form \
         +0xADDRESS@BUILDID"
    )]
    Stripped {
        /// The file.
        path: String,
        /// Build-id, if any, as a part of the sentence.
        build_id: String,
    },
    /// No function of the image can be probed or named.
    #[error("{path}: none of its functions can be named or probed: {refusal}")]
    Refused {
        /// The file.
        path: String,
        /// The reason.
        refusal: Refusal,
    },
    /// The pattern names another image.
    #[error("'{pattern}' asks for an image that is not there; what is: {there}")]
    OtherImage {
        /// The pattern.
        pattern: String,
        /// Names of the images that exist.
        there: String,
    },
}

impl Fails for FunctionsError {
    fn exit(&self) -> Exit {
        match self {
            Self::Open { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            Self::Open { .. } | Self::Image { .. } | Self::Find { error: FindError::Image(_), .. } => {
                Exit::Image
            }
            Self::Find { .. } | Self::Stripped { .. } | Self::Refused { .. } | Self::OtherImage { .. } => {
                Exit::Functions
            }
        }
    }
}

/// Lists functions.
///
/// # Errors
/// If nothing can be listed, with the reason.
pub fn run(options: FunctionsOptions) -> Result<Exit, Failure> {
    // Files that need the caller's rights are opened here; they are examined without rights.
    let packs = super::pack::read_all(&options.packs)?;
    let mut debug_dirs = DebugDirs::open(&options.debug_dirs);
    let mut at = None;
    if let FunctionsOf::File(path) = &options.of {
        // A path that cannot be resolved is reported when the file is opened.
        at = path.canonicalize().ok();
        debug_dirs = debug_dirs.beside(at.as_deref().and_then(Path::parent));
    }
    let (file, asked) = match &options.of {
        FunctionsOf::File(path) => (Some(open(path, &options)?), Vec::new()),
        FunctionsOf::Process(pid) => (None, vec![Asked::process(*pid, None)]),
    };
    guarded(Guard::new(asked), |mut line| {
        let sources = Sources { packs: super::pack::understand_all(&packs)?, debug_dirs, file: at };
        to_stdout(Exit::Ok, |out| {
            let mut printer = Printer::new(out, options.json);
            match (&options.of, file) {
                (FunctionsOf::File(path), Some(file)) => {
                    list(&mut printer, &path.to_string_lossy(), &file, &options, &sources)?;
                }
                (FunctionsOf::Process(pid), _) => process(&mut printer, &mut line, *pid, &options, &sources)?,
                (FunctionsOf::File(_), None) => {}
            }
            printer.finish()?;
            Ok(Exit::Ok)
        })
    })
}

/// Sources of functions of a stripped image.
struct Sources {
    packs: Vec<Pack>,
    debug_dirs: DebugDirs,
    /// Path of the named file.
    file: Option<PathBuf>,
}

impl Sources {
    /// Returns the path of an image that is shown by this name.
    fn at(&self, shown: &str) -> PathBuf {
        self.file.clone().unwrap_or_else(|| shown.trim_end_matches(" (deleted)").into())
    }
}

fn open(path: &Path, options: &FunctionsOptions) -> Result<File, Failure> {
    let name = path.to_string_lossy().into_owned();
    if let Some(pattern) = options.pattern.as_ref().filter(|pattern| !pattern.matches_image(path)) {
        return Err(other_image(pattern, &[file_name(&name)]));
    }
    // A FIFO would otherwise block until a writer opens it.
    OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)
        .map_err(|error| FunctionsError::Open { path: name, error }.into())
}

/// Lists all images of a process. Unreadable images are reported and skipped unless all are.
fn process(
    printer: &mut Printer<'_>,
    line: &mut Line,
    pid: i32,
    options: &FunctionsOptions,
    sources: &Sources,
) -> Result<(), PrintError> {
    // Nothing is attached, so that a debugger does not matter.
    let target = Target::open(line, pid, true).map_err(Failure::from)?;
    let mapped = target.images(line).map_err(Failure::from)?;
    let path = |image: &MappedImage| image.path.trim_end_matches(" (deleted)").to_string();
    let wanted: Vec<&MappedImage> = mapped
        .iter()
        .filter(|image| {
            options.pattern.as_ref().is_none_or(|pattern| pattern.matches_image(Path::new(&path(image))))
        })
        .collect();
    if let (true, Some(pattern)) = (wanted.is_empty(), &options.pattern) {
        let there: Vec<String> = mapped.iter().map(path).collect();
        let there: Vec<&str> = there.iter().map(|path| file_name(path)).collect();
        return Err(other_image(pattern, &there).into());
    }
    printer.images(wanted.iter().map(|image| file_name(&image.path).chars().count()).max().unwrap_or(0));
    // Python functions have no addresses: they become known when they are called.
    match resolve::resolve_python(line, &target, &[], &[]) {
        Ok(Some((python, _))) => {
            printer.note(format!("functions of Python: edgelat watch -p {pid} 'py:*'"));
            notes::of_python(&python).for_each(|note| printer.note(note));
        }
        Err(error @ ResolveError::Python { .. }) => printer.note(error.to_string()),
        // Unreadable files are reported where their functions are listed.
        Ok(None) | Err(_) => {}
    }
    let mut failures: Vec<Failure> = Vec::new();
    for image in &wanted {
        let listed = match target.open_image(line, image) {
            Ok(open) => list(printer, &open.path, &open.file, options, sources),
            Err(error) => Err(Failure::from(error).into()),
        };
        match listed {
            Ok(()) => {}
            Err(PrintError::Other(failure)) => failures.push(failure),
            Err(output) => return Err(output),
        }
    }
    if failures.len() == wanted.len() {
        // The executable is the first mapping, and its failure is the most informative.
        return failures.into_iter().next().map_or(Ok(()), |failure| Err(failure.into()));
    }
    // A pattern without a match in one image is not reported if another image matches.
    for failure in failures.iter().filter(|failure| failure.exit != Exit::Functions) {
        say(&failure.message);
    }
    Ok(())
}

fn other_image(pattern: &Pattern, there: &[&str]) -> Failure {
    FunctionsError::OtherImage { pattern: pattern.to_string(), there: there.join(", ") }.into()
}

/// Lists one image.
fn list(
    printer: &mut Printer<'_>,
    path: &str,
    file: &File,
    options: &FunctionsOptions,
    sources: &Sources,
) -> Result<(), PrintError> {
    let unreadable = |error| Failure::from(FunctionsError::Image { path: path.to_string(), error });
    let image = Image::open(file).map_err(unreadable)?;
    let open = |path: &Path| sources.debug_dirs.file(path).map(edgelat_image::boxed);
    let debug_files =
        DebugFiles::new(&open).packs(&sources.packs).linked_from(sources.at(path)).inlined(true);
    let debug_files = sources.debug_dirs.paths().fold(debug_files, DebugFiles::directory);
    let mut progress = ProgressLine::new();
    let name = file_name(path);
    let mut functions = |debug_files: &DebugFiles<'_>| {
        let progress = &mut |at: Progress| {
            progress.update(&format!("{name}: reading {}", at.origin.name()), at.done, at.total);
        };
        image.functions(debug_files, progress).map_err(unreadable)
    };
    let wanted = options.pattern.as_ref().is_some_and(Pattern::wants_unnamed);
    let debug_files = debug_files.unnamed(wanted);
    let mut table = functions(&debug_files)?;
    if table.is_empty() && options.pattern.is_none() {
        table = functions(&debug_files.unnamed(true))?;
    }
    for skipped in table.skipped() {
        let debug_file = skipped.path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default();
        say(format_args!("{path}: its {}{debug_file} is left out: {}", skipped.origin.name(), skipped.error));
    }
    let build_id = image.build_id().map(ToString::to_string);
    if table.is_empty() && options.pattern.as_ref().is_none_or(|pattern| pattern.name().is_some()) {
        if let Some(refusal) = image.refusal() {
            return Err(Failure::from(FunctionsError::Refused { path: path.to_string(), refusal }).into());
        }
        let build_id = build_id.map(|id| format!(" (build-id {id})")).unwrap_or_default();
        return Err(Failure::from(FunctionsError::Stripped { path: path.to_string(), build_id }).into());
    }
    printer.begin(path, build_id.as_deref(), image.facts().go.as_ref(), &table.origins());
    if table.has(Origin::Unwind) {
        printer.note(format!(
            "{name}: it is stripped, and what stands as fn_0xADDRESS has that name in this build alone; its debug file \
             (--debug-dir) knows the others"
        ));
    }
    // On a terminal the list itself shows progress.
    let hidden = !io::stdout().is_terminal();
    let mut tails = Tails::new(&image, &table, Followers::new());
    let mut print = |done: usize, total: usize, function: &Function| {
        if hidden {
            progress.update(&format!("{name}: looking at functions"), done as u64, total as u64);
        }
        printer.function(function, &tails.look(function), &|| image.why_stepped(&table, function))
    };
    match &options.pattern {
        None => {
            for (done, function) in table.iter().enumerate() {
                print(done, table.len(), &function)?;
            }
        }
        Some(pattern) => {
            let found = image
                .find(&table, pattern)
                .map_err(|error| Failure::from(FunctionsError::Find { path: path.to_string(), error }))?;
            for (done, function) in found.iter().enumerate() {
                print(done, found.len(), function)?;
            }
        }
    }
    Ok(())
}
