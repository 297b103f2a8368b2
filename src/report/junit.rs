//! Gates as `JUnit` XML: a suite a comparison, a test case a gate.
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

/// Returns the reports as `JUnit` XML. A regression is a failure; an inconclusive gate and an advisory
/// regression are skipped tests, or failures when `strict`; what cannot be compared is an error.
///
/// # Errors
///
/// If the XML cannot be written.
pub fn junit(reports: &[GateReport], strict: bool) -> Result<String, JunitError> {
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
    Ok(document.to_string()?)
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

/// Returns a gate in one line: values, change, threshold, verdict's reason.
pub(super) fn sentence(gate: &Gate) -> String {
    let unit = number::shown_unit(&gate.unit).0;
    let value = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |v| number::quantity(v, None, &gate.unit));
    let space = if unit.is_empty() { "" } else { " " };
    let change = gate.ratio.as_ref().map_or_else(|| "no change known".to_owned(), number::change);
    let n = gate.ratio.map_or(0, |ratio| ratio.n);
    let reason = gate.reason.as_ref().map_or_else(String::new, |reason| format!("; {reason}"));
    format!(
        "{} -> {}{space}{unit}: {change} (n={n}), fails at {} worse{reason}",
        value(gate.baseline),
        value(gate.candidate),
        number::threshold(gate.threshold),
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
        let xml = junit(&[report(Truth { decode_tok_s: 44.0, noise: 0.004, ..Truth::default() })], false).unwrap();
        insta::assert_snapshot!("junit", xml);
    }

    #[test]
    fn what_cannot_be_compared_is_an_error() {
        let mut run = check(Truth::default(), Truth::default(), 11);
        run.samples.retain(|row| !(row.arm == "candidate" && row.workload.starts_with("decode")));
        let report = gate(compare(&Side::rerun(&manifest(), &run), &Side::of(&run)), &Thresholds::default()).unwrap();
        let xml = junit(&[report], false).unwrap();
        assert!(xml.contains(r#"errors="1""#) && xml.contains("workload: decode(p128,n64) -&gt; -"), "{xml}");
    }

    #[test]
    fn strict_turns_doubt_into_failure() {
        let noisy = report(Truth { noise: 0.2, ..Truth::default() });
        assert!(noisy.gates.iter().any(|gate| gate.verdict == Verdict::Inconclusive));
        assert!(junit(std::slice::from_ref(&noisy), false).unwrap().contains("<skipped"));
        let strict = junit(&[noisy], true).unwrap();
        assert!(!strict.contains("<skipped") && strict.contains("<failure"));
    }
}
