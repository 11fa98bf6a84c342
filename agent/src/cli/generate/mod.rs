//! Files for packagers: man page and shell completions, from the table of [`super::options`].
//!
//! A measured box needs neither, so this is compiled in only with the feature `generate`.

mod completions;
mod man;

pub use man::man;

/// Returns the completion script for a shell of [`super::options::SHELLS`].
pub fn completions(shell: &str) -> String {
    match shell {
        "zsh" => completions::zsh(),
        "fish" => completions::fish(),
        _ => completions::bash(),
    }
}
