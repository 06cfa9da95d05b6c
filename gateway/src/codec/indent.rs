//! JSON for the eyes.

/// Appends compact JSON as this crate prints it, with each member and element on a line of its own, two spaces deeper at
/// each level, and a space after each colon. Empty objects and lists stay in one line. One pass; what is not JSON comes
/// out as something that is not JSON either.
pub fn indent(compact: &[u8], out: &mut Vec<u8>) {
    let mut depth = 0usize;
    let mut rest = compact;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'"' => {
                let text = string(rest);
                out.push(b'"');
                out.extend_from_slice(rest.get(..text).unwrap_or_default());
                rest = rest.get(text..).unwrap_or_default();
            }
            b'{' | b'[' => {
                out.push(byte);
                if let Some((&close @ (b'}' | b']'), tail)) = rest.split_first() {
                    out.push(close);
                    rest = tail;
                } else {
                    depth += 1;
                    line(out, depth);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                line(out, depth);
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(byte),
        }
    }
}

/// Length of the rest of a string, closing quote included.
fn string(rest: &[u8]) -> usize {
    let mut from = 0;
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest.get(from..).unwrap_or_default()) {
        if rest.get(from + at) == Some(&b'"') {
            return from + at + 1;
        }
        // Whatever is escaped is no end.
        from += at + 2;
    }
    rest.len()
}

fn line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.resize(out.len() + 2 * depth, b' ');
}
