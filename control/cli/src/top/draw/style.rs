//! How things look. Nothing is said by colour alone: it is left out where it is not wanted.

use ratatui::style::{Color, Style};

use crate::top::sample::Standing;

/// With or without colours.
#[derive(Clone, Copy, Debug)]
pub struct Styles {
    /// May they be used?
    pub colour: bool,
}

impl Styles {
    /// The heads of columns.
    pub fn head(self) -> Style {
        Style::new().bold().underlined()
    }

    /// What is wrong.
    pub fn sick(self) -> Style {
        self.coloured(Style::new().bold(), Color::Red)
    }

    /// By how badly somebody is needed.
    pub fn of(self, standing: Standing) -> Style {
        match standing {
            Standing::Sick => self.sick(),
            Standing::ByHand => self.coloured(Style::new(), Color::Yellow),
            Standing::Well => Style::new(),
        }
    }

    fn coloured(self, style: Style, colour: Color) -> Style {
        if self.colour { style.fg(colour) } else { style }
    }
}
