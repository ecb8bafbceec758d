//! Hysteresis against what it promises, parsers against hostile text, and who is passed on to whom.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::machine::LEAVE_AT;
use super::proc::{self, CpuTimes, Memory};
use super::relief::{MARGIN, PER_SECOND};
use super::*;
use crate::config::Threshold;

fn config(enter_ms: u64, leave_ms: u64, warn: Threshold<u32>, refuse: Threshold<u32>) -> config::Overload {
    let mut config = config::Overload {
        enter: Duration::from_millis(enter_ms),
        leave: Duration::from_millis(leave_ms),
        ..config::Overload::default()
    };
    config.worker_cpu = config::WorkerCpu { warn, refuse };
    config
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_lasts_is_entered_and_left() {
    let mut overload = Overload::new(&config(3_000, 10_000, Threshold::At(80), Threshold::At(95)));
    let mut seen = Vec::new();
    let values = std::iter::repeat_n(85.0, 5).chain(std::iter::repeat_n(97.4, 5)).chain(std::iter::repeat_n(75.0, 25));
    for (second, value) in (0..).zip(values) {
        overload.sample(SECOND * second, Criterion::WorkerCpu, Some(value));
        let verdict = overload.verdict();
        let said = format!("{} {verdict}", verdict.state);
        if seen.last().is_none_or(|(_, last)| *last != said) {
            seen.push((second, said));
        }
    }
    let seen: Vec<_> = seen.iter().map(|(second, said)| (*second, said.as_str())).collect();
    assert_eq!(
        seen,
        [
            (0, "ok "),
            (3, "warn worker_cpu 85 %"),
            (5, "warn worker_cpu 97 %"),
            (8, "refuse worker_cpu 97 %"),
            // 75 is well below 95, and not well below 80.
            (10, "refuse worker_cpu 75 %"),
            (20, "warn worker_cpu 75 %"),
        ]
    );
    for second in 35..46 {
        assert_eq!(overload.verdict().state, State::Warn, "{second}");
        overload.sample(SECOND * second, Criterion::WorkerCpu, Some(70.0));
    }
    assert_eq!(overload.verdict(), Verdict::default());
}

#[test]
fn peaks_do_not_count() {
    let mut overload = Overload::new(&config(3_000, 10_000, Threshold::At(80), Threshold::At(95)));
    for second in 0..100 {
        let value = if second % 4 == 0 { 10.0 } else { 100.0 };
        overload.sample(SECOND * second, Criterion::WorkerCpu, Some(value));
        assert_eq!(overload.verdict().state, State::Ok, "{second}");
    }
}

#[test]
fn what_cannot_be_measured_or_is_switched_off_holds_no_more() {
    let on = config(0, 5_000, Threshold::At(80), Threshold::At(95));
    let mut overload = Overload::new(&on);
    overload.sample(SECOND, Criterion::WorkerCpu, Some(99.0));
    assert_eq!(overload.verdict().state, State::Refuse);
    overload.sample(SECOND * 2, Criterion::WorkerCpu, Some(f64::NAN));
    assert_eq!(overload.verdict().state, State::Refuse);
    overload.sample(SECOND * 7, Criterion::WorkerCpu, None);
    assert_eq!(overload.verdict().state, State::Ok);

    overload.sample(SECOND * 8, Criterion::WorkerCpu, Some(99.0));
    assert_eq!(overload.verdict().state, State::Refuse);
    for off in [config(0, 5_000, Threshold::Off, Threshold::Off), config::Overload { enabled: false, ..on }] {
        let mut overload = overload.clone();
        overload.configure(&off);
        overload.sample(SECOND * 9, Criterion::WorkerCpu, Some(99.0));
        assert_eq!(overload.verdict().state, State::Ok);
    }
}

/// The words of the promise, sample by sample, from the whole history.
fn promised(history: &[(Duration, Option<f64>)], threshold: f64, enter: Duration, leave: Duration) -> Vec<bool> {
    let mut closed = false;
    let mut from = 0;
    let mut out = Vec::new();
    for (at, (now, _)) in history.iter().enumerate() {
        let beyond = |value: &Option<f64>| match closed {
            true => value.is_none_or(|value| value < threshold * LEAVE_AT),
            false => value.is_some_and(|value| value >= threshold),
        };
        let run = history[from..=at].iter().rev().take_while(|(_, value)| beyond(value)).count();
        let hold = if closed { leave } else { enter };
        if run > 0 && *now - history[at + 1 - run].0 >= hold {
            closed = !closed;
            from = at + 1;
        }
        out.push(closed);
    }
    out
}

fn samples() -> impl Strategy<Value = Vec<(u64, Option<f64>)>> {
    let value = prop_oneof![
        8 => (0.0..120.0_f64).prop_map(Some),
        // Around the threshold and its lower end, where a simple comparison would flap.
        8 => (79.0..81.0_f64).prop_map(Some),
        8 => (71.0..73.0_f64).prop_map(Some),
        1 => Just(None),
    ];
    // Runs of like values, so that holding times are met.
    let run = (value, 1_usize..12, 1_u64..2_500);
    let runs = prop::collection::vec(run, 1..40);
    runs.prop_map(|runs| runs.into_iter().flat_map(|(value, count, gap)| vec![(gap, value); count]).collect())
}

proptest! {
    #[test]
    fn hysteresis_is_as_promised(
        samples in samples(), enter_ms in 0_u64..6_000, leave_ms in 0_u64..12_000,
    ) {
        let mut now = Duration::ZERO;
        let mut overload = Overload::new(&config(enter_ms, leave_ms, Threshold::Off, Threshold::At(80)));
        let (mut history, mut states) = (Vec::new(), Vec::new());
        for (gap, value) in samples {
            now += Duration::from_millis(gap);
            overload.sample(now, Criterion::WorkerCpu, value);
            history.push((now, value));
            states.push(overload.verdict().state == State::Refuse);
        }
        let (enter, leave) = (Duration::from_millis(enter_ms), Duration::from_millis(leave_ms));
        prop_assert_eq!(&states, &promised(&history, 80.0, enter, leave));
        // No flapping: between two changes lies at least the time that the second one has to hold.
        let mut changed: Option<Duration> = None;
        for (at, pair) in states.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]) {
            let now = history[at + 1].0;
            if let Some(before) = changed {
                let least = if pair[1] { enter } else { leave };
                prop_assert!(now - before >= least);
            }
            changed = Some(now);
        }
    }

    #[test]
    fn whoever_refuses_warns(
        samples in samples(), warn in 1_u32..100, more in 0_u32..20, enter_ms in 0_u64..6_000, leave_ms in 0_u64..6_000,
    ) {
        let mut both = Overload::new(&config(enter_ms, leave_ms, Threshold::At(warn), Threshold::At(warn + more)));
        let mut warns = Overload::new(&config(enter_ms, leave_ms, Threshold::At(warn), Threshold::Off));
        let mut refuses = Overload::new(&config(enter_ms, leave_ms, Threshold::Off, Threshold::At(warn + more)));
        let mut now = Duration::ZERO;
        for (gap, value) in samples {
            now += Duration::from_millis(gap);
            let [both, warns, refuses] = [&mut both, &mut warns, &mut refuses].map(|overload| {
                overload.sample(now, Criterion::WorkerCpu, value);
                overload.verdict().state
            });
            prop_assert_eq!(both, warns.max(refuses));
            prop_assert!(refuses == State::Ok || warns == State::Warn);
        }
    }

    #[test]
    fn any_text_is_read_or_passed_over(text in "[ -~\n\t]{0,300}", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for text in [text, String::from_utf8_lossy(&bytes).into_owned()] {
            for text in [text.clone(), format!("cpu  {text}"), format!("Udp: SndbufErrors\nUdp: {text}"), format!("0::/{text}")] {
                if let Some(times) = CpuTimes::parse(&text) {
                    prop_assert!(times.busy <= times.total);
                }
                if let Some(memory) = Memory::parse(&text) {
                    prop_assert!((0.0..=100.0).contains(&memory.percent()));
                }
                if let Some(memory) = Memory::of_cgroup(&text, &text, &text) {
                    prop_assert!((0.0..=100.0).contains(&memory.percent()));
                }
                prop_assert!(proc::default_interfaces(&text).len() <= proc::INTERFACES_MAX);
                for group in proc::cgroups(&text) {
                    prop_assert!(group.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                }
                let numbers = [proc::counter(&text), proc::send_errors(&text), proc::send_errors6(&text)];
                prop_assert!(text.bytes().any(|b| b.is_ascii_digit()) || numbers == [None; 3]);
                prop_assert!(proc::speed(&text) != Some(0));
            }
        }
    }

    #[test]
    fn relief_keeps_its_rate_and_its_margin(
        loads in prop::collection::vec((0.0..=1.0_f64, any::<bool>()), 0..6), own in 0.0..=1.0_f64,
        gaps in prop::collection::vec(0_u64..200, 1..400),
    ) {
        let load = |(slot, (load, well)): (u32, &(f64, bool))| Load {
            who: Sibling { slot, incarnation: 1 },
            state: if *well { State::Ok } else { State::Warn },
            load: *load,
        };
        let siblings: Vec<Load> = (0..).zip(&loads).map(load).collect();
        let mut relief = Relief::default();
        let (mut now, mut passed) = (Duration::ZERO, 0);
        for gap in gaps {
            now += Duration::from_millis(gap);
            let Some(to) = relief.pass_to(now, own, &siblings) else { continue };
            passed += 1;
            let chosen = siblings.iter().find(|sibling| sibling.who == to).unwrap();
            prop_assert!(chosen.state == State::Ok && chosen.load + MARGIN <= own);
            let well = siblings.iter().filter(|sibling| sibling.state == State::Ok);
            prop_assert!(well.into_iter().all(|sibling| chosen.load <= sibling.load));
        }
        prop_assert!(f64::from(passed) <= PER_SECOND + 1.0 + now.as_secs_f64() * PER_SECOND);
    }
}

