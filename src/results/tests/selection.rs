//! Choosing runs, and baselines that point to them.
use super::*;

#[test]
fn a_run_is_selected_by_id_beginning_end_cell_and_recipe() {
    let fixture = fixture();
    let axes = |set: &str| serde_json::json!({"kernels.set": set});
    let (auto, reference) = (cell("speed", "ab12", &axes("auto")), cell("speed", "cd34", &axes("reference")));
    let old = fixture.complete(&auto);
    let new = fixture.complete(&auto);
    let other = fixture.complete(&reference);
    let check = fixture.store.create(&auto, RunKind::Check, FILES, &fixture.host).unwrap();
    let check = check.finish(RunState::Complete, None).unwrap().manifest;
    let newest_failed = fixture.begin(&auto).finish(RunState::Failed, Some("x".to_owned())).unwrap().manifest;
    let ids = |selector: &str| {
        let found = fixture.store.select(selector).map_err(|error| error.to_string())?;
        Ok::<_, String>(found.into_iter().map(|manifest| manifest.run_id).collect::<Vec<_>>())
    };
    assert_eq!(ids(&old.run_id), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&old.run_id[..35]), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&old.run_id[24..]), Ok(vec![old.run_id.clone()]));
    assert_eq!(ids(&check.run_id), Ok(vec![check.run_id.clone()]));
    assert_eq!(ids("ab12ab"), Ok(vec![new.run_id.clone()]));
    assert_eq!(ids("speed"), Ok(vec![new.run_id.clone(), other.run_id.clone()]));
    assert_eq!(fixture.store.latest("speed", &auto.hash), Some(new.clone()));
    assert_eq!(fixture.store.latest("speed", &"ee".repeat(32)), None);
    assert_eq!(fixture.store.latest("none", &auto.hash), None);

    let ambiguous = ids(&old.run_id[..6]).unwrap_err();
    assert!([&old, &new, &other, &newest_failed].iter().all(|run| ambiguous.contains(&run.run_id)), "{ambiguous}");
    let typo = ids("sped").unwrap_err();
    assert!(typo.contains("no run, cell or recipe is \"sped\"; there is recipe speed"), "{typo}");
    assert!(ids(&old.run_id[..5]).is_err() && ids("").is_err() && ids("../etc").is_err());

    let plan = Plan { recipe: "speed".to_owned(), source_text: String::new(), cells: vec![reference, auto.clone()] };
    fixture.store.set_plan(&plan).unwrap();
    assert_eq!(ids("speed"), Ok(vec![other.run_id, new.run_id]));
    fixture.store.set_plan(&Plan { cells: vec![cell("speed", "ef56", &axes("auto"))], ..plan }).unwrap();
    let none = ids("speed").unwrap_err();
    assert!(none.contains("recipe speed has no complete run") && none.contains(&newest_failed.run_id), "{none}");
}

#[test]
fn a_machine_goes_by_its_own_runs_and_by_what_was_stopped_last() {
    let fixture = fixture();
    let one = cell("a", "ab", &serde_json::json!({}));
    let elsewhere = Host { host_id: "feedfeedfeedfeed".to_owned(), ..fixture.host.clone() };
    let of_before = Host { ruvlab: "0.0.0".to_owned(), ..fixture.host.clone() };
    let ended = |host: &Host, state: RunState| {
        let writer = fixture.store.create(&one, RunKind::Run, FILES, host).unwrap();
        writer.finish(state, None).unwrap().manifest
    };
    let on = |host: &Host| fixture.store.latest_on(host, "a", &one.hash);
    assert_eq!(on(&fixture.host), None);
    let first = ended(&fixture.host, RunState::Interrupted);
    let own = ended(&fixture.host, RunState::Complete);
    assert_eq!(on(&elsewhere), None);
    let theirs = ended(&elsewhere, RunState::Complete);
    assert_eq!((on(&fixture.host), on(&elsewhere)), (Some(own.clone()), Some(theirs.clone())), "not {}", first.run_id);
    assert_eq!(fixture.store.latest("a", &one.hash), Some(theirs.clone()));
    // Neither what another build began nor what failed stands before what is complete.
    for (host, state) in [(&of_before, RunState::Interrupted), (&fixture.host, RunState::Failed)] {
        ended(host, state);
        assert_eq!(on(&fixture.host), Some(own.clone()));
    }
    let stopped = ended(&fixture.host, RunState::Interrupted);
    assert_eq!((on(&fixture.host), on(&elsewhere)), (Some(stopped.clone()), Some(theirs.clone())));
    assert_eq!(fixture.store.latest("a", &one.hash), Some(theirs), "a complete one before all others");
    let done = fixture.store.reopen(&stopped).unwrap().finish(RunState::Complete, None).unwrap().manifest;
    assert_eq!(on(&fixture.host), Some(done));
}

