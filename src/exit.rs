//! The documented exit codes.

/// Done; every gate passed.
pub const OK: u8 = 0;
/// An error nobody expected.
pub const UNEXPECTED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The recipe is invalid.
pub const RECIPE: u8 = 3;
/// No cell matched.
pub const NO_CELLS: u8 = 4;
/// The baseline is missing or cannot be compared with.
pub const BASELINE: u8 = 5;
/// Something truly got worse.
pub const REGRESSION: u8 = 10;
/// The measurement does not decide it, and `--strict` was asked for.
pub const INCONCLUSIVE: u8 = 11;
/// Some cells failed; what was measured is kept.
pub const CELLS_FAILED: u8 = 12;
/// A kernel set's numbers differ from the reference's.
pub const NUMERICS: u8 = 13;
/// Weights, texts, memory or a device are missing.
pub const RESOURCE: u8 = 14;
/// Pre-empted: start it again, it goes on where it was.
pub const PREEMPTED: u8 = 75;
/// Interrupted by SIGINT, after a clean flush.
pub const SIGINT: u8 = 130;
/// Terminated by SIGTERM, after a clean flush.
pub const SIGTERM: u8 = 143;

/// All of them, for `--help` and the manual.
pub const HELP: &str = "\
Exit codes:
    0  done; every gate passed
    1  an error nobody expected
    2  the command line is wrong
    3  the recipe is invalid
    4  no cell matched
    5  the baseline is missing or cannot be compared with
   10  something truly got worse
   11  the measurement does not decide it (with --strict)
   12  some cells failed; what was measured is kept
   13  a kernel set's numbers differ from the reference's
   14  weights, texts, memory or a device are missing
   75  pre-empted: start it again, it goes on where it was
  130  interrupted, after a clean flush (143: terminated)";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_every_code() {
        for code in [
            OK,
            UNEXPECTED,
            USAGE,
            RECIPE,
            NO_CELLS,
            BASELINE,
            REGRESSION,
            INCONCLUSIVE,
            CELLS_FAILED,
            NUMERICS,
            RESOURCE,
            PREEMPTED,
            SIGINT,
            SIGTERM,
        ] {
            let listed = HELP.lines().any(|line| line.split_whitespace().next() == Some(&code.to_string()))
                || HELP.contains(&format!("{code}: "));
            assert!(listed, "{code} is not in the help");
        }
    }
}
