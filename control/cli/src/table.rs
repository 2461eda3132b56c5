//! Values as a table.

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde_json::Value;

/// A table of the given keys of each value: no borders, numbers to the right.
pub fn table(values: &[Value], columns: &[&str]) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(columns.iter().map(|c| c.replace('_', " ").to_uppercase()));
    for value in values {
        table.add_row(columns.iter().map(|column| match &value[*column] {
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => text.clone(),
            Value::Bool(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Value::Number(number) if *column == "share" => format!("{number} %"),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        }));
    }
    for (index, column) in columns.iter().enumerate() {
        let is_numeric = |value: &Value| value[*column].is_number() || value[*column].is_null();
        let numeric = values.iter().all(is_numeric) && !values.is_empty();
        if let Some(column) = table.column_mut(index).filter(|_| numeric) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<_> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_row_per_value_and_no_borders() {
        let values = [json!({ "name": "fiber", "share": 50.1, "up": true, "why": "" })];
        let text = table(&values, &["name", "share", "up", "why"]);
        let lines: Vec<_> =
            text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(
            lines,
            [vec!["NAME", "SHARE", "UP", "WHY"], vec!["fiber", "50.1", "%", "yes", "-"]]
        );
    }
}
