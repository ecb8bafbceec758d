//! Sessions begin with an offer and end with a token, both over HTTP at some edge.

use std::rc::Rc;
use std::time::Instant;

use aws_lc_rs::{constant_time, rand};
use tracing::info;
use weir_media::StreamName;
use weir_node::hooks::{Farewell, Hook};
use weir_wire::relay::{Record, Refusal};
use weir_wire::rtp::{Codec, Media};
use weir_wire::sdp::{self, Answer, Candidate, Extension, Hash, Local, Offer, Sources, Track};
use weir_wire::stun::Password;

use super::Rtc;
use super::bridges::{Publication, Wishes};
use super::dtls::Dtls;
use super::lane::{Format, Ids as LaneIds, Lane};
use super::player::Player;
use super::publisher::{Ids, Incoming, Publisher};
use super::session::{Fingerprint, Role, Session};
use super::state::Claim;
use crate::relay::FromHub;

/// Letters of this end's ICE user name fragment, of its password and of the token that ends a session.
const UFRAG: usize = 8;
const PASSWORD: usize = 32;
const TOKEN: usize = 32;

/// What an edge asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) name: StreamName,
    pub(crate) publish: bool,
    pub(crate) offer: String,
    /// The codec of the picture that the client wishes.
    pub(crate) codec: Option<Codec>,
    /// Addresses to announce besides the configured ones.
    pub(crate) candidates: Vec<Candidate>,
    /// Digest of the client's query string, for the takeover rule `same_key`.
    pub(crate) key: u64,
    /// What its vhost bridges.
    pub(crate) wishes: Wishes,
    /// Where the HTTP request came from, for logs.
    pub(crate) client: String,
    /// The client's id and what callbacks are told at the end.
    pub(crate) end: Option<(String, String)>,
}

/// What the client is told.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) sdp: String,
    /// `ufrag:ufrag`.
    pub(crate) session: String,
    pub(crate) token: String,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Offer(#[from] sdp::Error),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Full(String),
    #[error("no random numbers")]
    NoRandom,
}

/// Why a session is not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotClosed {
    #[error("there is no such session")]
    Unknown,
    #[error("the token is not this session's")]
    Token,
}

impl Rtc {
    /// Opens a session.
    ///
    /// # Errors
    /// Nothing was opened.
    pub(crate) fn open(self: &Rc<Self>, request: &Request) -> Result<Opened, Refused> {
        let now = Instant::now();
        let offer = Offer::parse(&request.offer)?;
        let limit = self.config.borrow().rtc.sessions as usize;
        let state = self.state.borrow();
        if self.overloaded.get() {
            return Err(Refused::Full("this origin is overloaded, try again later".to_owned()));
        }
        if state.sessions.len() >= limit {
            return Err(Refused::Full("this origin has as many sessions as it may".to_owned()));
        }
        let ufrag = loop {
            let ufrag = letters(UFRAG)?;
            if state.is_free(&ufrag) {
                break ufrag;
            }
        };
        let (password, token) = (letters(PASSWORD)?, letters(TOKEN)?);
        let stream_name = format!("{}/{}", request.name.app, request.name.stream);
        let local = Local {
            ufrag: &ufrag,
            pwd: &password,
            fingerprint: state.identity().fingerprint(),
            candidates: &request.candidates,
            session: u64::from(number()?),
            stream: &stream_name,
        };
        let sources = Sources { audio: number()?, video: (number()?, number()?) };
        let answer = if request.publish {
            Answer::publish(&offer, &local, request.codec)?
        } else {
            let has = state.stream_of(&request.name).map(|stream| stream.codecs()).unwrap_or_default();
            Answer::play(&offer, &local, sources, &has)?
        };
        let role = if request.publish {
            Role::Publisher(Publisher::new(sources.audio, answer.tracks.iter().flat_map(incoming).collect(), now))
        } else {
            let lanes: Result<Vec<Lane>, Refused> = answer.tracks.iter().map(|track| lane(track, sources)).collect();
            Role::Player(Player::new(lanes?, ufrag.clone(), now))
        };
        drop(state);
        // The hub knows who publishes, here and over TCP.
        let publication = if request.publish { Some(self.claim(request, now)?) } else { None };
        let mut state = self.state.borrow_mut();
        let stream = state.stream(&request.name);
        let dtls = if answer.active {
            let dtls = Dtls::client(state.identity(), now);
            Some(dtls.map_err(|failed| Refused::Full(failed.to_string()))?)
        } else {
            None
        };
        let session = Session {
            number: 0,
            ufrag: ufrag.clone(),
            remote_ufrag: offer.ufrag.clone(),
            password: Password::new(&password),
            token: token.clone(),
            fingerprint: fingerprint(&offer.fingerprint),
            stream,
            paths: Default::default(),
            dtls,
            keys: None,
            role,
            opened: now,
            proven: false,
            heard: now,
            forged: 0,
            lately: Default::default(),
            armed: None,
            farewell: self.farewell(request),
        };
        let (id, kind) = (session.id(), session.kind());
        info!(session = ufrag, kind, stream = %request.name, client = request.client, "rtc: session opened");
        let at = state.add(session, now);
        if request.publish {
            state.publish(stream, at, publication, request.wishes);
            // Who waits for it already was told of before it was published.
            let subscribers = self.relay.hub().borrow().state(&request.name).map_or(0, |state| state.subscribers);
            let name = request.name.clone();
            state.hear(now, FromHub::Changed { name, subscribers }, &self.sockets);
        } else {
            state.plays(stream, request.wishes);
        }
        drop(state);
        self.settle();
        Ok(Opened { sdp: answer.sdp, session: id, token })
    }

