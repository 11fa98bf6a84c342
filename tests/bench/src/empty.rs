//! Empty programs on the sites of edgelat: the kernel's own share of the cost of a probe.

use std::path::Path;

use libbpf_rs::{Link, Object, ObjectBuilder, UprobeMultiOpts, UprobeOpts};

use crate::error::Error;
use crate::sites::Function;

const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/empty.bpf.o"));

/// Action of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing at all.
    Nothing,
    /// One reading of the clock at each end, as every measurement of a duration needs.
    Clock,
}

/// Attachment of the empty programs, in the same ways as edgelat's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// uprobe_multi links on entry and exit sites.
    MultiSites,
    /// uprobe_multi links, one of them on the returns.
    MultiReturn,
    /// One uprobe session (6.13).
    Session,
    /// Single perf events: a probe on the entry site, a return probe.
    SingleReturn,
}

impl Way {
    fn program(self, work: Work) -> &'static str {
        match (work, self) {
            (Work::Nothing, Self::MultiSites | Self::MultiReturn) => "empty_multi",
            (Work::Nothing, Self::Session) => "empty_session",
            (Work::Nothing, Self::SingleReturn) => "empty_single",
            (Work::Clock, Self::Session) => "clock_session",
            (Work::Clock, _) => "clock_multi",
        }
    }
}

/// Attached empty programs. They are detached with this value.
#[derive(Debug)]
pub(crate) struct Empty {
    _links: Vec<Link>,
    _object: Object,
}

impl Empty {
    /// Attaches one pair of programs to all functions, in one process only.
    pub(crate) fn attach(
        way: Way,
        work: Work,
        pid: u32,
        image: &Path,
        functions: &[Function],
    ) -> Result<Self, Error> {
        let step = |step| move |source| Error::Bpf { step, source };
        let name = way.program(work);
        let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(step("open the object"))?;
        for mut program in open.progs_mut() {
            // An older kernel does not know the others.
            let wanted = program.name() == name;
            program.set_autoload(wanted);
        }
        let object = open.load().map_err(step("load the object"))?;
        let missing = || Error::Answer { program: "the empty programs".into(), answer: format!("no {name}") };
        let program = object.progs_mut().find(|program| program.name() == name).ok_or_else(missing)?;
        let pid = pid as i32;
        let mut links = Vec::new();
        let entries = || functions.iter().map(|f| f.entry as usize);
        let return_entries = || functions.iter().map(|f| f.return_entry as usize);
        let multi = |offsets: Vec<usize>, retprobe, session| {
            let options = UprobeMultiOpts { offsets, retprobe, session, ..Default::default() };
            let link = program.attach_uprobe_multi_with_opts(pid, image, "", options);
            link.map_err(step("attach a uprobe_multi link"))
        };
        match way {
            Way::MultiSites => {
                links.push(multi(entries().collect(), false, false)?);
                let exits = functions.iter().flat_map(|f| &f.exits).map(|&exit| exit as usize);
                links.push(multi(exits.collect(), false, false)?);
            }
            Way::MultiReturn => {
                links.push(multi(return_entries().collect(), false, false)?);
                links.push(multi(return_entries().collect(), true, false)?);
            }
            Way::Session => links.push(multi(return_entries().collect(), false, true)?),
            Way::SingleReturn => {
                for offset in return_entries() {
                    for retprobe in [false, true] {
                        let options = UprobeOpts { retprobe, ..Default::default() };
                        let link = program.attach_uprobe_with_opts(pid, image, offset, options);
                        links.push(link.map_err(step("attach a single probe"))?);
                    }
                }
            }
        }
        Ok(Self { _links: links, _object: object })
    }
}
