//! The load engine against its promises.

mod bounds;
mod learning;
mod placing;
mod rates;
mod sim;
mod site;
mod spilling;

use weir_layout::control::Member;
use weir_site::load::{Balance, Direction, Spill};

use super::*;
use crate::pace::Random;
use crate::window::Figure;

/// A figure whose two views agree.
fn steady(value: f64) -> Figure {
    Figure { weighted: value, window: value }
}

fn member(uplink: u8, tier: u8, weight: u16) -> Member {
    Member { uplink, tier, weight }
}