    /// What is told when the session ends.
    fn farewell(&self, request: &Request) -> Option<Farewell> {
        let (client, body) = request.end.clone()?;
        let config = self.config.borrow();
        let (vhost, rules) = config.vhost(&request.name.vhost)?;
        let hook = if request.publish { Hook::Unpublish } else { Hook::Stop };
        Some(Farewell::new(self.callbacks.of(vhost, &rules.http_hooks), hook, &client, body))
    }

    /// Claims a stream at the hub.
    fn claim(&self, request: &Request, now: Instant) -> Result<Publication, Refused> {
        let channel = self.state.borrow_mut().channel();
        let claim = Record::Claim { channel, name: request.name.clone(), key: request.key, resume: None };
        self.relay.tell(claim).map_err(|offence| Refused::Full(offence.to_string()))?;
        self.hear_hub();
        let claimed: Option<Claim> = self.state.borrow_mut().claimed(channel);
        match claimed {
            Some(Ok((next, base))) => {
                Ok(Publication { channel, next, newest: (base, now), listened: None, pulled: false })
            }
            Some(Err((Refusal::Full, reason))) => Err(Refused::Full(reason)),
            Some(Err((_, reason))) => Err(Refused::Busy(reason)),
            None => Err(Refused::Full("the hub did not answer".to_owned())),
        }
    }

    /// Ends a session for whoever has its token.
    ///
    /// # Errors
    /// It is not ended.
    pub(crate) fn close(self: &Rc<Self>, session: &str, token: &str) -> Result<(), NotClosed> {
        let mut state = self.state.borrow_mut();
        let Some(at) = state.find(session) else {
            return same(state.ended(session).ok_or(NotClosed::Unknown)?, token);
        };
        same(&state.sessions.get(at).ok_or(NotClosed::Unknown)?.token, token)?;
        state.close(Instant::now(), at, "its client ended it", &self.sockets);
        drop(state);
        self.settle();
        Ok(())
    }

    /// Whether there is a session that a token belongs to.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn check(&self, session: &str, token: &str) -> Result<(), NotClosed> {
        let state = self.state.borrow();
        let known = state.find(session).and_then(|at| state.sessions.get(at)).ok_or(NotClosed::Unknown)?;
        same(&known.token, token)
    }
}

fn same(known: &str, token: &str) -> Result<(), NotClosed> {
    constant_time::verify_slices_are_equal(known.as_bytes(), token.as_bytes()).map_err(|_| NotClosed::Token)
}

fn number() -> Result<u32, Refused> {
    let mut bytes = [0; 4];
    rand::fill(&mut bytes).map_err(|_| Refused::NoRandom)?;
    // Nought stands for no source.
    Ok(u32::from_be_bytes(bytes).max(1))
}

/// Random letters and digits: five bits each.
fn letters(count: usize) -> Result<String, Refused> {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = vec![0; count];
    rand::fill(&mut bytes).map_err(|_| Refused::NoRandom)?;
    Ok(bytes.iter().filter_map(|byte| ALPHABET.get(usize::from(byte % 32))).copied().map(char::from).collect())
}

fn fingerprint(offered: &sdp::Fingerprint) -> Fingerprint {
    let algorithm = match offered.hash {
        Hash::Sha256 => &aws_lc_rs::digest::SHA256,
        Hash::Sha384 => &aws_lc_rs::digest::SHA384,
        Hash::Sha512 => &aws_lc_rs::digest::SHA512,
    };
    Fingerprint { algorithm, digest: offered.digest.clone() }
}

/// What comes of a medium: one source, or one for each size of a picture.
fn incoming(track: &Track) -> Vec<Incoming> {
    let Some(codec) = track.codecs.first() else { return Vec::new() };
    let one = |layer, rid: Option<String>| {
        // Sources of sizes are known by their packets only.
        let source = track.ssrcs.first().filter(|_| rid.is_none());
        Incoming {
            codec: codec.codec,
            payload_type: codec.payload_type,
            rtx: codec.rtx,
            mid: track.mid.clone(),
            layer,
            rid,
            ssrc: source.map(|(ssrc, _)| *ssrc),
            rtx_ssrc: source.and_then(|(_, rtx)| *rtx),
            nack: track.feedback("nack"),
            pli: track.feedback("nack pli"),
            fir: track.feedback("ccm fir"),
            ids: Ids {
                mid: track.extension(Extension::Mid),
                rid: track.extension(Extension::StreamId),
                repaired_rid: track.extension(Extension::RepairedStreamId),
                twcc: track.extension(Extension::TransportCc),
                audio_level: track.extension(Extension::AudioLevel),
                orientation: track.extension(Extension::Orientation),
            },
        }
    };
    if track.media == Media::Audio || track.rids.is_empty() {
        return vec![one(0, None)];
    }
    track.rids.iter().enumerate().map(|(layer, rid)| one(layer, Some(rid.clone()))).collect()
}

fn lane(track: &Track, sources: Sources) -> Result<Lane, Refused> {
    let ssrcs = match track.media {
        Media::Audio => (sources.audio, 0),
        Media::Video => sources.video,
    };
    let formats = track.codecs.iter().map(|codec| Format {
        codec: codec.codec,
        payload_type: codec.payload_type,
        rtx: codec.rtx,
    });
    let ids = LaneIds {
        audio_level: track.extension(Extension::AudioLevel),
        orientation: track.extension(Extension::Orientation),
        twcc: track.extension(Extension::TransportCc),
    };
    Ok(Lane::new(track.media, ssrcs, formats.collect(), ids, [number()?, number()?, number()?]))
}
