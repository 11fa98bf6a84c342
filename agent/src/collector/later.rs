//! Images that come after the first look: libraries that were waited for, and others of the same name, as a program has them
//! that opens a plug-in anew while the old one is in use.

use std::time::Instant;

use edgelat_guard::protocol::MappedImage;
use edgelat_guard::{GuardError, Line};
use edgelat_image::Pattern;

use super::resolve::{is_unprobed, means};
use super::session::{Session, Wanted};

/// A process that maps a great many files is looked at less often: of the time, at most this part is spent on it.
const PART: u32 = 50;

impl Session {
    /// May an image have come that a pattern means? Where nothing is waited for, that is looked for now and then.
    pub fn looks_on(&self, wanted: &Wanted) -> bool {
        let more = || wanted.functions.iter().any(|pattern| pattern.image().is_some());
        self.waits() || !self.closed && Instant::now() >= self.look_again && more()
    }

    /// What the target maps now.
    pub(super) fn list(&mut self, line: &mut Line) -> Result<Vec<MappedImage>, GuardError> {
        let begun = Instant::now();
        let images = self.target.images(line);
        self.look_again = Instant::now() + begun.elapsed() * PART;
        images
    }

    /// The patterns that mean one of `images` that they were not looked for in.
    pub(super) fn later(&self, wanted: &Wanted, images: &[MappedImage]) -> Vec<Pattern> {
        let means = |pattern: &&Pattern| self.unseen(wanted, images).any(|image| means(pattern, image));
        let later = wanted.functions.iter().filter(|pattern| pattern.image().is_some());
        later.filter(means).cloned().collect()
    }

    /// Paths of images that have come where no more can be measured, each told once.
    pub fn missed_images(&mut self, line: &mut Line, wanted: &Wanted) -> Vec<String> {
        if self.waits() || !self.looks_on(wanted) {
            return Vec::new();
        }
        // One that cannot be looked at ends, which is told otherwise.
        let images = self.list(line).unwrap_or_default();
        let patterns = self.later(wanted, &images);
        let meant = |image: &&MappedImage| patterns.iter().any(|pattern| means(pattern, image));
        let missed: Vec<&MappedImage> = self.unseen(wanted, &images).filter(meant).collect();
        let paths = missed.iter().map(|image| image.path.to_string()).collect();
        let files: Vec<_> = missed.iter().map(|image| image.file).collect();
        self.seen.extend(files);
        paths
    }

    fn unseen<'i>(
        &self,
        wanted: &Wanted,
        images: &'i [MappedImage],
    ) -> impl Iterator<Item = &'i MappedImage> {
        images
            .iter()
            .filter(|image| !self.seen.contains(&image.file) && !is_unprobed(image, &wanted.unprobed))
    }
}
