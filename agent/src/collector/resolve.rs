//! Resolution of the user's patterns into functions with sites, which the guard can attach.
//!
//! A pattern without an image means the executable; `libfoo.so:name` means a mapped library. A
//! function that cannot be probed is a reported refusal; it is an error only if nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use edgelat_bpf::layout::{
    SITE_ABOVE_SHIFT, SITE_CONDITION_SHIFT, SITE_CONDITIONAL, SITE_GOROUTINE, SITE_MAYBE, SITE_PYTHON,
    SITE_RETURN, SITE_UNWOUND,
};
use edgelat_guard::Line;
use edgelat_guard::placement::TargetsOn;
use edgelat_guard::protocol::{ImageId, MappedImage, PlanSite, Returns};
use edgelat_image::python::Awaits;
use edgelat_image::{
    CallEnds, DebugFiles, Ends, Followers, FunctionTable, Glob, Image, Interpreter, Origin, Pack, Pattern,
    Progress, PythonPattern, ReadAt, SiteKind, Stepping, Tails,
};

use super::debug_dirs::DebugDirs;
use super::interpreters::Interpreters;
pub use super::missed::ResolveError;
use super::missed::Waiting;
use super::report::RefusedReport;
use super::tails::{self, Leaving};
use super::target::{OpenImage, Target, file_name};

/// Maximum number of images read for one target. Each takes up to seconds, in which all else waits.
pub const IMAGES_AT_ONCE: usize = 256;
/// Maximum number of images read to locate a function that was searched in the wrong image.
const IMAGES_FOR_HINT: usize = 64;
/// Maximum number of images searched for the interpreter of a process.
const INTERPRETERS: usize = 8;

/// Execution mode of the probed instructions, on which the cost of a function's probes depends.
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
    /// Source language.
    pub language: &'static str,
    /// Execution mode of its sites.
    pub steppings: Steppings,
    /// Some exits are jumps into another function, and what follows them is not measured.
    pub until_tail_call: bool,
    /// Inlined copies in other functions, whose calls no probe sees; `None` if unknown.
    pub inlined: Option<u32>,
    /// True if places are known at which exceptions leave the function.
    pub unwound: bool,
    /// Sites of the function; their cookies do not hold its number yet.
    pub sites: Vec<PlanSite>,
    /// Exits in other images, in functions that this function leaves to by a jump.
    pub elsewhere: Vec<(ImageId, PlanSite)>,
}

/// An image that functions were found in.
#[derive(Debug)]
pub struct ResolvedImage {
    /// The guard's number for it.
    pub id: ImageId,
    /// Its build-id.
    pub build_id: Option<Vec<u8>>,
    /// File offset of the build-id.
    pub build_id_offset: Option<u64>,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Functions to measure.
    pub functions: Vec<Function>,
    /// Their images.
    pub images: Vec<ResolvedImage>,
    /// Requested functions that cannot be probed.
    pub refused: Vec<RefusedReport>,
    /// Patterns whose image is not mapped (yet).
    pub pending: Vec<Pattern>,
    /// Failure of the first pattern that matched nothing: an error if nothing else is measured.
    pub missed: Option<ResolveError>,
    /// The interpreter whose functions are measured.
    pub python: Option<ResolvedPython>,
    /// Images that were searched.
    pub seen: Vec<ImageFile>,
    /// Functions of each image that other functions leave to by jumps.
    pub followers: Vec<(ImageId, Followers)>,
}

/// A Python interpreter and its requested functions.
#[derive(Debug)]
pub struct ResolvedPython {
    /// Image that holds the interpreter.
    pub image: ImageId,
    /// Entry and exits of the evaluation loop, without a function number.
    pub sites: Vec<PlanSite>,
    /// Execution mode of its sites.
    pub steppings: Steppings,
    /// The interpreter itself.
    pub interpreter: Interpreter,
    /// Requested functions.
    pub patterns: Vec<PythonPattern>,
    /// True if frames cannot be distinguished, because the process switches stacks.
    pub counts_only: bool,
    /// Calls that enter the evaluation loop: all, or only those from C.
    pub interpreters: Interpreters,
}

impl ResolvedPython {
    /// Layout of whole awaits, which are measured only if each resume is seen: a new object at the
    /// address of an object discarded without a resume would be taken for it.
    pub fn awaits(&self, targets_on: TargetsOn) -> Option<Awaits> {
        let each = self.interpreters.every_call() && !self.counts_only && targets_on == TargetsOn::Any;
        self.interpreter.layout.awaits.filter(|_| each)
    }
}

