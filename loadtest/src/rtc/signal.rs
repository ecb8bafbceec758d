//! One request by HTTP that carries the offer, and the response that carries the answer: WHIP and WHEP (RFC 9725), or
//! SRS's API.

use serde_json::{Value, json};

use super::Error;
use crate::conn::{self, Body, ResponseHead};
use crate::net::{Reason, Wire};
use crate::target::{Scheme, Target};

/// Bytes of an answer.
pub(super) const ANSWER_MAX: usize = 64 * 1024;
/// Characters of a refusal that are repeated.
const REASON_MAX: usize = 200;

/// The exchange.
pub(super) struct Signal {
    scheme: Scheme,
    head: ResponseHead,
    body: Option<Body>,
    answer: Vec<u8>,
}

impl Signal {
    /// Sends the offer for stream `number`; `sends` says whether to publish.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn offer(
        target: &Target,
        number: usize,
        sends: bool,
        offer: &str,
        wire: &mut Wire,
    ) -> Result<Self, Reason> {
        let host = &target.authority;
        let (path, kind, body) = match target.scheme {
            Scheme::Webrtc => {
                let url = format!("webrtc://{host}{}", target.path(number));
                let path = if sends { "/rtc/v1/publish/" } else { "/rtc/v1/play/" };
                let body =
                    json!({"api": format!("http://{host}{path}"), "streamurl": url, "clientip": null, "sdp": offer});
                (path.to_owned(), "application/json", body.to_string())
            }
            Scheme::Http | Scheme::Rtmp | Scheme::Janus => (target.path(number), "application/sdp", offer.to_owned()),
        };
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: weir-loadtest\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        wire.send(request.as_bytes())?;
        Ok(Self { scheme: target.scheme, head: ResponseHead::default(), body: None, answer: Vec::new() })
    }

    /// Takes what came; returns the answer once it is whole.
    ///
    /// # Errors
    /// The server refused, or this is no answer.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> Result<Option<String>, Reason> {
        if self.body.is_none() {
            self.body = self.head.read(&mut bytes).map_err(Reason::from)?;
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            match body.read(&mut bytes) {
                Ok(Some(part)) if self.answer.len() + part.len() > ANSWER_MAX => {
                    return Err(Error::AnswerTooLong.into());
                }
                Ok(Some(part)) => self.answer.extend_from_slice(part),
                Ok(None) => return Ok(None),
                Err(conn::Error::Ended) => return self.finish().map(Some),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn finish(&self) -> Result<String, Reason> {
        let text = String::from_utf8_lossy(&self.answer).into_owned();
        if self.scheme != Scheme::Webrtc {
            return Ok(text);
        }
        let answer: Value = serde_json::from_str(&text).map_err(|_| Error::Answer("JSON"))?;
        let code = answer.get("code").and_then(Value::as_i64).unwrap_or(-1);
        let word = |name: &str| answer.get(name).and_then(Value::as_str);
        if code != 0 {
            let reason = word("reason").unwrap_or("no reason given").chars().take(REASON_MAX).collect();
            return Err(Error::Refused { code, reason }.into());
        }
        word("sdp").map(str::to_owned).ok_or_else(|| Error::Answer("SDP").into())
    }
}
