//! Errors with their place in the file.

use std::ops::Range;

/// Something wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File name.
    pub file: String,
    /// Line, from 1; 0: the file as a whole.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// It takes one LAN or one uplink out of use, and no more: a gateway runs without that part.
    pub passing: bool,
}

impl Problem {
    /// A problem with the file as a whole.
    pub fn whole(file: &str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            text: String::new(),
            message: message.into(),
            remedy: remedy.into(),
            passing: false,
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.message)?,
            line => write!(f, "{}:{line}:{}: {}", self.file, self.column, self.message)?,
        }
        if !self.text.is_empty() {
            write!(f, "\n    {}", self.text.trim())?;
        }
        if !self.remedy.is_empty() {
            write!(f, "\n    help: {}", self.remedy)?;
        }
        Ok(())
    }
}

/// Finds lines and columns.
pub struct Places<'t> {
    file: &'t str,
    text: &'t str,
}

impl<'t> Places<'t> {
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self { file, text }
    }

    /// Line of a byte offset, from 1.
    pub fn line(&self, offset: usize) -> usize {
        self.text[..offset.min(self.text.len())].matches('\n').count() + 1
    }

    /// A problem at a span.
    pub fn at(
        &self,
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        let start = span.start.min(self.text.len());
        let begin = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        Problem {
            file: self.file.into(),
            line: self.line(start),
            column: self.text[begin..start].chars().count() + 1,
            text: self.text[begin..].lines().next().unwrap_or_default().into(),
            message: message.into(),
            remedy: remedy.into(),
            passing: false,
        }
    }

    /// A problem with the file as a whole.
    pub fn whole(&self, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem::whole(self.file, message, remedy)
    }

    /// What the TOML parser or the schema refused.
    pub fn of_toml(&self, error: &toml::de::Error) -> Problem {
        let message = error.message().to_owned();
        let remedy = suggestion(&message)
            .unwrap_or_else(|| "docs/configuration.md lists every key and its values".into());
        self.at(error.span().unwrap_or(0..0), message, remedy)
    }
}

/// For "unknown field `x`, expected one of `a`, `b`": the nearest one that is known.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown").then(|| quoted.next())??;
    let nearest = quoted.max_by(|a, b| {
        strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b))
    })?;
    (strsim::jaro_winkler(unknown, nearest) > 0.7).then(|| format!("did you mean `{nearest}`?"))
}
