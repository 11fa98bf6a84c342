//! What the collector gives up.

use caps::CapSet;
use nix::sys::prctl;

use crate::error::{GuardError, text};

/// Gives up every capability for good: none is held, none can be inherited, and no program that this process might
/// execute brings one.
///
/// # Errors
/// What could not be given up.
pub(crate) fn give_up_rights() -> Result<(), GuardError> {
    // Without CAP_SETPCAP nothing can be taken out of the bounding set, and nothing can come in through it either: no
    // program gives capabilities to a process with no_new_privs.
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        clear(CapSet::Bounding)?;
    }
    // Each subset before the set that it must be in.
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        clear(set)?;
    }
    prctl::set_no_new_privs().map_err(|errno| GuardError::Rights {
        what: text("programs that bring privilege"),
        reason: text(errno.desc()),
    })
}

fn clear(set: CapSet) -> Result<(), GuardError> {
    caps::clear(None, set).map_err(|error| GuardError::Rights {
        what: text(format_args!("the {set:?} capabilities")),
        reason: text(error),
    })
}
