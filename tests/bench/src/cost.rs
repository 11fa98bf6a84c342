//! CPU time that a probe pair adds to a call.
//!
//! Every contender has its own target process with its own copy of the program, and all are
//! attached at the same time. In a round each target makes a batch of calls, one after the other,
//! in an order that rotates between rounds. A contender's cost is its target's time minus that of
//! the target without probes *in the same round*. So a slower minute of the machine is slower for
//! all of them.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::empty::{Empty, Way, Work};
use crate::error::Error;
use crate::sites::{self, Function};
use crate::stats::Spread;
use crate::target::{Programs, Target};
use crate::tools::{Choice, Installed, Memory, Running, Tool};

/// Extent of the measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Number of fresh starts: the placement of pages and hash slots is random, so it is averaged
    /// too.
    pub(crate) generations: usize,
    /// Rounds of each generation.
    pub(crate) rounds: usize,
    /// Length of a batch.
    pub(crate) batch: Duration,
}

/// A function whose calls are timed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject {
    /// Name in the tables.
    pub(crate) title: &'static str,
    /// Name that edgelat gets.
    name: &'static str,
    /// Its required first instruction; empty if the compiler may choose.
    start: &'static str,
    language: Language,
}

/// Language of the function, which determines its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    C,
    Rust,
    Go,
}

/// All subjects.
pub(crate) const SUBJECTS: [Subject; 8] = [
    Subject { title: "C, starts with push", name: "starts_with_push", start: "push", language: Language::C },
    Subject {
        title: "C, starts with endbr64",
        name: "starts_with_endbr64",
        start: "endbr64",
        language: Language::C,
    },
    Subject { title: "C, starts with sub", name: "starts_with_sub", start: "sub", language: Language::C },
    Subject { title: "C, ends with a branch", name: "ends_with_a_branch", start: "", language: Language::C },
    Subject { title: "C, leaves by a jump", name: "leaves_by_a_jump", start: "", language: Language::C },
    Subject { title: "Rust", name: "rust_calls::packets::checksum", start: "", language: Language::Rust },
    Subject { title: "Go, with a stack check", name: "main.checked", start: "", language: Language::Go },
    Subject { title: "Go, a leaf", name: "main.leaf", start: "", language: Language::Go },
];

impl Subject {
    /// Return probes break Go: contenders that use them do not measure it.
    fn bears(self, contender: Contender) -> bool {
        let only_sites = match contender {
            Contender::Unprobed => true,
            Contender::Programs(way, _) => way == Way::MultiSites,
            Contender::Tool(tool) => matches!(tool, Tool::Edgelat { returns: "ret", .. }),
        };
        self.language != Language::Go || only_sites
    }
}

/// A measured program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Unprobed,
    Programs(Way, Work),
    Tool(Tool),
}

const ROUTES: [Tool; 4] = [
    Tool::Edgelat { route: "uprobe_multi", returns: "ret" },
    Tool::Edgelat { route: "uprobe_multi", returns: "uretprobe" },
    Tool::Edgelat { route: "tracefs", returns: "ret" },
    Tool::Edgelat { route: "single", returns: "uretprobe" },
];

/// All contenders, in the order of the tables.
pub(crate) fn contenders() -> Vec<Contender> {
    let mut all = vec![Contender::Unprobed];
    for way in [Way::MultiSites, Way::MultiReturn, Way::Session, Way::SingleReturn] {
        all.push(Contender::Programs(way, Work::Nothing));
    }
    all.push(Contender::Programs(Way::MultiSites, Work::Clock));
    all.push(Contender::Programs(Way::Session, Work::Clock));
    all.extend(ROUTES.map(Contender::Tool));
    all.extend([Tool::Bpftrace, Tool::Bcc, Tool::LibbpfTools].map(Contender::Tool));
    all
}

impl Contender {
    pub(crate) fn label(self) -> String {
        let way = |way| match way {
            Way::MultiSites => "uprobe_multi, entry and exit sites",
            Way::MultiReturn => "uprobe_multi, entry site and return",
            Way::Session => "session",
            Way::SingleReturn => "single, entry site and return",
        };
        match self {
            Self::Unprobed => "no probes".into(),
            Self::Programs(how, Work::Nothing) => format!("empty programs: {}", way(how)),
            Self::Programs(how, Work::Clock) => format!("two clock readings: {}", way(how)),
            Self::Tool(tool) => tool.label(),
        }
    }

