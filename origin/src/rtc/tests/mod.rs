//! Sessions against clients that are built of the same parts, without a socket.

mod hostile;
mod peer;
mod simulcast;

use std::time::{Duration, Instant};

use weir_wire::rtp::rtcp::{self, Packet as Feedback};

use peer::World;

const SECOND: Duration = Duration::from_secs(1);

/// A single-unit H.264 payload: an IDR slice, or another.
fn h264(key: bool, number: u8) -> Vec<u8> {
    vec![if key { 0x65 } else { 0x41 }, 0x88, number]
}

#[test]
fn packets_of_a_publisher_reach_its_players_under_their_own_numbers() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    let mut players = [world.player("river"), world.player("river")];
    world.connect(&mut publisher);
    players.iter_mut().for_each(|player| world.connect(player));
    world.pass(SECOND / 100);
    assert!(world.take(&mut publisher).iter().any(|got| got.is_pli()), "a key frame is asked for");
    for number in 0..50 {
        publisher.video(&mut world, number % 25 == 0, &h264(number % 25 == 0, number));
        publisher.audio(&mut world, &[0xf8, number]);
        world.state.flush(world.now, &world.wire);
    }
    let got: Vec<_> = players.iter_mut().map(|player| world.take(player)).collect();
    let numbers: Vec<Vec<u16>> =
        got.iter().map(|got| got.iter().filter_map(|p| p.sequence_of(101)).collect()).collect();
    for (player, sequences) in got.iter().zip(&numbers) {
        let payloads: Vec<Vec<u8>> = player.iter().filter_map(|p| p.payload_of(101)).collect();
        assert_eq!(payloads, (0..50).map(|n| h264(n % 25 == 0, n)).collect::<Vec<_>>());
        assert!(sequences.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
        assert_eq!(player.iter().filter_map(|p| p.payload_of(111)).count(), 50);
    }
    assert_ne!(numbers[0][0], numbers[1][0], "numbers begin anywhere");
    assert!(world.take(&mut publisher).iter().all(|got| !got.is_pli()), "once is enough");
}

#[test]
fn a_newcomer_begins_with_the_newest_key_frame_and_is_not_behind() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    world.connect(&mut publisher);
    for number in 0..40u8 {
        publisher.video(&mut world, number == 20, &h264(number == 20, number));
        world.pass(SECOND / 25);
    }
    let mut late = world.player("river");
    world.connect(&mut late);
    world.pass(SECOND / 100);
    publisher.video(&mut world, false, &h264(false, 40));
    world.state.flush(world.now, &world.wire);
    let got = world.take(&mut late);
    let payloads: Vec<u8> = got.iter().filter_map(|p| p.payload_of(101)).map(|p| p[2]).collect();
    assert_eq!(payloads, (20..=40).collect::<Vec<_>>());
    let times: Vec<u32> = got.iter().filter_map(|p| p.timestamp_of(101)).collect();
    let steps: Vec<u32> = times.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps[..19].iter().all(|step| (1..=120).contains(step)), "drawn together: {steps:?}");
    assert_eq!(*steps.last().unwrap(), 3600, "and then as the publisher has them");
}

#[test]
fn what_a_player_lost_is_sent_again() {
    for rtx in [Some(102), None] {
        let mut world = World::new();
        let mut publisher = world.publisher("river");
        let mut player = world.player_with("river", rtx);
        world.connect(&mut publisher);
        world.connect(&mut player);
        for number in 0..20u8 {
            publisher.video(&mut world, number == 0, &h264(number == 0, number));
        }
        world.state.flush(world.now, &world.wire);
        let sealed: Vec<_> = world.wire.to(player.address).into_iter().filter(|p| p[1] & 0x7f == 101).collect();
        let lost: Vec<u16> = sealed[5..8].iter().map(|p| u16::from_be_bytes([p[2], p[3]])).collect();
        let mut nack = Vec::new();
        rtcp::nack(&mut nack, 1, player.video_ssrc, &lost);
        player.rtcp(&mut world, nack);
        if rtx.is_none() {
            let again = world.wire.to(player.address);
            assert_eq!(again, sealed[5..8], "the same bytes: a nonce is never used for others");
            continue;
        }
        let again = world.take(&mut player);
        let repaired: Vec<Vec<u8>> = again.iter().filter_map(|p| p.payload_of(102)).collect();
        let expected = lost.iter().zip(5u8..);
        let expected = expected.map(|(sequence, n)| [&sequence.to_be_bytes()[..], &h264(false, n)].concat());
        assert_eq!(repaired, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_player_that_loses_everything_is_repaired_within_bounds() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    let mut player = world.player("river");
    world.connect(&mut publisher);
    world.connect(&mut player);
    for number in 0..100u8 {
        publisher.video(&mut world, number == 0, &h264(number == 0, number));
    }
    world.state.flush(world.now, &world.wire);
    let all: Vec<u16> = world.take(&mut player).iter().filter_map(|p| p.sequence_of(101)).collect();
    let mut repaired = 0;
    for _ in 0..200 {
        let mut nack = Vec::new();
        rtcp::nack(&mut nack, 1, player.video_ssrc, &all);
        player.rtcp(&mut world, nack);
        repaired += world.take(&mut player).iter().filter_map(|p| p.payload_of(102)).count();
        world.pass(SECOND / 200);
    }
    assert!((1500..=2100).contains(&repaired), "{repaired} of 20000 asked for in a second");
}

#[test]
fn a_publisher_is_asked_for_what_is_missing_and_told_how_it_arrives() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    world.connect(&mut publisher);
    for number in 0..30u8 {
        match number {
            10 | 11 => publisher.skip_video(),
            _ => publisher.video(&mut world, number == 0, &h264(number == 0, number)),
        }
        world.pass(Duration::from_millis(20));
    }
    let got = world.take(&mut publisher);
    let asked: Vec<u16> = got.iter().flat_map(|p| p.nacked()).collect();
    let first = publisher.first_video_sequence();
    assert!(asked.contains(&(first.wrapping_add(10))) && asked.contains(&(first.wrapping_add(11))), "{asked:?}");
    assert!(asked.iter().all(|s| [first.wrapping_add(10), first.wrapping_add(11)].contains(s)), "{asked:?}");
    for _ in 0..12 {
        world.pass(SECOND / 10);
    }
    let reports = world.take(&mut publisher);
    assert!(reports.iter().any(|p| p.reports(publisher.video_ssrc)), "a receiver report");
}

#[test]
fn a_session_ends_by_goodbye_by_silence_and_by_the_publisher_that_takes_over() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    world.connect(&mut publisher);
    let mut bye = Vec::new();
    rtcp::bye(&mut bye, &[publisher.video_ssrc]);
    publisher.rtcp(&mut world, bye);
    assert_eq!((world.state.sessions.len(), world.state.streams.len()), (0, 0));
    assert!(world.take(&mut publisher).iter().any(|got| got.is_bye()));

    let mut silent = world.player("river");
    world.connect(&mut silent);
    for _ in 0..31 {
        world.pass(SECOND);
    }
    assert_eq!((world.state.sessions.len(), world.state.streams.len()), (0, 0));
    let _never = world.player("river");
    for _ in 0..31 {
        world.pass(SECOND);
    }
    assert_eq!(world.state.sessions.len(), 0, "one that never came");
    assert_eq!(world.state.deadline(), None);
}

