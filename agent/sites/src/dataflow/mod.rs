//! What registers hold, followed through all ways of a function: the height of the stack, and what jumps are made of.

pub(crate) mod jump_tables;
pub(crate) mod trace;
mod transfer;
pub(crate) mod value;
