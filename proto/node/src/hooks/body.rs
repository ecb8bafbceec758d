//! What callbacks are told: SRS's bodies, field by field in its order. Pure.

use serde::Serialize;
use weir_media::StreamName;

use crate::config::DEFAULT_VHOST;
use crate::rows::id_of;

/// What a callback is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// A connection begins to publish or play.
    Connect,
    /// It ends.
    Close,
    /// A stream is about to be published.
    Publish,
    /// It is no more.
    Unpublish,
    /// A client is about to play.
    Play,
    /// It plays no more.
    Stop,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Connect, Self::Close, Self::Publish, Self::Unpublish, Self::Play, Self::Stop];

    /// The field `action`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "on_connect",
            Self::Close => "on_close",
            Self::Publish => "on_publish",
            Self::Unpublish => "on_unpublish",
            Self::Play => "on_play",
            Self::Stop => "on_stop",
        }
    }
}

/// Who calls.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The same for as long as the host has its name.
    pub server_id: String,
    /// Another one with each start of the host.
    pub service_id: String,
}

impl Identity {
    /// As the HTTP API names the host: `node` is its name, `service` the instance of its supervisor.
    pub fn new(node: &str, service: &str) -> Self {
        Self { server_id: id_of(&[node]), service_id: service.to_owned() }
    }
}

/// The connection that a callback is about.
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// Its id, as operators know it.
    pub client_id: &'a str,
    /// The client's address.
    pub ip: &'a str,
    /// `tcUrl` of RTMP, or what SRS writes in its place.
    pub tc_url: &'a str,
    /// The page that it is in.
    pub page_url: &'a str,
}

/// The stream that a callback is about.
#[derive(Clone, Copy)]
pub struct About<'a> {
    /// Its name.
    pub name: &'a StreamName,
    /// Query of its address, with or without a question mark, as SRS writes it for the client's protocol.
    pub param: &'a str,
}

#[derive(Serialize)]
struct Head<'a> {
    server_id: &'a str,
    service_id: &'a str,
    action: &'a str,
    client_id: &'a str,
    ip: &'a str,
    vhost: &'a str,
    app: &'a str,
}

#[derive(Serialize)]
struct Connect<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    stream: &'a str,
    param: &'a str,
    #[serde(rename = "tcUrl")]
    tc_url: &'a str,
    #[serde(rename = "pageUrl")]
    page_url: &'a str,
}

#[derive(Serialize)]
struct Close<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    send_bytes: u64,
    recv_bytes: u64,
}

#[derive(Serialize)]
struct Stream<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(rename = "tcUrl")]
    tc_url: &'a str,
    stream: &'a str,
    param: &'a str,
    stream_url: &'a str,
    stream_id: &'a str,
}

#[derive(Serialize)]
struct Play<'a> {
    #[serde(flatten)]
    head: Head<'a>,
    stream: &'a str,
    #[serde(rename = "tcUrl")]
    tc_url: &'a str,
    param: &'a str,
    #[serde(rename = "pageUrl")]
    page_url: &'a str,
    stream_url: &'a str,
    stream_id: &'a str,
}

impl Identity {
    fn head<'a>(&'a self, hook: Hook, visit: Visit<'a>, vhost: &'a str, app: &'a str) -> Head<'a> {
        let (server_id, service_id, action) = (self.server_id.as_str(), self.service_id.as_str(), hook.as_str());
        Head { server_id, service_id, action, client_id: visit.client_id, ip: visit.ip, vhost, app }
    }

    /// The body of any hook but on_close.
    pub fn body(&self, hook: Hook, visit: Visit<'_>, about: About<'_>) -> String {
        let StreamName { vhost, app, stream } = about.name;
        let (param, tc_url, page_url) = (about.param, visit.tc_url, visit.page_url);
        let head = self.head(hook, visit, vhost, app);
        let url = format!("/{app}/{stream}");
        let stream_url = if &**vhost == DEFAULT_VHOST { url } else { format!("{vhost}{url}") };
        let stream_id = id_of(&[vhost, app, stream]);
        let (stream_url, stream_id) = (stream_url.as_str(), stream_id.as_str());
        match hook {
            Hook::Connect => json(&Connect { head, stream, param, tc_url, page_url }),
            Hook::Play => json(&Play { head, stream, tc_url, param, page_url, stream_url, stream_id }),
            Hook::Publish | Hook::Unpublish | Hook::Stop | Hook::Close => {
                json(&Stream { head, tc_url, stream, param, stream_url, stream_id })
            }
        }
    }

