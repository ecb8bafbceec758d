use super::Value;

/// Appends `value` in AMF0. Strings longer than 65,535 bytes use the long form; a longer property or class name, which
/// has no long form, is cut at a character.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(0x00);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(on) => out.extend_from_slice(&[0x01, u8::from(*on)]),
        Value::String(text) => match u16::try_from(text.len()) {
            Ok(length) => {
                out.push(0x02);
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Err(_) => long_string(out, 0x0c, text),
        },
        Value::Object(list) => {
            out.push(0x03);
            properties(out, list);
        }
        Value::Null => out.push(0x05),
        Value::Undefined => out.push(0x06),
        Value::Reference(index) => {
            out.push(0x07);
            out.extend_from_slice(&index.to_be_bytes());
        }
        Value::EcmaArray(list) => {
            out.push(0x08);
            count(out, list.len());
            properties(out, list);
        }
        Value::StrictArray(list) => {
            out.push(0x0a);
            count(out, list.len());
            for item in list {
                write(out, item);
            }
        }
        Value::Date(milliseconds, zone) => {
            out.push(0x0b);
            out.extend_from_slice(&milliseconds.to_be_bytes());
            out.extend_from_slice(&zone.to_be_bytes());
        }
        Value::Unsupported => out.push(0x0d),
        Value::Xml(text) => long_string(out, 0x0f, text),
        Value::TypedObject(class, list) => {
            out.push(0x10);
            name(out, class);
            properties(out, list);
        }
    }
}

fn properties(out: &mut Vec<u8>, list: &[(String, Value)]) {
    for (key, value) in list {
        name(out, key);
        write(out, value);
    }
    out.extend_from_slice(&[0x00, 0x00, 0x09]);
}

fn name(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(u16::MAX.into());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&u16::try_from(end).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(text.as_bytes().get(..end).unwrap_or_default());
}

fn long_string(out: &mut Vec<u8>, marker: u8, text: &str) {
    out.push(marker);
    count(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

fn count(out: &mut Vec<u8>, count: usize) {
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}