#[test]
fn sound_and_picture_are_told_against_one_clock() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    let mut player = world.player("river");
    world.connect(&mut publisher);
    world.connect(&mut player);
    let ntp = 0xdead_beef_0000_0000;
    publisher.sender_reports(&mut world, ntp);
    for number in 0..60u8 {
        publisher.video(&mut world, number == 0, &h264(number == 0, number));
        publisher.audio(&mut world, &[0xf8, number]);
        world.pass(SECOND / 25);
    }
    let got = world.take(&mut player);
    let reports: Vec<_> = got.iter().flat_map(|p| p.sender_reports()).collect();
    let (video, audio): (Vec<_>, Vec<_>) = reports.into_iter().partition(|(ssrc, _)| *ssrc == player.video_ssrc);
    assert!(video.len() >= 2 && audio.len() >= 2);
    let lag = |(_, info): &(u32, rtcp::SenderInfo)| (info.ntp - ntp) >> 32;
    assert!(lag(&video[0]) <= 1 && lag(&video[1]) - lag(&video[0]) <= 1);
    let ticks = video[1].1.rtp.wrapping_sub(video[0].1.rtp);
    assert!((89_000..=91_000).contains(&ticks), "a second of video: {ticks}");
}

/// The network may bring a packet of the source before behind the first of its successor.
#[test]
fn a_source_that_changes_takes_over_once() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    let mut player = world.player("river");
    world.connect(&mut publisher);
    world.connect(&mut player);
    for number in 0..10 {
        publisher.video(&mut world, number == 0, &h264(number == 0, number));
        world.pass(SECOND / 25);
    }
    let late = publisher.sealed_video(&h264(false, 99));
    publisher.begin_again(44);
    let mut got = Vec::new();
    world.take(&mut publisher);
    world.take(&mut player);
    let mut plis = 0;
    for number in 10..30u8 {
        publisher.video(&mut world, number == 10, &h264(number == 10, number));
        if number == 15 {
            world.datagram(publisher.address, &late);
        }
        world.pass(SECOND / 25);
        got.extend(world.take(&mut player).iter().filter_map(|p| p.payload_of(101)).map(|p| p[2]));
        plis += world.take(&mut publisher).iter().filter(|got| got.is_pli()).count();
    }
    assert_eq!((got, plis), ((10..30).collect::<Vec<u8>>(), 0));
}

/// What probes the bandwidth on a repair stream has no payload (RFC 4588 4), and is told of like all else.
#[test]
fn probes_are_no_strays() {
    let mut world = World::new();
    let mut publisher = world.publisher("river");
    world.connect(&mut publisher);
    publisher.video(&mut world, true, &h264(true, 0));
    let before = world.state.counts.strays;
    let probe = publisher.sealed_kind(107, &[]);
    world.datagram(publisher.address, &probe);
    assert_eq!(world.state.counts.strays, before);
}

/// It is asked when it is there; until then, nothing is due.
#[test]
fn a_publisher_under_way_whose_players_wait_keeps_nobody_busy() {
    let mut world = World::new();
    let publisher = world.publisher("river");
    let mut player = world.player("river");
    world.connect(&mut player);
    world.state.flush(world.now, &world.wire);
    publisher.check(&mut world, peer::PASSWORD);
    for _ in 0..8 {
        world.now += SECOND / 4;
        let due = world.state.deadline();
        assert!(due.is_none_or(|due| due > world.now - SECOND / 4), "something was due that nobody did");
        world.pass(SECOND / 100);
    }
    assert_eq!(world.state.sessions.len(), 2);
}

#[test]
fn feedback_of_no_session_does_nothing() {
    assert!(rtcp::parse(&[0x81, 206, 0, 2, 0, 0]).next().is_none());
    assert!(matches!(
        rtcp::parse(&[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2]).next(),
        Some(Feedback::Pli { media: 2, .. })
    ));
    let _ = Instant::now();
}
