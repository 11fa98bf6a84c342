//! Calls that are inside a function at this moment.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::layout::{
    AWAIT_MARK, AWAIT_ROW_BITS, AWAIT_USES, FRAME_BUSY, FRAME_FREE, FRAME_WAYS, FrameSet, SITE_FUNCTION_MASK,
};
use crate::mapping::{MapError, Mapping};

const SP: usize = std::mem::offset_of!(FrameSet, sp);
const TAG: usize = std::mem::offset_of!(FrameSet, tag);
const START: usize = std::mem::offset_of!(FrameSet, start);

/// A call that was entered and has not returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The process that runs it.
    pub tgid: u32,
    /// The function: its row.
    pub function: u32,
    /// Time of its entry, on the monotonic clock in nanoseconds.
    pub start_ns: u64,
    /// If it is an open await of a Python function: the use of its row.
    pub await_use: Option<u32>,
}

/// The mapped frame table.
#[derive(Debug)]
pub struct Frames {
    mapping: Mapping,
    sets: usize,
}

impl Frames {
    /// Maps a frame table of `sets` sets.
    ///
    /// # Errors
    /// [`MapError`] if the descriptor is not that array or memory is short.
    pub fn map(frames: impl AsFd, sets: usize) -> Result<Self, MapError> {
        Ok(Self { mapping: Mapping::read(frames, sets, size_of::<FrameSet>())?, sets })
    }

    /// The occupied frames. Calls that begin or end meanwhile may or may not be included; on a
    /// target at rest the result is exact.
    pub fn occupied(&self) -> impl Iterator<Item = Frame> + '_ {
        let frames = (0..self.sets).flat_map(|set| (0..FRAME_WAYS).map(move |way| (set, way)));
        frames.filter_map(|(set, way)| {
            let at = set * size_of::<FrameSet>() + way * size_of::<u64>();
            // A busy frame is changing now: unsettled, so not counted.
            if self.mapping.load(at + SP) <= FRAME_BUSY {
                return None;
            }
            let tag = self.mapping.load(at + TAG);
            let start_ns = self.mapping.load(at + START);
            let marks = tag as u32;
            Some(Frame {
                tgid: (tag >> 32) as u32,
                function: marks & SITE_FUNCTION_MASK as u32,
                start_ns,
                await_use: (marks & AWAIT_MARK != 0).then_some(marks >> AWAIT_ROW_BITS & AWAIT_USES),
            })
        })
    }

    /// Maps a frame table of `sets` sets to empty it.
    ///
    /// # Errors
    /// [`MapError`] if the descriptor is not that array or memory is short.
    pub fn map_to_empty(frames: impl AsFd, sets: usize) -> Result<Self, MapError> {
        Ok(Self { mapping: Mapping::write(frames, sets, size_of::<FrameSet>())?, sets })
    }

    /// Frees every frame and calls `gone` for each. The frames must come from
    /// [`map_to_empty`](Self::map_to_empty), and no program may run: one that holds a frame would
    /// restore it.
    pub fn empty(&self, mut gone: impl FnMut(Frame)) {
        self.occupied().for_each(&mut gone);
        for set in 0..self.sets {
            for word in self.mapping.words(set * size_of::<FrameSet>() + SP, FRAME_WAYS) {
                word.store(FRAME_FREE, Ordering::Relaxed);
            }
        }
    }
}
