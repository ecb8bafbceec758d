use std::io::Cursor;

use rtc::sdp::SessionDescription;

use super::*;

/// What Chrome offers to receive, shortened to what matters: several H.264 profiles, both modes, repair streams.
const CHROME: &str = "v=0\r\no=- 4611731400430051336 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1 2\r\n\
    a=extmap-allow-mixed\r\na=msid-semantic: WMS\r\n\
    m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:Xy/+\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=ice-options:trickle\r\n\
    a=fingerprint:sha-256 AB:CD:EF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D\r\n\
    a=setup:actpass\r\na=mid:0\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\n\
    a=extmap:2 http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\n\
    a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=sendrecv\r\na=msid:- mic\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
    a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=rtpmap:63 red/48000/2\r\na=rtpmap:9 G722/8000\r\na=ssrc:77 cname:c\r\n\
    m=video 9 UDP/TLS/RTP/SAVPF 96 97 103 104 107 108 109 114 45 46\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:Xy/+\r\n\
    a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:actpass\r\na=mid:1\r\na=extmap:14 urn:ietf:params:rtp-hdrext:toffset\r\n\
    a=extmap:13 urn:3gpp:video-orientation\r\n\
    a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\na=sendrecv\r\na=rtcp-mux\r\n\
    a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\n\
    a=fmtp:97 apt=96\r\na=rtpmap:103 H264/90000\r\na=rtcp-fb:103 nack\r\n\
    a=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\na=rtpmap:104 rtx/90000\r\n\
    a=fmtp:104 apt=103\r\na=rtpmap:107 H264/90000\r\n\
    a=fmtp:107 level-asymmetry-allowed=1;packetization-mode=0;profile-level-id=42e01f\r\na=rtpmap:108 rtx/90000\r\n\
    a=fmtp:108 apt=107\r\na=rtpmap:109 H264/90000\r\na=rtcp-fb:109 goog-remb\r\na=rtcp-fb:109 transport-cc\r\n\
    a=rtcp-fb:109 ccm fir\r\na=rtcp-fb:109 nack\r\na=rtcp-fb:109 nack pli\r\n\
    a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\na=rtpmap:114 rtx/90000\r\n\
    a=fmtp:114 apt=109\r\na=rtpmap:45 AV1/90000\r\na=rtpmap:46 rtx/90000\r\na=fmtp:46 apt=45\r\n\
    a=ssrc-group:FID 100 101\r\na=ssrc:100 cname:c\r\na=ssrc:101 cname:c\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\na=sctp-port:5000\r\n";

/// What ffmpeg's WHIP muxer offers: the first format only, an end that waits for the other's DTLS in older versions.
const FFMPEG: &str = "v=0\r\no=FFmpeg 4489045141692799359 2 IN IP4 127.0.0.1\r\ns=FFmpegPublishSession\r\nt=0 0\r\n\
    a=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
    c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd1234\r\na=ice-pwd:0123456789abcdef0123456789abcdef\r\n\
    a=fingerprint:sha-256 AB:CD:EF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D\r\n\
    a=setup:passive\r\na=mid:0\r\na=sendonly\r\na=msid:FFmpeg audio\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\n\
    a=ssrc:4000 cname:FFmpeg\r\na=ssrc:4000 msid:FFmpeg audio\r\nm=video 9 UDP/TLS/RTP/SAVPF 106\r\nc=IN IP4 0.0.0.0\r\n\
    a=ice-ufrag:abcd1234\r\na=ice-pwd:0123456789abcdef0123456789abcdef\r\n\
    a=fingerprint:sha-256 AB:CD:EF:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D\r\n\
    a=setup:passive\r\na=mid:1\r\na=sendonly\r\na=msid:FFmpeg video\r\na=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:106 H264/90000\r\n\
    a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42c01f\r\na=rtcp-fb:106 nack\r\n\
    a=ssrc:4001 cname:FFmpeg\r\n";

fn local() -> Local<'static> {
    Local {
        ufrag: "here1234",
        pwd: "abcdefghijklmnopqrstuvwxyz012345",
        fingerprint: [0xab; 32],
        candidates: &[],
        session: 7,
        stream: "live/river",
    }
}

const SOURCES: Sources = Sources { audio: 1, video: (2, 3) };

fn reads(sdp: &str) -> SessionDescription {
    SessionDescription::unmarshal(&mut Cursor::new(sdp.as_bytes())).unwrap()
}

