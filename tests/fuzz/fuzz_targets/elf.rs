//! Headers, segments, notes and the dynamic section: the first parts read of every file.
#![no_main]

use edgelat_image::Image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(image) = Image::open(bytes) else { return };
    let _ = image.refusal();
    for segment in image.segments() {
        for address in [segment.address, segment.address.saturating_add(segment.file_size)] {
            if let Some(offset) = image.file_offset(address) {
                assert!(offset < bytes.len() as u64);
                assert!(image.address_of(offset).is_some());
            }
        }
    }
    let _ = image.imports(&["swapcontext", "_Unwind_*"]);
});
