//! Plots as SVG files.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 520);
const FONT: &str = "sans-serif";

/// A plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Heading.
    pub title: String,
    /// What the horizontal axis shows.
    pub x: String,
    /// What the vertical axis shows, with its unit; it starts at 0.
    pub y: String,
    /// The data.
    pub data: Data,
}

/// The data of a plot.
#[derive(Clone, Debug)]
pub enum Data {
    /// Curves over a logarithmic axis: name, and points in ascending order.
    Curves(Vec<(String, Vec<(f64, f64)>)>),
    /// Bars in groups, for instance ratios: names of the groups; then name and one height per
    /// group of each kind of bar.
    Bars(Vec<String>, Vec<(String, Vec<f64>)>),
}

impl Plot {
    /// Writes the plot to a file.
    ///
    /// # Errors
    /// When there is nothing to draw, or the file cannot be written.
    pub fn draw(&self, file: &Path) -> Result<()> {
        let failed =
            |error: &dyn std::fmt::Display| anyhow!("cannot draw {}: {error}", file.display());
        let root = SVGBackend::new(file, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        match &self.data {
            Data::Curves(curves) => self.curves(&root, curves).map_err(|e| failed(&e))?,
            Data::Bars(groups, bars) => self.bars(&root, groups, bars).map_err(|e| failed(&e))?,
        }
        root.present().map_err(|e| failed(&e))
    }

    fn curves(&self, root: &Area<'_>, curves: &[(String, Vec<(f64, f64)>)]) -> Result<()> {
        let points = || curves.iter().flat_map(|(_, points)| points.iter().copied());
        let low = points().map(|(x, _)| x).fold(f64::INFINITY, f64::min);
        let high = points().map(|(x, _)| x).fold(0.0, f64::max);
        let top = points().map(|(_, y)| y).fold(0.0, f64::max);
        anyhow::ensure!(low > 0.0 && high > 0.0, "no points on a logarithmic axis");
        let mut chart = ChartBuilder::on(root)
            .caption(&self.title, (FONT, 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d((low / 1.3..high * 1.3).log_scale(), 0.0..top * 1.08)?;
        chart
            .configure_mesh()
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| short(*x))
            .label_style((FONT, 14))
            .draw()?;
        for (index, (name, points)) in curves.iter().enumerate() {
            let style = Palette99::pick(index).stroke_width(2);
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style).point_size(4))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 14))
            .draw()?;
        Ok(())
    }

    fn bars(&self, root: &Area<'_>, groups: &[String], bars: &[(String, Vec<f64>)]) -> Result<()> {
        let top = bars.iter().flat_map(|(_, heights)| heights).copied().fold(0.0, f64::max);
        anyhow::ensure!(!groups.is_empty() && top > 0.0, "no bars");
        let mut chart = ChartBuilder::on(root)
            .caption(&self.title, (FONT, 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..top * 1.15)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .y_desc(&self.y)
            .label_style((FONT, 14))
            .draw()?;
        let width = 0.8 / bars.len() as f64;
        for (index, (name, heights)) in bars.iter().enumerate() {
            let style = Palette99::pick(index).filled();
            let left = |group: usize| group as f64 + 0.1 + index as f64 * width;
            let rectangle = |(group, height): (usize, &f64)| {
                Rectangle::new([(left(group), 0.0), (left(group) + width * 0.92, *height)], style)
            };
            chart
                .draw_series(heights.iter().enumerate().map(rectangle))?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], style));
            let value = |(group, height): (usize, &f64)| {
                let text = crate::section::figure(*height);
                Text::new(text, (left(group), height + top * 0.04), (FONT, 12))
            };
            chart.draw_series(heights.iter().enumerate().map(value))?;
        }
        // The axis has no numbers: each group has its name below it.
        let (plot, base) = (chart.plotting_area(), SIZE.1 as i32 - 48);
        for (group, name) in groups.iter().enumerate() {
            let (x, _) = plot.map_coordinate(&(group as f64 + 0.1, 0.0));
            root.draw(&Text::new(name.as_str(), (x, base), (FONT, 14)))?;
        }
        root.draw(&Text::new(self.x.as_str(), (SIZE.0 as i32 / 2, base + 22), (FONT, 14)))?;
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .label_font((FONT, 14))
            .draw()?;
        Ok(())
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// 65536 as "66k", 1032192 as "1M".
pub fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.3}M", v / 1e6).replace(".000", ""),
        v if v >= 1e3 => format!("{:.0}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(data: Data) -> String {
        let file = std::env::temp_dir().join(format!("weir-plot-{}-{}.svg", std::process::id(), {
            match &data {
                Data::Curves(_) => "curves",
                Data::Bars(..) => "bars",
            }
        }));
        let plot = Plot { title: "A title".into(), x: "x".into(), y: "y".into(), data };
        plot.draw(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        text
    }

    #[test]
    fn a_plot_shows_its_title_and_names() {
        let curves = vec![("first".into(), vec![(1e3, 10.0), (1e6, 90.0)])];
        let svg = drawn(Data::Curves(curves));
        assert!(svg.contains("A title") && svg.contains("first") && svg.contains("<polyline"));
        let bars = vec![("weir".into(), vec![1.0, 2.5])];
        let svg = drawn(Data::Bars(vec!["one".into(), "two".into()], bars));
        assert!(["A title", "weir", "one", "two", "2.5"].iter().all(|text| svg.contains(text)));
    }
}