#[test]
fn chrome_publishes_what_everybody_plays() {
    let offer = Offer::parse(CHROME).unwrap();
    assert_eq!((offer.ufrag.as_str(), offer.setup, offer.media.len()), ("Xy/+", Setup::ActPass, 3));
    let answer = Answer::publish(&offer, &local(), None).unwrap();
    let types: Vec<_> =
        answer.tracks.iter().map(|t| (t.media as u8, t.codecs[0].payload_type, t.codecs[0].rtx)).collect();
    assert_eq!(types, [(0, 111, None), (1, 109, Some(114))], "constrained baseline, mode 1");
    assert_eq!(answer.tracks[1].ssrcs, [(100, Some(101))]);
    assert_eq!(answer.tracks[1].extension(Extension::TransportCc), Some(3));
    assert!(answer.tracks[1].feedback("nack pli") && answer.tracks[1].feedback("ccm fir") && !answer.active);
    let parsed = reads(&answer.sdp);
    let ports: Vec<_> = parsed.media_descriptions.iter().map(|m| m.media_name.port.value).collect();
    assert_eq!(ports, [9, 9, 0], "a data channel is refused, not an error");
    assert!(answer.sdp.contains("a=group:BUNDLE 0 1\r\n") && answer.sdp.contains("a=rtcp-fb:109 transport-cc\r\n"));
    assert!(!answer.sdp.contains("goog-remb") && !answer.sdp.contains("VP8"));
    assert!(answer.sdp.contains("m=application 0 UDP/DTLS/SCTP webrtc-datachannel\r\n"));
}

#[test]
fn a_wish_is_granted_where_it_is_offered() {
    let offer = Offer::parse(CHROME).unwrap();
    let codec = |wish| Answer::publish(&offer, &local(), Some(wish)).unwrap().tracks[1].codecs[0].codec;
    assert_eq!((codec(Codec::Av1), codec(Codec::Vp8), codec(Codec::H265)), (Codec::Av1, Codec::Vp8, Codec::H264));
}

#[test]
fn a_player_may_be_sent_whatever_both_know() {
    let offer = Offer::parse(CHROME).unwrap();
    let answer = Answer::play(&offer, &local(), SOURCES, &[Codec::Vp8]).unwrap();
    let codecs: Vec<_> = answer.tracks[1].codecs.iter().map(|c| (c.codec, c.payload_type)).collect();
    assert_eq!(codecs, [(Codec::Vp8, 96), (Codec::H264, 109), (Codec::Av1, 45)]);
    let none = Answer::play(&offer, &local(), SOURCES, &[]).unwrap();
    assert_eq!(none.tracks[1].codecs[0].codec, Codec::H264);
    assert!(answer.sdp.contains("a=ssrc-group:FID 2 3\r\n") && answer.sdp.contains("a=sendonly\r\n"));
    assert!(answer.sdp.contains("a=extmap:13 urn:3gpp:video-orientation\r\n"));
    // Of the picture's packets alone, and only where each codec has a repair stream.
    assert_eq!([0, 1].map(|at| answer.tracks[at].extension(Extension::TransportCc)), [None, Some(3)]);
    reads(&answer.sdp);
    let offer = Offer::parse(&CHROME.replace("a=fmtp:114 apt=109\r\n", "")).unwrap();
    let answer = Answer::play(&offer, &local(), SOURCES, &[]).unwrap();
    assert!(!answer.sdp.contains("transport") && answer.tracks[1].codecs[0].rtx.is_none());
}

#[test]
fn a_name_with_spaces_is_one_word() {
    let local = Local { stream: "live/Anna Maria\u{a0}x", ..local() };
    let answer = Answer::play(&Offer::parse(CHROME).unwrap(), &local, SOURCES, &[]).unwrap();
    assert!(answer.sdp.contains("a=msid:live/Anna_Maria_x audio\r\n"), "{}", answer.sdp);
    reads(&answer.sdp);
}

#[test]
fn ffmpeg_waits_for_the_handshake() {
    let offer = Offer::parse(FFMPEG).unwrap();
    let answer = Answer::publish(&offer, &local(), None).unwrap();
    assert!(answer.active && answer.sdp.contains("a=setup:active\r\n"));
    assert_eq!(answer.tracks.iter().map(|t| t.ssrcs[0].0).collect::<Vec<_>>(), [4000, 4001]);
    assert_eq!(Answer::play(&offer, &local(), SOURCES, &[]).err(), Some(Error::NoMedia), "it only sends");
}

