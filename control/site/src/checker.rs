//! What checks of a file have in common: they go on after an error, so that all are told at once.

use std::collections::HashMap;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::place::{Places, Problem};

/// What was found of a file so far.
pub struct Checker<'t> {
    /// Where in the file what stands.
    pub places: &'t Places<'t>,
    /// What is refused.
    pub problems: Vec<Problem>,
    /// What is allowed and unwise.
    pub warnings: Vec<String>,
}

impl Checker<'_> {
    /// Refuses what stands at a place of the file; `remedy` says what to write instead.
    pub fn refuse(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(self.places.at(span, message, remedy));
    }

    /// As [`refuse`](Self::refuse), for what has no one place.
    pub fn whole(&mut self, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(self.places.whole(message, remedy));
    }

    /// The number if it is in range, else the default after an error.
    pub fn number(
        &mut self,
        what: &str,
        value: &Option<Spanned<i64>>,
        range: Range<i64>,
        default: i64,
    ) -> i64 {
        let Some(value) = value else { return default };
        let number = *value.get_ref();
        if range.contains(&number) {
            return number;
        }
        let last = range.end - 1;
        self.refuse(
            value.span(),
            format!("{what} {number} is out of range"),
            format!("use {} to {last}", range.start),
        );
        default
    }

    /// The duration in seconds if it is in range, else the default after an error.
    pub fn seconds(
        &mut self,
        what: &str,
        value: &Option<Spanned<String>>,
        most: u64,
        default: u64,
    ) -> u64 {
        let Some(value) = value else { return default };
        match crate::duration::seconds(value.get_ref()) {
            Ok(seconds) if seconds <= most => return seconds,
            Ok(_) => self.refuse(
                value.span(),
                format!("{what} \"{}\" is too long", value.get_ref()),
                format!("use at most {most} s"),
            ),
            Err(wrong) => self.refuse(value.span(), format!("{what}: {wrong}"), ""),
        }
        default
    }

    /// Refuses what is no name of an uplink, a policy or a rule.
    pub fn name(&mut self, what: &str, name: &Spanned<String>) {
        let text = name.get_ref();
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        if text.is_empty() || text.len() > 31 || !text.chars().all(good) {
            self.refuse(
                name.span(),
                format!("{what} name \"{text}\" is not usable"),
                "use 1 to 31 of a-z, 0-9, - and _",
            );
        }
    }

    /// The index of each name; refuses those that are there twice.
    pub fn unique<'n>(
        &mut self,
        what: &str,
        names: impl Iterator<Item = &'n Spanned<String>>,
    ) -> HashMap<String, usize> {
        let mut seen: HashMap<String, (usize, usize)> = HashMap::new();
        for (index, name) in names.enumerate() {
            let line = self.places.line(name.span().start);
            match seen.get(name.get_ref()) {
                Some((_, first)) => self.refuse(
                    name.span(),
                    format!("{what} \"{}\" is there twice, first in line {first}", name.get_ref()),
                    "rename or remove one of them",
                ),
                None => {
                    seen.insert(name.get_ref().clone(), (index, line));
                }
            }
        }
        seen.into_iter().map(|(name, (index, _))| (name, index)).collect()
    }

    /// Refuses what is no name of an interface.
    pub fn interface(&mut self, name: &Spanned<String>) {
        if !super::is_interface_name(name.get_ref()) {
            self.refuse(
                name.span(),
                format!("{:?} is no name of an interface", name.get_ref()),
                "give one that `ip link` shows: up to 15 characters, none of / : \" * \\ or a space",
            );
        }
    }

    /// The index of a name that must be known, else 0 after an error.
    pub fn find(
        &mut self,
        what: &str,
        name: &Spanned<String>,
        known: &HashMap<String, usize>,
    ) -> usize {
        if let Some(index) = known.get(name.get_ref()) {
            return *index;
        }
        let mut names: Vec<_> = known.keys().map(String::as_str).collect();
        names.sort_unstable();
        self.refuse(
            name.span(),
            format!("there is no {what} \"{}\"", name.get_ref()),
            format!("known: {}", names.join(", ")),
        );
        0
    }

    /// A port or a range of ports, first and last; none after an error.
    pub fn range(&mut self, text: &Spanned<String>) -> Option<(u16, u16)> {
        let parts = text.get_ref().split_once('-').unwrap_or((text.get_ref(), text.get_ref()));
        let range = parts.0.trim().parse().ok().zip(parts.1.trim().parse().ok());
        match range {
            Some((lo, hi)) if lo <= hi => Some((lo, hi)),
            _ => {
                let message = format!("\"{}\" is no range of ports", text.get_ref());
                self.refuse(
                    text.span(),
                    message,
                    "write \"5060\" or \"5060-5061\", the lower first",
                );
                None
            }
        }
    }

    /// The prefix, without what is set after its length and refused.
    pub fn prefix(&mut self, net: &Spanned<IpNet>) -> IpNet {
        let given = *net.get_ref();
        if given.trunc() != given {
            self.refuse(
                net.span(),
                format!("{given} has bits set after its length"),
                format!("write {}", given.trunc()),
            );
        }
        given.trunc()
    }

    /// Refuses more than `most` of something.
    pub fn too_many(&mut self, what: &str, count: usize, most: usize) {
        if count > most {
            self.whole(format!("{count} {what}, at most {most} are possible"), "remove some");
        }
    }
}
