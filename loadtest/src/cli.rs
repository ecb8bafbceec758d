//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::clock::{MILLISECOND, SECOND};
use crate::drive::{self, Load, Outcome, Plan};
use crate::floor::{self, Floor, Rhythm, Server};
use crate::flvfile::FlvFile;
use crate::idle::Idle;
use crate::machine;
use crate::play::{self, Play};
use crate::publish::{self, Publish};
use crate::report::{Report, Requirement};
use crate::rtc;
use crate::storm::Storm;
use crate::target::{Scheme, Target};
use crate::usage;

/// Connections opened a second where --ramp does not say.
const OPEN_PER_SECOND: f64 = 500.0;
/// Handshakes of WebRTC that are begun a second.
const RTC_OPEN_PER_SECOND: u32 = 50;
/// The floor's server has nothing to do for a new connection, and waits for the last one.
const FLOOR_OPEN_PER_SECOND: f64 = 4000.0;
/// Between the last connection that begins and the steady part, nanoseconds: what a server sends a newcomer at once
/// is not its rate.
const SETTLE: u64 = SECOND;
/// The longest time that an option can give, seconds.
const SECONDS_MAX: f64 = 1e7;
/// Something was lost, or a requirement not met.
const LOST: u8 = 1;
/// Nothing was done.
const USAGE: u8 = 2;

