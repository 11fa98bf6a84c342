//! What packagers need: the man page and the shell completions, from the table of [`super::options`].
//!
//! A box that measures needs neither, so this is compiled in only with the feature `generate`.

mod completions;
mod man;

pub use man::man;

/// The completion script for a shell of [`super::options::SHELLS`].
pub fn completions(shell: &str) -> String {
    match shell {
        "zsh" => completions::zsh(),
        "fish" => completions::fish(),
        _ => completions::bash(),
    }
}
