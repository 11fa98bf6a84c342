//! `docs/BENCHMARKS.md`, written by the run.

use std::fmt::Write as _;

use crate::attach::{self, Phase};
use crate::cost::{Contender, Table};
use crate::empty::{Way, Work};
use crate::machine::Machine;
use crate::service;
use crate::size::Sizes;
use crate::snapshot;
use crate::stats::Spread;
use crate::tools::{Memory, Tool};

/// All results; a failed part has a reason instead.
#[derive(Debug)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// Names and versions of the peers.
    pub(crate) peers: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) minutes: f64,
    pub(crate) cost: Vec<Table>,
    pub(crate) attach: Vec<attach::Row>,
    pub(crate) snapshot: Result<snapshot::Outcome, String>,
    pub(crate) service: Result<service::Outcome, String>,
    pub(crate) size: Result<Sizes, String>,
}

/// The page.
pub(crate) fn page(results: &Results) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    _ = head(&mut page, results);
    if !results.cost.is_empty() {
        _ = cost(&mut page, results);
    }
    if !results.attach.is_empty() {
        _ = attach(&mut page, results);
        _ = memory(&mut page, results);
    }
    _ = snapshot(&mut page, results);
    _ = service(&mut page, results);
    _ = size(&mut page, results);
    page
}

type Written = std::fmt::Result;

fn head(page: &mut String, results: &Results) -> Written {
    let Results { machine, peers, quick, minutes, .. } = results;
    writeln!(page, "# Benchmarks\n\nWritten by `make bench`; do not edit by hand.\n")?;
    writeln!(page, "| | |\n| --- | --- |")?;
    writeln!(page, "| date | {} |", machine.date)?;
    let kind = if machine.virtualised { "virtual machine" } else { "bare metal" };
    writeln!(
        page,
        "| machine | {}, {} CPUs, {:.0} GiB, {kind} |",
        machine.cpu, machine.cpus, machine.memory_gib
    )?;
    writeln!(page, "| kernel | Linux {} |", machine.kernel)?;
    writeln!(page, "| load before the run | {} |", machine.load)?;
    if !machine.mitigations.is_empty() {
        writeln!(page, "| mitigations | {} |", machine.mitigations.join("; "))?;
    }
    let peers =
        if peers.is_empty() { "none: they could not be set up here".into() } else { peers.join(", ") };
    writeln!(page, "| peers | {peers} |")?;
    let effort = if *quick { "quick run (`BENCH_QUICK=1`)" } else { "full run" };
    writeln!(page, "| effort | {effort}, {minutes:.0} minutes |\n")?;
    writeln!(
        page,
        "Figures are medians, with the 10th and 90th percentile of the rounds in brackets. Ratios are taken within a round \
         and then ranked. Absolute times are this machine's; ratios between probes of the same kind carry over to others.\n"
    )
}

fn cost(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## CPU time that probes add to a call\n")?;
    writeln!(
        page,
        "Every contender has its own target process on its own copy of the program; all are attached at once, and batches \
         of calls go round in turn. *Added* is the CPU time of a call less that of the same call without probes; *over \
         empty* is what is left when the empty programs on the same sites by the same kind of probe are taken away: the \
         cost of measuring itself. *Counted* compares the calls made with the calls reported at the end.\n"
    )?;
    for table in &results.cost {
        one_cost(page, table)?;
    }
    versus(page, results)
}

fn one_cost(page: &mut String, table: &Table) -> Written {
    let function = &table.function;
    writeln!(page, "### {}\n", table.subject.title)?;
    let unprobed = table.added(Contender::Unprobed).map_or("?".into(), |spread| spread.show(1));
    writeln!(
        page,
        "First instruction: {}. edgelat's entry site: +{} bytes; exit sites: {}. A call without probes: {unprobed} ns.\n",
        function.first_instruction(),
        function.entry - function.start,
        function.exits.len(),
    )?;
    writeln!(
        page,
        "| contender | added, ns | over empty, ns | ratio to empty | counted |\n| --- | --: | --: | --: | --- |"
    )?;
    for outcome in &table.outcomes {
        let contender = outcome.contender;
        if contender == Contender::Unprobed {
            continue;
        }
        if let Some(reason) = &outcome.failure {
            writeln!(page, "| {} | {} | | | |", contender.label(), escape(reason))?;
            continue;
        }
        let show =
            |spread: Option<Spread>, decimals| spread.map_or(String::new(), |spread| spread.show(decimals));
        let empty = contender.empty();
        let counted = match outcome.calls {
            None => String::new(),
            Some((made, Some(counted))) if made == counted => format!("all {made}"),
            Some((made, Some(counted))) => format!("**{counted} of {made}**"),
            Some((made, None)) => format!("**no figure for {made}**"),
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {counted} |",
            contender.label(),
            show(table.added(contender), 0),
            show(empty.and_then(|empty| table.over(contender, empty)), 0),
            show(empty.and_then(|empty| table.ratio(contender, empty)), 3),
        )?;
    }
    writeln!(page)
}

