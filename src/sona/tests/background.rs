//! Background steps, and what they are served to.
use super::*;

/// Loops with requests of two domains behind them, and background steps after each.
fn with_background(bench: &mut Bench, instant: Option<CacheSettings>) -> (Sona, Vec<Account>) {
    let settings = SonaSettings { micro: Settings::default(), instant, background: Some(BACKGROUND), memory: MEMORY };
    let mut sona = bench.sona_of(&settings);
    let mut accounts = Vec::new();
    let texts = ["kjv.test", "python.test"].map(|text| bench.requests(text, 20));
    for at in 0..20 {
        for pairs in &texts {
            bench.request(&mut sona, &pairs[at], Some(Feedback::Accepted));
            accounts.extend(sona.step(bench.engine.as_mut()).unwrap());
        }
    }
    (sona, accounts)
}

#[test]
fn a_background_step_changes_what_is_served_only_where_held_out_requests_gain() {
    let mut bench = Bench::new();
    let (mut sona, accounts) = with_background(&mut bench, None);
    let of = |wanted: Decision| accounts.iter().filter(move |account| account.decision == wanted);
    assert!(of(Decision::Applied).count() >= 8, "{accounts:?}");
    assert!(of(Decision::Applied).all(|account| account.loss_after <= account.loss_before));
    assert!(accounts.iter().all(|account| account.of == LoopKind::Background && account.version > 0));
    let micros = sona.background().unwrap().micros();
    assert!(micros.iter().any(|micro| !micro.is_zero()));
    // And what is served is what was learned: unseen requests of both domains gain.
    let unseen = [&bench.requests("kjv.test", 24)[20..], &bench.requests("python.test", 24)[20..]].concat();
    let plain: f64 = unseen
        .iter()
        .map(|(prompt, answer)| bench.engine.read(prompt, answer).loss(sona.blank(), &Addition::none(), answer))
        .sum();
    let served = bench.loss(&mut sona, &unseen) * unseen.len() as f64;
    assert!(served < plain, "{served} after {plain}");
}

#[test]
fn a_slice_is_a_part_of_a_step_and_requests_go_on_between_slices() {
    let mut bench = Bench::new();
    let (mut sona, _) = with_background(&mut bench, Some(CacheSettings::default()));
    let pair = bench.requests("german.test", 1).remove(0);
    let before = sona.serve().unwrap().version();
    let mut slices = 0;
    loop {
        let (time, account) = sona.slice(bench.engine.as_mut()).unwrap().unwrap();
        assert!(time.as_nanos() > 0);
        slices += 1;
        if let Some(account) = account {
            assert!(slices >= 2 && account.time > time, "{slices} slices");
            break;
        }
        assert!(sona.background().unwrap().is_busy());
        assert_eq!(sona.serve().unwrap().version(), before);
        bench.request(&mut sona, &pair, None);
    }
    assert!(!sona.background().unwrap().is_busy());
    let mut off = bench.sona(Settings::default());
    assert!(matches!(off.slice(bench.engine.as_mut()), Err(SonaError::Off("background"))));
}

#[test]
fn requests_are_served_with_what_was_learned_of_their_kind() {
    let mut bench = Bench::new();
    let (sona, _) = with_background(&mut bench, None);
    let mut kinds: [Vec<usize>; 2] = [Vec::new(), Vec::new()];
    for (of, text) in ["kjv.test", "python.test"].into_iter().enumerate() {
        for (prompt, answer) in &bench.requests(text, 28)[20..] {
            let passage = bench.engine.read(prompt, answer);
            let mut served = sona.serve().unwrap();
            assert_eq!(served.pattern(), None);
            sona.recognise(&mut served, &passage.prompt).unwrap();
            kinds[of].push(served.pattern().unwrap());
        }
    }
    // The two domains are told apart by their prompts, most of the time.
    let most = |of: &[usize]| (0..3).max_by_key(|at| of.iter().filter(|own| *own == at).count()).unwrap();
    let [kjv, python] = [most(&kinds[0]), most(&kinds[1])];
    assert!(kjv != python, "{kinds:?}");
    let mut served = sona.serve().unwrap();
    assert!(sona.serve_as(&mut served, 9).is_err());
}

/// A model whose tokens take their time.
struct Slow<'a> {
    model: &'a mut dyn LanguageModel,
    token: Duration,
}

impl LanguageModel for Slow<'_> {
    fn spec(&self) -> &crate::model::spec::ModelSpec {
        self.model.spec()
    }

    fn context_length(&self) -> usize {
        self.model.context_length()
    }

    fn open(&mut self) -> Result<engine::SequenceId, EngineError> {
        self.model.open()
    }

    fn fork(&mut self, sequence: engine::SequenceId) -> Result<engine::SequenceId, EngineError> {
        self.model.fork(sequence)
    }

    fn close(&mut self, sequence: engine::SequenceId) {
        self.model.close(sequence);
    }

    fn attach(
        &mut self,
        sequence: engine::SequenceId,
        adapter: Option<Arc<engine::Adapter>>,
    ) -> Result<(), EngineError> {
        self.model.attach(sequence, adapter)
    }

    fn step(&mut self, batch: &[engine::Chunk<'_>]) -> Result<Vec<engine::Logits>, EngineError> {
        let tokens: usize = batch.iter().map(|chunk| chunk.tokens.len()).sum();
        std::thread::sleep(self.token * tokens as u32);
        self.model.step(batch)
    }

    fn keep_hidden(&mut self, keep: bool) -> Result<(), EngineError> {
        self.model.keep_hidden(keep)
    }

    fn hidden(&self) -> &[f32] {
        self.model.hidden()
    }
}

/// A request of 48 tokens takes longer than a slice may: it is read in parts, none of which is too long.
#[test]
fn no_slice_takes_longer_than_it_may() {
    const MOST: Duration = Duration::from_millis(120);
    let mut bench = Bench::new();
    let background = Some(BackgroundSettings { slice: Some(MOST), ..BACKGROUND });
    let settings = SonaSettings { micro: Settings::default(), instant: None, background, memory: MEMORY };
    let mut sona = bench.sona_of(&settings);
    for pair in bench.requests("kjv.test", 12) {
        bench.request(&mut sona, &pair, Some(Feedback::Accepted));
    }
    let mut slow = Slow { model: bench.engine.as_mut(), token: Duration::from_millis(5) };
    let mut slices = Vec::new();
    while let Some((time, account)) = sona.slice(&mut slow).unwrap() {
        slices.push(time);
        if account.is_some_and(|account| account.decision != Decision::Unjudged) {
            break;
        }
    }
    assert!(slices.len() >= 8 && slices.iter().all(|time| *time <= MOST), "{slices:?}");
    let read: Duration = slices.iter().sum();
    assert!(read >= MOST * 3, "{read:?}: not all of a step was read");
}
