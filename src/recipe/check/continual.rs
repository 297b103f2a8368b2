//! Rules of continual learning.
use super::Report;
use crate::recipe::schema::{
    AdapterType, Boundaries, Continual, ContinualMethod, DEFAULT_PROMPT, EwcSpace, FisherKind, LrSchedulerType,
    MethodName, Recipe, Task, Training, Workload,
};

pub(super) fn check(recipe: &Recipe, report: &mut Report<'_>) {
    if let Some(continual) = &recipe.continual {
        check_tasks(continual, report);
        let is_constant = |training: &Training| training.lr_scheduler.kind == LrSchedulerType::Constant;
        check_methods(continual, recipe.training.as_ref().is_none_or(is_constant), report);
        check_unused(continual, report);
    }
    check_workload(recipe, report);
}

/// What the workload `continual` needs, and what would be ignored.
fn check_workload(recipe: &Recipe, report: &mut Report<'_>) {
    let is_continual = |workload: &Workload| matches!(workload, Workload::Continual(_));
    let Some(index) = recipe.workloads.iter().position(is_continual) else { return };
    let path = format!("workloads[{index}]");
    let needs = [
        ("continual", recipe.continual.is_some(), "add `continual: {tasks: […]}`"),
        ("adapter", recipe.adapter.is_some(), "add `adapter: {target_modules: [q_proj, v_proj]}`"),
        (
            "training.max_steps",
            recipe.training.as_ref().is_some_and(|t| t.max_steps.is_some()),
            "say how many updates a task gets",
        ),
    ];
    for (key, has, hint) in needs {
        if !has {
            let message = format!("the workload `continual` needs `{key}`");
            report.error(&[key, &path], "needs", message, hint);
        }
    }
    let Some(adapter) = &recipe.adapter else { return };
    let foreign = [
        ("adapter.type", adapter.kind != AdapterType::Lora),
        ("adapter.lora_dropout", adapter.lora_dropout > 0.0),
        ("adapter.init", adapter.init.is_some()),
        (
            "training.loraplus_lr_ratio",
            recipe.training.as_ref().is_some_and(|training| training.loraplus_lr_ratio.is_some()),
        ),
        (
            "training.gradient_accumulation_steps",
            recipe.training.as_ref().is_some_and(|t| t.gradient_accumulation_steps > 1),
        ),
    ];
    for (key, set) in foreign {
        if set {
            let message = format!("the workload `continual` cannot do what `{key}` says");
            report.error(&[key], "unsupported", message, "leave it out");
        }
    }
}

/// Refuses what is written and read by nobody: results would be told from settings that they do not have.
fn check_unused(continual: &Continual, report: &mut Report<'_>) {
    if continual.ewc.is_some() && !continual.methods.is_empty() {
        let message = "`ewc` is read where there are no `methods`, and here are some";
        let hint = "add it to them: `{method: ewc_pp, lambda: [10]}`";
        report.error(&["continual.ewc"], "method", message, hint);
    }
    for (place, own) in continual.methods.iter().enumerate() {
        let (path, method) = (format!("continual.methods[{place}]"), own.method.name());
        for key in unused(own) {
            let message = format!("`{key}` says nothing to `{method}`");
            report.error(&[&format!("{path}.{key}"), &path], "method", message, "leave it out");
        }
    }
}

/// Returns the keys that differ from what they are without being written, and that the method does not read.
fn unused(own: &ContinualMethod) -> impl Iterator<Item = &'static str> {
    use MethodName::{DerPp, Ewc, EwcPp, Online, Replay, Rwalk, Sequential};
    let plain = ContinualMethod::of(own.method, Vec::new());
    let is = |methods: &[MethodName]| methods.contains(&own.method);
    let penalty = own.method.is_penalty();
    let fisher = is(&[Ewc, Online, EwcPp, Rwalk]);
    [
        ("name", own.name == plain.name || !is(&[Sequential])),
        ("fisher_decay", own.fisher_decay == plain.fisher_decay || is(&[Online, EwcPp, Rwalk])),
        ("fisher", own.fisher == plain.fisher || fisher),
        ("fisher_batches", own.fisher_batches == plain.fisher_batches || is(&[Ewc, Online])),
        ("normalize_fisher", own.normalize_fisher == plain.normalize_fisher || fisher),
        ("space", own.space == plain.space || penalty),
        ("penalty_convention", own.penalty_convention == plain.penalty_convention || penalty),
        ("replay_sequences", own.replay_sequences == plain.replay_sequences || is(&[Replay, DerPp])),
        ("logits_weight", own.logits_weight == plain.logits_weight || is(&[DerPp])),
        ("labels_weight", own.labels_weight == plain.labels_weight || is(&[DerPp])),
        ("kept_logits", own.kept_logits == plain.kept_logits || is(&[DerPp])),
        ("boundaries", own.boundaries == plain.boundaries || !is(&[Sequential])),
        (
            "false_alarm_steps",
            own.false_alarm_steps == plain.false_alarm_steps || own.boundaries == Boundaries::Detected,
        ),
    ]
    .into_iter()
    .filter_map(|(key, is_read)| (!is_read).then_some(key))
}

