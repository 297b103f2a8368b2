use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let special_tokens = IndexMap::from([("bos_token", "<s>".to_owned()), ("eos_token", "</s>".to_owned())]);
    ChatTemplate::new(source, special_tokens).unwrap()
}

fn render(source: &str, messages: &Json) -> Result<String, ChatTemplateError> {
    let messages = messages.as_array().unwrap();
    let strftime_now = Some((|format: &str| (format == "%d %b %Y").then(|| "26 Jul 2024".to_owned())) as fn(&str) -> _);
    template(source).render(&Conversation { messages, strftime_now, ..Conversation::default() })
}

fn shows(source: &str, expected: &str) {
    let messages = json!([{"role": "user", "content": "a <b> & 'c' \"d\" é", "n": 3, "x": 1e16, "y": 0.5, "z": null}]);
    assert_eq!(render(source, &messages).unwrap(), expected, "{source}");
}

#[test]
fn values_are_printed_as_python_prints_them() {
    shows(
        "{{ none }} {{ true }} {{ false }} {{ messages[0].n }} {{ messages[0].x }} {{ messages[0].y }}",
        "None True False 3 1e+16 0.5",
    );
    shows("{{ [1, 'it''s', none, {'a': 1.0}] }}", "[1, 'its', None, {'a': 1.0}]");
    shows("{{ ['a\n\"\\''] }}", r#"['a\n"\'']"#);
    shows("{{ messages[0].missing }}|{{ missing }}|{{ messages[0].z is defined }}", "||False");
    shows("{{ 'a' ~ (1 | string) ~ (none | string) }}", "a1None");
    shows(
        "{{ messages[0].content is iterable }} {{ 'x' is sequence }} {{ {} is sequence }} {{ 1 is iterable }}",
        "True True True False",
    );
}

#[test]
fn json_is_that_of_python() {
    shows(
        "{{ messages[0] | tojson }}",
        r#"{"role": "user", "content": "a <b> & 'c' \"d\" é", "n": 3, "x": 1e+16, "y": 0.5}"#,
    );
    shows("{{ 'é\u{1f980}\u{7f}' | tojson(ensure_ascii=true) }}", r#""\u00e9\ud83e\udd80\u007f""#);
    shows(
        "{{ {'b': [1, {}], 'a': []} | tojson(indent=2, sort_keys=true) }}",
        "{\n  \"a\": [],\n  \"b\": [\n    1,\n    {}\n  ]\n}",
    );
    shows("{{ [1, {'a': 2}] | tojson(separators=[',', ':']) }}", r#"[1,{"a":2}]"#);
    assert!(matches!(render("{{ [] | tojson(nonsense=1) }}", &json!([])), Err(ChatTemplateError::Failed { .. })));
}

#[test]
fn python_methods_blocks_and_dates_work() {
    shows(
        "{{ 'a-b'.split('-') | join('+') }}{{ ' x '.strip().upper() }}{% for k, v in {'k': 1}.items() %}{{ k }}{{ v }}{% endfor %}",
        "a+bXk1",
    );
    shows("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024");
    shows("a\n  {% if true %}\nb\n  {%- endif %}\nc\n", "a\nbc");
    shows(
        "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% elif i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        "02",
    );
    shows("{{ bos_token }}{{ messages[::-1] | length }}{{ eos_token }}", "<s>1</s>");
}

#[test]
fn what_marks_training_is_ignored() {
    shows("a {%- generation %} {{ '{% x %}' }} {% endgeneration -%} b", "a {% x %} b");
    shows("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1");
}

#[test]
fn a_refusal_is_told_in_the_templates_own_words() {
    let refused = render(
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}",
        &json!([{"role": "system", "content": ""}]),
    );
    assert_eq!(refused, Err(ChatTemplateError::Refused { message: "System role not supported".to_owned() }));
}

#[test]
fn hostile_templates_end() {
    let fails = |source: &str| render(source, &json!([])).unwrap_err();
    let too_much =
        |source: &str| assert!(matches!(fails(source), ChatTemplateError::TooMuch { .. }), "{:?}", fails(source));
    too_much("{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}");
    too_much("{{ 'x' * 1000000000 }}");
    too_much(
        "{% set ns = namespace(t='x') %}{% for i in range(1000) %}{% set ns.t = ns.t + ns.t %}{% endfor %}{{ ns.t }}",
    );
    for (made, turns) in [("[ns.x]", 1000), ("[ns.x, ns.x]", 60), ("{'a': ns.x, 'b': ns.x}", 60)] {
        let nested = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range({turns}) %}}{{% set ns.x = {made} %}}{{% endfor %}}"
        );
        for shown in ["{{ ns.x | tojson }}", "{{ ns.x }}", "{{ ns.x | string }}"] {
            too_much(&format!("{nested}{shown}"));
        }
    }
    too_much("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    for source in [
        "{{ x",
        "{% if %}",
        "{% nonsense %}",
        "{% include 'x' %}",
        &"(".repeat(5000),
        &format!("{{{{ {}1 }}}}", "(".repeat(5000)),
    ] {
        let outcome =
            ChatTemplate::new(source, IndexMap::new()).and_then(|template| template.render(&Conversation::default()));
        assert!(outcome.is_err() || source.starts_with('('), "{source:.60} {outcome:?}");
    }
    let long = " ".repeat(MAX_TEMPLATE_BYTES + 1);
    assert!(matches!(ChatTemplate::new(&long, IndexMap::new()), Err(ChatTemplateError::TemplateTooLong { .. })));
    assert!(fails("line\n{{ 1 + [] }}").to_string().contains("line 2"), "{}", fails("line\n{{ 1 + [] }}"));
}

