//! Rules of adapters and training.
use super::{Report, continual};
use crate::recipe::schema::{
    Adapter, AdapterType, ComposeMethod, KernelSet, LrScheduler, LrSchedulerType, MicroOptimizer, Recipe, TargetModule,
    Training, Workload,
};

pub(super) fn check(recipe: &Recipe, report: &mut Report<'_>) {
    let needs_training = "add `training: {learning_rate: 2.0e-4, max_steps: 100}`";
    if let Some(adapter) = &recipe.adapter {
        let given = adapter.init.is_some() || adapter.compose.is_some();
        if recipe.training.is_none() && !given {
            let message = "`adapter` has neither `training` nor an `init` to start from, so it would stay empty";
            report.error(&["adapter"], "needs", message, needs_training);
        }
        if recipe.training.is_some() && adapter.compose.is_some() {
            let message = "`adapter.compose` is what workloads run with, and `training` begins with one adapter";
            let hint = "make one of them first (`ruvlab adapter compose`) and name it as `init`";
            report.error(&["adapter.compose"], "no-effect", message, hint);
        }
        if adapter.target_modules.is_empty() && !given {
            let hint = "name at least one, such as [q_proj, v_proj]";
            report.error(&["adapter.target_modules"], "empty-list", "`adapter.target_modules` is empty", hint);
        }
    }
    if let Some(adapter) = &recipe.adapter {
        check_adapter(adapter, report);
    }
    if let Some(micro) = &recipe.micro_lora {
        if micro.target_modules != [TargetModule::LmHead] {
            let message = "an adapter that learns from single requests sits on the head alone: what a request leaves \
                           behind has no gradient for other layers";
            let hint = "set `target_modules: [lm_head]`, or train an `adapter`";
            report.error(&["micro_lora.target_modules", "micro_lora"], "target", message, hint);
        }
        let (most, hint) = match micro.optimizer {
            MicroOptimizer::Newton => (2.0, "1 is the whole step; for a rate such as 2.5 set `optimizer: sgd`"),
            MicroOptimizer::Adagrad => (0.9, "0.15 is a good rate"),
            MicroOptimizer::Sgd => (f64::INFINITY, ""),
        };
        if micro.learning_rate > most {
            let message =
                format!("a `learning_rate` of {} is far beyond what the optimizer takes", micro.learning_rate);
            report.error(&["micro_lora.learning_rate", "micro_lora"], "rate", message, hint);
        }
        let adapts = recipe.workloads.iter().any(|workload| matches!(workload, Workload::Adapt(_)));
        if !adapts && recipe.sona.is_none() {
            let message = "`micro_lora` learns from requests, and no workload has any for it";
            report.error(&["micro_lora"], "needs", message, "add `- adapt: {}` to `workloads`");
        }
    }
    if let Some(training) = &recipe.training {
        check_schedule(training, report);
    }
    check_trainings(recipe, report);
    if recipe.continual.is_some() && recipe.training.is_none() {
        report.error(&["continual"], "needs", "`continual` needs `training`", needs_training);
    }
    continual::check(recipe, report);
}

fn check_composed(adapter: &Adapter, report: &mut Report<'_>) {
    let Some(composed) = &adapter.compose else { return };
    if adapter.init.is_some() {
        let message = "`init` is one adapter and `compose` is several: it cannot be both";
        report.error(&["adapter.init"], "no-effect", message, "take one of them out");
    }
    if composed.adapters.is_empty() {
        let message = "`adapter.compose.adapters` is empty";
        report.error(&["adapter.compose.adapters"], "empty-list", message, "name at least one PEFT folder");
    }
    if !composed.weights.is_empty() && composed.weights.len() != composed.adapters.len() {
        let (weights, adapters) = (composed.weights.len(), composed.adapters.len());
        let message = format!("{weights} weights for {adapters} adapters");
        report.error(&["adapter.compose.weights"], "length", message, "give each one, or none for 1 each");
    }
    if composed.method == ComposeMethod::Arrow && composed.temperature <= 0.0 {
        let message = "`temperature` is 0, and scores are divided by it";
        report.error(&["adapter.compose.temperature"], "temperature", message, "for the best alone set `top_k: 1`");
    }
}

fn check_adapter(adapter: &Adapter, report: &mut Report<'_>) {
    check_composed(adapter, report);
    if adapter.lora_dropout >= 1.0 {
        let message = "`lora_dropout: 1` drops everything, and nothing would be learned";
        report.error(&["adapter.lora_dropout"], "dropout", message, "0.05 to 0.1 is usual");
    }
    if adapter.lora_dropout > 0.0 && adapter.kind == AdapterType::Dora {
        let message =
            "a decomposed adapter learns without dropout: PEFT drops what W reads, too, which is not computed";
        report.error(&["adapter.lora_dropout"], "dropout", message, "take it out, or train `type: lora`");
    }
    for (map, given) in
        [("rank_pattern", !adapter.rank_pattern.is_empty()), ("alpha_pattern", !adapter.alpha_pattern.is_empty())]
    {
        if given && adapter.init.is_some() {
            let message = format!("`{map}` says nothing beside `init`, whose ranks and scales are its own");
            report.error(&[&format!("adapter.{map}")], "no-effect", message, "take it out");
        }
    }
    if adapter.rank_pattern.values().any(|rank| *rank == 0) {
        let message = "a rank in `rank_pattern` is 0";
        report.error(
            &["adapter.rank_pattern"],
            "rank",
            message,
            "leave modules without an adapter out of `target_modules`",
        );
    }
}

