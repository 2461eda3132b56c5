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
    inherit_health(tree.get_mut());
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

/// Gives each uplink with `health` of its own the keys of `[health]` that it lacks. They keep their
/// places, so that what is wrong with them is told where it stands.
fn inherit_health(file: &mut DeTable<'_>) {
    let everywhere = file.get("health").map(|health| health.get_ref().clone());
    let (Some(DeValue::Table(everywhere)), Some(uplinks)) = (everywhere, file.get_mut("uplink"))
    else {
        return;
    };
    let DeValue::Array(uplinks) = uplinks.get_mut() else { return };
    for uplink in uplinks.iter_mut() {
        if let DeValue::Table(uplink) = uplink.get_mut()
            && let Some(own) = uplink.get_mut("health")
            && let DeValue::Table(own) = own.get_mut()
        {
            inherit(own, &everywhere);
        }
    }
}

/// Adds to a table what another one has beyond it, tables within them likewise. A list is one value.
fn inherit<'t>(own: &mut DeTable<'t>, from: &DeTable<'t>) {
    for (key, value) in from.iter() {
        match own.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut) {
            None => _ = own.insert(key.clone(), value.clone()),
            Some(DeValue::Table(own)) => {
                if let DeValue::Table(from) = value.get_ref() {
                    inherit(own, from);
                }
            }
            Some(_) => {}
        }
    }
}

/// Removes the innermost key that has the span in it or in its value, wherever it was inherited;
/// `false` if there is none.
fn leave_out(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    if all(table.iter_mut().map(|(_, value)| value), span) {
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
        DeValue::Array(array) => all(array.iter_mut(), span),
        _ => false,
    }
}

/// Leaves the span out of all of them; `false` if none has it.
fn all<'v, 't: 'v>(
    values: impl Iterator<Item = &'v mut Spanned<DeValue<'t>>>,
    span: &Range<usize>,
) -> bool {
    // Not `any`, which ends with the first.
    values.filter_map(|value| leave_out_within(value, span).then_some(())).count() > 0
}

/// A table is never left out as a whole: what it defines would be missed elsewhere.
fn holds_tables(value: &Spanned<DeValue<'_>>) -> bool {
    match value.get_ref() {
        DeValue::Table(_) => true,
        DeValue::Array(array) => array.iter().any(holds_tables),
        _ => false,
    }
}
