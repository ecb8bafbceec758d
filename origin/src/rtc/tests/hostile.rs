//! What no honest peer sends: nothing of it may end a session, be answered with more, or reach a player.

use std::net::SocketAddr;

use super::super::dtls::{Dtls, Identity};
use super::peer::{Client, PASSWORD, World};
use super::{SECOND, h264};

/// A publisher and a player that are connected, and a stranger.
fn scene() -> (World, Client, Client, SocketAddr) {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    let mut player = world.player("river");
    world.connect(&mut publisher);
    world.connect(&mut player);
    world.take(&mut publisher);
    world.take(&mut player);
    (world, publisher, player, ([198, 51, 100, 9], 9).into())
}

/// Media still flows.
fn assert_flows(world: &mut World, publisher: &mut Client, player: &mut Client) {
    for number in 0..5 {
        publisher.video(world, number == 0, &h264(number == 0, number));
    }
    world.state.flush(world.now, &world.wire);
    let got = world.take(player);
    assert_eq!(got.iter().filter_map(|p| p.payload_of(101)).count(), 5);
    assert_eq!(world.state.sessions.len(), 2);
}

#[test]
fn nobody_is_answered_who_does_not_know_the_password() {
    let (mut world, mut publisher, mut player, stranger) = scene();
    let check = publisher.check_bytes("guessed");
    world.datagram(stranger, &check);
    let mut known = publisher.check_bytes(PASSWORD);
    for end in 0..known.len() {
        world.datagram(stranger, &known[..end]);
    }
    for at in [2, 3, 6, 21, 22, 23, 40] {
        let mut odd = known.clone();
        odd[at] ^= 0xff;
        world.datagram(stranger, &odd);
    }
    known.truncate(20);
    known[2..4].copy_from_slice(&[0xff, 0xfc]);
    world.datagram(stranger, &known);
    assert_eq!(world.wire.bytes(), 0);
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn dtls_and_media_are_taken_from_verified_addresses_only() {
    let (mut world, mut publisher, mut player, stranger) = scene();
    let mut hello = Dtls::client(&Identity::new().unwrap(), world.now).unwrap();
    let hello = hello.poll().unwrap();
    world.datagram(stranger, &hello);
    let sealed = publisher.sealed_video(&h264(true, 1));
    world.datagram(stranger, &sealed);
    assert_eq!(world.wire.bytes(), 0);
    // From the address itself a hello starts no second handshake.
    world.datagram(publisher.address, &hello);
    world.wire.to(publisher.address);
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn an_address_of_another_is_not_taken_away() {
    let (mut world, mut publisher, mut player, _) = scene();
    let check = player.check_bytes(PASSWORD);
    world.datagram(publisher.address, &check);
    assert!(world.wire.to(publisher.address).is_empty());
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn an_address_that_changes_is_followed_once_it_is_verified() {
    let (mut world, mut publisher, mut player, moved) = scene();
    let old = std::mem::replace(&mut player.address, moved);
    publisher.video(&mut world, true, &h264(true, 0));
    world.state.flush(world.now, &world.wire);
    assert!(world.wire.to(moved).is_empty() && !world.wire.to(old).is_empty());
    player.check(&mut world, PASSWORD);
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn forged_packets_by_the_thousand() {
    let (mut world, mut publisher, mut player, _) = scene();
    let sealed = publisher.sealed_video(&h264(true, 1));
    for round in 0..5000usize {
        let mut forged = sealed.clone();
        let at = 12 + round % (forged.len() - 12);
        forged[at] ^= 1 << (round % 8);
        // Of the source itself, and of sources that are nobody's.
        if round % 2 == 0 {
            forged[8..12].copy_from_slice(&round.to_be_bytes()[4..]);
        }
        world.datagram(publisher.address, &forged);
        let mut feedback = vec![0x81, 206, 0, 2];
        feedback.extend(round.to_be_bytes());
        feedback.extend([7; 30]);
        world.datagram(player.address, &feedback);
    }
    world.datagram(publisher.address, &sealed);
    world.datagram(publisher.address, &sealed);
    world.state.flush(world.now, &world.wire);
    assert_eq!(world.take(&mut player).iter().filter_map(|p| p.payload_of(101)).count(), 1, "and no replay");
    assert_flows(&mut world, &mut publisher, &mut player);
    assert!(world.state.counts.forged >= 9999);
}

#[test]
fn odd_packets_with_a_good_tag() {
    let (mut world, mut publisher, mut player, _) = scene();
    for payload in [&[][..], &[0x7c], &[0x7c, 0x85], &[0x18, 0xff], &[0x18, 0, 0], &[0xff; 1500]] {
        let sealed = publisher.sealed_video(payload);
        world.datagram(publisher.address, &sealed);
    }
    // Padding that counts more than there is, nothing, and all; an extension past the end; fifteen sources.
    for (first, end) in [(0xa0, 255), (0xa0, 0), (0xa0, 2), (0x90, 0), (0x8f, 0)] {
        let sealed = publisher.sealed_with(first, &[1, end]);
        world.datagram(publisher.address, &sealed);
    }
    // Kinds that were not negotiated.
    let sealed = publisher.sealed_kind(77, b"what is this");
    world.datagram(publisher.address, &sealed);
    let sealed = publisher.sealed_kind(107, b"x");
    world.datagram(publisher.address, &sealed);
    world.state.flush(world.now, &world.wire);
    world.take(&mut player);
    for compound in
        [&[0x81, 206, 0, 2, 0, 0, 0, 1][..], &[0x9f, 200, 0, 1, 0, 0, 0, 1], &[0xa1, 206, 0, 1, 0, 0, 0, 255]]
    {
        player.rtcp(&mut world, compound.to_vec());
        publisher.rtcp(&mut world, compound.to_vec());
    }
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn random_bytes_of_every_kind() {
    let (mut world, mut publisher, mut player, stranger) = scene();
    let mut seed = 0x2545_f491_u32;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        seed
    };
    let (a, b) = (publisher.address, player.address);
    for round in 0..20_000 {
        let length = random() as usize % 80;
        let mut bytes: Vec<u8> = (0..length).map(|_| random().to_be_bytes()[0]).collect();
        if let Some(first) = bytes.first_mut() {
            *first = [0, 1, 20, 22, 23, 63, 128, 129, 144, 191, 64, 255][random() as usize % 12];
        }
        world.datagram([a, b, stranger][round % 3], &bytes);
    }
    assert!(world.wire.to(stranger).is_empty());
    world.wire.to(a);
    world.wire.to(b);
    assert_flows(&mut world, &mut publisher, &mut player);
}

#[test]
fn a_certificate_that_was_not_announced_ends_the_session() {
    let mut world = World::new();
    let player = world.player("river");
    player.check(&mut world, PASSWORD);
    let other = Identity::new().unwrap();
    let mut dtls = Dtls::client(&other, world.now).unwrap();
    for _ in 0..10 {
        while let Some(datagram) = dtls.poll() {
            world.datagram(player.address, &datagram);
        }
        for datagram in world.wire.to(player.address) {
            if (20..64).contains(&datagram[0]) {
                dtls.handle(&other, world.now, &datagram).ok();
            }
        }
    }
    assert_eq!((world.state.sessions.len(), world.state.counts.failed), (0, 1));
}

#[test]
fn handshakes_that_never_finish_end_with_their_session_alone() {
    let (mut world, mut publisher, mut player, _) = scene();
    let slow = world.player("river");
    slow.check(&mut world, PASSWORD);
    let mut hello = Dtls::client(&Identity::new().unwrap(), world.now).unwrap();
    let hello = hello.poll().unwrap();
    // The first of several fragments, again and again.
    let mut piece = hello[..13 + 12 + 20].to_vec();
    piece[11..13].copy_from_slice(&32u16.to_be_bytes());
    piece[22..25].copy_from_slice(&[0, 0, 20]);
    for _ in 0..2000 {
        world.datagram(slow.address, &piece);
    }
    world.wire.to(slow.address);
    assert_flows(&mut world, &mut publisher, &mut player);
    for _ in 0..3 {
        world.pass(SECOND);
    }
    assert_flows(&mut world, &mut publisher, &mut player);
}
