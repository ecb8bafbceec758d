//! The messages as JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Event, Joined, Notice, Participant, Refusal, Reply, WORD_MAX};

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// To enter a room.
    Join {
        /// Which.
        room: String,
        /// The name by which the others see it.
        display: String,
        /// With the same key the same name is the same client, come back by another connection; empty: none. Not SRS's.
        key: String,
    },
    /// To know whether anybody is there. Not SRS's.
    Ping,
    /// To tell the others that it publishes.
    Publish,
    /// To tell the others something.
    Control {
        /// What: `refresh`, `alert`, or what clients agree on.
        call: String,
        /// More of it.
        data: String,
    },
}

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Comes back with the answer; empty if there was none.
    pub tid: String,
    /// What was asked for, as the client called it.
    pub action: String,
    /// What it wants; or why it cannot have it.
    pub ask: Result<Ask, Refusal>,
    /// In which room and by which name it says that it is.
    pub claims: (Option<String>, Option<String>),
}

/// No message of this protocol. The connection ends, for nothing that is sent on it can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the form {{\"tid\":\"...\",\"msg\":{{\"action\":\"...\"}}}}")]
pub struct Malformed;

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    tid: String,
    msg: Map<String, Value>,
}

/// Reads one message.
///
/// # Errors
/// It is none.
pub fn parse(text: &str) -> Result<Request, Malformed> {
    let Envelope { tid, mut msg } = serde_json::from_str(text).map_err(|_| Malformed)?;
    if tid.len() > WORD_MAX {
        return Err(Malformed);
    }
    let Some(Value::String(action)) = msg.remove("action") else { return Err(Malformed) };
    let mut bad = false;
    let mut take = |field: &str| match msg.remove(field) {
        Some(Value::String(text)) => Some(text),
        None | Some(Value::Null) => None,
        Some(_) => {
            bad = true;
            None
        }
    };
    let claims = (take("room"), take("display"));
    let [call, data, key] = ["call", "data", "key"].map(|field| take(field).unwrap_or_default());
    let ask = if bad || call.len() > WORD_MAX || key.len() > WORD_MAX {
        Err(Refusal::BadField)
    } else {
        match action.as_str() {
            "join" => match claims.clone() {
                (Some(room), Some(display)) => Ok(Ask::Join { room, display, key }),
                _ => Err(Refusal::BadField),
            },
            "ping" => Ok(Ask::Ping),
            "publish" => Ok(Ask::Publish),
            "control" => Ok(Ask::Control { call, data }),
            _ => Err(Refusal::UnknownAction),
        }
    };
    let action = action.chars().take(WORD_MAX).collect();
    Ok(Request { tid, action, ask, claims })
}

impl Reply {
    /// The message.
    pub fn text(&self, tid: &str) -> String {
        let msg = match self {
            Self::Joined(joined) => return joined.text(tid),
            Self::Done => Value::Null,
            Self::Refused { action, why } => {
                json!({"action": action, "error": {"code": why.code(), "message": why.to_string()}})
            }
        };
        json!({"tid": tid, "msg": msg}).to_string()
    }
}

#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<&'a str>,
    msg: T,
}

#[derive(Serialize)]
struct WrittenJoined<'a> {
    action: &'static str,
    #[serde(flatten)]
    joined: &'a Joined,
}

#[derive(Serialize)]
struct WrittenNotice<'a> {
    action: &'static str,
    event: Event,
    #[serde(skip_serializing_if = "str::is_empty")]
    param: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    data: &'a str,
    room: &'a str,
    peer: &'a Participant,
    participants: &'a [Participant],
}

/// Strings and switches are always JSON.
fn written<T: Serialize>(message: &T) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

impl Joined {
    fn text(&self, tid: &str) -> String {
        written(&Written { tid: Some(tid), msg: WrittenJoined { action: "join", joined: self } })
    }
}

impl<M> Notice<M> {
    /// The messages, one for each who is told. All but what is its own is written once: rooms are large, and notices many.
    pub fn texts(&self) -> impl Iterator<Item = (&M, String)> {
        let msg = WrittenNotice {
            action: "notify",
            event: self.event,
            param: &self.param,
            data: &self.data,
            room: &self.room,
            peer: &self.peer,
            participants: &self.participants,
        };
        let mut all = written(&Written { tid: None, msg });
        // The braces of the notice and of the message around it stand behind each one's own part.
        all.truncate(all.len().saturating_sub("}}".len()));
        self.to.iter().map(move |(member, display)| {
            let me = self.participants.iter().find(|participant| participant.display == *display);
            (member, format!("{all},\"self\":{}}}}}", written(&me)))
        })
    }
}
