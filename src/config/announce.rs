//! What a relay says of itself on an open network.

use std::net::SocketAddr;

use directory::payment::Rate;

use super::section::Section;

/// The section `[announce]` of a relay's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announce {
    /// Where others reach it.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The TCP port of the exchange of descriptors.
    pub(crate) gossip_port: u16,
    /// Its country.
    pub(crate) country: Option<[u8; 2]>,
    /// Who runs it.
    pub(crate) operator: String,
    /// What it asks for carrying a cell on.
    pub(crate) ask: Rate,
    /// What it asks for serving one as an exit.
    pub(crate) exit_ask: Rate,
}

const KEYS: &[&str] = &["addresses", "gossip_port", "country", "operator", "ask", "exit_ask"];
const ADDRESSES: &str = "[\"203.0.113.7:7000\"]";

impl Announce {
    pub(super) fn read(root: &mut Section<'_>) -> anyhow::Result<Option<Self>> {
        let Some(section) = root.section("announce", KEYS)? else { return Ok(None) };
        let addresses = section.list("addresses", ADDRESSES, |list| {
            let all: Result<Vec<SocketAddr>, _> = list.iter().map(|text| text.parse()).collect();
            all.map_err(|_| "an address is an IP and a port; names are not known to clients")
        })?;
        let country = section.get("country", "\"DE\"", |value| {
            <[u8; 2]>::try_from(value.as_str()?.as_bytes())
                .ok()
                .map(|code| code.map(|letter| letter.to_ascii_uppercase()))
                .filter(|code| code.iter().all(u8::is_ascii_uppercase))
        })?;
        let operator =
            section.get("operator", "\"mail@example.org\"", |value| value.as_str().map(str::to_owned));
        let rate = |key, example| {
            section.get_checked(key, example, |value| {
                let number = value
                    .as_integer()
                    .and_then(|number| u64::from_str_radix(number.as_str(), number.radix()).ok());
                let rate = number.map(Rate).ok_or("a number of wei is wanted")?;
                let near = rate.round_up().0;
                rate.encode().map(|_| rate).ok_or_else(|| format!("the nearest price is {near}"))
            })
        };
        Ok(Some(Self {
            addresses: section.require("addresses", ADDRESSES, addresses)?,
            gossip_port: section
                .number("gossip_port", "7000", 1..65_536)?
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0),
            country,
            operator: operator?.unwrap_or_default(),
            ask: rate("ask", "1000")?.unwrap_or(Rate::FREE),
            exit_ask: rate("exit_ask", "3000")?.unwrap_or(Rate::FREE),
        }))
    }
}