/// Device and inode of an image, as [`MappedImage::file`].
pub type ImageFile = (u32, u32, u64);

/// Inputs of the resolution besides patterns and target.
pub struct Context<'a> {
    /// Folders with debug files, besides the usual one.
    pub debug_dirs: &'a DebugDirs,
    /// Packs for stripped images.
    pub packs: &'a [Pack],
    /// Globs of paths of images that are never probed.
    pub unprobed: &'a [String],
    /// Images that were searched before.
    pub seen: &'a [ImageFile],
    /// Mechanism that detects the ends of calls.
    pub returns: Returns,
    /// True if debug data are read for inlined functions, which takes up to seconds.
    pub inlined: bool,
    /// Receives the progress of reading an image.
    pub progress: &'a mut dyn FnMut(&str, Progress),
}

/// Finds `patterns` in the images that `target` has mapped now.
///
/// # Errors
/// Fails if an image cannot be read. A pattern that matches nothing in its images is refused.
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
    let seen = context.seen;
    let fits = |image: &&MappedImage| {
        !seen.contains(&image.file) && patterns.iter().any(|pattern| means(pattern, image))
    };
    let fitting: Vec<&MappedImage> = mapped.iter().filter(fits).collect();
    let found = fitting.len();
    if found > IMAGES_AT_ONCE {
        let pattern =
            patterns.iter().max_by_key(|pattern| mapped.iter().filter(|image| means(pattern, image)).count());
        return Err(ResolveError::TooManyImages {
            pid: target.pid,
            pattern: pattern.map(ToString::to_string).unwrap_or_default(),
            found,
        });
    }
    let seen = fitting.iter().map(|image| image.file).collect();
    let mut resolved = Resolved { seen, ..Resolved::default() };
    let mut leaving = Vec::new();
    let mut opened = Vec::new();
    let mut waiting: Vec<(&Pattern, Waiting)> =
        patterns.iter().map(|pattern| (pattern, Waiting::NotMapped)).collect();
    for image in fitting {
        let wanted: Vec<&Pattern> = patterns.iter().filter(|pattern| means(pattern, image)).collect();
        let open = target.open_image(line, image)?;
        let mut hint = |pattern: &Pattern| elsewhere(line, target, &mapped, image, pattern);
        let mut missed = Vec::new();
        leaving.extend(search(&open, &wanted, context, &mut hint, &mut resolved, &mut missed)?);
        opened.push((image.index, open));
        for (pattern, state) in &mut waiting {
            let here = |wanted: &&Pattern| std::ptr::eq(*wanted, *pattern);
            let error = missed.iter().position(|(missed, _)| here(missed)).map(|at| missed.swap_remove(at).1);
            match (error, &state) {
                (Some(error), Waiting::NotMapped) => *state = Waiting::Missed(Box::new(error)),
                (None, _) if wanted.iter().any(here) => *state = Waiting::Found,
                _ => {}
            }
        }
    }
    tails::follow(line, target, &mapped, opened, leaving, context, &mut resolved)?;
    for (pattern, state) in waiting {
        match state {
            Waiting::Found => {}
            Waiting::NotMapped => resolved.pending.push(pattern.clone()),
            Waiting::Missed(error) => resolved.miss(pattern, *error),
        }
    }
    Ok(resolved)
}

