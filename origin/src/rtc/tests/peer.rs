//! A client without a socket, and the world between it and the sessions.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtc::crypto::RTCCryptoProvider as _;
use rtc::crypto::providers::AwsLcRsProvider;
use rtc::stun::attributes::{ATTR_USE_CANDIDATE, ATTR_USERNAME};
use rtc::stun::fingerprint::FINGERPRINT;
use rtc::stun::integrity::MessageIntegrity;
use rtc::stun::message::{BINDING_REQUEST, Message, Setter, TransactionId};
use weir_media::StreamName;
use weir_wire::rtp::rtcp::{self, Packet as Feedback};
use weir_wire::rtp::{Codec, Header, Media};
use weir_wire::srtp::{Protect, Unprotect};
use weir_wire::stun::Password;

use super::super::bridges::Wishes;
use super::super::dtls::{Dtls, Event, Identity};
use super::super::lane::{Format, Ids as LaneIds, Lane};
use super::super::player::Player;
use super::super::publisher::{Ids, Incoming, Publisher};
use super::super::session::{Fingerprint, Role, Session};
use super::super::socket::Path;
use super::super::state::{State, Wire};

/// What the sessions sent, and to whom.
#[derive(Default)]
pub(super) struct Sent(RefCell<Vec<(SocketAddr, Vec<u8>)>>);

impl Wire for Sent {
    fn send(&self, path: Path, datagram: &[u8]) {
        self.0.borrow_mut().push((path.peer, datagram.to_vec()));
    }

    fn send_all(&self, path: Path, mut bytes: &[u8], lengths: &[usize]) {
        for length in lengths {
            let (datagram, rest) = bytes.split_at(*length);
            self.send(path, datagram);
            bytes = rest;
        }
        assert!(bytes.is_empty());
    }

    fn forget(&self, _: Path) {}
}

impl Sent {
    pub(super) fn to(&self, peer: SocketAddr) -> Vec<Vec<u8>> {
        let mut all = self.0.borrow_mut();
        let (mine, others) = all.drain(..).partition(|(to, _)| *to == peer);
        *all = others;
        mine.into_iter().map(|(_, datagram)| datagram).collect()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.borrow().iter().map(|(_, datagram)| datagram.len()).sum()
    }
}

pub(super) struct World {
    pub(super) state: State,
    pub(super) wire: Sent,
    pub(super) now: Instant,
    clients: u16,
    identity: Identity,
}

const WISHES: Wishes = Wishes { to_rtc: None, to_rtmp: None, opus: 48_000, aac: 48_000 };

/// Identifiers of header extensions: the name of a size, and the number of a packet on its path.
const RID: u8 = 4;
pub(super) const TWCC: u8 = 5;

pub(super) const PASSWORD: &str = "the password of the session";

impl World {
    pub(super) fn new() -> Self {
        let state = State::new(Identity::new().unwrap(), Duration::from_secs(30));
        let identity = Identity::new().unwrap();
        Self { state, wire: Sent::default(), now: Instant::now(), clients: 0, identity }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.state.flush(self.now, &self.wire);
        self.state.timeout(self.now, &self.wire);
    }

