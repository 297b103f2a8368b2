//! What a request teaches at once.
use super::*;

/// What a copy of one vector in every row of A or B would leave at rank 1.
#[test]
fn two_requests_leave_two_directions() {
    let mut bench = Bench::new();
    let mut sona = bench.sona(Settings::default());
    for text in ["kjv.test", "python.test"] {
        let pair = bench.requests(text, 1).remove(0);
        let (_, account) = bench.request(&mut sona, &pair, Some(Feedback::Accepted));
        assert_eq!(account.unwrap().decision, Decision::Applied);
    }
    let change = sona.instant().unwrap().micro().low_rank();
    let columns: [Vec<f64>; 2] = [0, 1].map(|k| change.b.iter().skip(k).step_by(2).map(|x| f64::from(*x)).collect());
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let [first, second] = &columns;
    let sine = 1.0 - dot(first, second).powi(2) / (dot(first, first) * dot(second, second));
    assert!(sine >= 0.1, "{sine}: the columns of B lie on one line");
}

/// A pseudo-gradient that is the same whatever was asked promises what does not come.
#[test]
fn the_loss_falls_by_what_the_gradient_promises_and_rises_the_other_way() {
    let mut bench = Bench::new();
    let pair = bench.requests("python.test", 1).remove(0);
    for reward in [None, Some(1.0), Some(-1.0)] {
        let mut sona = bench.sona(small());
        let feedback = match reward {
            None => Feedback::Accepted,
            // After a request without a reward, so that this one is above or below what is usual.
            Some(reward) => {
                bench.request(&mut sona, &pair, Some(Feedback::Reward(0.0)));
                Feedback::Reward(reward)
            }
        };
        let (before, account) = bench.request(&mut sona, &pair, Some(feedback));
        let account = account.unwrap();
        let after = bench.loss(&mut sona, std::slice::from_ref(&pair));
        let sign = reward.unwrap_or(1.0);
        let fell = sign * (before - after);
        assert!(account.predicted_decrease > 0.0 && account.decision == Decision::Applied, "{account:?}");
        assert!((fell / account.predicted_decrease - 1.0).abs() <= 0.05, "{fell:e}, {account:?}");
        assert!((account.loss_before - account.loss_after - fell).abs() <= 0.05 * fell, "{fell:e}, {account:?}");
    }
}

#[test]
fn what_is_learned_of_one_domain_helps_it_more_than_another() {
    let mut bench = Bench::new();
    let [own, other] = ["kjv.test", "python.test"].map(|text| bench.requests(text, 8));
    let mut sona = bench.sona(Settings::default());
    let before = [bench.loss(&mut sona, &own[6..]), bench.loss(&mut sona, &other[6..])];
    own[..6].iter().for_each(|pair| _ = bench.request(&mut sona, pair, Some(Feedback::Accepted)));
    let after = [bench.loss(&mut sona, &own[6..]), bench.loss(&mut sona, &other[6..])];
    let [gained, elsewhere] = [0, 1].map(|at| before[at] - after[at]);
    assert!(gained > 0.0 && gained > elsewhere, "{gained} against {elsewhere}");
}

#[test]
fn a_request_keeps_what_it_was_served_with() {
    let mut bench = Bench::new();
    let pairs = bench.requests("german.test", 2);
    let mut sona = bench.sona(Settings::default());
    let early = sona.serve().unwrap();
    let (_, account) = bench.request(&mut sona, &pairs[0], Some(Feedback::Accepted));
    let late = sona.serve().unwrap();
    assert_eq!(late.version(), account.unwrap().version);
    assert!(early.version() < late.version());
    let spec = bench.engine.spec();
    assert_eq!(early.addition(spec).unwrap(), Addition::none());
    assert!(late.addition(spec).unwrap() != Addition::none());
}

#[test]
fn what_does_not_fit_is_an_error_and_changes_nothing() {
    let mut bench = Bench::new();
    let pair = bench.requests("german.test", 1).remove(0);
    let mut sona = bench.sona(Settings::default());
    let passage = bench.engine.read(&pair.0, &pair.1);
    let mut request = sona.request(0);
    passage.record(sona.blank(), &Addition::none(), &pair.1, &mut request).unwrap();
    let mut recalled = Vec::new();
    sona.recall(&request, &passage.hidden, &pair.1, &mut recalled);
    let whole = Evidence { request: &request, hidden: &passage.hidden, tokens: &pair.1, recalled: &recalled };
    let version = sona.registry().version();
    let narrow = Evidence { hidden: &passage.hidden[1..], ..whole };
    let short = Evidence { tokens: &pair.1[1..], ..whole };
    let forgetful = Evidence { recalled: &recalled[1..], ..whole };
    for wrong in [narrow, short, forgetful] {
        assert!(matches!(sona.finish(wrong, Feedback::Accepted), Err(SonaError::Width { .. })));
        assert!(sona.loss(wrong).is_err());
    }
    assert!(matches!(sona.finish(whole, Feedback::Reward(f64::NAN)), Err(SonaError::Reward(_))));
    assert_eq!((sona.registry().version(), sona.counters().requests), (version, 0));
    assert!(sona.instant().unwrap().micro().is_zero());
    assert!(matches!(Passage::read(bench.engine.as_mut(), None, &[], &pair.1), Err(SonaError::Empty)));
    assert!(matches!(Passage::read(bench.engine.as_mut(), None, &pair.0, &[]), Err(SonaError::Empty)));
}

