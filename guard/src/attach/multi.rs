//! uprobe_multi links: many sites of an image in one call, removed by one close.

use std::ffi::c_ulong;

use caps::Capability;
use libbpf_rs::{Link, UprobeMultiOpts};

use super::{ImageSites, Site, close_together, failed, pause, slice};
use crate::error::GuardError;
use crate::load::{Loaded, os_error};
use crate::protocol::Route;
use crate::rights;
use crate::target::{Target, path_of};
use edgelat_bpf::layout::{SITE_PLACE_SHIFT, SITE_PROCESS_SHIFT, SITE_RETURN};
use edgelat_bpf::object::Programs;

/// Links of one process. Dropping them removes the probes.
pub(crate) struct Probes(Vec<Link>);

impl Drop for Probes {
    fn drop(&mut self) {
        close_together(std::mem::take(&mut self.0));
    }
}

/// Cookie of a site of this process.
fn cookie(site: &Site, pid: i32) -> u64 {
    let place = if site.cookie & SITE_RETURN == 0 { 0 } else { (site.offset & 0xfff) << SITE_PLACE_SHIFT };
    site.cookie | place | (pid as u64) << SITE_PROCESS_SHIFT
}

pub(super) fn attach(loaded: &Loaded, target: &Target, images: &[ImageSites]) -> Result<Probes, GuardError> {
    let mut links = Vec::with_capacity(images.len() * 2);
    for image in images {
        let mut link = |program: &str, sites: &[Site], retprobe: bool, session: bool| {
            let options = UprobeMultiOpts {
                // libbpf's `offsets` is an array of unsigned long, which is usize on every Linux.
                offsets: sites.iter().map(|site| site.offset as c_ulong as usize).collect(),
                cookies: sites.iter().map(|site| cookie(site, target.pid)).collect(),
                retprobe,
                session,
                ..Default::default()
            };
            let program = loaded.program(program)?;
            let link = program
                .attach_uprobe_multi_with_opts(target.pid, path_of(&*image.file), "", options)
                .map_err(|error| {
                    let os = os_error(&error);
                    if os.denied() {
                        let wanted = [Capability::CAP_BPF, Capability::CAP_PERFMON];
                        return rights::refused("make uprobe_multi links", os, &wanted);
                    }
                    let hint = "`edgelat check` shows what this kernel allows";
                    failed(Route::UprobeMulti, target, images, os, hint)
                })?;
            links.push(link);
            Ok(())
        };
        let mut attach = |program: &str, sites: &[Site], retprobe: bool, session: bool| {
            sites.chunks(slice(sites.len())).enumerate().try_for_each(|(index, sites)| {
                if index > 0 {
                    pause();
                }
                link(program, sites, retprobe, session)
            })
        };
        let programs = loaded.programs;
        match (programs, programs.exit()) {
            (Programs::MultiReturn, Some(exit)) => attach(exit, &image.entries, true, false)?,
            (_, Some(exit)) => attach(exit, &image.exits, false, false)?,
            (_, None) => {}
        }
        attach(programs.entry(), &image.entries, false, programs == Programs::Session)?;
    }
    Ok(Probes(links))
}