#[test]
fn candidates_and_simulcast_layers() {
    let candidates = [
        Candidate::from("192.0.2.1:8000".parse::<std::net::SocketAddr>().unwrap()),
        Candidate { host: "media.example".to_owned(), port: 8000, tcp: true },
    ];
    let text = CHROME
        .replace("a=ssrc:101 cname:c\r\n", "a=rid:h send\r\na=rid:l send\r\na=rid:x recv\r\na=simulcast:send h;l\r\n");
    let offer = Offer::parse(&text).unwrap();
    let answer = Answer::publish(&offer, &Local { candidates: &candidates, ..local() }, None).unwrap();
    assert_eq!(answer.tracks[1].rids, ["h", "l"]);
    assert!(answer.sdp.contains("a=rid:h recv\r\na=rid:l recv\r\na=simulcast:recv h;l\r\n"));
    assert!(answer.sdp.contains("a=candidate:0 1 udp 2130706431 192.0.2.1 8000 typ host generation 0\r\n"));
    assert!(answer.sdp.contains(" media.example 8000 typ host tcptype passive generation 0\r\n"));
    reads(&answer.sdp);
}

#[test]
fn what_cannot_be_answered_says_why() {
    let error = |text: &str| Offer::parse(text).err().unwrap();
    assert!(matches!(error(""), Error::Malformed(_) | Error::NoMedia));
    assert!(matches!(error("hello"), Error::Malformed(_)));
    assert_eq!(error("v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"), Error::NoMedia);
    assert_eq!(
        error(&CHROME.replace("a=ice-pwd:abcdefghijklmnopqrstuvwx", "a=ice-pwd:short")),
        Error::Missing("ice-pwd")
    );
    assert_eq!(error(&CHROME.replace("Xy/+", "X:y;")), Error::Missing("ice-ufrag"));
    assert_eq!(error(&CHROME.replace("sha-256 AB", "sha-1 AB")), Error::Missing("fingerprint"));
    assert_eq!(error(&CHROME.replace("AB:CD", "AB:C")), Error::Missing("fingerprint"));
    assert_eq!(error(&CHROME.replace("a=group:BUNDLE 0 1 2\r\n", "")), Error::Missing("BUNDLE group"));
    assert_eq!(error(&"a=x\r\n".repeat(3000)), Error::TooLarge);
    assert_eq!(error(&"x".repeat(OFFER_MAX + 1)), Error::TooLarge);
    let publish =
        |text: &str| Answer::publish(&Offer::parse(text).unwrap(), &local(), None).map(|answer| answer.tracks.len());
    assert_eq!(publish(&CHROME.replace("a=rtcp-mux\r\n", "")), Err(Error::NoMedia));
    let strange =
        CHROME.replace("opus/", "speex/").replace("H264/", "X264/").replace("VP8/", "VP7/").replace("AV1/", "AV9/");
    assert_eq!(publish(&strange), Err(Error::NoCodec));
    assert_eq!(publish(&CHROME.replace("opus/", "speex/")), Ok(1), "the picture alone");
}

#[test]
fn oddities_are_left_out() {
    let odd = CHROME
        .replace("a=extmap:3 ", "a=extmap:300 ")
        .replace("a=extmap:13 ", "a=extmap:15 ")
        .replace("a=extmap:1 ", "a=extmap:0 ")
        .replace("SAVPF 96 97 103", "SAVPF 96 96 300 -1 x 72 97 103")
        .replace("a=mid:2", "a=mid:\u{1}\u{2}");
    let answer = Answer::publish(&Offer::parse(&odd).unwrap(), &local(), None).unwrap();
    assert!(answer.tracks.iter().all(|track| track.extensions.iter().all(|(id, _)| *id == 4)));
    reads(&answer.sdp);
    for changed in ["\r\na=mid:1", "\r\na=rtpmap:109 H264/90000", "\r\na=setup:actpass"] {
        reads(&Answer::publish(&Offer::parse(&CHROME.replacen(changed, "", 9)).unwrap(), &local(), None).unwrap().sdp);
    }
}

#[test]
fn fuzz_offers() {
    let lines: Vec<&str> = CHROME.split_inclusive("\r\n").collect();
    bolero::check!().with_test_time(core::time::Duration::from_secs(2)).for_each(|bytes: &[u8]| {
        let mut text: Vec<u8> = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            match bytes.get(i).copied().unwrap_or(255) {
                0..=15 => {}
                16..=31 => text.extend([line.as_bytes(), line.as_bytes()].concat()),
                32..=47 => text.extend(bytes.get(..20).unwrap_or_default()),
                byte @ 48..=63 => text.extend(line.bytes().map(|b| if b == b'9' { byte } else { b })),
                _ => text.extend(line.bytes()),
            }
        }
        for text in [&text, bytes] {
            if let Ok(offer) = Offer::parse(&String::from_utf8_lossy(text)) {
                for answer in [Answer::publish(&offer, &local(), None), Answer::play(&offer, &local(), SOURCES, &[])]
                    .into_iter()
                    .flatten()
                {
                    reads(&answer.sdp);
                }
            }
        }
    });
}
