//! The offer, and what is needed of the answer (RFC 8866, RFC 8829).

use std::fmt::Write;
use std::net::SocketAddr;

use weir_wire::rtp::Media;

use super::Error;
use super::ice::Credentials;

/// Payload types of the offer.
const OPUS: u8 = 111;
const H264: u8 = 106;
const RTX: u8 = 107;

/// Of sound and picture, as offered.
pub(super) const PAYLOAD_TYPES: [u8; 2] = [OPUS, H264];

/// Media sections and candidates that are looked at.
const SECTIONS_MAX: usize = 8;
const CANDIDATES_MAX: usize = 32;

/// What this end says of itself.
pub(super) struct Local<'a> {
    /// Its credentials.
    pub(super) credentials: &'a Credentials,
    /// SHA-256 of its certificate.
    pub(super) fingerprint: &'a str,
    /// Where it is reached.
    pub(super) candidate: SocketAddr,
    /// Sources of sound, picture and repeated pictures; `None` for a player.
    pub(super) sources: Option<[u32; 3]>,
}

impl Local<'_> {
    /// The offer of Opus and H.264, each with what browsers offer for it.
    pub(super) fn offer(&self) -> String {
        let mut sdp = String::with_capacity(2048);
        let number = self.credentials.ufrag.bytes().fold(1_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let id = number >> 2;
        let _ = write!(
            sdp,
            "v=0\r\no=- {id} 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic: WMS *\r\n"
        );
        self.section(&mut sdp, "audio", "0", &[OPUS]);
        let _ = write!(sdp, "a=rtpmap:{OPUS} opus/48000/2\r\na=fmtp:{OPUS} minptime=10;useinbandfec=1\r\n");
        self.sources(&mut sdp, Media::Audio);
        self.section(&mut sdp, "video", "1", &[H264, RTX]);
        let _ = write!(
            sdp,
            "a=rtpmap:{H264} H264/90000\r\na=rtcp-fb:{H264} ccm fir\r\na=rtcp-fb:{H264} nack\r\na=rtcp-fb:{H264} nack pli\r\n\
             a=fmtp:{H264} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n\
             a=rtpmap:{RTX} rtx/90000\r\na=fmtp:{RTX} apt={H264}\r\n"
        );
        self.sources(&mut sdp, Media::Video);
        sdp
    }

    /// The answer of a player to `offer`, which is a server's: everything that could be read of it is accepted.
    pub(super) fn answer(&self, offer: &Answer) -> String {
        let mids: String = offer.mids.iter().map(|(_, mid)| format!(" {mid}")).collect();
        let mut sdp = format!("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE{mids}\r\n");
        for (media, mid) in &offer.mids {
            let (kind, types, name) = match media {
                Media::Audio => ("audio", offer.audio, "opus/48000/2"),
                Media::Video => ("video", offer.video, "H264/90000"),
            };
            let Types { media: number, repair } = types.unwrap_or_default();
            let numbers: Vec<u8> = [Some(number), repair].into_iter().flatten().collect();
            self.section(&mut sdp, kind, mid, &numbers);
            let _ = write!(sdp, "a=rtpmap:{number} {name}\r\n");
            if *media == Media::Video {
                let _ = write!(
                    sdp,
                    "a=rtcp-fb:{number} nack\r\na=rtcp-fb:{number} nack pli\r\n\
                     a=fmtp:{number} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n"
                );
            }
            if let Some(repair) = repair {
                let _ = write!(sdp, "a=rtpmap:{repair} rtx/90000\r\na=fmtp:{repair} apt={number}\r\n");
            }
        }
        sdp
    }

    fn section(&self, sdp: &mut String, kind: &str, mid: &str, types: &[u8]) {
        let Self { credentials: Credentials { ufrag, password }, fingerprint, candidate, .. } = self;
        let types: String = types.iter().map(|number| format!(" {number}")).collect();
        let direction = if self.sources.is_some() { "sendonly" } else { "recvonly" };
        let _ = write!(
            sdp,
            "m={kind} 9 UDP/TLS/RTP/SAVPF{types}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
             a=candidate:1 1 udp 2130706431 {} {} typ host generation 0\r\na=ice-ufrag:{ufrag}\r\na=ice-pwd:{password}\r\n\
             a=fingerprint:sha-256 {fingerprint}\r\na=setup:active\r\na=mid:{mid}\r\na={direction}\r\na=rtcp-mux\r\n\
             a=rtcp-rsize\r\n",
            candidate.ip(),
            candidate.port()
        );
    }

    fn sources(&self, sdp: &mut String, media: Media) {
        let Some([audio, video, repair]) = self.sources else { return };
        let (of_media, id) = match media {
            Media::Audio => (vec![audio], "a"),
            Media::Video => (vec![video, repair], "v"),
        };
        let _ = write!(sdp, "a=msid:load {id}\r\n");
        if media == Media::Video {
            let _ = write!(sdp, "a=ssrc-group:FID {video} {repair}\r\n");
        }
        for ssrc in of_media {
            let _ = write!(sdp, "a=ssrc:{ssrc} cname:load\r\na=ssrc:{ssrc} msid:load {id}\r\n");
        }
    }
}

