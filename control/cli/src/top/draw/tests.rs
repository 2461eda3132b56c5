use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::KeyCode;
use ratatui::style::Color;
use serde_json::json;
use weir_api::Request;
use weir_health::load::{CapacityFrom, DirectionView, LoadView};

use super::*;
use crate::top::fixture::path;
use crate::top::sample::PathSample;
use crate::top::walk::{FlowLine, Talker, Walked};

fn drawn(screen: &Screen, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, screen)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let buffer = drawn(screen, width, height);
    let line = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(line).collect()
}

fn ill(name: &str) -> PathSample {
    let why = "2 of 2 targets do not answer, 1 must".into();
    PathSample { state: "down".into(), why, lasts: Some("12s".into()), ..path(name) }
}

/// Fiber is ill, of cable much is known.
fn site() -> Screen {
    let told = json!({ "protocol": "tcp", "inside": "10.0.0.5:51000", "uplink": "cable",
        "destination": "1.1.1.1:443", "idle_s": 61 });
    let flows = Walked {
        shown: vec![FlowLine { told, tx: 1000, rx: 2_000_000, packets: 170 }],
        of: 1,
        all: 7,
        talkers: vec![Talker { host: [10, 0, 0, 5].into(), flows: 6, tx: 1000, rx: 2_000_000 }],
    };
    let direction = |load| DirectionView {
        load,
        capacity: Some(100_000_000),
        capacity_from: CapacityFrom::Configured,
        ..DirectionView::default()
    };
    let load = Some(LoadView { down: direction(93_000_000), ..LoadView::default() });
    let sample = |at_ms, bytes| Sample {
        at_ms,
        clock: "2026-01-02T03:04:05Z".into(),
        paths: vec![
            PathSample { rx_bytes: bytes, created: bytes, load, ..path("cable") },
            ill("fiber"),
        ],
        policies: vec!["all: tier 1, cable 100 %".into()],
        drops: vec![("drop.rule", bytes)],
        flows: flows.clone(),
        ..Sample::default()
    };
    let mut screen = Screen::new(true);
    screen.take(Ok(sample(1000, 0)));
    screen.take(Ok(sample(2000, 1_500_000)));
    screen
}

#[test]
fn what_is_sick_and_why_comes_first_and_in_words() {
    for (width, height) in [(80, 24), (40, 10), (120, 50)] {
        let lines = lines(&site(), width, height);
        assert!(lines[1].starts_with("SICK  fiber is down for 12s: 2 of 2"), "{lines:#?}");
        let row = |name| lines.iter().position(|line| line[2..].starts_with(name)).unwrap();
        assert!(row("fiber") < row("cable"), "{lines:#?}");
        assert!(lines[row("fiber")].contains(" down "), "{lines:#?}");
    }
}

#[test]
fn eighty_columns_and_twenty_four_lines_have_it_all() {
    let lines = lines(&site(), 80, 24);
    let text = lines.join("\n");
    for words in [
        "weir top   2026-01-02T03:04:05Z   7 flows",
        "POLICY all: tier 1, cable 100 %",
        "TARGET of fiber: none is known",
        "FLOWS by bytes: 1",
        "tcp 10.0.0.5:51000",
        "1.1.1.1:443",
        "d drain  +/- weight",
    ] {
        assert!(text.contains(words), "{words}: {lines:#?}");
    }
    let words = |name: &str| -> Vec<&str> {
        lines.iter().find(|line| line.contains(name)).unwrap().split_whitespace().collect()
    };
    let cable = ["cable", "up", "1", "50%", "100%", "12M", "█", "0", "93%"];
    assert_eq!(words("  cable "), cable);
    assert_eq!(
        words("drop.rule"),
        ["10.0.0.5", "6", "2M", "1K", "drop.rule", "1500000", "1500000"]
    );
    assert!(lines.iter().any(|line| line.contains("1m") && line.contains("2M")), "{lines:#?}");
}

#[test]
fn without_colours_nothing_is_lost_but_colours() {
    let is_coloured = |screen: &Screen| {
        drawn(screen, 80, 24).content().iter().any(|cell| cell.fg != Color::Reset)
    };
    let mut screen = site();
    assert!(is_coloured(&screen));
    let with = lines(&screen, 80, 24);
    screen.colour = false;
    assert!(!is_coloured(&screen));
    assert_eq!(lines(&screen, 80, 24), with);
}