    /// A datagram from somewhere.
    pub(super) fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let path = Path { socket: 0, peer: from, local: None };
        self.state.datagram(self.now, path, &mut bytes.to_vec(), &self.wire);
    }

    pub(super) fn publisher(&mut self, stream: &str) -> Client {
        let (number, stream) = self.number(stream);
        let of = |codec, payload_type, rtx, ssrc| Incoming {
            codec,
            payload_type,
            rtx,
            mid: "0".to_owned(),
            layer: 0,
            rid: None,
            ssrc: Some(ssrc),
            rtx_ssrc: None,
            nack: true,
            pli: true,
            fir: false,
            ids: Ids::default(),
        };
        let incoming = vec![of(Codec::Opus, 111, None, 11), of(Codec::H264, 106, Some(107), 12)];
        let role = Role::Publisher(Publisher::new(1, incoming, self.now));
        let at = self.session(number, stream, role);
        self.state.publish(stream, at, None, WISHES);
        Client::new(number, &self.identity, 11, 12)
    }

    /// A publisher of a picture in three sizes with these names, without sound.
    pub(super) fn publisher_in_sizes(&mut self, stream: &str, sizes: [u8; 3]) -> Client {
        let (number, stream) = self.number(stream);
        let incoming = sizes.iter().enumerate().map(|(layer, rid)| Incoming {
            codec: Codec::H264,
            payload_type: 106,
            rtx: Some(107),
            mid: "0".to_owned(),
            layer,
            rid: Some(char::from(*rid).to_string()),
            ssrc: None,
            rtx_ssrc: None,
            nack: true,
            pli: true,
            fir: false,
            ids: Ids { rid: Some(RID), ..Ids::default() },
        });
        let role = Role::Publisher(Publisher::new(1, incoming.collect(), self.now));
        let at = self.session(number, stream, role);
        self.state.publish(stream, at, None, WISHES);
        Client::new(number, &self.identity, 11, 12)
    }

    pub(super) fn player(&mut self, stream: &str) -> Client {
        self.player_with(stream, Some(102))
    }

    /// A player that says when packets arrive.
    pub(super) fn player_that_tells(&mut self, stream: &str) -> Client {
        self.player_of(stream, Some(102), LaneIds { twcc: Some(TWCC), ..LaneIds::default() })
    }

    pub(super) fn player_with(&mut self, stream: &str, rtx: Option<u8>) -> Client {
        self.player_of(stream, rtx, LaneIds::default())
    }

    fn player_of(&mut self, stream: &str, rtx: Option<u8>, ids: LaneIds) -> Client {
        let (number, stream) = self.number(stream);
        let format = |codec, payload_type, rtx| vec![Format { codec, payload_type, rtx }];
        let (audio, video) = (1000 + u32::from(number), 2000 + u32::from(number));
        let random = [u32::from(number) * 7919, 5, 7];
        let lanes = vec![
            Lane::new(Media::Audio, (audio, 0), format(Codec::Opus, 111, None), LaneIds::default(), random),
            Lane::new(Media::Video, (video, video + 500), format(Codec::H264, 101, rtx), ids, random),
        ];
        let role = Role::Player(Player::new(lanes, "weir".to_owned(), self.now));
        self.session(number, stream, role);
        self.state.plays(stream, WISHES);
        Client::new(number, &self.identity, audio, video)
    }

    fn number(&mut self, stream: &str) -> (u16, usize) {
        self.clients += 1;
        let name = StreamName { vhost: "v".into(), app: "live".into(), stream: stream.into() };
        (self.clients, self.state.stream(&name))
    }

    fn session(&mut self, number: u16, stream: usize, role: Role) -> usize {
        let session = Session {
            number: 0,
            ufrag: format!("here{number}"),
            remote_ufrag: format!("there{number}"),
            password: Password::new(PASSWORD),
            token: String::new(),
            fingerprint: Fingerprint {
                algorithm: &aws_lc_rs::digest::SHA256,
                digest: self.identity.fingerprint().to_vec(),
            },
            stream,
            paths: Default::default(),
            dtls: None,
            keys: None,
            role,
            opened: self.now,
            proven: false,
            heard: self.now,
            forged: 0,
            lately: Default::default(),
            armed: None,
            farewell: None,
        };
        self.state.add(session, self.now)
    }

    /// Lets a client check, shake hands and be known.
    pub(super) fn connect(&mut self, client: &mut Client) {
        client.check(self, PASSWORD);
        let mut dtls = Dtls::client(&self.identity, self.now).unwrap();
        for _ in 0..20 {
            while let Some(datagram) = dtls.poll() {
                self.datagram(client.address, &datagram);
            }
            for datagram in self.wire.to(client.address) {
                if !(20..64).contains(&datagram[0]) {
                    client.early.push(datagram);
                    continue;
                }
                for event in dtls.handle(&self.identity, self.now, &datagram).unwrap() {
                    if let Event::Established { keys, .. } = event {
                        client.keys = Some(*keys);
                    }
                }
            }
            if client.keys.is_some() {
                client.dtls = Some(dtls);
                return;
            }
        }
        panic!("no connection");
    }

    /// What a client was sent since the last time.
    pub(super) fn take(&self, client: &mut Client) -> Vec<Got> {
        let datagrams: Vec<Vec<u8>> = client.early.drain(..).chain(self.wire.to(client.address)).collect();
        datagrams.into_iter().filter_map(|datagram| client.read(datagram)).collect()
    }
}

pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) username: String,
    pub(super) audio_ssrc: u32,
    pub(super) video_ssrc: u32,
    pub(super) keys: Option<(Protect, Unprotect)>,
    pub(super) dtls: Option<Dtls>,
    early: Vec<Vec<u8>>,
    audio: u64,
    video: u64,
}

/// The first numbers that clients send.
const FIRST: u64 = 65_530;

