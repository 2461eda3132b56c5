//! What uplinks carry: flows, and the hosts that have them; and what is dropped.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row, Table};

use super::WIDE;
use super::style::Styles;
use crate::flows::Order;
use crate::top::sample::Sample;
use crate::top::screen::Screen;
use crate::top::text::{clean, rate};
use crate::top::walk::FlowLine;

/// The flows that the filter wants, in its order.
pub fn flows(frame: &mut Frame, area: Rect, screen: &Screen, sample: &Sample, styles: Styles) {
    let is_wide = area.width >= WIDE;
    // What the order is by has a column, where that is no rate of bits.
    let (order, figure) = match screen.order {
        Order::Bytes => ("bytes", "IDLE"),
        Order::Packets => ("packets", "PKT/S"),
        Order::Idle => ("idle", "IDLE"),
    };
    let filter = match screen.filter.as_str() {
        "" => String::new(),
        filter => format!(" {}", clean(filter)),
    };
    let head = format!("FLOWS by {order}{filter}: {}", sample.flows.of);
    let heads =
        [head, "DESTINATION".into(), "UPLINK".into(), figure.into(), "IN".into(), "OUT".into()];
    let rows = sample.flows.shown.iter().map(|flow| {
        let told = |key: &str| clean(flow.told[key].as_str().unwrap_or_default());
        let inside = format!("{} {}", told("protocol"), told("inside"));
        let figure = match screen.order {
            Order::Packets => flow.packets.to_string(),
            _ => idle(flow),
        };
        [inside, told("destination"), told("uplink"), figure, rate(flow.rx), rate(flow.tx)]
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Fill(1),
        Constraint::Length(if is_wide { 9 } else { 0 }),
        Constraint::Length(if is_wide { 5 } else { 0 }),
        Constraint::Length(5),
        Constraint::Length(5),
    ];
    frame.render_widget(table(heads, rows, widths, 3, styles), area);
}

/// How long ago the last packet was, the larger unit alone.
fn idle(flow: &FlowLine) -> String {
    let idle = weir_api::time::duration(flow.told["idle_s"].as_u64().unwrap_or_default());
    idle.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The hosts inside that carry most.
pub fn talkers(frame: &mut Frame, area: Rect, sample: &Sample, styles: Styles) {
    let heads = ["HOST", "FLOWS", "IN", "OUT"].map(str::to_owned);
    let rows = sample.flows.talkers.iter().map(|talker| {
        [talker.host.to_string(), talker.flows.to_string(), rate(talker.rx), rate(talker.tx)]
    });
    let figures = Constraint::Length(5);
    let widths = [Constraint::Fill(1), figures, figures, figures];
    frame.render_widget(table(heads, rows, widths, 1, styles), area);
}

/// Why packets are dropped.
pub fn drops(frame: &mut Frame, area: Rect, screen: &Screen, styles: Styles) {
    let heads = ["DROPPED", "PKT/S", "ALL"].map(str::to_owned);
    let rows = screen
        .trends
        .drops()
        .iter()
        .map(|drops| [clean(drops.reason), drops.rate.to_string(), drops.all.to_string()]);
    let widths = [Constraint::Fill(1), Constraint::Length(7), Constraint::Length(9)];
    frame.render_widget(table(heads, rows, widths, 1, styles), area);
}

/// A table whose first `words` columns are words, and the rest figures, which stand to the right.
fn table<const N: usize>(
    heads: [String; N],
    rows: impl Iterator<Item = [String; N]>,
    widths: [Constraint; N],
    words: usize,
    styles: Styles,
) -> Table<'static> {
    let row = |cells: [String; N]| {
        Row::new(cells.into_iter().enumerate().map(|(column, text)| {
            let line = Line::from(text);
            Cell::from(if column < words { line } else { line.right_aligned() })
        }))
    };
    Table::new(rows.map(row), widths).header(row(heads).style(styles.head()))
}
