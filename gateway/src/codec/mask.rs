//! `google.protobuf.FieldMask`: one string of comma-separated paths, camelCase in JSON and snake_case on the wire.

use super::error::Problem;
use super::wire::Writer;

/// `proto_names`: take snake_case as it is, which JSON must not but a URL may.
pub(crate) fn parse(text: &str, proto_names: bool, out: &mut Writer) -> Result<(), Problem> {
    if text.is_empty() {
        return Ok(());
    }
    for path in text.split(',') {
        // In JSON an underscore could not be told from the one that an upper-case letter stands for.
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || (proto_names && b == b'_');
        if path.is_empty() || !path.bytes().all(allowed) {
            return Err(Problem::expected("field mask of camelCase paths", text));
        }
        out.tag(1, 2);
        let open = out.open();
        for byte in path.bytes() {
            if byte.is_ascii_uppercase() {
                out.buf.push(b'_');
            }
            out.buf.push(byte.to_ascii_lowercase());
        }
        out.close(open);
    }
    Ok(())
}

/// Appends one path in camelCase.
pub(crate) fn write_path(out: &mut Vec<u8>, path: &[u8]) -> Result<(), Problem> {
    let mut upper = false;
    for &byte in path {
        match byte {
            b'_' if !upper => upper = true,
            b'a'..=b'z' => out.push(if std::mem::take(&mut upper) { byte.to_ascii_uppercase() } else { byte }),
            b'0'..=b'9' | b'.' if !upper => out.push(byte),
            // Anything else would not come back as it was.
            _ => return Err(Problem::Unprintable("a field mask path that is not snake_case")),
        }
    }
    if upper || path.is_empty() {
        Err(Problem::Unprintable("a field mask path that is not snake_case"))
    } else {
        Ok(())
    }
}
