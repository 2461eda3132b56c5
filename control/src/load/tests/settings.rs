//! Rates as people write and read them.

use crate::load::settings::{parse_rate, rate_text};

#[test]
fn rates_are_decimal() {
    for (text, bits) in [
        ("200M", 200_000_000),
        ("1.5G", 1_500_000_000),
        ("20000K", 20_000_000),
        ("2500 k", 2_500_000),
        ("1M", 1_000_000),
    ] {
        assert_eq!(parse_rate(text), Ok(bits), "{text}");
    }
}

#[test]
fn what_is_no_rate_is_refused_with_an_example() {
    for text in ["", "200", "M", "200Mbit", "200 MB", "-5M", "1e3M", "1.2.3M", "ü", "infM", "5µ"]
    {
        let (what, help) = parse_rate(text).unwrap_err();
        assert!(what.contains("is no rate") && help.contains("\"200M\""), "{text}: {what}");
    }
    for text in ["0M", "999K", "801G"] {
        assert!(parse_rate(text).unwrap_err().0.contains("out of range"), "{text}");
    }
}

#[test]
fn rates_are_told_in_three_digits() {
    for (bits, text) in [
        (0.0, "0"),
        (512.0, "512"),
        (1_500.0, "1.50K"),
        (185_400_000.0, "185M"),
        (200e6, "200M"),
        (93.21e6, "93.2M"),
        (999_600_000.0, "1.00G"),
        (10e9, "10G"),
    ] {
        assert_eq!(rate_text(bits), text);
    }
}
