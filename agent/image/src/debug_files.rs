//! Separate debug files.
//!
//! A distribution that strips its programs ships their symbols in a file named by the build-id,
//! `/usr/lib/debug/.build-id/xx/yyyy.debug`, where `xx` are its first two hexadecimal digits (GDB's
//! manual, "Separate Debug Files"). A missing file is searched by the name in `.gnu_debuglink`. The
//! caller decides if such files may be opened, in which mount namespace and with which rights; this
//! crate only lists the paths.

use std::io;
use std::path::{Path, PathBuf};

use crate::pack::PackedImage;
use crate::{Arch, BuildId, Pack, ReadAt};

/// Opens a path that may not exist.
pub type Open<'o> = dyn Fn(&Path) -> io::Result<Box<dyn ReadAt>> + 'o;

/// Folders of debug files, and the function that opens them.
#[derive(Clone)]
pub struct DebugFiles<'o> {
    open: Option<&'o Open<'o>>,
    directories: Vec<PathBuf>,
    packs: &'o [Pack],
    image: Option<PathBuf>,
    pub(crate) unnamed: bool,
    pub(crate) inlined: bool,
}

impl<'o> DebugFiles<'o> {
    /// Debug files below `/usr/lib/debug`, opened by `open`. [`io::ErrorKind::NotFound`] means a
    /// missing file; any other error becomes a [`Skipped`](crate::Skipped) source.
    #[must_use]
    pub fn new(open: &'o Open<'o>) -> Self {
        Self {
            open: Some(open),
            directories: vec![PathBuf::from("/usr/lib/debug")],
            packs: &[],
            image: None,
            unnamed: false,
            inlined: false,
        }
    }

    /// No debug files.
    #[must_use]
    pub fn none() -> Self {
        Self { open: None, directories: Vec::new(), packs: &[], image: None, unnamed: false, inlined: false }
    }

    /// Also searches `directory`, before those added earlier. It is a folder like `/usr/lib/debug`,
    /// with `.build-id` in it.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directories.insert(0, directory.into());
        self
    }

    /// Enables reading of debug data for the number of inlined copies.
    #[must_use]
    pub fn inlined(mut self, wanted: bool) -> Self {
        self.inlined = wanted;
        self
    }

    /// Follows the debug link of the image at this path: beside it, in `.debug` next to it, and
    /// below the folders of debug files.
    #[must_use]
    pub fn linked_from(mut self, image: impl Into<PathBuf>) -> Self {
        self.image = Some(image.into());
        self
    }

    /// Also takes unnamed functions from the unwind tables, as `fn_0xADDRESS`.
    #[must_use]
    pub fn unnamed(mut self, unnamed: bool) -> Self {
        self.unnamed = unnamed;
        self
    }

    /// Also takes the functions of these packs.
    #[must_use]
    pub fn packs(mut self, packs: &'o [Pack]) -> Self {
        self.packs = packs;
        self
    }

    pub(crate) fn has_packs(&self) -> bool {
        !self.packs.is_empty()
    }

    /// Returns the images of this build in the packs.
    pub(crate) fn packed(&self, arch: Arch, build_id: &BuildId) -> impl Iterator<Item = &'o PackedImage> {
        self.packs.iter().flat_map(move |pack| pack.of(arch, build_id))
    }

    /// Returns every debug file of this build, with its path, or the error if it cannot be opened.
    pub(crate) fn candidates(
        &self,
        build_id: &BuildId,
    ) -> impl Iterator<Item = (PathBuf, io::Result<Box<dyn ReadAt>>)> {
        let hex = build_id.to_string();
        let (first, rest) = hex.split_at(2);
        let name = Path::new(".build-id").join(first).join(format!("{rest}.debug"));
        self.directories.iter().filter_map(move |directory| self.opened(directory.join(&name)))
    }

    /// Returns the debug files that a link with this name may mean. Only their bytes prove a match.
    pub(crate) fn linked(&self, name: &str) -> impl Iterator<Item = (PathBuf, io::Result<Box<dyn ReadAt>>)> {
        let mut paths = Vec::new();
        if let Some(image) = &self.image {
            let folder = image.parent().unwrap_or(Path::new("/"));
            paths.extend([folder.join(name), folder.join(".debug").join(name)]);
            let below = folder.strip_prefix("/").unwrap_or(folder);
            paths.extend(self.directories.iter().map(|directory| directory.join(below).join(name)));
            paths.extend(self.directories.iter().map(|directory| directory.join(name)));
            // A debug file in `.debug` often has the name of its image.
            paths.retain(|path| path != image);
        }
        paths.into_iter().filter_map(|path| self.opened(path))
    }

    fn opened(&self, path: PathBuf) -> Option<(PathBuf, io::Result<Box<dyn ReadAt>>)> {
        match (self.open?)(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                None
            }
            opened => Some((path, opened)),
        }
    }
}

impl std::fmt::Debug for DebugFiles<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DebugFiles")
            .field("directories", &self.directories)
            .field("opens", &self.open.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_added_later_are_looked_into_first_and_missing_files_are_not_mentioned() {
        let open = |path: &Path| -> io::Result<Box<dyn ReadAt>> {
            match path.to_str().unwrap() {
                "/srv/debug/.build-id/ab/cdef.debug" => Ok(Box::new(vec![1u8])),
                "/usr/lib/debug/.build-id/ab/cdef.debug" => Err(io::ErrorKind::PermissionDenied.into()),
                _ => Err(io::ErrorKind::NotFound.into()),
            }
        };
        let files = DebugFiles::new(&open).directory("/srv/debug").directory("/nowhere");
        let build_id = BuildId::new(&[0xab, 0xcd, 0xef]).unwrap();
        let found: Vec<_> =
            files.candidates(&build_id).map(|(path, opened)| (path, opened.is_ok())).collect();
        assert_eq!(
            found,
            [
                (PathBuf::from("/srv/debug/.build-id/ab/cdef.debug"), true),
                (PathBuf::from("/usr/lib/debug/.build-id/ab/cdef.debug"), false),
            ]
        );
        assert_eq!(DebugFiles::none().candidates(&build_id).count(), 0);
        assert_eq!(DebugFiles::none().linked_from("/usr/bin/a").linked("a.debug").count(), 0);
        assert_eq!(DebugFiles::none().directory("/srv/debug").candidates(&build_id).count(), 0);
    }

    #[test]
    fn a_link_is_followed_beside_the_image_in_debug_and_below_the_folders_but_never_to_the_image() {
        let open = |_: &Path| -> io::Result<Box<dyn ReadAt>> { Ok(Box::new(vec![1u8])) };
        let files = DebugFiles::new(&open).directory("/srv").linked_from("/usr/bin/a");
        let found = |name| files.linked(name).map(|(path, _)| path).collect::<Vec<_>>();
        let expected = [
            "/usr/bin/a.debug",
            "/usr/bin/.debug/a.debug",
            "/srv/usr/bin/a.debug",
            "/usr/lib/debug/usr/bin/a.debug",
            "/srv/a.debug",
            "/usr/lib/debug/a.debug",
        ];
        assert_eq!(found("a.debug"), expected.map(PathBuf::from));
        assert_eq!(found("a")[0], Path::new("/usr/bin/.debug/a"));
        assert_eq!(DebugFiles::new(&open).linked("a.debug").count(), 0);
    }
}
