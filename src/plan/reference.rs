//! What a cell's divergences are from: weights, kernel set, and whether they can be compared at all.
use indexmap::IndexMap;

use crate::{
    diag::Diagnostic,
    model::{
        tokenizer::{Tokenizer, TokenizerError},
        weights::Weights,
    },
    recipe::{
        Recipe,
        schema::{AxisPoint, KernelSet, KlDivergence, Workload},
    },
};

use super::{
    ModelIdentity, Reference, axes_label,
    identity::{running_set, set_name},
    resolve::Resolver,
};

impl Resolver<'_, '_> {
    /// Returns the references of a recipe by the labels of their workloads; nothing when one cannot
    /// be had, which is reported.
    pub(super) fn references(
        &mut self,
        recipe: &Recipe,
        kernel_set: KernelSet,
        model: &ModelIdentity,
        axes: &AxisPoint,
    ) -> Option<IndexMap<String, Reference>> {
        let mut references = Some(IndexMap::new());
        for (index, workload) in recipe.workloads.iter().enumerate() {
            let Workload::KlDivergence(divergence) = workload else { continue };
            let path = format!("workloads[{index}].kl_divergence.reference");
            match self.reference(recipe, divergence, &path, model) {
                Some(reference) if reference.kernel_set == kernel_set && reference.model.is_same_content(model) => {
                    self.itself(&path, &reference, axes);
                    references = None;
                }
                Some(reference) => {
                    references.as_mut().map(|all| all.insert(workload.to_string(), reference));
                }
                None => references = None,
            }
        }
        references
    }

    fn reference(
        &mut self,
        recipe: &Recipe,
        divergence: &KlDivergence,
        path: &str,
        model: &ModelIdentity,
    ) -> Option<Reference> {
        let mut theirs = divergence.reference.of(recipe);
        // As much context as the cell has, or as much as the reference can hold.
        theirs.model.context_length = None;
        let kernel_set = running_set(theirs.kernels.set);
        self.check_available(path, kernel_set)?;
        let found = self.placed(path, |resolver| resolver.model(&theirs, kernel_set));
        let mut reference = Reference { model: found?, kernel_set };
        let longest = reference.model.context_length;
        reference.model.context_length = longest.min(model.context_length);
        let problem = if divergence.n_ctx > longest {
            let needed = divergence.n_ctx;
            let message = format!("the reference can hold {longest} tokens, windows of {needed} are asked for");
            Diagnostic::error("context-too-short", message).hint("shorten `kl_divergence.n_ctx`")
        } else {
            let why = match self.is_same_vocabulary(recipe, &theirs)? {
                Ok(true) => return Some(reference),
                Ok(false) => "they have different vocabularies".to_owned(),
                Err(error) => format!("a tokenizer cannot be read: {error}"),
            };
            let (ours, theirs) = (&model.name, &reference.model.name);
            let message = format!("predictions of {ours} and its reference {theirs} cannot be compared: {why}");
            Diagnostic::error("vocabulary", message).hint("take a reference with the very same tokenizer")
        };
        let place = self.place(path);
        self.report(problem.at(place));
        None
    }

    fn itself(&mut self, path: &str, reference: &Reference, axes: &AxisPoint) {
        let at = if axes.is_empty() { String::new() } else { format!(" `{}`", axes_label(axes)) };
        let message = format!(
            "the cell{at} would be held against itself: its reference runs the same weights ({}) with the same kernels \
             ({}), and no divergence would be measured",
            reference.model.format,
            set_name(reference.kernel_set)
        );
        let hint = if axes.is_empty() {
            "let `kl_divergence.reference` name another source, format or kernel set"
        } else {
            "take that value out of the matrix, or let `kl_divergence.reference` name something else"
        };
        let place = self.place(path);
        self.report(Diagnostic::error("same-reference", message).at(place).hint(hint));
    }

    /// Returns whether the models of two recipes have the same tokens; nothing when one was not opened.
    fn is_same_vocabulary(&self, ours: &Recipe, theirs: &Recipe) -> Option<Result<bool, TokenizerError>> {
        let (ours, theirs) = (self.opened(ours)?, self.opened(theirs)?);
        Some(if std::ptr::eq(ours, theirs) { Ok(true) } else { is_same_vocabulary(ours, theirs) })
    }
}

fn is_same_vocabulary(ours: &Weights, theirs: &Weights) -> Result<bool, TokenizerError> {
    if ours.spec().vocab_size != theirs.spec().vocab_size {
        return Ok(false);
    }
    let (ours, theirs) = (Tokenizer::new(ours)?, Tokenizer::new(theirs)?);
    let mut ids = 0..u32::try_from(ours.vocab_size()).unwrap_or(u32::MAX);
    Ok(ours.vocab_size() == theirs.vocab_size() && ids.all(|id| ours.piece(id) == theirs.piece(id)))
}
