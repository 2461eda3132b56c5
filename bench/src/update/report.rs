//! What was measured, in words and figures.

use comfy_table::Table;
use serde_json::{Map, Value, json};
use weir_kit::moments::WATCH;

use super::field::{ENOUGH, TRAFFIC};
use super::{Line, Options};
use crate::plot;
use crate::section::{Section, figure, median, percentile, range, table};

/// Of fewer changes the 99th percentile is the worst, and not told.
const HUNDRED: usize = 100;

/// The section: a line for each kind of change.
pub fn section(lines: &[Line; 4], options: &Options) -> Section {
    let (table, json) = figures(lines, options);
    Section {
        name: "update",
        title: format!(
            "How soon a change is obeyed, {} established flows, {}",
            options.flows,
            if options.busy { "a busy loop on every CPU" } else { "an idle machine" }
        ),
        notes: notes(lines),
        json: Value::Object(json),
        table,
        plots: vec![plot(lines)],
    }
}

/// The figures, as a table and as JSON.
fn figures(lines: &[Line; 4], options: &Options) -> (Table, Map<String, Value>) {
    let headings = [
        "change",
        "times",
        "published µs",
        "99 %",
        "worst",
        "first packet µs",
        "99 %",
        "worst",
        "last by the old µs",
        "answered µs",
        "lost",
    ];
    let mut table = table(1, &headings);
    let mut json = Map::from_iter([
        ("flows".into(), json!(options.flows)),
        ("rounds".into(), json!(options.rounds)),
        ("busy".into(), json!(options.busy)),
        ("lines".into(), json!(lines)),
    ]);
    for line in lines {
        json.insert(format!("{}_changes", line.key), json!(line.trials.len()));
        let mut put = |name: &str, values: Vec<f64>| {
            let (median, [_, worst]) = (median(&values), range(&values));
            let most = (values.len() >= HUNDRED).then(|| percentile(&values, 99.0));
            let figures = [("", Some(median)), ("_p99", most), ("_worst", Some(worst))];
            for (figure, value) in figures {
                json.extend(value.map(|v| (format!("{}_{name}{figure}", line.key), json!(v))));
            }
            figures.map(|(_, value)| value.map_or_else(|| "–".into(), figure))
        };
        let published = put("published_us", line.of(|t| t.published_us));
        let first = put("first_us", line.of(|t| t.first_us));
        let lost = put("lost", line.of(|t| t.lost));
        let optional = |shown: bool, [median, ..]: [String; 3]| match shown {
            true => median,
            false => "–".into(),
        };
        let last = optional(line.ends, put("last_us", line.of(|t| t.last_us)));
        let answered = optional(line.asked, put("answered_us", line.of(|t| t.answered_us)));
        let [what, lost] = [line.what.to_owned(), lost[0].clone()];
        let figures = published.into_iter().chain(first).chain([last, answered, lost]);
        table.add_row([what, line.trials.len().to_string()].into_iter().chain(figures));
    }
    (table, json)
}

fn notes(lines: &[Line; 4]) -> Vec<String> {
    vec![
        "Microseconds after the request, or after the kernel's event about the carrier as it \
             hands it to a socket: medians, the 99th percentile of a hundred changes or more, and \
             the worst, under traffic of established flows (UDP, NAT44) that all leave by one of \
             two uplinks, each of another flow. The first packet by the other uplink is the first \
             flow that has moved. For the weight, every packet is the first of a flow, and an \
             uplink of weight 0 is given one."
            .into(),
        format!(
            "Published is when another thread, which looks every {} µs, saw the state word or \
                 the epoch change; if it was late, it is when the first packet or the answer \
                 showed it. It has real-time priority where the API or a cut changes a state word, \
                 who asks by the API always, and the generator nice -20 beside busy loops. Times of \
                 packets are taken at the far side and include the way there. The control process, \
                 the worker, this watcher and the requester share one CPU; the generator has the \
                 other. Busy loops are of ordinary priority. A \
                 trial with less than {} ms of traffic left after the change is made again: {} were. \
                 What the first packet shows is no finer than the time between two frames, which is \
                 {} ms shared out among those of a trial.",
            WATCH.as_micros(),
            ENOUGH / 1_000_000,
            lines.iter().map(|line| line.again).sum::<u32>(),
            TRAFFIC.as_millis()
        ),
    ]
}

fn plot(lines: &[Line; 4]) -> plot::Plot {
    plot::Plot {
        title: "From the request to the first packet that obeys".into(),
        x: String::new(),
        y: "µs".into(),
        data: plot::Data::Bars(
            lines.iter().map(|line| line.what.to_owned()).collect(),
            vec![
                (
                    "published".into(),
                    lines.iter().map(|l| median(&l.of(|t| t.published_us))).collect(),
                ),
                (
                    "first packet".into(),
                    lines.iter().map(|l| median(&l.of(|t| t.first_us))).collect(),
                ),
            ],
        ),
    }
}