const PEERS: [Tool; 3] = [Tool::Bpftrace, Tool::Bcc, Tool::LibbpfTools];
const BY_RETURN: Tool = Tool::Edgelat { route: "uprobe_multi", returns: "uretprobe" };
const BY_RET: Tool = Tool::Edgelat { route: "uprobe_multi", returns: "ret" };

fn versus(page: &mut String, results: &Results) -> Written {
    writeln!(page, "### Peers as a multiple of edgelat\n")?;
    writeln!(
        page,
        "What a peer adds to a call divided by what edgelat adds; above 1 edgelat is cheaper. The peers hijack the return \
         address, as `--returns uretprobe` does, so the first table compares like with like. The default, `--returns ret`, \
         leaves the target's stack alone, which the peers have nothing like: it is safe under exceptions, unwinding, \
         coroutines and in Go, and it pays for a single-stepped `ret`.\n"
    )?;
    for (title, ours) in [("`--returns uretprobe`", BY_RETURN), ("`--returns ret` (default)", BY_RET)] {
        write!(page, "| {title} |")?;
        for table in &results.cost {
            write!(page, " {} |", table.subject.title)?;
        }
        write!(page, "\n| --- |")?;
        for _ in &results.cost {
            write!(page, " --: |")?;
        }
        for peer in PEERS {
            write!(page, "\n| {} |", peer.label())?;
            for table in &results.cost {
                let ratio = table.ratio(Contender::Tool(peer), Contender::Tool(ours));
                write!(page, " {} |", ratio.map_or("-".into(), |ratio| ratio.show(2)))?;
            }
        }
        writeln!(page, "\n")?;
    }
    behind(page, results)
}

/// States in words where a peer is ahead, so that it is not hidden.
fn behind(page: &mut String, results: &Results) -> Written {
    let single_step = results.cost.iter().find_map(|table| {
        let empty = |way| table.added(Contender::Programs(way, Work::Nothing));
        Some((empty(Way::MultiSites)?.median, empty(Way::MultiReturn)?.median))
    });
    let mut ahead = Vec::new();
    let mut compared = 0;
    for table in &results.cost {
        for (ours, how) in [(BY_RETURN, "--returns uretprobe"), (BY_RET, "--returns ret")] {
            for peer in PEERS {
                let ratio = table.ratio(Contender::Tool(peer), Contender::Tool(ours));
                compared += usize::from(ratio.is_some());
                if let Some(ratio) = ratio.filter(|ratio| ratio.median < 1.0) {
                    ahead.push(format!(
                        "- {}, `{how}`: {} adds {:.2} times what edgelat does.",
                        table.subject.title,
                        peer.label(),
                        ratio.median
                    ));
                }
            }
        }
    }
    if compared == 0 {
        return Ok(());
    }
    if ahead.is_empty() {
        return writeln!(page, "No peer is ahead on any row.\n");
    }
    writeln!(page, "Where a peer is ahead:\n\n{}\n", ahead.join("\n"))?;
    if let Some((sites, returns)) = single_step {
        writeln!(
            page,
            "Under `--returns ret` that is the kernel's single step of `ret`: already with empty programs, exit sites cost \
             {sites:.0} ns a call where return probes cost {returns:.0} ns (first table). The kernel emulates `push`, `nop`, \
             `jmp`, `jcc` and `call` without a step, but not `ret`, and in a virtual machine the step's debug trap is many \
             times dearer than on bare metal.\n"
        )?;
    }
    Ok(())
}

