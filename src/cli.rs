//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use circuit::keys::RelayId;
use clap::{Args, Parser, Subcommand, ValueEnum};
use client::wishes::{Country, Wishes};
use directory::chain::{Wei, parse_address, parse_amount};
use payments::Address;
use payments::amount::Rate;

use crate::config::amount::{above_zero, amount};
use crate::config::wishes::{self, Excluded, exclude};
use crate::config::{DEFAULT_HOPS, MAX_HOPS, limits};
use crate::output::Format;

/// The UDP port of a relay where none is named.
const PORT: u16 = 7000;

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 wrong usage, 3 the daemon is not running, 4 timed out, 5 no path of the wanted form,
6 not enough funds.
Logs go to standard error; CHIVE_LOG chooses them, for example CHIVE_LOG=debug.";

/// Chive: a multi-hop onion overlay router.
#[derive(Debug, Parser)]
#[command(name = "chive", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print text for people, or one JSON document per line (errors too).
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole network in this process: relays, a web site and a client to try it with.
    Demo(Demo),
    /// Run the client: applications reach the network by SOCKS5.
    Up(Up),
    /// Show what a running client or relay does.
    Status(At),
    /// Show the circuits of a running client or relay.
    Circuits(Circuits),
    /// Show the relays that a running client knows, and what it has measured of them.
    Relays(Relays),
    /// Measure how long the way through a running client's circuits takes.
    Ping(Ping),
    /// Have a running client use new circuits for all new streams; its entry stays.
    NewIdentity(At),
    /// Stop a running client or relay, and wait until it is gone.
    Stop(Stop),
    /// Set up and run a relay.
    #[command(subcommand)]
    Relay(Relay),
    /// Check what a relay or a client needs, and say what to do about what it lacks.
    Doctor(Doctor),
    /// Keep a key and its pot at the payment contract: what a client pays from, and a relay is paid to.
    #[command(subcommand)]
    Wallet(Wallet),
    /// Show what a running relay has earned.
    Earnings(At),
    /// Show or set what a running relay asks for a cell.
    Price(Price),
    /// Make networks.
    #[command(subcommand)]
    Network(Network),
    /// Show how configuration files are written.
    #[command(subcommand)]
    Config(Config),
    /// Show the version.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Download and upload through the network, compare every byte, and end with exit code 0 or 1.
    #[arg(long)]
    pub(crate) check: bool,
    /// Relays in a path.
    #[arg(long, default_value_t = DEFAULT_HOPS, value_parser = hops, value_name = "1..5")]
    pub(crate) hops: usize,
    /// Relays in the network.
    #[arg(long, default_value_t = 8, value_parser = demo_relays, value_name = "3..64")]
    pub(crate) relays: usize,
    /// How much the check moves each way, in MiB.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=100_000), requires = "check", value_name = "N")]
    pub(crate) mib: u64,
    /// What each relay passes on at most, as in the configuration of a relay; without it, as fast as this machine can.
    #[arg(long, value_parser = bytes_per_second, value_name = "RATE")]
    pub(crate) rate: Option<u64>,
    /// Where the client listens for SOCKS5; port 0 is any free port.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "IP:PORT")]
    pub(crate) socks: SocketAddr,
    /// Relays work for nothing, and there is no chain.
    #[arg(long)]
    pub(crate) free: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The client's configuration file; `chive config example client` shows one.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Where to listen for SOCKS5, instead of what the file says.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) socks: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) wished: Wished,
}

/// What is wanted of every path, instead of what the file says; nothing of it is ever given up.
#[derive(Debug, Args)]
#[command(next_help_heading = "Paths")]
pub(crate) struct Wished {
    /// Relays in a path.
    #[arg(long, value_parser = hops, value_name = "1..5")]
    pub(crate) hops: Option<usize>,
    /// Countries that the last relay may be in.
    #[arg(long, value_delimiter = ',', value_parser = wishes::country, value_name = "nl,de,..")]
    pub(crate) exit: Vec<Country>,
    /// Countries that the first relay may be in.
    #[arg(long, value_delimiter = ',', value_parser = wishes::country, value_name = "nl,de,..")]
    pub(crate) entry: Vec<Country>,
    /// Countries and relays that no path may have.
    #[arg(long, value_delimiter = ',', value_name = "ru,ID,..")]
    pub(crate) exclude: Vec<Excluded>,
    /// No two relays of a path in one country.
    #[arg(long)]
    pub(crate) distinct_countries: bool,
    /// The most that a GiB may cost, the whole path, such as "0.002 ether/GiB".
    #[arg(long, value_parser = wishes::price, value_name = "AMOUNT/GiB")]
    pub(crate) max_price: Option<Rate>,
}