/// Finds the interpreter of `target`; `None` if none is mapped (yet).
///
/// # Errors
/// Fails if the interpreter cannot be measured.
pub fn resolve_python(
    line: &mut Line,
    target: &Target,
    patterns: &[PythonPattern],
    unprobed: &[String],
) -> Result<Option<(ResolvedPython, ResolvedImage)>, ResolveError> {
    let mut mapped = target.images(line)?;
    mapped.retain(|image| !is_unprobed(image, unprobed));
    // greenlet moves the stacks of its coroutines.
    let counts_only = mapped.iter().any(|image| file_name(&image.path).contains("greenlet"));
    // The interpreter is in the executable or in a library named after it. Extension modules have
    // such names too, and a process maps many: `_json.cpython-313-x86_64-linux-gnu.so`.
    let likely = |image: &&MappedImage| {
        let name = file_name(&image.path);
        image.executable || name.contains("python") && !name.contains(".cpython-")
    };
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
        let mut interpreters = Interpreters::of(&interpreter, open.id);
        interpreters.look(line, target.id, &[target.pid], true);
        let resolved = ResolvedPython {
            interpreters,
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

/// Returns true if `unprobed` excludes the image from probing.
pub fn is_unprobed(image: &MappedImage, unprobed: &[String]) -> bool {
    let path = image.path.trim_end_matches(" (deleted)");
    unprobed
        .iter()
        .any(|wanted| wanted == path || Glob::is_glob(wanted) && Glob::new(wanted).matches(path.chars()))
}

/// Returns true if the pattern refers to the image.
pub fn means(pattern: &Pattern, image: &MappedImage) -> bool {
    match pattern.image() {
        None => image.executable,
        Some(_) => pattern.matches_image(Path::new(image.path.trim_end_matches(" (deleted)"))),
    }
}

/// Returns a hint that names the library of a function if the pattern lacks the library name.
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

/// Finds patterns in one image; patterns that match nothing there go to `missed`.
fn search<'p>(
    open: &OpenImage,
    patterns: &[&'p Pattern],
    context: &mut Context<'_>,
    hint: &mut dyn FnMut(&Pattern) -> String,
    resolved: &mut Resolved,
    missed: &mut Vec<(&'p Pattern, ResolveError)>,
) -> Result<Vec<Leaving>, ResolveError> {
    let path = &open.path;
    let image_error = |error| ResolveError::Image { path: path.clone(), error };
    let image = Image::open(&open.file).map_err(image_error)?;
    let unnamed = patterns.iter().any(|pattern| pattern.wants_unnamed());
    let table = functions_of(open, &image, context, unnamed, context.inlined)?;
    let mut tails = Tails::new(&image, &table, Followers::new());
    let mut leaving = Vec::new();
    let mut known = BTreeMap::new();
    let mut taken = BTreeSet::new();
    for &pattern in patterns {
        let found = match image.find(&table, pattern) {
            Ok(found) => found,
            Err(error) => {
                let hint = hint(pattern) + &of_packs(&image, &table, context.packs);
                missed.push((pattern, ResolveError::Find { path: path.clone(), error, hint }));
                continue;
            }
        };
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
                    // Ranges of one name share their copies.
                    measured.inlined = measured.inlined.max(function.inlined);
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
            let pattern_text = pattern.to_string();
            missed
                .push((pattern, ResolveError::Refused { pattern: pattern_text, path: path.clone(), reason }));
        }
    }
    resolved.followers.push((open.id, tails.followers()));
    resolved.images.push(ResolvedImage::of(open, &image));
    Ok(leaving)
}

/// Returns the functions of an image with the names from its debug file and the packs, and the
/// functions without a name if requested.
pub fn functions_of<S: ReadAt>(
    open: &OpenImage,
    image: &Image<S>,
    context: &mut Context<'_>,
    unnamed: bool,
    inlined: bool,
) -> Result<FunctionTable, ResolveError> {
    let opener = |path: &Path| context.debug_dirs.file(path).map(edgelat_image::boxed);
    let mut debug_files = DebugFiles::new(&opener)
        .packs(context.packs)
        .linked_from(open.on_disk())
        .unnamed(unnamed)
        .inlined(inlined);
    for folder in context.debug_dirs.paths() {
        debug_files = debug_files.directory(folder);
    }
    let name = file_name(&open.path).to_owned();
    image
        .functions(&debug_files, &mut |progress| (context.progress)(&name, progress))
        .map_err(|error| ResolveError::Image { path: open.path.clone(), error })
}

/// Explains why debug files and packs gave no name: they belong to other builds or to other code.
fn of_packs<S: ReadAt>(image: &Image<S>, table: &FunctionTable, packs: &[Pack]) -> String {
    if let Some(skipped) = table.skipped().iter().find(|skipped| skipped.origin == Origin::DebugFile) {
        let path = skipped.path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
        return format!("; {path}{}", skipped.error);
    }
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
            unwound: false,
            inlined: None,
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
        let build_id = image.build_id().map(|id| id.bytes().to_vec());
        Self { id: open.id, build_id, build_id_offset: image.build_id_offset() }
    }
}

/// Converts a site to the form that the guard takes, without a function number.
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
    if site.site.kind == SiteKind::Unwound {
        cookie |= SITE_UNWOUND;
    }
    cookie |= u64::from(site.site.above / 8) << SITE_ABOVE_SHIFT;
    let mut code = [0; 4];
    // Fewer bytes at the end of the file; the guard compares the bytes that are present.
    let code_len = ReadAt::read_at(file, site.file_offset, &mut code).unwrap_or(0) as u8;
    // Not `ret imm16`, which removes arguments from the stack as well.
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
