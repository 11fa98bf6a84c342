//! Errors of a run, one variant per step.

use std::io;
use std::path::PathBuf;

/// Reason that the run, or one part of it, ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot run {program}: {source}")]
    Spawn { program: String, source: io::Error },
    #[error("{program} failed ({status}): {output}")]
    Failed { program: String, status: String, output: String },
    #[error("{program} answered what is not understood: {answer}")]
    Answer { program: String, answer: String },
    #[error(
        "{function} starts with {found}, not with {wanted}: this compiler makes other code, adapt tests/bench/targets"
    )]
    Start { function: String, found: String, wanted: &'static str },
    #[error("the empty programs: {step}: {source}")]
    Bpf { step: &'static str, source: libbpf_rs::Error },
    #[error("process {pid} ended, or its {what} cannot be read: {source}")]
    Process { pid: u32, what: &'static str, source: io::Error },
    #[error("process {pid} maps no {file}", file = file.display())]
    NotMapped { pid: u32, file: PathBuf },
    #[error("the array of rows cannot be made or mapped: {0}")]
    Rows(String),
}

/// Wraps the error of a file operation.
pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}
