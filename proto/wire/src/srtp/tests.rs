use rtc::crypto::RTCCryptoProvider as _;
use rtc::crypto::providers::AwsLcRsProvider;
use rtc::srtp::context::Context;
use rtc::srtp::protection_profile::ProtectionProfile;

use super::*;
use crate::rtp::Header;

const PROFILES: [(Profile, ProtectionProfile); 3] = [
    (Profile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
    (Profile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
    (Profile::Aes128CmSha1, ProtectionProfile::Aes128CmHmacSha1_80),
];

fn material(profile: Profile) -> Vec<u8> {
    (0..profile.material_len()).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

/// The other implementation, of the client's direction or the server's.
fn other(profile: Profile, theirs: ProtectionProfile, client: bool) -> Context {
    let (key, salt, all) = (profile.key_len(), profile.salt_len(), material(profile));
    let (k, s) = if client { (0, 2 * key) } else { (key, 2 * key + salt) };
    Context::new(&all[k..k + key], &all[s..s + salt], theirs, None, None, AwsLcRsProvider::new().crypto()).unwrap()
}

fn packet(sequence: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x90, 96, 0, 0, 0, 0, 0, 9, 1, 2, 3, 4, 0xbe, 0xde, 0, 1, 0x10, 7, 0, 0];
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn rtcp(count: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 201, 0, 1, 1, 2, 3, 4];
    packet.extend([0x81, 206, 0, 2, 1, 2, 3, 4]);
    packet.extend(count.to_be_bytes());
    packet
}

#[test]
fn another_implementation_reads_what_is_protected() {
    for (profile, theirs) in PROFILES {
        let (mut protect, _) = session(profile, &material(profile), true).unwrap();
        let mut reader = other(profile, theirs, true);
        for index in 65_530u64..65_560 {
            #[expect(clippy::cast_possible_truncation, reason = "the sequence number")]
            let plain = packet(index as u16, b"some picture");
            let mut sealed = b"before".to_vec();
            protect.rtp(index, &plain[..20], &plain[20..], &mut sealed).unwrap();
            assert_eq!(sealed.len(), 6 + plain.len() + profile.tag_len());
            assert_eq!(reader.decrypt_rtp(&sealed[6..]).unwrap(), plain, "{profile:?}");
        }
        for count in 0..5 {
            let mut sealed = rtcp(count);
            protect.rtcp(&mut sealed).unwrap();
            assert_eq!(reader.decrypt_rtcp(&sealed).unwrap(), rtcp(count), "{profile:?}");
        }
    }
}

#[test]
fn what_another_implementation_protects_is_read() {
    for (profile, theirs) in PROFILES {
        let (_, mut unprotect) = session(profile, &material(profile), true).unwrap();
        let mut writer = other(profile, theirs, false);
        for index in 65_530u64..65_560 {
            #[expect(clippy::cast_possible_truncation, reason = "the sequence number")]
            let plain = packet(index as u16, b"some sound");
            let mut sealed = writer.encrypt_rtp(&plain).unwrap().to_vec();
            let header = Header::parse(&sealed).unwrap();
            let (length, unwrapped) = unprotect.rtp(&header, &mut sealed).unwrap();
            assert_eq!((&sealed[..length], unwrapped), (&plain[..], index), "{profile:?}");
        }
        for count in 0..5 {
            let mut sealed = writer.encrypt_rtcp(&rtcp(count)).unwrap().to_vec();
            let length = unprotect.rtcp(&mut sealed).unwrap();
            assert_eq!(sealed[..length], rtcp(count), "{profile:?}");
        }
    }
}

#[test]
fn forged_and_repeated_packets_are_dropped_and_the_session_goes_on() {
    for (profile, _) in PROFILES {
        let (mut protect, _) = session(profile, &material(profile), true).unwrap();
        let (_, mut unprotect) = session(profile, &material(profile), false).unwrap();
        let mut read = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            Header::parse(&bytes).map_err(|_| Error::Short).and_then(|header| unprotect.rtp(&header, &mut bytes))
        };
        let seal = |index: u64, payload: &[u8]| {
            #[expect(clippy::cast_possible_truncation, reason = "the sequence number")]
            let plain = packet(index as u16, payload);
            let mut sealed = Vec::new();
            protect.rtp(index, &plain[..20], &plain[20..], &mut sealed).unwrap();
            sealed
        };
        let first = seal(1, b"first");
        assert!(read(&first).is_ok());
        assert_eq!(read(&first), Err(Error::Replay));
        for at in 0..first.len() {
            let mut forged = seal(2, b"other");
            forged[at] ^= 0x40;
            assert!(read(&forged).is_err(), "{profile:?}: byte {at}");
        }
        for end in 0..first.len() {
            assert!(read(&seal(3, b"third")[..end]).is_err());
        }
        // Thousands of sources that are nobody's leave nothing behind.
        for ssrc in 0..5000u32 {
            let mut forged = seal(2, b"other");
            forged[8..12].copy_from_slice(&ssrc.to_be_bytes());
            assert_eq!(read(&forged), Err(Error::Forged));
        }
        assert!(read(&seal(2, b"other")).is_ok() && read(&seal(3, b"")).is_ok());

        let mut sealed = rtcp(1);
        protect.rtcp(&mut sealed).unwrap();
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 0x40;
            assert!(unprotect.rtcp(&mut forged).is_err(), "{profile:?}: byte {at}");
            assert!(unprotect.rtcp(&mut sealed[..at].to_vec()).is_err());
        }
        assert!(unprotect.rtcp(&mut sealed.clone()).is_ok());
        assert_eq!(unprotect.rtcp(&mut sealed), Err(Error::Replay));
    }
}

