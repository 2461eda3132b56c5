//! A message (RFC 7011 §3), put together.
//!
//! Templates are made of the fields of a record, so that what is said of them and what they are
//! cannot differ.

use weir_layout::Family;

use super::record::Record;

/// Most bytes of a message: with the headers of IPv6 and UDP, a packet of 1400.
const MOST: usize = 1400 - 40 - 8;
/// Bytes of its header.
const HEADER: usize = 16;
/// Of the protocol: its version.
const VERSION: u16 = 10;
/// Who observes: the gateway, which is one place.
const DOMAIN: u32 = 1;
/// Id of a set of templates.
const TEMPLATES: u16 = 2;
/// Id of the first template.
const FIRST_TEMPLATE: u16 = 256;

/// A message that is being put together.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
    /// The last set's id, and where it begins.
    set: Option<(u16, usize)>,
    /// Data records.
    records: u32,
    /// What is to be appended.
    next: Vec<u8>,
}

impl Message {
    /// One with nothing in it.
    pub fn new() -> Self {
        let bytes = vec![0; HEADER];
        Self { bytes, set: None, records: 0, next: Vec::new() }
    }

    /// Takes everything out of it.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        (self.set, self.records) = (None, 0);
    }

    /// Is nothing in it?
    pub const fn is_empty(&self) -> bool {
        self.bytes.len() == HEADER
    }

    /// Data records in it.
    pub const fn records(&self) -> u32 {
        self.records
    }

    /// Adds the templates of all records. `false`: there is no room.
    pub fn add_templates(&mut self) -> bool {
        self.next.clear();
        for family in Family::ALL {
            let record = Record::blank(family);
            let count = record.fields().count() as u16;
            self.next.extend([template(family), count].map(u16::to_be_bytes).as_flattened());
            for (element, value) in record.fields() {
                self.next.extend([element, value.length()].map(u16::to_be_bytes).as_flattened());
            }
        }
        self.append(TEMPLATES)
    }

    /// Adds a record. `false`: there is no room.
    pub fn add(&mut self, record: &Record<'_>) -> bool {
        self.next.clear();
        record.fields().for_each(|(_, value)| value.write(&mut self.next));
        let is_added = self.append(template(record.family()));
        self.records += u32::from(is_added);
        is_added
    }

    /// Its bytes, sent at this time, seconds since the Unix epoch, behind so many data records.
    pub fn finish(&mut self, now_s: u32, sequence: u32) -> &[u8] {
        self.end_set();
        let length = self.bytes.len() as u16;
        self.bytes[..2].copy_from_slice(&VERSION.to_be_bytes());
        self.bytes[2..4].copy_from_slice(&length.to_be_bytes());
        for (at, word) in [now_s, sequence, DOMAIN].into_iter().enumerate() {
            self.bytes[4 + 4 * at..][..4].copy_from_slice(&word.to_be_bytes());
        }
        &self.bytes
    }

    /// Appends to the set of this id, beginning one if another is the last.
    fn append(&mut self, id: u16) -> bool {
        let goes_on = self.set.is_some_and(|(last, _)| last == id);
        let head = if goes_on { 0 } else { 4 };
        if self.bytes.len() + head + self.next.len() > MOST {
            return false;
        }
        if !goes_on {
            self.end_set();
            self.set = Some((id, self.bytes.len()));
            self.bytes.extend([id, 0].map(u16::to_be_bytes).as_flattened());
        }
        self.bytes.extend_from_slice(&self.next);
        true
    }

    /// Writes how long the last set is.
    fn end_set(&mut self) {
        if let Some((_, at)) = self.set.take() {
            let length = (self.bytes.len() - at) as u16;
            self.bytes[at + 2..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Id of the template of a family's records.
fn template(family: Family) -> u16 {
    FIRST_TEMPLATE + family.index() as u16
}