#[test]
fn stat_counts_idling_and_waiting_as_idle() {
    let earlier = CpuTimes::parse("cpu  100 10 50 800 40 1 2 3 7 7\ncpu0 1 1\n").unwrap();
    assert_eq!(earlier, CpuTimes { busy: 166, total: 1006 });
    let later = CpuTimes { busy: 166 + 75, total: 1006 + 100 };
    assert_eq!(later.percent_since(&earlier), Some(75.0));
    assert_eq!(earlier.percent_since(&later), None);
    assert_eq!(later.percent_since(&later), None);
    for text in ["", "cpu0 1 2 3 4", "cpu  1 x 3 4", "cpu  18446744073709551615 1 0 0"] {
        assert_eq!(CpuTimes::parse(text), None, "{text:?}");
    }
}

#[test]
fn memory_is_the_hosts_or_the_groups() {
    let host = Memory::parse("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n").unwrap();
    assert_eq!(host, Memory { available: 250 * 1024, total: 1000 * 1024 });
    assert_eq!(host.percent(), 75.0);
    for text in
        ["", "MemTotal: 1000 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n"]
    {
        assert_eq!(Memory::parse(text), None, "{text:?}");
    }
    let group = Memory::of_cgroup("1000\n", "950\n", "anon 300\ninactive_file 450\nactive_file 200\n").unwrap();
    assert_eq!(group.percent(), 50.0);
    assert_eq!(Memory::of_cgroup("max\n", "950\n", ""), None);
    assert_eq!(Memory::of_cgroup("1000", "2000", "").unwrap().percent(), 100.0);
    let below = |text: &str| proc::cgroups(text).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
    assert_eq!(
        below("9:memory:/x\n0::/system.slice/weir.service\n"),
        ["system.slice/weir.service", "system.slice", ""]
    );
    assert_eq!(below("0::/\n"), [""]);
    assert_eq!(proc::cgroups("0::/../../etc\n"), [PathBuf::new()]);
    assert_eq!(below("9:memory:/x\n"), [] as [&str; 0]);
}

