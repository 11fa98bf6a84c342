//! Prints as a Markdown table which share of the functions of images can be probed, and why the rest cannot.
//!
//! ```text
//! cargo run --release -p edgelat-image --example probeable_share -- [--debug DIRECTORY] IMAGE...
//! ```
//!
//! Debug files are looked for by build-id below `/usr/lib/debug` and below each `DIRECTORY/usr/lib/debug`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use edgelat_image::{DebugFiles, Image, Refusal, Stepping, boxed};

/// What was counted in one image.
#[derive(Default)]
struct Count {
    functions: usize,
    probeable: usize,
    /// Entries that the kernel emulates.
    emulated: usize,
    /// Functions with a tail jump among their exits.
    until_tail_call: usize,
    exits: usize,
    /// Refusals by code, those of the code itself and those of the kind of symbol.
    refused: BTreeMap<&'static str, usize>,
}

fn count(path: &Path, debug: &DebugFiles<'_>) -> Result<(Count, String), Box<dyn std::error::Error>> {
    let image = Image::open(File::open(path)?)?;
    let functions = image.functions(debug, &mut |_| ())?;
    let mut count = Count::default();
    for function in functions.iter() {
        match image.sites(&functions, &function) {
            Ok(sites) => {
                count.probeable += 1;
                count.exits += sites.exits.len();
                count.emulated += usize::from(sites.entry.site.stepping == Stepping::Emulated);
                let tail = sites.exits.iter().any(|exit| exit.site.until_tail_call());
                count.until_tail_call += usize::from(tail);
            }
            // No code of the function's own: neither a function that can be probed nor one that cannot.
            Err(Refusal::IfuncResolver) => continue,
            Err(refusal) => *count.refused.entry(refusal.code()).or_default() += 1,
        }
        count.functions += 1;
    }
    let build_id = image.build_id().map(ToString::to_string).unwrap_or_default();
    Ok((count, format!("{} `{}`", image.arch(), build_id.get(..12).unwrap_or(&build_id))))
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

#[expect(clippy::print_stderr, reason = "an example reports on the terminal")]
fn main() -> ExitCode {
    let open = |path: &Path| File::open(path).map(boxed);
    let mut debug = DebugFiles::new(&open);
    let mut images = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument != "--debug" {
            images.push(argument);
        } else if let Some(directory) = arguments.next() {
            debug = debug.directory(Path::new(&directory).join("usr/lib/debug"));
        }
    }
    if images.is_empty() {
        eprintln!("usage: probeable_share [--debug DIRECTORY] IMAGE...");
        return ExitCode::from(2);
    }
    println!(
        "| image | arch, build-id | functions | probeable | entry emulated | until tail call | exits each | refused |"
    );
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |");
    let mut status = ExitCode::SUCCESS;
    for path in images {
        let name =
            Path::new(&path).file_name().map_or(path.clone(), |name| name.to_string_lossy().into_owned());
        match count(Path::new(&path), &debug) {
            Ok((count, image)) => {
                let mut refused: Vec<_> = count.refused.iter().collect();
                refused.sort_by_key(|(code, number)| (std::cmp::Reverse(**number), **code));
                let refused: Vec<_> =
                    refused.iter().map(|(code, number)| format!("{code} {number}")).collect();
                println!(
                    "| {name} | {image} | {} | {} | {} | {} | {:.2} | {} |",
                    count.functions,
                    percent(count.probeable, count.functions),
                    percent(count.emulated, count.probeable),
                    percent(count.until_tail_call, count.probeable),
                    count.exits as f64 / count.probeable.max(1) as f64,
                    refused.join(", "),
                );
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                status = ExitCode::FAILURE;
            }
        }
    }
    status
}