impl Wished {
    /// The wishes of a file, but for those of the command line.
    pub(crate) fn over(&self, mut wishes: Wishes) -> Wishes {
        if let Some(hops) = self.hops {
            wishes.hops = hops;
        }
        if !self.exit.is_empty() {
            wishes.exit = self.exit.iter().copied().collect();
        }
        if !self.entry.is_empty() {
            wishes.entry = self.entry.iter().copied().collect();
        }
        if !self.exclude.is_empty() {
            exclude(&mut wishes, self.exclude.iter().copied());
        }
        wishes.distinct_countries |= self.distinct_countries;
        wishes.max_price = self.max_price.or(wishes.max_price);
        wishes
    }
}

/// Which daemon is asked.
#[derive(Debug, Args)]
pub(crate) struct At {
    /// The control socket of the daemon.
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "config")]
    pub(crate) control: Option<PathBuf>,
    /// The configuration file of the daemon, which names its control socket.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) at: At,
    /// Do not wait: a relay keeps its ports until nothing has passed for 2 s, or `drain` of its `[limits]` is over.
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Relays {
    #[command(flatten)]
    pub(crate) at: At,
    /// Only relays in these countries.
    #[arg(long, value_delimiter = ',', value_parser = wishes::country, value_name = "nl,de,..")]
    pub(crate) country: Vec<Country>,
    /// Only exits.
    #[arg(long)]
    pub(crate) exits: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Ping {
    #[command(flatten)]
    pub(crate) at: At,
    /// Build circuits over this relay instead, and tell how long that takes: an id, as `chive relays` shows it.
    #[arg(value_name = "RELAY", value_parser = relay)]
    pub(crate) relay: Option<RelayId>,
    /// Through all circuits, not only the one in use.
    #[arg(long, conflicts_with = "relay")]
    pub(crate) circuits: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Circuits {
    #[command(flatten)]
    pub(crate) at: At,
    #[command(subcommand)]
    pub(crate) action: Option<CircuitsAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CircuitsAction {
    /// Have the client build circuits, close them again, and tell how long it took.
    Build {
        /// How many circuits.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
        count: u16,
        /// How many at a time.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=512), value_name = "M")]
        concurrency: u16,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Relay {
    /// Run a relay until it is stopped.
    Run {
        /// The relay's configuration file; `chive config example relay` shows one.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Write the files of a new relay: configuration, keys, wallet, exit policy. Asks for what is not given.
    Setup(Box<Setup>),
}

/// A relay that is set up.
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// The folder to write to; it must not exist, or be empty.
    #[arg(long, default_value = "chive-relay", value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The network file.
    #[arg(long, value_name = "FILE")]
    pub(crate) network: Option<PathBuf>,
    /// The id that must have signed the network file; the file of an open network is signed by nobody.
    #[arg(long, value_name = "ID")]
    pub(crate) signer: Option<String>,
    /// Whether it connects to destinations (exit), or carries cells to other relays only (middle).
    #[arg(long, value_enum)]
    pub(crate) role: Option<Place>,
    /// Where others reach it, an IP and a UDP port; may be given several times.
    #[arg(long, value_delimiter = ',', value_parser = relay_address, value_name = "IP:PORT")]
    pub(crate) address: Vec<SocketAddr>,
    /// Where it listens, if that is not the same port on all addresses of this machine.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// The TCP port on which it exchanges descriptors [default: the number of its UDP port].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "PORT")]
    pub(crate) gossip_port: Option<u16>,
    /// What it asks for carrying a cell on, in wei, or such as 0.5gwei [default: 1000, on a paid network].
    #[arg(long, value_parser = ask, value_name = "AMOUNT")]
    pub(crate) ask: Option<u64>,
    /// What it asks for a cell as an exit, in wei, or such as 0.5gwei [default: 3000, on a paid network].
    #[arg(long, value_parser = ask, value_name = "AMOUNT")]
    pub(crate) exit_ask: Option<u64>,
    /// Private destinations to which an exit connects all the same, such as 127.0.0.1:8080 or 10.77.0.0/24:*; may be given several times.
    #[arg(long, value_delimiter = ',', value_name = "RULE")]
    pub(crate) exit_allow: Vec<String>,
    /// How much it may carry in a month, such as "2 TB".
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub(crate) monthly: Option<String>,
    /// How much it may carry in a second, such as "10 MB/s".
    #[arg(long, value_parser = rate, value_name = "RATE")]
    pub(crate) rate: Option<String>,
    /// The country that it is in, such as DE.
    #[arg(long, value_parser = country, value_name = "CODE")]
    pub(crate) country: Option<String>,
    /// How others reach whoever runs it.
    #[arg(long, value_name = "TEXT")]
    pub(crate) operator: Option<String>,
    /// Import the wallet's key from this file, instead of drawing one: 64 hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Take this wallet, which stays where it is, instead of making one.
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub(crate) wallet: Option<PathBuf>,
    /// The file that has the wallet's password; by default one is drawn and written beside a new wallet, and that of `--wallet` is asked
    /// for at each start.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Make guessing the wallet's password cheap: for tests only.
    #[arg(long)]
    pub(crate) light: bool,
    /// What the relay puts into its reserve by itself, as its bond, before it registers itself; without it both are done by hand.
    #[arg(long, value_parser = above_zero, value_name = "AMOUNT")]
    pub(crate) bond: Option<Wei>,
    /// Ask nothing: take the defaults for what is not given.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What a relay does at the end of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// It only carries cells on.
    Middle,
    /// It connects to destinations.
    Exit,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The configuration file of the relay or the client; without it only this machine is checked.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Price {
    #[command(flatten)]
    pub(crate) at: At,
    /// What to ask for carrying a cell on, in wei, or such as 0.5gwei.
    #[arg(value_parser = ask, value_name = "ASK")]
    pub(crate) ask: Option<u64>,
    /// What to ask for a cell as an exit; as before if it is left out.
    #[arg(requires = "ask", value_parser = ask, value_name = "EXIT_ASK")]
    pub(crate) exit_ask: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wallet {
    /// Make a wallet with a new key.
    Create(NewWallet),
    /// Make a wallet with a key that there is already: 64 hexadecimal digits, from a file or standard input.
    Import {
        #[command(flatten)]
        new: NewWallet,
        /// The file that has the key; by default standard input.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Show the wallet's address, and what it has on the chain.
    Show(WalletAt),
    /// Put ether into the balance, which pays relays and can be withdrawn at once.
    Deposit {
        /// How much, such as 0.05ether.
        #[arg(value_parser = above_zero, value_name = "AMOUNT")]
        amount: Wei,
        #[command(flatten)]
        spend: Spend,
    },
    /// Put ether into the reserve, which is the collateral of what is paid and a relay's bond; it comes back after 7 days.
    Reserve {
        /// How much, such as 0.05ether.
        #[arg(value_parser = above_zero, value_name = "AMOUNT")]
        amount: Wei,
        /// Take it from the balance instead of the wallet's ether.
        #[arg(long)]
        from_balance: bool,
        #[command(flatten)]
        spend: Spend,
    },
    /// Begin the 7 days after which the reserve can be withdrawn; ends a relay's registration.
    Unlock {
        /// Lock the reserve again instead.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        spend: Spend,
    },
    /// Take ether out of the balance, or the whole reserve after its 7 days.
    Withdraw {
        /// How much of the balance; by default all.
        #[arg(value_parser = above_zero, value_name = "AMOUNT")]
        amount: Option<Wei>,
        /// Take out the reserve instead.
        #[arg(long, conflicts_with = "amount")]
        reserve: bool,
        /// Who gets it; by default the wallet's own address.
        #[arg(long, value_parser = account, value_name = "0xADDRESS")]
        to: Option<Address>,
        #[command(flatten)]
        spend: Spend,
    },
    /// Register a relay, whose bond the reserve is.
    Register {
        /// The relay's id, as `chive status` shows it.
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        spend: Spend,
    },
}

/// A wallet that is made.
#[derive(Debug, Args)]
pub(crate) struct NewWallet {
    /// The file to write, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) wallet: PathBuf,
    /// The file that has the password; by default `CHIVE_WALLET_PASSWORD` has it, or it is asked for.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Make guessing the password cheap: for tests only.
    #[arg(long)]
    pub(crate) light: bool,
}

/// Which wallet, and on which chain.
#[derive(Debug, Args)]
pub(crate) struct WalletAt {
    /// The configuration file of a daemon, which names all of the below.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["network", "signer"])]
    pub(crate) config: Option<PathBuf>,
    /// The network file, which names chain and contract.
    #[arg(long, value_name = "FILE", requires = "signer")]
    pub(crate) network: Option<PathBuf>,
    /// The id that must have signed the network file.
    #[arg(long, value_name = "ID", requires = "network")]
    pub(crate) signer: Option<String>,
    /// The wallet's file.
    #[arg(long, value_name = "FILE", required_unless_present = "config")]
    pub(crate) wallet: Option<PathBuf>,
    /// The file that has the password; by default `CHIVE_WALLET_PASSWORD` has it, or it is asked for.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Where to ask the chain, instead of what the network file says; may be given several times.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub(crate) rpc: Vec<String>,
}

/// What a transaction needs.
#[derive(Debug, Args)]
pub(crate) struct Spend {
    #[command(flatten)]
    pub(crate) at: WalletAt,
    /// Do not ask before the transaction is sent.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Write keys and configuration files of a whole network for tests: relays, a client, and the signed network file.
    ///
    /// The network is free unless --chain-id and --contract say where its relays are paid. It is then for tests all the
    /// same: one exit operator is enough for a price, so prices may tell paths apart.
    Sample(Sample),
    /// Write the file of an open network, whose relays are registered at a contract, and a client's configuration file.
    Open(OpenNetwork),
    /// Deploy the payment contract to a chain, for a network of your own: shows the fee, asks, and tells the contract's address.
    Deploy(Deploy),
}

/// A contract that is deployed.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The chain.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9_223_372_036_854_775_807), value_name = "ID")]
    pub(crate) chain_id: u64,
    /// Where the chain can be asked; may be given several times.
    #[arg(long, required = true, value_delimiter = ',', value_name = "URL")]
    pub(crate) rpc: Vec<String>,
    /// The wallet that pays the fee; it has no rights over the contract.
    #[arg(long, value_name = "FILE")]
    pub(crate) wallet: PathBuf,
    /// The file that has the password; by default `CHIVE_WALLET_PASSWORD` has it, or it is asked for.
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// Do not ask before the transaction is sent.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// An open network.
#[derive(Debug, Args)]
pub(crate) struct OpenNetwork {
    /// Its name.
    #[arg(long, default_value = "open", value_name = "NAME")]
    pub(crate) name: String,
    /// The chain on which its relays are registered and paid.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=9_223_372_036_854_775_807), value_name = "ID")]
    pub(crate) chain_id: u64,
    /// The contract on that chain.
    #[arg(long, value_parser = account, value_name = "0xADDRESS")]
    pub(crate) contract: Address,
    /// Where the chain can be asked; may be given several times.
    #[arg(long, required = true, value_delimiter = ',', value_name = "URL")]
    pub(crate) rpc: Vec<String>,
    /// The block in which the contract was deployed, or an earlier one.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) deployed: u64,
    /// Where relays exchange descriptors (TCP); may be given several times.
    #[arg(long, required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub(crate) bootstrap: Vec<String>,
    /// Relays need not be on the public internet: a network for tests, or inside one site.
    #[arg(long)]
    pub(crate) local: bool,
    /// The least bond of a relay.
    #[arg(long, value_parser = amount, default_value = "0.001ether", value_name = "AMOUNT")]
    pub(crate) minimum_bond: Wei,
    /// The exit owners that make a price [default: 20, or 1 with --local].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "N")]
    pub(crate) exit_operators: Option<u16>,
    /// The folder to write to; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Sample {
    /// Relays in the network.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024), value_name = "N")]
    pub(crate) relays: u16,
    /// How many of them are exits.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..), value_name = "M")]
    pub(crate) exits: u16,
    /// The UDP address of every relay.
    #[arg(long, value_delimiter = ',', value_name = "IP:PORT,..", conflicts_with = "base")]
    pub(crate) addresses: Vec<SocketAddr>,
    /// The UDP address of the first relay; the others have the ports after it.
    #[arg(long, default_value = "127.0.0.1:7000", value_name = "IP:PORT")]
    pub(crate) base: SocketAddr,
    /// Private destinations to which the exits connect all the same, such as 127.0.0.1:8080 or 10.77.0.0/24:*.
    #[arg(long, value_delimiter = ',', value_name = "RULE,..")]
    pub(crate) exit_allow: Vec<String>,
    /// Have the exits serve clients that use no other relay before them.
    #[arg(long)]
    pub(crate) allow_single_hop: bool,
    /// For how many days the network is valid.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=500), value_name = "D")]
    pub(crate) days: u16,
    #[command(flatten)]
    pub(crate) paid: Paid,
    /// The folder to write to; it must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Where the relays of a network are paid, and what they ask.
#[derive(Debug, Args)]
#[command(next_help_heading = "Paid networks")]
pub(crate) struct Paid {
    /// The chain on which relays are paid; without it the network is free.
    #[arg(long, requires = "contract", requires = "owner", value_parser = clap::value_parser!(u64).range(1..=9_223_372_036_854_775_807), value_name = "ID")]
    pub(crate) chain_id: Option<u64>,
    /// The payment contract on that chain.
    #[arg(long, requires = "chain_id", value_name = "0xADDRESS")]
    pub(crate) contract: Option<String>,
    /// Where the chain can be asked; may be given several times, and left out for a chain inside the process.
    #[arg(long, requires = "chain_id", value_delimiter = ',', value_name = "URL")]
    pub(crate) rpc: Vec<String>,
    /// The least bond of a relay, such as 0.001ether, 5gwei or 1000wei [default: 0].
    #[arg(long, requires = "chain_id", value_parser = amount, value_name = "AMOUNT")]
    pub(crate) minimum_bond: Option<Wei>,
    /// What each relay asks for carrying a cell on, in wei [default: 0].
    #[arg(long, requires = "chain_id", value_name = "WEI")]
    pub(crate) ask: Option<u64>,
    /// What each exit asks for a cell, in wei [default: 0].
    #[arg(long, requires = "chain_id", value_name = "WEI")]
    pub(crate) exit_ask: Option<u64>,
    /// The account that owns a relay; once per relay, in their order. A path has no two relays of one owner.
    #[arg(long, requires = "chain_id", value_delimiter = ',', value_name = "0xADDRESS")]
    pub(crate) owner: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print a file with every setting and what it means.
    Example {
        /// Whose file.
        #[arg(value_enum)]
        of: Role,
    },
}

/// Who a configuration file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A relay.
    Relay,
    /// A client.
    Client,
}

/// Where others reach a relay: an IP, and a UDP port that is 7000 if none is named.
pub(crate) fn relay_address(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
    match address {
        Ok(address) if address.port() == 0 => {
            Err("others cannot reach port 0: name the relay's own UDP port, such as 7000".to_owned())
        }
        Ok(address) => Ok(address),
        Err(_) => Err("an IP is wanted, with a port: 203.0.113.7:7000".to_owned()),
    }
}

fn ask(text: &str) -> Result<u64, String> {
    let wei = parse_amount(text).and_then(|wei| u64::try_from(wei.0).ok());
    wei.ok_or_else(|| "an exact amount below 2^64 wei is wanted, such as 1000000000, 1gwei or 0".to_owned())
}

fn account(text: &str) -> Result<Address, String> {
    parse_address(text).filter(|address| !address.is_zero()).ok_or_else(|| {
        "0x and 40 hexadecimal digits are wanted, all lower case or with a right checksum".to_owned()
    })
}

fn size(text: &str) -> Result<String, String> {
    let size = limits::parse_size(text).filter(|size| *size > 0);
    size.map(|_| text.to_owned()).ok_or_else(|| "a size is wanted, such as \"2 TB\"".to_owned())
}

fn rate(text: &str) -> Result<String, String> {
    bytes_per_second(text).map(|_| text.to_owned())
}

fn bytes_per_second(text: &str) -> Result<u64, String> {
    limits::parse_rate(text)
        .filter(|rate| *rate >= limits::MIN_RATE)
        .ok_or_else(|| "a rate of at least 50 kB/s is wanted, such as \"10 MB/s\"".to_owned())
}

fn country(text: &str) -> Result<String, String> {
    let is_code = text.len() == 2 && text.bytes().all(|letter| letter.is_ascii_alphabetic());
    is_code
        .then(|| text.to_ascii_uppercase())
        .ok_or_else(|| "two letters A to Z are wanted, such as DE".to_owned())
}

fn relay(text: &str) -> Result<RelayId, String> {
    crate::config::relay_id(text).ok_or_else(|| "64 hexadecimal digits are wanted".to_owned())
}

fn hops(text: &str) -> Result<usize, String> {
    within(text, 1, MAX_HOPS)
}

fn demo_relays(text: &str) -> Result<usize, String> {
    within(text, 3, 64)
}

fn within(text: &str, least: usize, most: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("a number from {least} to {most} is wanted"))
}