#[test]
fn a_baseline_points_to_its_runs_and_can_be_run_without_them() {
    let fixture = fixture();
    let cells = [cell("a", "ab", &serde_json::json!({"x": 1})), cell("a", "cd", &serde_json::json!({"x": 2}))];
    let runs: Vec<Manifest> = cells.iter().map(|cell| fixture.complete(cell)).collect();
    let set = fixture.store.set_baseline("main", &runs).unwrap();
    assert_eq!(fixture.store.baseline("main").unwrap(), set);
    assert_eq!(set.cells.iter().map(|pointer| pointer.cell.clone()).collect::<Vec<_>>(), cells);
    assert_eq!(fixture.store.root().join(&set.cells[1].run_path), fixture.store.run_dir(&runs[1]));
    fixture.store.set_baseline("v0.1", &runs[..1]).unwrap();
    let names = |store: &Store| store.baselines().unwrap().into_iter().map(|pointer| pointer.name).collect::<Vec<_>>();
    assert_eq!(names(&fixture.store), ["main", "v0.1"]);
    assert_eq!(fixture.store.list().unwrap().problems, []);

    let unknown = fixture.store.baseline("mian").unwrap_err().to_string();
    assert!(unknown.contains("no baseline is named \"mian\"; there is main, v0.1"), "{unknown}");
    fixture.store.remove_baseline("main").unwrap();
    assert!(fixture.store.remove_baseline("main").is_err());
    assert_eq!(names(&fixture.store), ["v0.1"]);
}

#[test]
fn a_baseline_is_of_complete_runs_of_one_recipe_and_machine() {
    let fixture = fixture();
    let one = cell("a", "ab", &serde_json::json!({}));
    let good = fixture.complete(&one);
    let failed = fixture.begin(&one).finish(RunState::Failed, None).unwrap().manifest;
    let again = fixture.complete(&one);
    let stranger = fixture.complete(&cell("b", "cd", &serde_json::json!({})));
    let problem = |name: &str, runs: &[&Manifest]| {
        let runs: Vec<Manifest> = runs.iter().map(|manifest| (*manifest).clone()).collect();
        fixture.store.set_baseline(name, &runs).unwrap_err().to_string()
    };
    assert!(problem("main", &[&failed]).contains("is failed"));
    assert!(problem("main", &[]).contains("it has no runs"));
    assert!(problem("main", &[&good, &again]).contains("are of one cell"));
    assert!(problem("main", &[&good, &stranger]).contains("is of recipe b"));
    for name in ["", "../main", ".hidden", "a b", "a/b"] {
        assert!(problem(name, &[&good]).contains("cannot name a baseline"), "{name}");
    }
    assert_eq!(fixture.store.baselines().unwrap(), []);
}

#[test]
fn what_a_recipe_has_beside_the_chosen_runs_is_told() {
    let fixture = fixture();
    let axes = |set: &str| serde_json::json!({"kernels.set": set});
    let cells = [cell("a", "ab", &axes("candle")), cell("a", "cd", &axes("reference")), cell("a", "ef", &axes("avx2"))];
    fixture.complete(&cells[0]);
    let failed = fixture.begin(&cells[1]).finish(RunState::Failed, Some("out of memory".to_owned())).unwrap();
    let plan = Plan { recipe: "a".to_owned(), source_text: String::new(), cells: cells.to_vec() };
    fixture.store.set_plan(&plan).unwrap();
    let chosen = fixture.store.select("a").unwrap();
    assert_eq!(chosen.len(), 1);
    let left_out = fixture.store.left_out(&chosen).unwrap();
    let expected =
        [("kernels.set=reference".to_owned(), Some(failed.manifest)), ("cell efefefefefefefef".to_owned(), None)];
    assert_eq!(left_out, expected);
}
