//! Anything at all, and anything that looks like a session.
use core::time::Duration;

use proptest::prelude::*;

use super::support::{CHUNK, Peer, command, connect_object, drain, message, start};
use crate::amf::Value;
use crate::rtmp::server::{Event, Server};
use crate::rtmp::{Error, Limits, PlayRefusal, PublishRefusal};

const TIME: Duration = Duration::from_secs(2);

/// Answers whatever is asked, one way or the other.
fn answer(server: &mut Server, accept: bool) -> Result<(), Error> {
    if accept {
        server.accept_connect()?;
        server.accept_publish()?;
        server.accept_play()
    } else {
        server.reject_publish(PublishRefusal::Denied, "no")?;
        server.reject_play(PlayRefusal::Failed, "no")?;
        server.reject_connect("no");
        Ok(())
    }
}

/// Feeds a server and answers it; what it sent, said and failed with.
fn run(mut server: Server, pieces: &[&[u8]], accept: bool) -> (Vec<u8>, Vec<Event>, Option<Error>) {
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut handled = server.handle(start(), piece);
        loop {
            let (more, later) = drain(&mut server);
            bytes.extend(more);
            events.extend(later);
            if handled.is_err() || !server.awaits_answer() {
                break;
            }
            handled = answer(&mut server, accept);
        }
        if let Err(error) = handled {
            return (bytes, events, Some(error));
        }
    }
    (bytes, events, None)
}

fn fresh() -> Server {
    Server::new(start(), Limits { proxy_prefix: true, ..Limits::default() }, [1; 32], CHUNK)
}

#[test]
fn the_handshake_and_what_follows_survive_anything() {
    bolero::check!().with_test_time(TIME).for_each(|input: &[u8]| {
        run(fresh(), &[input], true);
        let hello = [&[3][..], &[0; 3072], input].concat();
        run(fresh(), &[&hello], true);
    });
}

#[test]
fn sessions_survive_anything() {
    bolero::check!().with_test_time(TIME).for_each(|input: &[u8]| {
        let (&choice, rest) = input.split_first().unwrap_or((&0, &[]));
        let peer = match choice % 4 {
            0 => Peer::new(Limits::default()),
            1 => Peer::connected(Limits::default()),
            2 => Peer::publisher(Limits::default()),
            _ => Peer::player(),
        };
        let accept = choice & 4 != 0;
        // Raw chunks, then the same bytes as the body of a message of their own choosing.
        run(peer.server.clone(), &[rest], accept);
        let type_id = rest.first().map_or(20, |byte| byte % 24);
        run(peer.server, &[&message(type_id, 0, rest)], accept);
    });
}

fn any_argument() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Boolean),
        any::<f64>().prop_map(Value::Number),
        "[a-c./?%&#=]{0,12}".prop_map(Value::String),
        Just(connect_object("live?vhost=v", "rtmp://h/live")),
    ]
}

fn any_command() -> impl Strategy<Value = Vec<u8>> {
    const NAMES: &[&str] = &[
        "connect",
        "createStream",
        "releaseStream",
        "FCPublish",
        "publish",
        "FCUnpublish",
        "play",
        "pause",
        "seek",
        "deleteStream",
        "closeStream",
        "FCSubscribe",
        "getStreamLength",
        "receiveVideo",
        "_checkbw",
        "unknown",
    ];
    let media = (prop::sample::select(&[8u8, 9, 18, 15, 22, 3, 4][..]), prop::collection::vec(any::<u8>(), 4..40));
    prop_oneof![
        3 => (prop::sample::select(NAMES), 0..3u8, prop::collection::vec(any_argument(), 0..3)).prop_map(
            |(name, transaction, mut arguments)| {
                arguments.insert(0, Value::Null);
                message(20, 0, &command(name, transaction.into(), &arguments))
            }
        ),
        1 => media.prop_map(|(type_id, body)| message(type_id, 40, &body)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However the network cuts a session, the server sends and says the same.
    #[test]
    fn any_split_gives_the_same_session(
        messages in prop::collection::vec(any_command(), 0..12),
        cuts in prop::collection::vec(1usize..60, 1..20),
        accept: bool,
    ) {
        let connect = message(20, 0, &command("connect", 1.0, &[connect_object("live", "rtmp://h/live")]));
        let bytes = [&[3][..], &[0; 3072], &connect, &messages.concat()].concat();
        let (mut pieces, mut rest, mut cuts) = (Vec::new(), &bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        // Nobody sets an acknowledgement window here: those answers do depend on when bytes came.
        prop_assert_eq!(run(fresh(), &pieces, accept), run(fresh(), &[&bytes], accept));
    }
}
