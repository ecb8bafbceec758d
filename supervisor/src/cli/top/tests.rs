//! The model's arithmetic, and what the screen shows at several sizes.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::Rect;
use ratatui::style::Color;
use weir_proto::supervisor::{Listener, StatusReply, WorkerStatus};

use super::model::{Action, Model, Rates};
use super::{action, ends_it, view};

const SECOND: Duration = Duration::from_secs(1);

fn worker(role: &str, slot: u32) -> WorkerStatus {
    WorkerStatus {
        role: role.to_owned(),
        slot,
        incarnation: u64::from(slot) + 1,
        pid: 4000 + slot,
        state: "ready".to_owned(),
        uptime_ms: 3_600_000,
        connections: 12,
        publishers: 1,
        players: 11,
        streams: 3,
        cpu_percent: 7.25,
        busy_percent: 6.5,
        round_us: 41_000,
        loop_lag_us: 1_250,
        memory_bytes: 3 << 19,
        ..WorkerStatus::default()
    }
}

fn status(workers: Vec<WorkerStatus>) -> StatusReply {
    StatusReply {
        version: "1.2.3".to_owned(),
        pid: 99,
        host: "00112233445566ff".to_owned(),
        state: "ready".to_owned(),
        uptime_ms: 7_200_000,
        generation: 1,
        listeners: vec![Listener { name: "rtmp".to_owned(), address: "0.0.0.0:1935".to_owned() }],
        workers,
        ..StatusReply::default()
    }
}

/// Two edges and an origin, a second after the last status: edge 0 took in 10 Mbit and sent 200 Mbit.
fn model() -> (Model, Instant) {
    let (mut model, start) = (Model::new("river".to_owned()), Instant::now());
    model.update(start, status(vec![worker("origin", 0), worker("edge", 0), worker("edge", 1)]));
    let busy = WorkerStatus { bytes_in: 1_250_000, bytes_out: 25_000_000, loop_lag_us: 1_300, ..worker("edge", 0) };
    let idle = WorkerStatus { loop_lag_us: 1_200, ..worker("edge", 1) };
    model.update(start + SECOND, status(vec![worker("origin", 0), busy, idle]));
    (model, start + SECOND)
}

fn screen(model: &mut Model, width: u16, height: u16) -> Terminal<TestBackend> {
    model.set_page(view::page(Rect::new(0, 0, width, height), model));
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model)).unwrap();
    terminal
}

fn lines(model: &mut Model, width: u16, height: u16) -> Vec<String> {
    let terminal = screen(model, width, height);
    let cells = terminal.backend().buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    cells.chunks(usize::from(width)).map(|cells| line(cells).trim_end().to_owned()).collect()
}

fn rates(model: &Model, role: &str, slot: u32) -> Option<Rates> {
    model.rows().iter().find(|row| row.status.role == role && row.status.slot == slot).unwrap().rates
}

fn slots(model: &Model) -> Vec<u32> {
    model.rows().iter().map(|row| row.status.slot).collect()
}

#[test]
fn a_classic_terminal_shows_the_host_and_its_workers() {
    let (mut model, _) = model();
    let lines = lines(&mut model, 80, 24);
    assert_eq!(lines[0], "weir 1.2.3 on river, ready, up 2h00m, process 99, generation 1");
    assert_eq!(lines[1], "connections 24  publishers 2  players 22  workers 3/3 ready  sorted by slot");
    // The newest bar is at the right edge; two lines high here.
    assert_eq!(lines[2], format!("{:<79}█", "in     10.0 Mbit/s"));
    assert_eq!(lines[3], format!("{:<79}█", ""));
    assert_eq!(lines[4], format!("{:<79}█", "out     200 Mbit/s"));
    assert_eq!(lines[7], "WORKER   STATE       CPU   BUSY     MEM CONNS PLAYERS IN Mb/s OUT Mb/s   LAG");
    assert_eq!(lines[8], "edge 0   ready      7.2%   6.5%    1.5M    12      11    10.0      200 1.3ms");
    assert_eq!(lines[10], "origin 0 ready      7.2%      -    1.5M    12      11       -        - 1.2ms");
    assert_eq!(lines[22], "listening: rtmp 0.0.0.0:1935");
    assert!(lines[23].starts_with("q quit   s sort"), "{lines:?}");
}