fn check_trainings(recipe: &Recipe, report: &mut Report<'_>) {
    for (index, workload) in recipe.workloads.iter().enumerate() {
        let Workload::Train(train) = workload else { continue };
        let path = format!("workloads[{index}].train");
        if recipe.adapter.is_none() {
            let hint = "add `adapter: {r: 8, lora_alpha: 16, target_modules: [q_proj, v_proj]}`";
            report.error(&["adapter", &path], "needs", "`train` trains an adapter, and there is none", hint);
        }
        if recipe.training.as_ref().is_none_or(|training| training.max_steps.is_none()) {
            let message = "`train` needs `training` with its `max_steps`";
            let hint = "add `training: {learning_rate: 2.0e-4, max_steps: 100}`";
            report.error(&["training", &path], "needs", message, hint);
        }
        let one = "give one of `text`, `chat` and `ids`";
        if train.source().is_none() {
            report.error(&[&path], "needs", "`train` must name one thing to learn from", one);
        }
        if let Some(eval) = &train.eval
            && eval.source().is_none()
        {
            let at = format!("{path}.eval");
            report.error(&[&at, &path], "needs", "`eval` must name one thing to score", one);
        }
        if recipe.kernels.set == KernelSet::Reference {
            let message = "the `reference` models have no backward pass, and cannot train";
            let hint = "take `kernels.set` out, or set it to `auto` or `candle`";
            report.error(&["kernels.set", &path], "unsupported-training", message, hint);
        }
        let drops = recipe.adapter.as_ref().is_some_and(|adapter| adapter.lora_dropout > 0.0);
        if drops && recipe.kernels.set == KernelSet::Candle {
            let message = "`candle` trains without dropout";
            let hint = "take it out, or set `kernels.set` to `auto`";
            report.error(&["adapter.lora_dropout"], "unsupported-training", message, hint);
        }
    }
}

fn check_schedule(training: &Training, report: &mut Report<'_>) {
    let LrScheduler {
        kind,
        warmup_steps,
        min_lr,
        pct_start,
        div_factor,
        final_div_factor,
        three_phase,
        anneal_strategy,
    } = &training.lr_scheduler;
    let name = match kind {
        LrSchedulerType::Constant => "constant",
        LrSchedulerType::Linear => "linear",
        LrSchedulerType::Cosine => "cosine",
        LrSchedulerType::OneCycle => "one_cycle",
    };
    let one_cycle = &[LrSchedulerType::OneCycle][..];
    let warm = &[LrSchedulerType::Constant, LrSchedulerType::Linear, LrSchedulerType::Cosine][..];
    let keys = [
        ("warmup_steps", warmup_steps.is_some(), warm),
        ("min_lr", min_lr.is_some(), &[LrSchedulerType::Cosine]),
        ("pct_start", pct_start.is_some(), one_cycle),
        ("div_factor", div_factor.is_some(), one_cycle),
        ("final_div_factor", final_div_factor.is_some(), one_cycle),
        ("three_phase", three_phase.is_some(), one_cycle),
        ("anneal_strategy", anneal_strategy.is_some(), one_cycle),
    ];
    for (key, set, kinds) in keys {
        if set && !kinds.contains(kind) {
            let message = format!("`{key}` says nothing to a `{name}` schedule");
            let hint = match kinds {
                [LrSchedulerType::OneCycle] => "leave it out, or choose `type: one_cycle`",
                [LrSchedulerType::Cosine] => "leave it out, or choose `type: cosine`",
                _ => "leave it out, or choose `type: constant`, `linear` or `cosine`",
            };
            report.error(&[&format!("training.lr_scheduler.{key}")], "schedule", message, hint);
        }
    }
    match training.max_steps {
        None if *kind != LrSchedulerType::Constant => {
            let message = format!("a `{name}` schedule ends, and needs `training.max_steps` to know where");
            report.error(&["training.lr_scheduler.type"], "needs", message, "add `max_steps: 100` to `training`");
        }
        Some(steps) if warmup_steps.is_some_and(|warmup| warmup >= steps) => {
            let message = format!("the warm-up is as long as the whole training, {steps} steps");
            report.error(&["training.lr_scheduler.warmup_steps"], "schedule", message, "make it shorter");
        }
        _ => {}
    }
    let peak = training.learning_rate;
    if let Some(floor) = min_lr.filter(|floor| *floor > peak) {
        let message = format!("`min_lr` is {floor}, above the `learning_rate` it falls from, {peak}");
        report.error(&["training.lr_scheduler.min_lr"], "schedule", message, "lower `min_lr`");
    }
}
