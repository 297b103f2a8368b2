//! What an adapter that only pretends to learn would fail.
mod retreat;

use super::*;

const WIDTH: usize = 24;
const VOCAB: usize = 300;

struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn numbers(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * size).collect()
    }
}

/// A head, and requests to it.
struct Head {
    weights: Vec<f32>,
    directions: Directions,
}

/// Inputs of the head, and the tokens that came.
struct Text {
    inputs: Vec<Vec<f32>>,
    tokens: Vec<u32>,
}

impl Head {
    fn new() -> Self {
        let mut random = Random(3);
        let weights = random.numbers(VOCAB * WIDTH, 0.6);
        let inputs: Vec<f32> = (0..64).flat_map(|_| input(&mut random)).collect();
        Self { weights, directions: Directions::principal(&inputs, WIDTH).unwrap() }
    }

    fn micro(&self, settings: Settings) -> MicroLora {
        MicroLora::new(settings, &self.directions, VOCAB).unwrap()
    }

    /// Returns the logits of one position.
    fn logits(&self, micro: &MicroLora, input: &[f32]) -> Vec<f32> {
        let dot = |row: &[f32]| row.iter().zip(input).map(|(w, x)| w * x).sum::<f32>();
        let mut logits: Vec<f32> = self.weights.chunks_exact(WIDTH).map(dot).collect();
        micro.apply(micro.project(input), &mut logits);
        logits
    }

    fn request(&self, micro: &MicroLora, text: &Text) -> Request {
        let mut request = micro.request(text.tokens.len());
        for (input, token) in text.inputs.iter().zip(&text.tokens) {
            request.record(micro.project(input), &self.logits(micro, input), *token).unwrap();
        }
        request
    }

    /// Returns the mean loss from its definition: of `W + s B A`, in f64.
    fn loss(&self, micro: &MicroLora, text: &Text) -> f64 {
        let LowRank { rank, scale, a, b, .. } = micro.low_rank();
        let product = |row: &[f32], input: &[f64]| row.iter().zip(input).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        let one = |(input, token): (&Vec<f32>, &u32)| {
            let input: Vec<f64> = input.iter().map(|x| f64::from(*x)).collect();
            let low: Vec<f64> = a.chunks_exact(WIDTH).map(|row| product(row, &input)).collect();
            let logit = |(row, b): (&[f32], &[f32])| product(row, &input) + f64::from(scale) * product(b, &low);
            let logits: Vec<f64> = self.weights.chunks_exact(WIDTH).zip(b.chunks_exact(rank)).map(logit).collect();
            let total: f64 = logits.iter().map(|x| x.exp()).sum();
            total.ln() - logits[*token as usize]
        };
        text.inputs.iter().zip(&text.tokens).map(one).sum::<f64>() / text.tokens.len() as f64
    }
}

/// An input with a mean, as those of a model's head have.
fn input(random: &mut Random) -> Vec<f32> {
    (0..WIDTH).map(|at| random.next() + if at % 3 == 0 { 0.8 } else { 0.0 }).collect()
}

/// A text of few tokens, many times each.
fn text(seed: u64) -> Text {
    let mut random = Random(seed);
    let inputs: Vec<Vec<f32>> = (0..40).map(|_| input(&mut random)).collect();
    let first = (seed * 37 % VOCAB as u64) as u32;
    let tokens = (0..40).map(|at| (first + at * at % 7) % VOCAB as u32).collect();
    Text { inputs, tokens }
}

fn settings(learning_rate: f32) -> Settings {
    Settings { rule: Rule::Sgd, learning_rate, decay: 0.0, max_step_norm: 1.0, max_norm: 16.0, ..Settings::default() }
}

#[test]
fn losses_fall_by_what_the_gradient_promises() {
    let head = Head::new();
    let (first, second) = (text(1), text(2));
    for top_k in [VOCAB, 32] {
        let mut micro = head.micro(Settings { top_k, ..settings(1.0) });
        // At zero and away from it.
        micro.step(&head.request(&micro, &first), 1.0);
        micro.settings.learning_rate = 1e-3;
        let before = head.loss(&micro, &second);
        let step = micro.step(&head.request(&micro, &second), 1.0);
        let after = head.loss(&micro, &second);
        assert_eq!(step.outcome, Outcome::Applied);
        assert!((step.loss_before - before).abs() <= 1e-5, "{} {before}", step.loss_before);
        let told = step.loss_before - step.loss_after;
        for found in [told, before - after] {
            let ratio = found / step.predicted_decrease;
            assert!((0.95..=1.05).contains(&ratio), "{top_k}: {found:e} of {:e}", step.predicted_decrease);
        }
        let promised = 1e-3 * step.grad_norm * step.grad_norm;
        assert!((step.predicted_decrease / promised - 1.0).abs() <= 1e-5);
    }
}