/// Measures live-streaming servers: weir, and others the same way
#[derive(Debug, Parser)]
#[command(name = "weir-loadtest", version)]
#[command(
    after_help = "Exit codes: 0 all well; 1 something was lost (failed, disconnected, gaps, skips, late, lost packets) or a \
    --require was not met; 2 nothing was done. Ctrl-C ends a run with its report."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play a stream, or many, with many players
    #[command(after_help = "Example: a thousand players of ten streams, and what the server uses meanwhile\n  \
        weir-loadtest play 'rtmp://127.0.0.1/live/s{i}' --players 1000 --streams 10 --pids $(pidof weir | tr ' ' ,)\n\
        \nFigures: ok played to the end; failed never began; disconnected ended too early. duration_s, bytes, messages \
        (audio and video), kbps_* (of each player), gaps (over 1 s, or --gap, without a byte), skips (video goes on over 1 s later \
        than it stopped), latency_* and those of the CPU are of the steady part, which begins 1 s after the last player \
        did. first_byte_* and first_key_* are from the TCP connect to the first message of audio or video, and to the \
        first keyframe. latency_* is from the send of a frame of `weir-loadtest publish` on this host. slow_* count \
        the slow players, of whom nothing else is told.")]
    Play(PlayArgs),
    /// Publish a file as many streams in real time, again and again
    #[command(after_help = "Example: 500 streams\n  \
        weir-loadtest publish 'rtmp://127.0.0.1/live/s{i}' --publishers 500 --file a.flv --duration 60\n\
        \nFigures: duration_s, frames, bytes, kbps_* (of each publisher) and those of the CPU are of the steady part, \
        which begins 1 s after the last publisher did; late counts how often a publisher was over 1 s late, and set \
        its clock back instead of making up for it; publish_* is from the TCP connect to the accepted publish.")]
    Publish(PublishArgs),
    /// Hold connections that say hello and then nothing
    #[command(after_help = "Example: what an idle connection costs the server\n  \
        weir-loadtest idle rtmp://127.0.0.1/live/s --connections 3000 --pids $(pidof weir | tr ' ' ,)\n\
        rtmp: C0 to C2 and S0 to S2; http: TCP only. Servers may end such connections after some seconds.")]
    Idle(IdleArgs),
    /// Send clients that connect, are greeted, and leave
    #[command(after_help = "Example: a thousand a second\n  \
        weir-loadtest storm rtmp://127.0.0.1/live/s --connects-per-second 1000 --duration 10\n\
        rtmp: handshake and connect; http: a GET up to the head of the response. Being refused is no loss by itself: \
        --require 'refused==0'.")]
    Storm(StormArgs),
    /// Measure what the kernel alone costs: a server that only writes, in a rhythm, and its clients
    #[command(after_help = "Example: the limit for a server that sends 677 kbit/s in rounds of 40 ms\n  \
        weir-loadtest floor --players 1000 --interval 40 --kbps 677 --server-cpu 0 --client-cpu 1\n\
        \nFigures: cpu_* are of the server; rounds_missed are those that it came too late for, and left out; \
        short_writes those that a socket did not take whole.")]
    Floor(FloorArgs),
    /// The server of the floor
    #[command(hide = true)]
    FloorServer(FloorServerArgs),
    /// Play over WebRTC with many players, each with a UDP socket of its own
    #[command(after_help = "Example: a thousand players of one stream\n  \
        weir-loadtest rtc-play 'http://127.0.0.1:1985/rtc/v1/whep/?app=live&stream=s' --players 1000\n\
        \nwebrtc://host:port/app/stream asks SRS's API (port 1985 without one); http:// is the address of WHEP; \
        janus://host:port/N is mountpoint N of a Janus' streaming plugin.\n\
        \nFigures beside those of `play`: connect_* is from the TCP connect to the keys, first_packet_* to the first \
        packet of media. packets, lost (asked for in vain for 1 s), recovered (came after it was asked for), overtaken, \
        duplicates, bad (could not be decrypted, or of no known type), nacks (requests sent), keyframes, and jitter_* (of \
        each player's video at the end) are of the steady part.")]
    RtcPlay(RtcPlayArgs),
    /// Publish over WebRTC: a grey picture in H.264 and silence in Opus
    #[command(after_help = "Example: 50 streams\n  \
        weir-loadtest rtc-publish 'http://127.0.0.1:1985/rtc/v1/whip/?app=live&stream=s{i}' --publishers 50\n\
        \nFigures beside those of `publish`: packets, nacked (packets that the server asked for), repeated (those that were \
        still there), keyframe_requests; connect_* is from the TCP connect to the keys.")]
    RtcPublish(RtcPublishArgs),
    /// Measure what the kernel and the cipher alone cost over WebRTC: a server that only encrypts and sends
    #[command(after_help = "Example: the limit for a server that sends 600 kbit/s\n  \
        weir-loadtest floor-rtc --players 500 --kbps 600 --server-cpu 0 --client-cpu 1\n\
        \nEach picture is encrypted for each player with AES-128-GCM and sent in one go (UDP GSO). Figures: cpu_* are of \
        the server; rounds_missed are those that it came too late for, and left out; packets are those that were read.")]
    FloorRtc(FloorRtcArgs),
    /// The server of that floor
    #[command(hide = true)]
    FloorRtcServer(FloorRtcServerArgs),
    /// Send what `rtc-publish` publishes as plain RTP, to a server that takes it so
    RtpFeed(RtpFeedArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
struct Output {
    /// Print one JSON object on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// What a figure must be, such as 'gaps==0' or 'cpu_percent<20'; repeatable
    #[arg(long, value_name = "NAME OP NUMBER")]
    require: Vec<Requirement>,
}

/// What the commands that load a running server take.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    output: Output,
    /// Processes of the server, which are measured with all their descendants. Without them there are no figures of
    /// its CPU and memory. Memory grows in a server that has just been started; another may give back what earlier
    /// connections left
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    pids: Vec<i32>,
    /// Keep this process on one CPU
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Length of the steady part
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    duration: u64,
}

#[derive(Debug, Args)]
struct PlayArgs {
    /// rtmp://host:port/app/stream or http://host:port/app/stream.flv; {i} is the number of the stream
    url: String,
    /// How many players
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    players: u32,
    /// Player i plays stream i modulo M; without it each player's {i} is its own
    #[arg(long, value_name = "M", default_value_t = 0, hide_default_value = true)]
    streams: u32,
    /// Time over which the players are opened; 500 a second without it
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    ramp: Option<u64>,
    /// So many of the players read slowly; what becomes of them is reported apart, and is no loss
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, requires = "slow_kbps")]
    slow: u32,
    /// What a slow player reads, in kbit/s
    #[arg(long, value_name = "K", default_value_t = 0, hide_default_value = true, requires = "slow")]
    slow_kbps: u64,
    /// How long a player may be without a byte, in milliseconds; more is a gap
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    gap: u64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct PublishArgs {
    /// rtmp://host:port/app/stream; {i} is the number of the publisher
    url: String,
    /// How many publishers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// What they publish: an FLV file, whose times set the pace
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Time over which the publishers are opened; 500 a second without it
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    ramp: Option<u64>,
    /// Put the time into each H.264 frame, from which `play` on the same host measures latency
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    stamp: bool,
    /// Bytes of the chunks that are sent
    #[arg(long, value_name = "BYTES", default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..=0xff_ffff))]
    chunk_size: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct RtcPlayArgs {
    /// webrtc://host:port/app/stream, or the address of WHEP; {i} is the number of the stream
    url: String,
    /// How many players
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    players: u32,
    /// Player i plays stream i modulo M; without it each player's {i} is its own
    #[arg(long, value_name = "M", default_value_t = 0, hide_default_value = true)]
    streams: u32,
    /// Players that join each second
    #[arg(long, value_name = "R", default_value_t = RTC_OPEN_PER_SECOND, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long a player may be without a packet, in milliseconds; more is a gap
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    gap: u64,
    /// Take media from there, whatever the answer says
    #[arg(long, value_name = "ADDRESS:PORT")]
    candidate: Option<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct RtcPublishArgs {
    /// webrtc://host:port/app/stream, or the address of WHIP; {i} is the number of the publisher
    url: String,
    /// How many publishers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Publishers that begin each second
    #[arg(long, value_name = "R", default_value_t = RTC_OPEN_PER_SECOND, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Sound and picture together, of each publisher
    #[arg(long, value_name = "K", default_value_t = 600, value_parser = clap::value_parser!(u64).range(50..=100_000))]
    kbps: u64,
    /// Pictures a second
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    /// Between two keyframes that nobody asked for
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    gop: u64,
    /// Send media there, whatever the answer says
    #[arg(long, value_name = "ADDRESS:PORT")]
    candidate: Option<SocketAddr>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct IdleArgs {
    /// rtmp://host:port/app/stream or http://host:port/path
    url: String,
    /// How many connections
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Time over which they are opened; 500 a second without it
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    ramp: Option<u64>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct StormArgs {
    /// rtmp://host:port/app/stream or http://host:port/path; {i} is the number of the client
    url: String,
    /// Clients that come each second
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connects_per_second: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct FloorArgs {
    /// How many players
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    players: u32,
    /// Between two rounds of writes, also with a fraction; rounds that are missed are left out
    #[arg(long, value_name = "MILLISECONDS", value_parser = parse_milliseconds)]
    interval: u64,
    /// To each player, in kbit/s
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    kbps: u64,
    /// Length of the steady part
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    duration: u64,
    /// Keep the server on one CPU
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// Keep the players on one CPU
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct FloorRtcArgs {
    /// How many players
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    players: u32,
    /// Sound and picture together, to each player
    #[arg(long, value_name = "K", default_value_t = 600, value_parser = clap::value_parser!(u64).range(50..=100_000))]
    kbps: u64,
    /// Pictures a second
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    /// Length of the steady part
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = parse_seconds)]
    duration: u64,
    /// Keep the server on one CPU
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,
    /// Keep the players on one CPU
    #[arg(long, value_name = "CPU")]
    client_cpu: Option<usize>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
struct RtpFeedArgs {
    /// Where sound goes
    audio: SocketAddr,
    /// Where the picture goes
    video: SocketAddr,
    /// Sound and picture together
    #[arg(long, value_name = "K", default_value_t = 600, value_parser = clap::value_parser!(u64).range(50..=100_000))]
    kbps: u64,
    /// Pictures a second
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
    fps: u32,
    /// Between two keyframes
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    gop: u64,
    /// How long
    #[arg(long, value_name = "SECONDS", default_value = "86400", value_parser = parse_seconds)]
    duration: u64,
    /// Keep this process on one CPU
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
}

#[derive(Debug, Args)]
struct FloorRtcServerArgs {
    #[arg(long)]
    parent: i32,
    #[arg(long)]
    kbps: u64,
    #[arg(long)]
    fps: u32,
    #[arg(long)]
    cpu: Option<usize>,
}

#[derive(Debug, Args)]
struct FloorServerArgs {
    #[arg(long)]
    parent: i32,
    #[arg(long)]
    players: usize,
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    interval_ns: u64,
    #[arg(long)]
    kbps: u64,
    #[arg(long)]
    cpu: Option<usize>,
}

/// Seconds, also with a fraction, as nanoseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range that is checked")]
fn parse_seconds(text: &str) -> Result<u64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.0..=SECONDS_MAX).contains(&seconds) {
        Ok((seconds * SECOND as f64) as u64)
    } else {
        Err(format!("not between 0 and {SECONDS_MAX} seconds"))
    }
}

/// Milliseconds above zero, also with a fraction, as nanoseconds.
fn parse_milliseconds(text: &str) -> Result<u64, String> {
    let milliseconds: f64 = text.parse().map_err(|_| "not a number of milliseconds".to_owned())?;
    match parse_seconds(&(milliseconds / 1000.0).to_string()) {
        Ok(0) | Err(_) => Err("not a time above 0".to_owned()),
        done => done,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count over a rate")]
fn ramp(count: u32, per_second: f64) -> u64 {
    (f64::from(count) / per_second * SECOND as f64) as u64
}

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Play(args) => play(&args),
        Command::Publish(args) => publish(&args),
        Command::Idle(args) => idle(&args),
        Command::Storm(args) => storm(&args),
        Command::Floor(args) => floor(&args),
        Command::FloorServer(args) => floor_server(&args),
        Command::FloorRtc(args) => floor_rtc(&args),
        Command::FloorRtcServer(args) => floor_rtc_server(&args),
        Command::RtpFeed(args) => rtp_feed(&args),
        Command::RtcPlay(args) => rtc_play(args),
        Command::RtcPublish(args) => rtc_publish(args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("weir-loadtest: {error:#}");
        ExitCode::from(USAGE)
    })
}

fn play(args: &PlayArgs) -> anyhow::Result<ExitCode> {
    if args.slow > args.players {
        bail!("--slow {} is more than there are players", args.slow);
    }
    let target = tcp_target(&args.url)?;
    let address = target.address;
    let load = Play::new(play::Options {
        target,
        players: args.players as usize,
        streams: args.streams as usize,
        slow: args.slow as usize,
        slow_kbps: args.slow_kbps,
        gap: args.gap * MILLISECOND,
    });
    let plan = plan(&args.common, args.players, args.ramp);
    execute(load, &plan, address, &args.common)
}

fn publish(args: &PublishArgs) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&args.url)?;
    if target.scheme != Scheme::Rtmp {
        bail!("{} is published over RTMP only", args.url);
    }
    let file = FlvFile::read(&args.file).with_context(|| args.file.display().to_string())?;
    let address = target.address;
    let load = Publish::new(publish::Options {
        target,
        publishers: args.publishers as usize,
        file,
        chunk_size: args.chunk_size,
        stamp: args.stamp,
    });
    execute(load, &plan(&args.common, args.publishers, args.ramp), address, &args.common)
}

fn idle(args: &IdleArgs) -> anyhow::Result<ExitCode> {
    let target = tcp_target(&args.url)?;
    let address = target.address;
    let load = Idle::new(target, args.connections as usize);
    execute(load, &plan(&args.common, args.connections, args.ramp), address, &args.common)
}

fn storm(args: &StormArgs) -> anyhow::Result<ExitCode> {
    let target = tcp_target(&args.url)?;
    let address = target.address;
    let clients = u128::from(args.connects_per_second) * u128::from(args.common.duration) / u128::from(SECOND);
    let count = usize::try_from(clients)?.max(1);
    let at_once = count.min(args.connects_per_second as usize);
    let plan = Plan {
        count,
        at_once,
        ramp: args.common.duration,
        whole: true,
        pids: args.common.pids.clone(),
        ..Plan::default()
    };
    execute(Storm::new(target, count), &plan, address, &args.common)
}

fn rtc_play(args: RtcPlayArgs) -> anyhow::Result<ExitCode> {
    let target = rtc_target(&args.url)?;
    let address = target.address;
    let load = rtc::play::Play::new(rtc::play::Options {
        target,
        players: args.players as usize,
        streams: args.streams as usize,
        gap: args.gap * MILLISECOND,
        candidate: args.candidate,
    })?;
    let plan = plan(&args.common, args.players, Some(ramp(args.players, args.rate.into())));
    execute(load, &plan, address, &args.common)
}

fn rtc_publish(args: RtcPublishArgs) -> anyhow::Result<ExitCode> {
    let target = rtc_target(&args.url)?;
    if target.scheme == Scheme::Janus {
        bail!("Janus is played from only: see rtp-feed");
    }
    let address = target.address;
    let load = rtc::publish::Publish::new(rtc::publish::Options {
        target,
        publishers: args.publishers as usize,
        kbps: args.kbps,
        fps: args.fps,
        gop: args.gop,
        candidate: args.candidate,
    })?;
    let plan = plan(&args.common, args.publishers, Some(ramp(args.publishers, args.rate.into())));
    execute(load, &plan, address, &args.common)
}

fn tcp_target(url: &str) -> anyhow::Result<Target> {
    let target = Target::parse(url)?;
    if matches!(target.scheme, Scheme::Webrtc | Scheme::Janus) {
        bail!("{url} is for rtc-play and rtc-publish");
    }
    Ok(target)
}

fn rtc_target(url: &str) -> anyhow::Result<Target> {
    let target = Target::parse(url)?;
    if target.scheme == Scheme::Rtmp {
        bail!("{url} is neither webrtc:// nor the address of WHIP or WHEP");
    }
    Ok(target)
}

fn plan(common: &Common, count: u32, given_ramp: Option<u64>) -> Plan {
    Plan {
        count: count as usize,
        at_once: count as usize,
        ramp: given_ramp.unwrap_or_else(|| ramp(count, OPEN_PER_SECOND)),
        settle: SETTLE,
        steady: common.duration,
        whole: false,
        pids: common.pids.clone(),
    }
}

fn floor(args: &FloorArgs) -> anyhow::Result<ExitCode> {
    let rhythm = Rhythm { players: args.players as usize, interval: args.interval, kbps: args.kbps };
    rhythm.burst()?;
    let mut load = Floor::new(rhythm);
    // Its process is measured: the figures have the same names as with any other.
    check_names(&args.output, &load.report(&Outcome { server: Some(drive::Server::default()), ..Outcome::default() }))?;
    // The server's own descriptors are as many.
    machine::allow_connections(rhythm.players)?;
    let mut server = Server::start(rhythm, args.server_cpu)?;
    machine::pin(args.client_cpu)?;
    let plan = Plan {
        count: rhythm.players,
        at_once: rhythm.players,
        ramp: ramp(args.players, FLOOR_OPEN_PER_SECOND),
        settle: SETTLE.max(2 * args.interval),
        steady: args.duration,
        whole: false,
        pids: vec![server.pid()],
    };
    let outcome = drive::run(&mut load, &plan, server.address).context("epoll")?;
    load.heard(server.words());
    conclude(&load.report(&outcome), &outcome, &load.reasons(), &args.output)
}

fn floor_rtc(args: &FloorRtcArgs) -> anyhow::Result<ExitCode> {
    let FloorRtcArgs { players, kbps, fps, duration, server_cpu, .. } = *args;
    machine::allow_connections(players as usize)?;
    machine::pin(args.client_cpu)?;
    let load = rtc::floor::Load { players: players as usize, kbps, fps, duration, server_cpu };
    let (report, outcome) = rtc::floor::run(&load)?;
    check_names(&args.output, &report)?;
    conclude(&report, &outcome, &[], &args.output)
}

fn rtp_feed(args: &RtpFeedArgs) -> anyhow::Result<ExitCode> {
    machine::pin(args.cpu)?;
    let RtpFeedArgs { audio, video, kbps, fps, gop, duration, .. } = *args;
    rtc::publish::feed([audio, video], kbps, fps, gop, duration)?;
    Ok(ExitCode::SUCCESS)
}

fn floor_rtc_server(args: &FloorRtcServerArgs) -> anyhow::Result<ExitCode> {
    machine::pin(args.cpu)?;
    rtc::floor::serve(args.kbps, args.fps, args.parent)?;
    Ok(ExitCode::SUCCESS)
}

fn floor_server(args: &FloorServerArgs) -> anyhow::Result<ExitCode> {
    machine::pin(args.cpu)?;
    let rhythm = Rhythm { players: args.players, interval: args.interval_ns, kbps: args.kbps };
    floor::serve(rhythm, args.parent)?;
    Ok(ExitCode::SUCCESS)
}

fn execute<L: Load>(mut load: L, plan: &Plan, address: SocketAddr, common: &Common) -> anyhow::Result<ExitCode> {
    if let Some(pid) = plan.pids.iter().find(|pid| !usage::exists(**pid)) {
        bail!("there is no process {pid}");
    }
    check_names(&common.output, &load.report(&Outcome::blank(plan)))?;
    machine::allow_connections(plan.at_once)?;
    machine::pin(common.cpu)?;
    let outcome = drive::run(&mut load, plan, address).context("epoll")?;
    conclude(&load.report(&outcome), &outcome, &load.reasons(), &common.output)
}

/// Sees that what is required can be had, before anything is done.
fn check_names(output: &Output, blank: &Report) -> anyhow::Result<()> {
    for requirement in &output.require {
        requirement.check_name(blank).context("--require")?;
    }
    Ok(())
}

/// Prints the report and judges it.
fn conclude(
    report: &Report,
    outcome: &Outcome,
    reasons: &[(String, u64)],
    output: &Output,
) -> anyhow::Result<ExitCode> {
    for (reason, count) in reasons {
        eprintln!("{count} {reason}");
    }
    for warning in outcome.warnings() {
        eprintln!("warning: {warning}");
    }
    let text = if output.json { serde_json::to_string(report)? } else { report.table() };
    // A reader that went away is no failure worth a word.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), (text + "\n").as_bytes());
    let unmet: Vec<_> = output.require.iter().filter_map(|requirement| requirement.failure(report)).collect();
    let losses = report.losses();
    for word in unmet.iter().cloned().chain(losses.iter().map(|lost| format!("lost: {lost}"))) {
        eprintln!("{word}");
    }
    Ok(if unmet.is_empty() && losses.is_none() { ExitCode::SUCCESS } else { ExitCode::from(LOST) })
}
