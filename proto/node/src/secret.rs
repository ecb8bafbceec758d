//! Addresses of streams as they may be shown: query values carry stream keys and tokens, which belong in no log,
//! statistic or error text.

use std::fmt;

/// What stands in place of a secret.
pub(crate) const MASK: &str = "***";

/// Shows an address or stream name without the values of its query and without user and password:
/// `rtmp://***@host/live/s?token=***&***`.
///
/// A query begins at the first `?`, or at `%3F`, as which some encoders write it; in the latter all of it is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redacted<'a>(&'a str);

impl<'a> Redacted<'a> {
    /// Wraps the address; it is looked at only when it is shown.
    pub fn new(address: &'a str) -> Self {
        Self(address)
    }
}

/// [`Redacted`] as text.
pub fn redact_query(address: &str) -> String {
    Redacted(address).to_string()
}

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rest = write_authority(self.0, f)?;
        let encoded = rest.as_bytes().windows(3).position(|w| w.eq_ignore_ascii_case(b"%3f"));
        match (rest.find('?'), encoded) {
            (Some(query), encoded) if encoded.is_none_or(|encoded| query < encoded) => {
                let (path, query) = rest.split_at(query);
                f.write_str(path)?;
                write_query(query, f)
            }
            (_, Some(encoded)) => {
                let (path, query) = rest.split_at(encoded);
                write!(f, "{path}{}{MASK}", query.get(..3).unwrap_or_default())
            }
            _ => f.write_str(rest),
        }
    }
}

/// Writes the scheme and hides user and password; returns what follows them.
fn write_authority<'a>(address: &'a str, f: &mut fmt::Formatter<'_>) -> Result<&'a str, fmt::Error> {
    let Some((scheme, rest)) = address.split_once("://") else { return Ok(address) };
    // A query may hold an address of its own.
    if scheme.contains('?') {
        return Ok(address);
    }
    write!(f, "{scheme}://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let Some(at) = rest.get(..end).and_then(|authority| authority.rfind('@')) else { return Ok(rest) };
    let (user, host) = rest.split_at(at);
    if user.contains('?') {
        // A password with a question mark or a query with an at sign: nobody can tell, so show neither.
        f.write_str(MASK)?;
        return Ok("");
    }
    f.write_str(MASK)?;
    Ok(host)
}

/// Writes `?a=***&b=***`. A part without a value may be the secret itself.
fn write_query(query: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (i, part) in query.trim_start_matches('?').split('&').enumerate() {
        f.write_str(if i == 0 { "?" } else { "&" })?;
        match part.split_once('=') {
            Some((key, _)) if !key.contains('?') => write!(f, "{key}={MASK}")?,
            _ if part.is_empty() => {}
            _ => f.write_str(MASK)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hides_values_and_keeps_the_rest() {
        for (address, shown) in [
            ("", ""),
            ("live/stream", "live/stream"),
            ("rtmp://host/live/s", "rtmp://host/live/s"),
            ("rtmp://host:1935/live/s?token=abc", "rtmp://host:1935/live/s?token=***"),
            ("s?token=abc&vhost=v&x", "s?token=***&vhost=***&***"),
            ("s?abc", "s?***"),
            ("s?", "s?"),
            ("s??token=abc", "s?token=***"),
            ("s?a=b=c?d=e&f", "s?a=***&***"),
            ("live?token=abc/s", "live?token=***"),
            ("s%3Ftoken%3Dabc", "s%3F***"),
            ("s%3ftoken=abc?x=y", "s%3f***"),
            ("s?u=http%3A//x%3Fy", "s?u=***"),
            ("rtmp://user:pass@host/live/s?k=v", "rtmp://***@host/live/s?k=***"),
            ("rtmp://u:p?w@host/live", "rtmp://***"),
            ("rtmp://host?mail=a@b", "rtmp://***"),
            ("s?next=rtmp://u:p@h/x", "s?next=***"),
        ] {
            assert_eq!(redact_query(address), shown, "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_value_is_ever_shown(
            path in "[a-z/:.@%]{0,12}", keys in prop::collection::vec("[a-z?%]{0,4}", 1..4), junk in "[a-z&?@:/%=3f]{0,8}"
        ) {
            const SECRET: &str = "S3CR3T";
            let query: Vec<String> = keys.iter().map(|key| format!("{key}={SECRET}")).collect();
            let query = query.join("&");
            for address in [
                format!("{path}?{query}{junk}"),
                format!("rtmp://h/{path}?{query}&{junk}"),
                format!("rtmp://h/{path}%3F{query}"),
                format!("rtmp://u:{SECRET}@h/{path}?{junk}"),
                format!("{path}?{SECRET}"),
            ] {
                let shown = redact_query(&address);
                prop_assert!(!shown.contains(SECRET), "{} -> {}", address, shown);
            }
        }
    }
}
