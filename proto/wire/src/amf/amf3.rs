//! The AMF3 values that an AMF0 stream may switch to (marker 0x11), bounded like the rest.
use super::{Error, Reader, Value};

/// Reads the one AMF3 value after the marker. Its reference tables begin anew, as section 3.1 of the AMF0
/// specification says.
pub(super) fn read(reader: &mut Reader<'_>, depth: u8) -> Result<Value, Error> {
    Tables::default().value(reader, depth)
}

/// A class as a message described it.
#[derive(Clone)]
struct Traits {
    class: String,
    dynamic: bool,
    names: Vec<String>,
}

/// What later parts of the message may point back to. Complex values are not kept for references: a reference becomes
/// [`Value::Reference`], as in AMF0, so that a short message cannot unfold into a large tree.
#[derive(Default)]
struct Tables {
    strings: Vec<String>,
    traits: Vec<Traits>,
    objects: usize,
}

impl Tables {
    fn value(&mut self, reader: &mut Reader<'_>, depth: u8) -> Result<Value, Error> {
        reader.count()?;
        Ok(match reader.u8()? {
            0x00 => Value::Undefined,
            0x01 => Value::Null,
            0x02 => Value::Boolean(false),
            0x03 => Value::Boolean(true),
            0x04 => Value::Number(integer(reader)?),
            0x05 => Value::Number(f64::from_be_bytes(reader.array()?)),
            0x06 => Value::String(self.string(reader)?),
            0x07 | 0x0b => match self.inline(reader)? {
                Ok(length) => Value::Xml(reader.text(length)?),
                Err(reference) => reference,
            },
            0x08 => match self.inline(reader)? {
                Ok(_) => Value::Date(f64::from_be_bytes(reader.array()?), 0),
                Err(reference) => reference,
            },
            0x09 => match self.inline(reader)? {
                Ok(count) => self.array(reader, depth, count)?,
                Err(reference) => reference,
            },
            0x0a => self.object(reader, depth)?,
            0x0c => match self.inline(reader)? {
                // No command carries binary data that matters here.
                Ok(length) => reader.take(length).map(|_| Value::Unsupported)?,
                Err(reference) => reference,
            },
            marker => return Err(Error::Marker(marker)),
        })
    }

    /// The head of a complex value: its number, or the reference that stands in its place.
    fn inline(&mut self, reader: &mut Reader<'_>) -> Result<Result<usize, Value>, Error> {
        let head = u29(reader)?;
        if head & 1 == 0 {
            return self.reference(head >> 1).map(Err);
        }
        self.objects += 1;
        Ok(Ok(to_usize(head >> 1)))
    }

    fn reference(&self, index: u32) -> Result<Value, Error> {
        if to_usize(index) >= self.objects {
            return Err(Error::Reference);
        }
        u16::try_from(index).map(Value::Reference).map_err(|_| Error::Reference)
    }

    fn string(&mut self, reader: &mut Reader<'_>) -> Result<String, Error> {
        let head = u29(reader)?;
        if head & 1 == 0 {
            let text = self.strings.get(to_usize(head >> 1)).ok_or(Error::Reference)?;
            reader.repeat(text.len())?;
            return Ok(text.clone());
        }
        let text = reader.text(to_usize(head >> 1))?;
        if !text.is_empty() {
            self.strings.push(text.clone());
        }
        Ok(text)
    }

    /// Named entries up to an empty name, then `count` dense ones (3.11 of the AMF3 specification).
    fn array(&mut self, reader: &mut Reader<'_>, depth: u8, count: usize) -> Result<Value, Error> {
        let depth = reader.deeper(depth)?;
        let mut named = self.named(reader, depth)?;
        let mut dense = Vec::new();
        for _ in 0..count {
            dense.push(self.value(reader, depth)?);
        }
        if named.is_empty() {
            return Ok(Value::StrictArray(dense));
        }
        named.extend(dense.into_iter().enumerate().map(|(index, value)| (index.to_string(), value)));
        Ok(Value::EcmaArray(named))
    }

    fn object(&mut self, reader: &mut Reader<'_>, depth: u8) -> Result<Value, Error> {
        let head = u29(reader)?;
        if head & 1 == 0 {
            return self.reference(head >> 1);
        }
        let depth = reader.deeper(depth)?;
        self.objects += 1;
        let traits = if head & 2 == 0 {
            let known = self.traits.get(to_usize(head >> 2)).ok_or(Error::Reference)?;
            reader.repeat(known.class.len() + known.names.iter().map(String::len).sum::<usize>())?;
            known.clone()
        } else if head & 4 != 0 {
            // An externalizable class has a layout of its own, so nothing after it can be read.
            return Err(Error::Marker(0x0a));
        } else {
            self.traits(reader, head)?
        };
        let mut list = Vec::new();
        for name in traits.names {
            list.push((name, self.value(reader, depth)?));
        }
        if traits.dynamic {
            list.append(&mut self.named(reader, depth)?);
        }
        Ok(if traits.class.is_empty() { Value::Object(list) } else { Value::TypedObject(traits.class, list) })
    }

    fn traits(&mut self, reader: &mut Reader<'_>, head: u32) -> Result<Traits, Error> {
        let class = self.string(reader)?;
        let mut names = Vec::new();
        for _ in 0..head >> 4 {
            reader.count()?;
            names.push(self.string(reader)?);
        }
        let traits = Traits { class, dynamic: head & 8 != 0, names };
        self.traits.push(traits.clone());
        Ok(traits)
    }

    fn named(&mut self, reader: &mut Reader<'_>, depth: u8) -> Result<Vec<(String, Value)>, Error> {
        let mut list = Vec::new();
        loop {
            let name = self.string(reader)?;
            if name.is_empty() {
                return Ok(list);
            }
            list.push((name, self.value(reader, depth)?));
        }
    }
}

/// A 29-bit integer of one to four bytes (1.3.1 of the AMF3 specification).
fn u29(reader: &mut Reader<'_>) -> Result<u32, Error> {
    let mut number = 0;
    for _ in 0..3 {
        let byte = reader.u8()?;
        number = number << 7 | u32::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Ok(number << 8 | u32::from(reader.u8()?))
}

fn integer(reader: &mut Reader<'_>) -> Result<f64, Error> {
    let number = f64::from(u29(reader)?);
    const SIGN: f64 = 268_435_456.0;
    Ok(if number >= SIGN { number - 2.0 * SIGN } else { number })
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
