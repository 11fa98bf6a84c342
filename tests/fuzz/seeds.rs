//! Writes the seeds of the fuzz targets for debug data, for Go's and Python's tables, for the spool
//! and for the live snapshot: `seeds TARGET FOLDER`.

mod common;

use std::path::Path;

use common::elf::{AARCH64, X86_64};
use common::languages::{GoTable, MAGICS, build_info, debug_offsets, module_data};

fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [target, folder] = arguments.as_slice() else { panic!("usage: seeds TARGET FOLDER") };
    let folder = Path::new(folder);
    match target.as_str() {
        "dwarf" => dwarf(folder),
        "gopclntab" => go(folder),
        "debug_offsets" => python(folder),
        "spool" => spool(folder),
        "live" => live(folder),
        other => panic!("no seeds for {other}"),
    }
}

fn dwarf(folder: &Path) -> std::io::Result<()> {
    for version in [4, 5] {
        let sections = common::dwarf::sections(version);
        let lengths = sections.iter().take(4).flat_map(|(_, bytes)| (bytes.len() as u16).to_le_bytes());
        let seed: Vec<u8> = lengths.chain(sections.iter().flat_map(|(_, bytes)| bytes.clone())).collect();
        std::fs::write(folder.join(format!("version-{version}")), seed)?;
    }
    Ok(())
}

fn go(folder: &Path) -> std::io::Result<()> {
    // Stack check, call, return, more stack; a leaf; a jump.
    let code = b"\x49\x3b\x66\x10\x76\x0d\x55\x48\x89\xe5\xe8\0\xf0\xff\xff\x90\x5d\xc3\x90\xe8\0\xf0\xff\xff\xeb\xe6\xcc\xcc\
                 \x90\xc3\xcc\xcc\xeb\xfa\xcc\xcc";
    let arm: [u32; 9] = [
        0xf940_0b90,
        0xeb30_63ff,
        0x5400_0089,
        0x97ff_fc00,
        0xd65f_03c0,
        0xd503_201f,
        0x97ff_fc00,
        0x17ff_fff9,
        0,
    ];
    let arm = arm.map(u32::to_le_bytes).concat();
    for (magic, version) in MAGICS {
        for (machine, name, code) in [(X86_64, "x86_64", &code[..]), (AARCH64, "aarch64", &arm)] {
            let functions = [(0, "main.a", 0), (28, "main.asm", 4), (32, "main.(*T).b", 0)];
            let table = GoTable {
                states_text: magic != 0xffff_fff1,
                ..GoTable::new(magic, &functions, code.len() as u32)
            };
            let address = table.program(code, machine).data_address(0);
            let parts = [table.build(machine), module_data(address, code.len() as u64), build_info(version)];
            let mut seed = vec![u8::from(machine == AARCH64), 0];
            parts.iter().for_each(|part| seed.extend((part.len() as u16).to_le_bytes()));
            parts.iter().for_each(|part| seed.extend(part));
            seed.extend(code);
            std::fs::write(folder.join(format!("{version}-{name}")), seed)?;
        }
    }
    Ok(())
}

fn python(folder: &Path) -> std::io::Result<()> {
    for (index, state) in [0x64_u32, 0x24, 0x28, 0x30].into_iter().enumerate() {
        let mut seed = 7_u32.to_le_bytes().to_vec();
        seed.extend(state.to_le_bytes());
        seed.extend([b'x'; 32]);
        debug_offsets().iter().for_each(|word| seed.extend(word.to_le_bytes()));
        std::fs::write(folder.join(index.to_string()), seed)?;
    }
    Ok(())
}

fn live(folder: &Path) -> std::io::Result<()> {
    use edgelat_spool::live::{Agent, HEADER_BYTES, Own, Row, Snapshot, SpoolFigures, Target, encode};
    use edgelat_spool::{Counts, Stream};
    let stream = Stream {
        id: 1,
        target: "gateway".to_owned(),
        function: "Parser::parse(char const*, \"\\\n\")".to_owned(),
        image: "/usr/sbin/gateway".to_owned(),
        build_id: vec![0xab; 20],
        language: "native".to_owned(),
        bias_ns: Some(646),
        ..Stream::default()
    };
    let counts = Counts {
        entries: 12,
        in_flight: 1,
        lost: [1, 0, 2, 0, 0, 0, 1],
        zero: 1,
        sum_ns: 1 << 33,
        probes_inside_ns: Some(1 << 20),
        suspended_ns: Some(1 << 21),
        buckets: vec![(-100, 2), (-99, 3), (7, 1)],
        ..Counts::default()
    };
    let snapshot = Snapshot {
        agent: Agent { version: "0.1.0".to_owned(), kernel: "6.1.0".to_owned(), ..Agent::default() },
        epoch_ns: Some(1 << 60),
        own: Own { guard_bytes: Some(1 << 20), spool: Some(SpoolFigures::default()), ..Own::default() },
        targets: vec![Target {
            name: "gateway".to_owned(),
            processes: vec![(String::new(), 2), ("budget".to_owned(), 1)],
            ..Target::default()
        }],
        ..Snapshot::default()
    };
    let mut bytes = Vec::new();
    encode(&snapshot, &[Row { stream, read_ns: 1, counts }], 1, &mut bytes);
    std::fs::write(folder.join("snapshot"), &bytes[HEADER_BYTES..])
}

fn spool(folder: &Path) -> std::io::Result<()> {
    use edgelat_spool::segment::{Payload, frame};
    use edgelat_spool::{Checkpoint, Counts, Interval, Stream, Uncovered};
    let stream = |id| Stream { id, function: "work".to_owned(), build_id: vec![7; 20], ..Stream::default() };
    let counts = Counts {
        entries: 4,
        sum_ns: 5_000,
        buckets: vec![(-150, 1), (-149, 3), (-120, 1)],
        ..Counts::default()
    };
    let rows = vec![(1, counts.clone()), (2, counts)];
    let checkpoint = Checkpoint { streams: vec![stream(1), stream(2)], rows: rows.clone(), ..Checkpoint::default() };
    let interval = |number| Interval { first: number, last: number, rows: rows.clone(), ..Interval::default() };
    let uncovered = Uncovered { target: "a".to_owned(), reason: "budget".to_owned(), time_ns: 9, processes: 0 };
    let last = Interval { uncovered: vec![uncovered], streams: vec![stream(3)], ..interval(2) };
    let parts = [
        frame(1, Payload::Checkpoint(&checkpoint)),
        frame(2, Payload::Interval(&interval(0))),
        frame(3, Payload::Interval(&interval(1))),
        frame(4, Payload::Interval(&last)),
    ];
    std::fs::write(folder.join("segment"), [vec![0], parts.concat()].concat())?;
    std::fs::write(folder.join("twice"), [vec![0], parts.concat(), parts.concat()].concat())
}