#[test]
fn a_wide_terminal_shows_every_column() {
    let (mut model, _) = model();
    let text = lines(&mut model, 200, 50).join("\n");
    for head in [
        "WORKER", "PID", "STATE", "UP", "CPU", "BUSY", "MEM", "CONNS", "PUBS", "PLAYERS", "STREAMS", "IN Mb/s",
        "OUT Mb/s", "LAG", "ROUND", "SKIPS/s", "RESTARTS",
    ] {
        assert!(text.contains(head), "{head} in\n{text}");
    }
    assert!(text.contains("instance 00112233445566ff") && text.contains("41ms") && text.contains("4000"), "{text}");
}

#[test]
fn a_narrow_terminal_drops_columns() {
    let (mut model, _) = model();
    let lines = lines(&mut model, 40, 10);
    assert_eq!(lines[4], "WORKER   STATE       CPU CONNS OUT Mb/s");
    assert_eq!(lines[5], "edge 0   ready      7.2%    12      200");
    assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:?}");
}

#[test]
fn a_restarted_worker_has_no_rates_until_it_was_seen_twice() {
    let (mut model, now) = model();
    let new = WorkerStatus { incarnation: 9, pid: 5000, bytes_out: 1000, ..worker("edge", 0) };
    model.update(now + SECOND, status(vec![new.clone()]));
    assert_eq!(rates(&model, "edge", 0), None);
    assert_eq!(model.totals().bits, None);
    let later = WorkerStatus { bytes_out: 2000, ..new.clone() };
    model.update(now + 2 * SECOND, status(vec![later]));
    assert_eq!(rates(&model, "edge", 0).unwrap().bits_out, 8000.0);
    // A counter that goes back in the same process is no rate either.
    model.update(now + 3 * SECOND, status(vec![new]));
    assert_eq!(rates(&model, "edge", 0), None);
}

#[test]
fn a_report_seen_twice_is_no_pause_and_one_missed_no_peak() {
    let (mut model, start) = (Model::new(String::new()), Instant::now());
    let at = |bytes_out: u64| status(vec![WorkerStatus { bytes_out, ..worker("edge", 0) }]);
    for (second, bytes) in [(0, 0), (1, 1000), (2, 1000), (3, 3000), (4, 4000)] {
        model.update(start + second * SECOND, at(bytes));
        let wanted = (second > 0).then_some(8000.0);
        assert_eq!(rates(&model, "edge", 0).map(|rates| rates.bits_out), wanted, "after {second} s");
    }
    // But what does not change any more has stopped.
    for (second, bits) in [(5, 8000.0), (6, 8000.0), (7, 0.0), (8, 0.0)] {
        model.update(start + second * SECOND, at(4000));
        assert_eq!(rates(&model, "edge", 0).unwrap().bits_out, bits, "after {second} s");
    }
}

#[test]
fn states_and_loads_have_colours_and_unknown_states_are_shown() {
    let (mut model, now) = model();
    let hot = WorkerStatus { cpu_percent: 85.0, loop_lag_us: 400_000, ..worker("edge", 0) };
    let gone = WorkerStatus { pid: 0, state: "backoff".to_owned(), lent_to: Some(0), restarts: 2, ..worker("edge", 1) };
    let new = WorkerStatus { uptime_ms: 4_000, restarts: 1, ..worker("edge", 3) };
    let odd = WorkerStatus { state: "pondering".to_owned(), ..worker("edge", 2) };
    model.update(now + SECOND, status(vec![hot, gone, odd, new]));
    let terminal = screen(&mut model, 160, 24);
    let buffer = terminal.backend().buffer();
    let colour_of = |row: u16, text: &str| {
        let line: String = (0..160).map(|x| buffer[(x, row)].symbol()).collect();
        let at = line.find(text).unwrap_or_else(|| panic!("{text} in {line}"));
        buffer[(u16::try_from(at).unwrap(), row)].fg
    };
    assert_eq!(colour_of(8, "ready"), Color::Green);
    assert_eq!(colour_of(8, "85.0%"), Color::Yellow);
    assert_eq!(colour_of(8, "400ms"), Color::Red);
    assert_eq!(colour_of(9, "backoff"), Color::Red);
    assert_eq!(colour_of(9, "accepted by edge 0"), Color::Yellow);
    assert_eq!(colour_of(10, "pondering"), Color::Reset);
    assert_eq!(colour_of(11, "restarted 4s ago"), Color::Yellow);
}

