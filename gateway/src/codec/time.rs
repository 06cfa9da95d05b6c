//! Text forms of `Timestamp` (RFC 3339) and `Duration`, as ProtoJSON has them.

use super::error::Problem;

/// 0001-01-01T00:00:00Z and the last second of 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;
/// About 10,000 years: the range of the seconds of `google.protobuf.Duration`, whatever the nanoseconds.
const LONGEST: i64 = 315_576_000_000;
const DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;

/// Seconds and nanoseconds of an RFC 3339 text.
pub(crate) fn parse_timestamp(text: &str) -> Result<(i64, i32), Problem> {
    let (seconds, nanos) = timestamp(text.as_bytes()).ok_or_else(|| Problem::expected("RFC 3339 timestamp", text))?;
    if (FIRST..=LAST).contains(&seconds) { Ok((seconds, nanos)) } else { Err(Problem::out_of_range("timestamp", text)) }
}

fn timestamp(b: &[u8]) -> Option<(i64, i32)> {
    let [y1, y2, y3, y4, b'-', o1, o2, b'-', d1, d2, b'T', h1, h2, b':', m1, m2, b':', s1, s2] = *b.first_chunk()?
    else {
        return None;
    };
    let year = two_digits(y1, y2)? * 100 + two_digits(y3, y4)?;
    let (month, day) = (two_digits(o1, o2)?, two_digits(d1, d2)?);
    let (hour, minute, second) = (two_digits(h1, h2)?, two_digits(m1, m2)?, two_digits(s1, s2)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (nanos, zone) = fraction(b.get(19..)?)?;
    let offset = match zone {
        b"Z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (h, m) = (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?);
            if h > 23 || m > 59 {
                return None;
            }
            (h * 3600 + m * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = days_from_civil(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset;
    Some((seconds, nanos))
}

/// `.5…` → nanoseconds and what follows; 0 if there is no fraction.
fn fraction(b: &[u8]) -> Option<(i32, &[u8])> {
    let Some(rest) = b.strip_prefix(b".") else { return Some((0, b)) };
    let n = rest.iter().take_while(|c| c.is_ascii_digit()).count();
    if !(1..=9).contains(&n) {
        return None;
    }
    let value = digits(rest, 0, n)? * 10i64.pow(9 - n as u32);
    Some((i32::try_from(value).ok()?, rest.get(n..)?))
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then_some(i64::from(tens) * 10 + i64::from(ones))
}

fn digits(b: &[u8], from: usize, n: usize) -> Option<i64> {
    b.get(from..from + n)?.iter().try_fold(0i64, |sum, c| c.is_ascii_digit().then(|| sum * 10 + i64::from(c - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a Gregorian date. Years begin in March here, so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH
}

/// Year, month and day, of days since 0000-03-01.
fn civil_from_days(days: u32) -> (u32, u32, u32) {
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    (year + era * 400 + u32::from(month <= 2), month, day)
}

/// Appends an RFC 3339 text in UTC, with 0, 3, 6 or 9 digits of fraction.
pub(crate) fn write_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Result<(), Problem> {
    if !(FIRST..=LAST).contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(Problem::Unprintable("a timestamp out of range"));
    }
    // Counted from a day before the first, so that unsigned (and thereby cheaper) arithmetic is enough.
    let seconds = (seconds + EPOCH * DAY) as u64;
    let (year, month, day) = civil_from_days((seconds / DAY as u64) as u32);
    let of_day = (seconds % DAY as u64) as u32;
    // The longest form, filled in where it stands; then what is not printed of the fraction is cut off.
    out.extend_from_slice(b"0000-00-00T00:00:00.000000000Z");
    let Some(text) = out.last_chunk_mut::<30>() else { return Ok(()) };
    [text[0], text[1]] = two(year / 100);
    [text[2], text[3]] = two(year % 100);
    [text[5], text[6]] = two(month);
    [text[8], text[9]] = two(day);
    [text[11], text[12]] = two(of_day / 3600);
    [text[14], text[15]] = two(of_day / 60 % 60);
    [text[17], text[18]] = two(of_day % 60);
    let width = fraction_width(nanos.unsigned_abs());
    if width > 0 {
        text[19..29].copy_from_slice(&fraction_text(nanos.unsigned_abs()));
    }
    if width < 10 {
        text[19 + width] = b'Z';
        out.truncate(out.len() - (10 - width));
    }
    Ok(())
}

/// The decimal digits of 0 to 99.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut value = 0;
    while value < 100 {
        pairs[value] = [b'0' + value as u8 / 10, b'0' + value as u8 % 10];
        value += 1;
    }
    pairs
};

#[inline]
fn two(value: u32) -> [u8; 2] {
    PAIRS.get(value as usize).copied().unwrap_or_default()
}

/// `.` and nine digits.
fn fraction_text(nanos: u32) -> [u8; 10] {
    let (high, middle, low) = (nanos / 1_000_000, nanos / 1_000 % 1_000, nanos % 1_000);
    let ([a, b], [d, e], [g, h]) = (two(high / 10), two(middle / 10), two(low / 10));
    let last = |three: u32| b'0' + (three % 10) as u8;
    [b'.', a, b, last(high), d, e, last(middle), g, h, last(low)]
}

/// How much of that is printed: 0, 3, 6 or 9 digits.
fn fraction_width(nanos: u32) -> usize {
    match nanos {
        0 => 0,
        n if n % 1_000_000 == 0 => 4,
        n if n % 1_000 == 0 => 7,
        _ => 10,
    }
}

/// Seconds and nanoseconds, of one sign, of a text such as `-1.5s`.
pub(crate) fn parse_duration(text: &str) -> Result<(i64, i32), Problem> {
    let (seconds, nanos) =
        duration(text.as_bytes()).ok_or_else(|| Problem::expected("duration such as \"1.5s\"", text))?;
    if seconds.abs() > LONGEST {
        return Err(Problem::out_of_range("duration", text));
    }
    Ok((seconds, nanos))
}

fn duration(b: &[u8]) -> Option<(i64, i32)> {
    let (sign, b) = b.strip_prefix(b"-").map_or((1, b), |rest| (-1, rest));
    let n = b.iter().take_while(|c| c.is_ascii_digit()).count();
    if !(1..=18).contains(&n) {
        return None;
    }
    let (nanos, unit) = fraction(b.get(n..)?)?;
    (unit == b"s").then_some((digits(b, 0, n)? * sign, nanos * sign as i32))
}

/// Appends a text such as `-1.500s`.
pub(crate) fn write_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> Result<(), Problem> {
    let mixed = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if mixed || !(-LONGEST..=LONGEST).contains(&seconds) || !(-999_999_999..=999_999_999).contains(&nanos) {
        return Err(Problem::Unprintable("a duration out of range"));
    }
    if seconds < 0 || nanos < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(itoa::Buffer::new().format(seconds.unsigned_abs()).as_bytes());
    let nanos = nanos.unsigned_abs();
    out.extend_from_slice(&fraction_text(nanos)[..fraction_width(nanos)]);
    out.push(b's');
    Ok(())
}
