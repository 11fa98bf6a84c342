//! The records in an image of a file system: its journal is replayed as a mount would, and the files are taken out, without any
//! right.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Zeros are not written: most of an image is.
const BLOCK: usize = 4096;

/// Reasons why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file that this makes cannot be made.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },
    /// A program cannot be started.
    #[error("{program} cannot be started: {error}; cross/setup firmware installs e2fsprogs")]
    Start {
        /// Which.
        program: String,
        /// The reason.
        error: io::Error,
    },
    /// The file system is broken.
    #[error("the file system of the image cannot be used: {0}")]
    FileSystem(String),
    /// The records are not sound.
    #[error("edgelat spool {action} ends with {status}: {said}")]
    Records {
        /// `verify` or `export`.
        action: &'static str,
        /// The exit status.
        status: String,
        /// Its output.
        said: String,
    },
}

/// Takes records out of images.
#[derive(Debug, Clone)]
pub struct Extractor {
    /// The agent, which verifies and exports them.
    pub agent: PathBuf,
    /// Path of the spool in the file system.
    pub place: String,
    /// A folder to work in.
    pub work: PathBuf,
}

impl Extractor {
    /// Output of `edgelat spool export` for an image, after `verify` found its records sound. Empty if there is no
    /// spool yet.
    ///
    /// # Errors
    /// When the file system is broken, or the records are not sound.
    pub fn export(&self, image: &[u8]) -> Result<String, SpoolError> {
        let (file, folder) = (self.work.join("image"), self.work.join("files"));
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| SpoolError::File { path, error }
        };
        write_sparse(&file, image).map_err(failed(&file))?;
        _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).map_err(failed(&folder))?;
        // The same as the kernel at a mount, and nothing more. 1: it changed something; 2 and 4 cannot be.
        let replayed =
            run("e2fsck", &["-E".as_ref(), "journal_only".as_ref(), "-y".as_ref(), file.as_ref()])?;
        if !matches!(replayed.status.code(), Some(0 | 1)) {
            return Err(SpoolError::FileSystem(said(&replayed)));
        }
        let request = format!("rdump {} {}", self.place, folder.display());
        let taken = run("debugfs", &["-R".as_ref(), request.as_ref(), file.as_ref()])?;
        let spool = folder.join(Path::new(&self.place).file_name().unwrap_or_default());
        if !spool.is_dir() {
            let said = said(&taken);
            return if said.contains("File not found") {
                Ok(String::new())
            } else {
                Err(SpoolError::FileSystem(said))
            };
        }
        self.edgelat("verify", &spool)?;
        self.edgelat("export", &spool)
    }

    fn edgelat(&self, action: &'static str, spool: &Path) -> Result<String, SpoolError> {
        let arguments = ["spool".as_ref(), action.as_ref(), "--dir".as_ref(), spool.as_os_str()];
        let output = run(&self.agent.to_string_lossy(), &arguments)?;
        if !output.status.success() {
            return Err(SpoolError::Records {
                action,
                status: output.status.to_string(),
                said: said(&output),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<Output, SpoolError> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program).args(arguments).env("PATH", path).env("LC_ALL", "C").output();
    output.map_err(|error| SpoolError::Start { program: program.to_owned(), error })
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}

/// Writes a file with holes where there are zeros.
///
/// # Errors
/// What the system refuses.
pub fn write_sparse(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    let zeros = [0; BLOCK];
    let mut end = 0;
    for (at, block) in bytes.chunks(BLOCK).enumerate() {
        if *block != zeros[..block.len()] {
            let begin = at * BLOCK;
            if begin != end {
                file.seek(SeekFrom::Start(begin as u64))?;
            }
            file.write_all(block)?;
            end = begin + block.len();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// An image with `files` in it, and one who looks at them: it takes what is in them for records, but not `bad` ones.
    fn exported(name: &str, files: &[(&str, &str)]) -> (Result<String, SpoolError>, PathBuf) {
        let work = std::env::temp_dir().join(format!("edgelat-image-{}-{name}", std::process::id()));
        let tree = work.join("tree");
        fs::create_dir_all(&tree).unwrap();
        for (file, text) in files {
            let file = tree.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let agent = work.join("agent");
        let script = "#!/bin/sh\ncase $2 in export) cat \"$4\"/* ;; verify) ! grep -h bad \"$4\"/* ;; esac\n";
        fs::write(&agent, script).unwrap();
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).unwrap();
        let image = work.join("made");
        let size = 4 << 20;
        write_sparse(&image, &vec![0; size]).unwrap();
        let made = run(
            "mke2fs",
            &["-q".as_ref(), "-t".as_ref(), "ext4".as_ref(), "-d".as_ref(), tree.as_ref(), image.as_ref()],
        );
        assert!(made.as_ref().unwrap().status.success(), "{made:?}");
        let mut bytes = fs::read(&image).unwrap();
        if files.is_empty() {
            // The superblock, and those behind it.
            bytes[1024..size / 2].fill(0xff);
        }
        let extractor = Extractor { agent, place: "/edgelat/spool".to_owned(), work: work.clone() };
        (extractor.export(&bytes), work)
    }

    #[test]
    fn records_are_taken_out_of_a_file_system_that_is_not_mounted() {
        let (found, work) =
            exported("good", &[("edgelat/spool/1", "one\n"), ("edgelat/spool/2", "two\n"), ("other", "x\n")]);
        assert_eq!(found.unwrap(), "one\ntwo\n");
        fs::remove_dir_all(work).unwrap();
    }

    #[test]
    fn where_there_is_no_spool_yet_there_are_no_records() {
        let (found, work) = exported("none", &[("edgelat/other", "x\n")]);
        assert_eq!(found.unwrap(), "");
        fs::remove_dir_all(work).unwrap();
    }

    #[test]
    fn records_that_are_not_sound_and_a_broken_file_system_are_errors() {
        let (found, work) = exported("bad", &[("edgelat/spool/1", "bad record\n")]);
        assert!(
            matches!(&found, Err(SpoolError::Records { action: "verify", said, .. }) if said == "bad record"),
            "{found:?}"
        );
        fs::remove_dir_all(work).unwrap();
        let (found, work) = exported("broken", &[]);
        assert!(matches!(found, Err(SpoolError::FileSystem(_))), "{found:?}");
        fs::remove_dir_all(work).unwrap();
    }
}
