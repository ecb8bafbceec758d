use proptest::prelude::*;

use super::{Error, Limits, Reader, Value, write};

fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

fn decode(bytes: &[u8]) -> Result<Value, Error> {
    Reader::new(bytes, Limits::default()).read()
}

/// Objects inside one another, written by hand.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..depth {
        bytes.extend_from_slice(b"\x03\x00\x01a");
    }
    bytes.push(0x05);
    for _ in 0..depth {
        bytes.extend_from_slice(&[0, 0, 9]);
    }
    bytes
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<f64>().prop_filter("comparable", |number| !number.is_nan()).prop_map(Value::Number),
        any::<bool>().prop_map(Value::Boolean),
        ".{0,20}".prop_map(Value::String),
        Just(Value::Null),
        Just(Value::Undefined),
        Just(Value::Unsupported),
        any::<u16>().prop_map(Value::Reference),
        ".{0,20}".prop_map(Value::Xml),
        (any::<i32>(), any::<i16>()).prop_map(|(time, zone)| Value::Date(time.into(), zone)),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let list = prop::collection::vec((".{0,8}", inner.clone()), 0..4);
        prop_oneof![
            list.clone().prop_map(Value::Object),
            list.clone().prop_map(Value::EcmaArray),
            (".{0,8}", list).prop_map(|(class, list)| Value::TypedObject(class, list)),
            prop::collection::vec(inner, 0..4).prop_map(Value::StrictArray),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_value_survives(value in any_value()) {
        let bytes = encode(&value);
        let mut reader = Reader::new(&bytes, Limits::default());
        prop_assert_eq!(reader.read().unwrap(), value);
        prop_assert!(reader.is_empty());
    }

    #[test]
    fn every_cut_is_an_error(value in any_value(), at in any::<prop::sample::Index>()) {
        let bytes = encode(&value);
        prop_assert_eq!(decode(&bytes[..at.index(bytes.len())]), Err(Error::Truncated));
    }
}

#[test]
fn strings_choose_their_length_field() {
    assert_eq!(encode(&Value::string("ab")), b"\x02\x00\x02ab");
    let long = "x".repeat(65_536);
    let bytes = encode(&Value::string(&*long));
    assert_eq!(bytes[..5], [0x0c, 0, 1, 0, 0]);
    assert_eq!(decode(&bytes).unwrap(), Value::String(long));
}

#[test]
fn a_name_too_long_for_its_field_is_cut_at_a_character() {
    let name = "é".repeat(40_000);
    let bytes = encode(&Value::object([(&*name, Value::Null)]));
    let value = decode(&bytes).unwrap();
    assert_eq!(value.properties()[0].0.len(), 65_534);
}

#[test]
fn an_array_ends_at_its_marker_whatever_its_count_says() {
    let bytes = b"\x08\xff\xff\xff\xff\x00\x01a\x05\x00\x00\x09";
    assert_eq!(decode(bytes).unwrap(), Value::EcmaArray(vec![("a".to_owned(), Value::Null)]));
}

#[test]
fn nesting_is_bounded() {
    let limit = Limits::DEPTH;
    assert!(decode(&nested(limit.into())).is_ok());
    assert_eq!(decode(&nested(usize::from(limit) + 1)), Err(Error::Depth(limit)));
    // Far deeper than any stack, in every container.
    assert_eq!(decode(&nested(100_000)), Err(Error::Depth(limit)));
    assert_eq!(decode(&b"\x0a\x00\x00\x00\x01".repeat(100_000)), Err(Error::Depth(limit)));
    let amf3 = [&b"\x11"[..], &b"\x09\x03\x01".repeat(100_000)].concat();
    assert_eq!(decode(&amf3), Err(Error::Depth(limit)));
}

