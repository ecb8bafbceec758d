//! The table of all metrics.

use super::Family;
use super::Kind::{Counter, Gauge, Histogram, Worst};
use super::Per::{Host, Slot, Worker};

/// Bounds for how long a player waits for its first picture, in seconds.
const WAITS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0];

/// Bounds for how long a frame stays in a worker, in seconds.
const DELAYS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0];

/// Bounds for how long another program takes to answer, in seconds.
const CALLS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

macro_rules! families {
    ($($name:ident: $kind:expr, $text:literal, $per:expr, [$($label:literal),*], $help:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`: ", $help)]
            pub static $name: Family =
                Family { name: $text, help: $help, kind: $kind, per: $per, labels: &[$($label),*] };
        )*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$name),*];
    };
}

families! {
    BUILD_INFO: Gauge, "weir_build_info", Host, ["version"], "Always 1; the version is a label.";
    START_TIME: Gauge, "weir_start_time_seconds", Host, [], "When the supervisor started, in UNIX time.";
    CONFIG_GENERATION: Gauge, "weir_config_generation", Host, [], "Number of the configuration in force.";
    RELOAD_SUCCESS: Gauge, "weir_config_reload_success", Host, [], "Whether the last reload of the configuration was taken over.";
    RELOADS: Counter, "weir_config_reloads_total", Host, ["result"], "Reloads of the configuration.";

    WORKER_UP: Gauge, "weir_worker_up", Worker, [], "Whether the slot has a worker that serves.";
    WORKER_RESTARTS: Counter, "weir_worker_restarts_total", Worker, [], "Deaths of the slot's workers.";
    WORKER_START: Gauge, "weir_worker_start_time_seconds", Worker, [], "When the slot's youngest worker started, in UNIX time.";
    WORKER_CPU: Gauge, "weir_worker_cpu_ratio", Worker, [], "CPU use, of one core, over the last second.";
    WORKER_MEMORY: Gauge, "weir_worker_memory_bytes", Worker, [], "Resident memory.";
    BUSY: Gauge, "weir_worker_busy_ratio", Worker, [], "Share of its time that the worker's thread worked, over the last second.";
    LOOP_LAG: Worst, "weir_worker_loop_lag_seconds", Worker, [], "How late the worker's loop was at worst in the last second.";
    ROUND: Worst, "weir_worker_round_seconds", Slot, [], "Time between two rounds of streams with mw_latency: auto.";

    CONNECTIONS: Gauge, "weir_connections", Worker, [], "Open connections: clients of an edge, edges of an origin.";
    ACCEPTS: Counter, "weir_accepts_total", Slot, [], "Connections accepted.";
    SESSIONS: Gauge, "weir_sessions", Slot, ["protocol", "kind"], "Clients that publish or play.";
    SESSIONS_OPENED: Counter, "weir_sessions_total", Host, ["protocol", "kind"], "Clients that began to publish or play.";
    STREAMS: Gauge, "weir_streams", Worker, [], "Streams: those pulled by an edge, those known to an origin.";
    PUBLISHERS: Gauge, "weir_publishers", Worker, [], "Streams with a publisher.";

    RECEIVED_BYTES: Counter, "weir_received_bytes_total", Worker, [], "Bytes received: by an edge from clients, by an origin from edges.";
    SENT_BYTES: Counter, "weir_sent_bytes_total", Worker, [], "Bytes sent: by an edge to clients, by an origin to edges.";
    VHOST_RECEIVED_BYTES: Counter, "weir_received_bytes_by_vhost_total", Host, ["vhost", "app", "protocol"], "Bytes of media received from publishers; past 100 pairs of vhost and app, under other.";
    VHOST_SENT_BYTES: Counter, "weir_sent_bytes_by_vhost_total", Host, ["vhost", "app", "protocol"], "Bytes sent to players of streams; past 100 pairs of vhost and app, under other.";
    FRAMES: Counter, "weir_frames_total", Host, ["direction", "media"], "Frames that publishers sent.";

    JOINS: Counter, "weir_joins_total", Host, ["protocol"], "Players that got their first media.";
    FIRST_FRAME: Histogram(WAITS), "weir_first_frame_seconds", Host, ["protocol"], "From a player's request to the first byte of media written to it.";
    FRAME_LATENCY: Histogram(DELAYS), "weir_frame_latency_seconds", Host, [], "From a frame's arrival at an edge worker to the round that writes it to players; one frame a round is looked at.";
    SKIPS: Counter, "weir_skips_total", Slot, [], "Slow players that were moved forward to a newer keyframe.";
    SLOW_CLOSED: Counter, "weir_slow_closed_total", Slot, [], "Players that were closed because they lagged too far behind.";
    REFUSALS: Counter, "weir_refusals_total", Host, ["reason"], "Connections, publishers and players that were refused.";

    CALLBACKS: Counter, "weir_callbacks_total", Host, ["hook", "result"], "HTTP callbacks, by what came of them: ok, refused, failed, or dropped for want of room.";
    CALLBACK_SECONDS: Histogram(CALLS), "weir_callback_seconds", Host, ["hook"], "From a callback to its answer, or to the end of its time.";

    OVERLOAD_STATE: Worst, "weir_overload_state", Worker, [], "Whether the worker takes new work, by its own criteria and the host's: 0 yes, 1 yes but near a limit, 2 no.";
    OVERLOAD_REASON: Worst, "weir_overload_reason", Worker, ["criterion"], "1 while the criterion holds.";
    OVERLOAD_REFUSED: Counter, "weir_overload_refused_total", Slot, [], "Clients refused, or sent to another host, for overload.";
    OVERLOAD_PASSED: Counter, "weir_overload_passed_total", Slot, [], "Clients that an overloaded worker gave to a sibling before anything was read of them.";
    HOST_CPU: Gauge, "weir_host_cpu_ratio", Host, [], "CPU use of all programs, of all cores, over the last second.";
    HOST_MEMORY: Gauge, "weir_host_memory_available_bytes", Host, [], "Memory that can be had, of the host or of its control group, whichever is nearer to its limit.";
    HOST_NIC: Gauge, "weir_host_nic_ratio", Host, [], "How full the fullest network interface is, in its fuller direction, over the last second.";
    HOST_NIC_BYTES: Counter, "weir_host_nic_bytes_total", Host, ["direction"], "Bytes through the watched network interfaces.";
    HOST_DISK: Gauge, "weir_host_disk_free_ratio", Host, [], "Free space of the watched file system.";
    UDP_RECEIVE_DROPS: Counter, "weir_udp_receive_drops_total", Worker, ["socket"], "Datagrams that the kernel dropped because the socket's queue was full.";
    UDP_SEND_DROPS: Counter, "weir_udp_send_drops_total", Host, [], "Datagrams of all programs of the host that found no room to be sent.";

    HANDOVER_SESSIONS: Counter, "weir_handover_sessions_total", Host, ["result"], "Clients of workers that were replaced: moved to the next worker, or failed to and stayed.";

    RELAY_PULLS: Gauge, "weir_relay_pulls", Slot, [], "Streams that an edge worker pulls from an origin now.";
    RELAY_PULLS_BEGUN: Counter, "weir_relay_pulls_total", Slot, [], "Subscriptions to streams at origins.";
    RELAY_LINKS: Gauge, "weir_relay_links", Worker, [], "Relay connections that are up.";
    RELAY_SKIPS: Counter, "weir_relay_skips_total", Worker, [], "Groups left out on relay connections that did not keep up.";

    RTC_PACKETS: Counter, "weir_rtc_packets_total", Worker, ["direction"], "Datagrams of WebRTC: media, feedback, checks and handshakes.";
    RTC_BYTES: Counter, "weir_rtc_bytes_total", Worker, ["direction"], "Bytes of WebRTC's datagrams.";
    RTC_SEND_DROPS: Counter, "weir_rtc_send_drops_total", Worker, [], "Datagrams of WebRTC that the kernel had no room for.";
    RTC_REJECTED: Counter, "weir_rtc_rejected_total", Worker, ["reason"], "Datagrams that were dropped: of nobody known or malformed (stray), or not authentic (forged).";
    RTC_FAILED: Counter, "weir_rtc_failed_total", Worker, [], "WebRTC sessions that never connected.";
    RTC_NACKS: Counter, "weir_rtc_nacks_total", Worker, ["direction"], "Packets asked for again: by players (in), of publishers (out).";
    RTC_REPAIRS: Counter, "weir_rtc_repairs_total", Worker, ["direction"], "Packets that came again of publishers (in), or were sent again to players (out).";
    RTC_KEYFRAME_REQUESTS: Counter, "weir_rtc_keyframe_requests_total", Worker, ["direction"], "Keyframes asked for: by players (in), of publishers (out).";
    RTC_BFRAMES: Counter, "weir_rtc_bframes_dropped_total", Worker, [], "B-frames of RTMP publishers that WebRTC players were not sent.";
    RTC_GAPS: Counter, "weir_rtc_bridge_gaps_total", Worker, [], "Gaps in what WebRTC publishers sent that RTMP players saw.";
    RTC_PLAYER_LOSS: Gauge, "weir_rtc_player_loss_ratio", Worker, [], "Share of packets that players say they lost, at the mean of all players.";
    RTC_PLAYER_RTT: Gauge, "weir_rtc_player_rtt_seconds", Worker, [], "Round trip time to players, at their mean.";

    ROOMS: Gauge, "weir_rooms", Worker, [], "Signaling rooms that an origin holds.";
    ROOM_MEMBERS: Gauge, "weir_room_members", Worker, [], "Members of all its rooms.";
    SIGNAL_SOCKETS: Gauge, "weir_signal_sockets", Slot, [], "Open connections of signaling.";
    SIGNAL_MESSAGES: Counter, "weir_signal_messages_total", Host, ["direction"], "Messages of signaling: from clients (in), to clients (out).";
    SIGNAL_REFUSALS: Counter, "weir_signal_refusals_total", Host, ["reason"], "Requests of signaling that were answered with an error.";
    SIGNAL_CLOSED: Counter, "weir_signal_closed_total", Host, ["reason"], "Connections of signaling that the server closed.";

    LOG_MEMORY: Gauge, "weir_log_memory_bytes", Slot, [], "Memory of the logs that players read from.";
    GOP_MEMORY: Gauge, "weir_gop_memory_bytes", Worker, [], "Frames of the current groups: of an edge's publishers, of an origin's streams.";

    UNSTEADY: Gauge, "weir_publishers_unsteady", Slot, [], "Publishers with gaps in the last 10 s, or whose frame rate fell below 80 % of their own average.";
    STREAM_FRAME_RATE: Gauge, "weir_publisher_frame_rate", Host, ["vhost", "app", "stream"], "Frames a second from the publisher, over the last 10 s.";
    STREAM_GAPS: Counter, "weir_publisher_dts_gaps_total", Host, ["vhost", "app", "stream"], "Gaps and jumps in the times of the publisher's frames, since it came.";
    STREAM_JITTER: Gauge, "weir_publisher_arrival_jitter_seconds", Host, ["vhost", "app", "stream"], "How unevenly frames arrive against their times, as RFC 3550 has it.";
    STREAM_BITRATE: Gauge, "weir_publisher_bitrate", Host, ["vhost", "app", "stream"], "Bits a second from the publisher, over the last 10 s.";
    STREAM_PLAYERS: Gauge, "weir_stream_players", Host, ["vhost", "app", "stream"], "Players of the stream.";
}
