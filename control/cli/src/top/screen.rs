//! What is on the screen, and what keys do.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use weir_api::Request;
use weir_layout::control::Member;

use super::filter;
use super::sample::{PathSample, Sample};
use super::trends::Trends;
use crate::flows::{FlowFilter, Order};

/// All that is drawn.
#[derive(Debug)]
pub struct Screen {
    /// The newest moment; none: nothing could be read.
    pub sample: Option<Sample>,
    /// Why nothing can be read.
    pub lost: Option<String>,
    /// What came before.
    pub trends: Trends,
    /// In which order flows are.
    pub order: Order,
    /// The filter of flows, as it was typed.
    pub filter: String,
    /// What keys do.
    pub mode: Mode,
    /// The last answer or error.
    pub message: String,
    /// May colours be used?
    pub colour: bool,
    /// The label of the path that is selected.
    selected: String,
}

/// What keys do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// What the help says.
    Look,
    /// The help is shown: any ends it.
    Help,
    /// They write a filter.
    Filter(String),
    /// `y` has this be done.
    Confirm(Request),
    /// A request waits for its answer.
    Wait,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Nothing but to draw.
    Draw,
    /// The end.
    Quit,
    /// Have flows by another filter or order.
    Flows(FlowFilter),
    /// Make a request.
    Request(Request),
}

impl Screen {
    /// Nothing is known yet.
    pub fn new(colour: bool) -> Self {
        Self {
            sample: None,
            lost: None,
            trends: Trends::default(),
            order: Order::Bytes,
            filter: String::new(),
            mode: Mode::Look,
            message: String::new(),
            colour,
            selected: String::new(),
        }
    }

    /// Takes the next moment, or why there is none.
    pub fn take(&mut self, read: Result<Sample, String>) {
        match read {
            Ok(sample) => {
                self.trends.push(&sample);
                (self.sample, self.lost) = (Some(sample), None);
            }
            // What was is not what is: it goes, and comes back with the next that can be read.
            Err(error) => {
                (self.sample, self.lost) = (None, Some(error));
                self.trends = Trends::default();
            }
        }
    }

    /// Takes the answer to a request.
    pub fn answered(&mut self, message: String) {
        self.message = message;
        if self.mode == Mode::Wait {
            self.mode = Mode::Look;
        }
    }

    /// The row that is selected, of those in order; 0 where that path is gone.
    pub fn row(&self) -> usize {
        let paths = self.sample.iter().flat_map(Sample::ordered);
        paths.enumerate().find(|(_, path)| path.label == self.selected).map_or(0, |(row, _)| row)
    }

    /// The path that is selected.
    pub fn selected(&self) -> Option<&PathSample> {
        self.sample.as_ref()?.ordered().get(self.row()).copied()
    }