impl Client {
    fn new(number: u16, _identity: &Identity, audio_ssrc: u32, video_ssrc: u32) -> Self {
        Self {
            address: ([192, 0, 2, 7], 4000 + number).into(),
            username: format!("here{number}:there{number}"),
            audio_ssrc,
            video_ssrc,
            keys: None,
            dtls: None,
            early: Vec::new(),
            audio: FIRST,
            video: FIRST,
        }
    }

    pub(super) fn check_bytes(&self, password: &str) -> Vec<u8> {
        let provider = AwsLcRsProvider::new();
        let mut message = Message::new();
        message.build(&[Box::new(TransactionId([9; 12])), Box::new(BINDING_REQUEST)]).unwrap();
        message.add(ATTR_USERNAME, self.username.as_bytes());
        message.add(ATTR_USE_CANDIDATE, &[]);
        MessageIntegrity::new_short_term_integrity_with_provider(password.to_owned(), provider.crypto())
            .add_to(&mut message)
            .unwrap();
        FINGERPRINT.add_to(&mut message).unwrap();
        message.raw
    }

    pub(super) fn check(&self, world: &mut World, password: &str) {
        world.datagram(self.address, &self.check_bytes(password));
    }

    fn header(payload_type: u8, index: u64, timestamp: u32, ssrc: u32, marker: bool) -> Vec<u8> {
        let mut header = vec![0x80, u8::from(marker) << 7 | payload_type];
        header.extend(&index.to_be_bytes()[6..]);
        header.extend(timestamp.to_be_bytes());
        header.extend(ssrc.to_be_bytes());
        header
    }

    pub(super) fn sealed_video(&mut self, payload: &[u8]) -> Vec<u8> {
        let timestamp = u32::try_from(self.video - FIRST).unwrap() * 3600;
        let header = Self::header(106, self.video, timestamp, self.video_ssrc, true);
        let mut sealed = Vec::new();
        self.keys.as_ref().unwrap().0.rtp(self.video, &header, payload, &mut sealed).unwrap();
        self.video += 1;
        sealed
    }

    /// A video packet with another first byte.
    pub(super) fn sealed_with(&mut self, first: u8, payload: &[u8]) -> Vec<u8> {
        let mut header = Self::header(106, self.video, 0, self.video_ssrc, true);
        header[0] = first;
        let mut sealed = Vec::new();
        self.keys.as_ref().unwrap().0.rtp(self.video, &header, payload, &mut sealed).unwrap();
        self.video += 1;
        sealed
    }

    /// A packet of another payload type and source.
    pub(super) fn sealed_kind(&self, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        let header = Self::header(payload_type, 1, 0, u32::from(payload_type), true);
        let mut sealed = Vec::new();
        self.keys.as_ref().unwrap().0.rtp(1, &header, payload, &mut sealed).unwrap();
        sealed
    }

    pub(super) fn video(&mut self, world: &mut World, _key: bool, payload: &[u8]) {
        let sealed = self.sealed_video(payload);
        world.datagram(self.address, &sealed);
    }

    /// A packet of a picture in one of its sizes: its number, timestamp and source.
    pub(super) fn sized(
        &self,
        world: &mut World,
        rid: u8,
        (index, timestamp, ssrc): (u64, u32, u32),
        marker: bool,
        payload: &[u8],
    ) {
        let mut header = Self::header(106, FIRST + index, timestamp, ssrc, marker);
        header[0] |= 0x10;
        header.extend([0xbe, 0xde, 0, 1, RID << 4, rid, 0, 0]);
        let mut sealed = Vec::new();
        self.keys.as_ref().unwrap().0.rtp(FIRST + index, &header, payload, &mut sealed).unwrap();
        world.datagram(self.address, &sealed);
    }

    /// Sends its picture as another source from now on.
    pub(super) fn begin_again(&mut self, ssrc: u32) {
        (self.video_ssrc, self.video) = (ssrc, FIRST);
    }

    pub(super) fn skip_video(&mut self) {
        self.video += 1;
    }

    pub(super) fn first_video_sequence(&self) -> u16 {
        u16::try_from(FIRST).unwrap()
    }

    pub(super) fn audio(&mut self, world: &mut World, payload: &[u8]) {
        let timestamp = u32::try_from(self.audio - FIRST).unwrap() * 960;
        let header = Self::header(111, self.audio, timestamp, self.audio_ssrc, false);
        let mut sealed = Vec::new();
        self.keys.as_ref().unwrap().0.rtp(self.audio, &header, payload, &mut sealed).unwrap();
        self.audio += 1;
        world.datagram(self.address, &sealed);
    }

