//! One perf event for each site.
//!
//! This route leaves nothing in the tracing file system, and return probes can carry a cookie. But
//! each close waits for a grace period, so that closing a thousand takes minutes unless they wait
//! together.

use std::ffi::CString;
use std::os::fd::AsFd;

use edgelat_bpf::object::Programs;

use super::perf::{self, Event};
use super::{ImageSites, Site, close_together, failed, once};
use crate::error::{GuardError, Os};
use crate::load::Loaded;
use crate::protocol::Route;
use crate::target::{Target, path_of};

/// Events of one process. Dropping them removes the probes.
pub(crate) struct Probes(Vec<Event>);

impl Drop for Probes {
    fn drop(&mut self) {
        close_together(std::mem::take(&mut self.0));
    }
}

pub(super) fn attach(loaded: &Loaded, target: &Target, images: &[ImageSites]) -> Result<Probes, GuardError> {
    let kind = perf::uprobe_type()?;
    let returns = loaded.programs == Programs::AddressReturn;
    // This drop also closes together the events that were opened before one failed.
    let mut probes = Probes(Vec::new());
    for image in images {
        let path = CString::new(path_of(&*image.file)).map_err(|_| GuardError::Message)?;
        let mut add = |program: &str, site: &Site, at_return: bool| {
            let config = if at_return { 1 << perf::return_bit() } else { 0 };
            let program = loaded.program(program)?;
            let event = perf::open_uprobe(kind, config, &path, site.offset, target.pid)
                .and_then(|event| perf::set(event, program.as_fd(), at_return.then_some(site.cookie)))
                .map_err(|errno| {
                    let os = Os::from(errno);
                    if os.denied() {
                        return perf::refused(os);
                    }
                    let hint = "--route tracefs attaches more probes with fewer descriptors";
                    failed(Route::Single, target, images, os, hint)
                })?;
            probes.0.push(event);
            Ok(())
        };
        if let Some(exit) = loaded.programs.exit() {
            // Return probes have cookies.
            let sites = if returns { image.entries.clone() } else { once(&image.exits) };
            sites.iter().try_for_each(|site| add(exit, site, returns))?;
        }
        let sites = once(&image.entries);
        sites.iter().try_for_each(|site| add(loaded.programs.entry(), site, false))?;
    }
    Ok(probes)
}
