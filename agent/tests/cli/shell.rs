//! A shell session for tests: runs edgelat, and checks its output and exit status.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

/// A finished run of edgelat.
pub struct Ran {
    line: String,
    output: Output,
}

/// Runs `edgelat` with these arguments.
pub fn edgelat(arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgelat"));
    command.args(arguments).env_remove("NO_COLOR");
    run(command, arguments)
}

/// Runs `edgelat` without rights, as the user and group that own nothing. Requires root.
pub fn edgelat_as_nobody(arguments: &[&str]) -> Ran {
    // The build directory may not be accessible to every user.
    let folder = Folder::new();
    let copy = folder.path("edgelat");
    // Copied by another process: a child forked by this process meanwhile would hold the copy open
    // for writing, and a file that is open for writing cannot be executed.
    succeed(Command::new("cp").args([env!("CARGO_BIN_EXE_edgelat"), &folder.text("edgelat")]));
    fs::set_permissions(folder.0.as_path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(copy);
    command.args(arguments).uid(65_534).gid(65_534).current_dir("/");
    run(command, arguments)
}

fn run(mut command: Command, arguments: &[&str]) -> Ran {
    let output = command.output().expect("edgelat can be started");
    Ran { line: format!("edgelat {}", arguments.join(" ")), output }
}

impl Ran {
    /// Asserts that it ended with this status.
    #[track_caller]
    pub fn status(self, status: i32) -> Self {
        assert_eq!(self.output.status.code(), Some(status), "{}: {:?}", self.line, self.output);
        self
    }

    /// Asserts that standard error has one line, which contains this text.
    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        let said = self.stderr();
        assert!(said.contains(part), "{}: {said}", self.line);
        assert!(said.starts_with("edgelat: ") && said.lines().count() == 1, "{}: {said}", self.line);
        self
    }

    /// Asserts that standard error is empty.
    #[track_caller]
    pub fn quietly(self) -> Self {
        assert_eq!(self.stderr(), "", "{}", self.line);
        self
    }

    /// Asserts that standard output matches the snapshot, or writes it if `EDGELAT_BLESS=1` is set.
    #[track_caller]
    pub fn prints_snapshot(self, name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/snapshots").join(name);
        if std::env::var_os("EDGELAT_BLESS").is_some() {
            fs::write(&path, self.stdout()).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            self.stdout(),
            expected,
            "{} differs from {}; EDGELAT_BLESS=1 takes it over",
            self.line,
            path.display()
        );
        self
    }

    /// Returns standard output.
    pub fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).expect("output is text")
    }

    /// Returns standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).expect("output is text")
    }

    /// Returns standard output as JSON, an object per line.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout().lines().map(parse).collect()
    }
}

/// A folder that is removed at the end of the test.
pub struct Folder(PathBuf);

impl Folder {
    /// Creates an empty folder.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("edgelat-cli-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a folder can be made");
        Self(path)
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns a path in the folder as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("paths of tests are text").to_string()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// Compiles C.
    pub fn compile(&self, name: &str, source: &str, flags: &[&str]) -> String {
        let file = self.write(&format!("{name}.c"), source);
        let program = self.text(name);
        succeed(Command::new("cc").args(["-O1", "-o", &program, &file]).args(flags));
        program
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a tool that has to succeed.
#[track_caller]
pub fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
