//! What an answer means. Pure.

use serde_json::Value;

/// Bytes of an answer.
pub(super) const ANSWER_MAX: usize = 64 * 1024;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Status 200 or 201, and the text 0 or an object whose `code` is 0.
    Yes,
    /// Another number, or status 401 or 403.
    No,
    /// Nothing that can be understood.
    Unclear,
}

pub(super) fn read(status: u16, body: &[u8]) -> Answer {
    if matches!(status, 401 | 403) {
        return Answer::No;
    }
    if !matches!(status, 200 | 201) {
        return Answer::Unclear;
    }
    let code = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields.get("code").and_then(Value::as_i64),
        Ok(Value::Number(number)) => number.as_i64(),
        _ => None,
    };
    match code {
        Some(0) => Answer::Yes,
        Some(_) => Answer::No,
        None => Answer::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for body in ["0", "0\n", " 0 ", "{\"code\":0}", "{\"code\":0,\"data\":{\"x\":[1]}}"] {
            assert_eq!((read(200, body.as_bytes()), read(201, body.as_bytes())), (Answer::Yes, Answer::Yes), "{body}");
            for status in [100, 202, 204, 302, 404, 500] {
                assert_eq!(read(status, body.as_bytes()), Answer::Unclear, "{status}");
            }
            assert_eq!((read(401, body.as_bytes()), read(403, body.as_bytes())), (Answer::No, Answer::No));
        }
        for body in ["1", "-1", "{\"code\":1}", "{\"data\":0,\"code\":403}"] {
            assert_eq!(read(200, body.as_bytes()), Answer::No, "{body}");
        }
        for body in [
            "",
            "\"0\"",
            "{}",
            "{\"code\":\"0\"}",
            "{\"code\":null}",
            "{\"code\":0.0}",
            "[0]",
            "00",
            "0 0",
            "ok",
            "{\"code\":0",
            "\u{0}",
        ] {
            assert_eq!(read(200, body.as_bytes()), Answer::Unclear, "{body}");
        }
    }

    #[test]
    fn deep_ones_are_survived() {
        let deep = format!("{{\"code\":0,\"x\":{}", "[".repeat(ANSWER_MAX));
        assert_eq!(read(200, deep.as_bytes()), Answer::Unclear);
    }
}
