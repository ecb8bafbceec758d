//! The command line.

mod clients;
mod ctl;
mod notes;
mod sign;
mod status;
mod streams;
mod top;
mod units;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Parser, Subcommand};
use weir_node::cert;
use weir_node::config::{Config, DEFAULT_YAML, load};
use weir_node::log;
use weir_node::tls::ClusterTls;
use weir_node::tls_sites::SitesTls;
use weir_node::worker::{Role, WorkerArgs};
use weir_supervisor::host;
use weir_supervisor::spawn::Program;

/// A live-streaming server: takes a stream in once and spreads it over every core of the host
#[derive(Debug, Parser)]
#[command(name = "weir", version = version(), args_conflicts_with_subcommands = true)]
#[command(after_help = "Without a command weir runs the host, as `weir run` does.")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: File,
}

/// The configuration to use.
#[derive(Clone, Debug, clap::Args)]
struct File {
    /// Configuration file; without it the built-in configuration. WEIR_* variables win over both
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl File {
    /// The configuration, with its certificates looked at too. The error is for people, and names every fault.
    fn load(&self) -> Result<Config, String> {
        let config = load(self.path.as_deref(), std::env::vars()).map_err(|errors| errors.to_string())?;
        if !config.cluster.tls.is_off() {
            ClusterTls::load(&config.cluster.tls).map_err(|error| format!("cluster.tls: {error}"))?;
        }
        if !config.edge.tls.is_empty() {
            SitesTls::load(&config.edge.tls).map_err(|error| format!("edge.tls: {error}"))?;
        }
        Ok(config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host: the supervisor and its workers
    Run(File),
    /// Say whether a configuration is right, or everything that is wrong with it
    Check(File),
    /// Print the built-in configuration, which explains every key
    Config,
    /// Make certificates: of a cluster, or for development
    #[command(subcommand)]
    Cert(Cert),
    /// Sign the address of a stream, so that it can be published or played for a while
    Sign {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        sign: sign::Sign,
    },
    /// Ask or tell the weir that runs on this host
    Ctl(ctl::Ctl),
    /// The worker of an edge slot
    #[command(hide = true)]
    Edge(Worker),
    /// The worker of an origin slot
    #[command(hide = true)]
    Origin(Worker),
    /// Whether this executable can go on with the host that asks
    #[command(hide = true)]
    UpgradeCheck,
}

#[derive(Debug, Subcommand)]
enum Cert {
    /// Make the authority that every host of the cluster trusts: ca.pem and ca.key
    Ca {
        /// Directory to write to
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
    },
    /// Make the certificate of a host: NAME.pem and NAME.key
    Node {
        /// Directory that holds ca.pem and ca.key, and to write to
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// Host names and addresses by which the other hosts reach it
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Make a certificate for HTTPS and RTMPS in development, which nobody trusts: weir-dev.pem and weir-dev.key
    Dev {
        /// Directory to write to
        #[arg(long, value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// Host names and addresses by which clients reach it; without any, localhost's
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Names of a development certificate where none are given.
const DEV_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What a worker is told on its command line.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Worker {
    #[arg(long)]
    slot: u32,
    #[arg(long)]
    incarnation: u64,
}

impl From<Worker> for WorkerArgs {
    fn from(Worker { slot, incarnation }: Worker) -> Self {
        Self { slot, incarnation }
    }
}

fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
        format!("{} ({build} build for {arch}-{os})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}

/// Runs what the command line says.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(file) => run(&file),
        Command::Check(file) => check(&file),
        Command::Config => print(DEFAULT_YAML.trim_end()),
        Command::Cert(Cert::Ca { dir }) => print_or_fail(cert::make_ca(&dir)),
        Command::Cert(Cert::Node { dir, names }) => print_or_fail(cert::make_node(&dir, &names)),
        Command::Cert(Cert::Dev { dir, names }) => {
            let names = if names.is_empty() { DEV_NAMES.map(str::to_owned).to_vec() } else { names };
            print_or_fail(cert::make_site(&dir, &names))
        }
        Command::Sign { file, sign } => match file.load() {
            Ok(config) => print_or_fail(sign.run(&config)),
            Err(errors) => fail(errors),
        },
        Command::Ctl(ctl) => print_or_fail(ctl.run()),
        Command::Edge(args) => weir_node::worker::run(Role::Edge, args.into(), weir_edge::run),
        Command::UpgradeCheck => print_or_fail(host::check()),
        Command::Origin(args) => weir_node::worker::run(Role::Origin, args.into(), weir_origin::run),
    }
}

fn run(file: &File) -> ExitCode {
    // First of all: what the image before left are descriptors.
    let state = match host::inherited() {
        Ok(state) => state,
        Err(error) => return fail(format!("{error:#}")),
    };
    let config = match state.as_ref().map_or_else(|| file.load(), |state| Ok(state.config().clone())) {
        Ok(config) => config,
        Err(errors) => return fail(errors),
    };
    let source = file.clone();
    let again: host::Load = Box::new(move || source.load());
    let program = Program::own_image();
    let logs = log::init(&config.log, "weir", None).map_err(anyhow::Error::from);
    let done = match (logs, state) {
        (Ok(()), Some(state)) => host::resume(state, program, again),
        (Ok(()), None) => host::run(config, program, again),
        (Err(error), Some(state)) => Err(state.give_up(error)),
        (Err(error), None) => Err(error),
    };
    done.unwrap_or_else(|error| fail(format!("{error:#}")))
}

fn check(file: &File) -> ExitCode {
    let name =
        file.path.as_ref().map_or_else(|| "built-in configuration".to_owned(), |path| path.display().to_string());
    match file.load() {
        Ok(_) => print(format!("{name}: ok")),
        Err(errors) => {
            eprintln!("{errors}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output; an empty text is no line. A reader that went away is no failure worth a word.
fn print(text: impl fmt::Display) -> ExitCode {
    use std::io::Write;
    let text = text.to_string();
    if text.is_empty() {
        return ExitCode::SUCCESS;
    }
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn fail(error: impl fmt::Display) -> ExitCode {
    eprintln!("weir: {error}");
    ExitCode::FAILURE
}

fn print_or_fail<T: fmt::Display, E: Into<anyhow::Error>>(done: Result<T, E>) -> ExitCode {
    match done {
        Ok(text) => print(text),
        Err(error) => fail(format!("{:#}", error.into())),
    }
}