fn attach(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## Time to attach and detach\n")?;
    writeln!(
        page,
        "Seen from outside, in ms. *Attach*: from starting the program to the last breakpoint in the target's text (and the \
         program's own word that it is ready); reading the image, compiling and loading are in it. \
         *Detach*: from Ctrl-C to the last breakpoint gone / to the end of the program. For the empty programs: loading and \
         creating the links / closing them.\n"
    )?;
    let sizes = attach::SIZES.iter().map(|&size| format!(" {} |", functions(size))).collect::<String>();
    for (title, show) in [
        ("attach", (|cell: &attach::Cell| phase(&cell.attach)) as fn(&attach::Cell) -> String),
        ("detach: text restored / ended", |cell| match (&cell.restore, &cell.end) {
            (Phase::Took(_), _) | (_, Phase::Took(_)) => {
                format!("{} / {}", phase(&cell.restore), phase(&cell.end))
            }
            _ => phase(&cell.end),
        }),
    ] {
        writeln!(page, "| {title} |{sizes}\n| --- |{}", " --: |".repeat(attach::SIZES.len()))?;
        for row in &results.attach {
            let cells: String = row.cells.iter().map(|cell| format!(" {} |", show(cell))).collect();
            writeln!(page, "| {} |{cells}", row.contender.label())?;
        }
        writeln!(page)?;
    }
    let phases: [(&str, Figure); 3] = [
        ("attach", |cell| took(&cell.attach)),
        ("text restored", |cell| took(&cell.restore)),
        ("end", |cell| took(&cell.end)),
    ];
    for (what, of) in phases {
        quicker(page, results, what, "ms", of)?;
    }
    writeln!(
        page,
        "\nWhat edgelat does and the others do not: it asks the kernel by trials what it can do, decodes each function to \
         find its returns, has the verifier pass two programs that keep an account of every call, and with `ret` it sets \
         and removes at least two breakpoints a function where they set one and hijack the return address.\n"
    )
}

fn functions(number: usize) -> String {
    if number == 1 { "1 function".into() } else { format!("{number} functions") }
}

/// A figure of a cell, if present.
type Figure = fn(&attach::Cell) -> Option<f64>;

fn took(phase: &Phase) -> Option<f64> {
    match phase {
        Phase::Took(spread) => Some(spread.median),
        _ => None,
    }
}

/// Names every peer with a smaller figure than edgelat on its default route.
fn quicker(page: &mut String, results: &Results, what: &str, unit: &str, of: Figure) -> Written {
    let rows = &results.attach;
    let Some(ours) = rows.iter().find(|row| row.contender == attach::Contender::Tool(BY_RET)) else {
        return Ok(());
    };
    for peer in PEERS {
        let Some(theirs) = rows.iter().find(|row| row.contender == attach::Contender::Tool(peer)) else {
            continue;
        };
        for ((size, ours), theirs) in attach::SIZES.iter().zip(&ours.cells).zip(&theirs.cells) {
            if let (Some(ours), Some(theirs)) = (of(ours), of(theirs))
                && theirs < ours
            {
                writeln!(
                    page,
                    "- {} is ahead of edgelat's default, {what}, {}: {theirs:.1} {unit}, not {ours:.1}.",
                    peer.label(),
                    functions(*size)
                )?;
            }
        }
    }
    Ok(())
}

fn phase(phase: &Phase) -> String {
    match phase {
        Phase::Took(spread) => spread.show(0),
        Phase::DidNotFinish(limit) => format!("did not finish in {} s", limit.as_secs()),
        Phase::Not(reason) => escape(reason),
    }
}

fn snapshot(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## Snapshot of {} functions\n", snapshot::FUNCTIONS)?;
    let outcome = match &results.snapshot {
        Ok(outcome) => outcome,
        Err(reason) => return writeln!(page, "Not measured: {}\n", escape(reason)),
    };
    let show = |spread: &Option<Spread>| spread.map_or("-".into(), |spread| spread.show(3));
    writeln!(page, "| on {} CPUs | ms of CPU |\n| --- | --: |", outcome.lanes)?;
    writeln!(page, "| all rows read from mapped memory | {} |", show(&outcome.read_all))?;
    writeln!(
        page,
        "| only the entry counts, which tell the rows that need no reading | {} |",
        show(&outcome.find_moved)
    )?;
    match &outcome.watch {
        Ok(spread) => {
            writeln!(
                page,
                "| one interval of `watch --json`, an idle target, printing included | {} |",
                spread.show(2)
            )?;
        }
        Err(reason) => writeln!(page, "| one interval of `watch --json` | {} |", escape(reason))?,
    }
    writeln!(page)
}

