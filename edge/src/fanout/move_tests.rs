//! Players that go on in another process.

use super::tests::*;
use super::*;

/// Another process's fan-out of the same stream, which knows the newest group only.
fn elsewhere(rig: &Rig) -> Rig {
    let fan = FanOut::new(Format::Flv, &rig.gop);
    Rig { gop: rig.gop.clone(), fan, seq: rig.seq }
}

async fn moves(from: &mut Rig, to: &mut Rig, key: usize) -> (usize, Rc<Handle>) {
    let socket = from.fan.players[key].socket().clone();
    let moving = from.fan.depart(key).unwrap();
    let handle = Rc::new(Handle::default());
    handle.set_live(true);
    (to.fan.arrive(socket, handle.clone(), moving, true).0, handle)
}

#[test]
fn a_player_between_messages_misses_nothing_and_sees_nothing_twice() {
    on_runtime(async {
        let mut here = Rig::new();
        let config = here.config();
        let key_frame = here.key(0, 50);
        let (key, _, mut peer) = here.player(start(b"HEAD")).await;
        let seen = here.inter(40, 50);
        here.walk(PATIENCE);
        // Two frames that it does not get here any more; of the second the other process hears only later.
        let unseen = here.inter(80, 50);
        let mut there = elsewhere(&here);
        let (_, handle) = moves(&mut here, &mut there, key).await;
        assert!(handle.started());
        let later = there.inter(120, 50);
        there.walk(PATIENCE);
        assert_eq!(peer.read(), [b"HEAD".to_vec(), tags(&[&config, &key_frame, &seen, &unseen, &later])].concat());
    });
}

#[test]
fn a_player_ahead_of_the_other_process_waits_for_what_it_has_not_seen() {
    on_runtime(async {
        let mut here = Rig::new();
        here.config();
        here.key(0, 50);
        let mut there = elsewhere(&here);
        let (key, _, mut peer) = here.player(start(b"")).await;
        here.inter(40, 50);
        here.walk(PATIENCE);
        peer.read();
        moves(&mut here, &mut there, key).await;
        there.inter(40, 50);
        there.walk(PATIENCE);
        assert_eq!(peer.read(), b"", "seen there already");
        let next = there.inter(80, 50);
        there.walk(PATIENCE);
        assert_eq!(peer.read(), tags(&[&next]));
    });
}

#[test]
fn a_player_a_little_behind_takes_along_what_the_other_process_does_not_know() {
    on_runtime(async {
        let mut here = Rig::new();
        here.config();
        here.key(0, 50);
        let (key, _, mut peer) = here.player(start(b"")).await;
        peer.read();
        let missed = [here.inter(40, 50), here.inter(80, 50), here.key(2000, 50)];
        let mut there = elsewhere(&here);
        moves(&mut here, &mut there, key).await;
        assert_eq!(peer.read(), tags(&missed.each_ref()));
        let next = there.inter(2040, 50);
        there.walk(PATIENCE);
        assert_eq!(peer.read(), tags(&[&next]));
    });
}

#[test]
fn a_player_far_behind_goes_on_at_the_group_s_keyframe() {
    on_runtime(async {
        let mut here = Rig::new();
        let config = here.config();
        here.key(0, 50);
        let (key, _, mut peer) = here.player(start(b"")).await;
        here.inter(40, 200_000);
        here.inter(80, 200_000);
        let newest = here.key(2000, 50);
        peer.read();
        let mut there = elsewhere(&here);
        moves(&mut here, &mut there, key).await;
        assert_eq!(peer.read(), tags(&[&at(&config, 2000), &newest]));
    });
}

#[test]
fn the_rest_of_a_half_sent_message_travels_along() {
    on_runtime(async {
        let mut here = Rig::new();
        let (key, _, mut peer, long) = stuck(&mut here).await;
        let next = here.inter(40, 50);
        let mut there = elsewhere(&here);
        here.fan.control(key, b"ANSWER");
        let socket = here.fan.players[key].socket().clone();
        let (key, handle) = moves(&mut here, &mut there, key).await;
        let config = here.gop.configs().iter().next().unwrap().clone();
        // Whatever is its own waits for a boundary at which nothing else is left.
        let wanted = [tags(&[&config, &long, &next]), b"ANSWER".to_vec()].concat();
        let mut seen = Vec::new();
        while seen.len() < wanted.len() {
            seen.extend(peer.read());
            socket.writable().await.unwrap();
            there.fan.writable(key, &socket, PATIENCE);
            assert_eq!(handle.closed(), None);
        }
        assert!(seen == wanted, "{} bytes of {}", seen.len(), wanted.len());
        assert_eq!(handle.sent(), wanted.len() as u64, "those of the other process counted");
    });
}

#[test]
fn a_paused_player_stays_paused_and_goes_on_where_it_was() {
    on_runtime(async {
        let mut here = Rig::new();
        here.config();
        here.key(0, 50);
        let (key, _, mut peer) = here.player(start(b"")).await;
        peer.read();
        here.fan.pause(key, true);
        let missed = here.inter(40, 50);
        let mut there = elsewhere(&here);
        let (key, handle) = moves(&mut here, &mut there, key).await;
        assert!(handle.stopped());
        there.inter(80, 50);
        there.walk(PATIENCE);
        assert_eq!(peer.read(), b"");
        // And once more, as it is.
        let mut far = elsewhere(&there);
        let (key, _) = moves(&mut there, &mut far, key).await;
        let last = far.inter(120, 50);
        far.fan.pause(key, false);
        let bytes = peer.read();
        assert!(bytes.starts_with(&tags(&[&missed])) && bytes.ends_with(&tags(&[&last])));
    });
}

#[test]
fn a_player_that_waits_for_its_first_media_waits_on() {
    on_runtime(async {
        let mut here = Rig::new();
        let (key, _, mut peer) = here.player(start(b"HEAD")).await;
        let mut there = elsewhere(&here);
        let (_, handle) = moves(&mut here, &mut there, key).await;
        assert!(!handle.started());
        let (config, key_frame) = (there.config(), there.key(0, 50));
        there.walk(PATIENCE);
        assert_eq!(peer.read(), [b"HEAD".to_vec(), tags(&[&config, &key_frame])].concat());
        assert!(handle.started());
    });
}
