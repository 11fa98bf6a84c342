//! From what a person typed to what the guard can attach: patterns to functions with sites.
//!
//! A pattern without an image means the executable; `libfoo.so:name` means a mapped library. What is found
//! but cannot be probed is a refusal, which is reported; it is an error only when nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edgelat_bpf::layout::{
    SITE_CONDITION_SHIFT, SITE_CONDITIONAL, SITE_GOROUTINE, SITE_MAYBE, SITE_PYTHON, SITE_RETURN,
};
use edgelat_guard::protocol::{ImageId, MappedImage, PlanSite, Returns, TargetFile};
use edgelat_guard::{GuardError, Line};
use edgelat_image::{
    CallEnds, DebugFiles, Ends, FindError, Followers, FunctionTable, Glob, Image, ImageError, Interpreter,
    Origin, Pack, Pattern, Progress, PythonError, PythonPattern, ReadAt, SiteKind, Stepping, Tails,
};

use super::debug_dirs::DebugDirs;
use super::report::RefusedReport;
use super::tails::{self, Leaving};
use super::target::{OpenImage, Target, file_name};

/// Images that are read for the patterns of one target. Each costs up to seconds, in which nothing else is looked at.
const IMAGES_AT_ONCE: usize = 256;
/// Images that are read to tell where a function is that was looked for in the wrong one.
const IMAGES_FOR_HINT: usize = 64;
/// Images that may hold the interpreter of a process.
const INTERPRETERS: usize = 8;

/// Why names did not become functions.
#[derive(Debug, thiserror::Error)]
#[expect(
    clippy::large_enum_variant,
    reason = "an error of the guard holds its text itself; it is rare and soon printed"
)]
pub enum ResolveError {
    /// The guard refused something.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// An image could not be read.
    #[error("{path}: {error}")]
    Image {
        /// Its path.
        path: String,
        /// Why not.
        error: ImageError,
    },
    /// No function fits.
    #[error("{path}: {error}{hint}")]
    Find {
        /// Image that was searched.
        path: String,
        /// Why nothing was found.
        error: FindError,
        /// Where it was found instead.
        hint: String,
    },
    /// The process executes nothing that stands in a file.
    #[error(
        "process {pid} executes no code that stands in a file: it is packed (UPX) or made its code at run time; probes \
         need a file, so unpack the program (upx -d) and start it again"
    )]
    NoFile {
        /// The process.
        pid: i32,
    },
    /// Whoever runs the process decides how many files it maps.
    #[error(
        "'{pattern}' fits too many of the files that process {pid} maps: {found}, and {IMAGES_AT_ONCE} are looked into at most; \
         name the image more closely"
    )]
    TooManyImages {
        /// The process.
        pid: i32,
        /// What was asked for.
        pattern: String,
        /// How many files fit all patterns.
        found: usize,
    },
    /// The process runs no Python.
    #[error(
        "process {pid} runs no CPython interpreter, so '{pattern}' names nothing; leave 'py:' out for machine code"
    )]
    NoPython {
        /// The process.
        pid: i32,
        /// What was asked for.
        pattern: String,
    },
    /// Its interpreter cannot be measured.
    #[error("{path}: {error}")]
    Python {
        /// Path of the interpreter.
        path: String,
        /// Why not.
        error: PythonError,
    },
    /// Functions were found, but none can be probed.
    #[error("'{pattern}' cannot be probed in {path}: {reason}; `edgelat functions` shows what can")]
    Refused {
        /// What was asked for.
        pattern: String,
        /// Image that was searched.
        path: String,
        /// The first reason.
        reason: String,
    },
}

/// What the probes of a function cost depends on how the kernel executes the probed instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steppings {
    /// The entry site is single-stepped.
    pub entry_stepped: bool,
    /// An exit site is single-stepped.
    pub exit_stepped: bool,
}

/// A function with its sites. Several ranges of one name are one function.
#[derive(Debug, Clone)]
pub struct Function {
    /// Demangled name.
    pub name: String,
    /// Path of the image.
    pub image_path: String,
    /// The image.
    pub image: ImageId,
    /// What it is written in.
    pub language: &'static str,
    /// Kinds of its sites.
    pub steppings: Steppings,
    /// Some exits are jumps into another function, and what follows them is not measured.
    pub until_tail_call: bool,
    /// Its sites; the cookie does not hold the function's number yet.
    pub sites: Vec<PlanSite>,
    /// Exits of functions in other images that it leaves to by a jump.
    pub elsewhere: Vec<(ImageId, PlanSite)>,
}

