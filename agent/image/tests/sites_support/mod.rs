//! Compiling small sources and reading the result as an image.

use std::path::{Path, PathBuf};
use std::process::Command;

use edgelat_image::{DebugFiles, FunctionTable, Image};

/// A shared object made from a source, in a directory that is removed with it.
pub struct Built {
    directory: PathBuf,
    pub image: Image<Vec<u8>>,
    pub functions: FunctionTable,
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A compiler of the machine, for one of the architectures.
#[derive(Clone, Copy, Debug)]
pub enum Compiler {
    Gcc,
    Clang,
    GccAarch64,
    ClangAarch64,
}

impl Compiler {
    fn command(self) -> Command {
        let native = cfg!(target_arch = "x86_64");
        let (program, arguments): (_, &[&str]) = match (self, native) {
            (Self::Gcc, true) | (Self::GccAarch64, false) => ("gcc", &[]),
            (Self::Gcc, false) => ("x86_64-linux-gnu-gcc", &[]),
            (Self::GccAarch64, true) => ("aarch64-linux-gnu-gcc", &[]),
            (Self::Clang, _) => ("clang", &["--target=x86_64-linux-gnu"]),
            (Self::ClangAarch64, _) => ("clang", &["--target=aarch64-linux-gnu"]),
        };
        let mut command = Command::new(program);
        command.args(arguments);
        command
    }

    fn linker(self) -> &'static str {
        match (self, cfg!(target_arch = "x86_64")) {
            (Self::Gcc | Self::Clang, true) | (Self::GccAarch64 | Self::ClangAarch64, false) => "ld",
            (Self::Gcc | Self::Clang, false) => "x86_64-linux-gnu-ld",
            (Self::GccAarch64 | Self::ClangAarch64, true) => "aarch64-linux-gnu-ld",
        }
    }
}

/// Compiles `source` (C, or assembly if the name ends in `.s`) and links it, without libraries,
/// into a shared object, or into a position-dependent executable with `-no-pie` among the flags.
pub fn build(compiler: Compiler, name: &str, source: &str, flags: &[&str]) -> Built {
    let unique = format!("{name}-{compiler:?}-{}", flags.concat().replace(['/', '='], "_"));
    let directory = std::env::temp_dir().join(format!("edgelat-sites-{}-{unique}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("the temporary directory can be written");
    let (input, object, output) =
        (directory.join(name), directory.join("object.o"), directory.join("image.so"));
    std::fs::write(&input, source).expect("source is written");
    run(compiler.command().args(flags).arg("-c").arg(&input).arg("-o").arg(&object));
    let kind: &[&str] = if flags.contains(&"-no-pie") {
        &["--no-dynamic-linker", "-e", "0", "--unresolved-symbols=ignore-all"]
    } else {
        &["-shared", "-z", "notext", "--eh-frame-hdr"]
    };
    run(Command::new(compiler.linker()).args(kind).arg(&object).arg("-o").arg(&output));
    let (image, functions) = read(&output);
    Built { directory, image, functions }
}

fn read(path: &Path) -> (Image<Vec<u8>>, FunctionTable) {
    let bytes = std::fs::read(path).expect("the linker made it");
    let image = Image::open(bytes).expect("an image");
    let functions = image.functions(&DebugFiles::none(), &mut |_| ()).expect("functions");
    (image, functions)
}

/// Runs a tool and returns its output.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Built {
    /// Returns the path of the linked file.
    pub fn path(&self) -> PathBuf {
        self.directory.join("image.so")
    }

    /// Removes the symbols that a stripped library lacks, and reads the file again.
    #[allow(dead_code, reason = "one of the tests that share this does not strip")]
    pub fn strip(&mut self, compiler: Compiler) {
        let tool = compiler.linker().replace("ld", "strip");
        run(Command::new(tool).arg("--strip-all").arg(self.path()));
        (self.image, self.functions) = read(&self.path());
    }
}
