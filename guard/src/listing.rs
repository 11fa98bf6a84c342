//! Images that a target maps.
//!
//! A process may have tens of thousands of mappings, all of files that it made itself. Each listing
//! reads them once, in steps, so that events, budgets and signals have their turn in between. They
//! are kept, within a bound, until the next listing, so a number means the same image at its
//! opening.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use crate::error::GuardError;
use crate::guard::{Guard, order};
use crate::maps::{Mapping, Maps};
use crate::protocol::{IMAGES, MappedImage, PATH_BYTES, Path, Reply, TargetId};
use crate::target::Target;

/// Lines of /proc/PID/maps that are read for one answer: some milliseconds.
const AT_ONCE: usize = 4096;
/// Images of one target.
const MOST: usize = 1 << 16;
/// Bytes of their paths: as much as the images of real programs take a hundred times over.
const MOST_BYTES: usize = 8 << 20;

/// The distinct files among the mappings, in address order.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) target: TargetId,
    /// The unread rest.
    rest: Option<Maps>,
    images: Vec<Mapping>,
    path_bytes: usize,
    /// File and path of each. An attacker who wants one image taken for another lacks the hash key.
    seen: HashSet<u64>,
    hasher: RandomState,
    left_out: bool,
}

impl Listing {
    fn begin(target: &Target) -> Result<Self, GuardError> {
        Ok(Self {
            target: target.id,
            rest: Some(target.maps()?),
            images: Vec::new(),
            path_bytes: 0,
            seen: HashSet::new(),
            hasher: RandomState::new(),
            left_out: false,
        })
    }

    /// Continues until `wanted` images are known, for one step at most.
    fn read(&mut self, target: &Target, wanted: usize) -> Result<(), GuardError> {
        for _ in 0..AT_ONCE {
            let Some(rest) = self.rest.as_mut().filter(|_| self.images.len() < wanted) else { break };
            let Some(line) = target.next_mapping(rest)? else {
                self.left_out |= rest.cut();
                self.rest = None;
                break;
            };
            let Some(mapping) = line.filter(Mapping::is_code) else { continue };
            if !self.seen.insert(self.hasher.hash_one((mapping.file, &mapping.path))) {
                // A part of the code that a program made writable lies between the rest of it.
                let last = self.images.last_mut().filter(|last| last.file == mapping.file);
                last.into_iter().for_each(|last| last.writable |= !mapping.takes_probes());
                continue;
            }
            self.path_bytes += mapping.path.len();
            if self.images.len() == MOST || self.path_bytes > MOST_BYTES {
                (self.left_out, self.rest) = (true, None);
                break;
            }
            self.images.push(mapping);
        }
        Ok(())
    }
}

impl Guard {
    /// The images from number `from` on; without a number, reads them anew from the first on.
    pub(crate) fn list_images(&mut self, id: TargetId, from: Option<u32>) -> Result<Reply, GuardError> {
        let target = self.targets.iter().find(|target| target.id == id);
        let target = target.ok_or_else(|| order("no such target"))?;
        let mut listing = match (self.listing.take(), from) {
            (_, None) => Listing::begin(target)?,
            (Some(listing), Some(_)) if listing.target == id => listing,
            _ => return Err(order("no such listing")),
        };
        let from = from.unwrap_or(0) as usize;
        listing.read(target, from + IMAGES)?;
        if listing.images.is_empty() && listing.rest.is_none() && !target.has_memory() {
            return Err(GuardError::NoProcess { pid: target.pid });
        }
        let executable = target.executable();
        let shown = listing.images.iter().enumerate().skip(from).take(IMAGES);
        let images: heapless::Vec<MappedImage, IMAGES> = shown
            .map(|(index, mapping)| {
                let (path, cut) = bounded(&mapping.path);
                let executable = executable.as_ref() == Some(&mapping.path);
                let (index, (major, minor)) = (index as u32, mapping.file.device);
                let file = (major, minor, mapping.file.inode);
                let (deleted, writable) = (mapping.is_deleted(), !mapping.takes_probes());
                MappedImage { index, path, cut, deleted, executable, writable, file }
            })
            .collect();
        let more = listing.rest.is_some() || from + images.len() < listing.images.len();
        let left_out = listing.left_out;
        self.listing = Some(listing);
        Ok(Reply::Images { images, more, left_out })
    }

    /// The image with this number in the last listing of a target.
    pub(crate) fn listed(&mut self, id: TargetId, index: u32) -> Result<Mapping, GuardError> {
        let pid = self.target(id)?.pid;
        let listing = self.listing.as_ref().filter(|listing| listing.target == id);
        let listing = listing.ok_or_else(|| order("an image is opened after it was listed"))?;
        listing.images.get(index as usize).cloned().ok_or(GuardError::NoMapping { pid, index })
    }
}

fn bounded(path: &str) -> (Path, bool) {
    let cut = (0..=path.len().min(PATH_BYTES)).rev().find(|at| path.is_char_boundary(*at)).unwrap_or(0);
    // `cut` is within the capacity.
    (Path::try_from(&path[..cut]).unwrap_or_default(), cut < path.len())
}
