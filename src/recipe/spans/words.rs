//! A YAML parser's complaints in plain words.

/// Returns what a parser's message means to a person, and the way out.
pub(super) fn explanation(info: &str) -> Option<(&'static str, &'static str)> {
    const QUOTE: (&str, &str) = ("a quote is opened here and never closed", "close it on the same line");
    const WORDS: [(&str, &str, &str); 12] = [
        (
            "mapping values are not allowed",
            "a second `:` in one value, or a key indented deeper than the line above allows",
            "quote a value that contains `: `, put a space after each key's colon, and line up keys that belong together",
        ),
        (
            "did not find expected key",
            "this line does not line up with the keys above it",
            "keys of one map start in the same column",
        ),
        (
            "did not find expected '-' indicator",
            "this line belongs to a list, and does not start with `-`",
            "items of one list start with `-` in the same column",
        ),
        ("in quoted scalar", QUOTE.0, QUOTE.1),
        ("unexpected end of stream", QUOTE.0, QUOTE.1),
        (
            "invalid trailing content",
            "text follows the closing quote",
            "to write a quote inside single quotes double it: 'it''s'",
        ),
        ("expected ',' or '}'", "this `{` map is not closed", "separate entries with `,` and close with `}`"),
        ("expected ',' or ']'", "this `[` list is not closed", "separate items with `,` and close with `]`"),
        ("illegal placement of ':'", "a `:` inside a list; is a `]` missing above?", "close the list with `]`"),
        ("unexpected character", "a value cannot start with this character", "put the value in quotes"),
        (
            "unknown anchor",
            "an alias without an anchor of that name above it",
            "to mean a text that starts with `*`, quote it",
        ),
        (
            "unprintable character",
            "a control character, which YAML does not allow",
            "remove it, or write it as an escape in double quotes",
        ),
    ];
    WORDS.iter().find(|(part, ..)| info.contains(part)).map(|(_, message, hint)| (*message, *hint))
}
