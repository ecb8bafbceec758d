use super::{Error, Limits, Value, amf3};

/// Reads the values of one message, one after another.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    limits: Limits,
    values: usize,
    repeated: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the first value of `input`.
    pub fn new(input: &'a [u8], limits: Limits) -> Self {
        Self { rest: input, limits, values: 0, repeated: 0 }
    }

    /// What was not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether every value was read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next value. After an error the reader's position has no meaning.
    pub fn read(&mut self) -> Result<Value, Error> {
        self.value(0)
    }

    /// Counts one value against the limit of the message.
    pub(super) fn count(&mut self) -> Result<(), Error> {
        self.values += 1;
        if self.values > self.limits.values { Err(Error::Values(self.limits.values)) } else { Ok(()) }
    }

    /// Counts text that a reference repeats: this is how a short message would become a large one, so all of it
    /// together may be as long as one string.
    pub(super) fn repeat(&mut self, length: usize) -> Result<(), Error> {
        self.repeated += length;
        if self.repeated > self.limits.string { Err(Error::String(self.limits.string)) } else { Ok(()) }
    }

    /// The depth inside a container at `depth`.
    pub(super) fn deeper(&self, depth: u8) -> Result<u8, Error> {
        if depth >= self.limits.depth { Err(Error::Depth(self.limits.depth)) } else { Ok(depth + 1) }
    }

    fn value(&mut self, depth: u8) -> Result<Value, Error> {
        self.count()?;
        Ok(match self.u8()? {
            0x00 => Value::Number(f64::from_be_bytes(self.array()?)),
            0x01 => Value::Boolean(self.u8()? != 0),
            0x02 => Value::String(self.short_string()?),
            0x03 => Value::Object(self.properties(depth)?),
            0x05 => Value::Null,
            0x06 => Value::Undefined,
            0x07 => Value::Reference(self.u16()?),
            0x08 => {
                // The count is a hint that writers get wrong; the end marker decides.
                self.array::<4>()?;
                Value::EcmaArray(self.properties(depth)?)
            }
            0x0a => Value::StrictArray(self.strict_array(depth)?),
            0x0b => {
                let milliseconds = f64::from_be_bytes(self.array()?);
                Value::Date(milliseconds, i16::from_be_bytes(self.array()?))
            }
            0x0c => Value::String(self.long_string()?),
            0x0d => Value::Unsupported,
            0x0f => Value::Xml(self.long_string()?),
            0x10 => {
                let class = self.short_string()?;
                Value::TypedObject(class, self.properties(depth)?)
            }
            0x11 => amf3::read(self, depth)?,
            marker => return Err(Error::Marker(marker)),
        })
    }

    /// Properties up to and including the end marker (2.5, 2.11 of the AMF0 specification).
    fn properties(&mut self, depth: u8) -> Result<Vec<(String, Value)>, Error> {
        let depth = self.deeper(depth)?;
        let mut list = Vec::new();
        loop {
            let name = self.short_string()?;
            if name.is_empty() && self.rest.first() == Some(&0x09) {
                self.u8()?;
                return Ok(list);
            }
            list.push((name, self.value(depth)?));
        }
    }

    fn strict_array(&mut self, depth: u8) -> Result<Vec<Value>, Error> {
        let depth = self.deeper(depth)?;
        let count = u32::from_be_bytes(self.array()?);
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(self.value(depth)?);
        }
        Ok(list)
    }

    fn short_string(&mut self) -> Result<String, Error> {
        let length = self.u16()?;
        self.text(length.into())
    }

    fn long_string(&mut self) -> Result<String, Error> {
        let length = u32::from_be_bytes(self.array()?);
        self.text(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// `length` bytes as text.
    pub(super) fn text(&mut self, length: usize) -> Result<String, Error> {
        if length > self.limits.string {
            return Err(Error::String(self.limits.string));
        }
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }
}
