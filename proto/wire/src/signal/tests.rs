use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits { rooms: 3, members: 4 };

#[expect(clippy::disallowed_methods, reason = "a test starts its own clock")]
fn now() -> Instant {
    Instant::now()
}

fn join(room: &str, display: &str) -> Ask {
    Ask::Join { room: room.into(), display: display.into(), key: String::new() }
}

fn back(room: &str, display: &str, key: &str) -> Ask {
    Ask::Join { room: room.into(), display: display.into(), key: key.into() }
}

fn ask(rooms: &mut Rooms<u32>, member: u32, ask: Ask) -> Result<Reply, Refusal> {
    rooms.handle(now(), member, (None, None), ask)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// What each member is told, in order, as clients read it.
fn told(rooms: &mut Rooms<u32>) -> Vec<(u32, Value)> {
    let mut all = Vec::new();
    while let Some(output) = rooms.poll() {
        match output {
            Output::Notice(notice) => {
                all.extend(notice.texts().map(|(member, text)| (*member, parsed(&text))));
            }
            Output::Replaced(member) => all.push((member, json!("replaced"))),
        }
    }
    all
}

#[test]
fn requests_as_the_demos_of_srs_send_them() {
    let request = parse(r#"{"tid":"1a2b3c4","msg":{"action":"join","room":"live","display":"alice"}}"#).unwrap();
    assert_eq!((request.tid.as_str(), request.ask), ("1a2b3c4", Ok(join("live", "alice"))));
    let text = r#"{"tid":"t","msg":{"action":"control","room":"live","display":"alice","call":"alert","data":"hi"}}"#;
    let request = parse(text).unwrap();
    assert_eq!(request.ask, Ok(Ask::Control { call: "alert".into(), data: "hi".into() }));
    assert_eq!(request.claims, (Some("live".into()), Some("alice".into())));
    assert_eq!(parse(r#"{"msg":{"action":"publish","data":null}}"#).unwrap().ask, Ok(Ask::Publish));
}

#[test]
fn what_cannot_be_done_is_answered_and_what_is_no_message_is_not() {
    for (text, why) in [
        (r#"{"tid":"t","msg":{"action":"dance"}}"#.to_owned(), Refusal::UnknownAction),
        (r#"{"tid":"t","msg":{"action":"join","room":"live"}}"#.to_owned(), Refusal::BadField),
        (r#"{"tid":"t","msg":{"action":"join","room":7,"display":"a"}}"#.to_owned(), Refusal::BadField),
        (format!(r#"{{"tid":"t","msg":{{"action":"control","call":"{}"}}}}"#, "x".repeat(65)), Refusal::BadField),
    ] {
        assert_eq!(parse(&text).unwrap().ask, Err(why), "{text}");
    }
    let long = format!(r#"{{"tid":"t","msg":{{"action":"{}"}}}}"#, "ä".repeat(1000));
    assert_eq!(parse(&long).unwrap().action.chars().count(), WORD_MAX);
    let nested = format!(r#"{{"tid":"t","msg":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let long_tid = format!(r#"{{"tid":"{}","msg":{{"action":"publish"}}}}"#, "x".repeat(65));
    for text in
        ["", "null", "[]", "{}", r#"{"tid":1,"msg":{}}"#, r#"{"tid":"t","msg":{"room":"x"}}"#, &nested, &long_tid]
    {
        assert_eq!(parse(text), Err(Malformed), "{text}");
    }
}

#[test]
fn who_asks_whether_anybody_is_there_is_answered() {
    let request = parse(r#"{"tid":"p1","msg":{"action":"ping"}}"#).unwrap();
    assert_eq!(request.ask, Ok(Ask::Ping));
    let reply = ask(&mut Rooms::new(LIMITS), 1, Ask::Ping).unwrap();
    assert_eq!(parsed(&reply.text("p1")), json!({"tid": "p1", "msg": null}));
}

#[test]
fn members_of_a_large_room_share_its_pace() {
    let mut rooms = Rooms::new(Limits { rooms: 1, members: 51 });
    let start = now();
    for member in 0..51 {
        rooms.handle(start, member, (None, None), join("live", &member.to_string())).unwrap();
    }
    let mut at = |now: Instant| {
        let alert = Ask::Control { call: "alert".into(), data: String::new() };
        let answers = (0..1000).map(|i| rooms.handle(now, i % 51, (None, None), alert.clone()));
        let done = answers.take_while(Result::is_ok).count();
        assert_eq!(rooms.handle(now, 0, (None, None), Ask::Publish), Err(Refusal::TooFast));
        done
    };
    // Each is fifty messages.
    assert_eq!(at(start), 100);
    assert_eq!(at(start + Duration::from_secs(1)), 20);
    assert_eq!(at(start + Duration::from_secs(3600)), 100);
    // Who comes and goes is told of all the same.
    rooms.leave(7);
    assert!(rooms.handle(start, 99, (None, None), join("live", "new")).is_ok());
}

#[test]
fn a_conversation_has_the_shapes_that_srs_has() {
    let mut rooms = Rooms::new(LIMITS);
    let Ok(reply) = ask(&mut rooms, 1, join("live", "alice")) else { panic!() };
    assert_eq!(
        parsed(&reply.text("t1")),
        json!({"tid": "t1", "msg": {"action": "join", "room": "live",
            "self": {"display": "alice", "publishing": false},
            "participants": [{"display": "alice", "publishing": false}]}})
    );
    assert_eq!(told(&mut rooms), []);
    ask(&mut rooms, 2, join("live", "bob")).unwrap();
    let all = |alice: bool| json!([{"display": "alice", "publishing": alice}, {"display": "bob", "publishing": false}]);
    assert_eq!(
        told(&mut rooms),
        [(
            1,
            json!({"msg": {"action": "notify", "event": "join", "room": "live",
                "self": {"display": "alice", "publishing": false},
                "peer": {"display": "bob", "publishing": false}, "participants": all(false)}})
        )]
    );
    let reply = ask(&mut rooms, 1, Ask::Publish).unwrap();
    assert_eq!(parsed(&reply.text("t2")), json!({"tid": "t2", "msg": null}));
    let [(2, publish)] = &told(&mut rooms)[..] else { panic!() };
    assert_eq!(publish["msg"]["peer"], json!({"display": "alice", "publishing": true}));
    assert_eq!(publish["msg"]["participants"], all(true));
    ask(&mut rooms, 2, Ask::Control { call: "alert".into(), data: "hi".into() }).unwrap();
    let [(1, control)] = &told(&mut rooms)[..] else { panic!() };
    assert_eq!((&control["msg"]["param"], &control["msg"]["data"]), (&json!("alert"), &json!("hi")));
    rooms.leave(1);
    let [(2, leave)] = &told(&mut rooms)[..] else { panic!() };
    assert_eq!(
        leave["msg"],
        json!({"action": "notify", "event": "leave", "room": "live", "self": {"display": "bob", "publishing": false},
            "peer": {"display": "alice", "publishing": true}, "participants": [{"display": "bob", "publishing": false}]})
    );
    rooms.leave(2);
    rooms.leave(2);
    assert_eq!((rooms.count(), told(&mut rooms)), ((0, 0), vec![]));
}

#[test]
fn what_ended_connections_or_the_process_is_refused() {
    let mut rooms = Rooms::new(LIMITS);
    assert_eq!(ask(&mut rooms, 1, Ask::Publish), Err(Refusal::NotJoined));
    assert_eq!(ask(&mut rooms, 1, Ask::Control { call: String::new(), data: String::new() }), Err(Refusal::NotJoined));
    ask(&mut rooms, 1, join("live", "alice")).unwrap();
    assert_eq!(ask(&mut rooms, 1, join("other", "alice")), Err(Refusal::AlreadyJoined));
    assert_eq!(ask(&mut rooms, 2, join("live", "alice")), Err(Refusal::DisplayTaken));
    assert_eq!(rooms.handle(now(), 1, (Some("live"), Some("bob")), Ask::Publish), Err(Refusal::NotYours));
    assert_eq!(rooms.handle(now(), 1, (Some("other"), None), Ask::Publish), Err(Refusal::NotYours));
    assert!(rooms.handle(now(), 1, (Some("live"), Some("alice")), Ask::Publish).is_ok());
    for name in
        ["", " a", "a ", ".", "..", "a/b", "a\\b", "a?b", "a#b", "a%2fb", "a\nb", "a\u{202e}b", &"x".repeat(129)]
    {
        assert_eq!(ask(&mut rooms, 2, join(name, "bob")), Err(Refusal::BadName), "{name:?}");
        assert_eq!(ask(&mut rooms, 2, join("live", name)), Err(Refusal::BadName), "{name:?}");
    }
    assert!(ask(&mut rooms, 2, join("会议室", "Zoë <b>😀")).is_ok());
    let refused = Reply::Refused { action: "join".into(), why: Refusal::DisplayTaken };
    assert_eq!(
        parsed(&refused.text("t")),
        json!({"tid": "t", "msg": {"action": "join",
            "error": {"code": "display_taken", "message": "somebody else in this room has this name"}}})
    );
    for (why, code) in Refusal::ALL {
        assert_eq!((why.code(), Refusal::of_code(code)), (code, why));
    }
}

#[test]
fn rooms_and_members_have_their_limits() {
    let mut rooms = Rooms::new(LIMITS);
    for member in 0..4 {
        ask(&mut rooms, member, join("a", &member.to_string())).unwrap();
    }
    assert_eq!(ask(&mut rooms, 4, join("a", "4")), Err(Refusal::RoomFull));
    ask(&mut rooms, 4, join("b", "4")).unwrap();
    ask(&mut rooms, 5, join("c", "5")).unwrap();
    assert_eq!(ask(&mut rooms, 6, join("d", "6")), Err(Refusal::TooManyRooms));
    rooms.leave(5);
    ask(&mut rooms, 6, join("d", "6")).unwrap();
    assert_eq!(rooms.count(), (3, 6));
}

#[test]
fn who_comes_back_with_its_key_takes_its_place_and_nobody_else_does() {
    let mut rooms = Rooms::new(LIMITS);
    ask(&mut rooms, 1, back("live", "alice", "secret")).unwrap();
    ask(&mut rooms, 2, join("live", "bob")).unwrap();
    ask(&mut rooms, 1, Ask::Publish).unwrap();
    told(&mut rooms);
    assert_eq!(ask(&mut rooms, 3, back("live", "alice", "guess")), Err(Refusal::DisplayTaken));
    // No key is no key.
    assert_eq!(ask(&mut rooms, 3, back("live", "bob", "")), Err(Refusal::DisplayTaken));
    let Ok(Reply::Joined(joined)) = ask(&mut rooms, 3, back("live", "alice", "secret")) else { panic!() };
    assert!(joined.me.publishing && joined.participants.len() == 2);
    assert_eq!(told(&mut rooms), [(1, json!("replaced"))]);
    rooms.leave(1);
    assert_eq!((told(&mut rooms), rooms.count()), (vec![], (1, 2)));
    assert_eq!(ask(&mut rooms, 1, Ask::Publish), Err(Refusal::NotJoined));
    rooms.leave(3);
    assert_eq!(told(&mut rooms).len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Join(u32, u8, u8, u8),
    Publish(u32),
    Control(u32),
    Leave(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let member = 0..9_u32;
    prop_oneof![
        (member.clone(), 0..5_u8, 0..6_u8, 0..3_u8).prop_map(|(m, room, name, key)| Step::Join(m, room, name, key)),
        member.clone().prop_map(Step::Publish),
        member.clone().prop_map(Step::Control),
        member.prop_map(Step::Leave),
    ]
}

proptest! {
    /// Who only listens knows at each moment who is in the room, all know it in the same order, and limits hold.
    #[test]
    fn what_members_are_told_is_what_there_is(steps in prop::collection::vec(step(), 1..200)) {
        let mut rooms = Rooms::new(LIMITS);
        // What each member knows: its room, its name, and who is there.
        let mut known: BTreeMap<u32, (String, String, Vec<Participant>)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Join(member, room, name, key) => {
                    let (room, name) = (format!("room{room}"), format!("name{name}"));
                    let key = if key == 0 { String::new() } else { key.to_string() };
                    if let Ok(Reply::Joined(joined)) = ask(&mut rooms, member, back(&room, &name, &key)) {
                        prop_assert!(!known.contains_key(&member));
                        prop_assert!(joined.participants.contains(&joined.me));
                        known.insert(member, (room, name, joined.participants));
                    }
                }
                Step::Publish(member) => {
                    let done = ask(&mut rooms, member, Ask::Publish).is_ok();
                    prop_assert_eq!(done, known.contains_key(&member));
                    if let Some((_, name, list)) = known.get_mut(&member) {
                        list.iter_mut().filter(|p| *p.display == **name).for_each(|p| p.publishing = true);
                    }
                }
                Step::Control(member) => {
                    let control = Ask::Control { call: "alert".into(), data: member.to_string() };
                    prop_assert_eq!(ask(&mut rooms, member, control).is_ok(), known.contains_key(&member));
                }
                Step::Leave(member) => {
                    rooms.leave(member);
                    known.remove(&member);
                }
            }
            while let Some(output) = rooms.poll() {
                match output {
                    Output::Replaced(member) => prop_assert!(known.remove(&member).is_some()),
                    Output::Notice(notice) => {
                        prop_assert_eq!(notice.participants.contains(&notice.peer), notice.event != Event::Leave);
                        for (member, display) in notice.to {
                            let Some((room, name, list)) = known.get_mut(&member) else {
                                return Err(TestCaseError::fail("a stranger is told"));
                            };
                            prop_assert!(**room == *notice.room && **name == *display && *display != *notice.peer.display);
                            list.clone_from(&notice.participants);
                        }
                    }
                }
            }
            let mut by_room: BTreeMap<&str, Vec<&Vec<Participant>>> = BTreeMap::new();
            for (room, _, list) in known.values() {
                by_room.entry(room).or_default().push(list);
            }
            for lists in by_room.values() {
                prop_assert!(lists.iter().all(|list| *list == lists[0]), "{:?}", lists);
                prop_assert!(lists[0].len() == lists.len() && lists.len() <= LIMITS.members);
            }
            prop_assert_eq!(rooms.count(), (by_room.len(), known.len()));
            prop_assert!(by_room.len() <= LIMITS.rooms);
        }
    }
}

#[test]
fn fuzz_messages() {
    bolero::check!().with_test_time(Duration::from_secs(1)).for_each(|bytes: &[u8]| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let mut rooms = Rooms::new(LIMITS);
        for text in [text.to_owned(), format!(r#"{{"tid":"t","msg":{{"action":"join",{text}}}}}"#)] {
            let Ok(request) = parse(&text) else { continue };
            let (room, display) = &request.claims;
            let Ok(ask) = request.ask else { continue };
            if let Ok(reply) = rooms.handle(now(), 1, (room.as_deref(), display.as_deref()), ask) {
                assert_eq!(parsed(&reply.text(&request.tid))["tid"], json!(request.tid));
            }
        }
    });
}