fn service(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## The service, with {} functions of one target\n", service::FUNCTIONS)?;
    let outcome = match &results.service {
        Ok(outcome) => outcome,
        Err(reason) => return writeln!(page, "Not measured: {}\n", escape(reason)),
    };
    let show = |spread: &Option<Spread>| spread.map_or("-".into(), |spread| spread.show(1));
    writeln!(page, "| `edgelat run`, guard and collector together | |\n| --- | --: |")?;
    writeln!(
        page,
        "| SIGSEGV of the target: the guard is told .. last probe gone, ms | {} |",
        show(&outcome.gone)
    )?;
    writeln!(
        page,
        "| SIGSEGV of the target: sent .. the log says that the probes are gone, ms | {} |",
        show(&outcome.told)
    )?;
    let memory = &outcome.memory;
    writeln!(page, "| resident (proportional share), MiB | {:.1} |", mib(memory.resident))?;
    writeln!(page, "| highest resident size, MiB | {:.1} |", mib(memory.peak))?;
    writeln!(page, "| kernel memory of BPF maps, MiB | {:.2} |", mib(memory.maps))?;
    writeln!(
        page,
        "| CPU over 10 s, interval of 10 s, idle target, % of one CPU | {:.2} |\n",
        outcome.idle_percent
    )
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn memory(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## Memory\n")?;
    writeln!(
        page,
        "MiB while attached: resident (proportional share, all processes) / highest resident size / kernel memory of BPF maps.\n"
    )?;
    let sizes = attach::SIZES.iter().map(|&size| format!(" {} |", functions(size))).collect::<String>();
    writeln!(page, "| |{sizes}\n| --- |{}", " --: |".repeat(attach::SIZES.len()))?;
    for row in results.attach.iter().filter(|row| matches!(row.contender, attach::Contender::Tool(_))) {
        let show = |cell: &attach::Cell| match cell.memory {
            Some(Memory { resident, peak, maps }) => {
                format!(" {:.1} / {:.1} / {:.2} |", mib(resident), mib(peak), mib(maps))
            }
            None => " - |".into(),
        };
        let cells: String = row.cells.iter().map(show).collect();
        writeln!(page, "| {} |{cells}", row.contender.label())?;
    }
    writeln!(page)?;
    let resident = |cell: &attach::Cell| cell.memory.map(|memory| mib(memory.resident));
    quicker(page, results, "resident memory", "MiB", resident)
}

fn size(page: &mut String, results: &Results) -> Written {
    writeln!(page, "## Binary size\n")?;
    let sizes = match &results.size {
        Ok(sizes) => sizes,
        Err(reason) => return writeln!(page, "Not measured: {}", escape(reason)),
    };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let share = |bytes: u64| 100.0 * bytes as f64 / sizes.stripped as f64;
    writeln!(
        page,
        "Static musl, x86_64, stripped: **{} bytes** ({:.0} KiB). By crate, from the symbols of the same build before \
         stripping; generic code counts for the crate that wrote it.\n",
        sizes.stripped,
        kib(sizes.stripped)
    )?;
    writeln!(page, "| part | KiB | share |\n| --- | --: | --: |")?;
    // There are many small crates, which show nothing.
    let (large, small): (Vec<_>, Vec<_>) = sizes.parts.iter().partition(|(_, size)| share(*size) >= 0.3);
    for (name, size) in large {
        writeln!(page, "| {name} | {:.1} | {:.1} % |", kib(*size), share(*size))?;
    }
    let others: u64 = small.iter().map(|(_, size)| size).sum();
    if others > 0 {
        writeln!(page, "| {} smaller ones | {:.1} | {:.1} % |", small.len(), kib(others), share(others))?;
    }
    writeln!(page, "| unwind tables | {:.1} | {:.1} % |", kib(sizes.unwind), share(sizes.unwind))?;
    let rest = sizes.rest();
    writeln!(
        page,
        "| constants without a name (the BPF object is {:.1} KiB of them), headers | {:.1} | {:.1} % |",
        kib(sizes.bpf_object),
        kib(rest),
        share(rest)
    )
}

/// A reason may contain any output of a program.
fn escape(text: &str) -> String {
    text.replace('|', "\\|").chars().take(120).collect()
}
