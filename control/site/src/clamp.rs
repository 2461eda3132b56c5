//! `clamp_mss`: the greatest segment size that SYNs by an uplink may name.

use std::ops::RangeInclusive;

use toml::Spanned;

use super::checker::Checker;
use super::schema;

/// The MTU that a path has from end to end as a rule.
const USUAL_MTU: u16 = 1500;
/// Bytes of the headers of IPv4 and TCP.
const HEADERS: u16 = 40;
/// From what every host takes (RFC 9293 §3.7.1) to what a packet can hold.
const BYTES: RangeInclusive<i64> = 536..=65_495;

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClampMss {
    /// What the uplink's packets have room for, if that is less than usual.
    #[default]
    Auto,
    /// Any.
    Off,
    /// So many bytes, of IPv4.
    To(u16),
}

impl ClampMss {
    /// That size by an uplink with this MTU; 0: any.
    pub const fn most(self, mtu: u16) -> u16 {
        match self {
            Self::Auto if mtu < USUAL_MTU => mtu.saturating_sub(HEADERS),
            Self::Auto | Self::Off => 0,
            Self::To(most) => most,
        }
    }
}

/// What the file says.
pub fn clamp_mss(c: &mut Checker<'_>, given: Option<&Spanned<schema::ClampMss>>) -> ClampMss {
    let Some(given) = given else { return ClampMss::default() };
    match *given.get_ref() {
        schema::ClampMss::Word(schema::ClampWord::Auto) => ClampMss::Auto,
        schema::ClampMss::Word(schema::ClampWord::Off) => ClampMss::Off,
        schema::ClampMss::Bytes(bytes) if BYTES.contains(&bytes) => ClampMss::To(bytes as u16),
        schema::ClampMss::Bytes(bytes) => {
            let message = format!("clamp_mss = {bytes} is not within {BYTES:?}");
            c.refuse(given.span(), message, "give the MTU of the path less 40, or \"auto\"");
            ClampMss::default()
        }
    }
}

#[cfg(test)]
mod tests {
    fn site(line: &str) -> Result<crate::Site, Vec<crate::Problem>> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n\
             [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n{line}\n"
        );
        crate::parse("weir.toml", &text)
    }

    #[test]
    fn segments_are_clamped_on_narrow_uplinks_unless_the_file_says_otherwise() {
        let most = |line, mtu| site(line).unwrap().uplinks[0].clamp_mss.most(mtu);
        for (line, narrow, usual) in [
            ("", 1452, 0),
            ("clamp_mss = \"auto\"", 1452, 0),
            ("clamp_mss = \"off\"", 0, 0),
            ("clamp_mss = 1400", 1400, 1400),
        ] {
            assert_eq!((most(line, 1492), most(line, 1500)), (narrow, usual), "{line}");
        }
    }

    #[test]
    fn a_segment_size_that_cannot_be_is_refused() {
        for line in
            ["clamp_mss = 535", "clamp_mss = 65496", "clamp_mss = \"some\"", "clamp_mss = true"]
        {
            let told = site(line).unwrap_err();
            let [problem] = &told[..] else { panic!("{told:?}") };
            assert_eq!((problem.line, problem.text.as_str()), (6, line));
        }
    }
}
