//! Numbers as text: exact integers, with fraction and exponent where the value is still whole, and floats.

use super::error::Problem;

/// Is this a number by RFC 8259 section 6? (`+1`, `01`, `.5`, `1.` and ` 1` are not.)
pub(crate) fn is_number(text: &str) -> bool {
    let (end, _) = scan(text.as_bytes());
    end == text.len() && end > 0
}

/// Length of the number at the start of the bytes (0 if there is none), and whether it is plain digits.
pub(crate) fn scan(bytes: &[u8]) -> (usize, bool) {
    let digits = |from: usize| bytes.iter().skip(from).take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match bytes.get(at) {
        Some(b'0') => at += 1,
        Some(b'1'..=b'9') => at += digits(at),
        _ => return (0, false),
    }
    let mut plain = true;
    if bytes.get(at) == Some(&b'.') {
        match digits(at + 1) {
            0 => return (0, false),
            n => at += 1 + n,
        }
        plain = false;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        match digits(at + 1 + sign) {
            0 => return (0, false),
            n => at += 1 + sign + n,
        }
        plain = false;
    }
    (at, plain)
}

/// A whole number of up to 18 digits without fraction and exponent at the start of the bytes, and its length. `None` for all
/// others, which [`scan`] judges.
#[inline]
pub(crate) fn short_integer(bytes: &[u8]) -> Option<(i64, usize)> {
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let digits = bytes.get(sign..)?;
    let (mut value, mut len) = (0i64, 0);
    while len < 16
        && let Some(eight) = digits.get(len..).and_then(|rest| rest.first_chunk()).and_then(eight_digits)
    {
        value = value * 100_000_000 + eight;
        len += 8;
    }
    // Less than nine more: those after the 18th can neither overflow nor be taken.
    let follows = loop {
        match digits.get(len) {
            Some(digit @ b'0'..=b'9') if len < 19 => {
                value = value.wrapping_mul(10).wrapping_add(i64::from(digit - b'0'))
            }
            other => break other,
        }
        len += 1;
    };
    let usual = (1..=18).contains(&len) && (len == 1 || digits.first() != Some(&b'0'));
    if !usual || matches!(follows, Some(b'.' | b'e' | b'E')) {
        return None;
    }
    Some((if sign == 1 { -value } else { value }, sign + len))
}

/// Eight digits at once: neighbours are joined to numbers of two digits, those to four, those to eight.
#[inline]
fn eight_digits(text: &[u8; 8]) -> Option<i64> {
    let x = u64::from_le_bytes(*text) ^ 0x3030_3030_3030_3030;
    // More than 9 has a high nibble, now or with 6 more.
    if (x | x.wrapping_add(0x0606_0606_0606_0606)) & 0xf0f0_f0f0_f0f0_f0f0 != 0 {
        return None;
    }
    let x = (x * 10 + (x >> 8)) & 0x00ff_00ff_00ff_00ff;
    let x = (x * 100 + (x >> 16)) & 0x0000_ffff_0000_ffff;
    let x = (x * 10_000 + (x >> 32)) & 0xffff_ffff;
    Some(x as i64)
}

/// The exact value of a whole number; `kind` names the type in errors.
pub(crate) fn integer(text: &str, kind: &'static str) -> Result<i128, Problem> {
    let (end, plain) = scan(text.as_bytes());
    if end == 0 || end != text.len() {
        return Err(Problem::expected(kind, text));
    }
    if plain && text.len() <= 20 {
        return text.parse().map_err(|_| Problem::expected(kind, text));
    }
    scaled(text).ok_or_else(|| Problem::expected(kind, text))?.ok_or_else(|| Problem::out_of_range(kind, text))
}

/// `Some(None)`: whole, but larger than any protobuf integer. `None`: not whole.
fn scaled(text: &str) -> Option<Option<i128>> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(e) => (text.get(..e)?, text.get(e + 1..)?),
        None => (text, "0"),
    };
    let negative = mantissa.starts_with('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: String = whole.chars().chain(fraction.chars()).filter(char::is_ascii_digit).collect();
    let significant = digits.trim_end_matches('0');
    let dropped = digits.len() - significant.len();
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some(Some(0));
    }
    // An exponent beyond i64 is as good as the largest: no text is long enough to make up for it.
    let exponent: i64 = exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX });
    let exponent = exponent.saturating_sub(fraction.len() as i64).saturating_add(dropped as i64);
    if exponent < 0 {
        return None;
    }
    if exponent.saturating_add(significant.len() as i64) > 20 {
        return Some(None);
    }
    let magnitude = significant.parse::<i128>().ok()? * 10i128.pow(u32::try_from(exponent).ok()?);
    Some(Some(if negative { -magnitude } else { magnitude }))
}

/// A finite double.
pub(crate) fn double(text: &str) -> Result<f64, Problem> {
    match text.parse::<f64>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err(Problem::out_of_range("double", text)),
    }
}

/// A finite float, rounded once.
pub(crate) fn float(text: &str) -> Result<f32, Problem> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err(Problem::out_of_range("float", text)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn short_integers_are_what_the_general_reader_makes_of_them(text in "-?(0|[1-9][0-9]{0,20}|[0-9]{1,20})[.eE,\\]\"a]?[0-9]{0,3}") {
            let (len, plain) = scan(text.as_bytes());
            match short_integer(text.as_bytes()) {
                Some((value, short)) => {
                    prop_assert_eq!(short, len);
                    prop_assert!(plain);
                    prop_assert_eq!(Ok(i128::from(value)), integer(&text[..len], "int64"));
                }
                // What it leaves to the general reader is long, not plain, no number, or goes on after the number (`01`).
                None => prop_assert!(!plain || len == 0 || len > 18 || "0123456789.eE".contains(&text[len..len + 1])),
            }
        }
    }
}
