//! Packs: probe sites for a stripped image, made on a machine that has its symbols.
//!
//! A device ships its programs stripped, and the build machine keeps the files with symbols. A pack
//! brings functions from there to the device: names, ranges, and the sites found with all symbols.
//! It is bound to the build by build-id, and to the code by a checksum of each function's bytes, so
//! it is used on that code only. The device decodes the sites again before use
//! ([`confirm`](edgelat_sites::confirm)), so no pack can name a byte inside an instruction.
//!
//! # Format
//!
//! The line `edgelat pack 2`, the [postcard](https://postcard.jamesmunns.com) encoding of a list of
//! [`PackedImage`]s, and the CRC-32C of everything before as four bytes, least significant first.
//! Version 2 has no other parts (version 1 lacked exits ahead of returns and moved stack pointers);
//! a reader refuses other versions.

use std::ops::Range;

use crc::{CRC_32_ISCSI, Crc};
use edgelat_sites::{Site, Sites};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits::{BUILD_ID_BYTES, COLD_PARTS, FUNCTION_BYTES, NAME_BYTES, PACK_BYTES, PACK_FUNCTIONS};
use crate::{Arch, BuildId, Function, FunctionSites, SiteKind, Stepping};

/// First bytes of a pack of any version.
const MAGIC: &[u8] = b"edgelat pack ";
/// The rest of the first line of this version.
const VERSION: &[u8] = b"2\n";
/// Images in one pack.
const IMAGES: usize = 64;
/// Names of one function.
const NAMES: usize = 64;
/// Exits of one function.
const EXITS: usize = 1 << 16;

/// CRC-32C (Castagnoli), as RFC 3720 appendix B.4 defines it.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Functions of some images, with their sites.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pack {
    images: Vec<PackedImage>,
}

