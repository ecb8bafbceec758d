//! AMF0, the value encoding of RTMP commands and of FLV script data.
//!
//! Every marker of the AMF0 specification is read and written, except the two that it reserves. The AMF0 marker that
//! switches to AMF3 is read too: objects of Flash players that asked for AMF3 become the same [`Value`]s.
mod amf3;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::Reader;
pub use write::write;

/// What a reader accepts of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Objects and arrays inside one another; 1 allows an object of plain values.
    pub depth: u8,
    /// Bytes of one string or property name.
    pub string: usize,
    /// Values of one message, nested ones included.
    pub values: usize,
}

impl Limits {
    /// Objects inside one another. Real commands need three.
    pub const DEPTH: u8 = 16;
    /// Bytes of one string.
    pub const STRING: usize = 64 * 1024;
    /// Values of one message.
    pub const VALUES: usize = 4096;
}

impl Default for Limits {
    fn default() -> Self {
        Self { depth: Self::DEPTH, string: Self::STRING, values: Self::VALUES }
    }
}

/// One AMF value. Text that is not UTF-8 is read with U+FFFD in place of what could not be read.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A double; AMF3 integers become one too.
    Number(f64),
    /// A boolean.
    Boolean(bool),
    /// A string, short or long.
    String(String),
    /// An anonymous object.
    Object(Vec<(String, Self)>),
    /// Null.
    Null,
    /// Undefined.
    Undefined,
    /// The position of an object that came earlier in the same message; not resolved.
    Reference(u16),
    /// An associative array.
    EcmaArray(Vec<(String, Self)>),
    /// A dense array.
    StrictArray(Vec<Self>),
    /// Milliseconds since 1970 in UTC, and the reserved time zone, which should be 0.
    Date(f64, i16),
    /// A value that the sender could not serialize.
    Unsupported,
    /// The text of an XML document.
    Xml(String),
    /// An object of a named class.
    TypedObject(String, Vec<(String, Self)>),
}

impl Value {
    /// A string value.
    pub fn string(text: impl Into<String>) -> Self {
        Self::String(text.into())
    }

    /// An object of the given properties, in their order.
    pub fn object<const N: usize>(properties: [(&str, Self); N]) -> Self {
        Self::Object(properties.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(on) => Some(*on),
            _ => None,
        }
    }

    /// The properties of an object or an associative array; none of anything else.
    pub fn properties(&self) -> &[(String, Self)] {
        match self {
            Self::Object(list) | Self::EcmaArray(list) | Self::TypedObject(_, list) => list,
            _ => &[],
        }
    }

    /// The first property of that name.
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.properties().iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

/// Why a value could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The message ends inside a value, or a length inside it points past the end.
    #[error("AMF value ends after the end of its message")]
    Truncated,
    /// A type marker that the specification does not give a meaning.
    #[error("unknown AMF marker {0:#04x}")]
    Marker(u8),
    /// More objects inside one another than allowed.
    #[error("AMF objects nested deeper than {0}")]
    Depth(u8),
    /// A string longer than allowed.
    #[error("AMF string longer than {0} bytes")]
    String(usize),
    /// More values in one message than allowed.
    #[error("more than {0} AMF values in one message")]
    Values(usize),
    /// An AMF3 reference to something that did not come before.
    #[error("AMF3 reference to an entry that does not exist")]
    Reference,
}
