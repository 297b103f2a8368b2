//! Gates as `JUnit` XML: a suite a comparison, a test case a gate; and a suite of the cells they do not tell of.
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{
    compare::Effect,
    gate::{Gate, GateReport, ThresholdSource, Verdict},
    number,
};

/// Why no `JUnit` could be written.
#[derive(Debug, thiserror::Error)]
#[error("junit: {0}")]
pub struct JunitError(#[from] quick_junit::SerializeError);

/// A cell that gates do not tell of, or not all there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// Its recipe's name.
    pub recipe: String,
    /// What it is called.
    pub cell: String,
    /// Why.
    pub cause: Cause,
}

/// Why gates do not tell of a cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A launch failed, for this reason.
    Failed(String),
    /// A signal came before it was checked to the end.
    Stopped,
    /// The baseline has it, and the recipe has none like it.
    Unmatched,
}

/// Returns the reports as `JUnit` XML. A regression is a failure; an inconclusive gate, an advisory
/// regression and a baseline's cell without a candidate are skipped tests, or failures when `strict`;
/// what cannot be compared, failed or was not checked is an error.
///
/// # Errors
///
/// If the XML cannot be written.
pub fn junit(reports: &[GateReport], untold: &[Untold], strict: bool) -> Result<String, JunitError> {
    let mut document = Report::new("ruvlab");
    for report in reports {
        let comparison = &report.comparison;
        let mut suite = TestSuite::new(format!("{}: {}", comparison.recipe, comparison.candidate_label));
        suite.add_property(("baseline", comparison.baseline_run.as_str()));
        suite.add_property(("candidate", comparison.candidate_run.as_str()));
        for difference in &comparison.differences {
            let value = format!("{} -> {}", difference.baseline, difference.candidate);
            suite.add_property((format!("differs: {}", difference.what), value));
        }
        if report.gates.is_empty() {
            suite.add_test_case(not_comparable(report));
        }
        suite.add_test_cases(report.gates.iter().map(|gate| test_case(gate, &comparison.recipe, strict)));
        document.add_test_suite(suite);
    }
    if !untold.is_empty() {
        let mut suite = TestSuite::new("cells");
        suite.add_test_cases(untold.iter().map(|cell| untold_case(cell, strict)));
        document.add_test_suite(suite);
    }
    Ok(document.to_string()?)
}

fn untold_case(untold: &Untold, strict: bool) -> TestCase {
    let error = || TestCaseStatus::non_success(NonSuccessKind::Error);
    let (mut status, kind, message) = match &untold.cause {
        Cause::Failed(reason) => (error(), "failed", reason.as_str()),
        Cause::Stopped => (error(), "not checked", "stopped by a signal before it was checked to the end"),
        Cause::Unmatched => {
            let status =
                if strict { TestCaseStatus::non_success(NonSuccessKind::Failure) } else { TestCaseStatus::skipped() };
            (status, "unmatched", "the baseline has this cell and the recipe none like it, so nothing is said of it")
        }
    };
    status.set_type(kind);
    status.set_message(message);
    let mut case = TestCase::new(untold.cell.as_str(), status);
    case.set_classname(untold.recipe.as_str());
    case
}

fn test_case(gate: &Gate, recipe: &str, strict: bool) -> TestCase {
    let failure = || TestCaseStatus::non_success(NonSuccessKind::Failure);
    let (mut status, kind) = match gate.verdict {
        Verdict::Pass => (TestCaseStatus::success(), None),
        Verdict::Regression if !gate.advisory => (failure(), Some("regression")),
        Verdict::Regression => {
            (if strict { failure() } else { TestCaseStatus::skipped() }, Some("advisory regression"))
        }
        Verdict::Inconclusive => (if strict { failure() } else { TestCaseStatus::skipped() }, Some("inconclusive")),
    };
    if let Some(kind) = kind {
        status.set_type(kind);
        status.set_message(sentence(gate));
    }
    let name =
        if gate.workload.is_empty() { gate.metric.clone() } else { format!("{} {}", gate.metric, gate.workload) };
    let kind = if gate.threshold_source == ThresholdSource::Bound { " bound" } else { "" };
    let mut case = TestCase::new(format!("{name}{kind}"), status);
    case.set_classname(recipe);
    case.set_system_out(sentence(gate));
    case
}

fn not_comparable(report: &GateReport) -> TestCase {
    let forbidden: Vec<String> = report
        .comparison
        .differences
        .iter()
        .filter(|difference| difference.effect == Effect::Forbids)
        .map(|difference| format!("{}: {} -> {}", difference.what, difference.baseline, difference.candidate))
        .collect();
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_type("not comparable");
    status.set_message(if forbidden.is_empty() {
        "no gated metric was measured".to_owned()
    } else {
        forbidden.join("; ")
    });
    let mut case = TestCase::new("comparable", status);
    case.set_classname(&report.comparison.recipe);
    case
}

