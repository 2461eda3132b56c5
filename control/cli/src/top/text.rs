//! Words and figures as they fit on a screen.

use ratatui::symbols::bar::NINE_LEVELS;
use weir_api::words::is_printable;
use weir_site::load::rate_text;

/// Text without what could do anything to a terminal or put words in another order: names and
/// reasons come from files and sockets.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) { c } else { '?' }).collect()
}

/// `12.1M`.
pub fn rate(bits: u64) -> String {
    rate_text(bits as f64)
}

/// `33%`; `-` if it is not known.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.0}%"))
}

/// The newest of these values as bars, the highest as high as the line, so many at most.
pub fn bars<'a>(values: impl DoubleEndedIterator<Item = &'a u64>, width: usize) -> String {
    const LEVELS: [&str; 9] = [
        NINE_LEVELS.empty,
        NINE_LEVELS.one_eighth,
        NINE_LEVELS.one_quarter,
        NINE_LEVELS.three_eighths,
        NINE_LEVELS.half,
        NINE_LEVELS.five_eighths,
        NINE_LEVELS.three_quarters,
        NINE_LEVELS.seven_eighths,
        NINE_LEVELS.full,
    ];
    let mut newest: Vec<u64> = values.rev().take(width).copied().collect();
    newest.reverse();
    let highest = newest.iter().copied().max().unwrap_or(0).max(1);
    let level = |value: u64| (u128::from(value) * 8).div_ceil(highest.into()) as usize;
    newest.into_iter().map(|value| LEVELS[level(value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_not_printed() {
        assert_eq!(clean("fiber \u{1b}[2J\u{7}\r\n\u{9b}x\u{202e}y"), "fiber ?[2J????x?y");
        assert_eq!(clean("Glasfaser süd, 2 %"), "Glasfaser süd, 2 %");
    }

    #[test]
    fn bars_are_as_high_as_the_highest_of_late() {
        assert_eq!(bars([9, 0, 1, 4, 8].iter(), 4), " ▁▄█");
        assert_eq!(bars([0, 0].iter(), 8), "  ");
        assert_eq!(bars([u64::MAX].iter(), 8), "█");
        assert_eq!(bars([].iter(), 8), "");
    }
}