/// Payload types of one medium in the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Types {
    /// Of the medium.
    pub(super) media: u8,
    /// Of repeated packets (RFC 4588).
    pub(super) repair: Option<u8>,
}

/// What matters of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The server's credentials.
    pub(super) credentials: Credentials,
    /// SHA-256 of its certificate.
    pub(super) fingerprint: String,
    /// UDP addresses, in the order of the answer.
    pub(super) candidates: Vec<SocketAddr>,
    /// Sound, if it was accepted.
    pub(super) audio: Option<Types>,
    /// Picture, if it was accepted.
    pub(super) video: Option<Types>,
    /// The media that were, in their order, with their identification.
    mids: Vec<(Media, String)>,
}

impl Answer {
    /// Reads an answer.
    ///
    /// # Errors
    /// It lacks what a session needs.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let mut answer = Self::default();
        let mut section = Section::default();
        let mut sections = 0;
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("m=") {
                answer.take(&section);
                section = Section::new(rest);
                sections += 1;
                if sections > SECTIONS_MAX {
                    break;
                }
            } else if let Some(attribute) = line.strip_prefix("a=") {
                answer.attribute(attribute, &mut section);
            }
        }
        answer.take(&section);
        let Credentials { ufrag, password } = &answer.credentials;
        if ufrag.is_empty() || password.is_empty() {
            return Err(Error::Answer("ICE credentials"));
        }
        if answer.fingerprint.is_empty() {
            return Err(Error::Answer("SHA-256 fingerprint"));
        }
        if answer.candidates.is_empty() {
            return Err(Error::Answer("UDP candidate"));
        }
        if answer.audio.is_none() && answer.video.is_none() {
            return Err(Error::Answer("medium that was accepted"));
        }
        Ok(answer)
    }

    fn attribute(&mut self, attribute: &str, section: &mut Section) {
        let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
        let value = value.trim();
        match name {
            "ice-ufrag" => value.clone_into(&mut self.credentials.ufrag),
            "ice-pwd" => value.clone_into(&mut self.credentials.password),
            "fingerprint" => {
                if let Some((hash, hex)) = value.split_once(' ')
                    && hash.eq_ignore_ascii_case("sha-256")
                {
                    hex.trim().clone_into(&mut self.fingerprint);
                }
            }
            "candidate" if self.candidates.len() < CANDIDATES_MAX => {
                self.candidates.extend(candidate(value).filter(|found| !self.candidates.contains(found)))
            }
            "mid" => value.clone_into(&mut section.mid),
            "rtpmap" => section.rtpmap(value),
            "fmtp" => section.fmtp(value),
            _ => {}
        }
    }

    fn take(&mut self, section: &Section) {
        let Some(media) = section.codec.filter(|_| section.accepted) else { return };
        let types = Types { media, repair: section.repairs.iter().find(|(_, of)| *of == media).map(|(rtx, _)| *rtx) };
        let Some(kind) = section.media else { return };
        match kind {
            Media::Audio => self.audio = Some(types),
            Media::Video => self.video = Some(types),
        }
        self.mids.push((kind, section.mid.clone()));
    }
}

/// The address of a UDP candidate (RFC 8839 5.1).
fn candidate(value: &str) -> Option<SocketAddr> {
    let mut fields = value.split_ascii_whitespace().skip(1);
    let (component, transport) = (fields.next()?, fields.next()?);
    let (address, port) = (fields.nth(1)?, fields.next()?);
    if component != "1" || !transport.eq_ignore_ascii_case("udp") {
        return None;
    }
    Some(SocketAddr::new(address.parse().ok()?, port.parse().ok().filter(|port| *port != 0)?))
}

/// A media section while it is read.
#[derive(Default)]
struct Section {
    media: Option<Media>,
    accepted: bool,
    mid: String,
    /// The first payload type of a codec that was offered.
    codec: Option<u8>,
    /// Payload types of repeated packets, and of what.
    repairs: Vec<(u8, u8)>,
}