    /// The filter and the order, for those who look at flows.
    pub fn wanted(&self) -> FlowFilter {
        // What is kept was read when it was typed.
        filter::read(&self.filter, self.order).unwrap_or_default()
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Action::Quit;
        }
        match std::mem::replace(&mut self.mode, Mode::Look) {
            Mode::Look => self.command(key.code),
            Mode::Help => Action::Draw,
            Mode::Filter(text) => self.write(text, key.code),
            Mode::Confirm(request) => self.confirm(request, key.code),
            Mode::Wait => {
                self.mode = Mode::Wait;
                match key.code {
                    KeyCode::Char('q') => Action::Quit,
                    _ => Action::Draw,
                }
            }
        }
    }

    fn command(&mut self, key: KeyCode) -> Action {
        self.message.clear();
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter(self.filter.clone()),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Char('d') => self.ask(drain),
            KeyCode::Char('+') => self.ask(|path| weight(path, 1)),
            KeyCode::Char('-') => self.ask(|path| weight(path, -1)),
            KeyCode::Char('s') => {
                self.order = match self.order {
                    Order::Bytes => Order::Packets,
                    Order::Packets => Order::Idle,
                    Order::Idle => Order::Bytes,
                };
                return Action::Flows(self.wanted());
            }
            _ => {}
        }
        Action::Draw
    }

    fn select(&mut self, by: isize) {
        let Some(sample) = &self.sample else { return };
        let paths = sample.ordered();
        let row = self.row().saturating_add_signed(by).min(paths.len().saturating_sub(1));
        self.selected = paths.get(row).map(|path| path.label.clone()).unwrap_or_default();
    }

    /// Asks whether a request of the selected path's uplink is meant.
    fn ask(&mut self, request: impl FnOnce(&PathSample) -> Result<Request, String>) {
        let Some(path) = self.selected() else { return };
        // What is asked of it is not to be of another that comes to stand first meanwhile.
        let label = path.label.clone();
        match request(path) {
            Ok(request) => self.mode = Mode::Confirm(request),
            Err(why) => self.message = why,
        }
        self.selected = label;
    }

    fn confirm(&mut self, request: Request, key: KeyCode) -> Action {
        match key {
            KeyCode::Char('y') => {
                self.mode = Mode::Wait;
                Action::Request(request)
            }
            _ => {
                self.message = "nothing was changed".into();
                Action::Draw
            }
        }
    }

    fn write(&mut self, mut text: String, key: KeyCode) -> Action {
        match key {
            KeyCode::Enter => return self.filter_by(text),
            KeyCode::Esc => return Action::Draw,
            KeyCode::Char(c) => text.push(c),
            KeyCode::Backspace => _ = text.pop(),
            _ => {}
        }
        self.mode = Mode::Filter(text);
        Action::Draw
    }

    /// Takes a filter over if it is one.
    fn filter_by(&mut self, text: String) -> Action {
        let known = self.sample.iter().flat_map(|sample| &sample.paths);
        let known: Vec<_> = known.map(|path| path.uplink.as_str()).collect();
        let read = filter::read(&text, self.order).and_then(|filter| {
            filter.check(&known)?;
            Ok(filter)
        });
        match read {
            Ok(filter) => {
                self.filter = text;
                Action::Flows(filter)
            }
            Err(error) => {
                self.message = format!("{error:#}");
                Action::Draw
            }
        }
    }
}

/// Empties an uplink, or puts one back that was set aside.
fn drain(path: &PathSample) -> Result<Request, String> {
    let uplink = path.uplink.clone();
    Ok(match path.by_hand {
        true => Request::Up { uplink },
        false => Request::Drain { uplink, deadline_s: None },
    })
}

