//! From text to the file's schema, past as many errors as can be told apart.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::place::{Places, Problem};
use super::schema::File;

/// Reads the file. What is refused is left out and reading goes on, so that later errors are found
/// too; `None` when that is not possible.
pub fn read(text: &str, places: &Places<'_>, problems: &mut Vec<Problem>) -> Option<File> {
    let (mut tree, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        problems.extend(syntax.iter().map(|error| places.of_toml(error)));
        return None;
    }
    loop {
        let error = match File::deserialize(Deserializer::from(tree.clone())) {
            Ok(file) => return Some(file),
            Err(error) => error,
        };
        // It may be missing because it was left out, or misspelt, and then all is said.
        if error.message().starts_with("missing field") && !problems.is_empty() {
            return None;
        }
        problems.push(places.of_toml(&error));
        if !error.span().is_some_and(|span| leave_out(tree.get_mut(), &span)) {
            return None;
        }
    }
}

/// Removes the innermost key that has the span in it or in its value; `false` if there is none.
fn leave_out(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    if table.iter_mut().any(|(_, value)| leave_out_within(value, span)) {
        return true;
    }
    let has = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    let found = table
        .iter()
        .find(|(key, value)| has(key.span()) || (has(value.span()) && !holds_tables(value)));
    let key = found.map(|(key, _)| key.clone());
    key.is_some_and(|key| table.remove(&key).is_some())
}

fn leave_out_within(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => leave_out(table, span),
        DeValue::Array(array) => array.iter_mut().any(|value| leave_out_within(value, span)),
        _ => false,
    }
}

/// A table is never left out as a whole: what it defines would be missed elsewhere.
fn holds_tables(value: &Spanned<DeValue<'_>>) -> bool {
    match value.get_ref() {
        DeValue::Table(_) => true,
        DeValue::Array(array) => array.iter().any(holds_tables),
        _ => false,
    }
}
