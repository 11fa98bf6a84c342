//! Images that come after the first look: libraries that were waited for, and others of the same name, as a program has them
//! that opens a plug-in anew while the old one is in use.

use edgelat_guard::Line;
use edgelat_guard::protocol::MappedImage;
use edgelat_image::Pattern;

use super::resolve::{is_unprobed, means};
use super::session::{Session, Wanted};

impl Session {
    /// May an image come that a pattern means?
    pub fn looks_on(&self, wanted: &Wanted) -> bool {
        self.waits() || !self.closed && wanted.functions.iter().any(|pattern| pattern.image().is_some())
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
        let images = self.target.images(line).unwrap_or_default();
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
