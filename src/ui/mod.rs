//! Everything a person sees: the only code that prints.
pub mod diagnostics;
pub mod table;