/// Returns a gate in one line: values, change, at what it fails, verdict's reason.
pub(super) fn sentence(gate: &Gate) -> String {
    let unit = number::shown_unit(&gate.unit).0;
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| number::quantity(v, None, &gate.unit));
    let space = if unit.is_empty() { "" } else { " " };
    let change = gate.ratio.as_ref().map_or_else(|| "no change known".to_owned(), number::change);
    let n = gate.ratio.map_or(0, |ratio| ratio.n);
    let reason = gate.reason.as_ref().map_or_else(String::new, |reason| format!("; {reason}"));
    format!(
        "{} -> {}{space}{unit}: {change} (n={n}), fails at {}{reason}",
        value(gate.baseline),
        value(gate.candidate),
        gate.limit(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{
        compare::{Side, compare},
        gate::{Thresholds, gate},
        testing::{Truth, check, manifest},
    };

    fn report(candidate: Truth) -> GateReport {
        let run = check(Truth::default(), candidate, 11);
        gate(compare(&Side::rerun(&manifest(), &run), &Side::of(&run)), &Thresholds::default()).unwrap()
    }

    #[test]
    fn a_gate_is_a_test_case() {
        let xml = junit(&[report(Truth { decode_tok_s: 44.0, noise: 0.004, ..Truth::default() })], &[], false).unwrap();
        insta::assert_snapshot!("junit", xml);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let mut run = check(Truth::default(), Truth::default(), 11);
        run.samples.retain(|row| !(row.arm == "candidate" && row.workload.starts_with("decode")));
        let report = gate(compare(&Side::rerun(&manifest(), &run), &Side::of(&run)), &Thresholds::default()).unwrap();
        let xml = junit(&[report], &[], false).unwrap();
        assert!(xml.contains(r#"errors="1""#) && xml.contains("workload: decode(p128,n64) -&gt; -"), "{xml}");
    }

    #[test]
    fn strict_turns_doubt_into_failure() {
        let noisy = report(Truth { noise: 0.2, ..Truth::default() });
        assert!(noisy.gates.iter().any(|gate| gate.verdict == Verdict::Inconclusive));
        assert!(junit(std::slice::from_ref(&noisy), &[], false).unwrap().contains("<skipped"));
        let strict = junit(&[noisy], &[], true).unwrap();
        assert!(!strict.contains("<skipped") && strict.contains("<failure"));
    }

    #[test]
    fn a_bound_is_told_as_the_value_it_is() {
        let run = check(Truth::default(), Truth::default(), 11);
        let thresholds = Thresholds { bounds: [("perplexity".to_owned(), 7.25)].into(), ..Thresholds::default() };
        let report = gate(compare(&Side::rerun(&manifest(), &run), &Side::of(&run)), &thresholds).unwrap();
        let bound = report.gates.iter().find(|gate| gate.threshold_source == ThresholdSource::Bound).unwrap();
        assert_eq!(sentence(bound), "7.500 -> 7.500: 0.00 % (n=1), fails at > 7.25");
    }

    #[test]
    fn what_gates_do_not_tell_of_is_a_case_of_its_own() {
        let untold = |cell: &str, cause: Cause| Untold { recipe: "smoke".to_owned(), cell: cell.to_owned(), cause };
        let cells = [
            untold("kernels.set=auto", Cause::Failed("launch 3 (baseline speed): out of memory".to_owned())),
            untold("kernels.set=candle", Cause::Stopped),
            untold("kernels.set=scalar", Cause::Unmatched),
        ];
        let xml = junit(&[], &cells, false).unwrap();
        assert!(xml.contains(r#"<testsuites name="ruvlab" tests="3" skipped="1" failures="0" errors="2">"#), "{xml}");
        assert!(xml.contains(r#"<testcase name="kernels.set=auto" classname="smoke">"#), "{xml}");
        assert!(xml.contains("out of memory") && xml.contains("stopped by a signal"), "{xml}");
        let unmatched = r#"message="the baseline has this cell and the recipe none like it"#;
        assert!(xml.contains(&format!("<skipped {unmatched}")), "{xml}");
        let strict = junit(&[], &cells, true).unwrap();
        assert!(strict.contains(&format!("<failure {unmatched}")) && !strict.contains("<skipped"), "{strict}");
        assert!(!junit(&[], &[], true).unwrap().contains("<testsuite "), "nothing is said of what is not there");
    }
}