#[test]
fn strings_are_bounded() {
    let limits = Limits { string: 3, ..Limits::default() };
    let read = |bytes: &[u8]| Reader::new(bytes, limits).read();
    assert_eq!(read(b"\x02\x00\x03abc").unwrap(), Value::string("abc"));
    assert_eq!(read(b"\x02\x00\x04abcd"), Err(Error::String(3)));
    assert_eq!(read(b"\x03\x00\x04abcd\x05\x00\x00\x09"), Err(Error::String(3)));
    // A length far past the end allocates nothing.
    assert_eq!(decode(b"\x0c\xff\xff\xff\xff"), Err(Error::String(Limits::STRING)));
    assert_eq!(decode(b"\x0c\x00\x00\xff\xff"), Err(Error::Truncated));
}

#[test]
fn values_are_bounded() {
    let limits = Limits { values: 3, ..Limits::default() };
    let read = |bytes: &[u8]| Reader::new(bytes, limits).read();
    assert!(read(b"\x0a\x00\x00\x00\x02\x05\x05").is_ok());
    assert_eq!(read(b"\x0a\x00\x00\x00\x03\x05\x05\x05"), Err(Error::Values(3)));
    assert_eq!(decode(b"\x0a\xff\xff\xff\xff"), Err(Error::Truncated));
}

#[test]
fn reserved_markers_are_refused() {
    for marker in [0x04, 0x09, 0x0e, 0x12, 0xff] {
        assert_eq!(decode(&[marker, 0, 0, 0, 0]), Err(Error::Marker(marker)));
    }
}

#[test]
fn reads_the_amf3_of_a_flash_client() {
    // {app: "live", n: -2, list: [true, "app"], x: <reference to the object>}
    let bytes = b"\x11\x0a\x0b\x01\x07app\x06\x09live\x03n\x04\xff\xff\xff\xfe\x09list\x09\x05\x01\x03\x06\x00\x03x\x0a\x00\x01";
    let value = decode(bytes).unwrap();
    assert_eq!(value.get("app"), Some(&Value::string("live")));
    assert_eq!(value.get("n"), Some(&Value::Number(-2.0)));
    assert_eq!(value.get("list"), Some(&Value::StrictArray(vec![Value::Boolean(true), Value::string("app")])));
    assert_eq!(value.get("x"), Some(&Value::Reference(0)));
}

#[test]
fn amf3_lengths_and_references_are_checked() {
    assert_eq!(decode(b"\x11\x06\x7fabc"), Err(Error::Truncated), "string past the end");
    assert_eq!(decode(b"\x11\x06\xff\xff\xff\xff"), Err(Error::String(Limits::STRING)));
    assert_eq!(decode(b"\x11\x0c\xbf\xff\xff\xff"), Err(Error::Truncated), "byte array past the end");
    assert_eq!(decode(b"\x11\x06\x02"), Err(Error::Reference), "string that never came");
    assert_eq!(decode(b"\x11\x0a\x02"), Err(Error::Reference), "object that never came");
    assert_eq!(decode(b"\x11\x0a\x05"), Err(Error::Reference), "class that never came");
    assert_eq!(decode(b"\x11\x0a\xff\xff\xff\xf3\x01"), Err(Error::Truncated), "a class of very many names");
    assert_eq!(decode(b"\x11\x0a\x07\x03x"), Err(Error::Marker(0x0a)), "a class with its own layout");
}

#[test]
fn repeating_a_string_by_reference_is_bounded() {
    // One string of 32 KiB and hundreds of references to it in a strict array.
    let mut bytes = b"\x11\x09\x85\x01\x01\x06\x84\x80\x01".to_vec();
    bytes.extend(vec![b'x'; 32_768]);
    bytes.extend(b"\x06\x00".repeat(300));
    assert_eq!(decode(&bytes), Err(Error::String(Limits::STRING)));
}

#[test]
fn survives_anything() {
    bolero::check!().with_test_time(core::time::Duration::from_secs(2)).for_each(|bytes| {
        let mut reader = Reader::new(bytes, Limits::default());
        while !reader.is_empty() {
            let Ok(value) = reader.read() else { break };
            let again = encode(&value);
            // What was read can be written, and reads as the same bytes again (NaN is not equal to itself).
            let limits = Limits { string: usize::MAX, ..Limits::default() };
            let second = Reader::new(&again, limits).read().unwrap();
            assert_eq!(encode(&second), again);
        }
    });
}