fn check_methods(continual: &Continual, is_constant: bool, report: &mut Report<'_>) {
    let arms = continual.arms();
    let written = continual.methods.iter().enumerate().filter(|(_, own)| own.method != MethodName::Sequential);
    let mut written = written.map(|(place, _)| format!("continual.methods[{place}]"));
    for (index, arm) in arms.iter().skip(1).enumerate() {
        // The first is `sequential`, which is always there.
        let path = written.next().unwrap_or_else(|| "continual.ewc".to_owned());
        let label = arm.label();
        if !label.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.+".contains(letter)) || label.is_empty() {
            let message = format!("`name` is {label:?}, and labels of results are made of it");
            report.error(&[&format!("{path}.name")], "method", message, "take letters, digits, `_`, `-`, `.` and `+`");
        }
        if arms[..=index].iter().any(|earlier| earlier.label() == label) {
            let message = format!("two methods are called `{label}`");
            let hint = "results are stored by that name; give one a `name` of its own";
            report.error(&[&format!("{path}.name"), &path], "duplicate-name", message, hint);
        }
        if arm.method.has_strength() == arm.lambda.is_empty() {
            let (message, hint) = if arm.method.has_strength() {
                ("the method needs at least one strength", "add `lambda: [10, 100]`")
            } else {
                ("`lambda` says nothing to a method without a strength", "leave it out")
            };
            report.error(&[&format!("{path}.lambda"), &path], "method", message, hint);
        }
        for (at, lambda) in arm.lambda.iter().enumerate() {
            if arm.lambda[..at].contains(lambda) || !(lambda.is_finite() && *lambda >= 0.0) {
                let message = format!("`lambda` has {lambda} twice, or it is no strength");
                report.error(
                    &[&format!("{path}.lambda"), &path],
                    "method",
                    message,
                    "strengths are at least 0, each once",
                );
            }
        }
        if arm.method.is_penalty() && arm.fisher == FisherKind::Exact {
            let message = "`exact` takes a backward pass for each token of the vocabulary at each position";
            report.error(&[&format!("{path}.fisher"), &path], "method", message, "take `sampled`, which is unbiased");
        }
        if arm.boundaries == Boundaries::Detected && arm.method == MethodName::Joint {
            let message = "`joint` learns all tasks at once: there is no end of one to be detected";
            report.error(&[&format!("{path}.boundaries"), &path], "method", message, "leave `boundaries` out");
        }
        if matches!(arm.method, MethodName::EwcPp | MethodName::Rwalk) && arm.fisher_decay >= 1.0 {
            let message = "with `fisher_decay: 1` no batch has a weight in the moving average";
            report.error(&[&format!("{path}.fisher_decay"), &path], "method", message, "take less, 0.99 say");
        }
        let one_schedule = arm.method == MethodName::Joint || arm.boundaries == Boundaries::Detected;
        if one_schedule && !is_constant {
            let message = "the learning rate's schedule ends with `training.max_steps`, and this method goes on";
            let hint = "take `lr_scheduler: {type: constant}`, or leave the method out";
            report.error(&[&path], "method", message, hint);
        }
        if arm.method == MethodName::Rwalk && arm.space == EwcSpace::DeltaWRank1 {
            let message = "`rwalk` scores single elements, which importances of rank 1 do not have";
            report.error(&[&format!("{path}.space"), &path], "method", message, "take `delta_w` or `factors`");
        }
    }
}

fn check_tasks(continual: &Continual, report: &mut Report<'_>) {
    let tasks = &continual.tasks;
    if tasks.is_empty() {
        let hint = "add `- {name: a, train: builtin:french.train, test: builtin:french.test}`";
        report.error(&["continual.tasks"], "empty-list", "`continual.tasks` is empty", hint);
    } else if tasks.len() == 1 && continual.ewc.is_some() {
        let message = "`continual.ewc` protects earlier tasks, and there is only one task";
        report.error(&["continual.ewc"], "needs", message, "add a second task, or leave `ewc` out");
    }
    for (index, task) in tasks.iter().enumerate() {
        if tasks[..index].iter().any(|earlier| earlier.name == task.name) {
            let message = format!("two tasks are called `{}`", task.name);
            let hint = "results are stored by that name; give each its own";
            report.error(&[&format!("continual.tasks[{index}].name")], "duplicate-name", message, hint);
        }
        check_prompt(task, &format!("continual.tasks[{index}]"), report);
    }
    for (index, order) in continual.orders.iter().enumerate() {
        let mut named: Vec<&String> = order.iter().collect();
        let mut known: Vec<&String> = tasks.iter().map(|task| &task.name).collect();
        named.sort_unstable();
        known.sort_unstable();
        if named != known {
            let message = format!("the order [{}] does not name every task once", order.join(", "));
            let hint =
                format!("the tasks are {}", known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", "));
            report.error(&[&format!("continual.orders[{index}]"), "continual.orders"], "order", message, &hint);
        }
    }
}

/// What labels follow must have a place for the text, and labels.
fn check_prompt(task: &Task, path: &str, report: &mut Report<'_>) {
    let at = format!("{path}.prompt");
    if task.prompt.matches("{text}").count() != 1 {
        let message = format!("`prompt` is {:?}, and needs `{{text}}` once, where the text stands", task.prompt);
        report.error(&[&at, path], "prompt", message, "write it such as \"{text}\\nTopic:\"");
    }
    if task.labels.is_none() && task.prompt != DEFAULT_PROMPT {
        let message = "`prompt` says nothing to a task without labels";
        report.error(&[&at, path], "no-effect", message, "name a file of `labels`, or leave it out");
    }
}