/// An image that functions were found in.
#[derive(Debug)]
pub struct ResolvedImage {
    /// The guard's number for it.
    pub id: ImageId,
    /// Where its build-id stands in the file, and the build-id.
    pub build_id: Option<(u64, Vec<u8>)>,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Functions to measure.
    pub functions: Vec<Function>,
    /// Their images.
    pub images: Vec<ResolvedImage>,
    /// Functions that were asked for and cannot be probed.
    pub refused: Vec<RefusedReport>,
    /// Patterns whose image is not mapped (yet).
    pub pending: Vec<Pattern>,
    /// The interpreter whose functions are measured.
    pub python: Option<ResolvedPython>,
    /// For each image the functions in it that others leave to by jumps.
    pub followers: Vec<(ImageId, Followers)>,
}

/// An interpreter of Python, and which of its functions are asked for.
#[derive(Debug)]
pub struct ResolvedPython {
    /// The image that it is in.
    pub image: ImageId,
    /// Entry and exits of the evaluation loop, without a function's number.
    pub sites: Vec<PlanSite>,
    /// Kinds of its sites.
    pub steppings: Steppings,
    /// What it is.
    pub interpreter: Interpreter,
    /// The functions.
    pub patterns: Vec<PythonPattern>,
    /// Its frames cannot be told apart: it switches stacks.
    pub counts_only: bool,
    /// Every call enters the evaluation loop, not only those from C.
    pub every_call: bool,
}

/// What resolving needs to know besides patterns and target.
pub struct Context<'a> {
    /// Folders with debug files, besides the usual one.
    pub debug_dirs: &'a DebugDirs,
    /// Packs for stripped images.
    pub packs: &'a [Pack],
    /// Globs of paths of images that are never probed.
    pub unprobed: &'a [String],
    /// What is to tell the ends of calls.
    pub returns: Returns,
    /// Told how far the reading of an image is.
    pub progress: &'a mut dyn FnMut(&str, Progress),
}

/// Finds `patterns` in the images that `target` has mapped now.
///
/// # Errors
/// The first pattern whose image is mapped but has no such function, or none that can be probed.
pub fn resolve(
    line: &mut Line,
    target: &Target,
    patterns: &[Pattern],
    context: &mut Context<'_>,
) -> Result<Resolved, ResolveError> {
    let mut mapped = target.images(line)?;
    mapped.retain(|image| !is_unprobed(image, context.unprobed));
    if mapped.is_empty() {
        return Err(ResolveError::NoFile { pid: target.pid });
    }
    let fits = |image: &&MappedImage| patterns.iter().any(|pattern| means(pattern, image));
    let found = mapped.iter().filter(fits).count();
    if found > IMAGES_AT_ONCE {
        let pattern =
            patterns.iter().max_by_key(|pattern| mapped.iter().filter(|image| means(pattern, image)).count());
        return Err(ResolveError::TooManyImages {
            pid: target.pid,
            pattern: pattern.map(ToString::to_string).unwrap_or_default(),
            found,
        });
    }
    let mut resolved = Resolved::default();
    let mut leaving = Vec::new();
    let mut opened = Vec::new();
    let mut waiting: Vec<(&Pattern, bool)> = patterns.iter().map(|pattern| (pattern, false)).collect();
    for image in &mapped {
        let wanted: Vec<&Pattern> = patterns.iter().filter(|pattern| means(pattern, image)).collect();
        if wanted.is_empty() {
            continue;
        }
        let open = target.open_image(line, image)?;
        let mut hint = |pattern: &Pattern| elsewhere(line, target, &mapped, image, pattern);
        leaving.extend(search(&open, &wanted, context, &mut hint, &mut resolved)?);
        opened.push((image.index, open));
        for entry in &mut waiting {
            entry.1 |= wanted.iter().any(|pattern| std::ptr::eq(*pattern, entry.0));
        }
    }
    tails::follow(line, target, &mapped, opened, leaving, context, &mut resolved)?;
    resolved.pending =
        waiting.into_iter().filter(|(_, found)| !found).map(|(pattern, _)| pattern.clone()).collect();
    Ok(resolved)
}

/// Finds the interpreter of `target`; `None` where it has none mapped (yet).
///
/// # Errors
/// When it has one that cannot be measured.
pub fn resolve_python(
    line: &mut Line,
    target: &Target,
    patterns: &[PythonPattern],
    unprobed: &[String],
) -> Result<Option<(ResolvedPython, ResolvedImage)>, ResolveError> {
    let mut mapped = target.images(line)?;
    mapped.retain(|image| !is_unprobed(image, unprobed));
    // Coroutines of greenlet run on stacks that are moved about.
    let counts_only = mapped.iter().any(|image| file_name(&image.path).contains("greenlet"));
    // The interpreter is in the executable or in a library that is named after it.
    let likely = |image: &&MappedImage| image.executable || file_name(&image.path).contains("python");
    for image in mapped.iter().filter(likely).take(INTERPRETERS) {
        let open = target.open_image(line, image)?;
        let Ok(parsed) = Image::open(&open.file) else { continue };
        let Ok(table) = parsed.functions(&DebugFiles::none(), &mut |_| ()) else { continue };
        let found = parsed.python(&table);
        let found = found.map_err(|error| ResolveError::Python { path: open.path.clone(), error })?;
        let Some(interpreter) = found else { continue };
        let mut function = Function::of(&open, String::new());
        function.take(&open, interpreter.sites.entry.site.address, &interpreter.sites);
        function.sites.iter_mut().for_each(|site| site.cookie |= SITE_PYTHON);
        let resolved = ResolvedPython {
            every_call: interpreter.sees_every_call()
                || interpreter.has_perf_support() && perf_support(line, target),
            image: open.id,
            sites: function.sites,
            steppings: function.steppings,
            interpreter,
            patterns: patterns.to_vec(),
            counts_only,
        };
        return Ok(Some((resolved, ResolvedImage::of(&open, &parsed))));
    }
    Ok(None)
}