/// The functions of one build of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedImage {
    /// File name, for people.
    name: String,
    aarch64: bool,
    build_id: Vec<u8>,
    functions: Vec<PackedFunction>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedFunction {
    /// The linkage name and its aliases.
    names: Vec<String>,
    /// ELF virtual address of the first instruction.
    start: u64,
    /// The ranges of its code, relative to `start`; the first begins there.
    parts: Vec<PackedPart>,
    /// CRC-32C of the bytes of all parts.
    code: u32,
    /// The entry, then the exits in ascending order of address.
    sites: Vec<PackedSite>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PackedPart {
    /// First byte, relative to the start of the function: cold parts stand before or behind.
    at: i64,
    size: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct PackedSite {
    /// Relative to the start of the function.
    at: i64,
    /// Index into [`KINDS`]; the first site of a function is the entry.
    kind: u8,
    maybe: bool,
    condition: Option<u8>,
    /// See [`Site::above`].
    above: u16,
    /// See [`Site::left_out`].
    left_out: u8,
}

/// Kinds of exits, by number.
const KINDS: [SiteKind; 3] = [SiteKind::Return, SiteKind::TailJump, SiteKind::Ahead];

impl PackedSite {
    fn is_possible(&self) -> bool {
        let condition = self.condition.is_none_or(|code| code < 16);
        let above = self.above.is_multiple_of(8) && self.above <= Site::MOST_ABOVE;
        condition && above && usize::from(self.kind) < KINDS.len()
    }
}

/// Errors of a pack.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PackError {
    /// Another kind of file.
    #[error("not a pack; make one with `edgelat pack make`")]
    NotAPack,
    /// Another version of the format.
    #[error("a pack of version {found}, and this edgelat reads version 2; make it again with this edgelat")]
    Version {
        /// Version in its first line.
        found: String,
    },
    /// Longer than [`PACK_BYTES`].
    #[error("more than the {PACK_BYTES} bytes that are read of a pack; put fewer functions into one")]
    TooLarge,
    /// The checksum does not fit, or the content is impossible.
    #[error("the pack is damaged ({reason}); copy or make it again")]
    Damaged {
        /// The contradiction.
        reason: &'static str,
    },
    /// An image without a permanent identity.
    #[error("it has no build-id, and a pack must be bound to one; link it with --build-id")]
    NoBuildId,
}

const fn damaged(reason: &'static str) -> PackError {
    PackError::Damaged { reason }
}

impl Pack {
    /// Reads a pack. It is untrusted: every count and range is checked.
    ///
    /// # Errors
    /// A [`PackError`] with the next step; the caller puts the path before it.
    pub fn read(bytes: &[u8]) -> Result<Self, PackError> {
        if bytes.len() > PACK_BYTES {
            return Err(PackError::TooLarge);
        }
        let rest = bytes.strip_prefix(MAGIC).ok_or(PackError::NotAPack)?;
        let Some(rest) = rest.strip_prefix(VERSION) else {
            let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()).min(20);
            return Err(PackError::Version { found: rest[..end].escape_ascii().to_string() });
        };
        let (body, sum) = rest.split_last_chunk::<4>().ok_or(damaged("it is cut off"))?;
        let covered = &bytes[..bytes.len() - sum.len()];
        if CHECKSUM.checksum(covered) != u32::from_le_bytes(*sum) {
            return Err(damaged("its checksum differs"));
        }
        let (pack, behind): (Self, _) =
            postcard::take_from_bytes(body).map_err(|_| damaged("its content cannot be decoded"))?;
        if !behind.is_empty() {
            return Err(damaged("there are bytes behind its content"));
        }
        pack.check()?;
        Ok(pack)
    }

    /// Returns the bytes of the pack.
    ///
    /// # Errors
    /// [`PackError::TooLarge`] if a reader would refuse it.
    pub fn write(&self) -> Result<Vec<u8>, PackError> {
        self.check()?;
        let mut bytes = [MAGIC, VERSION].concat();
        let mut body = vec![0; PACK_BYTES - bytes.len() - size_of::<u32>()];
        // It fails for lack of space only.
        bytes.extend_from_slice(postcard::to_slice(self, &mut body).map_err(|_| PackError::TooLarge)?);
        let sum = CHECKSUM.checksum(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        Ok(bytes)
    }

    /// Adds an image, to which functions can then be added.
    ///
    /// # Errors
    /// [`PackError::NoBuildId`] if the pack could not be bound to the build.
    pub fn add(
        &mut self,
        name: &str,
        arch: Arch,
        build_id: Option<&BuildId>,
    ) -> Result<&mut PackedImage, PackError> {
        let build_id = build_id.ok_or(PackError::NoBuildId)?.bytes().to_vec();
        let name = name.chars().take(NAME_BYTES / 4).collect();
        let image = PackedImage { name, aarch64: arch == Arch::Aarch64, build_id, functions: Vec::new() };
        let index = self.images.len();
        self.images.push(image);
        Ok(&mut self.images[index])
    }

    /// Returns the images in file order.
    #[must_use]
    pub fn images(&self) -> &[PackedImage] {
        &self.images
    }

    /// Returns the images for this build.
    pub(crate) fn of(&self, arch: Arch, build_id: &BuildId) -> impl Iterator<Item = &PackedImage> {
        self.images.iter().filter(move |image| image.arch() == arch && image.build_id == build_id.bytes())
    }

    fn check(&self) -> Result<(), PackError> {
        let functions = self.images.iter().map(|image| image.functions.len()).sum::<usize>();
        if self.images.len() > IMAGES || functions > PACK_FUNCTIONS {
            return Err(PackError::TooLarge);
        }
        for image in &self.images {
            if !(1..=BUILD_ID_BYTES).contains(&image.build_id.len()) || image.name.len() > NAME_BYTES {
                return Err(damaged("the name or build-id of an image"));
            }
            image.functions.iter().try_for_each(PackedFunction::check)?;
        }
        Ok(())
    }
}

impl PackedImage {
    /// Returns the file name of the image that the pack was made from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its instruction set.
    #[must_use]
    pub fn arch(&self) -> Arch {
        if self.aarch64 { Arch::Aarch64 } else { Arch::X86_64 }
    }

    /// Returns its build-id in hexadecimal.
    #[must_use]
    pub fn build_id(&self) -> String {
        BuildId::new(&self.build_id).map(|id| id.to_string()).unwrap_or_default()
    }

    /// Returns the functions.
    #[must_use]
    pub fn functions(&self) -> &[PackedFunction] {
        &self.functions
    }

    /// Adds a function with its parts, the main one first, and its sites. `code` has the bytes of
    /// all parts in sequence.
    pub(crate) fn push(
        &mut self,
        function: &Function,
        parts: &[Range<u64>],
        sites: &FunctionSites,
        code: &[u8],
    ) {
        let relative = |address: u64| address.wrapping_sub(function.start) as i64;
        let part = |range: &Range<u64>| PackedPart {
            at: relative(range.start),
            size: range.end.saturating_sub(range.start),
        };
        let exits = sites.exits.iter().map(|exit| &exit.site);
        self.functions.push(PackedFunction {
            names: std::iter::once(&function.linkage_name)
                .chain(&function.aliases)
                .take(NAMES)
                .cloned()
                .collect(),
            start: function.start,
            parts: parts.iter().map(part).collect(),
            code: CHECKSUM.checksum(code),
            sites: std::iter::once(&sites.entry.site)
                .chain(exits)
                .map(|site| PackedSite {
                    at: relative(site.address),
                    kind: KINDS.iter().position(|kind| *kind == site.kind).unwrap_or(0) as u8,
                    maybe: site.maybe,
                    condition: site.condition,
                    above: site.above,
                    left_out: site.left_out,
                })
                .collect(),
        });
    }
}

impl PackedFunction {
    /// Returns the linkage name and its aliases, at least one.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the ELF virtual address of the first instruction.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Returns the number of exits.
    #[must_use]
    pub fn exits(&self) -> usize {
        self.sites.len().saturating_sub(1)
    }

    /// Returns the ranges of its code; the first begins at the start.
    pub fn parts(&self) -> impl Iterator<Item = Range<u64>> {
        self.parts.iter().map(|part| {
            let start = self.start.wrapping_add_signed(part.at);
            start..start.saturating_add(part.size)
        })
    }

    /// Returns true if these bytes, its parts in sequence, are its code.
    pub(crate) fn is_code(&self, code: &[u8]) -> bool {
        CHECKSUM.checksum(code) == self.code
    }

    /// Returns its sites. Decoding the code again gives the cost of the probes.
    pub(crate) fn sites(&self) -> Option<Sites> {
        let mut sites = self.sites.iter().enumerate().map(|(index, site)| {
            let exit = KINDS.get(usize::from(site.kind)).copied().unwrap_or(SiteKind::Return);
            let kind = if index == 0 { SiteKind::Entry } else { exit };
            let address = self.start.wrapping_add_signed(site.at);
            // Go needs no packs.
            let found = Site::new(address, kind, Stepping::SingleStepped);
            {
                let (condition, maybe, above, left_out) =
                    (site.condition, site.maybe, site.above, site.left_out);
                Site { condition, maybe, above, left_out, ..found }
            }
        });
        Some(Sites { entry: sites.next()?, exits: sites.collect() })
    }

    fn check(&self) -> Result<(), PackError> {
        let name = |name: &String| !name.is_empty() && name.len() <= NAME_BYTES;
        if !(1..=NAMES).contains(&self.names.len()) || !self.names.iter().all(name) {
            return Err(damaged("the name of a function"));
        }
        let mut total = 0u64;
        for part in &self.parts {
            total = total.saturating_add(part.size);
            let end = self.start.checked_add_signed(part.at).and_then(|start| start.checked_add(part.size));
            if part.size == 0 || end.is_none() {
                return Err(damaged("the range of a function"));
            }
        }
        let begins = self.parts.first().is_some_and(|part| part.at == 0);
        if !begins || self.parts.len() > COLD_PARTS + 1 || total > FUNCTION_BYTES {
            return Err(damaged("the ranges of a function"));
        }
        let inside = |site: &PackedSite| {
            self.parts.iter().any(|part| site.at >= part.at && site.at.abs_diff(part.at) < part.size)
        };
        let ascending = |pair: &[PackedSite]| pair[0].at < pair[1].at;
        match self.sites.split_first() {
            Some((_, exits))
                if (1..=EXITS).contains(&exits.len())
                    && exits.windows(2).all(ascending)
                    && self.sites.iter().all(inside)
                    && self.sites.iter().all(PackedSite::is_possible) =>
            {
                Ok(())
            }
            _ => Err(damaged("the sites of a function")),
        }
    }
}

#[cfg(test)]
mod tests;
