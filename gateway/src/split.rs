//! Cuts JSON that comes in pieces into values: the elements of one array, or values one after the other.
//!
//! Only the ends of values are found here; whether they are JSON is for the codec to say.

use bytes::{Buf, Bytes, BytesMut};

use crate::codec::{CodecError, Problem};
use crate::error::Rejection;

pub(crate) struct Splitter {
    /// Begins where the next token does, or within the white space before it.
    buf: BytesMut,
    /// How much of the body was before the buffer.
    before: usize,
    /// How many values were found.
    values: usize,
    /// Bound of one value in bytes.
    limit: usize,
    /// A bracket at the beginning opens the array of the values; otherwise it is one of them.
    array: bool,
    ended: bool,
    state: State,
    scan: Scan,
}

#[derive(Clone, Copy)]
enum State {
    Start,
    /// Past the bracket that opens the array.
    Opened,
    /// Within a value, or where one must begin.
    Value,
    /// Past an element of the array.
    Element,
    /// Past the array.
    Closed,
    /// Between values that stand in no array.
    Between,
}

/// How far the value at the beginning of the buffer was looked at.
#[derive(Clone, Copy, Default)]
struct Scan {
    at: usize,
    depth: usize,
    string: bool,
}

impl Splitter {
    pub fn new(array: bool, limit: usize) -> Self {
        let (state, scan) = (State::Start, Scan::default());
        Self { buf: BytesMut::new(), before: 0, values: 0, limit, array, ended: false, state, scan }
    }

    pub fn push(&mut self, data: &[u8]) {
        self.buf.extend_from_slice(data);
    }

    /// There will be no more.
    pub fn end(&mut self) {
        self.ended = true;
    }

    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The next value and its index; `None` when more has to come first, or after the last one.
    pub fn next(&mut self) -> Result<Option<(usize, Bytes)>, Rejection> {
        loop {
            if let State::Value = self.state {
                self.skip_space();
                return self.value();
            }
            let Some(byte) = self.skip_space() else { return self.at_end() };
            self.state = match (self.state, byte) {
                (State::Start, b'[') if self.array => self.step(State::Opened),
                (State::Start, _) => {
                    self.array = false;
                    State::Value
                }
                (State::Opened | State::Element, b']') => self.step(State::Closed),
                (State::Element, b',') => self.step(State::Value),
                (State::Element, _) => return Err(self.syntax("',' or ']'")),
                (State::Closed, _) => return Err(self.syntax("the end")),
                (State::Opened | State::Between | State::Value, _) => State::Value,
            };
        }
    }

    /// The byte at which the next token begins.
    fn skip_space(&mut self) -> Option<u8> {
        if self.scan.at > 0 {
            return self.buf.first().copied();
        }
        let space = self.buf.iter().take_while(|b| b.is_ascii_whitespace() && **b != b'\x0c').count();
        self.advance(space);
        self.buf.first().copied()
    }

    fn advance(&mut self, n: usize) {
        self.buf.advance(n);
        self.before += n;
    }

    fn step(&mut self, state: State) -> State {
        self.advance(1);
        state
    }

    fn at_end(&self) -> Result<Option<(usize, Bytes)>, Rejection> {
        match self.state {
            _ if !self.ended => Ok(None),
            State::Start | State::Between | State::Closed => Ok(None),
            State::Opened | State::Element | State::Value => Err(self.syntax("']'")),
        }
    }

    fn value(&mut self) -> Result<Option<(usize, Bytes)>, Rejection> {
        let end = match self.buf.first() {
            None if self.ended => return Err(self.syntax("a value")),
            None => return Ok(None),
            Some(b'"' | b'{' | b'[') => self.nested(),
            Some(_) => self.scalar(),
        };
        let length = end.unwrap_or(self.buf.len());
        if length > self.limit {
            return Err(Rejection::MessageTooLarge { index: self.values, limit: self.limit });
        }
        match end {
            Some(0) => Err(self.syntax("a value")),
            Some(end) => {
                let value = self.buf.split_to(end).freeze();
                self.before += end;
                self.scan = Scan::default();
                self.state = if self.array { State::Element } else { State::Between };
                self.values += 1;
                Ok(Some((self.values - 1, value)))
            }
            None if self.ended => {
                let problem = Problem::Syntax { offset: self.buf.len(), expected: "the rest of the value" };
                Err(CodecError::from(problem).at_index(self.values).into())
            }
            None => Ok(None),
        }
    }

    /// Where the string, object or array ends that the buffer begins with.
    fn nested(&mut self) -> Option<usize> {
        let scan = &mut self.scan;
        while let Some(rest) = self.buf.get(scan.at..).filter(|rest| !rest.is_empty()) {
            if scan.string {
                let Some(n) = memchr::memchr2(b'"', b'\\', rest) else {
                    scan.at = self.buf.len();
                    return None;
                };
                scan.string = rest.get(n) == Some(&b'\\');
                // What is escaped may not have come yet.
                scan.at += if scan.string { n + 2 } else { n + 1 };
                if !scan.string && scan.depth == 0 {
                    return Some(scan.at);
                }
                continue;
            }
            let structural = |b: &u8| matches!(b, b'"' | b'{' | b'}' | b'[' | b']');
            let Some(n) = rest.iter().position(structural) else {
                scan.at = self.buf.len();
                return None;
            };
            scan.at += n + 1;
            match rest.get(n) {
                Some(b'"') => scan.string = true,
                Some(b'{' | b'[') => scan.depth += 1,
                _ => scan.depth -= 1,
            }
            if scan.depth == 0 && !scan.string {
                return Some(scan.at);
            }
        }
        None
    }

