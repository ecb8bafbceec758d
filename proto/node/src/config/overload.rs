//! Section `overload`: what is measured, and from where on new clients are refused.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::value::{Auto, Scalar, scalar};

/// From where on a criterion counts; `off`, or `0`, switches it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threshold<T> {
    /// Never.
    #[default]
    Off,
    /// From this value on.
    At(T),
}

impl<T> Threshold<T> {
    /// The value, if it is on.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::At(value) => Some(value),
        }
    }
}

impl<T: Scalar> Scalar for Threshold<T> {
    const WANTED: &'static str = "off or a value";

    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "off" | "0" => Ok(Self::Off),
            text => T::parse(text)
                .map(Self::At)
                .map_err(|_| format!("{text:?} is not understood; write off or {}", T::WANTED)),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Off => "off".to_owned(),
            Self::At(value) => value.show(),
        }
    }
}

/// Sections of one criterion each: `warn` and `refuse`, and what else it needs.
macro_rules! criteria {
    ($($(#[$doc:meta])* $name:ident($value:ty): $warn:expr, $refuse:expr
        $(, { $($(#[$key_doc:meta])* $key:ident: $key_type:ty $(as $with:literal)? = $default:expr),+ $(,)? })?;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $name {
                /// From here on it is warned.
                #[serde(with = "scalar")]
                pub warn: Threshold<$value>,
                /// From here on new clients are refused.
                #[serde(with = "scalar")]
                pub refuse: Threshold<$value>,
                $($($(#[$key_doc])* $(#[serde(with = $with)])? pub $key: $key_type,)+)?
            }

            impl Default for $name {
                fn default() -> Self {
                    Self { warn: $warn, refuse: $refuse, $($($key: $default,)+)? }
                }
            }
        )*
    };
}

use Threshold::{At, Off};

criteria! {
    /// `overload.worker_cpu`: CPU time of one worker's thread, in per cent of one core.
    WorkerCpu(u32): At(80), At(95);
    /// `overload.host_cpu`: CPU time of all processes, in per cent of all cores.
    HostCpu(u32): At(80), At(95);
    /// `overload.nic`: bits through a network interface, in per cent of its limit, in the fuller direction.
    Nic(u32): At(80), At(95), {
        /// Name of the interface; `auto`: those of the default routes.
        interface: String = "auto".to_owned(),
        /// Mbit/s in each direction; `auto`: the speed that the driver tells, and no criterion where it tells none.
        limit: Auto<u32> as "scalar" = Auto::Auto,
    };
    /// `overload.udp_drops`: datagrams a second that the kernel dropped at one worker's sockets because they were full.
    UdpDrops(u32): At(1), Off;
    /// `overload.memory`: memory in use, in per cent of the host's or of the control group's limit, whichever is nearer.
    Memory(u32): At(80), At(95);
    /// `overload.disk`: used space of a file system, in per cent.
    Disk(u32): At(90), Off, {
        /// A path on it.
        path: String = "/".to_owned(),
    };
    /// `overload.loop_lag`: how late a worker's loop was at worst within a second.
    LoopLag(Duration): At(Duration::from_millis(100)), At(Duration::from_millis(500));
    /// `overload.connections`: TCP clients of one worker, in per cent of `edge.connections`.
    Connections(u32): At(90), Off;
}

/// Section `overload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overload {
    /// Whether anything is judged at all.
    pub enabled: bool,
    /// How long a value must be at or above a threshold before it counts.
    #[serde(with = "scalar")]
    pub enter: Duration,
    /// How long it must be well below before it counts no more.
    #[serde(with = "scalar")]
    pub leave: Duration,
    /// Time between two lines about lost datagrams; zero: none.
    #[serde(with = "scalar")]
    pub loss_log: Duration,
    /// Where clients are sent that are refused.
    pub redirect: Redirect,
    /// CPU of a worker.
    pub worker_cpu: WorkerCpu,
    /// CPU of the host.
    pub host_cpu: HostCpu,
    /// Bandwidth.
    pub nic: Nic,
    /// Lost datagrams.
    pub udp_drops: UdpDrops,
    /// Memory.
    pub memory: Memory,
    /// Space of a file system.
    pub disk: Disk,
    /// Lateness of a worker.
    pub loop_lag: LoopLag,
    /// Clients of a worker.
    pub connections: Connections,
}

impl Default for Overload {
    fn default() -> Self {
        Self {
            enabled: true,
            enter: Duration::from_secs(3),
            leave: Duration::from_secs(10),
            loss_log: Duration::from_secs(10),
            redirect: Redirect::default(),
            worker_cpu: WorkerCpu::default(),
            host_cpu: HostCpu::default(),
            nic: Nic::default(),
            udp_drops: UdpDrops::default(),
            memory: Memory::default(),
            disk: Disk::default(),
            loop_lag: LoopLag::default(),
            connections: Connections::default(),
        }
    }
}

/// Section `overload.redirect`: `HOST` or `HOST:PORT` of another host by protocol; empty: clients are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// For RTMP clients.
    pub rtmp: String,
    /// For HTTP clients.
    pub http: String,
    /// For those that came over TLS.
    pub https: String,
}
