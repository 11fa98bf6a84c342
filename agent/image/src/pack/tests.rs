use super::*;

fn site(at: i64) -> PackedSite {
    PackedSite { at, kind: 0, maybe: false, condition: None, above: 0, left_out: 0 }
}

fn function() -> PackedFunction {
    PackedFunction {
        names: vec!["work".to_owned(), "alias".to_owned()],
        start: 0x40_1000,
        parts: vec![PackedPart { at: 0, size: 40 }, PackedPart { at: -0x100, size: 8 }],
        code: 0x1234_5678,
        sites: vec![site(4), site(-0xf9), PackedSite { kind: 1, condition: Some(4), ..site(39) }],
    }
}

fn pack(functions: Vec<PackedFunction>) -> Pack {
    let build_id = BuildId::new(&[7; 20]).unwrap();
    let mut pack = Pack::default();
    pack.add("libwork.so.1", Arch::Aarch64, Some(&build_id)).unwrap().functions = functions;
    pack
}

#[test]
fn what_was_written_is_read() {
    let written = pack(vec![function(), PackedFunction { start: 0x50_0000, ..function() }]);
    let read = Pack::read(&written.write().unwrap()).unwrap();
    assert_eq!(read, written);
    let image = &read.images()[0];
    assert_eq!(
        (image.name(), image.arch(), image.build_id()),
        ("libwork.so.1", Arch::Aarch64, "07".repeat(20))
    );
    let parts: Vec<_> = image.functions()[0].parts().collect();
    assert_eq!(parts, [0x40_1000..0x40_1028, 0x40_0f00..0x40_0f08]);
    let sites = image.functions()[0].sites().unwrap();
    assert_eq!((sites.entry.address, sites.entry.kind), (0x40_1004, SiteKind::Entry));
    assert_eq!((sites.exits[1].address, sites.exits[1].kind), (0x40_1027, SiteKind::TailJump));
}

#[test]
fn a_function_takes_some_sixty_bytes() {
    let bytes = |count: u64| {
        let functions = (0..count).map(|n| PackedFunction { start: 0x40_1000 + n * 64, ..function() });
        pack(functions.collect()).write().unwrap().len()
    };
    assert!(bytes(101) - bytes(1) < 60 * 100, "{}", bytes(101));
}

#[test]
fn it_is_for_one_build_and_one_instruction_set() {
    let pack = pack(vec![function()]);
    let other = BuildId::new(&[8; 20]).unwrap();
    let build_id = BuildId::new(&[7; 20]).unwrap();
    assert_eq!(pack.of(Arch::Aarch64, &build_id).count(), 1);
    assert_eq!(pack.of(Arch::X86_64, &build_id).count(), 0);
    assert_eq!(pack.of(Arch::Aarch64, &other).count(), 0);
    let nameless = Pack::default().add("a", Arch::X86_64, None).unwrap_err();
    assert!(nameless.to_string().contains("--build-id"), "{nameless}");
}

#[test]
fn every_bit_that_turns_and_every_byte_that_is_missing_is_noticed() {
    let bytes = pack(vec![function()]).write().unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(Pack::read(&damaged).is_err(), "byte {at}, bit {bit}");
        }
        assert!(Pack::read(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(Pack::read(&[&bytes[..], b"x"].concat()).is_err());
}

#[test]
fn other_files_and_versions_are_named() {
    assert_eq!(Pack::read(b""), Err(PackError::NotAPack));
    assert_eq!(Pack::read(b"\x7fELF and so on"), Err(PackError::NotAPack));
    assert_eq!(Pack::read(b"edgelat pack 1\nxyz"), Err(PackError::Version { found: "1".to_owned() }));
    assert_eq!(Pack::read(&vec![0; PACK_BYTES + 1]), Err(PackError::TooLarge));
}

/// A checksum detects accidents, not intent: a forged pack has a correct checksum.
#[test]
fn forged_content_is_refused_whatever_its_checksum() {
    type Forge = fn(&mut PackedFunction);
    let forged: [(&str, Forge); 15] = [
        ("no name", |f| f.names.clear()),
        ("an empty name", |f| f.names[0].clear()),
        ("an endless name", |f| f.names[0] = "x".repeat(NAME_BYTES + 1)),
        ("no range", |f| f.parts.clear()),
        ("an empty range", |f| f.parts[1].size = 0),
        ("a first range elsewhere", |f| f.parts[0].at = 8),
        ("a range beyond the address space", |f| f.parts[1].size = u64::MAX),
        ("a range before it", |f| f.start = 0x10),
        ("no exit", |f| f.sites.truncate(1)),
        ("no site", |f| f.sites.clear()),
        ("a site outside", |f| f.sites[2].at = 40),
        ("sites out of order", |f| f.sites.swap(1, 2)),
        ("a condition that there is not", |f| f.sites[2].condition = Some(16)),
        ("a kind that there is not", |f| f.sites[1].kind = 3),
        ("a stack pointer that is no multiple", |f| f.sites[1].above = 12),
    ];
    for (what, forge) in forged {
        let mut function = function();
        forge(&mut function);
        let pack = pack(vec![function]);
        assert!(pack.write().is_err(), "{what} is written");
        let mut bytes = [MAGIC, VERSION].concat();
        let mut buffer = vec![0; PACK_BYTES];
        bytes.extend_from_slice(postcard::to_slice(&pack, &mut buffer).unwrap());
        bytes.extend_from_slice(&CHECKSUM.checksum(&bytes).to_le_bytes());
        assert!(matches!(Pack::read(&bytes), Err(PackError::Damaged { .. })), "{what} is read");
    }
}
