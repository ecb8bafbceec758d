//! The parameters of a URL.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What cannot stand in a parameter as it is. A slash can (RFC 3986 3.4).
const RESERVED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'&').add(b'+').add(b'<').add(b'>').add(b'=').add(b'?');

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a>(pub(crate) &'a str);

impl<'a> Query<'a> {
    fn pairs(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// The first parameter of a name, as it stands.
    pub(crate) fn raw(self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(key, _)| *key == name).map(|(_, value)| value).filter(|value| !value.is_empty())
    }

    /// The same, decoded.
    pub(crate) fn get(self, name: &str) -> Option<String> {
        self.raw(name).map(decode)
    }

    /// All parameters of a name, decoded.
    pub(crate) fn all(self, name: &str) -> impl Iterator<Item = String> {
        self.pairs().filter(move |(key, value)| *key == name && !value.is_empty()).map(|(_, value)| decode(value))
    }
}

fn decode(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// A value as a parameter writes it.
pub(crate) fn encode(value: &str) -> Cow<'_, str> {
    utf8_percent_encode(value, RESERVED).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query("app=live&stream=a%20b&eip=1.2.3.4&eip=5.6.7.8:9&empty=&flag");
        assert_eq!((query.get("app"), query.get("stream")), (Some("live".to_owned()), Some("a b".to_owned())));
        assert_eq!(
            (query.raw("stream"), query.get("empty"), query.get("flag"), query.get("x")),
            (Some("a%20b"), None, None, None)
        );
        assert_eq!(query.all("eip").collect::<Vec<_>>(), ["1.2.3.4", "5.6.7.8:9"]);
        for value in ["a b", "x+/y=&%?#\"", "ü/z", "abcd:Xy/+"] {
            let text = format!("v={}", encode(value));
            assert_eq!(Query(&text).get("v").unwrap(), value);
        }
    }
}
