//! Everything a person sees: the only code that prints.
pub mod table;
