//! Debug data made by hand.

use super::elf::TEXT_ADDRESS;

/// The sections of a unit of DWARF 4 or 5: `outer` begins where the text does and holds two copies
/// of `inner`, which has no code of its own.
pub fn sections(version: u16) -> Vec<(&'static str, Vec<u8>)> {
    let (text, address): (u8, u8) = if version < 5 { (0x08, 0x01) } else { (0x25, 0x29) };
    // Number, tag, children; attributes with forms; an end.
    let abbreviations = [
        &[1, 0x11, 1, 0x72, 0x17, 0x73, 0x17, 0, 0][..],
        &[2, 0x2e, 0, 0x03, text, 0, 0],
        &[3, 0x2e, 1, 0x03, text, 0x11, address, 0, 0],
        &[4, 0x1d, 0, 0x31, 0x13, 0x11, address, 0, 0],
        &[0],
    ]
    .concat();
    let header = if version < 5 { 11 } else { 12 };
    // Behind the header and the entry of the unit.
    let inner: u32 = header + 1 + 8;
    let place = |index: u8| {
        if version < 5 { (TEXT_ADDRESS + u64::from(index)).to_le_bytes().to_vec() } else { vec![index] }
    };
    let name = |index: u8, name: &[u8]| if version < 5 { [name, b"\0"].concat() } else { vec![index] };
    let mut entries = [&[1][..], &8u32.to_le_bytes(), &8u32.to_le_bytes()].concat();
    entries.extend([&[2], &name(0, b"inner")[..]].concat());
    entries.extend([&[3], &name(1, b"outer")[..], &place(0)].concat());
    for copy in 1..=2 {
        entries.extend([&[4], &inner.to_le_bytes()[..], &place(copy)].concat());
    }
    entries.extend([0, 0]);
    let mut info = version.to_le_bytes().to_vec();
    match version {
        5 => info.extend([1, 8, 0, 0, 0, 0]),
        _ => info.extend([0, 0, 0, 0, 8]),
    }
    info.extend(entries);
    let mut unit = (info.len() as u32).to_le_bytes().to_vec();
    unit.extend(info);
    let addresses: Vec<u8> = (0..3).flat_map(|index| (TEXT_ADDRESS + index).to_le_bytes()).collect();
    vec![
        (".debug_info", unit),
        (".debug_abbrev", abbreviations),
        (".debug_str", b"inner\0outer\0".to_vec()),
        (".debug_str_offsets", [&[0; 8][..], &0u32.to_le_bytes(), &6u32.to_le_bytes()].concat()),
        (".debug_addr", [&[0; 8][..], &addresses].concat()),
    ]
}