/// Was the interpreter started with the support for perf? It says so in its environment or on its command line, and writes
/// a file.
fn perf_support(line: &mut Line, target: &Target) -> bool {
    target.says(line, TargetFile::Environment, b"PYTHONPERFSUPPORT=1")
        || target.says(line, TargetFile::CommandLine, b"perf")
        || target.says(line, TargetFile::CommandLine, b"-Xperf")
        || target.has(line, TargetFile::PerfMap)
}

/// Has somebody said that this image is left alone?
fn is_unprobed(image: &MappedImage, unprobed: &[String]) -> bool {
    let path = image.path.trim_end_matches(" (deleted)");
    unprobed
        .iter()
        .any(|wanted| wanted == path || Glob::is_glob(wanted) && Glob::new(wanted).matches(path.chars()))
}

/// Is this the image that a pattern speaks of?
fn means(pattern: &Pattern, image: &MappedImage) -> bool {
    match pattern.image() {
        None => image.executable,
        Some(_) => pattern.matches_image(Path::new(image.path.trim_end_matches(" (deleted)"))),
    }
}

/// A person who forgot the library's name learns where the function is.
fn elsewhere(
    line: &mut Line,
    target: &Target,
    mapped: &[MappedImage],
    searched: &MappedImage,
    pattern: &Pattern,
) -> String {
    let Some(name) = pattern.name().filter(|_| pattern.image().is_none()) else { return String::new() };
    for image in mapped.iter().filter(|image| image.index != searched.index).take(IMAGES_FOR_HINT) {
        let Ok(open) = target.open_image(line, image) else { continue };
        let Ok(parsed) = Image::open(&open.file) else { continue };
        let Ok(functions) = parsed.functions(&DebugFiles::none(), &mut |_| ()) else { continue };
        if parsed.find(&functions, pattern).is_ok() {
            return format!("; it is in a library: write {}:{name}", file_name(&image.path));
        }
    }
    String::new()
}

/// Finds patterns in one image.
fn search(
    open: &OpenImage,
    patterns: &[&Pattern],
    context: &mut Context<'_>,
    hint: &mut dyn FnMut(&Pattern) -> String,
    resolved: &mut Resolved,
) -> Result<Vec<Leaving>, ResolveError> {
    let path = &open.path;
    let image_error = |error| ResolveError::Image { path: path.clone(), error };
    let image = Image::open(&open.file).map_err(image_error)?;
    let table = functions_of(open, &image, context)?;
    let mut tails = Tails::new(&image, &table, Followers::new());
    let mut leaving = Vec::new();
    let mut known = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for pattern in patterns {
        let found = image.find(&table, pattern).map_err(|error| ResolveError::Find {
            path: path.clone(),
            error,
            hint: hint(pattern) + &of_packs(&image, &table, context.packs),
        })?;
        let mut probed = false;
        let mut refusal = None;
        for function in found {
            // Two patterns may find the same range; it is measured once.
            let range = (function.start, function.end);
            if taken.contains(&range) {
                probed = true;
                continue;
            }
            let sites = match context.returns {
                Returns::Ret => tails.sites(&function),
                Returns::Uretprobe => image
                    .sites_by(&table, &function, Ends::AtReturnAddress)
                    .map(|sites| (sites, CallEnds::default())),
            };
            match sites {
                Ok((sites, whole)) => {
                    probed = true;
                    taken.insert(range);
                    let index = *known.entry(function.name.clone()).or_insert(resolved.functions.len());
                    if index == resolved.functions.len() {
                        resolved.functions.push(Function::of(open, function.name));
                    }
                    let measured = &mut resolved.functions[index];
                    measured.language = function.language.name();
                    measured.take(open, function.start, &sites);
                    leaving.extend(measured.end(index, open, whole));
                }
                Err(reason) => {
                    refusal.get_or_insert_with(|| reason.to_string());
                    resolved.refused.push(RefusedReport {
                        name: function.name,
                        image: path.clone(),
                        reason: reason.code().to_owned(),
                        text: reason.to_string(),
                    });
                }
            }
        }
        if let (false, Some(reason)) = (probed, refusal) {
            return Err(ResolveError::Refused { pattern: pattern.to_string(), path: path.clone(), reason });
        }
    }
    resolved.followers.push((open.id, tails.followers()));
    resolved.images.push(ResolvedImage::of(open, &image));
    Ok(leaving)
}

