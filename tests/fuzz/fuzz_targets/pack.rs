//! Packs. The checksum is corrected first: it stops accidents, and this input is deliberate.
#![no_main]

use edgelat_image::{DebugFiles, Image, Pack};
use libfuzzer_sys::fuzz_target;

/// The program of the corpus's packs, if any.
static PROGRAM: std::sync::LazyLock<Option<Vec<u8>>> =
    std::sync::LazyLock::new(|| std::fs::read("corpus/program-of-packs").ok());

fuzz_target!(|body: &[u8]| {
    let mut bytes = [b"edgelat pack 2\n", body].concat();
    let sum = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let Ok(pack) = Pack::read(&bytes) else { return };
    let written = pack.write().expect("what was read can be written");
    assert_eq!(Pack::read(&written).as_ref(), Ok(&pack));
    let Some(program) = PROGRAM.as_deref() else { return };
    let image = Image::open(program).expect("the program of the corpus is an image");
    let packs = [pack];
    let none = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let Ok(table) = image.functions(&DebugFiles::new(&none).packs(&packs), &mut |_| ()) else { return };
    for function in table.iter() {
        let Ok(sites) = image.sites(&table, &function) else { continue };
        for site in sites.exits.iter().chain([&sites.entry]) {
            assert_eq!(image.file_offset(site.site.address), Some(site.file_offset));
        }
    }
});
