//! What the crate's tests derive from.

use weir_layout::control::ControlHalf;
use weir_site::Site;
use weir_view::Kernel;

use crate::{Overrides, derive};

/// One LAN, and uplinks of these names by wan0 and so on.
pub fn site(uplinks: &[&str]) -> Site {
    let mut text = "[[lan]]\ninterface = \"lan0\"\n".to_owned();
    for (index, name) in uplinks.iter().enumerate() {
        text += &format!("[[uplink]]\nname = \"{name}\"\ninterface = \"wan{index}\"\n");
    }
    weir_site::parse("weir.toml", &text).unwrap()
}

/// What is published of it where the kernel has nothing.
pub fn published(uplinks: &[&str]) -> Box<ControlHalf> {
    derive(&site(uplinks), &Kernel::default(), &Overrides::default(), [&[]; 2], None).half
}
