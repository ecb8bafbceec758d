//! The load generator: players, publishers and idle clients by the thousand, on one thread with one epoll, for weir and
//! for any other server; and the floor, which is what the kernel alone costs.
#![forbid(unsafe_code)]

mod cli;
mod clock;
mod conn;
mod drive;
mod floor;
mod flow;
mod flvfile;
mod histogram;
mod idle;
mod machine;
mod net;
mod play;
mod publish;
mod report;
mod rtc;
mod stamp;
mod storm;
mod tally;
mod target;
mod usage;

fn main() -> std::process::ExitCode {
    cli::main()
}