#[test]
fn of_sixty_four_uplinks_the_sick_are_counted_and_the_selected_is_seen() {
    let mut screen = Screen::new(false);
    let paths: Vec<_> = (0..64).map(|n| ill(&format!("uplink{n}"))).collect();
    screen.take(Ok(Sample { paths, ..Sample::default() }));
    (0..63).for_each(|_| _ = screen.key(KeyCode::Down.into()));
    for (width, height) in [(80, 24), (40, 10)] {
        let lines = lines(&screen, width, height);
        assert!(lines.iter().any(|line| line.starts_with("> uplink63")), "{lines:#?}");
        let said = lines.iter().any(|line| line.contains(" more, ") && line.contains("SICK"));
        assert!(said, "{lines:#?}");
    }
}

#[test]
fn an_empty_site_and_one_that_cannot_be_read_say_so() {
    let mut screen = Screen::new(false);
    assert!(lines(&screen, 80, 24).join("").contains("reading"));
    screen.take(Ok(Sample::default()));
    assert!(lines(&screen, 80, 24)[1].starts_with("WELL  there are no uplinks"));
    screen.take(Err("nothing is pinned at /sys/fs/bpf/weir/CONTROL: start weir-control".into()));
    let text = lines(&screen, 80, 24).join("\n");
    assert!(text.contains("NO DATA: nothing is pinned"), "{text}");
    assert!(text.contains("tried again every second"), "{text}");
    screen.take(Ok(Sample { paths: vec![path("fiber")], ..Sample::default() }));
    assert!(lines(&screen, 80, 24)[1].starts_with("WELL  all uplinks are up"));
}

#[test]
fn hostile_names_and_reasons_draw_themselves_and_nothing_else() {
    let mut screen = Screen::new(false);
    let name = "a\u{1b}[2J\nb\u{202e}c";
    let bad = PathSample { why: "x\u{7}\r\n\u{9b}31m".into(), ..ill(name) };
    let processes = vec!["p\u{1b}c".to_owned()];
    screen.take(Ok(Sample { paths: vec![bad], processes, ..Sample::default() }));
    screen.message = "told \u{1b}]0;t\u{7}".into();
    let buffer = drawn(&screen, 80, 24);
    let all: String = buffer.content().iter().map(|cell| cell.symbol()).collect();
    assert!(!all.contains(|c: char| c.is_control() || c == '\u{202e}'), "{all:?}");
    assert!(all.contains("a?[2J?b?c is down for 12s: x????31m"), "{all}");
    assert!(all.contains("told ?]0;t?"), "{all}");
}

#[test]
fn no_size_is_too_small() {
    let mut screen = site();
    let modes = [
        Mode::Look,
        Mode::Help,
        Mode::Filter("uplink fiber".into()),
        Mode::Confirm(Request::Up { uplink: "fiber".into() }),
        Mode::Wait,
    ];
    for mode in modes {
        screen.mode = mode;
        for width in [0, 1, 2, 5, 39, 69, 81] {
            for height in [0, 1, 2, 3, 5, 15, 19] {
                drawn(&screen, width, height);
            }
        }
    }
    screen.take(Err("gone".into()));
    drawn(&screen, 0, 0);
    drawn(&screen, 1, 1);
}

#[test]
fn what_keys_would_do_is_asked_on_the_last_line() {
    let mut screen = site();
    let last = |screen: &Screen| lines(screen, 80, 24).pop().unwrap().trim_end().to_owned();
    screen.key(KeyCode::Char('d').into());
    assert_eq!(last(&screen), "weir drain fiber? y/n");
    screen.key(KeyCode::Char('y').into());
    assert_eq!(last(&screen), "asking weir-control …");
    screen.answered("refused: no such uplink".into());
    assert_eq!(last(&screen), "refused: no such uplink");
    screen.key(KeyCode::Char('?').into());
    assert!(lines(&screen, 80, 24).join("").contains("any key ends this help"));
}