impl Section {
    fn new(line: &str) -> Self {
        let mut fields = line.split_ascii_whitespace();
        let media = match fields.next() {
            Some("audio") => Some(Media::Audio),
            Some("video") => Some(Media::Video),
            _ => None,
        };
        Self { media, accepted: fields.next().is_some_and(|port| port != "0"), ..Self::default() }
    }

    fn rtpmap(&mut self, value: &str) {
        let Some((number, name)) = value.split_once(' ') else { return };
        let (name, _) = name.split_once('/').unwrap_or((name, ""));
        let wanted = match self.media {
            Some(Media::Audio) => name.eq_ignore_ascii_case("opus"),
            Some(Media::Video) => name.eq_ignore_ascii_case("H264"),
            None => false,
        };
        if wanted && self.codec.is_none() {
            self.codec = number.parse().ok();
        }
    }

    fn fmtp(&mut self, value: &str) {
        let Some((number, parameters)) = value.split_once(' ') else { return };
        let apt = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("apt=")?.parse().ok());
        if let (Ok(number), Some(apt)) = (number.parse(), apt)
            && self.repairs.len() < SECTIONS_MAX
        {
            self.repairs.push((number, apt));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=group:BUNDLE 0 1\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:4h8h\r\na=ice-pwd:c4i7x12ni946\r\n\
        a=fingerprint:sha-256 14:41\r\na=setup:passive\r\na=rtpmap:111 opus/48000/2\r\n\
        a=candidate:0 1 udp 2130706431 10.1.2.3 28000 typ host generation 0\r\n\
        a=candidate:1 1 tcp 2130706431 10.1.2.3 28000 typ host tcptype passive\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 106 107\r\na=rtpmap:106 H264/90000\r\na=rtpmap:107 rtx/90000\r\n\
        a=fmtp:107 apt=106\r\na=candidate:0 1 udp 2130706431 10.1.2.3 28000 typ host generation 0\r\n";

    #[test]
    fn an_answer() {
        let answer = Answer::parse(ANSWER).unwrap();
        assert_eq!(answer.credentials, Credentials { ufrag: "4h8h".into(), password: "c4i7x12ni946".into() });
        assert_eq!(answer.fingerprint, "14:41");
        assert_eq!(answer.candidates, ["10.1.2.3:28000".parse::<SocketAddr>().unwrap()]);
        assert_eq!(answer.audio, Some(Types { media: 111, repair: None }));
        assert_eq!(answer.video, Some(Types { media: 106, repair: Some(107) }));
    }

    #[test]
    fn answers_of_no_use() {
        for (from, to, lacks) in [
            ("a=ice-pwd:c4i7x12ni946\r\n", "", "ICE credentials"),
            ("sha-256", "sha-1", "SHA-256 fingerprint"),
            (" udp ", " tcp ", "UDP candidate"),
            ("28000 typ", "0 typ", "UDP candidate"),
            (" 9 UDP", " 0 UDP", "medium that was accepted"),
        ] {
            let text = ANSWER.replace(from, to);
            assert_ne!(text, ANSWER, "{from}");
            assert!(matches!(Answer::parse(&text), Err(Error::Answer(found)) if found == lacks), "{from}");
        }
    }

    #[test]
    fn an_offer_can_be_read() {
        let credentials = Credentials::random().unwrap();
        for sources in [None, Some([1, 2, 3])] {
            let candidate = "127.0.0.1:5000".parse().unwrap();
            let local = Local { credentials: &credentials, fingerprint: "AA:BB", candidate, sources };
            let offer = local.offer();
            let read = rtc::sdp::SessionDescription::unmarshal(&mut std::io::Cursor::new(&offer)).unwrap();
            assert_eq!(read.media_descriptions.len(), 2);
            let back = Answer::parse(&offer).unwrap();
            assert_eq!(back.candidates, [candidate]);
            assert_eq!(back.video, Some(Types { media: H264, repair: Some(RTX) }));
            assert_eq!(offer.contains("a=ssrc-group:FID 2 3"), sources.is_some());
            let answer = local.answer(&back);
            assert_eq!(Answer::parse(&answer).unwrap(), back, "{answer}");
        }
    }

    #[test]
    fn fuzz_answers() {
        bolero::check!().with_test_time(core::time::Duration::from_secs(1)).for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let _ = Answer::parse(&text);
            let _ = Answer::parse(&format!("{ANSWER}{text}"));
        });
    }
}