#[test]
fn notes_outlive_other_columns_and_long_ones_are_cut() {
    let (mut model, now) = model();
    let slot = |slot| WorkerStatus { pid: 0, state: "backoff".to_owned(), lent_to: Some(slot), ..worker("edge", 1) };
    model.update(now + SECOND, status(vec![worker("edge", 0), slot(0)]));
    let text = lines(&mut model, 80, 24);
    assert!(text[7].ends_with(" NOTES") && !text[7].contains("MEM"), "{text:?}");
    assert!(text[9].starts_with("edge 1   backoff ") && text[9].ends_with(" accepted by edge 0"), "{text:?}");
    let long = WorkerStatus { uptime_ms: 1, restarts: 1, lent_to: Some(u32::MAX), ..worker("edge", 1) };
    model.update(now + SECOND, status(vec![long]));
    assert!(lines(&mut model, 80, 24)[8].ends_with(" accepted by edge 4294967"));
    assert!(lines(&mut model, 240, 24)[8].ends_with(" accepted by edge 4294967295, restarted 0s ago"));
}

#[test]
fn it_says_that_the_supervisor_is_gone_and_for_how_long() {
    let (mut model, now) = model();
    model.lost(now + SECOND, "no weir answers at /run/weir/ctl.sock".to_owned());
    model.lost(now + 5 * SECOND, "no weir answers at /run/weir/ctl.sock".to_owned());
    let text = lines(&mut model, 80, 24);
    assert_eq!(text[0], " trying again for 4s: no weir answers at /run/weir/ctl.sock");
    assert!(text[8].starts_with("edge 0"), "what was known stays: {text:?}");
    model.update(now + 6 * SECOND, status(vec![worker("edge", 0)]));
    assert!(lines(&mut model, 80, 24)[0].starts_with("weir 1.2.3 on river"));
}

#[test]
fn sorting_goes_round_and_puts_the_largest_on_top() {
    let (mut model, start) = (Model::new(String::new()), Instant::now());
    let with = |slot: u32, cpu: f64, memory: u64| WorkerStatus {
        cpu_percent: cpu,
        memory_bytes: memory,
        ..worker("edge", slot)
    };
    model.update(start, status(vec![with(2, 10.0, 3), with(0, 30.0, 1), with(1, 20.0, 2)]));
    assert_eq!(slots(&model), [0, 1, 2]);
    model.act(Action::Sort);
    assert_eq!((model.sort().name(), slots(&model)), ("CPU", vec![0, 1, 2]));
    model.act(Action::Sort);
    assert_eq!((model.sort().name(), slots(&model)), ("memory", vec![2, 1, 0]));
    for _ in 0..6 {
        model.act(Action::Sort);
    }
    assert_eq!((model.sort().name(), slots(&model)), ("slot", vec![0, 1, 2]));
}

#[test]
fn many_workers_scroll_and_the_view_stops_at_both_ends() {
    let (mut model, start) = (Model::new(String::new()), Instant::now());
    model.update(start, status((0..40).map(|slot| worker("edge", slot)).collect()));
    let text = lines(&mut model, 80, 12);
    // A line each for title, sums, two rates, head and keys: six are left.
    assert!(text[5].starts_with("edge 0 ") && text[10].starts_with("edge 5 "), "{text:?}");
    assert!(text[11].starts_with("rows 1 to 6 of 40"), "{text:?}");
    for (action, first) in [
        (Action::Up, 0),
        (Action::Down, 1),
        (Action::PageDown, 7),
        (Action::Last, 34),
        (Action::Down, 34),
        (Action::PageUp, 28),
        (Action::First, 0),
        (Action::Last, 34),
    ] {
        model.act(action);
        assert_eq!(model.first(), first, "{action:?}");
    }
    assert!(lines(&mut model, 80, 12)[10].starts_with("edge 39 "));
    model.update(start + SECOND, status(vec![worker("edge", 0)]));
    assert_eq!(model.first(), 0, "fewer workers than were scrolled over");
}

