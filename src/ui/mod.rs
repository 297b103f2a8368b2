//! Everything a person sees: the only code that prints.
pub mod diagnostics;
mod printer;
mod progress;
mod steps;
pub mod table;
mod transfer;

pub use printer::Printer;
pub use progress::Progress;
pub use steps::Steps;
pub use transfer::Transfer;
