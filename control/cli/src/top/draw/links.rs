//! Uplinks, the targets of the selected one, and policies.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};
use serde_json::Value;

use super::WIDE;
use super::style::Styles;
use crate::figures::answers;
use crate::top::sample::{PathSample, Sample};
use crate::top::screen::Screen;
use crate::top::text::{bars, clean, percent, rate};

/// So many bars in each direction.
const BARS: u16 = 8;

/// Which column, and how wide it is; none: it takes what is left.
type Column = (&'static str, Option<u16>);

const ALL: [Column; 10] = [
    ("UPLINK", None),
    ("STATE", Some(9)),
    ("WGHT", Some(5)),
    ("WANT", Some(4)),
    ("GOT", Some(4)),
    ("IN", Some(5)),
    ("", Some(BARS)),
    ("OUT", Some(5)),
    ("", Some(BARS)),
    ("LOAD", Some(4)),
];
const FEW: [Column; 4] = [("UPLINK", None), ("STATE", Some(9)), ("IN", Some(5)), ("OUT", Some(5))];

/// The uplinks, those that need somebody first.
pub fn uplinks(frame: &mut Frame, area: Rect, screen: &Screen, sample: &Sample, styles: Styles) {
    let is_wide = area.width >= WIDE;
    let columns: &[Column] = if is_wide { &ALL } else { &FEW };
    let rows = sample.ordered().into_iter().map(|path| {
        let [name, state, rx, rx_bars, tx, tx_bars] = common(path, screen);
        let cells = match is_wide {
            false => vec![name, state, rx, tx],
            true => {
                let got = percent(screen.trends.began_percent(&path.label));
                let load = percent(path.load_percent().map(|load| load as f64));
                let (weight, want) = (path.weight.to_string(), percent(Some(path.share)));
                vec![name, state, weight, want, got, rx, rx_bars, tx, tx_bars, load]
            }
        };
        row(cells, columns).style(styles.of(path.standing()))
    });
    let table = table(rows, columns, styles)
        .highlight_symbol("> ")
        .row_highlight_style(Style::new().bold());
    let mut state = TableState::new().with_selected(Some(screen.row()));
    frame.render_stateful_widget(table, area, &mut state);
}

/// Name, state, and of both directions rate and bars.
fn common(path: &PathSample, screen: &Screen) -> [String; 6] {
    let trend = screen.trends.path(&path.label);
    let newest = |ring: Option<&std::collections::VecDeque<u64>>| {
        ring.and_then(|ring| ring.back()).map_or_else(|| "-".into(), |bits| rate(*bits))
    };
    let drawn = |ring: Option<&std::collections::VecDeque<u64>>| {
        ring.map_or_else(String::new, |ring| bars(ring.iter(), BARS.into()))
    };
    let (rx, tx) = (trend.map(|trend| &trend.rx), trend.map(|trend| &trend.tx));
    [clean(&path.label), clean(&path.state), newest(rx), drawn(rx), newest(tx), drawn(tx)]
}

/// How the targets of the selected path answer.
pub fn targets(frame: &mut Frame, area: Rect, screen: &Screen, styles: Styles) {
    let Some(path) = screen.selected() else { return };
    let head = format!("TARGET of {}", clean(&path.label));
    if path.targets.is_empty() {
        let line = Line::from(format!("{head}: none is known"));
        return frame.render_widget(Paragraph::new(line), area);
    }
    let told: Vec<Value> = path.targets.iter().map(answers).collect();
    let keys = ["target", "status", "loss", "rtt", "jitter", "last_error"];
    let rows = told.iter().map(|told| {
        Row::new(keys.map(|key| Cell::from(clean(told[key].as_str().unwrap_or_default()))))
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(18),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let heads = [head, "STATUS".into(), "LOSS".into(), "RTT".into(), "JITTER".into()];
    let heads = heads.into_iter().chain(["LAST ERROR".to_owned()]);
    let table = Table::new(rows, widths).header(Row::new(heads).style(styles.head()));
    frame.render_widget(table, area);
}

/// A line for each policy.
pub fn policies(frame: &mut Frame, area: Rect, sample: &Sample) {
    let line = |policy: &String| Line::from(format!("POLICY {}", clean(policy)));
    let lines: Vec<_> = sample.policies.iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines), area);
}

/// A table with these columns: figures to the right, words and bars to the left.
fn table<'a>(
    rows: impl IntoIterator<Item = Row<'a>>,
    columns: &[Column],
    styles: Styles,
) -> Table<'a> {
    let widths = columns.iter().map(|(_, width)| match width {
        Some(width) => Constraint::Length(*width),
        None => Constraint::Fill(1),
    });
    let heads = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    Table::new(rows, widths).header(row(heads, columns).style(styles.head()))
}

fn row(cells: Vec<String>, columns: &[Column]) -> Row<'static> {
    let cells = cells.into_iter().zip(columns).map(|(text, (name, _))| {
        let is_word = matches!(*name, "UPLINK" | "STATE" | "");
        let line = Line::from(text);
        Cell::from(if is_word { line } else { line.right_aligned() })
    });
    Row::new(cells)
}