#[test]
fn keys_do_what_the_help_says() {
    let (mut model, _) = model();
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    assert!(ends_it(key(KeyCode::Char('q')), &model) && ends_it(key(KeyCode::Esc), &model));
    assert!(ends_it(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &model));
    assert!(!ends_it(key(KeyCode::Char('c')), &model));
    model.act(action(key(KeyCode::Char('?'))).unwrap());
    let help = lines(&mut model, 80, 24).join("\n");
    for text in ["show or hide this", "newer keyframe", "those of the edges."] {
        assert!(help.contains(text), "{text} is cut off:\n{help}");
    }
    assert!(!ends_it(key(KeyCode::Esc), &model), "it closes the help first");
    model.act(action(key(KeyCode::Esc)).unwrap());
    assert!(!model.is_help_shown() && action(key(KeyCode::Char('x'))).is_none());
}

#[test]
fn without_a_terminal_it_is_plain_text_of_every_worker() {
    let (mut model, start) = (Model::new("river".to_owned()), Instant::now());
    model.update(start, status((0..40).map(|slot| worker("edge", slot)).collect()));
    let text = view::text(&model, 120);
    assert!(text.starts_with("weir 1.2.3 on river") && text.contains("edge 39 "), "{text}");
    assert!(text.ends_with("listening: rtmp 0.0.0.0:1935"), "{text}");
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.len() <= 120), "{text}");
}

#[test]
fn a_host_of_origins_only_sums_them() {
    let mut model = Model::new(String::new());
    model.update(Instant::now(), status(vec![worker("origin", 0), worker("origin", 1)]));
    assert_eq!((model.totals().connections, model.totals().players), (24, 22));
}

prop_compose! {
    fn any_worker()(
        role in "edge|origin|\\PC{0,12}|\u{1b}\\[2J",
        (slot, incarnation, pid) in (0..3u32, 0..3u64, 0..3u32),
        state in "ready|backoff|\\PC{0,80}|[\u{0}-\u{1f}]{3}",
        counters in any::<[u64; 12]>(),
        (cpu_percent, busy_percent) in (any::<f64>(), any::<f64>()),
        lent_to in any::<Option<u32>>(),
    ) -> WorkerStatus {
        let [uptime_ms, connections, streams, publishers, players, bytes_in, bytes_out, loop_lag_us, memory_bytes,
            restarts, skips, round_us] = counters;
        WorkerStatus {
            role, slot, incarnation, pid, state, uptime_ms, connections, streams, publishers, players, bytes_in,
            bytes_out, loop_lag_us, cpu_percent, memory_bytes, restarts, lent_to, busy_percent, round_us, skips,
            ..WorkerStatus::default()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_status_and_no_size_breaks_it(
        replies in prop::collection::vec((prop::collection::vec(any_worker(), 0..12), 0..4000u64), 1..4),
        (width, height) in (0..260u16, 0..70u16),
        (help, gone, down) in any::<(bool, bool, bool)>(),
    ) {
        let (mut model, mut now) = (Model::new("\u{1b}]0;x\u{7}".to_owned()), Instant::now());
        for (workers, millis) in replies {
            now += Duration::from_millis(millis);
            model.update(now, status(workers));
            for row in model.rows() {
                if let Some(rates) = row.rates {
                    let all = [rates.bits_in, rates.bits_out, rates.skips, rates.slow_closed, rates.refused];
                    prop_assert!(all.iter().all(|rate| rate.is_finite() && *rate >= 0.0), "{rates:?}");
                }
            }
        }
        if help {
            model.act(Action::Help);
        }
        if gone {
            model.lost(now, "gone".to_owned());
        }
        model.set_page(1);
        if down {
            model.act(Action::Last);
        }
        // The terminal may have another size than the page that the model was told of.
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view::draw(frame, &model)).unwrap();
        screen(&mut model, width, height);
        let text = view::text(&model, width);
        prop_assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{:?}", text);
    }
}
