//! User input, and globs against names: the first line is the pattern, the second a name.
#![no_main]

use std::path::Path;

use edgelat_image::{Glob, Pattern};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (pattern, name) = text.split_once('\n').unwrap_or((text, "libfoo.so.1"));
    let glob = Glob::new(pattern);
    let matched = glob.matches(name.chars());
    if !Glob::is_glob(pattern) && pattern.chars().count() <= edgelat_image::limits::PATTERN_BYTES {
        assert_eq!(matched, pattern == name);
    }
    match Pattern::parse(pattern) {
        Ok(parsed) => {
            assert_eq!(parsed.to_string(), pattern);
            let _ = parsed.matches_image(Path::new(name));
        }
        Err(error) => assert!(error.to_string().contains("write") || error.to_string().contains("use")),
    }
});