/// Along a direction that is 1 everywhere, logits move by how often tokens came and were expected to.
#[test]
fn newtons_step_is_what_came_over_what_was_expected() {
    let directions = Directions { width: 1, values: vec![1.0, 0.0] };
    let mut micro = MicroLora::new(Settings { decay: 0.0, top_k: 4, ..Settings::default() }, &directions, 4).unwrap();
    // Likely as 1, 2, 3 and 4 to 10; the first one comes six times of eight.
    let logits: Vec<f32> = (1..=4u8).map(|x| f32::from(x).ln()).collect();
    let came = [0, 0, 0, 1, 0, 0, 3, 0];
    let expected = [0.8, 1.6, 2.4, 3.2];
    let counted = [6.0, 1.0, 0.0, 1.0];
    let mut request = micro.request(8);
    came.iter().for_each(|came| _ = request.record(micro.project(&[1.0]), &logits, *came).unwrap());
    let step = micro.step(&request, 1.0);
    assert_eq!((step.outcome, step.backtracks), (Outcome::Applied, 0), "{step:?}");
    let mut moved = logits.clone();
    micro.apply(micro.project(&[1.0]), &mut moved);
    for (((moved, logit), n), e) in moved.iter().zip(&logits).zip(counted).zip(expected) {
        let right = (n - e) / (PRIOR + CAME * n + (1.0 - CAME) * e);
        assert!((moved - logit - right).abs() <= 1e-5, "{} for {right}", moved - logit);
        // Nearly the logarithm of the ratio.
        assert!((right - ((n + PRIOR) / (e + PRIOR)).ln()).abs() <= 0.4);
    }
    // What came and was expected adds up.
    request.clear();
    came.iter().for_each(|came| _ = request.record(micro.project(&[1.0]), &moved, *came).unwrap());
    micro.step(&request, 1.0);
    let (mut again, total) = (logits.clone(), moved.iter().map(|x| x.exp()).sum::<f32>());
    micro.apply(micro.project(&[1.0]), &mut again);
    for (((again, moved), first), n) in again.iter().zip(&moved).zip(expected).zip(counted) {
        let now = 8.0 * moved.exp() / total;
        let right = (n - now) / (PRIOR + CAME * 2.0 * n + (1.0 - CAME) * (first + now));
        assert!((again - moved - right).abs() <= 1e-5, "{} for {right}", again - moved);
    }
}

/// Rows of tokens that come for the first time move by about the rate, whatever their gradient; others
/// less and less, by the sum of squares of theirs.
#[test]
fn adagrad_gives_each_token_a_rate_of_its_own() {
    let head = Head::new();
    let (first, second) = (text(1), text(2));
    let small = Settings { rule: Rule::AdaGrad, learning_rate: 1e-4, decay: 0.0, top_k: VOCAB, ..Settings::default() };
    let mut plain = head.micro(Settings { rule: Rule::Sgd, learning_rate: 1e-6, ..small });
    let mut micro = head.micro(small);
    let mut squares = vec![0.0f64; VOCAB];
    for text in [&first, &second] {
        let rows = |micro: &MicroLora| micro.b.clone();
        let (before, start) = (rows(&micro), head.loss(&micro, text));
        // Steps so small that gradients are those of an adapter of zeros.
        let from = rows(&plain);
        plain.step(&head.request(&plain, text), 1.0);
        let step = micro.step(&head.request(&micro, text), 1.0);
        assert_eq!(step.outcome, Outcome::Applied);
        let ratio = (start - head.loss(&micro, text)) / step.predicted_decrease;
        assert!((0.95..=1.05).contains(&ratio), "{ratio}");
        for token in 0..VOCAB {
            let gradient = [0, 1].map(|at| f64::from(from[token][at] - plain.b[token][at]) / 1e-6);
            squares[token] += gradient.iter().map(|g| g * g).sum::<f64>();
            let factor = 1e-4 / (squares[token].sqrt() + f64::from(EPSILON));
            for (at, gradient) in gradient.into_iter().enumerate() {
                let moved = f64::from(before[token][at] - micro.b[token][at]);
                assert!((moved - factor * gradient).abs() <= 0.02 * 1e-4, "{token}: {moved:e} for {gradient:e}");
            }
        }
    }
    // What was taken back leaves no trace in the rates either.
    let request = head.request(&micro, &first);
    let taken = (micro.step(&request, 1.0), micro.b.clone());
    assert!(micro.undo());
    let again = micro.step(&request, 1.0);
    assert!(taken.1 == micro.b && taken.0.predicted_decrease.to_bits() == again.predicted_decrease.to_bits());
}