#[test]
fn interfaces_of_default_routes() {
    let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        tun0\t00000000\t010200C0\t0003\t0\t0\t50\t00000080\t0\t0\t0\n\
        ../etc\t00000000\t010200C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n\
        bond1\t00000000\t010200C0\t0003\t0\t0\t50\t00000000\t0\t0\t0\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t9\t00000000\t0\t0\t0\nshort\n";
    assert_eq!(proc::default_interfaces(text), ["eth0", "bond1"]);
    assert_eq!(
        [proc::speed("10000\n"), proc::speed("-1\n"), proc::speed("0"), proc::speed("")],
        [Some(10_000), None, None, None]
    );
}

#[test]
fn datagrams_that_were_not_sent() {
    let snmp =
        "Ip: A\nIp: 1\nUdp: InDatagrams RcvbufErrors SndbufErrors\nUdp: 5 6 7\nUdpLite: SndbufErrors\nUdpLite: 9\n";
    assert_eq!(proc::send_errors(snmp), Some(7));
    assert_eq!(proc::send_errors("Udp: A SndbufErrors\nUdp: 1\n"), None);
    assert_eq!(proc::send_errors6("Udp6InErrors 1\nUdp6SndbufErrors     \t12\n"), Some(12));
}

#[test]
fn verdicts_travel_and_are_put_together() {
    let reason = |criterion, state, value| Reason { criterion, state, value, threshold: 80.0 };
    let own = Verdict::new(vec![
        reason(Criterion::LoopLag, State::Warn, 612.4),
        reason(Criterion::WorkerCpu, State::Refuse, 97.2),
    ]);
    let host =
        Verdict::new(vec![reason(Criterion::Nic, State::Warn, 83.0), reason(Criterion::UdpDrops, State::Warn, 49.0)]);
    let both = own.with(&host);
    assert_eq!(
        (both.state, both.to_string().as_str()),
        (State::Refuse, "worker_cpu 97 %, nic 83 %, udp_drops 49/s, loop_lag 612 ms")
    );
    let said: Vec<OverloadReason> = both.reasons.iter().map(Into::into).collect();
    assert_eq!(Verdict::read(both.state.into(), &said), both);
    let newer = OverloadReason { criterion: "unheard_of".to_owned(), ..said[0].clone() };
    assert_eq!(
        Verdict::read(OverloadState::OverloadRefuse, &[newer]),
        Verdict { state: State::Refuse, reasons: vec![] }
    );
    assert!(both.is_like(&Verdict {
        reasons: both.reasons.iter().map(|r| Reason { value: 1.0, ..*r }).collect(),
        ..both.clone()
    }));
    assert!(!own.is_like(&both) && !host.is_like(&Verdict { state: State::Refuse, ..host.clone() }));
    for (place, criterion) in Criterion::ALL.into_iter().enumerate() {
        assert_eq!(criterion as usize, place);
    }
}

#[test]
fn a_worker_passes_on_only_to_one_that_is_clearly_emptier() {
    let sibling = |slot, state, load| Load { who: Sibling { slot, incarnation: 7 }, state, load };
    let siblings = [
        sibling(0, State::Warn, 0.0),
        sibling(1, State::Ok, 0.5),
        sibling(2, State::Ok, 0.3),
        sibling(3, State::Refuse, 0.0),
    ];
    let mut relief = Relief::default();
    assert_eq!(relief.pass_to(SECOND, 0.97, &siblings), Some(Sibling { slot: 2, incarnation: 7 }));
    assert_eq!(relief.pass_to(SECOND, 0.45, &siblings), None);
    assert_eq!(relief.pass_to(SECOND, 1.0, &[sibling(1, State::Ok, f64::NAN)]), None);
    let passed = (0..1000).filter(|_| relief.pass_to(SECOND, 0.97, &siblings).is_some()).count();
    assert_eq!(passed, 49);
    let passed = (0..1000).filter(|_| relief.pass_to(SECOND * 3 / 2, 0.97, &siblings).is_some()).count();
    assert_eq!(passed, 25);
}