    /// Where the number or literal ends that the buffer begins with.
    fn scalar(&mut self) -> Option<usize> {
        let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':');
        let found = self.buf.get(self.scan.at..).unwrap_or_default().iter().position(ends);
        let end = found.map(|n| self.scan.at + n);
        self.scan.at = end.unwrap_or(self.buf.len());
        end.or(self.ended.then_some(self.buf.len()))
    }

    fn syntax(&self, expected: &'static str) -> Rejection {
        CodecError::from(Problem::Syntax { offset: self.before, expected }).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{StreamDeserializer, Value};

    use super::*;

    /// The values up to the first mistake, and whether there was one. Every piece is `sizes` bytes long in turn.
    fn split(text: &[u8], array: bool, sizes: &[usize]) -> (Vec<Value>, bool) {
        let mut splitter = Splitter::new(array, 1 << 20);
        let (mut values, mut rest, mut sizes) = (Vec::new(), text, sizes.iter().cycle());
        loop {
            match splitter.next() {
                Err(_) => return (values, false),
                Ok(Some((index, json))) => {
                    assert_eq!(index, values.len());
                    let Ok(value) = serde_json::from_slice(&json) else { return (values, false) };
                    values.push(value);
                }
                Ok(None) if splitter.has_ended() => return (values, true),
                Ok(None) if rest.is_empty() => splitter.end(),
                Ok(None) => {
                    let (piece, more) = rest.split_at(rest.len().min(*sizes.next().expect("sizes")));
                    splitter.push(piece);
                    rest = more;
                }
            }
        }
    }

    fn oracle(text: &[u8]) -> (Vec<Value>, bool) {
        let mut values = Vec::new();
        for value in StreamDeserializer::new(serde_json::de::SliceRead::new(text)) {
            match value {
                Ok(value) => values.push(value),
                Err(_) => return (values, false),
            }
        }
        (values, true)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            r#"[a"\\\[\]{}, é]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 16, 4, |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((r#"[a"\\{]{0,3}"#, inner), 0..4).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_in_a_row_are_those_that_serde_json_reads(
            values in vec((value(), "[ \n\r\t]{1,2}"), 0..6), sizes in vec(1..9usize, 1..5),
        ) {
            let text: String = values.iter().map(|(v, space)| format!("{v}{space}")).collect();
            let read = split(text.as_bytes(), false, &sizes);
            prop_assert_eq!(&read, &oracle(text.as_bytes()));
            prop_assert_eq!(read, (values.into_iter().map(|(v, _)| v).collect(), true));
        }

        #[test]
        fn an_array_is_cut_into_its_elements(values in vec(value(), 0..6), sizes in vec(1..9usize, 1..5)) {
            let text = serde_json::to_string_pretty(&values).expect("JSON");
            prop_assert_eq!(split(text.as_bytes(), true, &sizes), (values, true));
            // One that ends early is never taken for a whole one.
            for end in 1..text.len() {
                prop_assert!(!split(&text.as_bytes()[..end], true, &sizes).1, "{}", &text[..end]);
            }
        }

        #[test]
        fn nonsense_is_refused_where_serde_json_refuses_it(
            text in r#"([\[\]{}:,"\\ 1an]|null|true|"a"|\{"a":|-1|\n){0,12}"#, sizes in vec(1..5usize, 1..4),
        ) {
            prop_assert_eq!(split(text.as_bytes(), false, &sizes), oracle(text.as_bytes()));
            // In front of an element, an array accepts what serde_json accepts as one.
            let array = format!("[{text}]");
            let whole: Result<Vec<Value>, _> = serde_json::from_str(&array);
            let (values, good) = split(array.as_bytes(), true, &sizes);
            prop_assert_eq!(whole.ok(), good.then_some(values));
        }
    }

    #[test]
    fn no_value_is_larger_than_allowed() {
        for (text, array, good) in [
            ("[1234, \"678\"]", true, true),
            ("[12345", true, true),
            ("[123456", true, false),
            ("\"1234", false, true),
            ("\"12345", false, false),
            ("{\"\":1}", false, false),
            ("1 2 3 4 5 6", false, true),
        ] {
            let mut splitter = Splitter::new(array, 5);
            splitter.push(text.as_bytes());
            let result = loop {
                match splitter.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break true,
                    Err(Rejection::MessageTooLarge { limit: 5, .. }) => break false,
                    Err(e) => panic!("{text}: {e}"),
                }
            };
            assert_eq!(result, good, "{text}");
        }
    }
}
