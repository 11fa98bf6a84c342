//! Time to attach and to detach many functions.
//!
//! Observed from outside, in one way for all programs: the time from the program's start to the
//! last breakpoint in the target's text, and from Ctrl-C to the removal of the last breakpoint and
//! to the program's end. The empty programs show the kernel's share alone.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::empty::{Empty, Way, Work};
use crate::error::Error;
use crate::sites::{self, Function};
use crate::stats::Spread;
use crate::target::{Programs, Target, Text};
use crate::tools::{Choice, Installed, Memory, Running, Tool};

/// Extent of the measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// A phase that takes longer did not finish.
    pub(crate) limit: Duration,
}

/// Numbers of functions.
pub(crate) const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];

/// A measured program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contender {
    Empty(Way),
    Tool(Tool),
}

/// All contenders, in the order of the tables.
pub(crate) fn contenders() -> Vec<Contender> {
    let mut all = vec![
        Contender::Empty(Way::MultiSites),
        Contender::Empty(Way::Session),
        Contender::Empty(Way::SingleReturn),
    ];
    for (route, returns) in [
        ("uprobe_multi", "ret"),
        ("uprobe_multi", "uretprobe"),
        ("tracefs", "ret"),
        ("single", "ret"),
        ("single", "uretprobe"),
    ] {
        all.push(Contender::Tool(Tool::Edgelat { route, returns }));
    }
    all.extend([Tool::Bpftrace, Tool::Bcc, Tool::LibbpfTools].map(Contender::Tool));
    all
}

impl Contender {
    pub(crate) fn label(self) -> String {
        match self {
            Self::Empty(way) => {
                let way = match way {
                    Way::MultiSites | Way::MultiReturn => "uprobe_multi",
                    Way::Session => "session",
                    Way::SingleReturn => "single events",
                };
                format!("empty programs, {way} (the kernel's share)")
            }
            Self::Tool(tool) => tool.label(),
        }
    }
}

/// Milliseconds of one phase, or the reason for their absence.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Took(Spread),
    /// Not finished within the limit in any round.
    DidNotFinish(Duration),
    Not(String),
}

/// One contender with one number of functions.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    /// From start to the last breakpoint (and the tool's own message that it is ready).
    pub(crate) attach: Phase,
    /// From Ctrl-C to the removal of the last breakpoint.
    pub(crate) restore: Phase,
    /// From Ctrl-C to the end of the program.
    pub(crate) end: Phase,
    pub(crate) memory: Option<Memory>,
}

impl Cell {
    fn not(reason: impl Into<String>) -> Self {
        let phase = Phase::Not(reason.into());
        Self { attach: phase.clone(), restore: phase.clone(), end: phase, memory: None }
    }

    /// Reason not to try ten times as many functions: the kernel would close their events for
    /// minutes after the limit, and the next contender needs that kernel.
    fn enough(&self, size: usize, limit: Duration) -> Option<String> {
        match (&self.attach, &self.end) {
            (Phase::Took(_), Phase::Took(end)) => {
                // Attaching is mostly the program's start and predicts nothing for more functions.
                let seconds = end.median / 1e3;
                (seconds > 2.0 && seconds * 10.0 > limit.as_secs_f64())
                    .then(|| format!("not asked: {size} took {seconds:.0} s"))
            }
            (Phase::Not(reason), _) if reason.starts_with("not asked") => Some(reason.clone()),
            _ => Some(format!("not asked: failed with {size}")),
        }
    }
}

/// A contender's row.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) contender: Contender,
    pub(crate) cells: Vec<Cell>,
}

impl Row {
    /// Reason that the contender does not measure this many functions.
    fn excuse(&self, size: usize, limit: Duration) -> Option<String> {
        if self.contender == Contender::Tool(Tool::LibbpfTools) && size > 1 {
            return Some("takes one function".into());
        }
        let fewer = self.cells.len().checked_sub(1)?;
        self.cells.get(fewer)?.enough(*SIZES.get(fewer)?, limit)
    }
}