/// Values that are never shown are only compared and freed.
#[test]
fn deep_values_and_expressions_end_in_no_overflow() {
    let literal = |inner: &str, levels: usize| format!("{}{inner}{}", "[".repeat(levels), "]".repeat(levels));
    let maps = format!("{}ns.x{}", "{'a': ".repeat(40), "}".repeat(40));
    for made in ["[ns.x]", "{'a': ns.x}", "namespace(x=ns.x)", "ns.x | list | batch(1)", &literal("ns.x", 40), &maps] {
        for used in [
            "",
            "{{ ns.x == ns.y }}",
            "{{ ns.x in [ns.y] }}",
            "{{ [ns.x, ns.y] | unique | length }}",
            "{{ ns.x | tojson }}",
        ] {
            let source = format!(
                "{{% set ns = namespace(x=[], y=[]) %}}{{% for i in range(100000) %}}{{% set ns.x = {made} %}}\
                 {{% if i < 20000 %}}{{% set ns.y = ns.x %}}{{% endif %}}{{% if i == 19999 and {} %}}{{% break %}}{{% endif %}}\
                 {{% endfor %}}{used}",
                !used.is_empty()
            );
            match template(&source).render(&Conversation::default()) {
                Ok(text) => assert!(text.len() < 10, "{made} {used}: {text:.50}"),
                Err(error) => assert!(!matches!(error, ChatTemplateError::Refused { .. }), "{made} {used}: {error}"),
            }
        }
    }
    for (start, repeated, end) in
        [("x", ".a", ""), ("1", "+1", ""), ("x", "|list", ""), ("x", "[0]", ""), ("", "not ", "x"), ("x", "()", "")]
    {
        let source = format!("{{{{ {start}{}{end} }}}}", repeated.repeat((MAX_TEMPLATE_BYTES - 20) / repeated.len()));
        // It may be right or wrong; it must come to an end.
        let outcome =
            ChatTemplate::new(&source, IndexMap::new()).and_then(|read| read.render(&Conversation::default()));
        assert!(outcome.is_err() || outcome.is_ok_and(|text| text.len() < 20), "{repeated}");
    }
    // Not by `json!`, which copies what it is given, by calls within calls.
    let deep = (0..90_000).fold(json!([]), |inner, _| Json::Array(vec![inner]));
    let found = render("{{ messages | length }}", &json!([{"role": "user", "content": "x"}]));
    assert_eq!(found, Ok("1".to_owned()));
    let messages = [deep];
    let conversation = Conversation { messages: &messages, ..Conversation::default() };
    assert_eq!(template("").render(&conversation), Err(ChatTemplateError::ConversationTooDeep));
    // serde_json frees it by calls within calls, too.
    std::mem::forget(messages);
}
