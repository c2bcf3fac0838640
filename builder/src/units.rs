//! Quantities as people read and write them: [`ByteSize`] (MB are 10⁶ bytes, MiB are 2²⁰ bytes), [`Milliseconds`] and [`Percent`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteSize(pub u64);

/// A text that is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no size, expected a number with B, kB, MB, GB, KiB, MiB or GiB, such as `60MB`")]
pub struct ByteSizeError {
    /// The text as given.
    pub found: String,
}

const UNITS: [(&str, u64); 8] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let error = || ByteSizeError { found: text.to_owned() };
        let trimmed = text.trim();
        let (number, factor) = UNITS
            .iter()
            .find_map(|(unit, factor)| trimmed.strip_suffix(unit).map(|number| (number.trim_end(), *factor)))
            .unwrap_or((trimmed, 1));
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || fraction.len() > 9
            || (number.contains('.') && fraction.is_empty())
        {
            return Err(error());
        }
        let whole: u128 = whole.parse().map_err(|_| error())?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| error())?);
        let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
        let bytes = whole.checked_mul(u128::from(factor)).ok_or_else(error)? + fraction * u128::from(factor) / scale;
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

impl fmt::Display for ByteSize {
    /// Three significant digits or more, in decimal units: `999 B`, `34.8 kB`, `1466.2 MB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            bytes @ 0..1_000 => format!("{bytes} B"),
            bytes @ 1_000..1_000_000 => tenths(bytes, 1_000, "kB"),
            bytes => tenths(bytes, 1_000_000, "MB"),
        };
        f.pad(&text)
    }
}

fn tenths(bytes: u64, unit: u64, name: &str) -> String {
    let tenths = (u128::from(bytes) * 10 + u128::from(unit) / 2) / u128::from(unit);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

impl TryFrom<String> for ByteSize {
    type Error = ByteSizeError;

    fn try_from(text: String) -> Result<Self, ByteSizeError> {
        text.parse()
    }
}

impl From<ByteSize> for String {
    fn from(size: ByteSize) -> Self {
        format!("{}B", size.0)
    }
}

/// A time.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Milliseconds(pub f64);

/// A growth, in percent.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(pub f64);

/// A text that is no such quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is no {expected}")]
pub struct QuantityError {
    /// The text as given.
    pub found: String,
    /// What was expected, with an example.
    pub expected: &'static str,
}

/// Reads a plain decimal number that is not negative.
fn number(text: &str) -> Option<f64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    text.parse().ok().filter(|value: &f64| plain && value.is_finite())
}

impl FromStr for Milliseconds {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let trimmed = text.trim();
        let (value, factor) = match (trimmed.strip_suffix("ms"), trimmed.strip_suffix('s')) {
            (Some(value), _) => (value, 1.0),
            (None, Some(value)) => (value, 1000.0),
            (None, None) => ("", 1.0),
        };
        let error = QuantityError { found: text.to_owned(), expected: "time, expected a number with ms or s, such as `250ms`" };
        number(value.trim_end()).map(|value| Self(value * factor)).ok_or(error)
    }
}

impl fmt::Display for Milliseconds {
    /// `0.42 ms`, `42.0 ms`, `4.20 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            value if value.abs() >= 1000.0 => format!("{:.2} s", value / 1000.0),
            value if value.abs() >= 10.0 => format!("{value:.1} ms"),
            value => format!("{value:.2} ms"),
        };
        f.pad(&text)
    }
}

impl FromStr for Percent {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let error = QuantityError { found: text.to_owned(), expected: "growth, expected a number with %, such as `5%`" };
        text.trim().strip_suffix('%').and_then(|value| number(value.trim_end())).map(Self).ok_or(error)
    }
}

impl fmt::Display for Percent {
    /// `5 %`, `0.5 %`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} %", self.0))
    }
}

macro_rules! as_text {
    ($kind:ty, $value:ident => $written:expr) => {
        impl TryFrom<String> for $kind {
            type Error = QuantityError;

            fn try_from(text: String) -> Result<Self, QuantityError> {
                text.parse()
            }
        }

        impl From<$kind> for String {
            fn from($value: $kind) -> Self {
                $written
            }
        }
    };
}

as_text!(Milliseconds, time => format!("{}ms", time.0));
as_text!(Percent, percent => format!("{}%", percent.0));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in
            [("0", 0), ("12B", 12), ("1.5kB", 1_500), ("60MB", 60_000_000), ("60 MB", 60_000_000), ("2GiB", 2 << 30)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "MB", "-1", "1.", ".5MB", "1e3", "1TB", "1.2.3MB", "99999999999999999999GB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_decimal_units() {
        for (bytes, text) in [(999, "999 B"), (34_750, "34.8 kB"), (999_960, "1000.0 kB"), (1_466_200_000, "1466.2 MB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_and_growths_are_read() {
        for (text, value) in [("2s", 2000.0), ("250ms", 250.0), ("0.5 s", 500.0), (" 1.25ms ", 1.25)] {
            assert_eq!(text.parse(), Ok(Milliseconds(value)), "{text}");
        }
        for bad in ["", "s", "2", "-1s", "1e3ms", "infs", "1.2.3s", "2m"] {
            assert!(bad.parse::<Milliseconds>().is_err(), "{bad}");
        }
        assert_eq!("5%".parse(), Ok(Percent(5.0)));
        for bad in ["5", "-5%", "%", "NaN%"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
        assert_eq!(format!("{} {} {}", Milliseconds(0.4), Milliseconds(42.0), Milliseconds(4200.0)), "0.40 ms 42.0 ms 4.20 s");
    }
}
