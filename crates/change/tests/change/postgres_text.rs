//! A reference encoder: what `array_out` and `record_out` print.

/// An array's text, of one dimension.
pub(crate) fn array<'a>(
    elements: impl IntoIterator<Item = Option<&'a str>>,
    delimiter: char,
) -> String {
    let elements = elements.into_iter().map(|element| match element {
        None => "NULL".to_owned(),
        Some(text) => element_text(text, delimiter),
    });
    braces(elements, delimiter)
}

/// An array of one dimension more.
pub(crate) fn braces(inner: impl IntoIterator<Item = String>, delimiter: char) -> String {
    let inner: Vec<String> = inner.into_iter().collect();
    format!("{{{}}}", inner.join(&delimiter.to_string()))
}

fn element_text(text: &str, delimiter: char) -> String {
    let special = |char: char| char == delimiter || "\"\\{} \t\n\r\u{b}\u{c}".contains(char);
    if !text.is_empty() && !text.eq_ignore_ascii_case("NULL") && !text.contains(special) {
        return text.to_owned();
    }
    let escape = |char: char| ["\\", ""][usize::from(!"\"\\".contains(char))];
    let escaped: String = text
        .chars()
        .flat_map(|char| [escape(char).to_owned(), char.to_string()])
        .collect();
    format!("\"{escaped}\"")
}

/// A composite's text.
pub(crate) fn record<'a>(fields: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let fields = fields
        .into_iter()
        .map(|field| field.map_or_else(String::new, field_text));
    format!("({})", fields.collect::<Vec<_>>().join(","))
}

fn field_text(text: &str) -> String {
    let special = |char: char| "\"\\(), \t\n\r\u{b}\u{c}".contains(char);
    if !text.is_empty() && !text.contains(special) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\"\""))
}

/// A text as an SQL literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
