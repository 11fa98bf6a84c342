//! Names of C++ and Rust.
#![no_main]

use edgelat_image::demangle::{Form, demangle};
use edgelat_image::limits::DEMANGLED_BYTES;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // Without a prefix, few inputs would be mangled names.
    for prefix in [&b""[..], b"_Z", b"_R"] {
        let name = [prefix, bytes].concat();
        for form in [Form::Full, Form::Bare, Form::AsListed] {
            if let Some(text) = demangle(&name, form) {
                assert!(text.len() <= DEMANGLED_BYTES + name.len() + 64);
            }
        }
    }
});
