//! Images that come after the first look: awaited libraries, and others of the same name, as in a
//! program that opens a plug-in anew while the old plug-in is in use.

use std::time::Instant;

use edgelat_guard::protocol::MappedImage;
use edgelat_guard::{GuardError, Line};
use edgelat_image::Pattern;

use super::{Session, Wanted};
use crate::collector::resolve::{is_unprobed, means};

/// Looks take at most one part in this many of the time: a process with many files has fewer looks.
const PART: u32 = 50;

impl Session {
    /// Returns true if an image that a pattern means may have come. Without awaited images, that is
    /// due only now and then.
    pub fn looks_on(&self, wanted: &Wanted) -> bool {
        self.waits()
            || !self.closed && Instant::now() >= self.look_again && of_images(wanted).next().is_some()
    }

    /// Images that the target maps now.
    pub(super) fn list(&mut self, line: &mut Line) -> Result<Vec<MappedImage>, GuardError> {
        let begun = Instant::now();
        let images = self.target.images(line);
        self.look_again = Instant::now() + begun.elapsed() * PART;
        images
    }

    /// Patterns that mean one of `images` in which they were not searched yet.
    pub(super) fn later(&self, wanted: &Wanted, images: &[MappedImage]) -> Vec<Pattern> {
        let unseen: Vec<&MappedImage> = self.unseen(wanted, images).collect();
        let means = |pattern: &&Pattern| unseen.iter().any(|image| means(pattern, image));
        of_images(wanted).filter(means).cloned().collect()
    }

    /// Paths of images that have come but can no longer be measured, each reported once.
    pub fn missed_images(&mut self, line: &mut Line, wanted: &Wanted) -> Vec<String> {
        if self.waits() || !self.looks_on(wanted) {
            return Vec::new();
        }
        // A process that cannot be examined is ending, which is reported elsewhere.
        let images = self.list(line).unwrap_or_default();
        let missed = self.unseen(wanted, &images).map(|image| (image.path.to_string(), image.file));
        let (paths, files): (_, Vec<_>) = missed.unzip();
        self.seen.extend(files);
        paths
    }

    /// Images that a pattern means by name and that were not searched.
    fn unseen<'i>(
        &self,
        wanted: &Wanted,
        images: &'i [MappedImage],
    ) -> impl Iterator<Item = &'i MappedImage> {
        images.iter().filter(|image| {
            of_images(wanted).any(|pattern| means(pattern, image))
                && !self.seen.contains(&image.file)
                && !is_unprobed(image, &wanted.unprobed)
        })
    }
}

/// The patterns that name an image.
fn of_images(wanted: &Wanted) -> impl Iterator<Item = &Pattern> {
    wanted.functions.iter().filter(|pattern| pattern.image().is_some())
}
