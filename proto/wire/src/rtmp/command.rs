use super::Error;
use crate::amf::{self, Reader, Value};

/// A command message (7.2).
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) name: String,
    /// 0 where no answer is expected.
    pub(super) transaction: f64,
    /// The command object.
    pub(super) object: Value,
    /// What follows it.
    pub(super) arguments: Vec<Value>,
}

impl Command {
    /// Reads the body of a command message of either type.
    pub(super) fn parse(body: &[u8], limits: amf::Limits) -> Result<Self, Error> {
        let mut reader = Reader::new(without_format(body), limits);
        let Value::String(name) = reader.read()? else { return Err(Error::CommandName) };
        let mut next = || if reader.is_empty() { Ok(Value::Undefined) } else { reader.read() };
        let transaction = next()?.as_number().unwrap_or_default();
        let object = next()?;
        let mut arguments = Vec::new();
        while !reader.is_empty() {
            arguments.push(reader.read()?);
        }
        Ok(Self { name, transaction, object, arguments })
    }

    /// The argument at `index`, [`Value::Undefined`] where there is none.
    pub(super) fn argument(&self, index: usize) -> &Value {
        self.arguments.get(index).unwrap_or(&Value::Undefined)
    }
}

/// AMF3 messages hold AMF0 behind a zero byte; some writers forget the byte. No AMF0 message begins with one, as its
/// first value is a string.
pub(super) fn without_format(body: &[u8]) -> &[u8] {
    body.strip_prefix(&[0]).unwrap_or(body)
}
