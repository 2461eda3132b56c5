//! Warnings about what is tried again and again: said once.

/// What is wrong, as it was last said.
#[derive(Debug, Default)]
pub struct Complaint(Option<String>);

impl Complaint {
    /// Warns of a trouble that is news; of none, it is over.
    pub fn say(&mut self, trouble: Option<String>) {
        if let Some(text) = &trouble
            && self.0 != trouble
        {
            tracing::warn!("{text}");
        }
        self.0 = trouble;
    }
}
