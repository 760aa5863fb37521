//! The wire format of protobuf: keys, numbers, and bytes of a length.

use std::fmt;

/// What is wrong with the bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub String);

impl fmt::Display for Malformed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn malformed<T>(why: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(why.into()))
}

/// One value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scalar<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of four or eight bytes; no field of the API is.
    Fixed,
}

/// The fields of a message, as they come.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value.
    fn field(&mut self) -> Result<(u32, Scalar<'a>), Malformed> {
        let key = self.number()?;
        let Ok(number) = u32::try_from(key >> 3) else { return malformed("the number of a field is too large") };
        let value = match key & 7 {
            _ if number == 0 => return malformed("a field has the number 0"),
            0 => Scalar::Number(self.number()?),
            2 => {
                let length = self.number()?;
                Scalar::Bytes(self.bytes(length)?)
            }
            1 => {
                self.bytes(8)?;
                Scalar::Fixed
            }
            5 => {
                self.bytes(4)?;
                Scalar::Fixed
            }
            other => return malformed(format!("field {number} has the wire type {other}")),
        };
        Ok((number, value))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let Some((first, rest)) = self.rest.split_first() else { return malformed("unexpected EOF") };
            self.rest = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        malformed("a number has more than 64 bits")
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let taken = usize::try_from(length).ok().and_then(|length| self.rest.split_at_checked(length));
        let Some((taken, rest)) = taken else { return malformed("unexpected EOF") };
        self.rest = rest;
        Ok(taken)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Scalar<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// Numbers one after the other without keys.
pub(super) fn packed(bytes: &[u8]) -> Result<Vec<u64>, Malformed> {
    let mut fields = Fields::of(bytes);
    let mut numbers = Vec::new();
    while !fields.rest.is_empty() {
        numbers.push(fields.number()?);
    }
    Ok(numbers)
}
