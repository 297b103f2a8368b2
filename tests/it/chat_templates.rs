//! Chat templates, of real models and our own, against what transformers makes of them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
use std::{collections::BTreeMap, fs};

use indexmap::IndexMap;
use ruvlab::model::chat_template::{ChatTemplate, ChatTemplateError, Conversation};
use serde::Deserialize;
use serde_json::Value as Json;

const FOLDER: &str = "tests/it/chat_templates";

#[derive(Deserialize)]
struct Example {
    name: String,
    messages: Vec<Json>,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
}

/// One of the three is there.
#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    /// What the template raises itself.
    refused: Option<String>,
    /// What Jinja or Python raises.
    fails: Option<String>,
}

fn read<T: for<'a> Deserialize<'a>>(name: &str) -> T {
    serde_json::from_slice(&fs::read(format!("{FOLDER}/{name}")).unwrap()).unwrap()
}

/// The day on which the reference was rendered.
fn stopped_clock(format: &str) -> Option<String> {
    let day = jiff::civil::date(2024, 7, 26);
    jiff::fmt::strtime::format(format, day.at(0, 0, 0, 0)).ok()
}

#[test]
fn conversations_render_as_in_transformers() {
    let examples: BTreeMap<String, Example> =
        read::<Vec<Example>>("conversations.json").into_iter().map(|example| (example.name.clone(), example)).collect();
    let mut wrong = Vec::new();
    let (mut texts, mut refusals) = (0, 0);
    for case in read::<Vec<Case>>("expected.json") {
        let source = fs::read_to_string(format!("{FOLDER}/{}.jinja", case.template)).unwrap();
        let special_tokens = IndexMap::from([("bos_token", "<bos>".to_owned()), ("eos_token", "<eos>".to_owned())]);
        let example = &examples[&case.conversation];
        let found = ChatTemplate::new(&source, special_tokens).unwrap().render(&Conversation {
            messages: &example.messages,
            tools: example.tools.as_deref(),
            documents: example.documents.as_deref(),
            add_generation_prompt: case.add_generation_prompt,
            strftime_now: Some(stopped_clock),
        });
        let as_expected = match (&case.text, &case.refused, &case.fails, &found) {
            (Some(text), None, None, Ok(found)) => {
                texts += 1;
                text == found
            }
            (None, Some(message), None, Err(ChatTemplateError::Refused { message: found })) => {
                refusals += 1;
                message == found
            }
            (None, None, Some(_), Err(ChatTemplateError::Failed { .. })) => true,
            _ => false,
        };
        if !as_expected {
            let Case { template, conversation, add_generation_prompt, text, refused, fails } = case;
            wrong.push(format!(
                "{template}, {conversation}, {add_generation_prompt}: {found:?}\n  expected {text:?} {refused:?} {fails:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(texts >= 180 && refusals >= 25, "{texts} texts, {refusals} refusals");
}