/// Measures all contenders with every number of functions, small ones first, so that a contender
/// that fails stops there.
pub(crate) fn measure(
    programs: &Programs,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    effort: Effort,
    progress: &mut dyn FnMut(String),
) -> Result<Vec<Row>, Error> {
    let mut rows: Vec<Row> =
        contenders().into_iter().map(|contender| Row { contender, cells: Vec::new() }).collect();
    for size in SIZES {
        let glob = format!("group{size}_*");
        let functions = sites::ask(&installed.edgelat, &programs.many, &glob)?;
        if functions.len() != size {
            let answer = format!("{} functions for {glob}, not {size}", functions.len());
            return Err(Error::Answer { program: "edgelat functions".into(), answer });
        }
        // Some programs take no glob.
        let symbol = match functions.as_slice() {
            [only] => only.symbol.clone(),
            _ => glob.clone(),
        };
        let choice = Choice { name: glob, symbol };
        let mut samples: Vec<Samples> = rows.iter().map(|_| Samples::default()).collect();
        for round in 0..effort.rounds {
            for (row, samples) in rows.iter().zip(&mut samples) {
                if row.excuse(size, effort.limit).is_some() || samples.done() {
                    continue;
                }
                if round == 0 {
                    progress(format!("{size} functions: {}", row.contender.label()));
                }
                let target = Target::start_copy(&programs.many, work.join("many_target"), cpu)?;
                match row.contender {
                    Contender::Empty(way) => samples.empty(way, &target, &functions),
                    Contender::Tool(tool) => {
                        samples.tool(tool, installed, &target, &functions, &choice, effort)?
                    }
                }
            }
        }
        for (row, samples) in rows.iter_mut().zip(samples) {
            let cell = match row.excuse(size, effort.limit) {
                Some(excuse) => Cell::not(excuse),
                None => samples.cell(effort.limit),
            };
            row.cells.push(cell);
        }
    }
    Ok(rows)
}

/// Milliseconds by round.
#[derive(Debug, Default)]
struct Samples {
    attach: Vec<f64>,
    restore: Vec<f64>,
    end: Vec<f64>,
    memory: Option<Memory>,
    failure: Option<String>,
    late: bool,
}

impl Samples {
    /// No more rounds: it failed, or a round takes so long that a second adds nothing.
    fn done(&self) -> bool {
        const LONG_MS: f64 = 5_000.0;
        self.failure.is_some() || self.late || self.attach.iter().chain(&self.end).any(|&ms| ms > LONG_MS)
    }

    fn cell(self, limit: Duration) -> Cell {
        if let Some(reason) = self.failure {
            return Cell::not(reason);
        }
        let phase = |samples| Spread::of(samples).map_or(Phase::DidNotFinish(limit), Phase::Took);
        Cell {
            attach: phase(self.attach),
            restore: phase(self.restore),
            end: phase(self.end),
            memory: self.memory,
        }
    }

    fn empty(&mut self, way: Way, target: &Target, functions: &[Function]) {
        let start = Instant::now();
        match Empty::attach(way, Work::Nothing, target.pid(), target.image(), functions) {
            Ok(empty) => {
                self.attach.push(milliseconds(start));
                let start = Instant::now();
                drop(empty);
                self.restore.push(milliseconds(start));
                self.end.push(milliseconds(start));
            }
            Err(error) => self.failure = Some(error.to_string()),
        }
    }

    fn tool(
        &mut self,
        tool: Tool,
        installed: &Installed,
        target: &Target,
        functions: &[Function],
        choice: &Choice,
        effort: Effort,
    ) -> Result<(), Error> {
        let text = target.text()?;
        let mut offsets: Vec<u64> = match tool {
            Tool::Edgelat { returns: "ret", .. } => {
                functions.iter().flat_map(|f| f.exits.iter().copied().chain([f.entry])).collect()
            }
            Tool::Edgelat { .. } => functions.iter().map(|f| f.return_entry).collect(),
            _ => functions.iter().map(|f| f.start).collect(),
        };
        offsets.sort_unstable();
        let Some(mut running) = tool.start(installed, target.pid(), target.image(), choice)? else {
            self.failure = Some("not installed".into());
            return Ok(());
        };
        let armed = self.wait_until_armed(&mut running, &text, &offsets, effort.limit)?;
        if armed {
            self.memory = Some(running.memory());
        }
        let start = Instant::now();
        running.interrupt();
        let mut restored = false;
        while start.elapsed() < effort.limit && !(restored && running.ended()) {
            if !restored && text.probed(&offsets)? == 0 {
                restored = true;
                if armed {
                    self.restore.push(milliseconds(start));
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        if running.ended() {
            if armed {
                self.end.push(milliseconds(start));
            }
        } else {
            self.late = true;
        }
        // The kernel still closes a killed program's events one by one; the next contender must not
        // pay for that.
        running.wait(Duration::ZERO);
        Ok(())
    }

    /// Returns `false` if it is not armed within the limit or gave up.
    fn wait_until_armed(
        &mut self,
        running: &mut Running,
        text: &Text,
        offsets: &[u64],
        limit: Duration,
    ) -> Result<bool, Error> {
        loop {
            if text.probed(offsets)? == offsets.len() && running.says_ready() {
                self.attach.push(milliseconds(running.started));
                return Ok(true);
            }
            if running.ended() {
                let output = running.output();
                let last = output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output");
                self.failure = Some(format!("gave up: {last}"));
                return Ok(false);
            }
            if running.started.elapsed() > limit {
                self.late = true;
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
