//! The defects of loops that reported success and had learned nothing: each must fail a gate that whole loops pass.
use super::*;

/// How loops can be broken on the way from an answer, and what came back for it, to what is learned of both.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    /// A reward is held against itself.
    BaselineOfOwn,
    /// A reward is held against the one before, as if there had been no others.
    BaselineOfLast,
    /// What came back is never set: every record has the reward it was made with.
    NeverSet,
    /// What came back is not looked at: all answers are as good.
    AllAlike,
    /// The gradient is the same whatever was asked.
    ConstantGradient,
    /// What is of another width is left out without a word.
    MismatchSkipped,
}

/// What is left of a request that was read.
struct Read {
    request: crate::adapt::micro_lora::Request,
    recalled: Vec<Recalled>,
    passage: Passage,
    pair: Pair,
}

impl Read {
    fn evidence(&self) -> Evidence<'_> {
        let Self { request, recalled, passage, pair } = self;
        Evidence { request, hidden: &passage.hidden, tokens: &pair.1, recalled }
    }
}

/// Loops that are whole but for a defect.
struct Broken {
    whole: Sona,
    defect: Option<Defect>,
    last: Option<f64>,
    /// What a gradient that is always the same is of.
    fixed: Read,
}

impl Broken {
    fn new(bench: &mut Bench, defect: Option<Defect>) -> Self {
        let whole = bench.sona(small());
        let fixed = read(bench, &whole, bench.requests("german.test", 1).remove(0));
        Self { whole, defect, last: None, fixed }
    }

    /// Ends a request as [`Sona::finish`] does, with the defect in its way.
    fn finish(&mut self, own: Evidence<'_>, feedback: Feedback) -> Result<Option<Account>, SonaError> {
        let Self { whole, defect, last, fixed } = self;
        if let Feedback::Reward(reward) = feedback {
            match defect {
                Some(Defect::BaselineOfOwn) => whole.baseline = Baseline::of(Some(reward)),
                Some(Defect::BaselineOfLast) => whole.baseline = Baseline::of(last.replace(reward)),
                _ => {}
            }
        }
        let feedback = match defect {
            Some(Defect::NeverSet) => Feedback::Reward(0.0),
            Some(Defect::AllAlike) => Feedback::Accepted,
            _ => feedback,
        };
        match defect {
            Some(Defect::MismatchSkipped) if own.check(whole.spec.hidden_size, true).is_err() => return Ok(None),
            Some(Defect::ConstantGradient) => whole.finish(fixed.evidence(), feedback),
            _ => whole.finish(own, feedback),
        }
        .map(|(_, account)| account)
    }

    /// Returns by how much the loss of a request falls where it is learned, with the account of that.
    fn fall(&mut self, bench: &mut Bench, pair: &Pair, feedback: Feedback) -> (f64, Account) {
        let before = read(bench, &self.whole, pair.clone());
        let account = self.finish(before.evidence(), feedback).unwrap().unwrap();
        let after = read(bench, &self.whole, pair.clone());
        let loss = |read: &Read| self.whole.loss(read.evidence()).unwrap();
        (loss(&before) - loss(&after), account)
    }
}

/// Returns a request as it is served now.
fn read(bench: &mut Bench, sona: &Sona, pair: Pair) -> Read {
    let served = sona.serve().unwrap();
    let passage = Passage::read(bench.engine.as_mut(), served.adapter(), &pair.0, &pair.1).unwrap();
    let (mut request, mut recalled) = (sona.request(pair.1.len()), Vec::new());
    let addition = served.addition(bench.engine.spec()).unwrap();
    passage.record(sona.blank(), &addition, &pair.1, &mut request).unwrap();
    sona.recall(&request, &passage.hidden, &pair.1, &mut recalled);
    Read { request, recalled, passage, pair }
}

/// Returns whether every answer that is better than usual becomes likelier, the second of two in a row as well as the
/// first, and one that is worse less likely.
fn outcomes_are_learned(bench: &mut Bench, defect: Option<Defect>) -> bool {
    let mut loops = Broken::new(bench, defect);
    let pairs = bench.requests("python.test", 4);
    let falls = [0.5, 1.0, 1.0, 0.0].iter().zip(&pairs);
    let falls: Vec<f64> = falls.map(|(reward, pair)| loops.fall(bench, pair, Feedback::Reward(*reward)).0).collect();
    falls[0].abs() <= 0.0 && falls[1] > 0.0 && falls[2] > 0.0 && falls[3] < 0.0
}

/// Returns whether the loss of each request falls by what its gradient promises.
fn gradients_keep_their_promise(bench: &mut Bench, defect: Option<Defect>) -> bool {
    ["kjv.test", "python.test"].into_iter().all(|text| {
        let pair = bench.requests(text, 1).remove(0);
        let (fell, account) = Broken::new(bench, defect).fall(bench, &pair, Feedback::Accepted);
        fell > 0.0 && (fell / account.predicted_decrease - 1.0).abs() <= 0.05
    })
}

/// Returns whether what is of another width is refused.
fn other_widths_are_refused(bench: &mut Bench, defect: Option<Defect>) -> bool {
    let mut loops = Broken::new(bench, defect);
    let whole = read(bench, &loops.whole, bench.requests("kjv.test", 1).remove(0));
    let whole = whole.evidence();
    let narrow = Evidence { hidden: &whole.hidden[whole.tokens.len()..], ..whole };
    let short = Evidence { tokens: &whole.tokens[1..], ..whole };
    let forgetful = Evidence { recalled: &whole.recalled[1..], ..whole };
    [narrow, short, forgetful].into_iter().all(|evidence| loops.finish(evidence, Feedback::Accepted).is_err())
}

#[test]
fn loops_whose_rewards_do_not_reach_the_weights_fail() {
    let mut bench = Bench::new();
    assert!(outcomes_are_learned(&mut bench, None));
    for defect in [Defect::BaselineOfOwn, Defect::BaselineOfLast, Defect::NeverSet, Defect::AllAlike] {
        assert!(!outcomes_are_learned(&mut bench, Some(defect)), "{defect:?} passes");
    }
}

#[test]
fn a_gradient_that_is_always_the_same_fails() {
    let mut bench = Bench::new();
    assert!(gradients_keep_their_promise(&mut bench, None));
    assert!(!gradients_keep_their_promise(&mut bench, Some(Defect::ConstantGradient)), "a constant gradient passes");
}

#[test]
fn evidence_of_another_width_that_is_skipped_fails() {
    let mut bench = Bench::new();
    assert!(other_widths_are_refused(&mut bench, None));
    assert!(!other_widths_are_refused(&mut bench, Some(Defect::MismatchSkipped)), "skipping passes");
}
