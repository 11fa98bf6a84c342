//! Register contents along all paths of a function: the stack height, and sources of jump targets.

pub(crate) mod jump_tables;
pub(crate) mod trace;
mod transfer;
pub(crate) mod value;
