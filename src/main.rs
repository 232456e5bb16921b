//! The one binary: relay, client, demonstration, and the commands that ask a running daemon.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::config::amount;
use crate::failure::Kind;
use crate::output::{Format, NobodyReads};

mod bond;
mod cli;
mod config;
mod control;
mod control_client;
mod daemon;
mod demo;
mod descriptors;
mod doctor;
mod facts;
mod failure;
mod keystore;
mod money;
mod network;
mod open;
mod output;
mod outside;
mod relays;
mod report;
mod sample;
mod setup;
mod wallet;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    log(&cli.command);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<NobodyReads>() => ExitCode::SUCCESS,
        Err(error) => {
            let kind = Kind::of(&error);
            cli.output.print_error(kind, failure::text_of(&error));
            ExitCode::from(kind.exit_code())
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let output = cli.output;
    match &cli.command {
        Command::Demo(wanted) => demo::run(wanted, output),
        Command::Up(wanted) => daemon::up(wanted, output),
        Command::Relay(cli::Relay::Run { config }) => daemon::run_relay(config, output),
        Command::Relay(cli::Relay::Setup(wanted)) => setup::run(wanted, output),
        Command::Doctor(wanted) => daemon::on_this_thread(doctor::run(wanted, output)),
        Command::Network(cli::Network::Sample(wanted)) => sample::run(wanted, output),
        Command::Network(cli::Network::Deploy(wanted)) => {
            daemon::on_this_thread(network::deploy::run(wanted, output))
        }
        Command::Network(cli::Network::Open(wanted)) => network::write_open(wanted, output),
        Command::Status(at) => daemon::on_this_thread(report::status(at, output)),
        Command::Circuits(command) => daemon::on_this_thread(report::circuits(command, output)),
        Command::Relays(wanted) => daemon::on_this_thread(relays::list(wanted, output)),
        Command::Ping(wanted) => daemon::on_this_thread(relays::ping(wanted, output)),
        Command::NewIdentity(at) => daemon::on_this_thread(relays::new_identity(at, output)),
        Command::Stop(wanted) => daemon::on_this_thread(report::stop(wanted, output)),
        Command::Wallet(command) => daemon::on_this_thread(wallet::run(command, output)),
        Command::Earnings(at) => daemon::on_this_thread(report::earnings(at, output)),
        Command::Price(wanted) => daemon::on_this_thread(report::price(wanted, output)),
        Command::Config(cli::Config::Example { of }) => example(*of, output),
        Command::Version => version(output),
    }
}

fn example(of: cli::Role, output: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Example {
        example: &'static str,
    }
    let example = match of {
        cli::Role::Relay => config::RELAY_EXAMPLE,
        cli::Role::Client => config::CLIENT_EXAMPLE,
    };
    output.print(&Example { example }, || example.trim_end().to_owned())
}

fn version(output: Format) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = env!("CARGO_PKG_VERSION");
    output.print(&Version { version }, || format!("chive {version}"))
}

/// Help, version or wrong usage.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        let _ = output::line(error.to_string().trim_end());
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<_> = std::env::args().collect();
    let json = arguments.iter().any(|argument| argument == "--output=json")
        || arguments.windows(2).any(|pair| pair == ["--output", "json"]);
    // What it says of -1 is that there is no option of this name.
    let negative =
        if error.kind() == ErrorKind::UnknownArgument { amount::negative(&arguments) } else { None };
    let text = negative.unwrap_or_else(|| error.to_string());
    let text = text.trim_end();
    if json {
        Format::Json.print_error(Kind::Usage, text.strip_prefix("error: ").unwrap_or(text).to_owned());
    } else if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = output::line(text);
    } else {
        Format::Text.print_error(Kind::Usage, text.strip_prefix("error: ").unwrap_or(text).to_owned());
    }
    ExitCode::from(Kind::Usage.exit_code())
}

/// Starts the log on standard error; `CHIVE_LOG` says what it has.
fn log(command: &Command) {
    let daemon = matches!(command, Command::Up(_) | Command::Relay(cli::Relay::Run { .. }));
    // What libp2p takes for news is none to an operator.
    let default = if daemon { "info,libp2p=warn,libp2p_swarm=warn,libp2p_kad=error" } else { "warn" };
    let filter = EnvFilter::try_from_env("CHIVE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}
