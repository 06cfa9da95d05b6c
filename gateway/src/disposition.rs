//! `Content-Disposition` of requests and of the parts of a form (RFC 6266, RFC 8187, RFC 7578 section 4.2).

use http::header::{self, HeaderMap};
use percent_encoding::percent_decode_str;

use crate::codec::{CodecError, Problem};

/// What it says about a file. Values that are not there are empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Disposition {
    /// Which field of the form it is.
    pub name: String,
    /// The name of the file, without the folders that a client may have left in front of it.
    pub filename: String,
}

impl Disposition {
    /// Of several headers the first counts. Names must be UTF-8.
    pub fn read(headers: &HeaderMap) -> Result<Self, CodecError> {
        let Some(value) = headers.get(header::CONTENT_DISPOSITION) else { return Ok(Self::default()) };
        let text = std::str::from_utf8(value.as_bytes());
        let text = text.map_err(|_| CodecError::from(Problem::Utf8).at_field(header::CONTENT_DISPOSITION.as_str()))?;
        Ok(Self::parse(text))
    }

    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut extended = None;
        let (_, mut rest) = text.split_once(';').unwrap_or((text, ""));
        while let Some((name, value, more)) = parameter(rest) {
            match name.to_ascii_lowercase().as_str() {
                "name" => found.name = value,
                "filename" => found.filename = value,
                "filename*" => extended = decode_extended(&value),
                _ => {}
            }
            rest = more;
        }
        // RFC 6266 section 4.3: the extended form is preferred, and directories are not to be honoured.
        let filename = extended.unwrap_or(found.filename);
        found.filename = filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        found
    }
}

/// The next `name=value`, and what comes after it; parameters without a value are passed over.
fn parameter(mut text: &str) -> Option<(&str, String, &str)> {
    loop {
        let end = text.find(['=', ';'])?;
        let (name, rest) = text.split_at(end);
        let value = rest.get(1..)?.trim_start();
        if rest.starts_with(';') {
            text = value;
            continue;
        }
        let (value, rest) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (token, _) = value.split_once(';').unwrap_or((value, ""));
                (token.trim().to_owned(), value.get(token.len()..)?)
            }
        };
        let (_, rest) = rest.split_once(';').unwrap_or((rest, ""));
        return Some((name.trim(), value, rest));
    }
}

/// A quoted string past its first quote. Only quotes and backslashes are taken for escaped: old clients send the whole
/// path of a file with bare backslashes.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, text.get(at + 1..).unwrap_or_default()),
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            c => value.push(c),
        }
    }
    (value, "")
}

/// RFC 8187 `charset'language'value`; `None` if it is in another charset than UTF-8, which is the one everybody knows.
fn decode_extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_, encoded) = rest.split_once('\'')?;
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    percent_decode_str(encoded).decode_utf8().ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_clients_write_them() {
        for (text, name, filename) in [
            ("attachment; filename=\"a b.txt\"", "", "a b.txt"),
            ("attachment; filename=plain.txt", "", "plain.txt"),
            ("attachment;filename = plain.txt ;x=y", "", "plain.txt"),
            ("form-data; name=\"file\"; filename=\"q\\\"uote;.txt\"", "file", "q\"uote;.txt"),
            ("form-data; name=file; filename=\"na\u{ef}ve.txt\"", "file", "na\u{ef}ve.txt"),
            // RFC 8187, examples of section 3.2.3 and RFC 6266 section 5.
            ("attachment; filename=\"EURO rates\"; filename*=utf-8''%e2%82%ac%20rates", "", "€ rates"),
            ("attachment; filename*=UTF-8'en'%c2%a3%20rates; filename=\"x\"", "", "£ rates"),
            ("attachment; filename*=iso-8859-1'en'%A3%20rates; filename=\"x\"", "", "x"),
            ("attachment; filename*=UTF-8''%ff; filename=\"x\"", "", "x"),
            ("attachment; filename*=broken; filename=\"x\"", "", "x"),
            ("attachment; FILENAME=\"x\"", "", "x"),
            ("attachment; filename=\"C:\\dir\\x.txt\"", "", "x.txt"),
            ("attachment; filename=\"../../etc/passwd\"", "", "passwd"),
            ("attachment; filename*=UTF-8''..%2F..%2Fpasswd", "", "passwd"),
            ("attachment; flag; filename=x", "", "x"),
            ("attachment; filename=\"open", "", "open"),
            ("attachment; filename=", "", ""),
            ("inline", "", ""),
            ("", "", ""),
            (";;;=;\"", "", ""),
        ] {
            let expected = Disposition { name: name.to_owned(), filename: filename.to_owned() };
            assert_eq!(Disposition::parse(text), expected, "{text}");
        }
    }
}