    /// The body of on_close, with the bytes of the whole connection.
    pub fn close(&self, visit: Visit<'_>, (vhost, app): (&str, &str), send_bytes: u64, recv_bytes: u64) -> String {
        json(&Close { head: self.head(Hook::Close, visit, vhost, app), send_bytes, recv_bytes })
    }
}

/// Structures of texts and numbers always are JSON.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bodies that SRS 7.0.18 sent.
    const CAPTURED: [(Hook, &str); 5] = [
        (
            Hook::Connect,
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_connect","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","stream":"livestream","param":"?token=abc&salt=xyz","tcUrl":"rtmp://127.0.0.1:21935/live","pageUrl":""}"#,
        ),
        (
            Hook::Publish,
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_publish","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","tcUrl":"rtmp://127.0.0.1:21935/live","stream":"livestream","param":"?token=abc&salt=xyz","stream_url":"/live/livestream","stream_id":"vid-97zv09o"}"#,
        ),
        (
            Hook::Unpublish,
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_unpublish","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","tcUrl":"rtmp://127.0.0.1:21935/live","stream":"livestream","param":"?token=abc&salt=xyz","stream_url":"/live/livestream","stream_id":"vid-97zv09o"}"#,
        ),
        (
            Hook::Play,
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_play","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","stream":"livestream","tcUrl":"rtmp://127.0.0.1:21935/live","param":"?token=abc&salt=xyz","pageUrl":"","stream_url":"/live/livestream","stream_id":"vid-97zv09o"}"#,
        ),
        (
            Hook::Stop,
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_stop","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","tcUrl":"rtmp://127.0.0.1:21935/live","stream":"livestream","param":"?token=abc&salt=xyz","stream_url":"/live/livestream","stream_id":"vid-97zv09o"}"#,
        ),
    ];

    fn identity() -> Identity {
        Identity { server_id: "vid-53z1nr4".to_owned(), service_id: "3778476h".to_owned() }
    }

    const VISIT: Visit<'_> =
        Visit { client_id: "65l71c2m", ip: "127.0.0.1", tc_url: "rtmp://127.0.0.1:21935/live", page_url: "" };

    #[test]
    fn bodies_are_those_of_srs() {
        let name = StreamName { vhost: DEFAULT_VHOST.into(), app: "live".into(), stream: "livestream".into() };
        let about = About { name: &name, param: "?token=abc&salt=xyz" };
        let ours = id_of(&[DEFAULT_VHOST, "live", "livestream"]);
        for (hook, captured) in CAPTURED {
            let body = identity().body(hook, VISIT, about);
            assert_eq!(body.replace(&ours, "vid-97zv09o"), captured);
        }
        assert_eq!(
            identity().close(VISIT, (DEFAULT_VHOST, "live"), 383_382, 3499),
            r#"{"server_id":"vid-53z1nr4","service_id":"3778476h","action":"on_close","client_id":"65l71c2m","ip":"127.0.0.1","vhost":"__defaultVhost__","app":"live","send_bytes":383382,"recv_bytes":3499}"#
        );
    }

    #[test]
    fn names_are_text_and_other_vhosts_are_named() {
        let name = StreamName { vhost: "v.example".into(), app: "live".into(), stream: "\"},{\u{1}é".into() };
        let body = identity().body(Hook::Play, VISIT, About { name: &name, param: "" });
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["stream"], "\"},{\u{1}é");
        assert!(value["stream_url"].as_str().unwrap().starts_with("v.example/live/"));
    }
}