/// The functions of an image, with the names that its debug file and the packs know.
pub fn functions_of<S: ReadAt>(
    open: &OpenImage,
    image: &Image<S>,
    context: &mut Context<'_>,
) -> Result<FunctionTable, ResolveError> {
    let opener = |path: &Path| context.debug_dirs.file(path).map(edgelat_image::boxed);
    let mut debug_files = DebugFiles::new(&opener).packs(context.packs);
    for folder in context.debug_dirs.paths() {
        debug_files = debug_files.directory(folder);
    }
    let name = file_name(&open.path).to_owned();
    image
        .functions(&debug_files, &mut |progress| (context.progress)(&name, progress))
        .map_err(|error| ResolveError::Image { path: open.path.clone(), error })
}

/// Why packs did not help: they are for other builds, or for other code.
fn of_packs<S: ReadAt>(image: &Image<S>, table: &FunctionTable, packs: &[Pack]) -> String {
    if let Some(skipped) = table.skipped().iter().find(|skipped| skipped.origin == Origin::Pack) {
        return format!("; {}", skipped.error);
    }
    let build_id = image.build_id().map_or_else(|| "none".to_owned(), ToString::to_string);
    let mut images = packs.iter().flat_map(Pack::images).filter(|packed| packed.build_id() != build_id);
    match images.next() {
        Some(packed) => format!(
            "; the pack is for build {} of {}, and this is build {build_id}",
            packed.build_id(),
            packed.name()
        ),
        None => String::new(),
    }
}

impl Function {
    /// A function of an image, without ranges yet.
    fn of(open: &OpenImage, name: String) -> Self {
        Self {
            name,
            image_path: open.path.clone(),
            image: open.id,
            language: edgelat_image::Language::Native.name(),
            steppings: Steppings { entry_stepped: false, exit_stepped: false },
            until_tail_call: false,
            sites: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    /// Adds a range that begins at an address.
    fn take(&mut self, open: &OpenImage, start: u64, sites: &edgelat_image::FunctionSites) {
        self.steppings.entry_stepped |= sites.entry.site.stepping == Stepping::SingleStepped;
        let before = sites.entry.site.address.saturating_sub(start).min(u8::MAX.into()) as u8;
        self.sites.push(PlanSite { before, ..plan_site(&open.file, &sites.entry, false) });
        for exit in &sites.exits {
            self.steppings.exit_stepped |= exit.site.stepping == Stepping::SingleStepped;
            self.until_tail_call |= exit.site.kind == SiteKind::TailJump;
            self.sites.push(plan_site(&open.file, exit, true));
        }
    }
}

impl ResolvedImage {
    pub fn of<S: ReadAt>(open: &OpenImage, image: &Image<S>) -> Self {
        let build_id = image.build_id().zip(image.build_id_offset());
        Self { id: open.id, build_id: build_id.map(|(id, offset)| (offset, id.bytes().to_vec())) }
    }
}

/// A site as the guard takes it, without a function's number.
pub fn plan_site(file: &std::fs::File, site: &edgelat_image::ProbeSite, exit: bool) -> PlanSite {
    let mut cookie = 0;
    if let Some(condition) = site.site.condition {
        cookie |= SITE_CONDITIONAL | u64::from(condition & 15) << SITE_CONDITION_SHIFT;
    }
    if site.site.maybe {
        cookie |= SITE_MAYBE;
    }
    if site.site.goroutine {
        cookie |= SITE_GOROUTINE;
    }
    let mut code = [0; 4];
    // Fewer bytes at the end of the file; the guard compares as many as there are.
    let code_len = ReadAt::read_at(file, site.file_offset, &mut code).unwrap_or(0) as u8;
    // Not `ret imm16`, which takes arguments off the stack as well.
    if cfg!(target_arch = "x86_64") && exit && matches!(code, [0xc3, ..] | [0xf3, 0xc3, ..]) {
        cookie |= SITE_RETURN;
    }
    let stepped = site.site.stepping == Stepping::SingleStepped;
    PlanSite { offset: site.file_offset, cookie, exit, stepped, code, code_len, before: 0 }
}

/// The build-id of an open image in hexadecimal.
pub fn build_id_of(file: &impl ReadAt) -> Option<String> {
    Image::open(file).ok()?.build_id().map(ToString::to_string)
}
