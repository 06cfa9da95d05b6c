//! A JSON pull reader (RFC 8259) over text that stays where it is: strings without escapes and all numbers are borrowed.

use std::borrow::Cow;

use super::append::MemberKey;
use super::error::{Problem, Result};
use super::number;
use super::wire::MAX_DEPTH;

pub(crate) struct Lexer<'a> {
    text: &'a str,
    pos: usize,
    depth: u32,
}

impl<'a> Lexer<'a> {
    /// UTF-8 is checked here, once, for everything that follows.
    pub fn new(json: &'a [u8]) -> Result<Self> {
        let text = std::str::from_utf8(json).map_err(|_| Problem::Utf8)?;
        Ok(Self { text, pos: 0, depth: 0 })
    }

    /// The first byte of the next token, 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        match self.text.as_bytes().get(self.pos) {
            Some(&byte) if byte > b' ' => byte,
            _ => self.skip_blanks(),
        }
    }

    fn skip_blanks(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.pos) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.pos += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    #[cold]
    pub fn syntax<T>(&self, expected: &'static str) -> Result<T> {
        Err(Problem::Syntax { offset: self.pos, expected }.into())
    }

    #[inline]
    fn eat(&mut self, byte: u8, expected: &'static str) -> Result<()> {
        if self.peek() != byte {
            return self.syntax(expected);
        }
        self.pos += 1;
        Ok(())
    }

    /// For looking ahead: where the reader stands, and back to it.
    pub fn mark(&self) -> (usize, u32) {
        (self.pos, self.depth)
    }

    pub fn rewind(&mut self, mark: (usize, u32)) {
        (self.pos, self.depth) = mark;
    }

    /// One level deeper; paired with [`Lexer::leave`].
    pub fn enter(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { Err(Problem::TooDeep.into()) } else { Ok(()) }
    }

    pub fn leave(&mut self) {
        self.depth -= 1;
    }

    pub fn open_object(&mut self) -> Result<()> {
        self.enter()?;
        self.eat(b'{', "'{'")
    }

    /// The next key of an object, past its colon; `None` past the closing brace. `first` is true for the first call.
    #[inline]
    pub fn next_key(&mut self, first: &mut bool) -> Result<Option<Cow<'a, str>>> {
        if self.next_member(first)? { self.key().map(Some) } else { Ok(None) }
    }

    /// Is there another member? Past the closing brace if not. `first` is true for the first call.
    #[inline]
    pub fn next_member(&mut self, first: &mut bool) -> Result<bool> {
        let byte = self.peek();
        if byte == b'}' {
            self.pos += 1;
            self.leave();
            return Ok(false);
        }
        if !std::mem::take(first) {
            if byte != b',' {
                return self.syntax("',' or '}'");
            }
            self.pos += 1;
        }
        Ok(true)
    }

    /// A key, past its colon.
    #[inline]
    pub fn key(&mut self) -> Result<Cow<'a, str>> {
        if self.peek() != b'"' {
            return self.syntax("a key");
        }
        let key = self.string()?;
        self.eat(b':', "':'")?;
        Ok(key)
    }

    /// Steps over this key (with quotes and colon) if it stands here, in the form that all writers of compact JSON give it.
    #[inline]
    pub fn take_key(&mut self, key: &MemberKey) -> bool {
        let found = self.text.as_bytes().get(self.pos..).is_some_and(|rest| key.begins(rest));
        if found {
            self.pos += key.len() - 1;
        }
        found
    }

    /// Arrays are not a level of their own: in a message they cannot nest, and in a `Value` the value is the level.
    pub fn open_array(&mut self) -> Result<()> {
        self.eat(b'[', "'['")
    }

    /// Is there another element? Past the closing bracket if not.
    #[inline]
    pub fn next_element(&mut self, first: &mut bool) -> Result<bool> {
        if self.peek() == b']' {
            self.pos += 1;
            return Ok(false);
        }
        if !std::mem::take(first) {
            self.eat(b',', "',' or ']'")?;
            if self.peek() == b']' {
                return self.syntax("a value");
            }
        }
        Ok(true)
    }

    #[inline]
    pub fn string(&mut self) -> Result<Cow<'a, str>> {
        match self.plain_string() {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => self.other_string().map(Cow::Owned),
        }
    }

    /// The string that stands here (without blanks before it), if there are no escapes in it; otherwise nothing is read.
    pub fn plain_string(&mut self) -> Option<&'a str> {
        let (quote, rest) = self.text.as_bytes().get(self.pos..)?.split_first()?;
        let len = plain_prefix(rest);
        if *quote != b'"' || rest.get(len) != Some(&b'"') {
            return None;
        }
        let start = self.pos + 1;
        self.pos = start + len + 1;
        self.text.get(start..start + len)
    }

    /// A string with escapes, or none at all.
    #[cold]
    fn other_string(&mut self) -> Result<String> {
        self.eat(b'"', "a string")?;
        let start = self.pos;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let plain = plain_prefix(rest);
        if plain == rest.len() {
            return self.syntax("the end of the string");
        }
        self.pos += plain;
        self.escaped(start)
    }

    /// The rest of a string in which an escape (or a bare control character) was found.
    fn escaped(&mut self, mut from: usize) -> Result<String> {
        let mut out = String::new();
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.pos) {
                Some(b'"') => {
                    out.push_str(&self.text[from..self.pos]);
                    self.pos += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    out.push_str(&self.text[from..self.pos]);
                    self.pos += 1;
                    out.push(self.escape()?);
                    from = self.pos;
                }
                Some(0x20..) => self.pos += 1,
                Some(_) => return self.syntax("no bare control character in a string"),
                None => return self.syntax("the end of the string"),
            }
        }
    }

    fn escape(&mut self) -> Result<char> {
        let byte = self.text.as_bytes().get(self.pos).copied();
        self.pos += 1;
        Ok(match byte {
            Some(c @ (b'"' | b'\\' | b'/')) => char::from(c),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => {
                self.pos -= 1;
                return self.syntax("an escape");
            }
        })
    }

    fn unicode(&mut self) -> Result<char> {
        let high = self.hex4()?;
        let code = match high {
            0xd800..0xdc00 => {
                if self.text.as_bytes().get(self.pos..self.pos + 2) != Some(b"\\u") {
                    return self.syntax("a low surrogate");
                }
                self.pos += 2;
                match self.hex4()? {
                    low @ 0xdc00..0xe000 => 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                    _ => return self.syntax("a low surrogate"),
                }
            }
            code => code,
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.syntax("a high surrogate before a low one"),
        }
    }

    fn hex4(&mut self) -> Result<u32> {
        let digits = self.text.as_bytes().get(self.pos..self.pos + 4).unwrap_or_default();
        let value = digits.iter().try_fold(0, |sum, b| Some(sum << 4 | char::from(*b).to_digit(16)?));
        match value {
            Some(value) if digits.len() == 4 => {
                self.pos += 4;
                Ok(value)
            }
            _ => self.syntax("four hexadecimal digits"),
        }
    }

    #[inline]
    pub fn number(&mut self) -> Result<&'a str> {
        self.peek();
        let (len, _) = number::scan(self.text.as_bytes().get(self.pos..).unwrap_or_default());
        if len == 0 {
            return self.syntax("a number");
        }
        let text = &self.text[self.pos..self.pos + len];
        self.pos += len;
        Ok(text)
    }

    /// The whole number that stands here, in quotes or not, and where it ends; `None` if it is not in the usual form. Nothing
    /// is read.
    #[inline]
    pub fn short_integer(&self) -> Option<(i64, usize)> {
        let rest = self.text.as_bytes().get(self.pos..)?;
        match rest.split_first() {
            Some((b'"', inner)) => {
                let (value, len) = number::short_integer(inner)?;
                (inner.get(len) == Some(&b'"')).then_some((value, self.pos + len + 2))
            }
            _ => number::short_integer(rest).map(|(value, len)| (value, self.pos + len)),
        }
    }

    /// Goes on at an end that [`Lexer::short_integer`] gave.
    pub fn skip_to(&mut self, end: usize) {
        self.pos = end;
    }

    /// Takes `null`, `true` or `false` if it stands here.
    pub fn literal(&mut self, word: &str) -> bool {
        self.peek();
        let found = self.text.as_bytes().get(self.pos..).is_some_and(|rest| rest.starts_with(word.as_bytes()));
        if found {
            self.pos += word.len();
        }
        found
    }

    pub fn skip_value(&mut self) -> Result<()> {
        match self.peek() {
            b'{' => {
                self.open_object()?;
                let mut first = true;
                while self.next_key(&mut first)?.is_some() {
                    self.skip_value()?;
                }
                Ok(())
            }
            b'[' => {
                self.enter()?;
                self.open_array()?;
                let mut first = true;
                while self.next_element(&mut first)? {
                    self.skip_value()?;
                }
                self.leave();
                Ok(())
            }
            b'"' => self.string().map(drop),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            _ if self.literal("null") || self.literal("true") || self.literal("false") => Ok(()),
            _ => self.syntax("a value"),
        }
    }

    /// Refuses anything after the value.
    pub fn end(&mut self) -> Result<()> {
        if self.peek() == 0 && self.pos == self.text.len() { Ok(()) } else { self.syntax("the end") }
    }

    /// The token that stands here, for an error message.
    #[cold]
    pub fn unexpected<T>(&mut self, expected: &'static str) -> Result<T> {
        let got = match self.peek() {
            0 if self.pos == self.text.len() => return self.syntax(expected),
            b'{' => "an object",
            b'[' => "an array",
            _ => {
                let start = self.pos;
                self.skip_value()?;
                &self.text[start..self.pos]
            }
        };
        Err(Problem::expected(expected, got).into())
    }
}

/// Length of the prefix that a JSON string holds as it is: up to the first quote, backslash or control character.
#[inline]
pub(crate) fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Eight bytes at a time. A subtraction borrows, and thereby sets the high bit, where the byte is what is looked for; a
    // borrow can mark wrong bytes too, but only above a right one, and the lowest mark is all that counts.
    let (words, _) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let x = u64::from_le_bytes(*word);
        let control = x.wrapping_sub(ONES * 0x20);
        let quote = (x ^ (ONES * u64::from(b'"'))).wrapping_sub(ONES);
        let backslash = (x ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        // Bytes whose high bit was set before are none of these.
        let found = (control | quote | backslash) & !x & HIGHS;
        if found != 0 {
            return i * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let done = words.len() * 8;
    let rest = bytes.get(done..).unwrap_or_default();
    done + rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\').unwrap_or(rest.len())
}
