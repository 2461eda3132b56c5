//! The kernel's settings as they were before weir, where every version of weir finds them.

use weir_layout::sysctls::SysctlsBefore;

use crate::map::{Access, Mmap};
use crate::pins::name;
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// The settings, mapped.
#[derive(Debug)]
pub struct SysctlsRegion {
    mmap: Mmap,
}

impl SysctlsRegion {
    /// Opens the pinned region, creating it when `access` is [`Access::Write`].
    ///
    /// # Errors
    /// [`Error::Layout`] also when a later version keeps there what this one would not put back.
    pub fn open(pins: &Pins, access: Access) -> Result<Self, Error> {
        let region = Self { mmap: pins.sysctls(access)? };
        match SysctlsBefore::unpack(region.word().load(Ordering::Relaxed)) {
            Some(_) => Ok(region),
            None => Err(Error::Layout {
                path: pins.path(name::SYSCTLS),
                found: "settings of a later version".into(),
                expected: "those that it knows".into(),
            }),
        }
    }

    /// A region of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self { mmap: Mmap::anonymous(size_of::<AtomicU64>())? })
    }

    /// What was there before weir; the default: weir changed nothing.
    pub fn before(&self) -> SysctlsBefore {
        SysctlsBefore::unpack(self.word().load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Keeps it.
    pub fn keep(&self, before: SysctlsBefore) {
        self.word().store(before.pack(), Ordering::Relaxed);
    }

    fn word(&self) -> &AtomicU64 {
        &self.mmap.view::<AtomicU64>(0)[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_for_the_one_who_puts_them_back() {
        let region = SysctlsRegion::anonymous().unwrap();
        assert_eq!(region.before(), SysctlsBefore::default());
        let before = SysctlsBefore { local_ports: (32_768, 60_999), forwarded_nothing: true };
        region.keep(before);
        assert_eq!(region.before(), before);
    }

    #[test]
    fn a_setting_of_a_later_version_is_not_passed_over() {
        assert_eq!(SysctlsBefore::unpack(1 << 33), None);
        assert_eq!(SysctlsBefore::unpack(0), Some(SysctlsBefore::default()));
    }
}
