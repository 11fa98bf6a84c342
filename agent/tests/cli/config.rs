//! The configuration file for its user: `check -c`, and the errors of commands that read it.

use super::shell::{Folder, edgelat, edgelat_as_nobody};

const RIGHT: &str = "[[target]]\nname = \"a\"\npid = 1\nfunctions = [\"f\"]\n";
const WRONG: &str = "[agent]\nintervall = \"1s\"\nscan = 2\n";

#[test]
fn a_right_file_is_told_with_its_targets() {
    let folder = Folder::new();
    let file = folder.write("edgelat.toml", RIGHT);
    let ran = edgelat(&["check", "-c", &file]).status(0).quietly();
    let told = ran.stdout();
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines[0], format!("{file}: 1 target, ok"));
    assert!(lines[1].starts_with("the collector runs on ") && lines[1].contains("nice 19"), "{told}");
    // Process 1 has no such function, or may not be examined.
    assert!(lines[2].starts_with("a: ") && lines[2].ends_with(", warning"), "{told}");
    let found = edgelat(&["check", "--json", "-c", &file]).status(0).quietly().json();
    assert_eq!(found.len(), 3);
    assert_eq!((&found[0]["name"], &found[0]["state"]), (&"config".into(), &"ok".into()));
    assert_eq!(found[0]["detail"], format!("{file}: 1 target"));

    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../rootfs/etc/edgelat.toml");
    let ran = edgelat(&["check", "--config", installed]).status(0).quietly();
    assert!(ran.stdout().starts_with(&format!("{installed}: 0 targets, ok\n")));
}

#[test]
fn a_wrong_file_is_told_line_by_line_by_each_command_that_reads_it() {
    let folder = Folder::new();
    let file = folder.write("edgelat.toml", WRONG);
    let expected = [
        format!("edgelat: {file}:2: agent: intervall: there is no such key; did you mean interval?\n"),
        format!(
            "edgelat: {file}:3: agent: scan: cannot be 2; write a time from \"100ms\" to \"1min\", such as \"2s\"\n"
        ),
    ]
    .concat();
    for command in ["check", "run", "quarantine"] {
        let ran = edgelat(&[command, "-c", &file]).status(2);
        assert_eq!((ran.stderr(), ran.stdout()), (expected.clone(), String::new()), "{command}");
    }
    let found = edgelat(&["check", "--json", "-c", &file]).status(2).quietly().json();
    assert_eq!(found.len(), 2);
    assert!(
        found.iter().all(|finding| finding["name"] == "config" && finding["state"] == "wrong"),
        "{found:?}"
    );
    assert_eq!(found[0]["detail"], format!("{file}:2: agent: intervall: there is no such key"));
    assert_eq!(found[0]["next"], "did you mean interval?");
}

#[test]
fn a_file_that_is_not_there_or_not_for_the_caller_is_named() {
    let folder = Folder::new();
    let missing = folder.text("none.toml");
    edgelat(&["run", "-c", &missing]).status(2).says(&format!(
        "edgelat: {missing}: cannot be read: No such file or directory; name a file with -c FILE"
    ));
    let secret = folder.write("secret.toml", RIGHT);
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    edgelat_as_nobody(&["check", "-c", &secret]).status(3).says("cannot be read: Permission denied");
}

#[test]
fn a_file_can_be_checked_without_rights() {
    let folder = Folder::new();
    let file = folder.write("edgelat.toml", RIGHT);
    let path = folder.path("");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    edgelat_as_nobody(&["check", "-c", &file]).status(0).quietly();
}