    /// The empty programs on the same sites with the same kind of probe: the baseline of this
    /// contender.
    pub(crate) fn empty(self) -> Option<Self> {
        let way = match self {
            Self::Unprobed | Self::Programs(_, Work::Nothing) => return None,
            Self::Programs(way, Work::Clock) => way,
            Self::Tool(Tool::Edgelat { route: "single", .. }) => Way::SingleReturn,
            Self::Tool(Tool::Edgelat { returns: "uretprobe", .. }) => Way::Session,
            Self::Tool(Tool::Edgelat { .. }) => Way::MultiSites,
            // Peers are on the first instruction, not on edgelat's sites.
            Self::Tool(_) => return None,
        };
        Some(Self::Programs(way, Work::Nothing))
    }
}

/// Results of one contender on one function.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) contender: Contender,
    /// Nanoseconds per call by round; empty if it failed.
    rounds: Vec<f64>,
    /// Reason of the failure.
    pub(crate) failure: Option<String>,
    /// Calls made, and calls that it reported at its end, if it reports any.
    pub(crate) calls: Option<(u64, Option<u64>)>,
    pub(crate) memory: Option<Memory>,
}

/// Results for one function.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) subject: Subject,
    pub(crate) function: Function,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Table {
    fn of(&self, contender: Contender) -> Option<&Outcome> {
        self.outcomes.iter().find(|outcome| outcome.contender == contender)
    }

    /// Nanoseconds that `contender` adds to a call over `base`, paired by round.
    pub(crate) fn over(&self, contender: Contender, base: Contender) -> Option<Spread> {
        let pairs = self.of(contender)?.rounds.iter().zip(&self.of(base)?.rounds);
        Spread::of(pairs.map(|(a, b)| a - b))
    }

    /// Cost of `contender` per call as a multiple of the cost of `base`, paired by round.
    pub(crate) fn ratio(&self, contender: Contender, base: Contender) -> Option<Spread> {
        let unprobed = &self.of(Contender::Unprobed)?.rounds;
        let pairs = self.of(contender)?.rounds.iter().zip(&self.of(base)?.rounds).zip(unprobed);
        Spread::of(pairs.map(|((a, b), none)| (a - none) / (b - none)))
    }

    /// Nanoseconds per call of `contender` alone.
    pub(crate) fn added(&self, contender: Contender) -> Option<Spread> {
        if contender == Contender::Unprobed {
            return Spread::of(self.of(contender)?.rounds.iter().copied());
        }
        self.over(contender, Contender::Unprobed)
    }
}

/// Measures one function.
pub(crate) fn measure(
    subject: Subject,
    programs: &Programs,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    effort: Effort,
) -> Result<Table, Error> {
    let program = match subject.language {
        Language::C => &programs.c,
        Language::Rust => &programs.rust,
        Language::Go => &programs.go,
    };
    let function =
        sites::ask(&installed.edgelat, program, subject.name)?.into_iter().next().ok_or_else(|| {
            Error::Answer { program: "edgelat functions".into(), answer: format!("no {}", subject.name) }
        })?;
    if !subject.start.is_empty() && function.first_instruction() != subject.start {
        return Err(Error::Start {
            function: subject.name.into(),
            found: function.first_instruction().into(),
            wanted: subject.start,
        });
    }
    let choice = Choice { name: subject.name.into(), symbol: function.symbol.clone() };
    let able = contenders().into_iter().filter(|contender| subject.bears(*contender));
    let outcomes = able.map(|contender| Outcome {
        contender,
        rounds: Vec::new(),
        failure: None,
        calls: None,
        memory: None,
    });
    let mut table = Table { subject, function, outcomes: outcomes.collect() };
    for _ in 0..effort.generations {
        generation(&mut table, program, &choice, installed, work, cpu, effort)?;
    }
    Ok(table)
}

/// One contender with its target.
struct Seat {
    target: Target,
    at_work: AtWork,
    /// Calls of a batch.
    batch: u64,
}

