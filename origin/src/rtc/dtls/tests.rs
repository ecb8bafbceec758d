use std::collections::VecDeque;

use super::*;

/// Both ends, and what is on its way between them.
struct Pair {
    identity: Identity,
    now: Instant,
    client: Dtls,
    server: Dtls,
}

#[derive(Default)]
struct Done {
    client: Option<(srtp::Protect, srtp::Unprotect, Vec<u8>)>,
    server: Option<(srtp::Protect, srtp::Unprotect, Vec<u8>)>,
}

impl Done {
    fn note(to: &mut Option<(srtp::Protect, srtp::Unprotect, Vec<u8>)>, events: Vec<Event>) {
        for event in events {
            if let Event::Established { keys, certificate } = event {
                let (protect, unprotect) = *keys;
                *to = Some((protect, unprotect, certificate));
            }
        }
    }
}

impl Pair {
    fn new() -> Self {
        let (identity, now) = (Identity::new().unwrap(), Instant::now());
        let client = Dtls::client(&identity, now).unwrap();
        Self { identity, now, client, server: Dtls::server() }
    }

    /// Lets them talk until both are done; `lost` says which datagrams are.
    fn run(&mut self, mut lost: impl FnMut(usize) -> bool) -> Done {
        let mut done = Done::default();
        let mut count = 0;
        for _ in 0..200 {
            let mut idle = true;
            while let Some(datagram) = self.client.poll() {
                (idle, count) = (false, count + 1);
                if !lost(count) {
                    Done::note(&mut done.server, self.server.handle(&self.identity, self.now, &datagram).unwrap());
                }
            }
            while let Some(datagram) = self.server.poll() {
                (idle, count) = (false, count + 1);
                if !lost(count) {
                    Done::note(&mut done.client, self.client.handle(&self.identity, self.now, &datagram).unwrap());
                }
            }
            if done.client.is_some() && done.server.is_some() {
                return done;
            }
            if idle {
                self.now += FLIGHT_MAX;
                self.client.timeout(self.now);
                self.server.timeout(self.now);
            }
        }
        panic!("no handshake");
    }
}

#[test]
fn both_ends_agree_on_keys_and_see_each_others_certificate() {
    let mut pair = Pair::new();
    let done = pair.run(|_| false);
    let (client, mut server) = (done.client.unwrap(), done.server.unwrap());
    let header = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut sealed = Vec::new();
    client.0.rtp(1, &header, b"media", &mut sealed).unwrap();
    assert_eq!(sealed.len(), 12 + 5 + 16, "AES-GCM, though it may be the client's second choice");
    let parsed = weir_wire::rtp::Header::parse(&sealed).unwrap();
    let (length, _) = server.1.rtp(&parsed, &mut sealed).unwrap();
    assert_eq!(&sealed[12..length], b"media");
    for certificate in [client.2, server.2] {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
        assert_eq!(digest.as_ref(), pair.identity.fingerprint());
    }
}

#[test]
fn lost_datagrams_are_sent_again() {
    for seed in 1..200u32 {
        let mut state = seed.wrapping_mul(0x9e37_79b9);
        let mut pair = Pair::new();
        // A fifth of them, others each time.
        pair.run(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % 5 == 0
        });
    }
}

#[test]
fn what_is_left_of_a_connection_can_still_end_it() {
    for settled in [[true, true], [true, false], [false, true]] {
        for server_ends in [true, false] {
            let mut pair = Pair::new();
            pair.run(|_| false);
            let Pair { identity, now, mut client, mut server } = pair;
            [&mut client, &mut server]
                .into_iter()
                .zip(settled)
                .filter(|(_, done)| *done)
                .for_each(|(end, _)| end.settle());
            let (from, to) = if server_ends { (&mut server, &mut client) } else { (&mut client, &mut server) };
            let forged = [&[21, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 26][..], &[7; 26]].concat();
            for nonsense in [&forged[..], &[21; 5], &[22; 60], &[23, 0xfe, 0xfd], &[]] {
                let events = to.handle(&identity, now, nonsense).unwrap_or_default();
                assert!(events.is_empty(), "{nonsense:?}");
            }
            while from.poll().is_some() || to.poll().is_some() {}
            let now = now + REPEAT;
            from.close(&identity, now);
            let last = from.poll().expect("a close_notify");
            let events = to.handle(&identity, now, &last).unwrap();
            assert!(matches!(events[..], [Event::Closed]), "{settled:?} {server_ends}");
        }
    }
}

