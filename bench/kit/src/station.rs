//! A station on a link that sends whatever frames it likes.

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkSender};

use crate::netns::Netns;

/// An open device.
pub struct Station {
    sender: Box<dyn DataLinkSender>,
}

impl Station {
    /// Opens `device` of `netns`.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub fn on(netns: &Netns, device: &str) -> Result<Self> {
        netns
            .run(|| -> Result<Self> {
                let mut interfaces = pnet_datalink::interfaces().into_iter();
                let interface = interfaces.find(|interface| interface.name == device);
                let interface = interface.context("there is no such device")?;
                match pnet_datalink::channel(&interface, Config::default())? {
                    Channel::Ethernet(sender, _) => Ok(Self { sender }),
                    _ => bail!("not an Ethernet device"),
                }
            })?
            .with_context(|| format!("cannot open {device} in {}", netns.name()))
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// When the device does not take it.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.sender.send_to(frame, None).context("no room to send")?.context("cannot send")
    }
}
