//! Resource quantities: "100m", "1Gi", "2".

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use serde_json::Value;

/// An amount in thousandths of its unit; amounts below are rounded up, as Kubernetes does with what it schedules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    milli: i128,
}

impl Quantity {
    pub const ZERO: Self = Self { milli: 0 };

    pub const fn from_units(units: i64) -> Self {
        Self { milli: units as i128 * 1000 }
    }

    pub const fn from_milli(milli: i64) -> Self {
        Self { milli: milli as i128 }
    }

    /// Parses a decimal number with a suffix of decimal (n u m k M G T P E), binary (Ki Mi Gi Ti Pi Ei) or exponent
    /// (e3) form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                .to_owned()
        };
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(wrong());
        }
        let (multiplier, divisor) = scale(suffix).ok_or_else(wrong)?;
        let digits: i128 = format!("0{whole}{fraction}").parse().map_err(|_| wrong())?;
        let decimals = u32::try_from(fraction.len()).ok().and_then(|digits| 10i128.checked_pow(digits));
        let numerator = digits.checked_mul(multiplier).and_then(|value| value.checked_mul(1000)).ok_or_else(wrong)?;
        let denominator = decimals.and_then(|decimals| decimals.checked_mul(divisor)).ok_or_else(wrong)?;
        let milli = numerator / denominator + i128::from(numerator % denominator != 0);
        Ok(Self { milli: if text.starts_with('-') { -milli } else { milli } })
    }

    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        i64::try_from(self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) != 0)).unwrap_or(i64::MAX)
    }

    /// Thousandths.
    pub fn milli(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(i64::MAX)
    }

    /// This share of `total`, from 0 to 1; 1 when there is nothing to share.
    pub fn share_of(self, total: Self) -> f64 {
        if total.milli <= 0 { 1.0 } else { (self.milli as f64 / total.milli as f64).clamp(0.0, 1.0) }
    }

    pub fn is_negative(self) -> bool {
        self.milli < 0
    }
}

/// Writes the numbers of a resource list as texts, which is what the typed objects hold: YAML writers say `cpu: 2`.
pub(crate) fn write_as_text(list: &mut Value) {
    for (_, value) in list.as_object_mut().into_iter().flatten() {
        if value.is_number() {
            *value = value.to_string().into();
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli % 1000 == 0 {
            write!(formatter, "{}", self.milli / 1000)
        } else {
            write!(formatter, "{}m", self.milli)
        }
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { milli: self.milli.saturating_add(other.milli) }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { milli: self.milli.saturating_sub(other.milli) }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

/// A quantity and how it is written: "1Gi" stays in powers of 1024, as in Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub quantity: Quantity,
    binary: bool,
}

impl Amount {
    pub const fn from_units(units: i64) -> Self {
        Self { quantity: Quantity::from_units(units), binary: false }
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self { quantity: Quantity::parse(text)?, binary: text.ends_with('i') })
    }

    /// The larger of both.
    pub fn max(self, other: Self) -> Self {
        if other.quantity > self.quantity { other } else { self }
    }
}

/// Nothing takes the form of what is added to it.
impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        if self.quantity == Quantity::ZERO {
            self.binary = other.binary;
        }
        self.quantity += other.quantity;
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let binary = if self.quantity == Quantity::ZERO { other.binary } else { self.binary };
        Self { quantity: self.quantity - other.quantity, binary }
    }
}

/// With the largest suffix that loses nothing.
impl fmt::Display for Amount {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milli = self.quantity.milli;
        if milli % 1000 != 0 {
            return write!(formatter, "{milli}m");
        }
        let mut units = milli / 1000;
        let (step, suffixes) = if self.binary && units.abs() >= 1024 {
            (1024, ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"])
        } else {
            (1000, ["k", "M", "G", "T", "P", "E"])
        };
        let mut suffix = "";
        for larger in suffixes {
            if units == 0 || units % step != 0 {
                break;
            }
            (units, suffix) = (units / step, larger);
        }
        write!(formatter, "{units}{suffix}")
    }
}

/// What a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            let power: i32 = digits.parse().ok().filter(|power: &i32| power.abs() <= 18)?;
            let scale = 10i128.pow(power.unsigned_abs());
            Some(if power < 0 { (1, scale) } else { (scale, 1) })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Amount, Quantity};

    fn milli(text: &str) -> i64 {
        Quantity::parse(text).unwrap().milli()
    }

    #[test]
    fn suffixes_scale() {
        let cases =
            [("2", 2000), ("100m", 100), ("1.5", 1500), ("1k", 1_000_000), ("1Ki", 1_024_000), ("1e3", 1_000_000)];
        for (text, expected) in cases {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(Quantity::parse("4Gi").unwrap().units(), 4 << 30);
        assert_eq!(Quantity::parse(".5").unwrap().milli(), 500);
        assert_eq!(Quantity::parse("-1").unwrap().milli(), -1000);
    }

    #[test]
    fn what_is_below_a_thousandth_is_rounded_up() {
        assert_eq!(milli("1u"), 1);
        assert_eq!(milli("100n"), 1);
        assert_eq!(Quantity::parse("100m").unwrap().units(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "-", ".", "1.2.3", "abc", "1 Gi", "1gi", "1e99", "0x10", "1e", "99999999999999999999999999999999Ei"]
        {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_amount_is_written_with_the_largest_suffix_of_its_form() {
        for (text, expected) in [
            ("0", "0"),
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1Gi", "1Gi"),
            ("1024Mi", "1Gi"),
            ("1025Ki", "1025Ki"),
            ("0.5Ki", "512"),
            ("1000Mi", "1000Mi"),
            ("2000000", "2M"),
        ] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), expected, "{text}");
        }
        let mut sum = Amount::default();
        ["1Gi", "512Mi"].iter().for_each(|text| sum += Amount::parse(text).unwrap());
        assert_eq!(sum.to_string(), "1536Mi");
        assert_eq!((sum - Amount::parse("512Mi").unwrap()).to_string(), "1Gi");
    }

    #[test]
    fn an_amount_is_written_as_it_is_read() {
        for text in ["0", "2", "1500m", "110"] {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), text);
        }
    }
}
