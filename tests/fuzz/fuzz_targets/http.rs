//! Requests to `edgelat metrics`.
#![no_main]

use edgelat_export::Format;
use edgelat_export::http::{Parsed, REQUEST_BYTES, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| match parse(bytes) {
    Parsed::Incomplete => assert!(bytes.len() < REQUEST_BYTES, "it has a bound"),
    Parsed::Bad(status) => assert!((400..600).contains(&status)),
    Parsed::Request(request, length) => {
        assert!(length <= bytes.len() && length <= REQUEST_BYTES);
        assert!(request.path.starts_with('/'));
        Format::wanted(request.accept.as_deref());
        // Bytes behind it belong to the next request.
        assert_eq!(parse(&bytes[..length]), Parsed::Request(request, length));
    }
});
