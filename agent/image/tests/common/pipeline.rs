//! All steps of the crate, on arbitrary bytes. The mutation tests and the fuzz targets share it.

use std::path::Path;

use edgelat_image::{DebugFiles, Followers, Image, ImageError, Pattern, ReadAt, Tails, boxed};

/// Functions that are decoded in each file.
const DECODED: usize = 50;

/// Reads bytes as an image that is its own debug file, looks for functions and decodes some.
/// Returns the number of functions.
pub fn exercise(bytes: &[u8]) -> Result<usize, ImageError> {
    let image = Image::open(bytes)?;
    check_segments(&image);
    let copy = bytes.to_vec();
    let open = move |_: &Path| Ok(boxed(copy.clone()));
    let mut progressed = 0;
    let table = image.functions(&DebugFiles::new(&open).unnamed(true).inlined(true), &mut |progress| {
        assert!(progress.done <= progress.total);
        progressed += 1;
    })?;
    let _ = image.imports(&["swapcontext", "_Unwind_*"])?;
    let _ = table.defines(&["main", "_Unwind_RaiseException"]);
    let mut last = 0;
    for function in table.iter() {
        assert!(function.start >= last && function.end >= function.start, "{function:?}");
        last = function.start;
    }
    let build_id = image.build_id().map_or_else(|| "00000000".to_owned(), ToString::to_string);
    let build_id = format!("{build_id:0<8}");
    let entry =
        image.segments().iter().find(|segment| segment.executable).map_or(0, |segment| segment.address);
    for text in [
        "main".to_owned(),
        "*a?[b-z]*".to_owned(),
        "ns::f(int)".to_owned(),
        format!("+0x{entry:x}@{build_id}"),
        "fn_0x*".to_owned(),
        "*@*[0-9]".to_owned(),
    ] {
        match image.find(&table, &Pattern::parse(&text).unwrap()) {
            Ok(found) => assert!(!found.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let _ = image.exports(&["main".to_owned(), "work".to_owned()])?;
    let mut tails = Tails::new(&image, &table, Followers::new());
    let stride = (table.len() / DECODED).max(1);
    for function in table.iter().step_by(stride) {
        if let Ok((_, ends)) = tails.look(&function) {
            for end in ends.exits.iter().chain(&ends.again).chain(&ends.open) {
                assert_eq!(image.file_offset(end.site.address), Some(end.file_offset));
            }
        }
        match image.sites(&table, &function) {
            Ok(sites) => {
                for site in std::iter::once(&sites.entry).chain(&sites.exits) {
                    let inside = image.segments().iter().any(|segment| {
                        segment.executable
                            && (segment.file_offset..segment.file_offset + segment.file_size)
                                .contains(&site.file_offset)
                    });
                    assert!(inside, "{} of {}", site.file_offset, function.name);
                    assert_eq!(image.file_offset(site.site.address), Some(site.file_offset));
                }
                assert!(!sites.exits.is_empty());
            }
            Err(refusal) => assert!(!refusal.code().is_empty()),
        }
    }
    Ok(table.len())
}

fn check_segments(image: &Image<impl ReadAt>) {
    for segment in image.segments() {
        for at in [0, segment.file_size / 2, segment.file_size, segment.memory_size] {
            let address = segment.address.saturating_add(at);
            if let Some(offset) = image.file_offset(address) {
                // Segments may overlap; some executable one must claim the offset.
                assert!(image.address_of(offset).is_some());
            }
        }
    }
}
