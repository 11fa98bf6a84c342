//! The complete path from a file to probe sites.
#![no_main]

#[path = "../../../agent/image/tests/common/pipeline.rs"]
mod pipeline;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = pipeline::exercise(bytes);
});
