//! GPU architectures: [`Sm`] of a GPU, [`Architecture`] of code.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The architecture of a GPU: its compute capability times ten, written `sm_75`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sm(u32);

/// A text that names no GPU architecture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{found}` is no GPU architecture, expected `sm_` and the compute capability without its dot, such as `sm_75` or `sm_120`"
)]
pub struct SmError {
    /// The text as given.
    pub found: String,
}

/// What the code of an architecture is promised to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Variant {
    /// Later GPUs too.
    Plain,
    /// This GPU only (`a`).
    Specific,
    /// Later GPUs of the same family too (`f`).
    Family,
}

/// The architecture that code was made for, written `sm_90a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// Its number.
    pub sm: u32,
    /// Its variant.
    pub variant: Variant,
}

/// GPUs that share their memory with the processor. Machine code is not exchanged between them and other GPUs, nor among them.
const INTEGRATED: [u32; 8] = [32, 53, 62, 72, 87, 88, 101, 110];

impl Sm {
    /// The number in its name.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }

    /// Whether machine code (a cubin) for an architecture runs on this GPU: code for the same number; code for a lower one of
    /// the same major version, unless it is specific to its GPU, or one of the two shares memory with the processor.
    #[must_use]
    pub fn runs(self, code: Architecture) -> bool {
        let is_within_major = code.sm / 10 == self.0 / 10 && code.sm < self.0;
        code.sm == self.0
            || (is_within_major
                && code.variant != Variant::Specific
                && !INTEGRATED.contains(&code.sm)
                && !INTEGRATED.contains(&self.0))
    }

    /// Whether the driver can compile PTX for an architecture on this GPU: PTX for the same number or any lower one, unless it is
    /// specific to its GPU; where it is for a family, of the same major version.
    #[must_use]
    pub fn compiles(self, code: Architecture) -> bool {
        code.sm == self.0
            || match code.variant {
                Variant::Plain => code.sm < self.0,
                Variant::Specific => false,
                Variant::Family => code.sm / 10 == self.0 / 10 && code.sm < self.0,
            }
    }
}

impl FromStr for Sm {
    type Err = SmError;

    fn from_str(text: &str) -> Result<Self, SmError> {
        let number = text.strip_prefix("sm_").filter(|digits| {
            (2..=3).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit()) && !digits.starts_with('0')
        });
        let number = number.and_then(|digits| digits.parse().ok());
        number.map(Self).ok_or_else(|| SmError { found: text.to_owned() })
    }
}

impl fmt::Display for Sm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

impl TryFrom<String> for Sm {
    type Error = SmError;

    fn try_from(text: String) -> Result<Self, SmError> {
        text.parse()
    }
}

impl From<Sm> for String {
    fn from(sm: Sm) -> Self {
        sm.to_string()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suffix = match self.variant {
            Variant::Plain => "",
            Variant::Specific => "a",
            Variant::Family => "f",
        };
        f.pad(&format!("sm_{}{suffix}", self.sm))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(sm: u32, variant: Variant) -> Architecture {
        Architecture { sm, variant }
    }

    #[test]
    fn names_of_gpus_round_trip() {
        for name in ["sm_75", "sm_86", "sm_120"] {
            assert_eq!(name.parse::<Sm>().map(|sm| sm.to_string()).as_deref(), Ok(name));
        }
        for bad in ["", "75", "sm_", "sm_7", "sm_1200", "sm_90a", "SM_75", "sm_+5", "sm_075", "compute_75", "sm_7.5"] {
            assert_eq!(bad.parse::<Sm>(), Err(SmError { found: bad.to_owned() }));
        }
    }

    #[test]
    fn machine_code_runs_within_its_major_version() {
        use Variant::{Family, Plain, Specific};
        for (gpu, sm, variant, runs) in [
            (75, 75, Plain, true),
            (75, 70, Plain, true),
            (75, 80, Plain, false),
            (80, 75, Plain, false),
            (89, 80, Plain, true),
            (89, 86, Plain, true),
            (86, 89, Plain, false),
            (90, 90, Specific, true),
            (103, 100, Specific, false),
            (103, 100, Family, true),
            (120, 100, Family, false),
            (121, 120, Family, true),
            (121, 120, Plain, true),
            // Jetson's cubins are for nothing else, and nothing else's for them.
            (89, 87, Plain, false),
            (87, 86, Plain, false),
            (87, 87, Plain, true),
        ] {
            assert_eq!(Sm(gpu).runs(code(sm, variant)), runs, "sm_{gpu} and {}", code(sm, variant));
        }
    }

    #[test]
    fn ptx_is_compiled_for_later_gpus() {
        use Variant::{Family, Plain, Specific};
        for (gpu, sm, variant, compiles) in [
            (120, 75, Plain, true),
            (75, 75, Plain, true),
            (75, 80, Plain, false),
            (100, 90, Specific, false),
            (90, 90, Specific, true),
            (103, 100, Family, true),
            (120, 100, Family, false),
        ] {
            assert_eq!(Sm(gpu).compiles(code(sm, variant)), compiles, "sm_{gpu} and {}", code(sm, variant));
        }
    }
}
