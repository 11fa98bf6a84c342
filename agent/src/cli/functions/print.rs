//! The list as a table for people, or as JSON lines for programs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use edgelat_image::{CallEnds, Function, FunctionSites, Go, Language, Origin, ProbeSite, Refusal, Stepping};
use edgelat_sites::Site;
use serde::Serialize;

use crate::{
    cli::output::{PrintError, Style},
    collector::target::file_name,
};

/// Columns for `yes` or the code of a refusal.
const PROBE_COLUMNS: usize = 21;

/// Prints functions as they come, and counts them.
pub(super) struct Printer<'o> {
    out: &'o mut dyn Write,
    json: bool,
    style: Style,
    /// Columns for the file name of the image, if there are several images.
    image_columns: Option<usize>,
    path: String,
    build_id: Option<String>,
    language_version: Option<String>,
    /// Notes about the images and the process.
    notes: Vec<String>,
    functions: u64,
    probeable: u64,
    /// Functions whose calls are measured to the end, as far as this image shows.
    whole: u64,
    refused: BTreeMap<&'static str, u64>,
    /// True if some function is also inlined in others.
    inlined: bool,
}

/// One line of `functions --json`.
#[derive(Serialize)]
struct FunctionLine<'a> {
    name: &'a str,
    linkage_name: &'a str,
    aliases: &'a [String],
    image: &'a str,
    build_id: Option<&'a str>,
    start: u64,
    end: u64,
    size: u64,
    probeable: bool,
    reason: Option<&'static str>,
    reason_text: Option<String>,
    sites: Option<SitesLine<'a>>,
    origin: &'static str,
    language: &'static str,
    language_version: Option<&'a str>,
    /// Inlined copies in other functions; `None` if debug data lack this information.
    inlined_copies: Option<u32>,
}

/// Sites of the probes, as file offsets.
#[derive(Serialize)]
struct SitesLine<'a> {
    entry: u64,
    exits: Vec<u64>,
    /// Kind of each exit.
    kinds: Vec<&'static str>,
    /// Kernel's handling of the instruction.
    stepping: OfSites<&'static str>,
    /// For a single-stepped site, the reason that it is not on another instruction.
    why_stepped: OfSites<Option<&'static str>>,
    /// Bytes by which the stack pointer is below that of the first instruction.
    above: OfSites<u16>,
    /// Instructions excluded from the time of a call: before the entry, and at most after an exit.
    left_out: OfSites<u8>,
    /// True if some calls are measured up to a jump.
    until_tail_call: bool,
    /// Exits of the functions of this image in which it continues after a jump.
    exits_of_callees: Vec<u64>,
    /// Sites where an exception or panic leaves.
    exits_by_exception: Vec<u64>,
    /// Functions in which it continues after a jump, known by name alone.
    continues_in: Vec<&'a str>,
}

/// A property of each site.
#[derive(Serialize)]
struct OfSites<T> {
    entry: T,
    exits: Vec<T>,
}

impl<T> OfSites<T> {
    fn new(entry: &ProbeSite, exits: &[&ProbeSite], of: impl Fn(&Site) -> T) -> Self {
        Self { entry: of(&entry.site), exits: exits.iter().map(|exit| of(&exit.site)).collect() }
    }
}

impl<'o> Printer<'o> {
    pub(super) fn new(out: &'o mut dyn Write, json: bool) -> Self {
        Self {
            out,
            json,
            style: Style::of_stdout(),
            image_columns: None,
            path: String::new(),
            build_id: None,
            language_version: None,
            notes: Vec::new(),
            functions: 0,
            probeable: 0,
            whole: 0,
            refused: BTreeMap::new(),
            inlined: false,
        }
    }

    /// Announces several images, whose longest file name has this many characters.
    pub(super) fn images(&mut self, columns: usize) {
        self.image_columns = Some(columns.max("IMAGE".len()));
    }

    /// Begins the functions of this image.
    pub(super) fn begin(&mut self, path: &str, build_id: Option<&str>, go: Option<&Go>, origins: &[Origin]) {
        self.path = path.to_string();
        self.build_id = build_id.map(str::to_string);
        self.language_version = go.and_then(|go| go.version.clone());
        let mut image = format!("{}: ", file_name(path));
        if let Some(go) = go {
            image.push_str(&format!("{go}, "));
        }
        let origins: Vec<&str> = origins.iter().map(|origin| origin.name()).collect();
        match origins.as_slice() {
            [] => image.push_str("no names"),
            origins => image.push_str(&format!("names from {}", origins.join(", "))),
        }
        self.note(image);
    }

