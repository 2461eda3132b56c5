//! What a benchmark returns: one section of the report.

use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::plot::Plot;

/// One benchmark's part of the report.
#[derive(Debug)]
pub struct Section {
    /// Short name: key in the JSON report, prefix of the plots' file names.
    pub name: &'static str,
    /// Heading.
    pub title: String,
    /// How it was measured, and what to know when reading it: one paragraph each.
    pub notes: Vec<String>,
    /// The results with every figure.
    pub json: Value,
    /// The results that matter, for people.
    pub table: Table,
    /// The results as pictures.
    pub plots: Vec<Plot>,
}

impl Section {
    /// The section as Markdown, with its plots as `NAME-N.svg`.
    pub fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        for note in &self.notes {
            text += &format!("{note}\n\n");
        }
        text += &format!("{}\n\n", self.table);
        for (index, plot) in self.plots.iter().enumerate() {
            text += &format!("![{}]({})\n\n", plot.title, self.plot_file(index));
        }
        text
    }

    /// Draws the plots into a directory.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn draw(&self, directory: &Path) -> Result<()> {
        for (index, plot) in self.plots.iter().enumerate() {
            plot.draw(&directory.join(self.plot_file(index)))?;
        }
        Ok(())
    }

    /// Prints the section: JSON for programs, notes and table for people.
    ///
    /// # Errors
    /// Never for the sections of this crate, whose JSON has text keys only.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(&self.json)?);
        } else {
            println!("{}\n", self.title);
            for note in &self.notes {
                println!("{note}\n");
            }
            println!("{}", self.table);
        }
        Ok(())
    }

    fn plot_file(&self, index: usize) -> String {
        format!("{}-{}.svg", self.name, index + 1)
    }
}

/// An empty table with these headings, its first `words` columns text and the others numbers. It
/// is Markdown, and reads well in a terminal.
pub fn table(words: usize, headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(headings);
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The heading of a column, and what it shows of a line.
pub type Column<L> = (&'static str, fn(&L) -> String);

/// A table with a row for each line: what a column shows stands beside its heading. The first
/// `words` columns are text.
pub fn rows<L>(words: usize, lines: &[L], columns: &[Column<L>]) -> Table {
    let headings: Vec<_> = columns.iter().map(|(heading, _)| *heading).collect();
    let mut table = table(words, &headings);
    for line in lines {
        table.add_row(columns.iter().map(|(_, cell)| cell(line)));
    }
    table
}

/// A number with the digits that matter: one decimal below 100.
pub fn figure(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// The middle of some measurements, the mean of both middles of an even number.
///
/// # Panics
/// Without any measurement.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// What so many percent of some measurements do not exceed: the nearest rank.
///
/// # Panics
/// Without any measurement.
pub fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// The least and the greatest of some measurements.
pub fn range(values: &[f64]) -> [f64; 2] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|p| percentile(&values, p)), [100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[7.0], 99.0), 7.0);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