    pub(super) fn rtcp(&mut self, world: &mut World, mut compound: Vec<u8>) {
        self.keys.as_mut().unwrap().0.rtcp(&mut compound).unwrap();
        world.datagram(self.address, &compound);
    }

    pub(super) fn sender_reports(&mut self, world: &mut World, ntp: u64) {
        for ssrc in [self.audio_ssrc, self.video_ssrc] {
            // A source is known by its first packet.
            let info = rtcp::SenderInfo { ntp, rtp: 0, packets: 0, octets: 0 };
            let mut compound = Vec::new();
            rtcp::sender_report(&mut compound, ssrc, &info, &[]);
            self.rtcp(world, compound);
        }
    }

    fn read(&mut self, mut datagram: Vec<u8>) -> Option<Got> {
        let (_, unprotect) = self.keys.as_mut()?;
        if datagram[0] >> 6 != 2 {
            return None;
        }
        if (192..=223).contains(&datagram[1]) {
            let length = unprotect.rtcp(&mut datagram).unwrap();
            datagram.truncate(length);
            return Some(Got { header: None, bytes: datagram });
        }
        let header = Header::parse(&datagram).unwrap();
        let (length, _) = unprotect.rtp(&header, &mut datagram).unwrap_or_else(|e| {
            // A repair without a stream of its own repeats what came.
            assert_eq!(e, weir_wire::srtp::Error::Replay);
            panic!("a replay")
        });
        datagram.truncate(length);
        Some(Got { header: Some(header), bytes: datagram })
    }
}

/// A packet that a client got, decrypted.
pub(super) struct Got {
    header: Option<Header>,
    bytes: Vec<u8>,
}

impl Got {
    fn of(&self, payload_type: u8) -> Option<&Header> {
        self.header.as_ref().filter(|header| header.payload_type == payload_type)
    }

    pub(super) fn sequence_of(&self, payload_type: u8) -> Option<u16> {
        self.of(payload_type).map(|header| header.sequence)
    }

    pub(super) fn timestamp_of(&self, payload_type: u8) -> Option<u32> {
        self.of(payload_type).map(|header| header.timestamp)
    }

    pub(super) fn payload_of(&self, payload_type: u8) -> Option<Vec<u8>> {
        self.of(payload_type).map(|header| self.bytes[header.payload..].to_vec())
    }

    /// Number, timestamp and third byte of a picture's packet.
    pub(super) fn picture(&self, payload_type: u8) -> Option<(u16, u32, u8)> {
        self.of(payload_type).map(|header| (header.sequence, header.timestamp, self.bytes[header.payload + 2]))
    }

    /// The number that its path is measured by.
    pub(super) fn number(&self, id: u8) -> Option<u16> {
        let data = self.header.as_ref()?.extensions(&self.bytes).get(id)?;
        Some(u16::from_be_bytes(data.try_into().unwrap()))
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it asks for a key frame of a source.
    pub(super) fn asks(&self, source: u32) -> bool {
        self.feedback().any(|packet| matches!(packet, Feedback::Pli { media, .. } if media == source))
    }

    fn feedback(&self) -> impl Iterator<Item = Feedback<'_>> {
        rtcp::parse(if self.header.is_none() { &self.bytes } else { &[] })
    }

    pub(super) fn is_pli(&self) -> bool {
        self.feedback().any(|packet| matches!(packet, Feedback::Pli { .. }))
    }

    pub(super) fn is_bye(&self) -> bool {
        self.feedback().any(|packet| matches!(packet, Feedback::Bye { .. }))
    }

    pub(super) fn nacked(&self) -> Vec<u16> {
        let lost = self.feedback().filter_map(|packet| match packet {
            Feedback::Nack { lost, .. } => Some(lost),
            _ => None,
        });
        lost.flatten().collect()
    }

    pub(super) fn reports(&self, source: u32) -> bool {
        self.feedback().any(|packet| match packet {
            Feedback::ReceiverReport { mut blocks, .. } => blocks.any(|block| block.ssrc == source),
            _ => false,
        })
    }

    pub(super) fn sender_reports(&self) -> Vec<(u32, rtcp::SenderInfo)> {
        let reports = self.feedback().filter_map(|packet| match packet {
            Feedback::SenderReport { ssrc, info, .. } => Some((ssrc, info)),
            _ => None,
        });
        reports.collect()
    }
}