    /// Adds a note below the table.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Prints a function. `why` returns the reasons for single-stepped sites, by address.
    pub(super) fn function(
        &mut self,
        function: &Function,
        sites: &Result<(FunctionSites, CallEnds), Refusal>,
        why: &dyn Fn() -> Vec<(u64, &'static str)>,
    ) -> Result<(), PrintError> {
        let first = self.functions == 0;
        self.functions += 1;
        match sites {
            Ok((_, ends)) => {
                self.probeable += 1;
                self.whole += u64::from(ends.open.is_empty());
            }
            Err(refusal) => *self.refused.entry(refusal.code()).or_insert(0) += 1,
        }
        if self.json {
            return self.line(function, sites, why);
        }
        if first {
            self.row("ADDRESS", "SIZE", "PROBE", "IMAGE", "FUNCTION", Style::bold)?;
        }
        let (probe, paint): (_, fn(Style, &str) -> String) = match sites {
            Ok(_) => ("yes", Style::green),
            Err(refusal) => (refusal.code(), Style::yellow),
        };
        let address = format!("0x{:x}", function.start);
        let size = size(function).to_string();
        // Cloned because the row borrows all of the printer.
        let image = file_name(&self.path).to_string();
        let copies = function.inlined.filter(|copies| *copies > 0);
        self.inlined |= copies.is_some();
        let copies = copies.map(|copies| format!("  +{copies} inlined")).unwrap_or_default();
        self.row(&address, &size, probe, &image, &format!("{}{copies}", function.name), paint)
    }

    fn row(
        &mut self,
        address: &str,
        size: &str,
        probe: &str,
        image: &str,
        name: &str,
        paint: fn(Style, &str) -> String,
    ) -> Result<(), PrintError> {
        // Padded before it is painted, because colours have no width.
        let probe = paint(self.style, &format!("{probe:<PROBE_COLUMNS$}"));
        write!(self.out, "{address:>12} {size:>8}  {probe}  ")?;
        if let Some(columns) = self.image_columns {
            write!(self.out, "{image:<columns$}  ")?;
        }
        Ok(writeln!(self.out, "{name}")?)
    }

    fn line(
        &mut self,
        function: &Function,
        sites: &Result<(FunctionSites, CallEnds), Refusal>,
        why: &dyn Fn() -> Vec<(u64, &'static str)>,
    ) -> Result<(), PrintError> {
        let refusal = sites.as_ref().err();
        let line = FunctionLine {
            name: &function.name,
            linkage_name: &function.linkage_name,
            aliases: &function.aliases,
            image: &self.path,
            build_id: self.build_id.as_deref(),
            start: function.start,
            end: function.end,
            size: size(function),
            probeable: sites.is_ok(),
            reason: refusal.map(Refusal::code),
            reason_text: refusal.map(ToString::to_string),
            sites: sites.as_ref().ok().map(|(sites, ends)| sites_line(sites, ends, why)),
            origin: function.origin.name(),
            language: function.language.name(),
            language_version: match function.language {
                Language::Native => None,
                Language::Go | Language::GoAssembly => self.language_version.as_deref(),
            },
            inlined_copies: function.inlined,
        };
        serde_json::to_writer(&mut *self.out, &line).map_err(io::Error::from)?;
        Ok(self.out.write_all(b"\n")?)
    }

    /// Writes the summary of a table.
    pub(super) fn finish(self) -> Result<(), PrintError> {
        if self.json {
            return Ok(());
        }
        let functions = if self.functions == 1 { "function" } else { "functions" };
        let share = self.probeable as f64 * 100.0 / self.functions.max(1) as f64;
        let summary =
            format!("{} {functions}, {} can be probed = {share:.1} %", self.functions, self.probeable);
        let whole = self.whole as f64 * 100.0 / self.probeable.max(1) as f64;
        let summary = format!("{summary}, {} of them to the end of each call = {whole:.1} %", self.whole);
        writeln!(self.out, "\n{}", self.style.bold(&summary))?;
        let mut refused: Vec<_> = self.refused.into_iter().collect();
        refused.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (code, count) in refused {
            writeln!(self.out, "{count:>9}  {code}")?;
        }
        let inlined = self.inlined.then(|| {
            "+N inlined: the function also stands at N places within others, and a probe sees no call of those".to_owned()
        });
        for note in inlined.into_iter().chain(self.notes) {
            writeln!(self.out, "{}", self.style.dim(&note))?;
        }
        Ok(())
    }
}

fn sites_line<'a>(
    sites: &FunctionSites,
    ends: &'a CallEnds,
    why: &dyn Fn() -> Vec<(u64, &'static str)>,
) -> SitesLine<'a> {
    let exits = own(sites, ends);
    let is_stepped = |site: &Site| site.stepping == Stepping::SingleStepped;
    let any = is_stepped(&sites.entry.site) || exits.iter().any(|exit| is_stepped(&exit.site));
    // The reasons require a second search of the function.
    let reasons = if any { why() } else { Vec::new() };
    let why = |site: &Site| {
        let known = reasons.iter().filter(|_| is_stepped(site));
        known.copied().find(|(address, _)| *address == site.address).map(|(_, reason)| reason)
    };
    SitesLine {
        entry: sites.entry.file_offset,
        exits: exits.iter().map(|exit| exit.file_offset).collect(),
        kinds: exits.iter().map(|exit| exit.site.kind.name()).collect(),
        stepping: OfSites::new(&sites.entry, &exits, |site| stepping(site.stepping)),
        why_stepped: OfSites::new(&sites.entry, &exits, why),
        above: OfSites::new(&sites.entry, &exits, |site| site.above),
        left_out: OfSites::new(&sites.entry, &exits, |site| site.left_out),
        until_tail_call: !ends.open.is_empty(),
        exits_of_callees: ends.exits.iter().map(|exit| exit.file_offset).collect(),
        exits_by_exception: ends.unwound.iter().map(|exit| exit.file_offset).collect(),
        continues_in: ends.named.iter().map(|(name, _)| name.as_str()).collect(),
    }
}

/// Returns the exits in its own code at which calls end or their measurement stops, by address.
fn own<'s>(sites: &'s FunctionSites, ends: &'s CallEnds) -> Vec<&'s ProbeSite> {
    let mut exits: Vec<_> = sites.exits.iter().chain(&ends.again).chain(&ends.open).collect();
    exits.sort_unstable_by_key(|exit| exit.site.address);
    exits
}

/// Returns the size of a function in bytes, with its cold parts.
fn size(function: &Function) -> u64 {
    let parts = function.cold.iter().map(|part| part.end.saturating_sub(part.start));
    parts.fold(function.end.saturating_sub(function.start), u64::saturating_add)
}

const fn stepping(stepping: Stepping) -> &'static str {
    match stepping {
        Stepping::Emulated => "emulated",
        Stepping::SingleStepped => "single-stepped",
    }
}
