//! Memory of the service and its speed of release: `edgelat run` with 64 functions of one target.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, file};
use crate::stats::Spread;
use crate::target::{Programs, Target};
use crate::tools::{Installed, Memory, Running};

/// Number of measured functions.
pub(crate) const FUNCTIONS: usize = 64;
/// Time limit of any step.
const LIMIT: Duration = Duration::from_secs(20);

/// Results.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Milliseconds from the guard's notice of a SIGSEGV to the removal of the last probe; guard's
    /// figure.
    pub(crate) gone: Option<Spread>,
    /// Milliseconds from sending the signal to the guard's message that the probes are gone.
    pub(crate) told: Option<Spread>,
    /// Memory of guard and collector while they measure, in the last round.
    pub(crate) memory: Memory,
    /// CPU that both take for one interval of 10 s, in percent of one CPU, while the target is idle.
    pub(crate) idle_percent: f64,
}

/// Kills a target with SIGSEGV in each of `rounds`, after the service has measured it for a while.
pub(crate) fn measure(
    programs: &Programs,
    installed: &Installed,
    work: &Path,
    cpu: usize,
    rounds: usize,
) -> Result<Outcome, Error> {
    let (mut gone, mut told) = (Vec::new(), Vec::new());
    let (mut memory, mut idle_percent) = (Memory::default(), 0.0);
    for round in 0..rounds {
        let target = Target::start_copy(&programs.many, work.join("many_target"), cpu)?;
        let folder = work.join("service");
        _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(file("create", &folder))?;
        let config = folder.join("edgelat.toml");
        fs::write(&config, configuration(&folder, target.image())).map_err(file("write", &config))?;
        let mut running = Running::service(installed, &config)?;
        wait_for(&mut running, "measuring process")?;
        if round + 1 == rounds {
            let (before, since) = (running.cpu_ns(), Instant::now());
            thread::sleep(Duration::from_secs(10));
            idle_percent = (running.cpu_ns() - before) as f64 / since.elapsed().as_nanos() as f64 * 100.0;
            memory = running.memory();
        }
        let sent = Instant::now();
        _ = kill(Pid::from_raw(target.pid() as i32), Signal::SIGSEGV);
        let line = wait_for(&mut running, "counting stopped")?;
        told.push(sent.elapsed().as_secs_f64() * 1e3);
        gone.extend(
            line.split("were gone ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok()),
        );
        running.interrupt();
        running.wait(LIMIT);
    }
    Ok(Outcome { gone: Spread::of(gone), told: Spread::of(told), memory, idle_percent })
}

fn configuration(folder: &Path, program: &Path) -> String {
    let (folder, program) = (folder.display(), program.display());
    let functions: Vec<String> =
        (0..FUNCTIONS).map(|function| format!("\"group100_{function:02}\"")).collect();
    format!(
        "[agent]\nstate_dir = \"{folder}/state\"\nrun_dir = \"{folder}/run\"\ninterval = \"10s\"\n\n\
         [[target]]\nname = \"many\"\nexe = \"{program}\"\nfunctions = [{}]\n",
        functions.join(", ")
    )
}

/// Waits for a line of the log and returns it.
fn wait_for(running: &mut Running, word: &str) -> Result<String, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = running.output();
        if let Some(line) = output.lines().find(|line| line.contains(word)) {
            return Ok(line.to_owned());
        }
        if running.ended() || Instant::now() > deadline {
            return Err(Error::Answer { program: "edgelat run".into(), answer: output });
        }
        thread::sleep(Duration::from_millis(1));
    }
}
