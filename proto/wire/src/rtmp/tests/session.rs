//! Whole sessions between our two machines.
use weir_media::Kind;

use super::support::{converse, drain_client, media, request, server, start};
use crate::rtmp::client::{self, Handshake, Purpose};
use crate::rtmp::server::Event;
use crate::rtmp::{Client, Limits, chunk};

fn client(purpose: Purpose, handshake: Handshake) -> Client {
    let request = client::Request { handshake, ..request(purpose) };
    Client::new(start(), request, Limits::default(), [9; 32], 4096)
}

#[test]
fn publishes_with_every_handshake() {
    for handshake in [Handshake::Plain, Handshake::KeyFirst, Handshake::DigestFirst] {
        let (mut server, mut client) = (server(), client(Purpose::Publish, handshake));
        let (seen, heard) = converse(&mut server, &mut client);
        let [Event::Connect(connect), Event::Publish(publish)] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((connect.vhost.as_str(), connect.app.as_str()), ("example.org", "live"));
        assert_eq!((publish.app.as_str(), publish.stream.as_str()), ("live", "camera"));
        assert_eq!((publish.vhost.as_str(), publish.query.as_str()), ("example.org", "token=secret"));
        assert!(heard.contains(&client::Event::Started), "{heard:?}");

        let body = vec![0x17; 100_000];
        client.media(Kind::Data, 0, b"\x02\x00\x0aonMetaData\x05");
        client.media(Kind::Video, 40, &body);
        client.media(Kind::Audio, 16_777_215, b"\xaf\x01!");
        client.stop();
        let (seen, _) = converse(&mut server, &mut client);
        assert_eq!(
            seen,
            [
                media(Kind::Data, 0, b"\x02\x00\x0aonMetaData\x05"),
                media(Kind::Video, 40, &body),
                media(Kind::Audio, 16_777_215, b"\xaf\x01!"),
                Event::Unpublish
            ]
        );
    }
}

#[test]
fn plays_what_the_log_encoder_writes() {
    let (mut server, mut client) = (server(), client(Purpose::Play, Handshake::DigestFirst));
    let (seen, heard) = converse(&mut server, &mut client);
    assert!(matches!(&seen[..], [Event::Connect(_), Event::Play(play)] if play.stream == "camera"));
    assert!(heard.contains(&client::Event::Started));

    let (video, time) = (vec![0x27; 200_000], 0x0100_0000);
    let mut log = Vec::new();
    chunk::write_message(&mut log, chunk::CSID_AUDIO, 8, 1, time, b"\xaf\x01!", super::support::CHUNK);
    chunk::write_message(&mut log, chunk::CSID_VIDEO, 9, 1, time, &video, super::support::CHUNK);
    client.handle(start(), &log).unwrap();
    let (_, heard) = drain_client(&mut client);
    assert_eq!(
        heard,
        [
            client::Event::Media { kind: Kind::Audio, timestamp: time, body: b"\xaf\x01!".to_vec().into() },
            client::Event::Media { kind: Kind::Video, timestamp: time, body: video.into() },
        ]
    );
}