/// The gradient, row by row, against finite differences of the loss.
#[test]
fn the_gradient_is_that_of_the_loss() {
    let head = Head::new();
    let text = text(5);
    let mut micro = head.micro(Settings { top_k: VOCAB, ..settings(1.0) });
    micro.step(&head.request(&micro, &text), 1.0);
    let start = micro.b.clone();
    micro.settings.learning_rate = 1e-2;
    micro.step(&head.request(&micro, &text), 1.0);
    let moved = micro.b.clone();
    for token in [text.tokens[0] as usize, text.tokens[1] as usize, 7, 191] {
        for column in 0..RANK {
            let gradient = f64::from(start[token][column] - moved[token][column]) / 1e-2;
            let mut at = |shift: f32| {
                micro.b.clone_from(&start);
                micro.b[token][column] += shift;
                head.loss(&micro, &text)
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            assert!((gradient - numeric).abs() <= 1e-3 * numeric.abs() + 2e-5, "{token}: {gradient:e} {numeric:e}");
        }
    }
}

#[test]
fn two_requests_make_an_addition_of_rank_two() {
    let head = Head::new();
    let mut micro = head.micro(settings(1.0));
    for seed in [1, 2] {
        let step = micro.step(&head.request(&micro, &text(seed)), 1.0);
        assert_eq!(step.outcome, Outcome::Applied);
    }
    // det(M Mᵀ) / (tr / 2)² is zero for rank one, of both factors.
    let spread = |rows: &mut dyn Iterator<Item = [f64; 2]>| {
        let [mut xx, mut yy, mut xy] = [0.0; 3];
        rows.for_each(|[x, y]| (xx, yy, xy) = (xx + x * x, yy + y * y, xy + x * y));
        (xx * yy - xy * xy) / ((xx + yy) / 2.0).powi(2)
    };
    let LowRank { a, b, .. } = micro.low_rank();
    let of_b = spread(&mut b.chunks_exact(2).map(|row| [f64::from(row[0]), f64::from(row[1])]));
    let of_a = spread(&mut (0..WIDTH).map(|at| [f64::from(a[at]), f64::from(a[WIDTH + at])]));
    assert!(of_b >= 1e-4 && of_a >= 1e-2, "{of_b:e} {of_a:e}");
}

#[test]
fn feedback_turns_the_step_around() {
    let head = Head::new();
    let text = text(4);
    let mut micro = head.micro(settings(1e-2));
    let request = head.request(&micro, &text);
    let before = head.loss(&micro, &text);
    let good = micro.step(&request, 1.0);
    let toward = micro.b.clone();
    assert!(head.loss(&micro, &text) < before - 0.5 * good.predicted_decrease);
    assert!(micro.undo() && micro.is_zero());
    let bad = micro.step(&request, -1.0);
    assert_eq!((good.outcome, bad.outcome), (Outcome::Applied, Outcome::Applied));
    assert!(head.loss(&micro, &text) > before + 0.5 * good.predicted_decrease);
    for (toward, away) in toward.iter().zip(&micro.b) {
        assert!((toward[0] + away[0]).abs() <= 0.0 && (toward[1] + away[1]).abs() <= 0.0);
    }
    assert!(micro.undo());
    assert_eq!(micro.step(&request, 0.0).outcome, Outcome::Rejected);
    assert!(micro.is_zero());
}

#[test]
fn what_learns_nothing_leaves_every_bit() {
    let head = Head::new();
    let mut micro = head.micro(settings(0.0));
    let plain: Vec<Vec<f32>> = text(1).inputs.iter().map(|input| head.logits(&micro, input)).collect();
    for seed in [1, 2, 3] {
        let step = micro.step(&head.request(&micro, &text(seed)), 1.0);
        assert_eq!((step.outcome, step.version), (Outcome::Rejected, seed));
        assert!(step.grad_norm > 0.0);
    }
    let mut signed = vec![-0.0f32; VOCAB];
    micro.apply([1.0, 1.0], &mut signed);
    assert!(signed.iter().all(|x| x.to_bits() == (-0.0f32).to_bits()));
    for (plain, input) in plain.iter().zip(&text(1).inputs) {
        let after = head.logits(&micro, input);
        assert!(plain.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn a_step_too_long_is_shortened_or_left() {
    let head = Head::new();
    let text = text(6);
    for learning_rate in [10.0, 1e3, 1e6] {
        let free = Settings { max_step_norm: 1e9, max_norm: 1e9, backtracks: 20, ..settings(learning_rate) };
        let mut micro = head.micro(free);
        let before = head.loss(&micro, &text);
        let step = micro.step(&head.request(&micro, &text), 1.0);
        let after = head.loss(&micro, &text);
        assert!(after < before, "{learning_rate}: {before} to {after} ({step:?})");
    }
    let mut micro = head.micro(Settings { max_step_norm: 1e9, backtracks: 0, ..settings(1e6) });
    assert_eq!(micro.step(&head.request(&micro, &text), 1.0).outcome, Outcome::Rejected);
    assert!(micro.is_zero());
}

#[test]
fn no_step_and_no_sum_of_them_is_larger_than_its_cap() {
    let head = Head::new();
    let mut micro = head.micro(Settings { max_step_norm: 0.05, max_norm: 0.12, ..settings(5.0) });
    for seed in 1..9 {
        let before = micro.low_rank().b;
        let step = micro.step(&head.request(&micro, &text(1 + seed % 2)), 1.0);
        let moved = micro.low_rank().b.iter().zip(&before).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
        assert!(seed > 2 || (moved.sqrt() - 0.05).abs() <= 1e-3, "{moved}");
        let norm = micro.low_rank().b.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
        assert!(norm <= 0.12 * 1.0001 && (norm - step.norm).abs() <= 1e-4 * norm, "{norm} {}", step.norm);
    }
}

#[test]
fn what_is_learned_fades_and_the_factor_is_folded_in() {
    let head = Head::new();
    let (once, other) = (text(1), text(9));
    let mut micro = head.micro(settings(1.0));
    micro.step(&head.request(&micro, &once), 1.0);
    micro.settings = Settings { decay: 0.5, learning_rate: 0.0, ..micro.settings };
    let mut norm = micro.norm();
    for at in 0..14 {
        let before = micro.low_rank();
        micro.step(&head.request(&micro, &other), 1.0);
        for (now, before) in micro.low_rank().b.iter().zip(&before.b) {
            assert!((now - 0.5 * before).abs() <= 1e-6 * before.abs(), "step {at}");
        }
        assert!((micro.norm() / norm - 0.5).abs() <= 1e-4, "step {at}");
        norm = micro.norm();
    }
    // It was folded in on the way.
    assert!(micro.shrink > 1e-4);
}

#[test]
fn an_adapter_that_makes_requests_worse_is_reset() {
    let head = Head::new();
    let mut micro = head.micro(settings(4.0));
    for _ in 0..3 {
        micro.step(&head.request(&micro, &text(1)), 1.0);
    }
    assert!(micro.norm() > 0.1);
    // Text in which what was learned to be likely never comes.
    let other = Text { tokens: text(1).tokens.iter().map(|token| token + 150).collect(), ..text(1) };
    micro.settings.learning_rate = 0.0;
    let mut outcomes = Vec::new();
    for _ in 0..24 {
        let step = micro.step(&head.request(&micro, &other), 1.0);
        let alone = head.loss(&head.micro(settings(0.0)), &other);
        assert!((step.loss_static - alone).abs() <= 0.02 * alone, "{} {alone}", step.loss_static);
        outcomes.push(step.outcome);
    }
    assert!(outcomes.contains(&Outcome::Reset), "{outcomes:?}");
    assert!(micro.is_zero());
    assert!(!micro.undo() || micro.is_zero());
}

#[test]
fn undoing_restores_every_bit() {
    let head = Head::new();
    let mut micro = head.micro(Settings { decay: 0.1, ..settings(2.0) });
    assert!(!micro.undo());
    micro.step(&head.request(&micro, &text(1)), 1.0);
    let (b, norm) = (micro.low_rank(), micro.norm());
    micro.step(&head.request(&micro, &text(2)), 1.0);
    assert!(micro.low_rank() != b);
    assert!(micro.undo() && micro.low_rank() == b && micro.norm().to_bits() == norm.to_bits());
    assert!(!micro.undo());
    assert_eq!(micro.version(), 3);
}

#[test]
fn rank_one_learns_along_one_direction() {
    let head = Head::new();
    let mut micro = head.micro(Settings { rank: 1, ..settings(1.0) });
    let before = head.loss(&micro, &text(1));
    micro.step(&head.request(&micro, &text(1)), 1.0);
    assert!(head.loss(&micro, &text(1)) < before);
    let LowRank { rank, a, b, .. } = micro.low_rank();
    assert_eq!((rank, a.len(), b.len()), (1, WIDTH, VOCAB));
}

#[test]
fn settings_out_of_range_are_refused() {
    let head = Head::new();
    let wrong = [
        Settings { rank: 3, ..Settings::default() },
        Settings { rank: 0, ..Settings::default() },
        Settings { decay: 1.5, ..Settings::default() },
        Settings { learning_rate: f32::NAN, ..Settings::default() },
        Settings { top_k: 0, ..Settings::default() },
    ];
    for settings in wrong {
        assert!(MicroLora::new(settings, &head.directions, VOCAB).is_err(), "{settings:?}");
    }
    let few = Directions { width: WIDTH, values: vec![0.0; WIDTH] };
    assert!(MicroLora::new(Settings::default(), &few, VOCAB).is_err());
    assert!(MicroLora::check_target(Target::Down).unwrap_err().to_string().contains("lm_head"));
    MicroLora::check_target(Target::Head).unwrap();
}
