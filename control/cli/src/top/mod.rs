//! `weir top`: the gateway as it is, second by second.
//!
//! | module | what it is |
//! |---|---|
//! | this one | the terminal, and the threads that wait for keys, signals, moments and answers |
//! | `read` | reads a moment, by what `weir uplinks`, `flows`, `counters` and `policies` read by |
//! | `walk` | of that the flows, and the hosts that have them |
//! | `sample` | a moment, as plain values |
//! | `rates`, `trends` | what follows from one moment after the other |
//! | `screen` | what is on the screen, and what keys do |
//! | `filter` | the filter of flows, as it is typed |
//! | `draw`, `text` | how it looks |

mod draw;
mod filter;
#[cfg(test)]
mod fixture;
mod rates;
mod read;
mod sample;
mod screen;
mod text;
mod trends;
mod walk;

use std::any::Any;
use std::io::{self, IsTerminal};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};
use tokio::signal::unix::{SignalKind, signal};
use weir_api::{Request, Response};
use weir_shm::Pins;

use crate::flows::FlowFilter;
use crate::state::published;
use read::Reader;
use sample::Sample;
use screen::{Action, Screen};

/// From one moment to the next.
const EVERY: Duration = Duration::from_secs(1);

/// What the screen waits for.
enum News {
    /// A key, or another size.
    Terminal(Event),
    /// A moment, or why there is none.
    Moment(Box<Result<Sample, String>>),
    /// What became of a request.
    Answer(String),
    /// It is to end.
    End(Result<()>),
    /// A thread has panicked; the terminal is as it was before.
    Panic(Box<dyn Any + Send>),
}

/// `weir top`.
///
/// # Errors
/// When there is nothing to show, standard output is no terminal, or it fails.
pub fn top(pins: &Pins, socket: &Path) -> Result<()> {
    // While errors are still told in the usual way.
    published(pins)?;
    if !io::stdout().is_terminal() {
        bail!(
            "standard output is no terminal: `weir uplinks`, `flows`, `policies` and `counters` \
             print the same"
        );
    }
    // This also has a panic put the terminal back.
    let mut terminal = ratatui::try_init().context("cannot draw on this terminal")?;
    let ended = run(&mut terminal, pins, socket);
    ratatui::restore();
    ended
}

fn run(terminal: &mut DefaultTerminal, pins: &Pins, socket: &Path) -> Result<()> {
    let (tell, news) = mpsc::channel();
    let (want, wanted) = mpsc::channel();
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut screen = Screen::new(colour);
    let (reader, first) = (Reader::new(pins.clone(), socket.to_owned()), screen.wanted());
    start(&tell, move |tell| moments(reader, first, &wanted, &tell));
    start(&tell, |tell| keys(&tell));
    start(&tell, |tell| _ = tell.send(News::End(signals())));
    loop {
        terminal.draw(|frame| draw::draw(frame, &screen))?;
        let action = match news.recv()? {
            News::Terminal(Event::Key(key)) => screen.key(key),
            News::Terminal(_) => Action::Draw,
            News::Moment(read) => {
                screen.take(*read);
                Action::Draw
            }
            News::Answer(message) => {
                screen.answered(message);
                Action::Draw
            }
            News::End(ended) => return ended,
            News::Panic(panic) => resume_unwind(panic),
        };
        match action {
            Action::Draw => {}
            Action::Quit => return Ok(()),
            // The thread ends no sooner than this one, but by a panic, which is told.
            Action::Flows(filter) => _ = want.send(filter),
            Action::Request(request) => {
                let socket = socket.to_owned();
                start(&tell, move |tell| {
                    _ = tell.send(News::Answer(answer(&socket, &request)));
                });
            }
        }
    }
}

/// Starts a thread that is told of if it panics. None is waited for in the end: they end with the
/// process.
fn start(tell: &Sender<News>, work: impl FnOnce(Sender<News>) + Send + 'static) {
    let tell = tell.clone();
    thread::spawn(move || {
        let own = tell.clone();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(own))) {
            _ = tell.send(News::Panic(panic));
        }
    });
}

/// Reads moments until nobody wants one.
fn moments(
    mut reader: Reader,
    mut filter: FlowFilter,
    wanted: &Receiver<FlowFilter>,
    tell: &Sender<News>,
) {
    loop {
        let read = reader.read(&filter).map_err(|error| format!("{error:#}"));
        if tell.send(News::Moment(Box::new(read))).is_err() {
            return;
        }
        match wanted.recv_timeout(EVERY) {
            Ok(another) => {
                filter = another;
                reader.hurry();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Waits for keys, and for other sizes of the terminal.
fn keys(tell: &Sender<News>) {
    loop {
        let news = match event::read() {
            Ok(event) => News::Terminal(event),
            Err(error) => News::End(Err(error).context("cannot read keys from the terminal")),
        };
        let is_end = matches!(news, News::End(_));
        if tell.send(news).is_err() || is_end {
            return;
        }
    }
}

/// Waits for a signal that ends programs.
fn signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let [mut term, mut hup, mut int] = [
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::interrupt())?,
        ];
        tokio::select! {
            _ = term.recv() => {}
            _ = hup.recv() => {}
            _ = int.recv() => {}
        }
        Ok(())
    })
}

/// What the control process makes of a request, for people.
fn answer(socket: &Path, request: &Request) -> String {
    match weir_api::call(socket, request) {
        Ok(Response::Ok { message, .. }) => message,
        Ok(Response::Error { message }) => format!("refused: {message}"),
        Ok(_) => weir_api::ANOTHER_VERSION.to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::is_unpublished;

    #[test]
    fn without_a_gateway_it_is_said_before_anything_is_drawn() {
        let pins = Pins::existing("/sys/fs/bpf/weir-not-there");
        let error = top(&pins, Path::new("/run/weir-not-there")).unwrap_err();
        assert!(is_unpublished(&error) && error.to_string().contains("start weir-control"));
    }
}