enum AtWork {
    Nobody,
    Programs { _attached: Empty },
    Tool(Running),
    Failed(String),
}

fn generation(
    table: &mut Table,
    program: &Path,
    choice: &Choice,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    effort: Effort,
) -> Result<(), Error> {
    let mut seats = Vec::new();
    for (index, outcome) in table.outcomes.iter().enumerate() {
        let copy: PathBuf = work.join(format!("target{index}"));
        let target = Target::start_copy(program, copy, cpu)?;
        let at_work = match outcome.contender {
            Contender::Unprobed => AtWork::Nobody,
            Contender::Programs(way, work) => {
                match Empty::attach(
                    way,
                    work,
                    target.pid(),
                    target.image(),
                    std::slice::from_ref(&table.function),
                ) {
                    Ok(empty) => AtWork::Programs { _attached: empty },
                    Err(error) => AtWork::Failed(error.to_string()),
                }
            }
            Contender::Tool(tool) => match tool.start(installed, target.pid(), target.image(), choice)? {
                Some(running) => AtWork::Tool(running),
                None => AtWork::Failed("not installed".into()),
            },
        };
        seats.push(Seat { target, at_work, batch: 0 });
    }
    for seat in &mut seats {
        if let AtWork::Tool(running) = &mut seat.at_work {
            // The entry of a return probe may differ from that for exit sites; peers use the first
            // instruction.
            let Function { start, entry, return_entry, .. } = table.function;
            let mut sites = [start, entry, return_entry];
            sites.sort_unstable();
            if let Err(reason) = wait_until_armed(running, &seat.target, &sites)? {
                seat.at_work = AtWork::Failed(reason);
            }
        }
        // The first calls also warm up; they are not timed but must be in every histogram.
        let trial = seat.target.call(choice_of(table.subject), 200)?;
        let per_call = (trial.cpu_ns / trial.calls as f64).max(1.0);
        seat.batch = (effort.batch.as_nanos() as f64 / per_call).clamp(100.0, 1e7) as u64;
    }
    let count = seats.len();
    for round in 0..effort.rounds {
        for step in 0..count {
            // Forwards from another start each time, backwards in every other round: no fixed
            // predecessor.
            let index =
                if round % 2 == 0 { (step + round) % count } else { (2 * count - 1 - step + round) % count };
            let (Some(seat), Some(outcome)) = (seats.get_mut(index), table.outcomes.get_mut(index)) else {
                continue;
            };
            let batch = seat.target.call(choice_of(table.subject), seat.batch)?;
            if !matches!(seat.at_work, AtWork::Failed(_)) {
                outcome.rounds.push(batch.cpu_ns / batch.calls as f64);
            }
        }
    }
    for (seat, outcome) in seats.into_iter().zip(&mut table.outcomes) {
        match seat.at_work {
            AtWork::Failed(reason) => {
                outcome.rounds.clear();
                outcome.failure = Some(reason);
            }
            AtWork::Tool(mut running) => {
                outcome.memory = Some(running.memory());
                running.interrupt();
                running.wait(Duration::from_secs(20));
                let counted = running.tool().counted(&running.output());
                let (made, reported) = outcome.calls.unwrap_or((0, Some(0)));
                outcome.calls = Some((made + seat.target.calls, reported.zip(counted).map(|(a, b)| a + b)));
            }
            AtWork::Nobody | AtWork::Programs { .. } => {}
        }
    }
    Ok(())
}

/// The protocol's word for the function.
fn choice_of(subject: Subject) -> &'static str {
    if subject.language == Language::Rust { "checksum" } else { subject.name }
}

/// Waits for the breakpoint and the tool's own message; returns the reason if they do not come.
fn wait_until_armed(
    running: &mut Running,
    target: &Target,
    sites: &[u64],
) -> Result<Result<(), String>, Error> {
    let text = target.text()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while text.probed(sites)? == 0 || !running.says_ready() {
        if running.ended() || Instant::now() > deadline {
            let output = running.output();
            let last = output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output");
            return Ok(Err(format!("did not attach: {last}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
    // A tool that does not report its exit side has it right after the entry side.
    thread::sleep(Duration::from_millis(300));
    Ok(Ok(()))
}
