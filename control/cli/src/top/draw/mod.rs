//! Draws the screen: what is wrong first, then uplinks, then what they carry.
//!
//! | module | what it draws |
//! |---|---|
//! | this one | the places, what is wrong, the line of keys and answers, the help |
//! | `links` | uplinks, the targets of the selected one, policies |
//! | `traffic` | flows, hosts, drops |
//! | `style` | colours, where they are wanted: words say everything |

mod links;
mod style;
mod traffic;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::sample::{Sample, Standing};
use super::screen::{Mode, Screen};
use super::text::clean;
use style::Styles;

/// From so many lines on there is room for targets and policies.
const TALL: u16 = 20;
/// From so many on there is room for hosts and drops.
const MIDDLE: u16 = 16;
/// From so many columns on there is room for shares and bars.
const WIDE: u16 = 70;

const HELP: [&str; 15] = [
    "SICK  it does not do what it is for     HAND  somebody wanted it so",
    "",
    "j k and arrows   select an uplink: its targets are shown below the uplinks",
    "d                drain it, or put it back into use; y confirms",
    "+ -              its weight; y confirms",
    "s                flows by bytes, packets, or time without packets",
    "/                flows by: uplink N  source A  destination A  protocol P",
    "q                quit",
    "",
    "WANT  share of new flows (default policy)   GOT  of those of the last minute",
    "IN    bits per second from the provider     OUT  to it; bars: the last seconds",
    "LOAD  of the fuller direction's capacity, if one is known",
    "",
    "what is set here lasts until weir overrides --reset",
    "any key ends this help",
];

/// Draws all of it.
pub fn draw(frame: &mut Frame, screen: &Screen) {
    let area = frame.area();
    let styles = Styles { colour: screen.colour };
    match &screen.sample {
        Some(sample) => panes(frame, screen, sample, styles),
        None => nothing(frame, screen, styles),
    }
    let last = Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
    frame.render_widget(Clear, last);
    frame.render_widget(bottom_line(screen), last);
    if screen.mode == Mode::Help {
        help(frame, area);
    }
}

/// While nothing can be read: why.
fn nothing(frame: &mut Frame, screen: &Screen, styles: Styles) {
    let why = match &screen.lost {
        Some(why) => format!("NO DATA: {}", clean(why)),
        None => "reading …".to_owned(),
    };
    let again = "it is tried again every second";
    let lines = vec![Line::from("weir top"), Line::styled(why, styles.sick()), again.into()];
    let wrapped = Paragraph::new(lines).wrap(ratatui::widgets::Wrap { trim: true });
    frame.render_widget(wrapped, frame.area());
}

fn panes(frame: &mut Frame, screen: &Screen, sample: &Sample, styles: Styles) {
    let area = frame.area();
    let is_tall = area.height >= TALL;
    let troubles = troubles(sample, area.height.div_ceil(5), styles);
    let targets = screen.selected().map_or(0, |path| path.targets.len());
    let lines = |n: usize, most: u16| u16::try_from(n).unwrap_or(u16::MAX).min(most);
    let paths = 1 + lines(sample.paths.len(), (area.height / 3).max(1));
    let heights = [
        1,
        lines(troubles.len(), u16::MAX),
        paths,
        if is_tall { 1 + lines(targets, 3) } else { 0 },
        if is_tall { lines(sample.policies.len(), 3) } else { 0 },
    ];
    let below = if area.height >= MIDDLE { 5 } else { 0 };
    let places = heights.map(Constraint::Length);
    let rest = [Constraint::Fill(1), Constraint::Length(below), Constraint::Length(1)];
    let [title, trouble, uplinks, targets, policies, flows, below, _] =
        Layout::vertical([&places[..], &rest[..]].concat()).areas(area);
    frame.render_widget(heading(sample), title);
    frame.render_widget(Paragraph::new(troubles), trouble);
    links::uplinks(frame, uplinks, screen, sample, styles);
    links::targets(frame, targets, screen, styles);
    links::policies(frame, policies, sample);
    traffic::flows(frame, flows, screen, sample, styles);
    let [hosts, drops] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(below);
    traffic::talkers(frame, hosts, sample, styles);
    traffic::drops(frame, drops, screen, styles);
}

fn heading(sample: &Sample) -> Line<'static> {
    let flows = sample.flows.all;
    Line::from(format!("weir top   {}   {flows} flows   ? for help", clean(&sample.clock)))
}

/// What is wrong, so many lines at most.
fn troubles(sample: &Sample, most: u16, styles: Styles) -> Vec<Line<'static>> {
    let troubles = sample.troubles();
    let most = usize::from(most.max(1));
    let (shown, left) = match troubles.len() <= most {
        true => (troubles.len(), 0),
        false => (most - 1, troubles.len() + 1 - most),
    };
    let line = |(standing, word, text): &(Standing, &str, String)| {
        let style = styles.of(*standing);
        Line::from(vec![Span::styled(format!("{word}  "), style), Span::styled(clean(text), style)])
    };
    let mut lines: Vec<_> = troubles.iter().take(shown).map(line).collect();
    if left != 0 {
        let sick = troubles[shown..].iter().filter(|(standing, ..)| *standing == Standing::Sick);
        let sick = sick.count();
        lines.push(Line::styled(format!("and {left} more, {sick} of them SICK"), styles.sick()));
    }
    lines
}

/// What is asked or was answered, else what keys do.
fn bottom_line(screen: &Screen) -> Line<'static> {
    let reversed = Style::new().reversed();
    match &screen.mode {
        Mode::Confirm(request) => Line::styled(clean(&format!("{request}? y/n")), reversed),
        Mode::Wait => Line::styled("asking weir-control …", reversed),
        Mode::Filter(text) => {
            let text = clean(text);
            Line::styled(
                format!("flows by (uplink source destination protocol): {text}_"),
                reversed,
            )
        }
        _ if !screen.message.is_empty() => Line::styled(clean(&screen.message), reversed),
        _ => Line::from("d drain  +/- weight  s sort  / filter  j/k select  ? help  q quit"),
    }
}

fn help(frame: &mut Frame, area: Rect) {
    let (width, height) = (80.min(area.width), (HELP.len() as u16 + 2).min(area.height));
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let text =
        Paragraph::new(HELP.map(Line::from).to_vec()).block(Block::bordered().title(" help "));
    frame.render_widget(Clear, place);
    frame.render_widget(text, place);
}

#[cfg(test)]
mod tests;