/// Gives an uplink one more or less.
fn weight(path: &PathSample, by: i32) -> Result<Request, String> {
    let most = u32::from(Member::MAX_WEIGHT);
    let weight = path.weight.checked_add_signed(by).filter(|weight| *weight <= most);
    let weight = weight.ok_or_else(|| format!("weights go from 0 to {most}"))?;
    Ok(Request::Weight { uplink: path.uplink.clone(), weight, policy: None })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::path;
    use super::*;

    fn screen(names: &[&str]) -> Screen {
        let mut screen = Screen::new(false);
        let paths = names.iter().map(|name| path(name)).collect();
        screen.take(Ok(Sample { paths, ..Sample::default() }));
        screen
    }

    fn press(screen: &mut Screen, keys: &str) -> Action {
        let mut last = Action::Draw;
        for key in keys.chars() {
            let code = if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) };
            last = screen.key(code.into());
        }
        last
    }

    fn uplink(screen: &Screen) -> &str {
        &screen.selected().unwrap().uplink
    }

    #[test]
    fn an_uplink_is_drained_only_after_yes() {
        let mut screen = screen(&["fiber", "cable"]);
        assert!(matches!(press(&mut screen, "jd"), Action::Draw));
        let drain = Request::Drain { uplink: "cable".into(), deadline_s: None };
        assert_eq!(screen.mode, Mode::Confirm(drain.clone()));
        assert!(matches!(press(&mut screen, "n"), Action::Draw));
        assert_eq!((&screen.mode, &*screen.message), (&Mode::Look, "nothing was changed"));
        assert!(matches!(press(&mut screen, "dy"), Action::Request(asked) if asked == drain));
        assert_eq!(screen.mode, Mode::Wait);
        assert!(matches!(press(&mut screen, "dy"), Action::Draw), "one after the other");
        screen.answered("cable drains".into());
        assert_eq!((&screen.mode, &*screen.message), (&Mode::Look, "cable drains"));
    }

    #[test]
    fn one_that_was_set_aside_is_put_back() {
        let mut screen = Screen::new(false);
        let paths = vec![PathSample { by_hand: true, ..path("fiber") }];
        screen.take(Ok(Sample { paths, ..Sample::default() }));
        press(&mut screen, "d");
        assert_eq!(screen.mode, Mode::Confirm(Request::Up { uplink: "fiber".into() }));
    }

    #[test]
    fn weights_stay_between_their_bounds() {
        let asked = |weight, key| {
            let mut screen = Screen::new(false);
            let paths = vec![PathSample { weight, ..path("fiber") }];
            screen.take(Ok(Sample { paths, ..Sample::default() }));
            press(&mut screen, key);
            match screen.mode {
                Mode::Confirm(Request::Weight { weight, .. }) => Some(weight),
                _ => None,
            }
        };
        let most = u32::from(Member::MAX_WEIGHT);
        assert_eq!([asked(1, "+"), asked(1, "-")], [Some(2), Some(0)]);
        assert_eq!([asked(0, "-"), asked(most, "+")], [None, None]);
    }

    #[test]
    fn the_selection_stays_with_its_uplink_and_within_the_list() {
        let mut screen = screen(&["fiber", "cable", "lte"]);
        press(&mut screen, "kj");
        assert_eq!(uplink(&screen), "cable");
        let ill = PathSample { state: "down".into(), ..path("lte") };
        let paths = vec![path("fiber"), path("cable"), ill];
        screen.take(Ok(Sample { paths, ..Sample::default() }));
        assert_eq!((uplink(&screen), screen.row()), ("cable", 2), "lte is first now");
        press(&mut screen, "jjjj");
        assert_eq!(uplink(&screen), "cable");
        screen.take(Ok(Sample { paths: vec![path("fiber")], ..Sample::default() }));
        assert_eq!(uplink(&screen), "fiber", "cable is gone");
        screen.take(Err("gone".into()));
        press(&mut screen, "jkd+-");
        assert_eq!((screen.selected().is_none(), &screen.mode), (true, &Mode::Look));
    }

    #[test]
    fn a_filter_is_in_force_when_it_is_one() {
        let mut screen = screen(&["fiber"]);
        let action = press(&mut screen, "/uplink fiber\n");
        assert!(
            matches!(action, Action::Flows(filter) if filter.uplink.as_deref() == Some("fiber"))
        );
        press(&mut screen, "/");
        assert_eq!(screen.mode, Mode::Filter("uplink fiber".into()));
        assert!(matches!(press(&mut screen, "x\n"), Action::Draw));
        assert!(screen.message.contains("there is no uplink \"fiberx\""), "{}", screen.message);
        assert_eq!(screen.filter, "uplink fiber", "as before");
        assert!(matches!(press(&mut screen, "s"), Action::Flows(filter)
            if filter.sort == Some(Order::Packets) && filter.uplink.is_some()));
    }

    #[test]
    fn q_ends_it_but_not_within_a_filter() {
        let mut screen = screen(&["fiber"]);
        assert!(matches!(press(&mut screen, "/q"), Action::Draw));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(matches!(screen.key(interrupt), Action::Quit));
        screen.key(KeyCode::Esc.into());
        assert!(matches!(press(&mut screen, "q"), Action::Quit));
    }
}