/// A ClientHello as it stands in a datagram, cut into fragments of `size` bytes.
fn cut(datagram: &[u8], size: usize) -> Vec<Vec<u8>> {
    let body = &datagram[13 + 12..];
    let three = |n: usize| n.to_be_bytes()[5..].to_vec();
    let pieces = body.chunks(size).enumerate().map(|(i, piece)| {
        let mut record = datagram[..11].to_vec();
        record[10] = u8::try_from(i).unwrap();
        record.extend(u16::try_from(12 + piece.len()).unwrap().to_be_bytes());
        record.extend(&datagram[13..13 + 6]);
        record.extend(three(i * size));
        record.extend(three(piece.len()));
        record.extend(piece);
        record
    });
    pieces.collect()
}

#[test]
fn a_hello_in_pieces_in_any_order_is_joined_before_the_profile_is_chosen() {
    let mut pair = Pair::new();
    let hello = pair.client.poll().unwrap();
    let mut pieces: VecDeque<_> = cut(&hello, 20).into();
    assert!(pieces.len() > 4);
    pieces.rotate_left(3);
    pieces.push_back(pieces[1].clone());
    let last = pieces.pop_front().unwrap();
    // Only now is it whole.
    for piece in pieces.iter().chain([&last]) {
        assert!(pair.server.poll().is_none());
        assert!(pair.server.handle(&pair.identity, pair.now, piece).unwrap().is_empty());
    }
    assert!(pair.server.poll().is_some(), "answered once it is whole");
    let mut joiner = Joiner::default();
    let whole: Vec<_> = pieces.iter().chain([&last]).flat_map(|piece| joiner.add(piece).unwrap().records).collect();
    assert_eq!(whole.len(), 1);
    assert!(records::is_hello(&whole[0]) && whole[0][13..] == hello[13..]);
    assert!(records::offers(&whole[0], Profile::AeadAes128Gcm) && records::offers(&whole[0], Profile::Aes128CmSha1));
    assert!(!records::offers(&whole[0], Profile::AeadAes256Gcm));
    assert!(joiner.add(&last).unwrap().repeated);
}

#[test]
fn what_no_client_sends_ends_the_session_and_nothing_else() {
    let hello = Pair::new().client.poll().unwrap().to_vec();
    let server = |packets: &[Vec<u8>]| {
        let (identity, mut server) = (Identity::new().unwrap(), Dtls::server());
        packets.iter().map(|packet| server.handle(&identity, Instant::now(), packet).map(|_| ())).collect::<Vec<_>>()
    };
    for end in 0..hello.len() {
        let result = server(&[hello[..end].to_vec()]);
        assert!(end == 0 || result[0].is_err(), "cut at {end}");
    }
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = hello.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        vec![changed]
    };
    // A fragment longer than its message, past its end, of a huge message; of another message; empty.
    for wrong in [with(22, &[0xff; 3]), with(19, &[0, 0, 1]), with(14, &[0xff; 3]), with(13, &[2])] {
        assert!(server(&wrong)[0].is_err());
    }
    let mut empty = hello[..25].to_vec();
    empty[11..13].copy_from_slice(&12u16.to_be_bytes());
    empty[22..25].copy_from_slice(&[0; 3]);
    assert!(server(&[empty])[0].is_err(), "an empty fragment");
    // Fragments that never finish.
    let piece = cut(&hello, 20).swap_remove(0);
    let results = server(&vec![piece; 2000]);
    assert!(results[0].is_ok() && results[1999].is_err(), "bounded by its bytes");
    let mut ahead = hello.clone();
    ahead[17..19].copy_from_slice(&9u16.to_be_bytes());
    assert!(server(&[ahead])[0].is_err());
}

#[test]
fn nothing_that_a_peer_sends_panics() {
    let identity = Identity::new().unwrap();
    let hello = Pair::new().client.poll().unwrap().to_vec();
    let mut seed = 0x9e37_79b9_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    for _ in 0..3000 {
        let mut server = Dtls::server();
        let mut changed = hello.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % changed.len();
            changed[at] = random().to_be_bytes()[0];
        }
        server.handle(&identity, Instant::now(), &changed).ok();
        while server.poll().is_some() {}
    }
}
