use edgelat_guard::placement::{CollectorCpu, Sched};

use super::*;
use crate::cli::{exit::Exit, failure::Fails};

fn parsed(line: &str) -> Result<Invocation, UsageError> {
    parse(line.split_whitespace().map(OsString::from))
}

fn watch(line: &str) -> WatchOptions {
    match parsed(&format!("watch {line}")) {
        Ok(Invocation::Watch(options)) => options,
        other => panic!("{line}: {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    match parsed(line) {
        Err(error) => {
            assert_eq!(error.exit(), Exit::Usage);
            error.to_string()
        }
        Ok(invocation) => panic!("{line}: {invocation:?}"),
    }
}

#[test]
fn watch_without_options_has_the_defaults_of_the_table() {
    let options = watch("-p 12 do_work");
    assert_eq!(options.target, WatchTarget::Process(12));
    assert_eq!(options.functions, [Pattern::parse("do_work").unwrap()]);
    assert_eq!(options.duration, None);
    assert_eq!(options.interval, Duration::from_secs(1));
    assert_eq!(options.returns, Returns::Ret);
    assert_eq!(options.route, None);
    assert_eq!(options.frames, 8_192);
    assert_eq!(options.max_map_bytes, 4 << 20);
    assert!(!options.json && !options.allow_ptrace && options.follow_forks && options.calibrate);
    assert!(options.debug_dirs.is_empty());
    assert_eq!(options.max_cost, None);
    assert_eq!(
        options.place,
        Wanted { cpu: CollectorCpu::PreferIsolated, sched: Sched::Other, prompt: false }
    );
}

#[test]
fn watch_takes_every_option_in_every_spelling() {
    let options = watch(
        "-p12 --duration=2.5 --interval 0.25 --json --returns uretprobe --route tracefs --frames 100 \
         --max-map-bytes 64K --allow-ptrace --no-follow-forks --debug-dir /a --debug-dir=/b --pack /c --no-bias f lib.so:g*",
    );
    assert_eq!(options.target, WatchTarget::Process(12));
    assert_eq!(options.functions.len(), 2);
    assert_eq!(options.duration, Some(Duration::from_millis(2_500)));
    assert_eq!(options.interval, Duration::from_millis(250));
    assert_eq!(options.returns, Returns::Uretprobe);
    assert_eq!(options.route, Some(Route::Tracefs));
    assert_eq!(options.frames, 128);
    assert_eq!(options.max_map_bytes, 65_536);
    assert!(options.json && options.allow_ptrace && !options.follow_forks && !options.calibrate);
    assert_eq!(options.debug_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(options.packs, [PathBuf::from("/c")]);
}

#[test]
fn the_collector_is_put_where_a_word_or_a_number_says() {
    for (word, cpu) in [
        ("prefer-isolated", CollectorCpu::PreferIsolated),
        ("isolated", CollectorCpu::Isolated),
        ("any", CollectorCpu::Any),
        ("0", CollectorCpu::Cpu(0)),
        ("17", CollectorCpu::Cpu(17)),
    ] {
        let options = watch(&format!("-p 1 f --collector-cpu {word} --sched ext"));
        assert_eq!(options.place, Wanted { cpu, sched: Sched::Ext, prompt: false });
    }
    assert_eq!(watch("-p 1 f --sched other").place.sched, Sched::Other);
}

#[test]
fn calls_are_measured_on_all_cpus_or_on_isolated_ones() {
    assert_eq!(watch("-p 1 f").targets_on, TargetsOn::Any);
    assert_eq!(watch("-p 1 f --targets-on any").targets_on, TargetsOn::Any);
    assert_eq!(watch("-p 1 f --targets-on isolated").targets_on, TargetsOn::Isolated);
}

#[test]
fn every_route_of_the_table_is_understood() {
    for (word, route) in [
        ("auto", None),
        ("uprobe_multi", Some(Route::UprobeMulti)),
        ("tracefs", Some(Route::Tracefs)),
        ("single", Some(Route::Single)),
    ] {
        assert_eq!(watch(&format!("-p 1 f --route {word}")).route, route);
    }
}

#[test]
fn what_follows_the_dashes_is_the_command_whatever_it_looks_like() {
    let options = watch("f --json g -- ./program --json -p 3 -- --help");
    assert_eq!(options.functions.len(), 2);
    let command = ["./program", "--json", "-p", "3", "--", "--help"].map(OsString::from);
    assert_eq!(options.target, WatchTarget::Command(command.to_vec()));
    assert!(options.json);
}

#[test]
fn watch_needs_one_target_and_a_function() {
    assert_eq!(
        wrong("watch f"),
        "watch: nothing to measure; name a process with -p PID, or a command after --"
    );
    assert!(wrong("watch -p 1 f -- ls").contains("leave one"));
    assert_eq!(
        wrong("watch -p 1"),
        "watch: FUNCTION is missing; write edgelat watch -p PID [OPTION...] FUNCTION..."
    );
    assert!(wrong("watch f --").contains("nothing to measure"));
}

#[test]
fn a_wrong_value_is_answered_with_the_right_ones() {
    for (line, part) in [
        ("watch -p x f", "--pid cannot be 'x'; give a process id from 1 to 4194304"),
        ("watch -p 0 f", "--pid cannot be '0'"),
        ("watch -p +1 f", "--pid cannot be '+1'"),
        (
            "watch -p 1 f --duration 0",
            "--duration cannot be '0'; give seconds from 0.1 to 315360000, such as 2 or 0.5",
        ),
        ("watch -p 1 f --duration 1.", "--duration cannot be '1.'"),
        ("watch -p 1 f --duration 1e3", "--duration cannot be '1e3'"),
        ("watch -p 1 f --duration 0.1234567890", "--duration cannot be"),
        ("watch -p 1 f --interval 99999999999999999999", "--interval cannot be"),
        ("watch -p 1 f --frames 8", "--frames cannot be '8'; give a whole number from 16 to 1048576"),
        ("watch -p 1 f --frames 1048577", "--frames cannot be"),
        (
            "watch -p 1 f --collector-cpu 0-3",
            "--collector-cpu cannot be '0-3'; give prefer-isolated, isolated, any or the number of a CPU from 0 to 1023",
        ),
        ("watch -p 1 f --collector-cpu 1024", "--collector-cpu cannot be"),
        ("watch -p 1 f --sched fifo", "--sched cannot be 'fifo'; give other, ext"),
        ("watch -p 1 f --max-map-bytes 4G", "--max-map-bytes cannot be '4G'; give bytes from 4K to 1024M"),
        ("watch -p 1 f --max-map-bytes 99999999999999999999M", "--max-map-bytes cannot be"),
        ("watch -p 1 f --route fast", "--route cannot be 'fast'; give auto, uprobe_multi, tracefs, single"),
        ("watch -p 1 f --returns both", "--returns cannot be 'both'; give ret, uretprobe"),
        (
            "functions 99999999",
            "PID cannot be '99999999'; give a process id from 1 to 4194304; a file of that name is \
                                written ./99999999",
        ),
        ("completions ksh", "SHELL cannot be 'ksh'; give bash, zsh, fish"),
    ] {
        let message = wrong(line);
        assert!(message.contains(part), "{line}: {message}");
    }
}

#[test]
fn a_wrong_option_is_answered_with_the_nearest() {
    for (line, message) in [
        ("", "no command given; 'edgelat --help' lists them"),
        ("wath", "there is no command 'wath'; did you mean 'edgelat watch'?"),
        ("bogus", "there is no command 'bogus'; 'edgelat --help' lists them"),
        ("help bogus", "there is no command 'bogus'; 'edgelat --help' lists them"),
        ("watch --durration 1", "watch: there is no option '--durration'; did you mean --duration?"),
        ("watch -x", "watch: there is no option '-x'; 'edgelat watch --help' lists them"),
        ("watch -p", "watch: --pid needs a value; write --pid PID"),
        ("watch --json=yes f", "watch: --json takes no value, but has 'yes'; write --json alone"),
        ("watch -p 1 -p 2 f", "watch: --pid is given twice; leave one"),
        ("check now", "check: 'now' is one argument too many; write edgelat check [OPTION...]"),
        (
            "functions",
            "functions: PID|PATH is missing; write edgelat functions (PID | PATH) [PATTERN] [OPTION...]",
        ),
        (
            "functions a b c",
            "functions: 'c' is one argument too many; write edgelat functions (PID | PATH) [PATTERN] \
                             [OPTION...]",
        ),
    ] {
        assert_eq!(wrong(line), message, "{line}");
    }
}

#[test]
fn a_switch_with_a_value_at_the_end_is_wrong_too() {
    assert!(wrong("check --json=yes").contains("--json takes no value"));
    assert!(wrong("watch -p 1 f --json=yes").contains("--json takes no value"));
    assert!(wrong("watch f --json=yes -- ls").contains("--json takes no value"));
}

#[test]
fn help_is_given_wherever_it_is_asked_for() {
    assert!(matches!(parsed("--help"), Ok(Invocation::Overview)));
    assert!(matches!(parsed("help"), Ok(Invocation::Overview)));
    assert!(matches!(parsed("--version"), Ok(Invocation::Version)));
    for (line, wanted) in [
        ("watch --help", Detail::Short),
        ("watch -p 1 -h", Detail::Short),
        ("help watch", Detail::Full),
        ("watch f --help -- ls", Detail::Short),
    ] {
        match parsed(line) {
            Ok(Invocation::Help(command, detail)) => {
                assert_eq!((command.name, detail), ("watch", wanted), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn functions_takes_digits_for_a_process_and_all_else_for_a_file() {
    let of = |line: &str| match parsed(&format!("functions {line}")) {
        Ok(Invocation::Functions(options)) => {
            (options.of, options.pattern.map(|pattern| pattern.to_string()))
        }
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(of("123"), (FunctionsOf::Process(123), None));
    assert_eq!(of("./123"), (FunctionsOf::File(PathBuf::from("./123")), None));
    assert_eq!(of("/bin/true ma*"), (FunctionsOf::File(PathBuf::from("/bin/true")), Some("ma*".to_string())));
}

#[test]
fn a_pattern_that_is_none_is_wrong_usage() {
    let message = wrong("watch -p 1 +0x12");
    assert!(message.starts_with("watch: '+0x12' is an address without a build-id"), "{message}");
}

#[test]
fn arguments_that_are_not_text_are_named() {
    use std::os::unix::ffi::OsStringExt;
    let latin = OsString::from_vec(b"gr\xfc\xdfe".to_vec());
    let arguments = ["watch", "-p", "1"].map(OsString::from).into_iter().chain([latin.clone()]);
    let message = parse(arguments).unwrap_err().to_string();
    assert!(message.contains("is not UTF-8 text"), "{message}");
    // A path need not be text.
    let arguments = ["functions"].map(OsString::from).into_iter().chain([latin]);
    assert!(matches!(parse(arguments), Ok(Invocation::Functions(_))));
}

#[test]
fn random_arguments_never_panic() {
    let words = [
        "watch",
        "functions",
        "check",
        "-p",
        "1",
        "--",
        "--json",
        "--json=",
        "-h",
        "f",
        "*",
        "--frames",
        "-",
        "=",
        "",
        "+",
        "--no-bias",
        "--max-cost",
        "99999999999999999999",
        "a::b",
        ":",
        "-p1",
        "--route=single",
        "-\u{fc}",
    ];
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut line = Vec::new();
        loop {
            // Numerical Recipes' constants; the top bits are the random ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let number = (state >> 40) as usize;
            if number.is_multiple_of(8) {
                break;
            }
            line.push(OsString::from(words[number / 8 % words.len()]));
        }
        // Whatever is said, it is said in a sentence.
        if let Err(error) = parse(line) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[test]
fn a_pack_is_made_of_files_and_shown_by_its_name() {
    let options = match parsed("pack make -o a.pack --debug b --debug=c --image d f g*") {
        Ok(Invocation::Pack(options)) => options,
        other => panic!("{other:?}"),
    };
    let PackOptions::Make { output, debug, images, functions } = options else { panic!("{options:?}") };
    assert_eq!(output, PathBuf::from("a.pack"));
    assert_eq!(debug, [PathBuf::from("b"), PathBuf::from("c")]);
    assert_eq!(images, [PathBuf::from("d")]);
    assert_eq!(functions.len(), 2);
    let shown = parsed("pack show a.pack --json");
    assert!(matches!(shown, Ok(Invocation::Pack(PackOptions::Show { json: true, .. }))), "{shown:?}");
}

#[test]
fn what_a_pack_cannot_be_made_or_shown_with_is_named() {
    for (line, answer) in [
        ("pack mkae a", "make|show cannot be 'mkae'; give make, show"),
        ("pack make --debug b f", "-o PACK is missing"),
        ("pack make -o a f", "--debug FILE is missing"),
        ("pack make -o a --debug b", "FUNCTION|PACK is missing"),
        ("pack show a b", "'b' is one argument too many; write edgelat pack show PACK [--json]"),
        ("pack show a --debug b", "only make takes -o, --debug and --image"),
    ] {
        assert!(wrong(line).contains(answer), "{line}: {}", wrong(line));
    }
}

#[test]
fn a_bound_for_the_cost_is_a_percentage_that_can_be_measured() {
    assert_eq!(watch("-p1 --max-cost 2.5 f").max_cost, Some(2.5));
    for wrong in ["0", "0.05", "1001", "-1", "x", "1e3"] {
        let line = format!("watch -p1 --max-cost={wrong} f");
        let error = parse(line.split(' ').map(OsString::from)).unwrap_err().to_string();
        assert!(error.contains("--max-cost") && error.contains("percent of one CPU"), "{error}");
    }
    assert!(watch("-p1 --max-cost 2.5 f").sample && watch("-p1 --over-budget sample f").sample);
    assert!(!watch("-p1 --over-budget end f").sample);
    let both = parse("watch -p1 --max-cost 1 --no-bias f".split(' ').map(OsString::from)).unwrap_err();
    assert!(both.to_string().contains("--no-bias"), "{both}");
}

#[test]
fn run_and_quarantine_read_the_installed_configuration_unless_another_is_named() {
    let run = |line: &str| match parsed(line) {
        Ok(Invocation::Run(options)) => (options.config, options.json),
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(run("run"), (PathBuf::from("/etc/edgelat.toml"), false));
    assert_eq!(run("run -c a.toml --json"), (PathBuf::from("a.toml"), true));
    assert_eq!(
        wrong("run a.toml"),
        "run: 'a.toml' is one argument too many; write edgelat run [-c FILE] [--json]"
    );

    let quarantine = |line: &str| match parsed(line) {
        Ok(Invocation::Quarantine(options)) => options,
        other => panic!("{line}: {other:?}"),
    };
    let options =
        |action, config: &str, json| QuarantineOptions { action, config: PathBuf::from(config), json };
    let installed = "/etc/edgelat.toml";
    assert_eq!(quarantine("quarantine"), options(QuarantineAction::List, installed, false));
    assert_eq!(quarantine("quarantine list --json"), options(QuarantineAction::List, installed, true));
    assert_eq!(quarantine("quarantine clear -c a"), options(QuarantineAction::Clear(None), "a", false));
    let build = QuarantineAction::Clear(Some("6a3b08c1".to_owned()));
    assert_eq!(quarantine("quarantine clear 6A3B08c1"), options(build, installed, false));
}

#[test]
fn wrong_uses_of_quarantine_are_answered() {
    for (line, message) in [
        ("quarantine show", "quarantine: list|clear cannot be 'show'; give list, clear"),
        (
            "quarantine list 6a3b08c1",
            "quarantine: '6a3b08c1' is one argument too many; write edgelat quarantine [list] [-c FILE] [--json]",
        ),
        (
            "quarantine clear 6a3b08",
            "quarantine: BUILD-ID cannot be '6a3b08'; give 8 or more hexadecimal digits of what list shows",
        ),
        ("quarantine clear --json", "quarantine: only list takes --json; leave that out"),
    ] {
        assert_eq!(wrong(line), message);
    }
}

#[test]
fn check_looks_at_a_process_or_at_a_file() {
    match parsed("check -c a.toml --json") {
        Ok(Invocation::Check(CheckOptions { pid: None, config: Some(config), json: true })) => {
            assert_eq!(config, PathBuf::from("a.toml"))
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        parsed("check"),
        Ok(Invocation::Check(CheckOptions { pid: None, config: None, json: false }))
    ));
    assert_eq!(
        wrong("check -p 1 -c a.toml"),
        "check: -p PID and -c FILE are two questions; ask one at a time"
    );
}

#[test]
fn spool_reads_where_the_configuration_says_or_a_folder() {
    use super::{SpoolAction, SpoolOf, SpoolOptions};
    let spool = |line: &str| match parsed(line) {
        Ok(Invocation::Spool(options)) => options,
        other => panic!("{line}: {other:?}"),
    };
    let options = |action, of: SpoolOf| SpoolOptions { action, of };
    let installed = || SpoolOf::Config("/etc/edgelat.toml".into());
    assert_eq!(spool("spool"), options(SpoolAction::List(false), installed()));
    assert_eq!(spool("spool ls --json"), options(SpoolAction::List(true), installed()));
    assert_eq!(spool("spool dump -c a"), options(SpoolAction::Dump, SpoolOf::Config("a".into())));
    assert_eq!(
        spool("spool verify --json --dir d"),
        options(SpoolAction::Verify(true), SpoolOf::Dir("d".into()))
    );
    assert_eq!(spool("spool export"), options(SpoolAction::Json, installed()));
    assert_eq!(spool("spool export --format csv"), options(SpoolAction::Csv, installed()));
}

#[test]
fn wrong_uses_of_spool_are_answered() {
    for (line, answer) in [
        ("spool show", "spool: ls|dump|verify|export cannot be 'show'; give ls, dump, verify, export"),
        ("spool dump --json", "spool: only ls or verify takes --json; leave that out"),
        ("spool ls --format csv", "spool: only export takes --format; leave that out"),
        ("spool verify --format json", "spool: only export takes --format; leave that out"),
        ("spool export --format xml", "spool: --format cannot be 'xml'; give json, csv"),
        ("spool -c a --dir b", "spool: -c FILE and --dir DIR both say where the records are; leave one"),
    ] {
        assert_eq!(wrong(line), answer, "{line}");
    }
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_answers_or_writes_a_file_and_not_both() {
    let metrics = |line: &str| match parse(line.split(' ').map(OsString::from)) {
        Ok(Invocation::Metrics(options)) => Ok(options),
        Ok(_) => panic!("{line}"),
        Err(error) => Err(error.to_string()),
    };
    let usual = MetricsOptions {
        config: CONFIG.into(),
        listen: None,
        hosts: Vec::new(),
        textfile: None,
        interval: None,
        bounds: edgelat_export::Bounds::default(),
    };
    assert_eq!(metrics("metrics"), Ok(usual.clone()));
    let listen = "[::]:9105".parse().ok();
    assert_eq!(metrics("metrics --listen [::]:9105"), Ok(MetricsOptions { listen, ..usual.clone() }));
    let hosts = vec!["box".to_owned(), "box.lan".to_owned()];
    assert_eq!(metrics("metrics --host box --host=box.lan"), Ok(MetricsOptions { hosts, ..usual.clone() }));
    let four = MetricsOptions {
        textfile: Some("/x.prom".into()),
        interval: Some(Duration::from_secs(15)),
        bounds: edgelat_export::Bounds::per_octave(4).unwrap(),
        ..usual
    };
    assert_eq!(metrics("metrics --textfile /x.prom --interval 15 --buckets-per-octave 4"), Ok(four));
    for (line, said) in [
        ("metrics --listen 9105", "an address with a port"),
        ("metrics --listen box:9105", "an address with a port"),
        ("metrics --interval 15", "--interval"),
        ("metrics --host box:9105", "the name of a host"),
        ("metrics --textfile /x --host box", "--host"),
        ("metrics --textfile /x --listen 127.0.0.1:1", "--listen"),
        ("metrics --buckets-per-octave 3", "1, 2, 4, 8"),
        ("metrics --textfile /x --interval 0", "seconds from 0.1"),
    ] {
        let error = metrics(line).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}

#[cfg(feature = "upload")]
#[test]
fn an_upload_goes_on_or_is_one_or_only_says_what_it_would_be() {
    let upload = |line: &str| match parse(line.split(' ').map(OsString::from)) {
        Ok(Invocation::Upload(options)) => Ok(options),
        Ok(_) => panic!("{line}"),
        Err(error) => Err(error.to_string()),
    };
    let usual = UploadOptions { config: CONFIG.into(), endpoint: None, mode: UploadMode::Service };
    assert_eq!(upload("upload"), Ok(usual.clone()));
    let once =
        UploadOptions { config: "/x".into(), endpoint: Some("http://a".into()), mode: UploadMode::Once };
    assert_eq!(upload("upload -c /x --once --endpoint http://a"), Ok(once));
    assert_eq!(upload("upload --dry-run"), Ok(UploadOptions { mode: UploadMode::DryRun, ..usual.clone() }));
    assert_eq!(upload("upload --via http"), Ok(usual.clone()));
    assert_eq!(upload("upload --via stdout-json"), Ok(UploadOptions { mode: UploadMode::Print, ..usual }));
    for (line, said) in [
        ("upload --dry-run --once", "only sending takes --once"),
        ("upload --via stdout-json --once", "only sending takes --once"),
        ("upload --via stdout-json --dry-run", "only sending takes --dry-run"),
        ("upload --via textfile", "http, stdout-json"),
    ] {
        let error = upload(line).unwrap_err();
        assert!(error.contains(said), "{line}: {error}");
    }
}
