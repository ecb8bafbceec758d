//! `weir sign`: addresses that say until when they are good.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use weir_media::StreamName;
use weir_node::access::{self, Grant};
use weir_node::config::{Config, Scalar};
use weir_wire::rtmp::{self, Limits};

/// What `weir sign` is told.
#[derive(Clone, Debug, clap::Args)]
// The subcommand, which has the file too, is a group of this name already.
#[group(skip)]
pub(super) struct Sign {
    /// Id of the key, among access.sign_keys of the vhost
    #[arg(long, value_name = "ID")]
    key: String,
    /// What the address is good for
    #[arg(long, value_enum, default_value_t = Action::Play)]
    action: Action,
    /// For how long, such as 30m or 12h
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    lasts: Duration,
    /// The only client that it is good for
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<IpAddr>,
    /// Address of the stream: rtmp://HOST/APP/STREAM, http://HOST/APP/STREAM.flv, webrtc://HOST/APP/STREAM, or that of WHIP
    #[arg(value_name = "URL")]
    url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Action {
    Publish,
    Play,
}

fn duration(text: &str) -> Result<Duration, String> {
    Duration::parse(text)
}

impl Sign {
    /// The signed address.
    pub(super) fn run(&self, config: &Config) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        self.signed(config, now)
    }

    fn signed(&self, config: &Config, now: u64) -> anyhow::Result<String> {
        let (address, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
        ensure!(!address.contains('#'), "an address with # cannot be signed");
        let (_, rest) = address.split_once("://").context("the address has no scheme, such as rtmp://")?;
        let (authority, path) = rest.split_once('/').context("the address has no path")?;
        let stream = match path.starts_with("rtc/v1/") {
            true => {
                let get =
                    |name: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
                let part = |name, usual| get(name).map_or(usual, |(_, value)| value);
                format!("{}/{}", part("app", "live"), part("stream", "livestream"))
            }
            false => [".flv", ".m3u8", ".ts"].iter().find_map(|end| path.strip_suffix(end)).unwrap_or(path).to_owned(),
        };
        let named = rtmp::from_url(authority, &stream, query, &Limits::default())?;
        let (vhost, rules) =
            config.vhost(&named.vhost).with_context(|| format!("there is no vhost {:?}", named.vhost))?;
        let secret = rules.access.sign_keys.get(&self.key);
        let secret = secret.with_context(|| format!("vhosts.{vhost}.access.sign_keys has no key {:?}", self.key))?;
        let action = match self.action {
            Action::Publish => access::Action::Publish,
            Action::Play => access::Action::Play,
        };
        let name = StreamName { vhost: vhost.into(), app: named.app.into(), stream: named.stream.into() };
        let grant = Grant { action, name: &name, expires: now.saturating_add(self.lasts.as_secs()), ip: self.ip };
        let joint = if query.is_empty() { "?" } else { "&" };
        Ok(format!("{}{joint}{}", self.url.trim_end_matches('?'), grant.sign(&self.key, secret)))
    }
}

#[cfg(test)]
mod tests {
    use weir_node::access::{Asking, Keys, check};
    use weir_node::config::{Rules, Vhost};

    use super::*;

    #[test]
    fn every_form_of_an_address_is_good_for_its_stream() {
        let mut config = Config::default();
        let mut vhost = Vhost::default();
        vhost.access.sign_keys.insert("k".to_owned(), "0123456789abcdef".into());
        vhost.access.play = Rules { token: true, ..Rules::default() };
        config.vhosts.insert("__defaultVhost__".to_owned(), vhost.clone());
        let name = StreamName { vhost: "__defaultVhost__".into(), app: "live".into(), stream: "river".into() };
        for url in [
            "rtmp://h/live/river",
            "rtmp://h:1935/live/river?x=1",
            "http://h:8080/live/river.flv?",
            "webrtc://h/live/river",
            "http://h:1985/rtc/v1/whep/?app=live&stream=river",
        ] {
            let (lasts, url) = (Duration::from_secs(60), url.to_owned());
            let sign = Sign { key: "k".to_owned(), action: Action::Play, lasts, ip: None, url };
            let signed = sign.signed(&config, 1000).unwrap();
            let query = signed.split_once('?').unwrap().1;
            let asking = |now| {
                let ip = "192.0.2.1".parse().unwrap();
                let action = access::Action::Play;
                check(
                    &vhost.access,
                    &Keys::default(),
                    &Asking { action, name: &name, ip, query, page_url: "", bearer: "" },
                    now,
                )
            };
            assert!(asking(1059).is_ok() && asking(1060).is_err(), "{signed}");
        }
        let sign = |key: &str, url: &str| {
            let lasts = Duration::from_secs(60);
            let sign = Sign { key: key.to_owned(), action: Action::Publish, lasts, ip: None, url: url.to_owned() };
            sign.signed(&config, 0).is_ok()
        };
        assert!(sign("k", "rtmp://h/live/river") && !sign("other", "rtmp://h/live/river"));
        assert!(!sign("k", "live/river") && !sign("k", "rtmp://h") && !sign("k", "rtmp://h/live/..?x"));
    }
}
