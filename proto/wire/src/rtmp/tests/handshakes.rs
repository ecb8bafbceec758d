use super::support::{CHUNK, drain, start};
use crate::rtmp::handshake::{Schema, client_finish, client_hello};
use crate::rtmp::server::{Event, Server};
use crate::rtmp::{Error, Limits};

fn hello(schema: Option<Schema>) -> (Vec<u8>, [u8; 32]) {
    let mut bytes = Vec::new();
    let digest = client_hello(&[5; 32], schema, &mut bytes);
    (bytes, digest)
}

fn answer(limits: Limits, hello: &[u8]) -> Result<Vec<u8>, Error> {
    let mut server = Server::new(start(), limits, [7; 32], CHUNK);
    for byte in hello {
        server.handle(start(), &[*byte])?;
    }
    Ok(drain(&mut server).0)
}

#[test]
fn a_plain_client_gets_its_bytes_back() {
    let (mut c, _) = hello(None);
    c[1..5].copy_from_slice(&[1, 2, 3, 4]);
    let s = answer(Limits::default(), &c).unwrap();
    assert_eq!(s.len(), 3073);
    assert_eq!(s[..9], [3, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(s[1537..], c[1..]);
    // The filler depends on the seed alone, and is no pattern.
    assert!(s[9..1537].windows(32).all(|window| window.iter().any(|byte| *byte != window[0])));
}

#[test]
fn a_digest_client_gets_proof_in_its_own_layout() {
    for schema in [Schema::KeyFirst, Schema::DigestFirst] {
        let (c, digest) = hello(Some(schema));
        let mut s: [u8; 3073] = answer(Limits::default(), &c).unwrap().try_into().unwrap();
        let mut c2 = Vec::new();
        client_finish(&[5; 32], Some(schema), &digest, &s, &mut c2).unwrap();
        assert_eq!(c2.len(), 1536);
        assert_ne!(s[1537..], c[1..]);
        s[3000] ^= 1;
        let finish = client_finish(&[5; 32], Some(schema), &digest, &s, &mut c2);
        assert_eq!(finish, Err(Error::Digest), "a proof for other bytes");
    }
}

#[test]
fn a_wrong_digest_falls_back_to_plain() {
    let (mut c, _) = hello(Some(Schema::KeyFirst));
    c[1500] ^= 1;
    let s = answer(Limits::default(), &c).unwrap();
    assert_eq!(s[5..9], [0; 4]);
    assert_eq!(s[1537..], c[1..]);
}

#[test]
fn other_versions_are_refused_at_their_first_byte() {
    for version in [0, 1, 2, 4, 6, 8, 31, 32, b'G', 0x16, 0xf3, 255] {
        assert_eq!(answer(Limits::default(), &[version]), Err(Error::Version(version)));
    }
}

#[test]
fn a_proxy_is_believed_only_where_it_is_trusted() {
    let prefix = [0xf3, 0, 4, 192, 0, 2, 7];
    let connect = super::support::command("connect", 1.0, &[super::support::connect_object("live", "rtmp://h/live")]);
    let bytes = [&prefix[..], &hello(None).0, &[0; 1536], &super::support::message(20, 0, &connect)].concat();
    assert_eq!(answer(Limits::default(), &bytes), Err(Error::Version(0xf3)));

    let limits = Limits { proxy_prefix: true, ..Limits::default() };
    for step in [1, 2, 7, 5000] {
        let mut server = Server::new(start(), limits.clone(), [7; 32], CHUNK);
        for piece in bytes.chunks(step) {
            server.handle(start(), piece).unwrap();
        }
        let (_, events) = drain(&mut server);
        let [Event::Connect(connect)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(connect.client.unwrap().octets(), [192, 0, 2, 7]);
    }
    for bad in [[0xf3, 0, 3], [0xf3, 0, 65], [0xf3, 255, 255]] {
        assert_eq!(answer(limits.clone(), &bad), Err(Error::ProxyPrefix));
    }
    assert_eq!(answer(limits, &[0xf3, 0, 4, 1, 2, 3, 4, 6]), Err(Error::Version(6)));
}

/// Digests made with another implementation of HMAC, at positions worked out by hand: 4 x 255 modulo 728 is 292.
#[test]
fn digests_are_where_and_what_others_say() {
    for (block, at, digest) in [
        (772, 1068, "c830ee061a3f88390f5ef3fb11813e8923f529c96eeb0a3e0049bc9f66ab44e0"),
        (8, 304, "a92f43cbd526b24b8d6eb2fd5bf14198f73fe4d29f845dd6577859726cc284b4"),
    ] {
        let mut c: Vec<u8> = [3].into_iter().chain((0..1536u32).map(|index| (index * 7 + 3) as u8)).collect();
        c[1..9].copy_from_slice(&[0, 0, 0, 0, 9, 0, 124, 2]);
        c[1 + block..5 + block].fill(255);
        for (index, pair) in digest.as_bytes().chunks(2).enumerate() {
            c[1 + at + index] = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        }
        let s = answer(Limits::default(), &c).unwrap();
        assert_eq!(s[5..9], [4, 5, 0, 1], "the answer has a digest too");
        c[1] ^= 1;
        assert_eq!(answer(Limits::default(), &c).unwrap()[5..9], [0; 4]);
    }
}
