//! Arbitrary code: the first byte chooses the architecture, the second the start of a cold part.
#![no_main]

use edgelat_sites::{Arch, Part, find};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [arch, cut, code @ ..] = bytes else { return };
    let arch = if arch & 1 == 0 { Arch::X86_64 } else { Arch::Aarch64 };
    let cut = usize::from(*cut).min(code.len()) & !3;
    let (main, cold) = code.split_at(code.len() - cut);
    let main = Part { address: 0x40_1000, bytes: main };
    let cold = [Part { address: 0x50_0000, bytes: cold }];
    let cold = if cut == 0 { &[] } else { &cold[..] };
    if let Ok(sites) = find(arch, main, cold) {
        assert!(sites.exits.is_sorted_by_key(|site| site.address));
        let inside = |address: u64| {
            [main]
                .iter()
                .chain(cold)
                .any(|part| (part.address..part.address + part.bytes.len() as u64).contains(&address))
        };
        assert!(inside(sites.entry.address) && !sites.exits.is_empty());
        for exit in &sites.exits {
            assert!(inside(exit.address) && exit.address != sites.entry.address);
        }
    }
});
