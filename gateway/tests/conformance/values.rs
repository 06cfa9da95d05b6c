//! Bytes of the wire format, and values of every kind with their JSON.

pub const INT64_MAX: u64 = i64::MAX as u64;
pub const INT64_MIN: u64 = i64::MIN as u64;

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A varint with `extra` bytes more than it needs.
pub fn long_varint(value: u64, extra: usize) -> Vec<u8> {
    let mut out = varint(value);
    if let Some(last) = out.last_mut() {
        *last |= 0x80;
    }
    out.extend(vec![0x80; extra - 1]);
    out.push(0);
    out
}

pub fn zigzag(value: i64) -> Vec<u8> {
    varint(((value << 1) ^ (value >> 63)) as u64)
}

pub fn tag(number: u32, wire_type: u8) -> Vec<u8> {
    varint(u64::from(number) << 3 | u64::from(wire_type))
}

pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [varint(bytes.len() as u64), bytes.to_vec()].concat()
}

pub fn len(number: u32, bytes: &[u8]) -> Vec<u8> {
    [tag(number, 2), sized(bytes)].concat()
}

pub fn group(number: u32, bytes: &[u8]) -> Vec<u8> {
    [tag(number, 3), bytes.to_vec(), tag(number, 4)].concat()
}

/// A kind as it is named in the fields of the messages, its wire type, and values with their JSON.
pub struct Values {
    pub kind: &'static str,
    pub wire_type: u8,
    pub values: Vec<(Vec<u8>, &'static str)>,
}

pub fn values() -> Vec<Values> {
    let of = |kind, wire_type, values| Values { kind, wire_type, values };
    let f64s = |v: f64| v.to_le_bytes().to_vec();
    let f32s = |v: f32| v.to_le_bytes().to_vec();
    let u64s = |v: u64| v.to_le_bytes().to_vec();
    let u32s = |v: u32| v.to_le_bytes().to_vec();
    let text = |v: &str| sized(v.as_bytes());
    vec![
        of(
            "double",
            1,
            vec![
                (f64s(0.0), "0"),
                (f64s(0.1), "0.1"),
                (f64s(f64::MAX), "1.7976931348623157e+308"),
                (f64s(f64::MIN_POSITIVE), "2.2250738585072014e-308"),
            ],
        ),
        of(
            "float",
            5,
            vec![
                (f32s(0.0), "0"),
                (f32s(0.1), "0.1"),
                (f32s(1.000_000_75e-36), "1.00000075e-36"),
                (f32s(3.402823e38), "3.402823e+38"),
                (f32s(1.175_494_4e-38), "1.1754944e-38"),
            ],
        ),
        of(
            "int64",
            0,
            vec![
                (varint(0), "\"0\""),
                (varint(12345), "\"12345\""),
                (varint(INT64_MAX), "\"9223372036854775807\""),
                (varint(INT64_MIN), "\"-9223372036854775808\""),
            ],
        ),
        of(
            "uint64",
            0,
            vec![(varint(0), "\"0\""), (varint(12345), "\"12345\""), (varint(u64::MAX), "\"18446744073709551615\"")],
        ),
        of(
            "int32",
            0,
            vec![
                (varint(0), "0"),
                (varint(12345), "12345"),
                (long_varint(12345, 2), "12345"),
                (long_varint(12345, 7), "12345"),
                (varint(i32::MAX as u64), "2147483647"),
                (varint(i32::MIN as u64), "-2147483648"),
                (varint(1 << 33), "0"),
                (varint((1 << 33) - 1), "-1"),
                (varint(INT64_MAX), "-1"),
                (varint(INT64_MIN + 1), "1"),
            ],
        ),
        of(
            "uint32",
            0,
            vec![
                (varint(0), "0"),
                (varint(12345), "12345"),
                (long_varint(12345, 2), "12345"),
                (long_varint(12345, 7), "12345"),
                (varint(u64::from(u32::MAX)), "4294967295"),
                (varint(1 << 33), "0"),
                (varint((1 << 33) + 1), "1"),
                (varint((1 << 33) - 1), "4294967295"),
                (varint(INT64_MAX), "4294967295"),
                (varint(INT64_MIN + 1), "1"),
            ],
        ),
        of(
            "fixed64",
            1,
            vec![(u64s(0), "\"0\""), (u64s(12345), "\"12345\""), (u64s(u64::MAX), "\"18446744073709551615\"")],
        ),
        of("fixed32", 5, vec![(u32s(0), "0"), (u32s(12345), "12345"), (u32s(u32::MAX), "4294967295")]),
        of(
            "sfixed64",
            1,
            vec![
                (u64s(0), "\"0\""),
                (u64s(12345), "\"12345\""),
                (u64s(INT64_MAX), "\"9223372036854775807\""),
                (u64s(INT64_MIN), "\"-9223372036854775808\""),
            ],
        ),
        of(
            "sfixed32",
            5,
            vec![
                (u32s(0), "0"),
                (u32s(12345), "12345"),
                (u32s(i32::MAX as u32), "2147483647"),
                (u32s(i32::MIN as u32), "-2147483648"),
            ],
        ),
        of(
            "bool",
            0,
            vec![
                (varint(0), "false"),
                (varint(1), "true"),
                (varint(u64::MAX), "true"),
                (varint(12_345_678), "true"),
                (varint(1 << 33), "true"),
                (varint(INT64_MAX), "true"),
                (varint(INT64_MIN), "true"),
            ],
        ),
        of(
            "sint32",
            0,
            vec![
                (zigzag(0), "0"),
                (zigzag(12345), "12345"),
                (zigzag(i64::from(i32::MAX)), "2147483647"),
                (zigzag(i64::from(i32::MIN)), "-2147483648"),
                (zigzag(i64::from(i32::MAX) + 2), "1"),
            ],
        ),
        of(
            "sint64",
            0,
            vec![
                (zigzag(0), "\"0\""),
                (zigzag(12345), "\"12345\""),
                (zigzag(i64::MAX), "\"9223372036854775807\""),
                (zigzag(i64::MIN), "\"-9223372036854775808\""),
            ],
        ),
        of(
            "string",
            2,
            vec![
                (text(""), "\"\""),
                (text("Hello world!"), "\"Hello world!\""),
                (text("'\"?\\\u{7}\u{8}\u{c}\n\r\t\u{b}"), "\"'\\\"?\\\\\\u0007\\u0008\\u000c\\n\\r\\t\\u000b\""),
                (text("谷歌"), "\"谷歌\""),
                (text("😁"), "\"😁\""),
            ],
        ),
        of(
            "bytes",
            2,
            vec![
                (text(""), "\"\""),
                (text("Hello world!"), "\"SGVsbG8gd29ybGQh\""),
                (sized(b"\x01\x02"), "\"AQI=\""),
                (sized(b"\xfb"), "\"+w==\""),
            ],
        ),
        of(
            "nested_enum",
            0,
            vec![
                (varint(0), "\"FOO\""),
                (varint(1), "\"BAR\""),
                (varint(2), "\"BAZ\""),
                (varint(u64::MAX), "\"NEG\""),
                (varint(INT64_MAX), "\"NEG\""),
                (varint(INT64_MIN + 1), "\"BAR\""),
            ],
        ),
        of("nested_message", 2, vec![(text(""), "{}"), (sized(b"\x08\xd2\x09"), "{\"a\":1234}")]),
    ]
}