#[test]
fn keys_wear_out_and_material_is_checked() {
    assert_eq!(session(Profile::AeadAes128Gcm, &[0; 55], true).err(), Some(Error::Material));
    let (mut protect, _) = session(Profile::AeadAes128Gcm, &[0; 56], true).unwrap();
    let mut out = b"x".to_vec();
    assert_eq!(protect.rtp(1 << 48, &[0x80; 12], b"", &mut out), Err(Error::UsedUp));
    assert_eq!(protect.rtp(1, &[0x80; 4], b"", &mut out), Err(Error::Short));
    assert_eq!(out, b"x");
    protect.rtcp_index = 1 << 31;
    assert_eq!(protect.rtcp(&mut rtcp(1)), Err(Error::UsedUp));
}

#[test]
fn a_peer_has_few_sources() {
    let (protect, _) = session(Profile::AeadAes128Gcm, &[0; 56], true).unwrap();
    let (_, mut unprotect) = session(Profile::AeadAes128Gcm, &[0; 56], false).unwrap();
    let results: Vec<_> = (0..40u8)
        .map(|ssrc| {
            let (header, mut sealed) = ([0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, ssrc], Vec::new());
            protect.rtp(1, &header, b"x", &mut sealed).unwrap();
            unprotect.rtp(&Header::parse(&sealed).unwrap(), &mut sealed).map(|_| ())
        })
        .collect();
    assert!(results[..32].iter().all(Result::is_ok) && results[32..].iter().all(|r| *r == Err(Error::Sources)));
}

#[test]
fn each_sender_of_rtcp_counts_for_itself() {
    for (profile, theirs) in PROFILES {
        let (_, mut unprotect) = session(profile, &material(profile), true).unwrap();
        // One writer a sender, as libsrtp does: all of them begin with the same index.
        for sender in 0..3u8 {
            let mut writer = other(profile, theirs, false);
            for count in 0..3 {
                let mut plain = rtcp(count);
                plain[7] = sender;
                let mut sealed = writer.encrypt_rtcp(&plain).unwrap().to_vec();
                let again = sealed.clone();
                let length = unprotect.rtcp(&mut sealed).unwrap();
                assert_eq!(sealed[..length], plain, "{profile:?}");
                assert_eq!(unprotect.rtcp(&mut again.clone()), Err(Error::Replay));
            }
        }
    }
}