#[test]
fn the_cache_in_logits_is_the_cache_in_losses() {
    let mut bench = Bench::new();
    let pairs = bench.requests("kjv.test", 2);
    let settings = SonaSettings { instant: Some(CacheSettings::default()), ..instant_only(Settings::default()) };
    let mut sona = bench.sona_of(&settings);
    bench.request(&mut sona, &pairs[0], Some(Feedback::Accepted));
    let passage = bench.engine.read(&pairs[1].0, &pairs[1].1);
    let (width, token) = (bench.directions.width, pairs[1].1[3]);
    let hidden = &passage.hidden[3 * width..][..width];
    let plain = passage.logits[3 * bench.engine.spec().vocab_size..][..bench.engine.spec().vocab_size].to_vec();
    let normaliser = ruvlab_kernels::log_sum_exp_f32(&plain);
    let loss = normaliser - f64::from(plain[token as usize]);
    let recall = sona.instant().unwrap().recall();
    let (mut logits, mut found) = (plain.clone(), Recollection::default());
    recall.mix(hidden, normaliser, &mut logits, &mut found);
    let mixed = ruvlab_kernels::log_sum_exp_f32(&logits) - f64::from(logits[token as usize]);
    let right = recall.mixed_loss(loss, found.of(token));
    assert!((mixed - right).abs() <= 1e-4 && (right - loss).abs() >= 0.005, "{mixed}, {right} from {loss}");
    assert!(logits != plain);
    // The greatest of them are found without the others.
    for k in [1, 5, 40] {
        let (greatest, mut found, mut all) = (TopK::of(&plain, k), Recollection::default(), TopK::new(k));
        recall.mix_greatest(hidden, normaliser, (greatest.entries().unwrap(), &plain), &mut found, &mut all);
        assert_eq!(all, TopK::of(&logits, k));
    }
}

/// A step that makes general text worse by more than it may is taken back as far as that needs.
#[test]
fn general_text_loses_no_more_than_it_may() {
    let mut bench = Bench::new();
    let general = bench.requests("heldout", 8);
    let learn = |bench: &mut Bench, max_drift: Option<f64>| {
        let settings = SonaSettings {
            instant: Some(CacheSettings { share: 0.0, ..CacheSettings::default() }),
            ..instant_only(Settings::default())
        };
        let mut sona = bench.sona_of(&settings);
        if let Some(max_drift) = max_drift {
            sona = sona.with_reserve(bench.engine.as_mut(), general[..4].to_vec(), max_drift).unwrap();
        }
        let lost = |bench: &mut Bench, sona: &mut Sona| bench.loss(sona, &general[..4]);
        let before = lost(bench, &mut sona);
        for pair in bench.requests("python.test", 12) {
            bench.request(&mut sona, &pair, Some(Feedback::Accepted));
        }
        let after = lost(bench, &mut sona);
        (after / before - 1.0, sona.instant().unwrap().micro().norm())
    };
    let (free, _) = learn(&mut bench, None);
    let (held, norm) = learn(&mut bench, Some(0.002));
    assert!(free > 0.01, "{free}: nothing to hold back");
    // What is beyond the likeliest tokens of a position is not looked at.
    assert!(held <= 0.003 && norm > 0.0, "{held}, {norm}");
    let (none, norm) = learn(&mut bench, Some(0.0));
    assert!(none.abs() <= 1e-3 && norm.is_finite(), "{none}, {norm}");
}

#[test]
fn additions_of_other_directions_are_refused() {
    let change = |rank: usize, a: f32, rows: usize| crate::engine::LowRank {
        rank,
        scale: 2.0,
        a: vec![a; rank * 4],
        b: vec![1.0; rows * rank],
        magnitude: None,
    };
    let sum = |parts: &[crate::engine::LowRank]| Addition::of(parts, 4);
    let mut logits = [0.0; 3];
    sum(&[change(2, 1.0, 3), change(2, 1.0, 3)]).unwrap().apply([1.0, 0.5], &mut logits);
    assert!(logits.iter().all(|value| (value - 6.0).abs() <= 1e-6), "{logits:?}");
    for (first, second) in [((2, 1.0, 3), (2, 2.0, 3)), ((2, 1.0, 3), (2, 1.0, 4)), ((2, 1.0, 3), (1, 1.0, 3))] {
        let [first, second] = [first, second].map(|(rank, a, rows)| change(rank, a, rows));
        assert!(matches!(sum(&[first, second]), Err(SonaError::Width { .. })));
    }
    assert!(matches!(Addition::of(&[change(2, 1.0, 3)], 5), Err(SonaError::Width { .. })));
    assert_eq!(Addition::of(&[], 4).unwrap(), Addition::none());
}
